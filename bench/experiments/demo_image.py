"""A picture of what SDN does to an image's features.

``python -m sdn_triton.bench.experiments.demo_image photo.jpg``.

The image runs through a segmentation network with an SDN neck in front of its decoder. Drawn are the image, the
prediction and, for every stage, the features before and after the neck (the first three principal components of each as
red, green and blue, the later ones rotated towards the earlier, so that like colours are like features), how far the
neck moves them, and the response of the difference convolution (lengths over all channels).

With transformers installed the network is a SegFormer-B0, with random weights unless ``--checkpoint`` names some. The
small network of ``bench/quality`` needs nothing and is trained for some seconds on its made-up scenes: what it tells
apart is the direction of a texture.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton import SDNNeck
from sdn_triton.extras import how_to_install
from sdn_triton.streams import guarded

from ..quality.figures import pyplot
from ..quality.network import VARIANTS, build_network
from ..quality.scenes import CLASSES
from ..quality.training import Setting, train, training_scenes
from ..reports.images import MissingExtraError, load_image

TRAINING = Setting(training_scenes=512, steps=150)


@dataclass(frozen=True)
class Observation:
    """What a network did with one image ``[1, 3, H, W]``."""

    title: str
    image: Tensor
    labels: Tensor
    """``[h, w]``."""
    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]


class Recorder:
    """Keeps the features that enter a neck, and what it makes of them, at its last call."""

    def __init__(self, neck: SDNNeck) -> None:
        self.neck = neck
        self.before: tuple[Tensor, ...] = ()
        self.after: tuple[Tensor, ...] = ()

    def __call__(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.before = tuple(features)
        self.after = self.neck(self.before)
        return self.after

    def observation(self, title: str, image: Tensor, labels: Tensor) -> Observation:
        """All that is drawn of the last call."""
        guides = self.neck.align_guidance(self.before)
        responses = tuple(
            stage.get_submodule("sdc")(own, guide)
            for stage, own, guide in zip(self.neck.stages, self.before, guides, strict=True)
        )
        return Observation(title, image, labels, self.before, self.after, responses)


@torch.no_grad()
def through_segformer(image: Tensor, checkpoint: str | None) -> Observation:
    """Run a SegFormer with a neck in front of ``decode_head``.

    Without a checkpoint all weights are random. With one the neck starts as an identity (``zero_init``), as one would
    start to fine-tune: the prediction is the checkpoint's.
    """
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            f"--network segformer needs the package transformers: {how_to_install('networks')}"
        ) from error
    torch.manual_seed(0)
    make = transformers.SegformerForSemanticSegmentation
    if checkpoint is None:
        model = make(transformers.SegformerConfig(num_labels=20))
        title = "SegFormer-B0 with random weights"
    else:
        model = make.from_pretrained(checkpoint)
        title = f"SegFormer {Path(checkpoint).name}, SDN not yet trained"
    neck = SDNNeck(model.config.hidden_sizes, zero_init=checkpoint is not None)
    recorder = Recorder(neck)
    model.decode_head.register_forward_pre_hook(lambda module, inputs: (recorder(inputs[0]), *inputs[1:]))
    model.eval()
    neck.eval()
    logits = model(image).logits
    return recorder.observation(title, image, logits[0].argmax(0))


def through_small_network(image: Tensor) -> Observation:
    """Train the small network with SDN on made-up scenes, and run the image's brightness through it."""
    network = build_network(VARIANTS["sdn"], CLASSES, 0)
    train(network, training_scenes(TRAINING, 0), TRAINING, 0)
    neck = network.neck
    assert isinstance(neck, SDNNeck)
    recorder = Recorder(neck)
    brightness = image.mean(dim=1, keepdim=True)
    brightness = (brightness - brightness.mean()) / brightness.std().clamp(min=1e-6)
    network.eval()
    with torch.no_grad():
        logits = network.decoder(recorder(network.encoder(brightness)), image.shape[-2:])
        return recorder.observation("small network, trained on made-up textures", image, logits[0].argmax(0))


