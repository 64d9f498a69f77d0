"""By which scheme the eager path computes, what it says of it, what it keeps for the backward, what memory it takes."""

from __future__ import annotations

import pytest
import torch
from support.eager_calls import SCHEMES, call, choose

from sdn_triton import SemanticDifferenceConv2d, explain, semantic_difference_conv2d
from sdn_triton.eager import difference_conv, differences, links, products, taps
from sdn_triton.options import DifferenceOptions

layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)


def test_schemes_are_chosen(monkeypatch):
    """What the fixture chooses is what runs."""
    ran = []
    for module, name in ((taps, "forward"), (links, "forward")):
        run = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, run=run, m=module: ran.append(m) or run(*a))
    kinds = []
    make = products.products
    monkeypatch.setattr(links, "products", lambda call: kinds.append(type(made := make(call))) or made)
    for scheme in SCHEMES:
        with monkeypatch.context() as patch:
            choose(patch, scheme)
            difference_conv.forward(*call(padding=(1, 1)))
    assert ran == [taps, links, links, links]
    assert kinds == [products.MatrixProducts, products.MatrixProducts, products.Convolutions]


REFUSED = {
    "more than 65536 numbers": dict(size=(64, 64), channels=32, padding=(1, 1)),
    "not of the input's size": dict(),
    "groups=2": dict(groups=2, padding=(1, 1)),
    "padding_mode='zero_flux'": dict(border="zero_flux", padding=(1, 1)),
    "similarity='vector'": dict(similarity="vector", padding=(1, 1)),
}


@pytest.mark.parametrize(("said", "options"), REFUSED.items(), ids=REFUSED.keys())
def test_the_reason_is_said_and_holds(said, options, monkeypatch):
    made = call(**options, dtype=torch.float32)
    assert said in difference_conv.describe(*made)
    monkeypatch.setattr(taps, "forward", lambda *a: pytest.fail("took all taps at once"))
    difference_conv.forward(*made)


def test_small_maps_are_said_to_take_all_taps(monkeypatch):
    made = call(padding=(1, 1), dtype=torch.float32)
    assert difference_conv.describe(*made) == "all taps at once, as for every small map"
    monkeypatch.setattr(links, "forward", lambda *a: pytest.fail("went link by link"))
    difference_conv.forward(*made)
    assert taps.why_not((1, 4, 8, 8), made.options, "cuda") == "the device, cuda"


def test_explain_says_the_scheme():
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    small = str(explain(semantic_difference_conv2d, x, x, weight, padding=1))
    strided = str(explain(semantic_difference_conv2d, x, x, weight, padding=1, stride=2))
    assert "all taps at once" in small
    assert "in strips of rows; not all taps at once because of an output that is not of the input's size" in strided


def saved_bytes(layer: torch.nn.Module, *images: torch.Tensor) -> int:
    """What autograd keeps beside arguments."""
    given = {x.data_ptr() for x in (*images, *layer.parameters())}
    total = 0

    def pack(x):
        nonlocal total
        total += 0 if x.data_ptr() in given else x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        layer(*images)
    return total


def test_small_maps_keep_their_differences_and_large_ones_nothing():
    layer = SemanticDifferenceConv2d(4, 4, 3, padding=1)
    small, large = torch.randn(2, 2, 4, 8, 9), torch.randn(2, 1, 4, 96, 96)
    kept = saved_bytes(layer, *small)
    assert 3 * 9 * small[0].nbytes <= kept <= 4 * 9 * small[0].nbytes
    assert saved_bytes(layer, *large) == 0
    with torch.no_grad():
        assert saved_bytes(layer, *small) == 0


@pytest.mark.parametrize("contrast", [0.7, torch.tensor(0.7, requires_grad=True)], ids=["number", "learned"])
def test_what_is_kept_survives_a_backward(contrast):
    """The same bits the second time, and those of a backward that computes everything again."""
    made = call(padding=(1, 1), dtype=torch.float32, contrast="float")
    *tensors, _ = (x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in made.arguments)
    given = [*tensors, contrast] if isinstance(contrast, torch.Tensor) else tensors
    y = semantic_difference_conv2d(*tensors, padding=1, contrast=contrast)
    first = torch.autograd.grad(y, given, torch.ones_like(y), retain_graph=True)
    again = torch.autograd.grad(y, given, torch.ones_like(y), retain_graph=True)
    anew = torch.autograd.grad(y, given, torch.ones_like(y), create_graph=True)
    for a, b, c in zip(first, again, anew, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_under_deterministic_algorithms_nothing_is_kept():
    """Images are computed one by one then."""
    torch.use_deterministic_algorithms(True)
    try:
        assert saved_bytes(SemanticDifferenceConv2d(4, 4, 3, padding=1), *torch.randn(2, 2, 4, 8, 9)) == 0
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_infinite_feature_stays_where_it_is(scheme, monkeypatch):
    choose(monkeypatch, scheme)
    made = call(padding=(1, 1), size=(9, 9), batch=1, channels=2, outputs=2)
    made.arguments.input[0, 0, 4, 4] = torch.inf
    y = difference_conv.forward(*made)
    reached = torch.zeros(9, 9, dtype=torch.bool)
    reached[3:6, 3:6] = True
    assert (y[0].isfinite() == ~reached).all()
    reached[4, 4] = False
    assert y[0, :, reached].isinf().all()


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "AVX512"])
def test_products_follow_the_processor(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    options = DifferenceOptions((3, 3), padding=(1, 1))
    made = call(padding=(1, 1), dtype=torch.float32)
    kind = type(products.products(differences.Call.of(made.arguments, options)))
    assert kind is (products.Convolutions if capability == "AVX512" else products.MatrixProducts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="reads the CPU allocator's profile")
@layouts
@pytest.mark.parametrize(
    ("channels", "size"),
    [(32, (8, 8)), (64, (64, 64)), (64, (128, 128)), (256, (16, 16)), (256, (64, 64)), (512, (32, 32))],
    ids=["C32-8x8", "C64-64x64", "C64-128x128", "C256-16x16", "C256-64x64", "C512-32x32"],
)
def test_forward_takes_no_more_memory_than_its_output_or_16_MiB(channels, size, layout):
    from sdn_triton.bench.measuring.rounds import peak_memory

    made = call(
        batch=1, channels=channels, outputs=channels, size=size, padding=(1, 1), dtype=torch.float32, layout=layout
    )
    output = made.arguments.input.nbytes
    peak = peak_memory(lambda: difference_conv.forward(*made), made.arguments.input.device)
    assert output < peak <= output + max(output, 16 * 2**20)
