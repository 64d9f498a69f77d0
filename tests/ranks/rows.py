"""Images whose rows are spread over four ranks: the function, the layers, the neck, and what may go around them."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from ranks import values, whole
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import sdn_triton
from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d
from sdn_triton.distributed import RowSharded, from_own_rows, own_rows, semantic_difference_conv2d
from sdn_triton.distributed.rows import OUTSIDE, Rows, take_rows

ROWS = [Shard(2)]
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
    grads = []
    for place, output in enumerate(outputs):
        grad = values(tuple(output.shape), output.device, seed=20 + place).to(output.dtype)
        grads.append(distribute_tensor(grad, output.device_mesh, output.placements) if is_shard(output) else grad)
    torch.autograd.backward(outputs, grads)
    return outputs, [None if x is None else x.grad for x in (*leaves, *rest)]


def is_shard(tensor):
    return isinstance(tensor, DTensor)


def assert_alike(found, expected, **tolerances):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        if other is None:
            assert one is None
        else:
            torch.testing.assert_close(whole(one), other, **tolerances)


def check_difference(device, shape, kernel, heights=(13,), guides=4, groups=1, bias=True, contrast=(4,), **options):
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
                check_difference(
                    device, torch.contiguous_format, kernel, (height,),
                    stride=stride, padding=padding, dilation=dilation, padding_mode=mode,
                )  # fmt: skip

    return check


def check_other_options(device):
    both = torch.contiguous_format, torch.channels_last
    check_difference(device, both[1], (3, 3), (13, 9), padding=1)
    check_difference(device, both[0], (3, 3), padding="same", dilation=2, similarity="vector", guides=3, contrast=())
    check_difference(device, both[1], (3, 3), padding="valid", groups=2, bias=False, diffusivity="rational")
    check_difference(device, both[0], (3, 3), padding=(2, 0), stride=(1, 2), dilation=(1, 2), diffusivity="exponential")
    # The padding is larger than the kernel's reach: some windows lie outside the image altogether.
    check_difference(device, both[0], (3, 3), (5,), padding=5, padding_mode="zero_flux")
    check_difference(device, both[0], (3, 3), (5,), padding=5, stride=2, padding_mode="zero_flux")


def check_a_reach_beyond_all_neighbours(device):
    check_difference(device, torch.contiguous_format, (3, 1), (13,), padding=(12, 0), dilation=12)
    check_difference(
        device, torch.contiguous_format, (3, 1), (13,), padding=(12, 0), dilation=12, padding_mode="zero_flux"
    )


def check_one_image_guides_itself(device):
    mesh = mesh_of(device)
    layer = SemanticDifferenceConv2d(4, 6, padding=1).double().to(device)
    u = values((2, 4, 13, W), device)
    expected = run(layer, [u])
    found = run(RowSharded(layer), [by_rows(u, mesh)])
    for one, other in zip(found, expected):
        assert_alike(one, other)


def features(device, heights=(29, 15, 7), dtype=torch.float64):
    return [values((2, c, h, w), device, c).to(dtype) for c, h, w in zip((4, 6, 8), heights, (16, 8, 5))]


def call_neck(neck):
    return lambda *stages: neck(stages)


def compare_necks(plain, spread, device, images, **tolerances):
    """Outputs, gradients of features and parameters, and running statistics are those of one process."""
    mesh = mesh_of(device)
    plain.zero_grad()
    spread.zero_grad()
    expected = run(call_neck(plain), images)
    found = run(call_neck(spread), [by_rows(x, mesh) for x in images])
    for one, other in zip(found, expected):
        assert_alike(one, other, **tolerances)
    for (name, p), q in zip(plain.named_parameters(), spread.parameters(), strict=True):
        torch.testing.assert_close(whole(q.grad), p.grad, msg=lambda m, name=name: f"{name}: {m}", **tolerances)
    assert_alike(list(spread.buffers()), list(plain.buffers()), **tolerances)


NECKS = {
    "plain": {},
    "learned-contrast": dict(learn_contrast=True, padding_mode="replicate", dilation=2),
    "vector": dict(similarity="vector", padding_mode="zero_flux", kernel_size=5),
}


def check_neck(device):
    for options, training in itertools.product(NECKS.values(), (True, False)):
        plain = SDNNeck([4, 6, 8], **options).double().to(device).train(training)
        spread = RowSharded(copy.deepcopy(plain))
        for heights in ((29, 15, 7), (16, 8, 4), (9, 5, 2)):
            compare_necks(plain, spread, device, features(device, heights))


def check_neck_with_converted_norms(device):
    """SyncBatchNorm's statistics are those of the whole image, taken over its own group."""
    plain = SDNNeck([4, 6, 8]).double().to(device)
    spread = nn.SyncBatchNorm.convert_sync_batchnorm(RowSharded(copy.deepcopy(plain)))
    assert isinstance(spread.module.stages[0].fusion.norm, nn.SyncBatchNorm)
    compare_necks(plain, spread, device, features(device))
    own_group = nn.SyncBatchNorm.convert_sync_batchnorm(RowSharded(copy.deepcopy(plain)), dist.new_group())
    compare_necks(plain, own_group, device, features(device))


