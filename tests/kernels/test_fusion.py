"""The kernels of the feature fusion against float64: values and every gradient, on the GPU or interpreted."""

import pytest
import torch
from support.difference_calls import DTYPES, skip_what_cannot_run
from support.fusion_calls import ALL, Case, run
from support.kernel_reference import (
    among_nans,
    assert_as_good_as,
    far_apart,
    fusion,
    guarded,
    transposed,
    value_and_gradients,
)

pytest.importorskip("triton")

from sdn_triton.eager import fusion as eager
from sdn_triton.launch import fusion as launch
from sdn_triton.launch.run import recorded_launches
from sdn_triton.ops.fusion import fusion as operator
from sdn_triton.options import FusionArguments, FusionNeeds
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.kernels import KERNELS

SMALL_TILES = dict.fromkeys(KERNELS, KernelConfig(16, 4, 16, 16, 4, 1, splits=3))


CASES = {
    "plain": Case(),
    "17x23-C20-R33-O18": Case(1, 20, 33, 18, (17, 23)),
    "5x6-C20-R17-O18": Case(1, 20, 17, 18, (5, 6)),
    "identity": Case(activation="identity"),
    "no-affine-no-bias": Case(has_scale=False, has_shift=False, has_bias=False),
    "shift-only": Case(has_scale=False),
    "scale-only": Case(has_shift=False, activation="identity"),
    "one-channel": Case(1, 1, 1, 1, (3, 1)),
    "one-pixel": Case(3, 4, 2, 5, (1, 1)),
}


def check(case: Case, dtype: torch.dtype, device: torch.device, monkeypatch, **configs) -> None:
    tensors = case.tensors(dtype, device)
    exact = value_and_gradients(lambda *a: fusion(*a, case.activation), tensors[:6], tensors[6])
    with guarded(monkeypatch):
        results = run(launch, tensors, case.activation, **configs)
    assert_as_good_as(results, run(eager, tensors, case.activation), exact, ("output", *FusionNeeds._fields))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, dtype, device, monkeypatch) -> None:
    skip_what_cannot_run(dtype, device)
    check(CASES[name], dtype, device, monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["plain", "5x6-C20-R17-O18"])
@pytest.mark.sampled(1)
def test_many_tiles_and_splits(name, dtype, device, monkeypatch) -> None:
    skip_what_cannot_run(dtype, device)
    check(CASES[name], dtype, device, monkeypatch, configs=SMALL_TILES)


@pytest.mark.parametrize(
    "layout",
    [lambda x: x.contiguous(memory_format=torch.channels_last), among_nans, transposed],
    ids=["channels_last", "among_nans", "transposed"],
)
@pytest.mark.parametrize(
    "changed", [(0,), (1,), (6,), (0, 1, 6)], ids=["input", "response", "grad", "input-response-grad"]
)
def test_strides_change_nothing(changed, layout, device, monkeypatch) -> None:
    """Strides decide which pixels share a tile, so that sums over pixels may round otherwise."""
    tensors = Case().tensors(torch.float32, device)
    expected = run(launch, tensors, "relu")
    tensors = [layout(t) if i in changed else t for i, t in enumerate(tensors)]
    with guarded(monkeypatch):
        results = run(launch, tensors, "relu")
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-5, atol=1e-5)
    assert results[0].is_contiguous(memory_format=torch.channels_last) == tensors[0].is_contiguous(
        memory_format=torch.channels_last
    )
    for gradient, argument in zip(results[1:3], tensors[:2], strict=True):
        assert gradient.stride() == torch.empty_like(argument).stride()


def test_expanded_gradient(device) -> None:
    tensors = Case().tensors(torch.float32, device)
    tensors[6] = torch.full((), 0.5, device=device).expand(tensors[6].shape)
    expected = run(launch, [*tensors[:6], tensors[6].contiguous()], "relu")
    for result, reference in zip(run(launch, tensors, "relu"), expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("only", FusionNeeds._fields)
def test_each_gradient_alone(only, device) -> None:
    *given, grad = Case().tensors(torch.float32, device)
    arguments = FusionArguments(*given)
    together = launch.backward(arguments, "relu", grad, ALL)
    needs = FusionNeeds(*(field == only for field in FusionNeeds._fields))
    alone = launch.backward(arguments, "relu", grad, needs)
    for field in FusionNeeds._fields:
        if field == only:
            torch.testing.assert_close(getattr(alone, field), getattr(together, field), rtol=1e-6, atol=1e-6)
        else:
            assert getattr(alone, field) is None


def test_repetitions_are_equal_bit_for_bit(device) -> None:
    tensors = CASES["17x23-C20-R33-O18"].tensors(torch.float16, device)
    first, second = run(launch, tensors, "relu"), run(launch, tensors, "relu")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_empty_batch_launches_nothing(device) -> None:
    *tensors, grad = Case(images=0).tensors(torch.float32, device)
    arguments = FusionArguments(*tensors)
    with recorded_launches() as launches:
        z = operator.run_forward(arguments, "relu", "triton")
        gradients = operator.run_backward(arguments, "relu", "triton", grad, [True] * 6)
    assert launches == []
    assert z.shape[0] == 0
    assert not any(gradient.any() for gradient in gradients)


def test_nan_stays_at_its_pixel(device) -> None:
    tensors = Case().tensors(torch.float32, device)
    tensors[1][:, :, 3, 4] = float("nan")
    z, dinput, dresponse, *_ = run(launch, tensors, "relu")
    assert z[:, :, 3, 4].isnan().all()
    z[:, :, 3, 4] = 0
    assert z.isfinite().all()
    assert dinput.isfinite().all()
    assert dresponse.isfinite().all()


@pytest.mark.huge
def test_offsets_beyond_32_bits(device) -> None:
    tensors = Case(2, 3, 2, 4, (3, 4)).tensors(torch.float16, device)
    expected = run(launch, tensors, "relu")
    for argument, axis in ((0, 0), (0, 1), (1, 2), (6, 1)):
        changed = list(tensors)
        changed[argument] = far_apart(tensors[argument], axis)
        for result, reference in zip(run(launch, changed, "relu"), expected, strict=True):
            torch.testing.assert_close(result, reference, rtol=2e-3, atol=2e-3)
