"""Images spread by rows: how the checks make them, and compare calls on them with calls in one process."""

import torch
import torch.distributed as dist
from support.ranks import values, whole
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from sdn_triton.distributed import from_own_rows, own_rows

W = 7


def mesh_of(device):
    return init_device_mesh(device.type, (dist.get_world_size(),))


def by_rows(tensor, mesh):
    """``tensor`` spread by rows, in its own memory format, which ``distribute_tensor`` does not keep."""
    rows = own_rows(tensor.shape[2], mesh)
    return from_own_rows(tensor[:, :, rows.start : rows.stop].clone(), tensor.shape[2], mesh)


def run(call, images, others=(), **options):
    """Outputs of a call, and the gradients of a fixed function of them."""
    leaves = [x.detach().requires_grad_() for x in images]
    rest = [None if x is None else x.detach().requires_grad_() for x in others]
    outputs = call(*leaves, *rest, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(outputs, [gradient_like(output, 20 + place) for place, output in enumerate(outputs)])
    return outputs, [None if x is None else x.grad for x in (*leaves, *rest)]


def gradient_like(output, seed=20):
    """The same numbers for an output that is spread and for one that is not."""
    grad = values(tuple(output.shape), output.device, seed).to(output.dtype)
    return distribute_tensor(grad, output.device_mesh, output.placements) if isinstance(output, DTensor) else grad


def assert_alike(found, expected, **tolerances):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        if other is None:
            assert one is None
        else:
            torch.testing.assert_close(whole(one), other, **tolerances)
