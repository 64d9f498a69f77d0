"""Calls that were checked before: the same sizes, dtypes, devices and options need no second look.

The checks take longer than everything else that a call costs the host. A call is looked up here by all that they look
at, so nothing that they refuse is found.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from sdn_triton.checks import Padding, Size, check_difference, check_fusion, check_positive
from sdn_triton.dispatch_state import ORDINARY, quietly
from sdn_triton.options import Contrast, DifferenceOptions

Result = TypeVar("Result")

MOST_CALLS = 4096


class Entry(NamedTuple, Generic[Result]):
    """A call that passed, with what its checks returned."""

    sizes: tuple[Any, ...]
    result: Result


class Remembered(Generic[Result]):
    """Calls by everything that is checked; ``sizes`` are the numbers among their options."""

    def __init__(self) -> None:
        self._entries: dict[tuple[Any, ...], Entry[Result]] = {}

    def find(self, key: tuple[Any, ...], sizes: tuple[Any, ...]) -> Entry[Result] | None:
        """A call like this one that passed.

        Sizes are compared by identity: True and 1.0 are equal to 1, but of these only 1 is allowed.
        """
        try:
            entry = self._entries.get(key)
        except TypeError:  # Lists are allowed, and cannot be looked up.
            return None
        if entry is not None:
            for size, checked in zip(sizes, entry.sizes):
                if size is not checked:
                    return None
        return entry

    def keep(self, key: tuple[Any, ...], sizes: tuple[Any, ...], result: Result) -> None:
        """Remember a call that passed."""
        if len(self._entries) >= MOST_CALLS:
            self._entries.clear()
        with suppress(TypeError):
            self._entries[key] = Entry(sizes, result)


_differences: Remembered[DifferenceOptions] = Remembered()
_fusions: Remembered[None] = Remembered()


def difference_options(
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
    """What ``check_difference`` returns or raises."""
    key, sizes = _describe(input, guidance, weight, bias), (stride, padding, dilation, groups)
    if key is not None:
        # The contrast by its type too, because True is equal to 1 here as well.
        number = _describe_one(contrast) if isinstance(contrast, Tensor) else (type(contrast), contrast)
        key = (key, sizes, number, padding_mode, diffusivity, similarity, backend)
        entry = _differences.find(key, sizes)
        if entry is not None:
            if isinstance(contrast, Tensor):
                quietly(check_positive, contrast)
            return entry.result
    options = quietly(
        check_difference, input, guidance, weight, bias, stride, padding, dilation, groups,
        padding_mode, diffusivity, contrast, similarity, backend,
    )  # fmt: skip
    if key is not None:
        _differences.keep(key, sizes, options)
    return options


def checked_fusion(
    input: Tensor,
    response: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    backend: str,
) -> None:
    """Raise what ``check_fusion`` raises."""
    key = _describe(input, response, weight, bias)
    if key is not None:
        key = (key, _describe_one(scale), _describe_one(shift), activation, backend)
        if _fusions.find(key, ()) is not None:
            return
    quietly(check_fusion, input, response, weight, bias, scale, shift, activation, backend)
    if key is not None:
        _fusions.keep(key, (), None)


def _describe(a: Tensor, b: Tensor, c: Tensor, d: Tensor | None) -> tuple[Any, ...] | None:
    """Sizes, dtypes and devices; None where they are not plain numbers or something is no ordinary tensor."""
    if torch.compiler.is_compiling():
        return None
    if type(a) not in ORDINARY or type(b) not in ORDINARY or type(c) not in ORDINARY:
        return None
    return a.shape, b.shape, c.shape, a.dtype, b.dtype, c.dtype, a.device, b.device, c.device, _describe_one(d)


def _describe_one(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return tensor if not isinstance(tensor, Tensor) else (tensor.shape, tensor.dtype, tensor.device)
