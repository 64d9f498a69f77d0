"""A launch as a value, which can be recorded and compiled for another device, and what launches are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from sdn_triton.backend import is_interpreted
from sdn_triton.kernels.arguments import Contrast, Steps
from sdn_triton.launch.support import LARGEST_GRID, LARGEST_GRID_AXIS
from sdn_triton.options import DifferenceOptions
from sdn_triton.tuning.configs import INTERPRETER, KernelConfig, Target
from sdn_triton.tuning.fallback import LaunchFailedError, failure_of_configuration
from sdn_triton.tuning.precision import convolutions_may_use_tf32
from sdn_triton.tuning.pretended import pretended_target

_record: ContextVar[list[Launch] | None] = ContextVar("sdn_triton_launches", default=None)
_recorded_for: ContextVar[Target | None] = ContextVar("sdn_triton_recorded_for", default=None)


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch: kernel, grid, arguments by name, configuration, and which of ``KERNELS`` this was chosen for."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    config: KernelConfig
    tuned: str | None = None

    def __post_init__(self) -> None:
        refuse_too_large(self.kernel, self.grid)

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.kernel.__name__

    @property
    def tuned_as(self) -> str:
        """Under which of ``KERNELS`` its configuration is chosen; its own name where it is fixed."""
        return self.tuned or self.name

    def value_of(self, parameter: str) -> Any:
        """An argument, or a member of one: "u_strides.h"."""
        name, _, member = parameter.partition(".")
        return getattr(self.arguments[name], member) if member else self.arguments[name]

    @property
    def options(self) -> dict[str, Any]:
        """Compiler options; triton 3.10 no longer fuses multiplications and additions unless told to."""
        return {
            "num_warps": self.config.num_warps,
            "num_stages": self.config.num_stages,
            "enable_fp_fusion": True,
        }

    def start(self) -> Any:
        """Launch on the current device by way of Triton's look-up, and return the compiled kernel that it found.

        Raises:
            LaunchFailedError: the kernel does not compile with this configuration, or asks for more than there is.
        """
        try:
            return self.kernel[self.grid](**self.arguments, **self.options)
        except Exception as error:
            reason = failure_of_configuration(error)
            if reason is None:
                raise
            raise LaunchFailedError(self.tuned_as, self.config, reason) from error


def refuse_too_large(kernel: Any, grid: tuple[int, ...]) -> None:
    """Raise where no GPU takes the grid: of one with 2^31 programs Triton starts none, and says nothing.

    Raises:
        ValueError: it has too many programs.
    """
    if prod(grid) <= LARGEST_GRID and all(length <= LARGEST_GRID_AXIS for length in grid[1:]):
        return
    raise ValueError(
        f"these tensors are too large for {kernel.__name__}: it would run a grid of {' x '.join(map(str, grid))} "
        f"programs, and a GPU takes at most {LARGEST_GRID} in all and {LARGEST_GRID_AXIS} along the second and third "
        "axis; compute a smaller batch at a time, or use backend='eager'"
    )


def note_launch(launch: Callable[[], Launch]) -> bool:
    """Take note of a launch inside :func:`recorded_launches`; outside of it there is nothing to note."""
    launches = _record.get()
    if launches is None:
        return False
    launches.append(launch())
    return True


@contextmanager
def recorded_launches(target: Target | None = None) -> Iterator[list[Launch]]:
    """Collect the launches made inside instead of running them; meta tensors will do as arguments.

    ``target`` is the device that these are taken to be on.
    """
    launches: list[Launch] = []
    tokens = _record.set(launches), _recorded_for.set(target)
    try:
        yield launches
    finally:
        _record.reset(tokens[0])
        _recorded_for.reset(tokens[1])


@cache
def _cuda_target(index: int) -> Target:
    properties = torch.cuda.get_device_properties(index)
    known = properties.multi_processor_count, properties.L2_cache_size
    if torch.version.hip:
        return Target("hip", properties.gcnArchName.split(":")[0], *known)
    return Target("cuda", 10 * properties.major + properties.minor, *known)


def target_of(device: torch.device) -> Target:
    """What configurations for ``device`` are chosen by."""
    if device.type != "cuda":
        recorded_for = _recorded_for.get() if device.type == "meta" else None
        return recorded_for or pretended_target() or INTERPRETER
    return _cuda_target(torch.cuda.current_device() if device.index is None else device.index)


def arithmetic_of(dtype: torch.dtype) -> str:
    """How matrix products of this dtype are formed: float32 as PyTorch's setting for convolutions says."""
    if dtype == torch.float32:
        return "tf32" if convolutions_may_use_tf32() else "ieee"
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def precision_of(arithmetic: str) -> str:
    """The ``input_precision`` of ``tl.dot``; it matters for float32 only, and the interpreter knows no TF32."""
    return "tf32" if arithmetic == "tf32" and not is_interpreted() else "ieee"


def as_factor(weight: Tensor, arithmetic: str) -> Tensor:
    """``weight`` as kernels multiply by it: where they take TF32, rounded to it.

    Tensor cores cut off the 13 bits that TF32 does not have. With both factors cut, an error would be 2.6 times that
    of factors that are rounded; with one of them rounded it is 1.6 times that, and the weight is the smaller one.
    """
    if precision_of(arithmetic) != "tf32":
        return weight
    # The sum has 24 bits of 8193 times the weight: 11 bits are left of the weight itself.
    return weight.add(weight, alpha=2**13).sub_(weight, alpha=2**13)


def cdiv(numerator: int, denominator: int) -> int:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


def count_tiles(images: int, rows: int, columns: int, config: KernelConfig) -> int:
    """Spatial tiles of a batch of images."""
    return images * cdiv(rows, config.block_h) * cdiv(columns, config.block_w)


def next_power(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def contrast_of(contrast: float | Tensor) -> Contrast:
    """The contrast as kernels take it: a tensor that they load from, or the inverse of one number."""
    if isinstance(contrast, Tensor):
        return Contrast(contrast, 1.0, contrast.stride(0) if contrast.ndim else 0)
    return Contrast(None, 1.0 / contrast, None)


def steps_of(options: DifferenceOptions) -> Steps:
    """Where centres and taps are, as kernels take it."""
    return Steps(*options.stride, *options.dilation)