def check_block_with_other_norms(device):
    mesh = mesh_of(device)
    u, v = values((2, 4, 13, W), device, 1), values((2, 4, 13, W), device, 2)
    for norm in (
        nn.BatchNorm2d(4, momentum=None),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
    ):
        plain = SDN(4)
        plain.fusion.norm = norm
        plain = plain.double().to(device)
        spread = RowSharded(copy.deepcopy(plain))
        for training in (True, True, False):
            expected = run(plain.train(training), (u, v))
            found = run(spread.train(training), [by_rows(x, mesh) for x in (u, v)])
            for one, other in zip(found, expected):
                assert_alike(one, other)
            assert_alike(list(spread.buffers()), list(plain.buffers()))
    spread.module.fusion.norm = nn.GroupNorm(2, 4)
    with pytest.raises(TypeError, match="norm must be a batch normalisation .* got GroupNorm"):
        spread(by_rows(u, mesh), by_rows(v, mesh))


def check_half_precision_and_autocast(device):
    mesh = mesh_of(device)
    u, v = (values((2, 4, 13, W), device, seed).float() for seed in (1, 2))
    for dtype in (torch.bfloat16, torch.float16):
        plain = SDN(4).to(device).eval()
        spread = RowSharded(copy.deepcopy(plain))
        with torch.autocast(device.type, dtype):
            expected = run(plain, (u, v))
            found = run(spread, [by_rows(x, mesh) for x in (u, v)])
        assert found[0][0].dtype == expected[0][0].dtype == dtype
        for one, other in zip(found, expected):
            assert_alike(one, other, rtol=0.02, atol=0.02)
        plain = SemanticDifferenceConv2d(4, 6, padding=1).to(device, dtype)
        expected = plain(u.to(dtype), v.to(dtype))
        # The same sums in the same order, from the same numbers: a tile changes nothing but where a strip is cut.
        torch.testing.assert_close(
            whole(RowSharded(plain)(by_rows(u.to(dtype), mesh), by_rows(v.to(dtype), mesh))), expected
        )


def check_channels_last_is_kept(device):
    mesh = mesh_of(device)
    plain = SDNNeck([4, 6, 8]).double().to(device)
    images = [x.to(memory_format=torch.channels_last) for x in features(device)]
    for output in RowSharded(plain)([by_rows(x, mesh) for x in images]):
        assert output.to_local().numel() == 0 or output.to_local().is_contiguous(memory_format=torch.channels_last)


