"""PyTorch's setting for float32 convolutions, which the kernels follow: TF32 or not.

Since torch 2.9 it is ``cudnn.conv.fp32_precision``, beside ``cudnn.rnn.fp32_precision`` and the older
``cudnn.allow_tf32`` for both. To read the older one is an error unless all three agree, so they are set together here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_cudnn: Any = torch.backends.cudnn
_newer: tuple[Any, ...] = (_cudnn.conv, _cudnn.rnn) if hasattr(_cudnn, "conv") else ()


def convolutions_may_use_tf32() -> bool:
    """Whether a float32 convolution may round its factors to TF32."""
    if torch.version.hip:
        return False
    return _newer[0].fp32_precision == "tf32" if _newer else _cudnn.allow_tf32


def let_convolutions_use(precision: str) -> None:
    """Set it, to "tf32" or "ieee"."""
    _cudnn.allow_tf32 = precision == "tf32"
    for setting in _newer:  # without this they would follow torch.backends.fp32_precision where TF32 is not allowed
        setting.fp32_precision = precision


@contextmanager
def convolutions_in(precision: str) -> Iterator[None]:
    """The setting for a while: "tf32" or "ieee"."""
    older, newer = _allow_tf32(), [setting.fp32_precision for setting in _newer]
    if older is None:
        _newer[0].fp32_precision = precision
    else:
        let_convolutions_use(precision)
    try:
        yield
    finally:
        if older is not None:
            _cudnn.allow_tf32 = older
        for setting, value in zip(_newer, newer, strict=True):
            if setting.fp32_precision != value:
                setting.fp32_precision = value


def _allow_tf32() -> bool | None:
    """The older setting; None where it cannot be read, because somebody set the newer ones apart from each other."""
    try:
        return _cudnn.allow_tf32
    except RuntimeError:
        return None
