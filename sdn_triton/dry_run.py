"""Run a network once to see which features pass a part of it, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from sdn_triton.checks import shape
from sdn_triton.features import Features, Select, describe, find_features, is_feature

IMAGE_CHANNELS = 4
"""What has no more channels may be an image: grey, colour, and one more for depth or transparency."""


def observe(model: nn.Module, target: nn.Module, at: str, side: str, select: Select, example: Any) -> Features:
    """The features that enter (``side="input"``) or leave ``target`` when ``model`` is called with ``example``.

    ``example`` is one argument, a tuple of positional ones, or a mapping of keyword ones. The call is made in
    evaluation mode without gradients; training flags, buffers and random states are afterwards what they were before.

    Raises:
        ValueError: ``target`` is not called, or called several times with different channels.
    """
    seen: list[Features] = []

    def look(module: nn.Module, args: Any, rest: Any) -> None:
        seen.append(find_features((args, rest) if side == "input" else rest, select))

    if side == "input":
        handle = target.register_forward_pre_hook(look, with_kwargs=True)
    else:
        handle = target.register_forward_hook(look)
    try:
        with unchanged(model), torch.no_grad():
            if isinstance(example, Mapping):
                model(**example)
            elif isinstance(example, tuple):
                model(*example)
            else:
                model(example)
    finally:
        handle.remove()
    if not seen:
        raise ValueError(f"at={at!r} is not called when the model is called with example")
    if len({features.channels() for features in seen}) > 1:
        calls = "; ".join(str(list(features.channels())) for features in seen)
        raise ValueError(f"at={at!r} is called with features of different channels, one neck cannot take them: {calls}")
    return seen[0]


def check_no_image(what: str, features: Sequence[Tensor], example: Any) -> None:
    """Raise where the image itself, or a normalised form of it, is among the ``features``.

    A model all of whose features are inputs is a decoder, unless it is given one image.
    """
    inputs = [leaf for leaf in pytree.tree_leaves(example) if is_feature(leaf)]
    images = [place for place, feature in enumerate(features) if any(_is_same(feature, image) for image in inputs)]
    if not images or (len(images) == len(features) and (len(features) > 1 or features[0].shape[1] > IMAGE_CHANNELS)):
        return
    selected = [place for place in range(len(features)) if place not in images]
    way_out = f"leave it out by select={selected}" if selected else "attach to a part behind the encoder"
    raise ValueError(
        f"{what} has the model's own input among {describe(features)}, at place {images[0]}, which is no feature: "
        f"{way_out}; if the neck is to take it nonetheless, name it in select"
    )


def _is_same(feature: Tensor, image: Tensor) -> bool:
    """Whether a feature is the image, but for a factor and an offset of each channel."""
    if feature.shape != image.shape or feature.device != image.device:
        return False
    one, other = (x.double() - x.double().mean((0, 2, 3), keepdim=True) for x in (feature, image))
    products = [(x * y).sum((0, 2, 3)) for x, y in ((one, other), (one, one), (other, other))]
    return bool((products[0].square() >= 0.999 * products[1] * products[2]).all())


def check_channels_first(what: str, features: Sequence[Tensor], example: Any) -> None:
    """Raise where the ``features`` look like ``[N, H, W, C]``.

    They do where all have the proportions of the image when read so, and one has not when read as ``[N, C, H, W]``.
    """
    images = [leaf for leaf in pytree.tree_leaves(example) if is_feature(leaf)]
    if not images:
        return
    image = max(images, key=lambda image: image.shape[2] * image.shape[3])
    height, width = image.shape[2:]

    def fits(rows: int, columns: int) -> bool:
        """Whether one stride leads from the image to this size, up to a row and a column for padding and rounding."""
        least = max(height / (rows + 1), width / (columns + 1))
        return least * (rows - 1) <= height and least * (columns - 1) <= width

    sizes = [feature.shape[1:] for feature in features]
    if all(fits(first, second) for first, second, _ in sizes) and not all(fits(*size[1:]) for size in sizes):
        raise ValueError(
            f"{what} has {describe(features)} of an image {shape(image)}, which look like [N, H, W, C], and a neck "
            "takes [N, C, H, W]: permute them before, or have the encoder do so; if they are [N, C, H, W], give "
            f"channels={[size[0] for size in sizes]}, fine to coarse"
        )


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; training flags, buffers, and the random states of CPU and CUDA as before afterwards.

    What a first call adds stays: hooks of the network's own, buffers, and what lazy modules become. Flags of the
    network may say that it is there.
    """
    # Flags are set one by one: train() and eval() may be overridden, and parts may be frozen.
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module, _ in flags]
    values = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training
            for module, own in buffers:
                module._buffers.update(own)
            with torch.no_grad():
                for buffer, value in values:
                    # One whose elements share memory (of expand) cannot be written, by the model neither.
                    if not (buffer.is_meta or torch.equal(buffer, value)):
                        buffer.copy_(value)
