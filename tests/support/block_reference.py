"""Fused blocks, and the same blocks by their parts in float64."""

import copy

import torch
from torch import nn

from sdn_triton import SDN, explain


def trained(device, channels=8, **options) -> SDN:
    """A fused block whose statistics and affine are not those that it begins with."""
    made = SDN(channels, backend="triton", **options).to(device)
    norm = made.fusion.norm
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 2.0)
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return made


def by_parts(fused: SDN) -> SDN:
    """The same block by its parts on the eager path in float64 on the CPU."""
    other = copy.deepcopy(fused).cpu().double()
    other.sdc.backend = other.fusion.backend = "eager"
    return other


def images(device, channels=8, size=(9, 7), guidance=None, coarse=None):
    return (
        torch.randn(2, channels, *size, device=device),
        torch.randn(2, guidance or channels, *(coarse or size), device=device),
    )


def paths_of(made: nn.Module, *tensors) -> list[tuple[str, str]]:
    return [(decision.operator, decision.path) for decision in explain(made, *tensors).decisions]


def results(made: SDN, u, v) -> dict[str, torch.Tensor]:
    """The output, the gradients of everything, and the buffers afterwards."""
    u, v = (x.detach().clone().requires_grad_() for x in (u, v))
    z = made(u, v)
    (z * torch.linspace(-1, 1, z.numel(), dtype=z.dtype, device=z.device).view_as(z).sin()).sum().backward()
    found = {"output": z, "input": u.grad, "guidance": v.grad}
    found |= {name: parameter.grad for name, parameter in made.named_parameters()}
    return {**found, **dict(made.named_buffers())}


def assert_close(found, expected, tolerance=2e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
            continue
        error = (found[name].detach().cpu().double() - value.detach().double()).abs().max()
        assert error <= tolerance * max(1.0, value.abs().max()), name
