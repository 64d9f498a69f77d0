"""Layers, blocks and necks on images whose rows are spread over four ranks, and what may go around them."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from support.ranks import values, whole
from support.ranks.spread import W, assert_alike, by_rows, mesh_of, run
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from sdn_triton import SDN, SDNNeck, SemanticDifferenceConv2d
from sdn_triton.distributed import RowSharded


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
    with pytest.raises(TypeError, match=r"norm must be a batch normalisation .* got GroupNorm"):
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


def check_repetitions(device):
    """Bit for bit, forward and backward."""
    mesh = mesh_of(device)
    torch.use_deterministic_algorithms(True)
    first = None
    for _ in range(20):
        torch.manual_seed(3)
        spread = RowSharded(SDN(4, 6).to(device))
        images = [by_rows(values(s, device, 1).float(), mesh) for s in ((2, 4, 13, W), (2, 6, 7, 4))]
        outputs, gradients = run(spread, images)
        found = [x.to_local() for x in (*outputs, *gradients)] + [p.grad for p in spread.parameters()]
        found += list(spread.buffers())
        first = first or found
        assert all(torch.equal(one, other) for one, other in zip(first, found, strict=True))
    torch.use_deterministic_algorithms(False)


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


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