def principal_components(features: Tensor) -> Tensor:
    """The first three principal components of ``[1, C, h, w]``: ``[3, h, w]``, zero where there are fewer channels."""
    flat = features[0].flatten(1).double()
    centred = flat - flat.mean(dim=1, keepdim=True)
    _, directions = torch.linalg.eigh(centred @ centred.T)
    components = directions[:, -3:].flip(1).T @ centred  # ascending: the last are the largest
    return F.pad(components, (0, 0, 0, 3 - len(components))).view(3, *features.shape[-2:])


def turned(components: Tensor, towards: Tensor) -> Tensor:
    """Components rotated and mirrored as close as that gets them to others: their signs and order mean nothing."""
    own, target = components.flatten(1), towards.flatten(1)
    left, _, right = torch.linalg.svd(target @ own.T)
    return (left @ right @ own).view_as(components)


def colours(components: Tensor) -> np.ndarray:
    """``[3, h, w]`` as red, green and blue, ``[h, w, 3]``; the 2nd and 98th percentile of each become 0 and 1."""
    flat = components.flatten(1)
    low, high = (flat.quantile(q, dim=1, keepdim=True) for q in (0.02, 0.98))
    scaled = ((flat - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    image: np.ndarray = scaled.view_as(components).permute(1, 2, 0).numpy()
    return image


def length(maps: Tensor) -> np.ndarray:
    """The length over channels of ``[1, C, h, w]``, as an image."""
    lengths: np.ndarray = maps[0].norm(dim=0).numpy()
    return lengths


def draw(observation: Observation, path: Path) -> None:
    """Write the picture."""
    stages = len(observation.before)
    height, width = observation.image.shape[-2:]
    panel = 2.1 * height / width
    figure = pyplot().figure(figsize=(2.1 * 5.6, (panel + 0.25) * stages + 0.5), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(1.6, 4))
    left, right = grid[0].subgridspec(2, 1), grid[1].subgridspec(stages, 4)
    pixels = observation.image[0].permute(1, 2, 0).numpy()
    _panel(figure, left[0], (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-12), "image")
    _panel(figure, left[1], observation.labels.numpy() % 20, "prediction", cmap="tab20", vmin=0, vmax=19)
    for row in range(stages):
        before, after, response = (maps[row] for maps in (observation.before, observation.after, observation.responses))
        components = principal_components(before)
        panels = {
            f"stage {row + 1}: {'x'.join(map(str, before.shape[1:]))}, before": colours(components),
            "after SDN": colours(turned(principal_components(after), components)),
            "moved by": length(after - before),
            "SDC response": length(response),
        }
        for column, (title, shown) in enumerate(panels.items()):
            _panel(figure, right[row, column], shown, title, cmap="magma", vmin=0)
    figure.suptitle(observation.title, fontsize=10)
    figure.savefig(path)
    pyplot().close(figure)


def _panel(figure: Any, place: Any, image: np.ndarray, title: str, **options: Any) -> None:
    axes = figure.add_subplot(place)
    axes.imshow(image, interpolation="nearest", **(options if image.ndim == 2 else {}))
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture of an image file."""
    opening, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.experiments.demo_image", description=opening, epilog=rest
    )
    add = parser.add_argument
    add("image", type=Path, help="any image that pillow can read")
    add("--output", type=Path, metavar="FILE", help="png, svg or pdf (default: IMAGE-sdn.png in this folder)")
    add("--network", choices=["segformer", "small"], help="default: segformer if transformers is installed")
    add("--checkpoint", metavar="PATH", help="a SegFormer checkpoint: a folder, or a name that transformers knows")
    add("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"), help="default: 256 256")
    args = parser.parse_args(arguments)
    if not args.image.is_file():
        parser.error(f"there is no file {args.image}")
    if min(args.size) < 32:
        parser.error(f"--size must be at least 32 32, got {args.size[0]} {args.size[1]}")
    network = args.network or ("segformer" if importlib.util.find_spec("transformers") else "small")
    if args.checkpoint and network != "segformer":
        parser.error("--checkpoint needs --network segformer, and the package transformers")
    output = args.output or Path(f"{args.image.stem}-sdn.png")
    try:
        image = load_image(args.image, *args.size)
        small = network == "small"
        observation = through_small_network(image) if small else through_segformer(image, args.checkpoint)
        draw(observation, output)
    except (MissingExtraError, ValueError) as error:
        parser.error(str(error))
    print(f"{observation.title}: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.experiments.demo_image", main))
