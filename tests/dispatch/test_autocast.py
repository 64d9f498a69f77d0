"""Autocast: any mix of dtypes goes in, the dtype of ``nn.Conv2d`` comes out, and sums stay in float32."""

import copy
from itertools import product

import pytest
import torch
from support.devices import DEVICE, RUNS_EAGERLY
from torch import Tensor, nn

from sdn_triton import SDN, SDNNeck, SemanticDifferenceConv2d, feature_fusion, semantic_difference_conv2d

HALF = [torch.float16, torch.bfloat16]
FLOATS = [torch.float32, *HALF]
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
MIXES = [mix for mix in product(FLOATS, repeat=4) if len(set(mix)) > 1 or mix[0] == torch.float32]


def to_name(value: object) -> str:
    return "-".join(NAMES[t] for t in (value if isinstance(value, tuple) else (value,)))


def tensors_of(mix: tuple[torch.dtype, ...], *shapes: tuple[int, ...]) -> list[Tensor]:
    """Leaves of every dtype with values that all of them can hold."""
    made = [torch.randn(shape).bfloat16().half().float() for shape in shapes]
    return [t.to(DEVICE, dtype).requires_grad_() for t, dtype in zip(made, mix, strict=True)]


def assert_rounded(result: Tensor, reference: Tensor, dtypes: set[torch.dtype]) -> None:
    """On the eager path only these roundings are made to half dtypes; the kernels form differences in half, too."""
    eps, size = sum(torch.finfo(dtype).eps for dtype in dtypes if dtype in HALF), reference.abs()
    allowed = 0.51 * eps * size + 1e-5 if RUNS_EAGERLY else 4 * eps * size.max()
    assert ((result.double() - reference).abs() <= allowed).all()


def assert_gradients(tensors: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> None:
    for tensor, reference in zip(tensors, exact, strict=True):
        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.dtype
        assert_rounded(tensor.grad, reference.grad, {dtype, tensor.dtype})


@pytest.mark.parametrize("dtype", HALF, ids=to_name)
@pytest.mark.parametrize("mix", MIXES, ids=to_name)
def test_any_mix_of_input_guidance_weight_and_bias(mix, dtype):
    tensors = tensors_of(mix, (2, 4, 6, 7), (2, 4, 6, 7), (6, 4, 3, 3), (6,))
    exact = [t.detach().double().requires_grad_() for t in tensors]
    with torch.autocast(DEVICE.type, dtype):
        output = semantic_difference_conv2d(*tensors, padding=1)
        assert output.dtype == torch.nn.functional.conv2d(tensors[0], tensors[2], tensors[3]).dtype == dtype
    reference = semantic_difference_conv2d(*exact, padding=1)
    assert_rounded(output, reference, {dtype})
    grad = torch.randn_like(output)
    output.backward(grad)
    reference.backward(grad.double())
    assert_gradients(tensors, exact, dtype)


@pytest.mark.parametrize("dtype", HALF, ids=to_name)
@pytest.mark.parametrize("mix", MIXES[::5], ids=to_name)
def test_any_mix_in_the_fusion(mix, dtype):
    tensors = tensors_of(
        (*mix, torch.float32, torch.float32), (2, 4, 5, 6), (2, 3, 5, 6), (6, 7, 1, 1), (6,), (3,), (3,)
    )
    exact = [t.detach().double().requires_grad_() for t in tensors]

    def call(u, y, w, b, scale, shift):
        return feature_fusion(u, y, w, b, scale=scale, shift=shift, activation="identity")

    with torch.autocast(DEVICE.type, dtype):
        output = call(*tensors)
    assert output.dtype == dtype
    reference = call(*exact)
    assert_rounded(output, reference, {dtype})
    grad = torch.randn_like(output)
    output.backward(grad)
    reference.backward(grad.double())
    assert_gradients(tensors, exact, dtype)


@pytest.mark.parametrize("dtype", HALF, ids=to_name)
@pytest.mark.parametrize("others", FLOATS, ids=to_name)
def test_float64_input_is_what_it_is_to_conv2d(dtype, others):
    """Autocast leaves float64 alone, so that other dtypes beside it are an error, for ``conv2d`` as for us."""
    u, w = torch.randn(1, 2, 5, 5, dtype=torch.float64, device=DEVICE), torch.randn(3, 2, 3, 3, device=DEVICE)
    with torch.autocast(DEVICE.type, dtype):
        assert torch.nn.functional.conv2d(u, w.double()).dtype == torch.float64
        assert semantic_difference_conv2d(u, u, w.double()).dtype == torch.float64
        with pytest.raises(RuntimeError):
            torch.nn.functional.conv2d(u, w.to(others))
        with pytest.raises(TypeError, match=r"weight is .* but input is torch.float64"):
            semantic_difference_conv2d(u, u, w.to(others))


def test_without_autocast_a_mix_is_an_error_that_names_it():
    u, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    with pytest.raises(TypeError, match=r"guidance is torch.float16 but input is torch.float32.*torch.autocast"):
        semantic_difference_conv2d(u, u.half(), w)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False), pytest.raises(TypeError):
        semantic_difference_conv2d(u, u.half(), w)


