"""The eager fusion: values against numpy in float64, gradients against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.agreement import assert_like
from torch import Tensor

from sdn_triton.eager import composite, fusion
from sdn_triton.options import FusionArguments, FusionNeeds


def fuse(u: Tensor, y: Tensor, weight: Tensor, bias, scale, shift, activation: str) -> Tensor:
    """The fusion in numpy and float64."""
    u, y, weight, bias, scale, shift = (
        None if x is None else x.detach().cpu().double().numpy() for x in (u, y, weight, bias, scale, shift)
    )
    per_channel = (slice(None), None, None)
    h = y if scale is None else y * scale[per_channel]
    h = h if shift is None else h + shift[per_channel]
    h = np.maximum(h, 0) if activation == "relu" else h
    z = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], np.concatenate((u, h), 1))
    return torch.from_numpy(z if bias is None else z + bias[per_channel])


FUSIONS = {
    "all": dict(),
    "identity": dict(activation="identity"),
    "no-bias": dict(bias=None),
    "no-scale": dict(scale=None),
    "no-shift": dict(shift=None),
    "nothing": dict(bias=None, scale=None, shift=None),
    "no-image": dict(batch=0),
    "channels_last": dict(layout=torch.channels_last),
}


def fusion_arguments(
    batch: int = 2,
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    activation: str = "relu",
    **absent: None,
) -> list[Tensor | str | None]:
    shapes = dict(
        input=(batch, 3, 5, 7), response=(batch, 4, 5, 7), weight=(6, 7, 1, 1), bias=(6,), scale=(4,), shift=(4,)
    )
    tensors = [None if name in absent else torch.randn(s).to(device, dtype) for name, s in shapes.items()]
    tensors[:2] = [x.contiguous(memory_format=layout) for x in tensors[:2]]
    return [*tensors, activation]


@pytest.mark.parametrize("case", FUSIONS.values(), ids=FUSIONS.keys())
@pytest.mark.usefixtures("poisoned")
def test_fusion(case, device):
    *tensors, activation = fusion_arguments(**case, device=device)
    arguments = FusionArguments(*tensors)
    z = fusion.forward(arguments, activation)
    torch.testing.assert_close(z.cpu(), fuse(*tensors, activation))
    torch.testing.assert_close(composite.feature_fusion(arguments, activation), z)
    if z.numel():
        assert_like(z, arguments.input)


@pytest.mark.parametrize("case", FUSIONS.values(), ids=FUSIONS.keys())
@pytest.mark.usefixtures("poisoned")
def test_fusion_backward(case, device):
    *tensors, activation = fusion_arguments(**case, device=device)
    u = tensors[0]
    grad = torch.randn(u.shape[0], 6, 7, 5, dtype=u.dtype).to(device).transpose(2, 3)
    needs = FusionNeeds(*[x is not None for x in tensors])
    gradients = fusion.backward(FusionArguments(*tensors), activation, grad, needs)
    arguments = [None if x is None else x.detach().requires_grad_() for x in tensors]
    given = [x for x in arguments if x is not None]
    expected = iter(torch.autograd.grad(composite.feature_fusion(FusionArguments(*arguments), activation), given, grad))
    for gradient, x in zip(gradients, tensors, strict=True):
        if x is None:
            assert gradient is None
            continue
        torch.testing.assert_close(gradient, next(expected))
        if gradient.numel():
            assert_like(gradient, x)


@pytest.mark.parametrize("name", FusionNeeds._fields)
def test_fusion_computes_only_what_is_needed(name):
    *tensors, activation = fusion_arguments()
    needs = FusionNeeds(**{field: field == name for field in FusionNeeds._fields})
    gradients = fusion.backward(FusionArguments(*tensors), activation, torch.randn(2, 6, 5, 7).double(), needs)
    assert [field for field in gradients._fields if getattr(gradients, field) is not None] == [name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_fusion_of_half_types_rounds_once(dtype, device):
    *tensors, activation = fusion_arguments(dtype=dtype, device=device)
    z, exact = fusion.forward(FusionArguments(*tensors), activation).cpu(), fuse(*tensors, activation)
    assert z.dtype == dtype
    assert ((z.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all()


def test_fusion_of_meta_tensors():
    *tensors, activation = fusion_arguments(layout=torch.channels_last)
    meta = FusionArguments(*(x.to("meta") for x in tensors))
    real, fake = fusion.forward(FusionArguments(*tensors), activation), fusion.forward(meta, activation)
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)
    gradients = fusion.backward(meta, activation, fake, FusionNeeds(*[True] * 6))
    for gradient, x in zip(gradients, tensors, strict=True):
        assert (gradient.shape, gradient.stride(), gradient.dtype) == (x.shape, x.stride(), x.dtype)
