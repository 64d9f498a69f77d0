"""What leaves PyTorch: ONNX by way of the plain form, and ahead-of-time compiled packages."""

import copy
import importlib.util
import shutil
import subprocess
import sys
import warnings
from itertools import product

import pytest
import torch
from support.small_network import Network
from torch import Tensor, nn

from sdn_triton import (
    SDN,
    SDNNeck,
    SemanticDifferenceConv2d,
    attach,
    decomposed,
    feature_fusion,
    semantic_difference_conv2d,
)
from sdn_triton.options import DIFFUSIVITIES, PADDING_MODES, SIMILARITIES

CPP = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


def targets(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


class Layer(nn.Module):
    """A difference convolution of a guidance with any number of channels."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.sdc = SemanticDifferenceConv2d(4, 6, **options)

    def forward(self, input: Tensor, guidance: Tensor) -> Tensor:
        return self.sdc(input, guidance)


LAYERS = {
    **{f"{g}-{s}": dict(diffusivity=g, similarity=s, padding=1) for g, s in product(DIFFUSIVITIES, SIMILARITIES)},
    **{mode: dict(padding_mode=mode, padding=2, dilation=2) for mode in PADDING_MODES},
    "stride2-groups2": dict(stride=2, groups=2, padding=1),
    "depthwise-kernel1x5": dict(groups=2, kernel_size=(1, 5), padding=(0, 2), bias=False),
    "learned-contrast": dict(contrast=torch.rand(4) + 0.5, learn_contrast=True, padding="same"),
}


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS.keys())
def test_decomposed_is_the_same_in_operations_of_pytorch(options):
    layer = Layer(**options).double()
    u, v = torch.randn(2, 2, 4, 9, 8, dtype=torch.float64)
    expected = layer(u, v)
    gradients = torch.autograd.grad(expected.sin().sum(), list(layer.parameters()))
    with decomposed():
        output = layer(u, v)
        program = torch.export.export(layer, (u, v))
    torch.testing.assert_close(output, expected)
    for got, want in zip(torch.autograd.grad(output.sin().sum(), list(layer.parameters())), gradients, strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(program.module()(u, v), expected)
    assert all(target.startswith("aten.") for target in targets(program))
    assert "sdn_triton.semantic_difference_conv2d.default" in targets(torch.export.export(layer, (u, v)))


def test_decomposed_ends_with_its_block_and_ignores_the_backend():
    u, w = torch.randn(1, 2, 5, 5), torch.randn(2, 4, 1, 1)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.namespace)
            return func(*args, **(kwargs or {}))

    def fail_inside() -> None:
        with decomposed(), Watch():
            feature_fusion(u, u, w, backend="triton")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert set(seen) == {"aten"}
    with Watch():
        feature_fusion(u, u, w)
    assert "sdn_triton" in seen


def test_decomposed_compiled_outside_is_compiled_anew():
    layer, x = SemanticDifferenceConv2d(2, 2, padding=1), torch.randn(1, 2, 5, 5)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(str(graph.graph))
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.no_grad():
        outside = compiled(x)
        with decomposed():
            inside = compiled(x)
    torch.testing.assert_close(inside, outside)
    assert ["sdn_triton" in graph for graph in graphs] == [True, False]


class Layers(nn.Module):
    """All of them at once: an export takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(**options) for options in LAYERS.values())

    def forward(self, input: Tensor, guidance: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(input, guidance) for layer in self.layers)


