"""torch.compile, torch.export and what else goes through the registered operators: they see the same numbers."""

import copy
import io

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from sdn_triton import SDN, SDNNeck, SemanticDifferenceConv2d, feature_fusion, semantic_difference_conv2d
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.options import DifferenceOptions


class Network(nn.Module):
    """A small segmentation network: two stages, a neck, a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.neck = SDNNeck([4, 6], learn_contrast=True)
        self.decoder = nn.Conv2d(10, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.first(image).relu()
        fine, coarse = self.neck((fine, self.second(fine).relu()))
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.decoder(torch.cat([fine, coarse], 1))


def image(height: int = 16, width: int = 24) -> Tensor:
    return torch.randn(2, 3, height, width)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(module: nn.Module, call, *inputs: Tensor) -> list[Tensor]:
    """Outputs and every gradient of ``call``, which is the module or a compiled form of it."""
    module.zero_grad()
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    outputs = call(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(o.sin().sum() for o in outputs).backward()
    return [*(o.detach() for o in outputs), *(x.grad for x in inputs), *(p.grad for p in module.parameters())]


MODULES = {
    "layer": (lambda: SemanticDifferenceConv2d(3, 4, padding=1), [(2, 3, 9, 8)]),
    "layer-replicate-stride2": (
        lambda: SemanticDifferenceConv2d(3, 4, stride=2, padding=1, padding_mode="replicate"),
        [(2, 3, 9, 8)],
    ),
    "block": (lambda: SDN(3, 5, learn_contrast=True), [(2, 3, 8, 8), (2, 5, 4, 4)]),
    "network": (Network, [(2, 3, 16, 24)]),
}


@pytest.mark.parametrize(("make", "shapes"), MODULES.values(), ids=MODULES.keys())
def test_compiled_whole_forward_and_backward(make, shapes):
    module = make()
    inputs = [torch.randn(shape) for shape in shapes]
    reference = copy.deepcopy(module)
    expected = run(reference, reference, *inputs)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for got, want in zip(run(module, compiled, *inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_compiled_by_inductor():
    module = Network()
    reference = copy.deepcopy(module)
    expected = run(reference, reference, x := image())
    for got, want in zip(run(module, torch.compile(module, fullgraph=True), x), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_dynamic_shapes_compile_at_most_twice():
    network = Network().eval()
    count = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend=count)
    with torch.no_grad():
        for height, width in ((16, 24), (20, 28), (32, 16), (18, 30), (17, 23), (40, 44)):
            x = image(height, width)
            torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    assert count.frame_count <= 2


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_export_with_dynamic_sizes_saves_loads_and_runs(strict):
    network = Network().eval()
    batch, rows, columns = (torch.export.Dim(n, min=1, max=64) for n in ("batch", "rows", "columns"))
    program = torch.export.export(
        network, (image(),), dynamic_shapes={"image": {0: batch, 2: 4 * rows, 3: 4 * columns}}, strict=strict
    )
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)]
    targets = [str(node.target) for graph in graphs for node in graph.nodes]
    assert targets.count("sdn_triton.semantic_difference_conv2d.default") == 2
    assert targets.count("sdn_triton.feature_fusion.default") == 2
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for height, width in ((16, 24), (32, 20)):
        x = image(height, width)
        torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=1e-5)


def make_options(**changes) -> DifferenceOptions:
    return DifferenceOptions(**{"kernel_size": (3, 3), "padding": (1, 1), **changes})


OPTIONS = {
    "plain": (make_options(), 3),
    "stride2-dilation2": (make_options(stride=(2, 2), dilation=(2, 2), padding=(2, 2)), 3),
    "zero_flux-rational": (make_options(border="zero_flux", diffusivity="rational"), 3),
    "vector": (make_options(similarity="vector"), 5),
    "constant": (make_options(diffusivity="constant"), 3),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("contrast", [0.8, torch.tensor(0.8)], ids=["number", "tensor"])
@pytest.mark.parametrize(("options", "guides"), OPTIONS.values(), ids=OPTIONS.keys())
def test_opcheck_of_the_difference_convolution(options, guides, contrast, layout):
    u, v = (torch.randn(2, c, 7, 6).to(memory_format=layout) for c in (3, guides))
    arguments = (u, v, torch.randn(4, 3, 3, 3), torch.randn(4), contrast)
    flat = (*difference_conv.flatten(arguments, options), "auto")
    opcheck(torch.ops.sdn_triton.semantic_difference_conv2d.default, flat)
    rows, columns = options.output_size(7, 6)
    grad = torch.randn(2, 4, rows, columns).to(memory_format=layout)
    for needs in ([True] * 4 + [isinstance(contrast, Tensor)], [False, True, False, False, False]):
        opcheck(torch.ops.sdn_triton.semantic_difference_conv2d_backward.default, (grad, *flat, needs))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scale-shift"])
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_opcheck_of_the_fusion(activation, scaled):
    factors = (torch.randn(2), torch.randn(2)) if scaled else (None, None)
    flat = (torch.randn(2, 3, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(4, 5, 1, 1), torch.randn(4), *factors)
    flat = (*flat, activation, "auto")
    opcheck(torch.ops.sdn_triton.feature_fusion.default, flat)
    needs = [True] * 4 + [scaled] * 2
    opcheck(torch.ops.sdn_triton.feature_fusion_backward.default, (torch.randn(2, 4, 5, 4), *flat, needs))


def test_flops_are_eight_ninths_of_a_vanilla_convolution():
    u, weight = torch.randn(2, 6, 9, 8, requires_grad=True), torch.randn(4, 6, 3, 3, requires_grad=True)
    counts = []
    for call in (lambda: semantic_difference_conv2d(u, u, weight, padding=1), lambda: F.conv2d(u, weight, padding=1)):
        with FlopCounterMode(display=False) as counter:
            call().sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] * 9 == counts[1] * 8
    with FlopCounterMode(display=False) as counter:
        feature_fusion(u, u, torch.randn(4, 12, 1, 1))
    assert counter.get_total_flops() == 2 * 2 * 9 * 8 * 4 * 12


def test_memory_format_is_kept_compiled_and_not():
    layer = SemanticDifferenceConv2d(3, 4, padding=1)
    x = torch.randn(2, 3, 9, 8).to(memory_format=torch.channels_last)
    for call in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        assert call(x).is_contiguous(memory_format=torch.channels_last)
