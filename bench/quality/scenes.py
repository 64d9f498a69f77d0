"""Scenes made by code: regions with curved and thin borders, told apart by texture alone.

A scene is a partition of the image into regions of ``CLASSES`` classes. All textures have the same mean, before the
blur the same variance, and about the same period, so that neither the brightness of a pixel nor the strength of an edge
tells a border: :func:`edge_statistics` measures how far that holds. What is left is the direction of a texture, which
takes some pixels to see. The chequered one is finer, and the blur leaves it 0.6 of the gratings' deviation.

    labels = Voronoi cells in coordinates that are bent smoothly, crossed by thin bands and rings
    image  = blur(inside * texture[labels] + between * brightness[labels]) + noise

By default ``between`` is 0. With more of it classes differ in brightness, so that edges between them get stronger; with
less of ``inside`` those inside get weaker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import border_band, separation

CLASSES = 5
"""Gratings in four directions and a chequered texture."""

BRIGHTNESS = torch.linspace(-math.sqrt(2), math.sqrt(2), CLASSES)
"""Of the classes: even steps, with mean 0 and variance 1 over the classes."""

CELLS = 7
BANDS = 2
RINGS = 1
PERIOD = (3.6, 4.4)
"""Pixels from crest to crest."""


class Scenes(NamedTuple):
    """Images ``[N, 1, S, S]`` in float32 and labels ``[N, S, S]`` in int64."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Scenes:
        """The same on another device."""
        return Scenes(self.images.to(device), self.labels.to(device))


def make_scenes(
    count: int,
    size: int,
    seed: Sequence[int] | int,
    *,
    inside: float = 1.0,
    between: float = 0.0,
    blur: float = 0.7,
    noise: float = 0.6,
) -> Scenes:
    """``count`` scenes of ``size`` x ``size`` pixels, always the same for the same arguments.

    Args:
        count, size: how many, and how large.
        seed: a number, or several, as in ``(seed of the run, number of the set)``.
        inside: standard deviation of the textures before the blur: how strong edges inside a class are.
        between: standard deviation over the classes of their brightness: how strong edges between classes are beside
            what the textures make of them.
        blur: standard deviation of the Gaussian that the image is blurred with, in pixels.
        noise: standard deviation of the white noise added to it.
    """
    generator = torch.Generator().manual_seed(_mix(seed))
    labels = _partition(count, size, generator)
    textures = _textures(count, size, generator)
    clean = inside * textures.gather(1, labels.unsqueeze(1)) + between * BRIGHTNESS[labels].unsqueeze(1)
    images = _blur(clean, blur) + noise * torch.randn(count, 1, size, size, generator=generator)
    return Scenes(images, labels)


def _mix(seed: Sequence[int] | int) -> int:
    """One number for several, different for different ones in practice."""
    mixed = 0
    for part in (seed,) if isinstance(seed, int) else seed:
        mixed = (mixed * 1_000_003 + part + 1) % (2**63)
    return mixed


