"""On every path, with its own first derivative: gradients in any layout, and derivatives of derivatives in float64."""

import pytest
import torch
from support.devices import DEVICE
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, vmap

from sdn_triton import SDNNeck, feature_fusion, semantic_difference_conv2d
from sdn_triton.backend import is_interpreted

pytestmark = pytest.mark.skipif(
    DEVICE.type == "cpu" and not is_interpreted(), reason="the kernels run on a GPU or in the interpreter"
)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def difference(backend: str, **options):
    def call(u: Tensor, v: Tensor, k: Tensor, b: Tensor, contrast: Tensor) -> Tensor:
        return semantic_difference_conv2d(u, v, k, b, 1, 1, contrast=contrast, backend=backend, **options)

    return call


def fusion(backend: str):
    def call(u: Tensor, y: Tensor, w: Tensor, b: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return feature_fusion(u, y, w, b, scale=scale, shift=shift, backend=backend)

    return call


def difference_tensors(groups: int = 1, guides: int = 4, contrast: tuple[int, ...] = (4,)) -> list[Tensor]:
    made = [random(2, 4, 5, 6), random(2, guides, 5, 6), random(8, 4 // groups, 3, 3), random(8)]
    return [*made, torch.rand(contrast, device=DEVICE) + 0.7]


CALLS = {
    "dense": (difference, {}, difference_tensors),
    "zero_flux-rational": (difference, dict(padding_mode="zero_flux", diffusivity="rational"), difference_tensors),
    "depthwise": (difference, dict(groups=4), lambda: difference_tensors(4)),
    "vector": (difference, dict(similarity="vector"), lambda: difference_tensors(guides=5, contrast=())),
    "fusion": (
        fusion,
        {},
        lambda: [random(2, 4, 5, 6), random(2, 3, 5, 6), random(8, 7, 1, 1), random(8), random(3), random(3)],
    ),
}
LAYOUTS = {
    "expanded": lambda g: g[:, :1, :1, :1].expand_as(g),
    "transposed": lambda g: g.mT.contiguous().mT,
    "channels_last": lambda g: g.contiguous(memory_format=torch.channels_last),
    "slice": lambda g: torch.cat([torch.full_like(g, torch.nan), g], 1)[:, g.shape[1] :],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize(("make", "options", "tensors"), CALLS.values(), ids=CALLS.keys())
@pytest.mark.sampled(5)
def test_gradients_that_arrive_in_any_layout(make, options, tensors, backend, layout):
    given = [t.requires_grad_() for t in tensors()]
    exact = [t.detach().double().requires_grad_() for t in given]
    output, reference = make(backend, **options)(*given), make("eager", **options)(*exact)
    g = LAYOUTS[layout](torch.randn_like(output))
    wanted = torch.autograd.grad(reference, exact, g.double().contiguous())
    for got, want in zip(torch.autograd.grad(output, given, g), wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize(("make", "options", "tensors"), CALLS.values(), ids=CALLS.keys())
@pytest.mark.sampled(2)
def test_second_derivatives_of_every_path(make, options, tensors, backend):
    """A gradient penalty, the sum of squared first derivatives, against the same in float64."""
    given = [t.requires_grad_() for t in tensors()]
    exact = [t.detach().double().requires_grad_() for t in given]

    def penalty(call, arguments: list[Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(call(*arguments).sin().sum(), arguments, create_graph=True)
        return torch.autograd.grad(sum(f.square().sum() for f in first), arguments)

    wanted = penalty(make("eager", **options), exact)
    for got, want in zip(penalty(make(backend, **options), given), wanted, strict=True):
        scale = max(1.0, want.abs().max().item())
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double() / scale, want / scale, rtol=1e-3, atol=1e-4)


def test_vmap_over_the_backward_of_a_call_that_was_recorded_outside():
    tensors = [t.double().requires_grad_() for t in difference_tensors()]
    output = difference("eager")(*tensors)
    grads = torch.randn(3, *output.shape, dtype=torch.float64, device=DEVICE)
    together = vmap(lambda g: torch.autograd.grad(output, tensors, g, retain_graph=True))(grads)
    for i in range(3):
        for got, want in zip(together, torch.autograd.grad(output, tensors, grads[i], retain_graph=True)):
            torch.testing.assert_close(got[i], want)
    # The older vmap inside of autograd knows no Function: an error, and no wrong gradient.
    with pytest.raises(RuntimeError):
        torch.autograd.grad(output, tensors, grads, is_grads_batched=True)


def test_hessian_in_forward_mode_is_refused():
    u, v, k, b, contrast = difference_tensors()

    def loss(k: Tensor) -> Tensor:
        return difference("eager")(u, v, k, b, contrast).square().sum()

    for transform in (jacfwd, hessian):
        with pytest.raises(NotImplementedError, match="jvp"):
            transform(loss)(k)


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.long
def test_gradients_of_single_samples_through_a_neck(backend):
    neck = SDNNeck([3, 4], backend=backend, learn_contrast=True).to(DEVICE).eval()
    parameters, buffers = {n: p.detach() for n, p in neck.named_parameters()}, dict(neck.named_buffers())
    fine, coarse = random(2, 3, 6, 6), random(2, 4, 3, 3)

    def loss(parameters: dict[str, Tensor], fine: Tensor, coarse: Tensor) -> Tensor:
        outputs = functional_call(neck, (parameters, buffers), ((fine[None], coarse[None]),))
        return sum(o.square().mean() for o in outputs)

    single = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, fine, coarse)
    for i in range(2):
        for name, want in grad(loss)(parameters, fine[i], coarse[i]).items():
            torch.testing.assert_close(single[name][i], want, rtol=1e-3, atol=1e-4)
