"""Shape buckets: what a measured configuration is filed under. Magnitudes only, never an exact image size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from sdn_triton.tuning.configs import Target
from sdn_triton.tuning.defaults import ALIGNED_CHANNELS, Work

NARROWEST = 16
FEW_GROUPS = 8


class Bucket(NamedTuple):
    """What launches share that one configuration serves.

    ``channels`` and ``outputs``, of one group, are rounded up to a quarter of an octave, ``pixels`` of the whole batch
    to a power of four. ``aligned`` says whether channels come in eights, ``channels_last`` how they lie in memory,
    and ``can_pair`` whether they can be read packed (``KernelConfig.pairs``).
    """

    arithmetic: str
    channels: int
    outputs: int
    pixels: int
    taps: int
    groups: str
    aligned: bool
    channels_last: bool
    can_pair: bool


def bucket_of(work: Work) -> Bucket:
    """The bucket of a launch.

    Example:
        >>> bucket_of(Work("bf16", images=2, rows=96, columns=128, channels=150, outputs=256, taps=9))[:4]
        ('bf16', 160, 256, 65536)
    """
    return Bucket(
        arithmetic=work.arithmetic,
        channels=_rounded(work.channels),
        outputs=_rounded(work.outputs),
        pixels=_power_of_four(work.images * work.rows * work.columns),
        taps=work.taps,
        groups="one" if work.groups == 1 else "few" if work.groups <= FEW_GROUPS else "many",
        aligned=work.channels % ALIGNED_CHANNELS == 0,
        channels_last=work.channels_last,
        can_pair=work.can_pair,
    )


def bucket_from_json(content: Any) -> Bucket:
    """The bucket with these fields.

    Raises:
        ValueError: a field is unknown, missing or of the wrong type.
    """
    types = get_type_hints(Bucket)
    if not isinstance(content, Mapping) or content.keys() != types.keys():
        raise ValueError(f"a bucket must have exactly {', '.join(types)}, got {content!r}")
    for name, value in content.items():
        if type(value) is not types[name]:
            raise ValueError(f"{name} must be of type {types[name].__name__}, got {value!r}")
    return Bucket(**content)


def family_of(target: Target) -> tuple[str, str, int]:
    """What GPUs share whose configurations may serve each other: generation, and the class of shared memory."""
    architecture = target.architecture
    generation = str(architecture // 10) if isinstance(architecture, int) else architecture[:4]
    return target.kind, generation, target.shared_bytes


def _rounded(number: int) -> int:
    """Up to one of four steps between powers of two: 64, 80, 96, 112, 128, 160 ..."""
    step = max(1 << max((number - 1).bit_length() - 3, 0), NARROWEST if number <= NARROWEST else 1)
    return -(-number // step) * step


def _power_of_four(number: int) -> int:
    return 1 << ((number - 1).bit_length() + 1) // 2 * 2
