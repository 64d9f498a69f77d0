"""The one validator: every public call passes here before anything is padded, allocated or launched.

Each error names the argument, what was given and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sdn_triton.dispatch_state import is_jit_traced, is_plain, is_transformed
from sdn_triton.options import (
    ACTIVATIONS,
    BACKENDS,
    DIFFUSIVITIES,
    PADDING_MODES,
    SIMILARITIES,
    Contrast,
    DifferenceOptions,
)

Size = int | Sequence[int]
"""Rows and columns: one number for both, or a pair."""
Padding = Size | Literal["same", "valid"]
"""Rows and columns on each side, or a name that means what it means for ``conv2d``."""

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shape(tensor: Tensor) -> str:
    """A tensor's shape as ``[2, 64, 32, 32]``."""
    return str(list(tensor.shape))


def check_tensor(name: str, value: object, *, layout: str, ranks: tuple[int, ...]) -> None:
    """Raise unless ``value`` is a floating-point tensor of one of the given ranks; ``layout`` describes them."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor {layout}, got {type(value).__name__}")
    if value.dtype not in _FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")
    if value.dim() not in ranks:
        raise ValueError(f"{name} must have the shape {layout}, got {shape(value)} of rank {value.dim()}")


def check_like(name: str, value: Tensor, input: Tensor, *, same_dtype: bool = True) -> None:
    """Raise unless ``value`` lives on the device of ``input`` and, if asked, has its dtype."""
    if value.device != input.device:
        raise ValueError(f"{name} is on {value.device} but input is on {input.device}; all must be on one device")
    if same_dtype and value.dtype != input.dtype:
        raise TypeError(
            f"{name} is {value.dtype} but input is {input.dtype}; convert one, or run under torch.autocast, "
            "which accepts any mix"
        )


def check_name(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise unless ``value`` is one of the allowed names."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_vector(name: str, value: Tensor | None, input: Tensor, length: int, *, same_dtype: bool = True) -> None:
    """Raise unless ``value`` is None or a ``[length]`` tensor that fits ``input``."""
    if value is None:
        return
    check_tensor(name, value, layout=f"[{length}]", ranks=(1,))
    if value.shape[0] != length:
        raise ValueError(f"{name} must have the shape [{length}], got {shape(value)}")
    check_like(name, value, input, same_dtype=same_dtype)


def pair(name: str, value: object, minimum: int) -> tuple[int, int]:
    """``value`` as (rows, columns); raise unless it is an int or a pair of ints of at least ``minimum``."""
    values: Any = (value, value) if _is_integer(value) else value
    # Lists are what a scripted or exported call passes; strings are sequences too, and never sizes.
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, str) or len(values) not in (1, 2):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    values = tuple(v if type(v) is int else _plain(v) for v in values) * (2 // len(values))
    if not all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in values):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum} in both directions, got {value!r}")
    return values[0], values[1]


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt, np.integer))


def _plain(value: Any) -> Any:
    """An integer of numpy as Python's; anything else as it is."""
    return index(value) if isinstance(value, np.integer) else value


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """``value`` as Python's int, numpy's included; raise unless it is one of at least ``minimum``."""
    value = _plain(value)
    if isinstance(value, bool) or not _is_integer(value):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return value


def integers(name: str, value: Any) -> tuple[int, ...]:
    """Channels as they may be given: a number, numpy's included, or several."""
    try:
        is_one = hasattr(value, "__index__") and not isinstance(value, np.ndarray)
        sizes = (index(value),) if is_one else tuple(map(index, value))
    except TypeError:
        raise TypeError(f"{name} must be an int or a sequence of ints, got {value!r}") from None
    if isinstance(value, bool) or not sizes or min(sizes) < 1:
        raise ValueError(f"{name} must be positive, one number for each feature, got {value!r}")
    return sizes


