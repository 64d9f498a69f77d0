"""``torch.func`` over the operators: gradients, Jacobians, vmap, gradients of single samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vmap

from sdn_triton import SDN, feature_fusion, semantic_difference_conv2d

U, V = torch.randn(2, 2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
K = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def sdc(u: Tensor, v: Tensor, k: Tensor, contrast: Tensor | float = 0.9) -> Tensor:
    return semantic_difference_conv2d(u, v, k, padding=1, contrast=contrast)


def test_grad_is_autograd():
    weight = K.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sdc(U, V, weight).square().sum(), weight)
    torch.testing.assert_close(grad(lambda k: sdc(U, V, k).square().sum())(K), expected)


def test_jacobian_of_a_linear_map_applies_it():
    jacobian = jacrev(lambda u: sdc(u, V, K))(U)
    torch.testing.assert_close(torch.tensordot(jacobian, U, dims=4), sdc(U, V, K))


def test_second_derivative_of_a_quadratic_form():
    hessian = jacrev(grad(lambda u: sdc(u, V[:1], K).square().sum() / 2))(U[:1])
    torch.testing.assert_close(
        torch.tensordot(hessian, U[:1], dims=4), grad(lambda u: sdc(u, V[:1], K).square().sum() / 2)(U[:1])
    )


@pytest.mark.parametrize(
    "in_dims",
    [(0, 0, None), (1, None, None), (None, 2, None), (0, 0, 0), (None, None, 1)],
    ids=["images", "input-only", "guidance-only", "all", "weight-only"],
)
def test_vmap_is_a_loop(in_dims):
    def batch(x: Tensor, dim: int | None) -> Tensor:
        return x if dim is None else torch.stack([x, x.flip(-1), 2 * x], dim)

    arguments = [batch(x, dim) for x, dim in zip((U, V, K), in_dims)]
    output = vmap(sdc, in_dims)(*arguments)
    for i in range(3):
        entry = [x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims)]
        torch.testing.assert_close(output[i], sdc(*entry))


def test_gradients_of_single_samples():
    u, v = torch.randn(2, 4, 1, 3, 5, 6, dtype=torch.float64)

    def loss(k: Tensor, contrast: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return sdc(u, v, k, contrast).square().sum()

    contrast = torch.tensor(0.7, dtype=torch.float64)
    single = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, None, 0, 0))(K, contrast, u, v)
    for i in range(4):
        for got, want in zip(single, grad(loss, argnums=(0, 1))(K, contrast, u[i], v[i])):
            torch.testing.assert_close(got[i], want)


def test_gradients_of_single_samples_through_a_block():
    block = SDN(3, 5).double().eval()
    parameters = {name: p.detach() for name, p in block.named_parameters()}
    buffers = dict(block.named_buffers())
    u, v = torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.randn(4, 5, 3, 3, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], u: Tensor, v: Tensor) -> Tensor:
        return functional_call(block, (parameters, buffers), (u[None], v[None])).square().mean()

    single = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, u, v)
    total = grad(lambda p: sum(loss(p, *pair) for pair in zip(u, v)))(parameters)
    for name in parameters:
        torch.testing.assert_close(single[name].sum(0), total[name], msg=lambda m, name=name: f"{name}: {m}")


def test_vmap_of_the_fusion():
    y, w = torch.randn(3, 2, 2, 5, 6, dtype=torch.float64), torch.randn(4, 5, 1, 1, dtype=torch.float64)
    output = vmap(lambda y: feature_fusion(U, y, w))(y)
    for i in range(3):
        torch.testing.assert_close(output[i], F.conv2d(torch.cat([U, y[i].relu()], 1), w))


def test_forward_mode_is_an_error_and_never_zero():
    with pytest.raises(NotImplementedError, match="jvp"):
        jvp(lambda u: sdc(u, V, K), (U,), (U,))
    with pytest.raises(NotImplementedError, match="jvp"):
        jvp(lambda y: feature_fusion(U, y, torch.randn(4, 6, 1, 1, dtype=torch.float64)), (V,), (V,))