def _uniform(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of all pixels, ``[1, 1, S, S]`` each."""
    axis = torch.arange(size, dtype=torch.float32)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return rows.view(1, 1, size, size), columns.view(1, 1, size, size)


def _bent_grid(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates that wave smoothly, ``[N, 1, S, S]`` each: what is straight in them is curved in the image."""
    rows, columns = _grid(size)
    bent = []
    for axis in (rows, columns):
        shift = torch.zeros(count, 1, size, size)
        for _ in range(2):
            angle = _uniform((count, 1, 1, 1), 0, 2 * math.pi, generator)
            phase = _uniform((count, 1, 1, 1), 0, 2 * math.pi, generator)
            wavelength = _uniform((count, 1, 1, 1), 0.35 * size, 0.8 * size, generator)
            along = rows * angle.sin() + columns * angle.cos()
            shift = shift + 0.035 * size * torch.sin(2 * math.pi * along / wavelength + phase)
        bent.append(axis + shift)
    return bent[0], bent[1]


def _partition(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Labels ``[N, S, S]``: bent Voronoi cells, then bands and rings of 3 to 6 pixels over them."""
    rows, columns = _bent_grid(count, size, generator)
    centres = _uniform((2, count, CELLS, 1, 1), 0, size, generator)
    classes = torch.randint(CLASSES, (count, CELLS), generator=generator)
    cell = ((rows - centres[0]) ** 2 + (columns - centres[1]) ** 2).argmin(dim=1)
    labels = classes.gather(1, cell.flatten(1)).view(count, size, size)
    for shape in ["band"] * BANDS + ["ring"] * RINGS:
        middle = _uniform((2, count, 1, 1), 0.2 * size, 0.8 * size, generator)
        width = _uniform((count, 1, 1), 3, 6, generator)
        down, right = rows.squeeze(1) - middle[0], columns.squeeze(1) - middle[1]
        if shape == "band":
            angle = _uniform((count, 1, 1), 0, math.pi, generator)
            distance = (down * angle.cos() + right * angle.sin()).abs()
        else:
            radius = _uniform((count, 1, 1), 0.12 * size, 0.3 * size, generator)
            distance = ((down**2 + right**2).sqrt() - radius).abs()
        own = torch.randint(CLASSES, (count, 1, 1), generator=generator)
        labels = torch.where(distance < width / 2, own, labels)
    return labels


def _textures(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Every class's texture over the whole image, ``[N, CLASSES, S, S]``, with mean 0 and variance 1."""
    rows, columns = _grid(size)
    shape = (count, CLASSES, 1, 1)
    jitter = _uniform(shape, -0.12, 0.12, generator)
    period = _uniform(shape, *PERIOD, generator)
    phase = _uniform((2, *shape), 0, 2 * math.pi, generator)
    angle = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.125]).mul(math.pi).view(1, CLASSES, 1, 1) + jitter
    across = (rows * angle.sin() + columns * angle.cos()) * (2 * math.pi / period) + phase[0]
    along = (columns * angle.sin() - rows * angle.cos()) * (2 * math.pi / period) + phase[1]
    gratings = math.sqrt(2) * torch.sin(across)
    gratings[:, -1] = math.sqrt(2) * gratings[:, -1] * torch.sin(along[:, -1])
    return gratings


def _blur(images: Tensor, deviation: float) -> Tensor:
    if deviation == 0:
        return images
    reach = max(1, math.ceil(3 * deviation))
    taps = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * deviation**2))
    taps = taps / taps.sum()
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))


def gradient_magnitude(maps: Tensor) -> Tensor:
    """The length of the gradient by central differences over all channels, ``[N, H, W]``; the frame is replicated."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    rows = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    columns = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    return (rows**2 + columns**2).sum(dim=1).sqrt()


def edge_statistics(scenes: Scenes) -> dict[str, float]:
    """How much weaker or stronger intensity edges between classes are than those inside.

    ``neighbour_ratio``: the mean difference of pixels side by side with different labels over that of equal labels.
    ``gradient_ratio``: the mean gradient of pixels beside another label over that of all others.
    ``gradient_separation``: the chance that of two such pixels the first has the larger gradient; 0.5 tells nothing.
    """
    image, labels = scenes.images.squeeze(1), scenes.labels
    differences = torch.cat([image.diff(dim=axis).abs().flatten() for axis in (1, 2)])
    between = torch.cat([(labels.diff(dim=axis) != 0).flatten() for axis in (1, 2)])
    gradient, border = gradient_magnitude(scenes.images), border_band(labels, 1)
    return {
        "border_share": float(border.float().mean()),
        "neighbour_ratio": float(differences[between].mean() / differences[~between].mean()),
        "gradient_ratio": float(gradient[border].mean() / gradient[~border].mean()),
        "gradient_separation": separation(gradient, border),
    }
