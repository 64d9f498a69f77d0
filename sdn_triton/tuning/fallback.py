"""What happens where a configuration does not run: the next one, then the eager path; said once, and remembered.

A device may be smaller than the heuristic thinks, or its compiler may fail. Such a failure is that of a configuration;
an illegal address or a lack of memory is not, and is never caught. The order is fixed: an entry of a table gives way to
the next layer of the look-up, the heuristic to configurations of one stage and ever smaller tiles. What failed is
remembered for the *call*: an operator, forward or backward, with its options, dtype and device, since a kernel compiles
for these.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from sdn_triton.options import Arguments
from sdn_triton.tuning import lookup
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.precision import convolutions_may_use_tf32
from sdn_triton.tuning.pretended import pretended_target

SMALLEST_BLOCK = 16
SMALLEST_WARPS = 4
BLOCKS = ("block_p", "block_c", "block_o")


class LaunchFailedError(RuntimeError):
    """A kernel does not run with a configuration, for reasons of the device or its compiler."""

    def __init__(self, kernel: str, config: KernelConfig, reason: str) -> None:
        super().__init__(f"{kernel} does not run with {config}: {reason}")
        self.kernel, self.config, self.reason = kernel, config, reason


_replacements: dict[Hashable, dict[str, KernelConfig]] = {}
_exhausted: dict[Hashable, str] = {}
_warned: set[str] = set()


def failure_of_configuration(error: Exception) -> str | None:
    """The reason where an exception means that this configuration cannot run here; None for any other exception."""
    from triton.compiler.errors import CompilationError
    from triton.runtime import errors

    kinds = [CompilationError, *(getattr(errors, name, None) for name in ("OutOfResources", "PTXASError"))]
    while isinstance(error.__cause__, CompilationError):
        error = error.__cause__  # says why; those around it only say where the function was called
    text = " ".join(str(error).split())
    if isinstance(error, tuple(kind for kind in kinds if kind is not None)):
        return text[-300:]
    # What a pass of the compiler raises has no type of its own, unlike what the driver says: "Triton Error [CUDA]".
    if isinstance(error, RuntimeError) and text.startswith("PassManager::run failed"):
        return text[:300]
    return None


def smaller(config: KernelConfig) -> KernelConfig | None:
    """The configuration to try after one that failed; None after the smallest.

    First one stage and none of the options that a kernel can do without, then half the size in every direction.

    Example:
        >>> config = KernelConfig(64, 16, 32, 128, num_warps=8, num_stages=3, source="heuristic")
        >>> while config is not None:
        ...     print(config)
        ...     config = smaller(config)
        4x16 pixels, 32 channels, 128 outputs, 8 warps, 3 stages (heuristic)
        4x16 pixels, 32 channels, 128 outputs, 8 warps, 1 stages (smaller than the heuristic)
        2x16 pixels, 16 channels, 64 outputs, 4 warps, 1 stages (smaller than the heuristic)
        1x16 pixels, 16 channels, 32 outputs, 4 warps, 1 stages (smaller than the heuristic)
        1x16 pixels, 16 channels, 16 outputs, 4 warps, 1 stages (smaller than the heuristic)
    """
    plain = replace(config, num_stages=1, source="smaller than the heuristic", **_options_that_may_be_off(config))
    if replace(plain, source=config.source) != config:
        return plain
    blocks: dict[str, Any] = {name: _halved(getattr(config, name)) for name in BLOCKS}
    block_w = min(config.block_w, blocks["block_p"])
    less = replace(plain, **blocks, block_w=block_w, num_warps=min(config.num_warps, SMALLEST_WARPS))
    return None if replace(less, source=config.source) == config else less


def _halved(block: int) -> int:
    return min(block, max(block // 2, SMALLEST_BLOCK))


def _options_that_may_be_off(config: KernelConfig) -> dict[str, Any]:
    """The switches of a configuration, off."""
    return {field.name: False for field in fields(config) if isinstance(getattr(config, field.name), bool)}


def call_key(operator: str, step: str, arguments: Arguments, options: Any) -> Hashable:
    """What failures are remembered for: what a kernel is compiled for, but no sizes."""
    input = arguments.input
    kinds = tuple(type(a).__name__ if not isinstance(a, Tensor) else str(a.ndim) for a in arguments)
    tf32 = input.dtype == torch.float32 and convolutions_may_use_tf32()
    return operator, step, options, kinds, input.dtype, input.device, pretended_target(), tf32


def anything_failed() -> bool:
    """Whether there is anything to remember, which in general there is not."""
    return bool(_replacements or _exhausted)


def replacements(key: Hashable) -> Mapping[str, KernelConfig]:
    """The configurations that stand in for those that failed, by kernel."""
    return _replacements.get(key, {})


def why_exhausted(key: Hashable) -> str | None:
    """Why no configuration at all runs for this call; None if one may."""
    return _exhausted.get(key)


def step_down(key: Hashable, failure: LaunchFailedError) -> None:
    """Choose the configuration that the call has to be tried with after a failure, or give the call up."""
    kernel, config, reason = failure.kernel, failure.config, failure.reason
    if lookup.reject(kernel, config):
        _warn_once(f"{failure}. It is passed over")
        return
    # A kernel that nobody configures, as that which copies images, has no other configuration.
    following = smaller(config) if kernel in KERNELS else None
    if following is None:
        _exhausted[key] = f"{kernel} runs with none of its configurations on this device: {reason}"
        return
    stand_ins = _replacements.setdefault(key, {})
    if kernel not in stand_ins:
        _warn_once(f"{failure}. Smaller ones are tried, see explain()")
    stand_ins[kernel] = following


def forget() -> None:
    """Try everything again."""
    _replacements.clear()
    _exhausted.clear()
    _warned.clear()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(f"sdn_triton: {message}", RuntimeWarning, stacklevel=3)
