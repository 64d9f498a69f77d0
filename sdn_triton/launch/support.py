"""What the Triton kernels can run, in one place; imports without triton."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec

import torch
from torch import Tensor

from sdn_triton.options import BlockArguments, BlockOptions, DifferenceArguments, DifferenceOptions, FusionArguments
from sdn_triton.tuning.configs import INTERPRETER
from sdn_triton.tuning.pretended import pretended_target

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_GRID = 2**31 - 1
"""Programs of one launch."""
LARGEST_GRID_AXIS = 65_535
"""Programs along its second or third axis."""
LARGEST_VECTOR_GROUPS = 8
LARGEST_WEIGHT = 2**31 - 1
OLDEST_CAPABILITY = (8, 0)
OLDEST_TRITON = (3, 6)
"""Kernels take tuples, which triton 3.2 cannot; this is the oldest version that they were checked with."""
TRITON = "triton", "pytorch-triton-rocm", "pytorch-triton", "triton-rocm"
"""What its distributions are called: the first is the usual one, the others come with PyTorch for AMD or by night."""


def why_not_difference(arguments: DifferenceArguments, options: DifferenceOptions) -> str | None:
    """What the kernels cannot do with this difference convolution; None if they can run it."""
    obstacle = _why_not_tensors(arguments.input, arguments.guidance, arguments.weight)
    if obstacle is not None:
        return obstacle
    if options.groups > LARGEST_GRID_AXIS:
        return f"the kernels take at most {LARGEST_GRID_AXIS} groups, got {options.groups}"
    rows, columns = options.kernel_size
    if rows * columns > LARGEST_GRID_AXIS:
        return f"the kernels take at most {LARGEST_GRID_AXIS} taps, got {rows}x{columns}"
    if options.similarity == "vector" and options.groups > LARGEST_VECTOR_GROUPS:
        return (
            f"with similarity='vector' the kernels take at most {LARGEST_VECTOR_GROUPS} groups, got {options.groups}: "
            "each needs a map of all taps in the backward pass"
        )
    return None


def why_not_fusion(arguments: FusionArguments) -> str | None:
    """What the kernels cannot do with this feature fusion; None if they can run it."""
    return _why_not_tensors(arguments.input, arguments.response, arguments.weight)


def why_not_block(arguments: BlockArguments, options: BlockOptions) -> str | None:
    """What the kernels cannot do with this block in evaluation; None if they can run it, be it as one kernel or two."""
    obstacle = why_not_difference(arguments.difference, options.difference)
    return obstacle or _why_not_tensors(arguments.input, arguments.guidance, arguments.fusion_weight)


def _why_not_tensors(input: Tensor, other: Tensor, weight: Tensor) -> str | None:
    if (obstacle := _why_no_triton()) is not None:
        return obstacle
    if input.dtype not in DTYPES:
        return f"the kernels compute in float32, float16 and bfloat16, not in {_name(input.dtype)}"
    for tensor in (other, weight):
        if tensor.dtype != input.dtype:
            return f"the kernels need one dtype for all tensors, got {_name(input.dtype)} and {_name(tensor.dtype)}"
    if input.dtype == torch.bfloat16 and input.device.type == "cpu" and pretended_target() in (None, INTERPRETER):
        return "Triton's interpreter computes bfloat16 wrongly"
    if weight.numel() > LARGEST_WEIGHT:
        return f"the kernels take weights of at most {LARGEST_WEIGHT} elements, got {weight.numel()}"
    return _why_not_gpu(input.device) if input.device.type == "cuda" else None


@cache
def _why_not_gpu(device: torch.device) -> str | None:
    if torch.cuda.is_available() and not torch.version.hip:
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST_CAPABILITY:
            return f"the kernels need compute capability 8.0 or newer, this GPU has {capability[0]}.{capability[1]}"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def _why_no_triton() -> str | None:
    """Asked without importing triton; one that goes by a name that is not known here is taken to be new."""
    if find_spec("triton") is None:
        return "triton is not installed"
    installed = next((distribution.version for name in TRITON for distribution in distributions(name=name)), None)
    if installed is None:
        return None
    major, minor = (int(part) for part in installed.split(".")[:2])
    if (major, minor) < OLDEST_TRITON:
        return f"the kernels need triton {'.'.join(map(str, OLDEST_TRITON))} or newer, this is {installed}"
    return None