class Neck(nn.Module):
    """A neck with its features as arguments of their own, whose sizes then are dynamic one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = SDNNeck([4, 6], contrast=0.7, padding_mode="zero_flux")

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, ...]:
        return self.neck((fine, coarse))


BATCH, ROWS, COLUMNS = 0, 2, 3
ANY = {BATCH: torch.export.Dim.DYNAMIC, ROWS: torch.export.Dim.DYNAMIC, COLUMNS: torch.export.Dim.DYNAMIC}
EXPORTED = {
    "layers": (Layers, [(4, 1), (4, 1)]),
    "SDN": (lambda: SDN(4, 6, zero_init=False, learn_contrast=True), [(4, 1), (6, 2)]),
    "SDNNeck": (Neck, [(4, 1), (6, 2)]),
    "network": (Network, [(3, 1)]),
}


def images(shapes, batch: int, rows: int, columns: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(batch, channels, rows // scale, columns // scale) for channels, scale in shapes)


def in_float64(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    outputs = copy.deepcopy(module).double()(*(x.double() for x in inputs))
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.long
@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_runtime_agrees_at_any_batch_height_and_width(name):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: it comes with the extra onnx")
    import onnxruntime

    make, shapes = EXPORTED[name]
    module = make().eval()
    with decomposed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            module, images(shapes, 2, 16, 24), dynamo=True, dynamic_shapes=tuple(dict(ANY) for _ in shapes),
            verbose=False,
        )  # fmt: skip
    assert {node.domain for node in program.model_proto.graph.node} == {""}  # the standard's operators
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for sizes in ((2, 16, 24), (1, 20, 16), (3, 28, 36)):
        inputs = images(shapes, *sizes)
        names = [given.name for given in session.get_inputs()]
        outputs = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        for got, want in zip(outputs, in_float64(module, inputs), strict=True):
            torch.testing.assert_close(torch.from_numpy(got).double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exported", [False, True], ids=["module", "program"])
def test_onnx_needs_no_decomposed(exported):
    """The exporter gets the plain form by itself, of a program that was exported before, too."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed: it comes with the extra onnx")
    inputs, block = (torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)), SDN(4, 6).eval()
    source = torch.export.export(block, inputs) if exported else block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(source, inputs, dynamo=True, verbose=False)
    assert {node.domain for node in program.model_proto.graph.node} == {""}  # the standard's operators
    got = program(*inputs) if importlib.util.find_spec("onnxruntime") else [block(*inputs)]
    torch.testing.assert_close(got[0], block(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_what_a_saved_program_of_transformers_needs(tmp_path):
    """As docs/pytorch.md says, and in words to be found there."""
    pytest.importorskip("transformers", reason="transformers is not installed: `make test` installs it")
    from support.tiny_networks import segformer

    model, x, path = segformer().eval(), torch.randn(1, 3, 64, 64), tmp_path / "program.pt2"
    attach(model, "decode_head", example=x)
    torch.export.save(torch.export.export(model, (x,)), path)

    def load(imported: str) -> str:
        code = f"import torch, {imported}; torch.export.load({str(path)!r})"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr

    assert "failed to resolve torch.ops.sdn_triton.semantic_difference_conv2d" in load("sys")
    assert "Deserializing transformers.modeling_outputs.SemanticSegmenterOutput" in load("sdn_triton")
    assert "Error" not in load("sdn_triton, transformers.models.segformer.modeling_segformer")


@pytest.mark.long
@pytest.mark.skipif(CPP is None, reason="compiling ahead of time needs a C++ compiler")
def test_a_compiled_package_runs_at_any_batch_height_and_width(tmp_path):
    network = Network().eval()
    batch, rows, columns = (torch.export.Dim(n, min=1, max=64) for n in ("batch", "rows", "columns"))
    program = torch.export.export(
        network, images([(3, 1)], 2, 16, 24), dynamic_shapes=({0: batch, 2: 4 * rows, 3: 4 * columns},)
    )
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "network.pt2"))
    run = torch._inductor.aoti_load_package(path)
    for sizes in ((2, 16, 24), (1, 20, 16), (3, 28, 36)):
        (image,) = images([(3, 1)], *sizes)
        torch.testing.assert_close(run(image).double(), in_float64(network, (image,))[0], rtol=1e-4, atol=1e-4)


def test_a_function_is_exported_with_a_learned_contrast_and_no_bias():
    class Call(nn.Module):
        def forward(self, u: Tensor, k: Tensor, contrast: Tensor) -> Tensor:
            return semantic_difference_conv2d(u, u, k, contrast=contrast, padding=1)

    inputs = torch.randn(1, 3, 6, 6), torch.randn(2, 3, 3, 3), torch.rand(3) + 0.5
    program = torch.export.export(Call(), inputs)
    torch.testing.assert_close(program.module()(*inputs), Call()(*inputs))


TRACED = {
    "layer": (lambda: Layer(padding=1), (None, None)),
    "reflect": (lambda: Layer(padding=2, padding_mode="reflect"), (None, None)),
    "block": (lambda: SDN(4), (None, (0.5, 0.5))),
    "vector": (lambda: SDN(4, similarity="vector", groups=2), (None, (1.5, 0.7))),
}


@pytest.mark.parametrize("records", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("name", TRACED)
@pytest.mark.filterwarnings("error::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_by_torchscript_at_any_batch_height_and_width(name, records, tmp_path):
    """TorchScript holds operations of PyTorch only: the plain form by itself, not strips of one size."""
    make, scales = TRACED[name]
    module = make().eval()

    def pair(batch, height, width):
        sizes = [(height, width) if s is None else (int(s[0] * height), int(s[1] * width)) for s in scales]
        return tuple(torch.randn(batch, 4, *size) for size in sizes)

    with torch.set_grad_enabled(records):
        torch.jit.trace(module, pair(2, 8, 10), check_trace=False).save(tmp_path / "traced.pt")
    traced = torch.jit.load(tmp_path / "traced.pt")
    for sizes in ((2, 8, 10), (1, 12, 7), (3, 6, 21)):
        given = pair(*sizes)
        torch.testing.assert_close(traced(*given), module(*given), rtol=1e-5, atol=1e-5)
