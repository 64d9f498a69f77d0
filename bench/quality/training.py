"""One training run from scratch and what is measured of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .metrics import border_band, evaluate, separation
from .network import (
    SegmentationNetwork,
    Variant,
    build_network,
    finest_response,
    live_parameters,
    set_suggested_contrast,
)
from .scenes import CLASSES, Scenes, gradient_magnitude, make_scenes


@dataclass(frozen=True)
class Setting:
    """What all variants share: the task and the budget."""

    size: int = 64
    training_scenes: int = 2048
    test_scenes: int = 256
    steps: int = 800
    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    blur: float = 0.7
    noise: float = 0.6
    inside: float = 1.0
    between: float = 0.0
    stride: int = 8

    def scenes(self, count: int, seed: Sequence[int] | int) -> Scenes:
        """``count`` scenes of this task."""
        return make_scenes(
            count, self.size, seed, inside=self.inside, between=self.between, blur=self.blur, noise=self.noise
        )


TEST_SEED = 424242
"""All runs are tested on the same scenes."""


@lru_cache(maxsize=2)
def training_scenes(setting: Setting, seed: int) -> Scenes:
    """A run's own scenes: the seed gives the scenes, the initial weights and the order, for all variants alike."""
    return setting.scenes(setting.training_scenes, (seed, 0))


@lru_cache(maxsize=1)
def test_scenes(setting: Setting) -> Scenes:
    """The scenes that every run is tested on."""
    return setting.scenes(setting.test_scenes, TEST_SEED)


def batches(setting: Setting, seed: int) -> Iterator[Tensor]:
    """Indices of the scenes of each step: the whole set in random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(setting.steps):
        if len(order) < setting.batch:
            order = torch.randperm(setting.training_scenes, generator=generator)
        indices, order = order[: setting.batch], order[setting.batch :]
        yield indices


def train(network: nn.Module, scenes: Scenes, setting: Setting, seed: int, eps: float = 1e-8) -> list[float]:
    """Train in place by AdamW (``eps``: its own) with one cycle of the learning rate; return the loss of every step."""
    device = next(network.parameters()).device
    images, labels = scenes.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay, eps=eps, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, setting.learning_rate, total_steps=setting.steps)
    losses = []
    network.train()
    for indices in batches(setting, seed):
        chosen = indices.to(device)
        loss = F.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """The most probable label of every pixel, ``[N, H, W]``, on the CPU."""
    device = next(network.parameters()).device
    network.eval()
    return torch.cat([network(part.to(device)).argmax(dim=1).cpu() for part in images.split(batch)])


Pictures = dict[str, np.ndarray]
"""Maps of the first ``PICTURES`` scenes by name."""

PICTURES = 3
"""Scenes whose predictions are kept for the figure."""

LOSS_BLOCK = 20
"""Steps whose losses are averaged for the curve that is kept."""


def run(
    variant: Variant, setting: Setting, seed: int, device: torch.device, with_maps: bool = True
) -> tuple[dict[str, Any], Pictures]:
    """Train a variant and measure it: the figures, and the maps for the pictures if they are wanted."""
    wall, cpu = time.perf_counter(), time.process_time()
    scenes, tests = training_scenes(setting, seed), test_scenes(setting)
    network = build_network(variant, CLASSES, seed, setting.stride).to(device)
    suggested = (
        set_suggested_contrast(network, scenes.images[: setting.batch].to(device)) if variant.suggested else None
    )
    losses = torch.tensor(train(network, scenes, setting, seed))
    predictions = predict(network, tests.images)
    maps = responses(network, tests.images) if with_maps else {}
    record = {
        "variant": variant.name,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "live_parameters": live_parameters(network),
        "suggested_contrast": suggested,
        "learned_contrast": learned_contrast(network),
        "figures": evaluate(predictions, tests.labels, CLASSES),
        "separation": {name: border_separation(values, tests.labels) for name, values in maps.items()},
        "losses": [float(block.mean()) for block in losses.split(LOSS_BLOCK)],
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }
    pictures = {name: values[:PICTURES].numpy().astype(np.float16) for name, values in maps.items()}
    if with_maps:
        pictures["prediction"] = predictions[:PICTURES].numpy().astype(np.uint8)
    return record, pictures


def learned_contrast(network: nn.Module) -> list[float] | None:
    """The contrasts that training arrived at, fine to coarse; None if they are fixed."""
    values = [float(p.detach().exp()) for name, p in network.named_parameters() if name.endswith("log_contrast")]
    return values or None


@torch.no_grad()
def responses(network: SegmentationNetwork, images: Tensor) -> dict[str, Tensor]:
    """What answers to edges: lengths over all channels, ``[N, h, w]`` at the finest stage's size or the image's.

    ``image_gradient`` and ``feature_gradient``: gradients of the image and of the finest stage's features;
    ``response``: the output of the 3x3 layer of the finest stage's block, if there is one.
    """
    device = next(network.parameters()).device
    network.eval()
    gradients, layers = [], []
    for part in images.split(64):
        features = network.encoder(part.to(device))
        gradients.append(gradient_magnitude(features[0]).cpu())
        if network.neck is not None:
            layers.append(finest_response(network.neck, features).norm(dim=1).cpu())
    maps = {"image_gradient": gradient_magnitude(images), "feature_gradient": torch.cat(gradients)}
    return maps | ({"response": torch.cat(layers)} if layers else {})


def border_separation(response: Tensor, labels: Tensor) -> float:
    """How well a map, at the labels' size or coarser, tells pixels beside another label from all others.

    A coarse pixel counts as such if one of the pixels it covers does. Its frame is left out: there the zero padding of
    a layer makes a false edge.
    """
    stride = labels.shape[-1] // response.shape[-1]
    border = F.max_pool2d(border_band(labels, 1).unsqueeze(1).float(), stride).squeeze(1).bool()
    return separation(response[:, 1:-1, 1:-1], border[:, 1:-1, 1:-1])
