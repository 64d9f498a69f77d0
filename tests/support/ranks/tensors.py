"""The operators on DTensors: batch, output channels and, for the fusion, rows and columns sharded."""

import pytest
import torch
import torch.distributed as dist
from support.ranks import values, whole
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from sdn_triton import SemanticDifferenceConv2d, feature_fusion, semantic_difference_conv2d

R, P = Replicate(), Partial()
N, C, O, H, W = 4, 6, 8, 8, 10


def mesh_of(device):
    return init_device_mesh(device.type, (dist.get_world_size(),))


def run(call, tensors, grad, placements=None):
    """Output and gradients of a call."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = call(*leaves)
    output.backward(grad)
    return output, [None if t is None else t.grad for t in leaves]


def compare(device, call, tensors, placements, output_placement, grad_placements):
    """A call on DTensors gives the results of a plain one, placed as said, without one collective."""
    mesh = mesh_of(device)
    plain = call(*tensors)
    grad = values(tuple(plain.shape), device, seed=9)
    expected, expected_gradients = run(call, tensors, grad)
    shards = [None if t is None else distribute_tensor(t, mesh, [p]) for t, p in zip(tensors, placements)]
    grad_shard = distribute_tensor(grad, mesh, [output_placement])
    with CommDebugMode() as communication:
        output, gradients = run(call, shards, grad_shard)
    assert communication.get_total_counts() == 0
    assert output.placements == (output_placement,)
    torch.testing.assert_close(whole(output), expected)
    for tensor, gradient, wanted, placement in zip(tensors, gradients, expected_gradients, grad_placements):
        if tensor is not None:
            assert gradient.placements == (placement,), (gradient.placements, placement)
            torch.testing.assert_close(whole(gradient), wanted)


def difference_arguments(device, guides=C, groups=1, bias=True, contrast=(C,)):
    return [
        values((N, C, H, W), device, 1),
        values((N, guides, H, W), device, 2),
        values((O, C // groups, 3, 3), device, 3),
        values((O,), device, 4) if bias else None,
        None if contrast is None else values(contrast, device, 5).abs() + 0.5,
    ]


def difference(padding=1, **options):
    def call(u, v, weight, bias, contrast):
        k = 0.7 if contrast is None else contrast
        return semantic_difference_conv2d(u, v, weight, bias, padding=padding, contrast=k, **options)

    return call


BATCH = (Shard(0), Shard(0), R, R, R), Shard(0), (Shard(0), Shard(0), P, P, P)
OUTPUTS = (R, R, Shard(0), Shard(0), R), Shard(1), (P, P, Shard(0), Shard(0), P)
REPLICATED = (R,) * 5, R, (R,) * 5


def check_difference_by_batch(device):
    for padding in (1, 0, (2, 1)):  # calls on tensors of one size, whose results differ in size
        compare(device, difference(padding), difference_arguments(device), *BATCH)
    compare(device, difference(stride=2, dilation=2), difference_arguments(device, bias=False, contrast=None), *BATCH)
    compare(device, difference(similarity="vector"), difference_arguments(device, guides=3, contrast=()), *BATCH)
    compare(device, difference(groups=2, padding_mode="zero_flux"), difference_arguments(device, groups=2), *BATCH)


def check_difference_by_output_channel(device):
    for padding in (1, 0):
        compare(device, difference(padding), difference_arguments(device), *OUTPUTS)
    compare(device, difference(), difference_arguments(device, bias=False, contrast=None), *OUTPUTS)
    compare(device, difference(similarity="vector"), difference_arguments(device, guides=3, contrast=()), *OUTPUTS)


def check_difference_replicated(device):
    compare(device, difference(), difference_arguments(device), *REPLICATED)
    compare(device, difference(groups=2), difference_arguments(device, groups=2), *REPLICATED)


def check_groups_with_sharded_outputs_are_gathered(device):
    """With groups a part of the outputs reads a part of the inputs, so DTensor has to move something: still right."""
    call, tensors = difference(groups=2), difference_arguments(device, groups=2)
    grad = values((N, O, H, W), device, 9)
    expected, gradients = run(call, tensors, grad)
    mesh = mesh_of(device)
    shards = [distribute_tensor(t, mesh, [p]) for t, p in zip(tensors, OUTPUTS[0])]
    output, found = run(call, shards, distribute_tensor(grad, mesh, [R]))
    torch.testing.assert_close(whole(output), expected)
    for gradient, wanted in zip(found, gradients):
        torch.testing.assert_close(whole(gradient), wanted)


def check_only_some_gradients(device):
    """What is not asked for is not there, whatever was asked for in a call of the same sizes before."""
    mesh = mesh_of(device)
    for wanted in ((0,), (1, 2), (0, 1, 2, 3, 4), (3,)):
        shards = [distribute_tensor(t, mesh, [p]) for t, p in zip(difference_arguments(device), BATCH[0])]
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(shards)]
        difference()(*leaves).sum().backward()
        plain = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(difference_arguments(device))]
        difference()(*plain).sum().backward()
        for leaf, reference in zip(leaves, plain):
            assert (leaf.grad is None) == (reference.grad is None)
            if leaf.grad is not None:
                torch.testing.assert_close(whole(leaf.grad), reference.grad)


def fusion_arguments(device, affine=True, bias=True):
    return [
        values((N, C, H, W), device, 1),
        values((N, 4, H, W), device, 2),
        values((O, C + 4, 1, 1), device, 3),
        values((O,), device, 4) if bias else None,
        values((4,), device, 5) if affine else None,
        values((4,), device, 6) if affine else None,
    ]


def fusion(activation="relu"):
    def call(u, y, weight, bias, scale, shift):
        return feature_fusion(u, y, weight, bias, scale=scale, shift=shift, activation=activation)

    return call


def check_fusion(device):
    for dim in (0, 2, 3):
        images = (Shard(dim), Shard(dim), R, R, R, R), Shard(dim), (Shard(dim), Shard(dim), P, P, P, P)
        compare(device, fusion(), fusion_arguments(device), *images)
        compare(device, fusion("identity"), fusion_arguments(device, affine=False, bias=False), *images)
    outputs = (R, R, Shard(0), Shard(0), R, R), Shard(1), (P, P, Shard(0), Shard(0), P, P)
    compare(device, fusion(), fusion_arguments(device), *outputs)
    compare(device, fusion(), fusion_arguments(device), (R,) * 6, R, (R,) * 6)


def check_sharded_rows_are_refused(device):
    mesh = mesh_of(device)
    for dim in (2, 3):
        shards = [
            distribute_tensor(t, mesh, [Shard(dim) if i < 2 else R]) for i, t in enumerate(difference_arguments(device))
        ]
        with pytest.raises(RuntimeError, match=r"Shard\(dim=.\).*sdn_triton.distributed exchanges the borders"):
            difference()(*shards)


def check_layer_with_sharded_outputs(device):
    """Tensor parallelism: a layer's weight and bias sharded by output channel, its input replicated."""
    mesh = mesh_of(device)
    layer = SemanticDifferenceConv2d(C, O, padding=1).double().to(device)
    u, v = values((N, C, H, W), device, 1), values((N, C, H, W), device, 2)
    expected = layer(u, v)
    expected.square().sum().backward()
    gradient = layer.weight.grad
    for name in ("weight", "bias"):
        shard = distribute_tensor(getattr(layer, name).detach(), mesh, [Shard(0)])
        setattr(layer, name, torch.nn.Parameter(shard))
    output = layer(*(DTensor.from_local(x, mesh, [R], run_check=False) for x in (u, v)))
    assert output.placements == (Shard(1),)
    assert output.to_local().shape[1] == O // mesh.size()
    output.square().sum().backward()
    torch.testing.assert_close(whole(output), expected)
    assert layer.weight.grad.placements == (Shard(0),)
    torch.testing.assert_close(whole(layer.weight.grad), gradient)


def check_compiled(device):
    """Under torch.compile the same rules hold."""
    mesh = mesh_of(device)
    tensors = difference_arguments(device)
    grad = values((N, O, H, W), device, 9)
    expected, gradients = run(difference(), tensors, grad)
    shards = [distribute_tensor(t, mesh, [p]) for t, p in zip(tensors, BATCH[0])]
    compiled = torch.compile(difference(), fullgraph=True, backend="aot_eager")
    output, found = run(compiled, shards, distribute_tensor(grad, mesh, [Shard(0)]))
    torch.testing.assert_close(whole(output), expected)
    for gradient, wanted in zip(found, gradients):
        torch.testing.assert_close(whole(gradient), wanted)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
