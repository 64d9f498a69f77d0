"""The features of an image through a real network with random weights; needs the extra ``networks``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdn_triton.extras import how_to_install

STAGES = ["stage1", "stage2", "stage3", "stage4"]


class MissingExtraError(RuntimeError):
    """The packages of an extra are not installed."""


def _transformers() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            f"--image needs the packages transformers and pillow: {how_to_install('networks')}"
        ) from error
    transformers.logging.set_verbosity_error()
    return transformers


def _segformer(channels: Sequence[int], depths: Sequence[int]) -> Callable[[Tensor], Sequence[Tensor]]:
    transformers = _transformers()
    config = transformers.SegformerConfig(hidden_sizes=list(channels), depths=list(depths))
    model = transformers.SegformerModel(config).eval()
    return lambda image: model(image, output_hidden_states=True).hidden_states


def _backbone(family: str, **options: Any) -> Callable[[Tensor], Sequence[Tensor]]:
    transformers = _transformers()
    config = getattr(transformers, f"{family}Config")(out_features=STAGES, **options)
    backbone = getattr(transformers, f"{family}Backbone")(config).eval()
    return lambda image: backbone(image).feature_maps


WIDE = (64, 128, 320, 512)
BACKBONES: dict[str, Callable[[], Callable[[Tensor], Sequence[Tensor]]]] = {
    "segformer-b0": lambda: _segformer((32, 64, 160, 256), (2, 2, 2, 2)),
    "segformer-b1": lambda: _segformer(WIDE, (2, 2, 2, 2)),
    "segformer-b2": lambda: _segformer(WIDE, (3, 4, 6, 3)),
    "segformer-b3": lambda: _segformer(WIDE, (3, 4, 18, 3)),
    "segformer-b4": lambda: _segformer(WIDE, (3, 8, 27, 3)),
    "segformer-b5": lambda: _segformer(WIDE, (3, 6, 40, 3)),
    "resnet-50": lambda: _backbone("ResNet"),
    "resnet-101": lambda: _backbone("ResNet", depths=[3, 4, 23, 3]),
    "swin-t": lambda: _backbone("Swin"),
    "swin-b": lambda: _backbone("Swin", embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32]),
    "convnext-t": lambda: _backbone("ConvNext", depths=[3, 3, 9, 3], hidden_sizes=[96, 192, 384, 768]),
}


def load_image(path: Path, height: int, width: int) -> Tensor:
    """The image, resized and normalised as for ImageNet, ``[1, 3, height, width]``."""
    try:
        from PIL import Image, UnidentifiedImageError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(f"--image needs the package pillow: {how_to_install('networks')}") from error
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB").resize((width, height)), dtype=np.float32)
    except UnidentifiedImageError as error:
        raise ValueError(f"--image {path} is not an image that pillow can read") from error
    mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return ((torch.from_numpy(pixels) - mean) / deviation).permute(2, 0, 1).unsqueeze(0)


def image_features(network: str, path: Path, height: int, width: int) -> tuple[Tensor, ...]:
    """The feature pyramid of an image, fine to coarse, through ``network`` with random weights (always the same)."""
    if network not in BACKBONES:
        raise ValueError(f"--image needs one of the networks {', '.join(BACKBONES)}, got {network!r}")
    image = load_image(path, height, width)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return tuple(feature.contiguous() for feature in BACKBONES[network]()(image))
