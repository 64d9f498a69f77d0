"""The public functions: check, cast, pad, call the operator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.checks import Padding, Size
from sdn_triton.ops.autocast import autocast_dtype, cast
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.ops.fusion import fusion
from sdn_triton.options import (
    PADDED_BEFORE,
    Activation,
    Backend,
    Contrast,
    DifferenceArguments,
    DifferenceOptions,
    Diffusivity,
    FusionArguments,
    PaddingMode,
    Similarity,
)
from sdn_triton.remembered import checked_fusion, difference_options


def semantic_difference_conv2d(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    diffusivity: Diffusivity = "charbonnier",
    contrast: Contrast = 1.0,
    similarity: Similarity = "channel",
    backend: Backend = "auto",
) -> Tensor:
    r"""Apply one learnable step of anisotropic diffusion: a convolution of differences, damped where guidance differs.

    With ``p`` the input position under the kernel's middle tap and ``q`` that under any other tap,

    .. math:: y[n,o,p] = b[o] + \sum_{c,\ q \ne p} K[o,c,q-p]\; s(n,c,p,q)\; (u[n,c,q] - u[n,c,p])

    where ``u`` is ``input``, ``v`` is ``guidance``, ``K`` is ``weight`` and the similarity ``s`` is, by axis,

    - ``similarity="channel"``: ``s = g(v[n,c,q] - v[n,c,p])``, one per channel;
    - ``similarity="vector"``: ``s = g(||v[n,:,q] - v[n,:,p]||_2)``, one for all channels.

    The diffusivity ``g(d)`` with contrast ``k`` is

    - ``"charbonnier"``: ``(1 + d^2 / k^2) ** -0.5``;
    - ``"exponential"``: ``exp(-d^2 / k^2)`` (Perona-Malik 1);
    - ``"rational"``: ``1 / (1 + d^2 / k^2)`` (Perona-Malik 2);
    - ``"constant"``: ``1``, which makes it a central difference convolution whatever the guidance.

    Args:
        input: features ``[N, C, H, W]``, or ``[C, H, W]`` without a batch.
        guidance: deeper, more semantic features ``[N, Cg, H, W]``; ``Cg = C`` unless ``similarity="vector"``.
        weight: ``[O, C / groups, kh, kw]`` with odd ``kh`` and ``kw``; its middle tap has no effect.
        bias: ``[O]`` or None.
        stride, padding, dilation, groups: as for :func:`torch.nn.functional.conv2d`; ``padding`` may be ``"same"`` or
            ``"valid"``.
        padding_mode: ``"zeros"`` (``u`` and ``v`` are 0 outside, so a constant image gets a false edge along its
            frame), ``"replicate"``, ``"reflect"``, ``"circular"``, or ``"zero_flux"`` (a tap whose ``q`` or whose
            centre lies outside contributes nothing).
        diffusivity: the name of ``g``.
        contrast: ``k > 0`` in units of the guidance: a float, a 0-d tensor, or for ``similarity="channel"`` one value
            per channel ``[C]``. A tensor gets a gradient. A tensor's sign is checked on the CPU only.
        similarity: the similarity axis.
        backend: ``"auto"``, ``"triton"`` (an error where it cannot run) or ``"eager"``.

    Returns:
        ``[N, O, Ho, Wo]``, sized as ``conv2d``'s output, in the dtype and memory format of ``input``.

    Raises:
        TypeError: an argument has the wrong type or dtype (float16, bfloat16, float32, float64 are allowed, all alike
            outside autocast).
        ValueError: a size, name or number does not fit; the message names it and says what is allowed.
        BackendUnavailableError: ``backend="triton"`` cannot run; the message says why.

    Sums and similarities of half-precision inputs are computed in float32. Float32 follows PyTorch's own setting for
    convolutions (TF32 or not). float64 runs eagerly.

    Source: Tan, Wu, Pi: *Semantic Diffusion Network for Semantic Segmentation*, NeurIPS 2022, equation of the semantic
    difference convolution; Perona and Malik 1990 and Charbonnier et al. 1994 for ``g``; Whitaker and Gerig 1994 for
    the vector form.

    Example:
        >>> import torch
        >>> from sdn_triton import semantic_difference_conv2d
        >>> u, v = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
        >>> u[..., 2] = 1.0  # an edge in the features ...
        >>> kernel = torch.ones(1, 1, 3, 3)
        >>> semantic_difference_conv2d(u, v, kernel).item()  # ... where the guidance is flat
        3.0
        >>> v[..., 2] = 10.0  # ... and where the guidance has one too
        >>> round(semantic_difference_conv2d(u, v, kernel).item(), 4)
        0.2985
    """
    batched = not (isinstance(input, Tensor) and input.dim() == 3)
    if not batched:
        input, guidance = input.unsqueeze(0), _add_batch(guidance)
    dtype = autocast_dtype(input)
    if dtype is not None:  # the paths choose their own precisions
        with torch.autocast(input.device.type, enabled=False):
            input, guidance, weight, bias = cast(dtype, input, guidance, weight, bias)
            output = semantic_difference_conv2d(
                input, guidance, weight, bias, stride, padding, dilation, groups,
                padding_mode=padding_mode, diffusivity=diffusivity, contrast=contrast, similarity=similarity,
                backend=backend,
            )  # fmt: skip
        return output if batched else output.squeeze(0)
    options = difference_options(
        input, guidance, weight, bias, stride, padding, dilation, groups,
        padding_mode, diffusivity, contrast, similarity, backend,
    )  # fmt: skip
    input, guidance, options = padded(input, guidance, padding_mode, options)
    contrast = contrast if isinstance(contrast, (float, Tensor)) else float(contrast)  # checked: a number, numpy's say
    output = difference_conv(DifferenceArguments(input, guidance, weight, bias, contrast), options, backend)
    return output if batched else output.squeeze(0)


def feature_fusion(
    input: Tensor,
    response: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation = "relu",
    backend: Backend = "auto",
) -> Tensor:
    r"""Fuse features with the response of a difference convolution by a 1x1 convolution over both.

    .. math:: z = K\,[\,u,\ \mathrm{act}(\mathrm{scale} \cdot y + \mathrm{shift})\,] + b

    where ``u`` is ``input`` and ``y`` is ``response``, concatenated over channels, but never in memory. ``scale`` and
    ``shift`` are a batch normalisation in closed form.

    Args:
        input: features ``[N, C, H, W]``, or ``[C, H, W]`` without a batch.
        response: ``[N, R, H, W]``, of the size of ``input``.
        weight: ``[O, C + R, 1, 1]``, the channels of ``input`` first.
        bias: ``[O]`` or None.
        scale: ``[R]`` of any floating dtype; None is 1.
        shift: ``[R]`` of any floating dtype; None is 0.
        activation: ``"relu"`` or ``"identity"``.
        backend: ``"auto"``, ``"triton"`` (an error where it cannot run) or ``"eager"``.

    Returns:
        ``[N, O, H, W]`` in the dtype and memory format of ``input``.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it and says what is allowed.
        BackendUnavailableError: ``backend="triton"`` cannot run; the message says why.

    Source: Tan, Wu, Pi: *Semantic Diffusion Network for Semantic Segmentation*, NeurIPS 2022, feature fusion.

    Example:
        >>> import torch
        >>> from sdn_triton import feature_fusion
        >>> u, y = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -3.0)
        >>> feature_fusion(u, y, torch.ones(1, 2, 1, 1)).item()  # 2 + relu(-3)
        2.0
        >>> feature_fusion(u, y, torch.ones(1, 2, 1, 1), shift=torch.tensor([4.0])).item()  # 2 + relu(-3 + 4)
        3.0
    """
    batched = not (isinstance(input, Tensor) and input.dim() == 3)
    if not batched:
        input, response = input.unsqueeze(0), _add_batch(response)
    dtype = autocast_dtype(input)
    if dtype is not None:  # the paths choose their own precisions
        with torch.autocast(input.device.type, enabled=False):
            input, response, weight, bias = cast(dtype, input, response, weight, bias)
            output = feature_fusion(
                input, response, weight, bias,
                scale=scale, shift=shift, activation=activation, backend=backend,
            )  # fmt: skip
        return output if batched else output.squeeze(0)
    checked_fusion(input, response, weight, bias, scale, shift, activation, backend)
    output = fusion(FusionArguments(input, response, weight, bias, scale, shift), activation, backend)
    return output if batched else output.squeeze(0)


def padded(
    input: Tensor, guidance: Tensor, padding_mode: str, options: DifferenceOptions
) -> tuple[Tensor, Tensor, DifferenceOptions]:
    """Checked tensors and options with the padding done, where it is not done by the taps themselves."""
    if padding_mode in PADDED_BEFORE and any(options.padding):
        rows, columns = options.padding
        input, guidance = (F.pad(x, (columns, columns, rows, rows), mode=padding_mode) for x in (input, guidance))
        options = options.without_padding()
    return input, guidance, options


def _add_batch(value: Tensor) -> Tensor:
    return value.unsqueeze(0) if isinstance(value, Tensor) and value.dim() == 3 else value
