"""What one multiprocessor does in a clock, and how many blocks it holds: the device model of ``machine_code``.

Nothing here was measured by this project. Sources, by letter in the comments:

P  CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions" (results a clock and multiprocessor) and
   "Technical Specifications per Compute Capability"; limits also in the tuning guides of the architectures.
W  Whitepapers and datasheets: peak rate / multiprocessors / boost clock. A100 80 GB, RTX A6000, L40S, H100 SXM, B200,
   RTX PRO 6000; dense, with float32 sums. GeForce cards of these architectures do half of it in half types.
E  Estimate. Others saw 5.5 to 5.7 TB/s from an H100's second-level cache when it was only read: 24 bytes a clock and
   multiprocessor, some 60 % of the 5120 bytes a clock that the whitepapers give the whole cache of an A100; taken alike
   for the others. For Hopper it is 38: with 24 a plain product of 128x256x64 tiles would end at half of the tensor
   cores' rate, where Triton's are known to do better; by the simulation 38 is 80 % of it (48: all of it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WARP = 32
REGISTERS, REGISTER_UNIT = 65_536, 256
"""Of a multiprocessor; what a warp is given is a multiple of the second (P)."""
RESERVED_SHARED_BYTES = 1024
"""Of every block (P)."""
TENSOR_COLUMNS = 512
"""Columns of tensor memory that the blocks on a multiprocessor share (PTX, tcgen05.alloc)."""


@dataclass(frozen=True)
class Multiprocessor:
    """One multiprocessor: rates a clock, and limits.

    ``pipes`` gives for each pipe the threads whose instruction of a kind it takes in a clock; a kind that it does not
    name costs it nothing. ``tensor`` is in floating-point operations by arithmetic, the other rates are in bytes.
    """

    pipes: Mapping[str, Mapping[str, float]]
    tensor: Mapping[str, float]
    l2_bytes: float
    memory_bytes: float
    threads: int
    blocks: int
    shared_bytes: int
    l1_bytes: float = 128.0
    """Of the data path that cached loads and shared memory have in common."""

    def blocks_resident(self, threads: int, registers: int, shared_bytes: int, tensor_columns: int = 0) -> int:
        """Blocks that the multiprocessor holds at once."""
        warps = -(-threads // WARP)
        a_warp = -(-max(registers, 1) * WARP // REGISTER_UNIT) * REGISTER_UNIT
        # Each of the four schedulers has a quarter of the registers, and the warps that live in it.
        warps_resident = 4 * (REGISTERS // 4 // a_warp)
        limits = [self.blocks, self.threads // threads, warps_resident // warps]
        limits.append(self.shared_bytes // (shared_bytes + RESERVED_SHARED_BYTES))
        if tensor_columns:
            limits.append(TENSOR_COLUMNS // tensor_columns)
        return min(limits)

    def pipe_clocks(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Clocks that each pipe needs for so many instructions of each kind, in one thread."""
        return {
            pipe: sum(counts.get(kind, 0.0) / rate for kind, rate in rates.items())
            for pipe, rates in self.pipes.items()
        }

    def cache_clocks(self, l1_bytes: float, scratchpad_bytes: float) -> float:
        """Clocks that the first-level cache and shared memory need for so many bytes."""
        return (l1_bytes + scratchpad_bytes) / self.l1_bytes


KINDS = ("fp", "pair", "half", "multiply", "integer", "special", "memory", "tensor", "other")


def _pipes(fp: float, half: float, integer: float = 64.0) -> dict[str, Mapping[str, float]]:
    """NVIDIA: four schedulers that issue an instruction of a warp each, then the pipes (P: special functions 16)."""
    return {
        "issue": dict.fromkeys(KINDS, 128.0),
        "fp": {"fp": fp, "pair": fp / 2, "half": half, "multiply": 64.0},
        "integer": {"integer": integer},
        "special": {"special": 16.0},
    }


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(
        pipes=_pipes(fp=64.0, half=64.0),  # P, W: bfloat16; float16 at 128
        tensor={"bf16": 2048.0, "fp16": 2048.0, "tf32": 1024.0, "ieee": 128.0},  # W: 312 TF, 108, 1.41 GHz
        l2_bytes=28.0,  # E
        memory_bytes=13.4,  # W: 2.04 TB/s
        threads=2048,  # P, as all limits below
        blocks=32,
        shared_bytes=164 * 1024,
    ),
    "sm_86": Multiprocessor(
        pipes=_pipes(fp=128.0, half=64.0),  # P
        tensor={"bf16": 1024.0, "fp16": 1024.0, "tf32": 512.0, "ieee": 256.0},  # W: 154.8 TF, 84, 1.8 GHz
        l2_bytes=16.0,  # E
        memory_bytes=5.1,  # W: 768 GB/s
        threads=1536,
        blocks=16,
        shared_bytes=100 * 1024,
    ),
    "sm_89": Multiprocessor(
        pipes=_pipes(fp=128.0, half=64.0),  # P
        tensor={"bf16": 1024.0, "fp16": 1024.0, "tf32": 512.0, "ieee": 256.0},  # W: 362 TF, 142, 2.52 GHz
        l2_bytes=16.0,  # E
        memory_bytes=2.4,  # W: 864 GB/s
        threads=1536,
        blocks=24,
        shared_bytes=100 * 1024,
    ),
    "sm_90": Multiprocessor(
        pipes=_pipes(fp=128.0, half=128.0),  # P
        tensor={"bf16": 4096.0, "fp16": 4096.0, "tf32": 2048.0, "ieee": 256.0},  # W: 989 TF, 132, 1.83 GHz
        l2_bytes=38.0,  # E
        memory_bytes=13.9,  # W: 3.35 TB/s
        threads=2048,
        blocks=32,
        shared_bytes=228 * 1024,
    ),
    "sm_100": Multiprocessor(
        pipes=_pipes(fp=128.0, half=128.0),  # P
        tensor={"bf16": 8192.0, "fp16": 8192.0, "tf32": 4096.0, "ieee": 256.0},  # W: 2.25 PF, 148, 1.85 GHz
        l2_bytes=24.0,  # E
        memory_bytes=29.2,  # W: 8 TB/s
        threads=2048,
        blocks=32,
        shared_bytes=228 * 1024,
    ),
    "sm_120": Multiprocessor(
        pipes=_pipes(fp=128.0, half=64.0, integer=128.0),  # P; W: every lane does integers or floats
        tensor={"bf16": 1024.0, "fp16": 1024.0, "tf32": 512.0, "ieee": 256.0},  # W: 504 TF, 188, 2.6 GHz
        l2_bytes=16.0,  # E
        memory_bytes=3.7,  # W: 1.79 TB/s
        threads=1536,
        blocks=24,
        shared_bytes=100 * 1024,
    ),
}
"""The device model of each architecture of NVIDIA's that kernels are compiled for."""
