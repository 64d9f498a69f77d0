"""What a kernel configuration is, and what is known of the device it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple

ARITHMETICS = ("ieee", "tf32", "fp16", "bf16")
"""How matrix products are formed: float32 exactly or as TF32, or in a half type; sums are float32 always."""

SHARED_BYTES: dict[int | str, int] = {
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    103: 232_448,
    120: 101_376,
    "gfx90a": 65_536,
    "gfx942": 65_536,
    "gfx950": 163_840,
}
"""Shared memory that one block may have, by architecture."""

SMALLEST_SHARED_BYTES = 65_536

L2_BYTES: dict[int | str, int] = {
    80: 40 * 2**20,
    86: 6 * 2**20,
    89: 72 * 2**20,
    90: 50 * 2**20,
    100: 126 * 2**20,
    103: 126 * 2**20,
    120: 96 * 2**20,
}
"""The second-level cache of a common GPU of the architecture."""
SMALLEST_L2_BYTES = 4 * 2**20
BLOCK_WORDS = 16
"""Words of 32 bits of a block of packed channels: 16 bytes for each of the four threads that share a pixel."""
PAIRED_CHANNELS = 2 * BLOCK_WORDS
"""Channels of such a block in half types, two in a word; in float32 a word is a channel."""


@dataclass(frozen=True)
class KernelConfig:
    """Tile sizes and compiler options of one launch.

    A tile has ``block_p`` pixels in rows of ``block_w``, ``block_c`` input channels and ``block_o`` outputs; ``splits``
    is the number of parts into which a sum over all pixels is cut. With ``pairs`` channels are read packed, in 32-bit
    words: two of a half type or one of float32 (``kernels/pairs.py``). ``source`` says where the configuration comes
    from.
    """

    block_p: int
    block_w: int
    block_c: int
    block_o: int
    num_warps: int
    num_stages: int
    splits: int = 1
    pairs: bool = False
    source: str = "explicit"

    def __post_init__(self) -> None:
        blocks = (self.block_p, self.block_w, self.block_c, self.block_o, self.num_warps)
        if any(block < 1 or block & (block - 1) for block in blocks):
            raise ValueError(f"block sizes and num_warps must be powers of two, got {self}")
        if self.block_w > self.block_p:
            raise ValueError(f"block_w must not exceed block_p, got {self}")
        if self.splits < 1 or self.num_stages < 1:
            raise ValueError(f"splits and num_stages must be positive, got {self}")
        if self.pairs and (self.block_c not in (BLOCK_WORDS, PAIRED_CHANNELS) or self.block_p % 16):
            blocks_in_words = f"block_c={PAIRED_CHANNELS}, or {BLOCK_WORDS} in float32,"
            raise ValueError(f"pairs need {blocks_in_words} and a multiple of 16 pixels, got {self}")

    @property
    def block_h(self) -> int:
        """Rows of a tile."""
        return self.block_p // self.block_w

    def __str__(self) -> str:
        splits = f", {self.splits} splits" if self.splits > 1 else ""
        pairs = (" in pairs" if self.block_c == PAIRED_CHANNELS else " in words") if self.pairs else ""
        return (
            f"{self.block_h}x{self.block_w} pixels, {self.block_c} channels{pairs}, {self.block_o} outputs, "
            f"{self.num_warps} warps, {self.num_stages} stages{splits} ({self.source})"
        )


def config_to_json(config: KernelConfig) -> dict[str, Any]:
    """The fields of a configuration, without where it comes from."""
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name != "source"}


def config_from_json(content: Any, source: str) -> KernelConfig:
    """The configuration with these fields; fields that have a default may be missing.

    Raises:
        ValueError: a field is unknown, missing or of the wrong type, or the configuration is impossible.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"a configuration must be an object, got {content!r}")
    known = {field.name: field for field in fields(KernelConfig) if field.name != "source"}
    if unknown := content.keys() - known.keys():
        raise ValueError(f"a configuration has no {', '.join(sorted(unknown))}, only {', '.join(known)}")
    for name, field in known.items():
        if name not in content:
            if field.default is MISSING:
                raise ValueError(f"a configuration needs {name}")
        elif type(content[name]).__name__ != field.type:
            raise ValueError(f"{name} must be of type {field.type}, got {content[name]!r}")
    return KernelConfig(**content, source=source)


Configs = Mapping[str, KernelConfig]
"""Configurations that a caller gives, by the name of the kernel."""


class Target(NamedTuple):
    """The device that a configuration is chosen for.

    ``kind`` is "cuda", "hip" or "interpreter"; ``architecture`` is 90 for sm_90, or a name like "gfx942"; ``l2`` is the
    size of its second-level cache in bytes, None for that of a common GPU of its architecture.
    """

    kind: str
    architecture: int | str
    multiprocessors: int
    l2: int | None = None

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one block may have; for an unknown device what all known ones have."""
        return SHARED_BYTES.get(self.architecture, SMALLEST_SHARED_BYTES)

    @property
    def l2_bytes(self) -> int:
        """The size of the second-level cache; of an unknown device that of a small one."""
        return self.l2 or L2_BYTES.get(self.architecture, SMALLEST_L2_BYTES)

    def __str__(self) -> str:
        return f"sm_{self.architecture}" if isinstance(self.architecture, int) else self.architecture


INTERPRETER = Target("interpreter", "interpreter", 1)
"""Triton's interpreter, whose cost is per operation: it wants one large tile."""
