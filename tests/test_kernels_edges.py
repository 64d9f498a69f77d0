"""Data gradients from products of edges, made once for both ends, against float64: on the GPU or interpreted."""

from dataclasses import replace

import pytest
import test_kernels
import test_kernels_paired
import torch
from kernel_reference import assert_as_good_as, difference_conv, guarded, value_and_gradients

pytest.importorskip("triton")

from sdn_triton.eager import difference_conv as eager
from sdn_triton.launch import difference_call, products
from sdn_triton.launch import difference_conv as launch
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.run import recorded_launches
from sdn_triton.options import DifferenceNeeds
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.precision import convolutions_in

TILE = KernelConfig(32, 16, 16, 16, 4, 1)
CASES = {
    name: case
    for module in (test_kernels, test_kernels_paired)
    for name, case in module.CASES.items()
    if case.options.stride == (1, 1)
    and case.options.similarity == "channel"
    and case.options.groups in (1, 2)
    and case.channels > 1
    and case.options.kernel_size != (1, 1)
    and case.options.diffusivity != "constant"
}
PAIRED = [name for name in test_kernels_paired.CASES if name in CASES and name not in ("groups2",)]
STRIPPED = ("padding-beyond-reach-zero_flux", "no-padding", "5x1-zero_flux", "C32-O16-9x11", "groups2")


@pytest.fixture(autouse=True)
def edges_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels will do here."""
    monkeypatch.setattr(difference_call, "edges_pay", lambda channels: True)


def check(case, dtype, device, monkeypatch, configs) -> None:
    """The gradients of the images, and that they came from products of edges."""
    tensors, o = case.tensors(dtype, device), case.options
    for image in (0, 1, 5):
        tensors[image] = tensors[image].contiguous(memory_format=torch.channels_last)
    u, v, weight, _, contrast, grad = tensors
    needs = DifferenceNeeds(True, True, False, False, isinstance(contrast, torch.Tensor))
    call = grad, u, v, weight, contrast, o, needs
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), tensors[:5], grad)
    with convolutions_in("ieee"):
        with recorded_launches() as launches:
            launch.backward(*call, configs)
        assert {x.name for x in launches if "products" in x.name} == {"edge_products_kernel"}
        assert all(x.arguments["EDGES"] for x in launches if "data_gradient" in x.name)
        with guarded(monkeypatch):
            results = launch.backward(*call, configs)
    terms = {"contrast": (v.cpu() * exact[2]).norm().item()}
    assert_as_good_as(results, eager.backward(*call), exact[1:], test_kernels.GRADIENTS, terms)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sampled(6)
def test_one_channel_at_a_time(name, device, monkeypatch) -> None:
    case = replace(CASES[name], contrast="channel" if CASES[name].contrast == "scalar" else CASES[name].contrast)
    check(case, torch.float32, device, monkeypatch, {"edge_products": TILE, "difference_data_gradient": TILE})


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.sampled(4)
def test_two_channels_at_a_time(name, device, monkeypatch) -> None:
    case = replace(CASES[name], contrast="number")
    pairs = replace(test_kernels_paired.PAIRS, splits=1)
    check(case, torch.float16, device, monkeypatch, {"edge_products": TILE, "difference_data_gradient": pairs})


@pytest.mark.parametrize("name", STRIPPED)
def test_strips(name, device, monkeypatch) -> None:
    """A few rows at a time; a strip shares rows with the next one on one side only."""
    monkeypatch.setattr(products, "strip_room", lambda *_: 1)
    calls: list[list[products.Strip]] = []
    strips = products.strips
    monkeypatch.setattr(products, "strips", lambda *a: calls.append(list(strips(*a))) or calls[-1])
    check(CASES[name], torch.float32, device, monkeypatch, {"difference_data_gradient": TILE})
    assert len(calls[-1]) > CASES[name].images
    assert sum(cut.images * cut.rows for cut in calls[-1]) == CASES[name].images * CASES[name].size[0]


def test_when_edges_have_products(monkeypatch) -> None:
    """At stride 1, of images and gradients with their channels together, where whole tiles have one tap."""
    monkeypatch.undo()

    def kernel(channels=128, channels_last=True, gradient_channels_last=True, **options) -> str:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        u = torch.empty(1, channels, 8, 8).contiguous(memory_format=layout)
        o = test_kernels.options(**options)
        weight = torch.empty(8, channels // o.groups, 3, 3)
        return DifferenceCall.of(u, u.clone(), weight, 1.0, o, None).products_kernel(gradient_channels_last)

    assert kernel() == kernel(256, groups=2) == kernel(padding=(0, 3), dilation=(2, 1)) == "edge_products"
    others = [
        kernel(64),
        kernel(128, groups=2),
        kernel(channels_last=False),
        kernel(gradient_channels_last=False),
        kernel(stride=(1, 2)),
        kernel(similarity="vector"),
    ]
    assert others == ["tap_products"] * len(others)