def train(module: nn.Module, call, images: tuple[Tensor, ...], dtype: torch.dtype, steps: int = 4) -> list[float]:
    """Some steps with a GradScaler as in PyTorch's own recipe; returns the losses."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, dtype):
            outputs = call(images)
            loss = sum(output.float().square().mean() for output in outputs)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert scaler.get_scale() >= 1024.0  # no step met an infinity
    return losses


@pytest.mark.parametrize("dtype", HALF, ids=to_name)
def test_a_neck_trains_with_a_gradient_scaler(dtype):
    neck = SDNNeck([4, 6], learn_contrast=True).to(DEVICE)
    images = torch.randn(2, 4, 8, 8, device=DEVICE), torch.randn(2, 6, 4, 4, device=DEVICE)
    single = copy.deepcopy(neck)
    losses = train(neck, neck, images, dtype)
    assert losses[-1] < losses[0]
    expected = train(single, single, images, torch.float32 if DEVICE.type == "cuda" else dtype)
    assert abs(losses[-1] - expected[-1]) < 0.05 * expected[-1]
    assert {p.grad.dtype for p in neck.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in neck.parameters())


def test_a_step_with_infinite_gradients_is_left_out():
    layer = SemanticDifferenceConv2d(2, 2, padding=1).to(DEVICE)
    before = copy.deepcopy(layer.state_dict())
    optimizer, scaler = (
        torch.optim.SGD(layer.parameters(), lr=1.0),
        torch.amp.GradScaler(DEVICE.type, init_scale=2.0**40),
    )
    with torch.autocast(DEVICE.type, torch.float16):
        output = layer(torch.randn(1, 2, 6, 6, device=DEVICE))
    scaler.scale(output.float().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("dtype", HALF, ids=to_name)
@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_autocast_of_a_compiled_block(dtype, inside):
    torch._dynamo.reset()
    block = SDN(4, 6).to(DEVICE).eval()
    u, v = torch.randn(2, 4, 8, 8, device=DEVICE, requires_grad=True), torch.randn(2, 6, 4, 4, device=DEVICE)

    def cast_inside(u: Tensor, v: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, dtype):
            return block(u, v)

    compiled = torch.compile(cast_inside if inside else block, fullgraph=True, backend="aot_eager")
    with torch.autocast(DEVICE.type, dtype):
        expected = block(u, v)
    (wanted,) = torch.autograd.grad(expected.float().square().sum(), u)
    if inside:
        output = compiled(u, v)
    else:
        with torch.autocast(DEVICE.type, dtype):
            output = compiled(u, v)
    assert output.dtype == dtype
    (got,) = torch.autograd.grad(output.float().square().sum(), u)
    torch.testing.assert_close(output, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-2)
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)


def test_second_derivatives_inside_autocast_are_summed_in_float32():
    u, v, w = (
        t.to(torch.bfloat16) for t in (torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6), torch.randn(3, 4, 3, 3))
    )

    def second(inside: bool) -> Tensor:
        tensors = [t.detach().requires_grad_() for t in (u, v, w)]
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            output = semantic_difference_conv2d(*tensors, padding=1)
            first = torch.autograd.grad(output.float().square().sum(), tensors, create_graph=True)
            return torch.autograd.grad(sum(f.float().square().sum() for f in first), tensors[1])[0]

    assert torch.equal(second(True), second(False))


@pytest.mark.parametrize("dtype", HALF, ids=to_name)
def test_a_block_under_autocast_keeps_its_statistics_in_float32(dtype):
    block = SDN(4).to(DEVICE)
    u = torch.randn(2, 4, 8, 8, device=DEVICE)
    with torch.autocast(DEVICE.type, dtype):
        output = block(u, u)
        eager = block.eval()(u, u)
    assert output.dtype == eager.dtype == dtype
    assert block.fusion.norm.running_var.dtype == torch.float32


@pytest.mark.parametrize("dtype", [*HALF, torch.float64], ids=to_name)
def test_modules_of_another_dtype(dtype):
    """``half()``, ``bfloat16()`` and ``double()`` move every parameter, and the layer computes in that dtype."""
    exact = SDN(4, 6, learn_contrast=True, contrast=0.7).to(DEVICE).double().eval()
    block = copy.deepcopy(exact).to(dtype)
    assert {p.dtype for p in block.parameters()} == {dtype}
    u, v = torch.randn(2, 4, 8, 8, device=DEVICE, dtype=dtype), torch.randn(2, 6, 4, 4, device=DEVICE, dtype=dtype)
    output = block(u, v)
    assert output.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), exact(u.double(), v.double()), rtol=tolerance, atol=tolerance)
