"""What is remembered to save the host's time lets nothing through that the checks refuse; the benchmark of it runs."""

import json

import pytest
import torch
from support.devices import DEVICE
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from sdn_triton import SemanticDifferenceConv2d, feature_fusion, remembered, semantic_difference_conv2d
from sdn_triton.bench.experiments import host_cost
from sdn_triton.ops import operator

U, V = torch.randn(2, 2, 4, 6, 7, device=DEVICE)
K = torch.randn(4, 4, 3, 3, device=DEVICE)
W = torch.randn(3, 8, 1, 1, device=DEVICE)


def sdc(input: Tensor = U, guidance: Tensor = V, weight: Tensor = K, bias: Tensor | None = None, **options) -> Tensor:
    return semantic_difference_conv2d(input, guidance, weight, bias, **{"padding": 1, "contrast": 1.0, **options})


# Each equals, to a dictionary, what was fine a moment ago.
ALIKE = {
    "stride-true": dict(stride=True),
    "stride-float": dict(stride=1.0),
    "padding-true": dict(padding=True),
    "padding-floats": dict(padding=(1.0, 1)),
    "dilation-trues": dict(dilation=(True, True)),
    "groups-true": dict(groups=True),
    "contrast-true": dict(contrast=True),
}


@pytest.mark.parametrize("change", ALIKE.values(), ids=ALIKE.keys())
def test_what_equals_a_call_that_was_fine_is_still_refused(change):
    for padding in (1, (1, 1)):
        sdc(stride=1, padding=padding, dilation=1, groups=1)
        sdc(stride=(1, 1), padding=padding, dilation=(1, 1), groups=1)
    with pytest.raises(TypeError, match=next(iter(change))):
        sdc(**change)
    with pytest.raises(TypeError, match=next(iter(change))):
        sdc(**change)


CHANGED = {
    "input": (dict(input=U.half()), TypeError),
    "guidance-size": (dict(guidance=V[:, :, 1:]), ValueError),
    "weight": (dict(weight=K[:, 1:]), ValueError),
    "bias": (dict(bias=torch.ones(5, device=DEVICE)), ValueError),
    "bias-device": (dict(bias=torch.ones(4, device="meta")), ValueError),
    "stride": (dict(stride=0), ValueError),
    "groups": (dict(groups=3), ValueError),
    "padding_mode": (dict(padding_mode=["zeros"]), ValueError),
    "diffusivity": (dict(diffusivity="none"), ValueError),
    "contrast-nan": (dict(contrast=float("nan")), ValueError),
    "contrast-negative": (dict(contrast=-1.0), ValueError),
    "contrast-channels": (dict(contrast=torch.ones(3, device=DEVICE)), ValueError),
    "backend": (dict(backend="cuda"), ValueError),
}


@pytest.mark.parametrize(("change", "error"), CHANGED.values(), ids=CHANGED.keys())
def test_every_argument_is_looked_at_again(change, error):
    sdc()
    for _ in range(2):
        with pytest.raises(error):
            sdc(**change)


def test_the_values_of_a_contrast_are_looked_at_every_time():
    contrast = torch.ones(4)
    u, v, k = U.cpu(), V.cpu(), K.cpu()
    sdc(u, v, k, contrast=contrast)
    contrast[2] = -1.0
    with pytest.raises(ValueError, match="positive"):
        sdc(u, v, k, contrast=contrast)


def test_lists_are_allowed_and_never_remembered():
    padding = [1, 1]
    assert sdc(padding=padding).shape == (2, 4, 6, 7)
    padding[0] = 2
    assert sdc(padding=padding).shape == (2, 4, 8, 7)


def test_the_second_call_is_not_checked(monkeypatch):
    layer, fusion = SemanticDifferenceConv2d(4, 4, padding=1).to(DEVICE), lambda: feature_fusion(U, V, W)
    expected = layer(U, V), fusion()
    monkeypatch.setattr(remembered, "check_difference", None)
    monkeypatch.setattr(remembered, "check_fusion", None)
    assert torch.equal(layer(U, V), expected[0])
    assert torch.equal(fusion(), expected[1])


def test_memory_of_calls_is_bounded(monkeypatch):
    monkeypatch.setattr(remembered, "MOST_CALLS", 3)
    for size in range(3, 12):
        image = torch.randn(1, 4, size, size, device=DEVICE)
        assert sdc(image, image).shape == image.shape
    assert len(remembered._differences._entries) <= 3


def test_nothing_is_recorded_where_no_gradient_is_needed(monkeypatch):
    monkeypatch.setattr(operator._RecordedForward, "record", None)
    assert not sdc().requires_grad
    with torch.no_grad():
        assert not sdc(weight=nn.Parameter(K)).requires_grad


def test_a_call_goes_round_the_dispatcher_only_where_nobody_listens():
    seen = []

    class Listen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.namespace)
            return func(*args, **(kwargs or {}))

    with Listen():
        sdc(weight=nn.Parameter(K)).sum().backward()
    assert seen.count("sdn_triton") == 2  # forward and backward
    del seen[:]
    sdc()
    assert seen == []


def test_forward_mode_is_refused_even_without_gradients():
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        sdc(forward_ad.make_dual(U, V))
    with torch.no_grad(), forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        feature_fusion(U, forward_ad.make_dual(V, U), W)


def test_gradients_of_an_empty_batch_are_zeros():
    tensors = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((0, 4, 6, 7), (4, 4, 3, 3), (4,))]
    output = sdc(tensors[0], tensors[0].detach(), tensors[1], tensors[2])
    assert output.shape == (0, 4, 6, 7)
    for tensor, gradient in zip(tensors, torch.autograd.grad(output.sum(), tensors)):
        assert torch.equal(gradient, torch.zeros_like(tensor))


def test_the_benchmark_measures_and_writes(tmp_path, capsys):
    threads = torch.get_num_threads()
    host_cost.main(["--seconds", "0.01", "--json", str(tmp_path / "cost.json")])
    torch.set_num_threads(threads)
    figures = json.loads((tmp_path / "cost.json").read_text())["microseconds"]
    works = {figure["work"] for figure in figures}
    assert {"meta", "no images", "one pixel"} <= works
    for figure in figures:
        assert figure["conv2d"] > 0
        assert figure["ratio"] == figure["ours"] / figure["conv2d"]
    assert capsys.readouterr().out.count("layer") >= 9


def test_the_host_cost_of_a_call_without_work():
    """The aim is twice ``nn.Conv2d``'s; four times leaves room for a machine that does other things as well."""
    pairs = host_cost.calls_of(torch.device("cpu"), host_cost.SIZES["no images"])
    for name, pair in pairs.items():
        conv2d = ours = float("inf")
        for _ in range(8):  # the fastest round counts, and some get no quiet moment
            conv2d, ours = map(min, (conv2d, ours), host_cost.fastest(pair, torch.device("cpu"), 0.1))
            if ours <= 3 * conv2d:
                break
        assert ours <= 4 * conv2d, f"{name}: {ours:.1f} us against {conv2d:.1f}"
