"""The aims of the kernels' times by ``bench.yardstick``, who keeps them, and where another way would be ahead.

Imports neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PASSES = ("forward", "weight_gradient", "data_gradient")
TRAINING = "training"
WAYS = {"compiled": "torch.compile", "unfolding": "unfolding", "eager": "the eager path"}
"""The other ways to the same result; the convolution computes something else."""
HALF_FORWARD = {"sm_80": 1.6, "sm_89": 1.6, "sm_90": 1.8}
HALF_TRAINING = 2.0
OF_128_CHANNELS = 1.25
TF32 = {"forward": 2.0, TRAINING: 2.5}
NARROW_TRAINING = 3.0
"""The aims: in half types for 256 channels, of 128 channels a quarter more, in TF32 for both, and for 64 channels."""


def aims_of(cell: Mapping[str, Any]) -> dict[str, float]:
    """What a forward and a training step of a layer should take at most; nothing is set for sm_100."""
    arch, channels = cell["arch"], cell["channels"]
    if arch not in HALF_FORWARD:
        return {}
    if channels < 128:
        return {TRAINING: NARROW_TRAINING}
    if cell["dtype"] == "tf32":
        return TF32
    more = OF_128_CHANNELS if channels < 256 else 1.0
    return {"forward": more * HALF_FORWARD[arch], TRAINING: more * HALF_TRAINING}


def our_ratios(cell: Mapping[str, Any]) -> dict[str, float]:
    """What each pass takes here, and a training step over three passes of the convolution."""
    passes = {name: cell["ours"][name]["ratio"] for name in PASSES}
    return {**passes, TRAINING: (sum(passes.values()) - cell["shared"]) / len(PASSES)}


def ahead(cell: Mapping[str, Any]) -> dict[str, list[str]]:
    """By other ways that would be faster somewhere, the passes in which they would."""
    own = our_ratios(cell)
    faster_passes = {way: [name for name in own if cell["others"][way][name] < own[name]] for way in WAYS}
    return {way: names for way, names in faster_passes.items() if names}


def missed(cell: Mapping[str, Any]) -> list[str]:
    """The aims that a layer misses."""
    own = our_ratios(cell)
    return [name for name, aim in aims_of(cell).items() if own[name] > aim]


def layer_of(cell: Mapping[str, Any]) -> str:
    """Its name in tables."""
    return f"{cell['arch']} {cell['dtype']} {cell['memory_format']} {cell['channels']}"
