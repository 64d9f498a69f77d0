"""Data gradients from products of edges, made once for both ends, against float64: on the GPU or interpreted."""

from dataclasses import replace

import pytest
import torch
from support import difference_calls
from support.difference_calls import GRADIENTS, PAIRS, Case, call_of, options
from support.kernel_reference import assert_as_good_as, difference_conv, guarded, value_and_gradients

pytest.importorskip("triton")

from sdn_triton.eager import difference_conv as eager
from sdn_triton.launch import difference_conv as launch
from sdn_triton.launch import difference_layout, products
from sdn_triton.launch.run import recorded_launches
from sdn_triton.options import DifferenceArguments, DifferenceNeeds
from sdn_triton.tuning.configs import KernelConfig, Target
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended

TILE = KernelConfig(32, 16, 16, 16, 4, 1)
CASES = {
    name: case
    for name, case in difference_calls.CASES.items()
    if case.options.stride == (1, 1)
    and case.options.similarity == "channel"
    and case.options.groups in (1, 2)
    and case.channels > 1
    and case.options.kernel_size != (1, 1)
    and case.options.diffusivity != "constant"
}
PAIRED = {
    "C32-O16-9x11": Case(2, 32, 16, contrast="one"),
    "C64-O20-17x23": Case(1, 64, 20, (17, 23)),
    "zero_flux": Case(1, 32, 8, (9, 20), options=options(border="zero_flux")),
    "padding-beyond-reach": Case(1, 32, 8, options=options(padding=(4, 3))),
    "no-padding": Case(1, 32, 8, (9, 20), options=options(padding=(0, 0))),
    "5x3-dilation2x1": Case(1, 32, 8, options=options((5, 3), padding=(2, 1), dilation=(2, 1))),
    "one-row": Case(1, 32, 8, (1, 33)),
}
STRIPPED = ("padding-beyond-reach-zero_flux", "no-padding", "5x1-zero_flux", "plain", "groups2")


@pytest.fixture(autouse=True)
def edges_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels will do here."""
    monkeypatch.setattr(difference_layout, "edges_pay", lambda channels: True)


def check(case, dtype, device, monkeypatch, configs) -> None:
    """The gradients of the images, and that they came from products of edges."""
    tensors = case.tensors(dtype, device)
    for image in (0, 1, 5):
        tensors[image] = tensors[image].contiguous(memory_format=torch.channels_last)
    check_kernels(tensors, case.options, monkeypatch, configs, "edge_products")


def check_kernels(tensors, o, monkeypatch, configs, kernel) -> None:
    """The gradients of the images, and that they came from these products."""
    *given, grad = tensors
    arguments = DifferenceArguments(*given)
    needs = DifferenceNeeds(True, True, False, False, isinstance(arguments.contrast, torch.Tensor))
    call = arguments, o, grad, needs
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), given, grad)
    with convolutions_in("ieee"):
        with recorded_launches() as launches:
            launch.backward(*call, configs)
        assert {x.name for x in launches if "products" in x.name} == {f"{kernel}_kernel"}
        assert all(x.arguments["EDGES"] == (kernel == "edge_products") for x in launches if "data_gradient" in x.name)
        with guarded(monkeypatch):
            results = launch.backward(*call, configs)
    terms = {"contrast": (arguments.guidance.cpu() * exact[2]).norm().item()}
    assert_as_good_as(results, eager.backward(*call), exact[1:], GRADIENTS, terms)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sampled(3)
def test_one_channel_at_a_time(name, device, monkeypatch) -> None:
    case = replace(CASES[name], contrast="channel" if CASES[name].contrast == "scalar" else CASES[name].contrast)
    check(case, torch.float32, device, monkeypatch, {"edge_products": TILE, "difference_data_gradient": TILE})


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.sampled(4)
def test_two_channels_at_a_time(name, device, monkeypatch) -> None:
    case = PAIRED[name]
    pairs = replace(PAIRS, splits=1)
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


def test_images_that_are_not_copied(monkeypatch) -> None:
    """Products of edges lie channel by channel: not those of contiguous images that are read as they lie.

    In pairs they would be copied, but no kernel in pairs makes the gradient of a contrast.
    """
    case = Case(1, 32, 8, contrast="channel")
    *images, grad = case.tensors(torch.float16, "cpu")
    tensors = [*images, grad.contiguous(memory_format=torch.channels_last)]
    configs = {"tap_products": TILE, "edge_products": TILE, "difference_data_gradient": TILE}
    with pretended(Target("cuda", 90, 132)):
        check_kernels(tensors, case.options, monkeypatch, configs, "tap_products")


def test_when_edges_have_products(monkeypatch) -> None:
    """At stride 1, of images and gradients with their channels together, where whole tiles have one tap."""
    monkeypatch.undo()

    def kernel(channels=128, channels_last=True, gradient_channels_last=True, **others) -> str:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        u = torch.empty(1, channels, 8, 8).contiguous(memory_format=layout)
        o = difference_calls.options(**others)
        weight = torch.empty(8, channels // o.groups, 3, 3)
        return call_of(u, u.clone(), weight, o).layout.products_kernel(gradient_channels_last)

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
