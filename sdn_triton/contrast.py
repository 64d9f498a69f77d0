"""What features say about the contrast: quantiles of the differences between neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch
from torch import Tensor

from sdn_triton.checks import Size, check_kernel_size, check_name, check_tensor, pair, shape
from sdn_triton.options import SIMILARITIES, Contrast, DifferenceOptions, Similarity

_PIECE = 2**20
"""How many differences are held at once, if a row of the whole batch has no more."""

_DIGIT = 16
"""Bits of the number that one pass over the features finds."""


@overload
def suggest_contrast(
    features: Tensor,
    quantile: float = 0.5,
    similarity: Similarity = "channel",
    dilation: Size = 1,
    per_channel: bool = False,
    *,
    kernel_size: Size = 3,
) -> Contrast: ...


@overload
def suggest_contrast(
    features: Sequence[Tensor],
    quantile: float = 0.5,
    similarity: Similarity = "channel",
    dilation: Size = 1,
    per_channel: bool = False,
    *,
    kernel_size: Size = 3,
) -> list[Contrast]: ...


def suggest_contrast(
    features: Tensor | Sequence[Tensor],
    quantile: float = 0.5,
    similarity: Similarity = "channel",
    dilation: Size = 1,
    per_channel: bool = False,
    *,
    kernel_size: Size = 3,
) -> Contrast | list[Contrast]:
    r"""Suggest the contrast ``k`` of a difference convolution from the guidance it will read.

    The differences are those that the kernel forms between two pixels of the image,

    .. math:: D = \{\, |v[n,c,q] - v[n,c,p]| \,\} \setminus \{0\} \qquad\text{or}\qquad
              D = \{\, \|v[n,:,q] - v[n,:,p]\|_2 \,\} \setminus \{0\}

    for ``similarity="channel"`` and ``"vector"``, and the suggestion is their quantile: the least element of ``D`` with
    at least ``quantile * len(D)`` elements of ``D`` up to it, exactly, without interpolation. Differences of 0, as
    between units that a ReLU has switched off, are left out: no contrast damps them.

    A difference of ``k`` is damped to 0.71 by ``"charbonnier"``, to 0.5 by ``"rational"`` and to 0.37 by
    ``"exponential"``. With the median, half of the differences are damped more than that; with a higher quantile fewer.

    It has not been seen to improve a segmentation. On the synthetic task of docs/quality.md it suggests about 0.1 and
    changes mIoU by -0.03 ± 0.06 points against the default of 1 (5 seeds, 95 % interval); contrasts of 0.3 and 3 make
    no difference either, and 0.03 costs 0.36 ± 0.07. On the map of docs/quality-map.md, with a shorter training, it
    costs about 0.4 points of boundary IoU. What it is for is guidance of another scale, where the default of 1 damps
    nearly everything or nothing.

    Args:
        features: guidance ``[N, C, H, W]`` or ``[C, H, W]`` as the layer reads it, that is, projected and resized;
            ``SDN.align_guidance`` and ``SDNNeck.align_guidance`` return that. Or a sequence of such, one a stage.
        quantile: above 0, at most 1.
        similarity: ``"channel"`` or ``"vector"``, as of the layer.
        dilation, kernel_size: of the layer.
        per_channel: one value for every channel, from its own differences; only for ``similarity="channel"``. A channel
            without any difference gets the value of all channels together: its own contrast has no effect.

    Returns:
        A float, with ``per_channel`` a float32 tensor ``[C]`` (float64 of float64) on the device of ``features``; a
        list of these for a sequence.

    Raises:
        TypeError, ValueError: an argument does not fit, or the features are not finite, too small for the kernel, or
            constant; the message names it and says what is allowed.

    Works on any device and for any floating dtype (differences of half types in float32), and holds no more than about
    a million differences at a time: it reads the features twice (float64: four times) rather than sort them.

    Example:
        >>> import torch
        >>> from sdn_triton import SDN, suggest_contrast
        >>> ramp = torch.arange(8.0).expand(1, 1, 4, 8)  # neighbours differ by 1, or by 0 along a column
        >>> suggest_contrast(ramp), suggest_contrast(ramp, dilation=2)
        (1.0, 2.0)
        >>> features, deeper = torch.randn(2, 16, 32, 32), torch.randn(2, 32, 16, 16)
        >>> block = SDN(16, guidance_channels=32)
        >>> block.sdc.contrast = suggest_contrast(block.align_guidance(features, deeper))
    """
    check_name("similarity", similarity, SIMILARITIES)
    kernel, dilations = pair("kernel_size", kernel_size, 1), pair("dilation", dilation, 1)
    check_kernel_size(kernel)
    if isinstance(quantile, bool) or not isinstance(quantile, (int, float)):
        raise TypeError(f"quantile must be a float, got {type(quantile).__name__}")
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be above 0 and at most 1, got {quantile}")
    if per_channel and similarity == "vector":
        raise ValueError("per_channel=True needs similarity='channel': similarity='vector' has one for all channels")
    if not isinstance(features, Tensor):
        if not isinstance(features, Sequence) or isinstance(features, str):
            raise TypeError(f"features must be a Tensor or a sequence of Tensors, got {type(features).__name__}")
        if not features:
            raise ValueError("features must have at least one stage, got none")
        return [
            suggest_contrast(stage, quantile, similarity, dilation, per_channel, kernel_size=kernel_size)
            for stage in features
        ]
    check_tensor("features", features, layout="[N, C, H, W] or [C, H, W]", ranks=(3, 4))
    features = features.detach()
    features = features if features.dim() == 4 else features.unsqueeze(0)
    options = DifferenceOptions(kernel, dilation=dilations, similarity=similarity)
    if not any(True for _ in _differences(features, options)):
        raise ValueError(
            f"features {shape(features)} must have two pixels that a kernel of {kernel[0]}x{kernel[1]} with dilation "
            f"{dilations} compares"
        )
    wide = _wide(features)
    overall = _quantile(lambda: _differences(features, options), quantile, wide)
    if overall is None:
        raise ValueError("features must not be constant: no two neighbours differ, which says nothing about contrast")
    if not per_channel:
        return overall
    channels = features.split(1, dim=1)
    own = [_quantile(lambda: _differences(channel, options), quantile, wide) for channel in channels]
    return torch.tensor([overall if k is None else k for k in own], dtype=wide, device=features.device)


def _wide(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _differences(features: Tensor, options: DifferenceOptions) -> Iterator[Tensor]:
    """The differences of all pairs of pixels, each pair once, strip by strip, in float32 or wider."""
    N, C, H, W = features.shape
    rows = max(1, _PIECE // max(1, N * C * W))
    # The second half of the taps: the first are their opposites, and meet the same pairs.
    for tap in options.taps[len(options.taps) // 2 :]:
        left, right = max(0, -tap.dx), W - max(0, tap.dx)
        if N * C == 0 or left >= right:
            continue
        for top in range(0, H - tap.dy, rows):
            bottom = min(top + rows, H - tap.dy)
            p = features[:, :, top:bottom, left:right]
            q = features[:, :, top + tap.dy : bottom + tap.dy, left + tap.dx : right + tap.dx]
            difference = q.to(_wide(features)) - p.to(_wide(features))
            vector = options.similarity == "vector"
            distance = torch.linalg.vector_norm(difference, dim=1) if vector else difference.abs_()
            if not bool(torch.isfinite(distance).all()):
                raise ValueError("features must be finite, and so must be the differences between neighbours")
            yield distance.flatten()


def _quantile(pieces: Callable[[], Iterator[Tensor]], quantile: float, dtype: torch.dtype) -> float | None:
    """The least of the positive values with at least a share ``quantile`` of them up to it; None if there are none.

    Positive floats are ordered as the integers of the same bits. Each pass fixes the next 16 of these bits by counting.
    """
    bits, integer = (64, torch.int64) if dtype == torch.float64 else (32, torch.int32)
    prefix, rank = 0, 0
    for low in range(bits - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(2**_DIGIT, dtype=torch.int64)
        for piece in pieces():
            keys = piece[piece > 0].view(integer)
            keys = keys[keys >> low >> _DIGIT == prefix]
            counts = counts.to(keys.device) + torch.bincount(keys >> low & 2**_DIGIT - 1, minlength=2**_DIGIT)
        upto = counts.cumsum(0)
        if rank == 0:
            if upto[-1] == 0:
                return None
            rank = math.ceil(quantile * int(upto[-1]))
        digit = int(torch.searchsorted(upto, rank))
        rank -= int(upto[digit - 1]) if digit else 0
        prefix = prefix << _DIGIT | digit
    return torch.tensor(prefix, dtype=integer).view(dtype).item()
