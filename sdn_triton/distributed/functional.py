"""The semantic difference convolution of an image whose rows are spread over ranks."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from sdn_triton.checks import Padding, Size
from sdn_triton.distributed.images import difference_conv
from sdn_triton.distributed.placement import as_dtensor, as_image
from sdn_triton.distributed.rows import summed_gradients
from sdn_triton.options import Backend, Contrast, Diffusivity, PaddingMode, Similarity


def semantic_difference_conv2d(
    input: DTensor,
    guidance: DTensor,
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
) -> DTensor:
    r"""Compute :func:`sdn_triton.semantic_difference_conv2d` of an image whose rows are spread over ranks.

    .. math:: y[n,o,p] = b[o] + \sum_{c,\ q \ne p} K[o,c,q-p]\; s(n,c,p,q)\; (u[n,c,q] - u[n,c,p])

    Every argument means what it means there. Each rank fetches the rows that its outputs read from whichever ranks hold
    them (one collective forward, one backward) and computes its own outputs: no rank ever holds a whole image.

    Args:
        input: ``[N, C, H, W]``, placed ``Shard(2)`` along one dimension of its mesh and ``Shard(0)`` or ``Replicate()``
            along all others. H need not divide by the number of ranks, a rank may even hold no row at all.
        guidance: ``[N, Cg, H, W]``, placed as ``input``.
        weight, bias, contrast: plain tensors that every rank holds. Their gradients are summed over the ranks that
            share an image: each rank gets those of the whole image.
        others: as for :func:`sdn_triton.semantic_difference_conv2d`. With any stride; outputs of another height than
            ``H`` are split anew, as DTensor does.

    Returns:
        ``[N, O, Ho, Wo]``, placed as ``input``.

    Raises:
        TypeError, ValueError: an argument does not fit or is placed otherwise; the message names it.

    Source: as for :func:`sdn_triton.semantic_difference_conv2d`.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> image = distribute_tensor(torch.randn(1, 4, 9, 8), init_device_mesh("cpu", (1,)), [Shard(2)])
        >>> semantic_difference_conv2d(image, image, torch.randn(6, 4, 3, 3), padding=5, dilation=5).shape
        torch.Size([1, 6, 9, 8])
        >>> dist.destroy_process_group()
    """
    u = as_image("input", input, input)
    v = u if guidance is input else as_image("guidance", guidance, input)
    named: dict[str, Any] = {"weight": weight, "bias": bias, "contrast": contrast}
    for name, value in named.items():
        if isinstance(value, DTensor):
            raise TypeError(
                f"{name} must be a plain tensor that every rank holds, got a DTensor {tuple(value.placements)}"
            )
    trained = {name: value for name, value in named.items() if isinstance(value, Tensor) and value.requires_grad}
    shared = {**named, **dict(zip(trained, summed_gradients(u.rows.group, *trained.values())))}
    output = difference_conv(
        u,
        v,
        shared["weight"],
        shared["bias"],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        diffusivity=diffusivity,
        contrast=shared["contrast"],
        similarity=similarity,
        backend=backend,
    )
    return as_dtensor(output, input)