def resolve_padding(
    padding: Padding, kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Padding of rows and columns in numbers; ``"same"`` and ``"valid"`` mean what they mean for ``conv2d``."""
    if not isinstance(padding, str):
        return pair("padding", padding, 0)
    check_name("padding", padding, ("same", "valid"))
    if padding == "valid":
        return 0, 0
    if stride != (1, 1):
        raise ValueError(f"padding='same' needs stride 1, got stride={stride}")
    return dilation[0] * (kernel_size[0] // 2), dilation[1] * (kernel_size[1] // 2)


def check_kernel_size(kernel_size: tuple[int, int]) -> None:
    """Raise unless both sides are odd: the operator needs a middle tap."""
    if kernel_size[0] % 2 == 0 or kernel_size[1] % 2 == 0:
        raise ValueError(f"kernel sizes must be odd, so that there is a middle tap; weight has {kernel_size}")


def check_contrast(contrast: Contrast, channels: int | None, input: Tensor | None = None) -> None:
    """Raise unless contrast is positive and is a number, a 0-d tensor or, where channels are given, ``[channels]``.

    A tensor's values are looked at on the CPU only: on a GPU that would wait for the device.
    """
    if not isinstance(contrast, Tensor):
        if isinstance(contrast, bool) or not isinstance(contrast, Real):
            raise TypeError(f"contrast must be a float or a Tensor, got {type(contrast).__name__}")
        if not 0 < contrast < math.inf:  # which torch.compile can trace of a number it takes for dynamic
            raise ValueError(f"contrast must be positive and finite, got {contrast}")
        return
    layout = "[]" if channels is None else f"[] or [{channels}]"
    check_tensor("contrast", contrast, layout=layout, ranks=(0,) if channels is None else (0, 1))
    if contrast.dim() == 1 and contrast.shape[0] != channels:
        raise ValueError(f"contrast must have the shape {layout}, one value per channel, got {shape(contrast)}")
    if input is not None:
        check_like("contrast", contrast, input, same_dtype=False)
    check_positive(contrast)


def check_positive(contrast: Tensor) -> None:
    """Raise where a value of ``contrast`` is on the CPU, can be looked at, and is not positive."""
    is_readable = contrast.device.type == "cpu" and is_plain(contrast) and not is_transformed()
    if is_readable and not bool((contrast > 0).all()):
        raise ValueError(f"contrast must be positive, got {contrast.detach().min().item()}")


def check_difference(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
    padding_mode: str,
    diffusivity: str,
    contrast: Contrast,
    similarity: str,
    backend: str,
) -> DifferenceOptions:
    """Check a call of ``semantic_difference_conv2d`` on batched tensors and return its options.

    ``options.padding`` is the padding asked for, whatever the padding mode.
    """
    check_name("padding_mode", padding_mode, PADDING_MODES)
    check_name("diffusivity", diffusivity, DIFFUSIVITIES)
    check_name("similarity", similarity, SIMILARITIES)
    check_name("backend", backend, BACKENDS)
    check_tensor("input", input, layout="[N, C, H, W] or [C, H, W]", ranks=(4,))
    check_tensor("guidance", guidance, layout="[N, Cg, H, W] or [Cg, H, W]", ranks=(4,))
    check_tensor("weight", weight, layout="[O, C / groups, kh, kw]", ranks=(4,))
    check_like("guidance", guidance, input)
    check_like("weight", weight, input)
    channels, (outputs, weight_channels, *kernel) = input.shape[1], weight.shape
    check_vector("bias", bias, input, outputs)

    if isinstance(groups, bool) or not _is_integer(groups):
        raise TypeError(f"groups must be an int, got {groups!r}")
    groups = _plain(groups)
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError(
            f"groups must be positive and divide the {channels} channels of input and the {outputs} outputs of "
            f"weight, got {groups}"
        )
    if channels == 0 or outputs == 0:
        raise ValueError(f"input and weight must have channels, got input {shape(input)} and weight {shape(weight)}")
    if weight_channels * groups != channels:
        raise ValueError(
            f"weight {shape(weight)} with groups={groups} takes {weight_channels * groups} channels, "
            f"but input {shape(input)} has {channels}"
        )
    if similarity == "channel" and guidance.shape[1] != channels:
        raise ValueError(
            f"guidance {shape(guidance)} has {guidance.shape[1]} channels but input {shape(input)} has {channels}; "
            "similarity='channel' needs as many, similarity='vector' takes any number"
        )
    if guidance.shape[1] == 0:
        raise ValueError(f"guidance must have channels, got {shape(guidance)}")
    if guidance.shape[0] != input.shape[0] or guidance.shape[2:] != input.shape[2:]:
        raise ValueError(
            f"guidance {shape(guidance)} must have the batch size, height and width of input {shape(input)}; "
            "resize it first, or use the module SDN, which does"
        )
    check_contrast(contrast, channels if similarity == "channel" else None, input)

    kernel_size = (int(kernel[0]), int(kernel[1])) if is_jit_traced() else (kernel[0], kernel[1])
    check_kernel_size(kernel_size)
    strides, dilations = pair("stride", stride, 1), pair("dilation", dilation, 1)
    options = DifferenceOptions(
        kernel_size=kernel_size,
        stride=strides,
        padding=resolve_padding(padding, kernel_size, strides, dilations),
        dilation=dilations,
        groups=groups,
        border="zero_flux" if padding_mode == "zero_flux" else "zeros",
        diffusivity=diffusivity,
        similarity=similarity,
    )
    check_reach(input, options, padding_mode)
    return options


def check_reach(input: Tensor, options: DifferenceOptions, padding_mode: str) -> None:
    """Raise unless the kernel fits into the padded image and the image is large enough for its padding mode."""
    for name, size, reach, padding in zip(("height", "width"), input.shape[2:], options.reach, options.padding):
        if size == 0 or 2 * reach + 1 > size + 2 * padding:
            raise ValueError(
                f"the kernel covers {2 * reach + 1} pixels of {name} (dilation included), "
                f"more than the {size} of input {shape(input)} with padding {padding} on both sides"
            )
        if padding_mode == "reflect" and padding >= size:
            raise ValueError(f"padding_mode='reflect' needs padding less than the {name}, got {padding} for {size}")
        if padding_mode == "circular" and padding > size:
            raise ValueError(f"padding_mode='circular' needs padding of at most the {name}, got {padding} for {size}")


def check_fusion(
    input: Tensor,
    response: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    backend: str,
) -> None:
    """Check a call of ``feature_fusion`` on batched tensors."""
    check_name("activation", activation, ACTIVATIONS)
    check_name("backend", backend, BACKENDS)
    check_tensor("input", input, layout="[N, C, H, W] or [C, H, W]", ranks=(4,))
    check_tensor("response", response, layout="[N, R, H, W] or [R, H, W]", ranks=(4,))
    check_tensor("weight", weight, layout="[O, C + R, 1, 1]", ranks=(4,))
    check_like("response", response, input)
    check_like("weight", weight, input)
    if response.shape[0] != input.shape[0] or response.shape[2:] != input.shape[2:]:
        raise ValueError(
            f"response {shape(response)} must have the batch size, height and width of input {shape(input)}"
        )
    channels, responses = input.shape[1], response.shape[1]
    if 0 in (channels, responses, weight.shape[0]) or 0 in input.shape[2:]:
        raise ValueError(
            f"input, response and weight must not be empty but for the batch, got {shape(input)}, {shape(response)} "
            f"and {shape(weight)}"
        )
    if list(weight.shape[1:]) != [channels + responses, 1, 1]:
        raise ValueError(
            f"weight must have the shape [O, {channels + responses}, 1, 1]: {channels} channels of input and "
            f"{responses} of response, got {shape(weight)}"
        )
    check_vector("bias", bias, input, weight.shape[0])
    check_vector("scale", scale, input, responses, same_dtype=False)
    check_vector("shift", shift, input, responses, same_dtype=False)
