"""The stages of a feature pyramid as a neck is given them, in whatever holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdn_triton.checks import shape
from sdn_triton.dispatch_state import is_jit_traced


def stages_of(features: Any) -> tuple[Any, ...]:
    """The stages: the values of a mapping, as torchvision's FPN returns it, a tensor alone, or whatever is iterable."""
    if isinstance(features, Tensor):
        return (features,)
    return tuple(features.values() if isinstance(features, Mapping) else features)


def in_the_form_of(features: Any, outputs: Sequence[Any]) -> Any:
    """A tuple of ``outputs``, or a mapping of the same type and keys as ``features``."""
    return type(features)(zip(features, outputs)) if isinstance(features, Mapping) else tuple(outputs)  # type: ignore[call-arg]


def check_stages(stages: Sequence[Any], count: int, channels: tuple[int, ...]) -> None:
    """Raise unless ``stages`` are that many tensors, fine to coarse, of these channels if some are named."""
    if len(stages) != count:
        raise ValueError(f"features must have {count} stages, fine to coarse, got {len(stages)}")
    for place, stage in enumerate(stages):
        if not isinstance(stage, Tensor):
            raise TypeError(f"features: stage {place} must be a Tensor [N, C, H, W], got {type(stage).__name__}")
        if stage.dim() not in (3, 4):
            raise ValueError(f"features: stage {place} must have the shape [N, C, H, W], got {shape(stage)}")
    if is_jit_traced():
        return
    present = tuple(stage.shape[-3] for stage in stages)
    if channels and present != channels:
        hint = "; they come in the opposite order" if present[::-1] == channels else ""
        raise ValueError(f"features must have {list(channels)} channels, fine to coarse, got {_shapes(stages)}{hint}")
    # A trace would keep a comparison of sizes as a condition on all later calls.
    if torch.compiler.is_compiling():
        return
    if not is_fine_to_coarse(stages):
        raise ValueError(f"features must come fine to coarse, got {_shapes(stages)}: the order may be reversed")


def is_fine_to_coarse(stages: Sequence[Tensor]) -> bool:
    """Whether no stage has more pixels than the one before."""
    pixels = [stage.shape[-2] * stage.shape[-1] for stage in stages]
    return all(own >= following for own, following in pairwise(pixels))  # not sorted(): sizes may be symbols of a trace


def _shapes(stages: Sequence[Tensor]) -> str:
    return ", ".join(map(shape, stages))
