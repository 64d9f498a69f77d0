"""The function on images whose rows are spread over four ranks, and the exchange beneath it."""

import itertools

import pytest
import torch
import torch.distributed as dist
from support.ranks import values
from support.ranks.spread import W, assert_alike, by_rows, gradient_like, mesh_of, run
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import sdn_triton
from sdn_triton import FeatureFusion, SDNNeck
from sdn_triton.distributed import RowSharded, from_own_rows, own_rows, semantic_difference_conv2d
from sdn_triton.distributed.rows import OUTSIDE, Rows, take_rows

ROWS = [Shard(2)]


def compare_difference(device, shape, kernel, heights=(13,), guides=4, groups=1, bias=True, contrast=(4,), **options):
    mesh = mesh_of(device)
    for height in heights:
        u, v = values((2, 4, height, W), device, 1), values((2, guides, height, W), device, 2)
        u, v = (x.to(memory_format=shape) for x in (u, v))
        weight = values((6, 4 // groups, *kernel), device, 3)
        others = [weight, values((6,), device, 4) if bias else None, values(contrast, device, 5).abs() + 0.5]

        def plain(u, v, weight, bias, k):
            return sdn_triton.semantic_difference_conv2d(u, v, weight, bias, contrast=k, groups=groups, **options)

        def spread(u, v, weight, bias, k):
            return semantic_difference_conv2d(u, v, weight, bias, contrast=k, groups=groups, **options)

        expected = run(plain, (u, v), others)
        found = run(spread, [by_rows(x, mesh) for x in (u, v)], others)
        for one, other in zip(found, expected):
            assert_alike(one, other)
        output = found[0][0]
        assert output.placements == (Shard(2),)
        if output.to_local().numel():  # nothing has no memory format
            assert output.to_local().is_contiguous(memory_format=shape)
            assert output.stride() == expected[0][0].stride()


def fits(height, kernel, dilation, padding, mode):
    reaches = [dilation * (k // 2) for k in kernel]
    enough = all(2 * reach + 1 <= size + 2 * padding for reach, size in zip(reaches, (height, W)))
    return enough and (mode not in ("reflect", "circular") or padding < min(height, W))


def padding_mode_check(mode):
    """Any kernel, dilation, stride and padding: rows that others hold, from several ranks away, or nobody has."""

    def check(device):
        windows = (1, 1, 1), (1, 3, 4), (1, 1, 0), (2, 1, 1), (3, 3, 4), (2, 3, 1)
        for kernel, (stride, dilation, padding), height in itertools.product(((3, 3), (5, 1)), windows, (13, 5)):
            if fits(height, kernel, dilation, padding, mode):
                compare_difference(
                    device, torch.contiguous_format, kernel, (height,),
                    stride=stride, padding=padding, dilation=dilation, padding_mode=mode,
                )  # fmt: skip

    return check


def check_other_options(device):
    both = torch.contiguous_format, torch.channels_last
    compare_difference(device, both[1], (3, 3), (13, 9), padding=1)
    compare_difference(device, both[0], (3, 3), padding="same", dilation=2, similarity="vector", guides=3, contrast=())
    compare_difference(device, both[1], (3, 3), padding="valid", groups=2, bias=False, diffusivity="rational")
    compare_difference(
        device, both[0], (3, 3), padding=(2, 0), stride=(1, 2), dilation=(1, 2), diffusivity="exponential"
    )
    # The padding is larger than the kernel's reach: some windows lie outside the image altogether.
    compare_difference(device, both[0], (3, 3), (5,), padding=5, padding_mode="zero_flux")
    compare_difference(device, both[0], (3, 3), (5,), padding=5, stride=2, padding_mode="zero_flux")


def check_a_reach_beyond_all_neighbours(device):
    compare_difference(device, torch.contiguous_format, (3, 1), (13,), padding=(12, 0), dilation=12)
    compare_difference(
        device, torch.contiguous_format, (3, 1), (13,), padding=(12, 0), dilation=12, padding_mode="zero_flux"
    )


def check_second_derivatives(device):
    mesh = mesh_of(device)
    u, v, weight = values((1, 4, 9, W), device, 1), values((1, 4, 9, W), device, 2), values((3, 4, 3, 3), device, 3)

    def penalty(call, u, v, weight):
        u, v, weight = (x.detach().requires_grad_() for x in (u, v, weight))
        outputs = call(u, v, weight, padding=2, dilation=2, padding_mode="replicate")
        by_u, by_v = torch.autograd.grad(outputs.square().sum(), (u, v), create_graph=True)
        (by_u.square().sum() + by_v.square().sum()).backward()
        return [u.grad, v.grad, weight.grad]

    expected = penalty(sdn_triton.semantic_difference_conv2d, u, v, weight)
    found = penalty(semantic_difference_conv2d, by_rows(u, mesh), by_rows(v, mesh), weight)
    assert_alike(found, expected)


def check_rows_from_anywhere(device):
    """Any split, rows in any order and more than once; the gradient is the adjoint: <take(x), g> = <x, give(g)>."""
    generator = torch.Generator().manual_seed(7)
    group, ranks = dist.distributed_c10d._get_default_group(), dist.get_world_size()
    for trial in range(20):
        height = 11
        cuts = sorted(torch.randint(0, height + 1, (ranks - 1,), generator=generator).tolist())
        rows = Rows((0, *cuts, height), group)
        counts = torch.randint(0, 9, (ranks,), generator=generator).tolist()
        wanted = tuple(tuple(torch.randint(OUTSIDE, height, (n,), generator=generator).tolist()) for n in counts)
        images = [values((2, c, height, 3), device, 30 + c) for c in (1, 3)]
        own = [x[:, :, rows.own.start : rows.own.stop].clone().requires_grad_() for x in images]
        taken = take_rows(own, rows, wanted)
        padded = [torch.cat((x, torch.zeros_like(x[:, :, :1])), 2).requires_grad_() for x in images]
        for found, image in zip(taken, padded):
            assert torch.equal(found, image[:, :, list(wanted[rows.rank])])
        sum((x * x.detach()).sum() for x in taken).backward()
        total = sum((x[:, :, list(rank)] ** 2).sum() for x in padded for rank in wanted) / 2
        total.backward()
        for leaf, image in zip(own, padded):
            torch.testing.assert_close(
                leaf.grad, image.grad[:, :, rows.own.start : rows.own.stop], msg=f"trial {trial}"
            )


def check_no_gradient_is_sent_of_what_needs_none(device):
    mesh = mesh_of(device)
    u, v, weight = values((2, 4, 13, W), device, 1), values((2, 4, 13, W), device, 2), values((6, 4, 3, 3), device, 3)
    for trained in (0, 1):
        counts = []
        for call, images in (
            (sdn_triton.semantic_difference_conv2d, (u, v)),
            (semantic_difference_conv2d, (by_rows(u, mesh), by_rows(v, mesh))),
        ):
            leaves = [x.detach().requires_grad_(i == trained) for i, x in enumerate(images)]
            output = call(*leaves, weight, padding=1)
            grad = gradient_like(output)
            with CommDebugMode() as communication:
                output.backward(grad)
            counts.append((communication.get_total_counts(), [x.grad for x in leaves]))
        (_, expected), (messages, found) = counts
        assert messages == 1
        assert_alike(found, expected)


def check_own_rows(device):
    mesh = mesh_of(device)
    image = values((1, 2, 10, 3), device)
    rows = own_rows(10, mesh)
    spread = from_own_rows(image[:, :, rows.start : rows.stop], 10, mesh)
    assert torch.equal(spread.to_local(), distribute_tensor(image, mesh, ROWS).to_local())
    assert (spread.shape, spread.placements) == (image.shape, (Shard(2),))
    with pytest.raises(ValueError, match=r"local must be \[N, C, .*got \[1, 2, 10, 3\]"):
        from_own_rows(image, 10, mesh)
    with pytest.raises(ValueError, match="mesh must have one dimension"):
        own_rows(10, init_device_mesh(device.type, (2, 2)))


def check_errors(device):
    mesh = mesh_of(device)
    u = values((2, 4, 13, W), device)
    spread, weight = by_rows(u, mesh), values((6, 4, 3, 3), device)
    with pytest.raises(TypeError, match="input must be a DTensor with its rows sharded, got Tensor"):
        semantic_difference_conv2d(u, u, weight)
    with pytest.raises(ValueError, match=r"guidance must be placed Shard\(2\), by rows.*got \(Shard\(dim=0\),\)"):
        semantic_difference_conv2d(spread, distribute_tensor(u, mesh, [Shard(0)]), weight)
    with pytest.raises(ValueError, match="guidance has its rows split at"):
        semantic_difference_conv2d(spread, by_rows(u[:, :, :9], mesh), weight)
    with pytest.raises(ValueError, match="13 of input"):
        semantic_difference_conv2d(spread, spread, weight, dilation=7)
    with pytest.raises(TypeError, match="weight must be a plain tensor that every rank holds"):
        semantic_difference_conv2d(spread, spread, distribute_tensor(weight, mesh, [Replicate()]))
    with pytest.raises(TypeError, match=r"module must be one of .*got Conv2d"):
        RowSharded(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="features must have 2 stages"):
        RowSharded(SDNNeck([4, 4]).double().to(device))([spread])
    with pytest.raises(ValueError, match="13 rows on this rank, but of 13 rows it must hold"):
        semantic_difference_conv2d(
            *[DTensor.from_local(u, mesh, ROWS, shape=(2, 4, 13, W), stride=u.stride())] * 2, weight
        )
    columns = init_device_mesh(device.type, (1, dist.get_world_size()))
    with pytest.raises(ValueError, match=r"argument 1 is placed .* all must be placed alike"):
        RowSharded(FeatureFusion(4, 4).double().to(device))(spread, distribute_tensor(u, columns, [Shard(0), Shard(2)]))


CHECKS = {
    **{f"padding_mode_{m}": padding_mode_check(m) for m in ("zeros", "zero_flux", "replicate", "reflect", "circular")},
    **{name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")},
}