def check_batch_and_rows(device):
    """Two by two ranks: two images, each on two ranks, and data parallelism around it."""
    mesh = init_device_mesh(device.type, (2, 2), mesh_dim_names=("images", "rows"))
    placements = [Shard(0), Shard(2)]
    plain = SDNNeck([4, 6, 8]).double().to(device).eval()
    images = features(device)
    expected = run(call_neck(plain), images)
    replica = DistributedDataParallel(RowSharded(copy.deepcopy(plain)), process_group=mesh["images"].get_group())
    found = run(call_neck(replica), [distribute_tensor(x, mesh, placements) for x in images])
    for one, other in zip(found, expected):
        assert_alike(one, other)
    for p, q in zip(plain.parameters(), replica.parameters(), strict=True):
        torch.testing.assert_close(q.grad * 2, p.grad)  # DDP averages over the two images
    # The statistics of nn.BatchNorm2d are those of the ranks that share an image, of SyncBatchNorm's of all.
    for convert, batch in ((False, 1), (True, 2)):
        spread = RowSharded(copy.deepcopy(plain).train())
        spread = nn.SyncBatchNorm.convert_sync_batchnorm(spread) if convert else spread
        outputs = spread([distribute_tensor(x, mesh, placements) for x in images])
        for i in range(0, 2, batch):
            alone = copy.deepcopy(plain).train()([x[i : i + batch] for x in images])
            assert_alike([whole(x)[i : i + batch] for x in outputs], alone)


def check_replicated_images(device):
    mesh = init_device_mesh(device.type, (2, 2), mesh_dim_names=("copies", "rows"))
    layer = SemanticDifferenceConv2d(4, 6, padding=1).double().to(device)
    u = values((2, 4, 13, W), device)
    expected = run(layer, [u])
    weight = layer.weight.grad
    layer.zero_grad()
    found = run(RowSharded(layer), [distribute_tensor(u, mesh, [Replicate(), Shard(2)])])
    for one, other in zip(found, expected):
        assert_alike(one, other)
    torch.testing.assert_close(layer.weight.grad, weight)


def check_fully_sharded_parameters(device):
    """FSDP over the very ranks that share the image."""
    torch.manual_seed(3)
    plain = SDNNeck([4, 6, 8]).double().to(device)
    spread = RowSharded(copy.deepcopy(plain))
    fully_shard(spread, mesh=mesh_of(device))
    compare_necks(plain, spread, device, features(device))


def check_activation_checkpointing(device):
    mesh = mesh_of(device)
    plain = SDN(4).double().to(device)
    spread = RowSharded(copy.deepcopy(plain))
    u, v = values((2, 4, 13, W), device, 1), values((2, 4, 7, 4), device, 2)
    expected = run(plain, (u, v))

    def again(u, v):
        return checkpoint(spread, u, v, use_reentrant=False)

    found = run(again, [by_rows(x, mesh) for x in (u, v)])
    for one, other in zip(found, expected):
        assert_alike(one, other)
    for p, q in zip(plain.parameters(), spread.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


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
        wanted = tuple(
            tuple(torch.randint(OUTSIDE, height, (int(torch.randint(0, 9, (), generator=generator)),), generator=generator).tolist())
            for _ in range(ranks)
        )  # fmt: skip
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
            torch.testing.assert_close(leaf.grad, image.grad[:, :, rows.own.start : rows.own.stop], msg=f"trial {trial}")


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
    with pytest.raises(TypeError, match="module must be one of .*got Conv2d"):
        RowSharded(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="features must have 2 stages"):
        RowSharded(SDNNeck([4, 4]).double().to(device))([spread])
    with pytest.raises(ValueError, match="to_local|rows on this rank"):
        semantic_difference_conv2d(*[DTensor.from_local(u, mesh, ROWS, shape=(2, 4, 13, W), stride=u.stride())] * 2, weight)
    columns = init_device_mesh(device.type, (1, dist.get_world_size()))
    with pytest.raises(ValueError, match="argument 1 is placed .* all must be placed alike"):
        RowSharded(FeatureFusion(4, 4).double().to(device))(spread, distribute_tensor(u, columns, [Shard(0), Shard(2)]))


CHECKS = {
    **{f"padding_mode_{m}": padding_mode_check(m) for m in ("zeros", "zero_flux", "replicate", "reflect", "circular")},
    **{
        name.removeprefix("check_"): check
        for name, check in list(globals().items())
        if name.startswith("check_") and name != "check_difference"
    },
}
