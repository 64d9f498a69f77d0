"""A batch split over two ranks against the whole batch in one process: DDP, FSDP2, SyncBatchNorm, checkpointing."""

import copy

import pytest
import torch
import torch.distributed as dist
from support.ranks import values, whole
from support.ranks.batch_norm import batch_norm_steps_on_a_cpu
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from sdn_triton import SDN, SDNNeck
from sdn_triton.tuning.configs import INTERPRETER, Target
from sdn_triton.tuning.defaults import Work, all_defaults, default_config
from sdn_triton.tuning.kernels import KERNELS

CHANNELS, BATCH = (4, 6, 8), 4


def features(device, dtype=torch.float64):
    return [values((BATCH, c, s, s + 1), device, c).to(dtype) for c, s in zip(CHANNELS, (16, 8, 5))]


def part(tensors):
    """This rank's share of a batch."""
    share = BATCH // dist.get_world_size()
    return [x[dist.get_rank() * share :][:share] for x in tensors]


def loss(outputs):
    """A mean over the batch, so that the mean over ranks is that over all images."""
    return sum(output.float().sin().sum() / len(output) for output in outputs)


def frozen_norms(module):
    """Training, but with the running statistics, which do not depend on how a batch is split."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
            torch.nn.init.uniform_(child.running_mean)
            torch.nn.init.uniform_(child.running_var, 0.5, 2)
    return module


def make_neck(device, **options):
    torch.manual_seed(3)
    return frozen_norms(SDNNeck(CHANNELS, learn_contrast=True, **options).double().to(device))


def assert_same_gradients(found, expected, **tolerances):
    for (name, p), q in zip(expected.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(whole(q.grad), p.grad, msg=lambda m, name=name: f"{name}: {m}", **tolerances)


def check_ddp(device):
    for options in ({}, dict(similarity="vector", padding_mode="zero_flux"), dict(groups=2, padding_mode="reflect")):
        plain = make_neck(device, **options)
        replica = DistributedDataParallel(copy.deepcopy(plain))
        images = features(device)
        expected = plain(images)
        loss(expected).backward()
        outputs = replica(part(images))
        loss(outputs).backward()
        for output, wanted in zip(outputs, part(expected)):
            torch.testing.assert_close(output, wanted)
        assert_same_gradients(replica.module, plain)


def check_ddp_with_activation_checkpointing(device):
    """Also with statistics of the batch in training: the second forward must not change the first one's results."""

    class Checkpointed(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *images):
            return checkpoint(self.module, *images, use_reentrant=False)

    torch.manual_seed(3)
    images = [values((BATCH, 4, 12, 11), device, 1), values((BATCH, 6, 6, 5), device, 2)]
    for prepare in (frozen_norms, nn.Module.train):
        plain = prepare(SDN(4, 6, learn_contrast=True).double().to(device))
        without = DistributedDataParallel(copy.deepcopy(plain))
        replica = DistributedDataParallel(Checkpointed(copy.deepcopy(plain)))
        for module in (without, replica):
            loss([module(*part(images))]).backward()
        assert_same_gradients(replica.module.module, without.module)
        if prepare is frozen_norms:
            loss([plain(*images)]).backward()
            assert_same_gradients(replica.module.module, plain)


def sharded(module, device, **options):
    """FSDP2 as it is used: every block by itself, then what is left."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for stage in module.stages:
        fully_shard(stage, mesh=mesh, **options)
    return fully_shard(module, mesh=mesh, **options)


def check_fsdp(device):
    plain = make_neck(device)
    replica = sharded(copy.deepcopy(plain), device)
    images = features(device)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (plain, replica)]
    for _ in range(2):
        expected, outputs = plain(images), replica(part(images))
        loss(expected).backward()
        loss(outputs).backward()
        for output, wanted in zip(outputs, part(expected)):
            torch.testing.assert_close(output, wanted)
        assert_same_gradients(replica, plain)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    # The state of the whole goes both ways.
    state = get_model_state_dict(replica, options=StateDictOptions(full_state_dict=True))
    fresh = SDNNeck(CHANNELS, learn_contrast=True).double().to(device)
    if dist.get_rank() == 0:
        fresh.load_state_dict(state, strict=True)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(fresh.state_dict()[name], value)
    other = sharded(SDNNeck(CHANNELS, learn_contrast=True).double().to(device), device)
    set_model_state_dict(other, plain.state_dict(), options=StateDictOptions(full_state_dict=True))
    frozen_norms_kept = other.eval()(part(images))
    for output, wanted in zip(frozen_norms_kept, part(plain.eval()(images))):
        torch.testing.assert_close(output, wanted)


def check_fsdp_with_mixed_precision(device):
    """bfloat16 parameters and features, float32 gradients: exactly what the same bfloat16 numbers give on one rank."""
    plain = make_neck(device).float()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    replica = sharded(copy.deepcopy(plain), device, mp_policy=policy)
    half = copy.deepcopy(plain)
    for parameter in half.parameters():
        parameter.data = parameter.data.bfloat16()
    images = features(device, torch.float32)
    outputs = replica(part(images))
    loss(outputs).backward()
    expected = half([x.bfloat16() for x in part(images)])
    loss(expected).backward()
    for output, wanted in zip(outputs, expected):
        assert output.dtype == torch.bfloat16
        assert torch.equal(output, wanted)
    for (name, p), q in zip(half.named_parameters(), replica.parameters(), strict=True):
        mean = p.grad.float()
        dist.all_reduce(mean)
        assert q.dtype == q.grad.dtype == torch.float32, name
        torch.testing.assert_close(whole(q.grad), mean / dist.get_world_size(), rtol=1e-6, atol=1e-7)
    # And it is near to float32: bfloat16 keeps 8 bits.
    for output, wanted in zip(outputs, part(plain(images))):
        torch.testing.assert_close(output.float(), wanted, rtol=0.05, atol=0.1)


def check_sync_batch_norm(device):
    """Outputs, gradients and running statistics of the whole batch; on a CPU with stand-ins for what it lacks there."""
    torch.manual_seed(3)
    plain = SDNNeck(CHANNELS).double().to(device)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    images = features(device)
    if device.type == "cpu":
        with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on GPU"):
            copy.deepcopy(converted)(part(images))
        with pytest.raises(ValueError, match="SyncBatchNorm layers only work with GPU modules"):
            DistributedDataParallel(converted)
        with batch_norm_steps_on_a_cpu():
            outputs = converted(part(images))
            loss(outputs).backward()
        for parameter in converted.parameters():  # what DDP would do
            dist.all_reduce(parameter.grad.div_(dist.get_world_size()))
    else:
        outputs = DistributedDataParallel(converted)(part(images))
        loss(outputs).backward()
    expected = plain(images)
    loss(expected).backward()
    for output, wanted in zip(outputs, part(expected)):
        torch.testing.assert_close(output, wanted)
    assert_same_gradients(converted, plain)
    for (name, one), other in zip(plain.named_buffers(), converted.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=lambda m, name=name: f"{name}: {m}")


def check_ranks_choose_alike(device):
    """A configuration follows from the work and the device alone."""
    targets = [Target("cuda", 80, 108), Target("cuda", 90, 132), Target("hip", "gfx942", 304), INTERPRETER]
    works = [
        Work(arithmetic, images, size, size + 3, channels, 2 * channels, groups, taps=9)
        for arithmetic in ("bf16", "tf32", "ieee")
        for images, size in ((1, 7), (2, 64), (16, 256))
        for channels in (3, 32, 200)
        for groups in (1, 4)
    ]
    if dist.get_rank() == 1:  # what was asked for before makes no difference
        works.reverse()
    chosen = {
        (kernel, work, target): repr(default_config(kernel, work, target))
        for work in works
        for target in targets
        for kernel in KERNELS
        if all_defaults(kernel, work.arithmetic, target)  # it runs there at all
    }
    everybody: list = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, chosen)
    assert all(other == chosen for other in everybody)
    assert len(set(chosen.values())) > 10


def check_fused_blocks_share_statistics(device):
    """Blocks whose SyncBatchNorm has a share of the batch here: as one by its parts with all of it, in float64.

    Also where one rank runs by parts while others run fused: with a hook on a part, or without an image.
    """
    pytest.importorskip("triton")
    torch.manual_seed(3)
    whole_batch = SDN(4, backend="eager").double().to(device)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(whole_batch).float())
    shared.sdc.backend = shared.fusion.backend = "triton"
    images = [values((BATCH, 4, 6, 5), device, seed) for seed in (1, 2)]
    images[0][:2] += 3.0  # the ranks' own means differ
    expected = whole_batch(*images)
    (expected.sin().sum() / BATCH).backward()
    halves = part([*images, expected])
    all_or_nothing = [x[: BATCH if dist.get_rank() == 0 else 0] for x in (*images, expected)]
    for case, (u, v, wanted) in {"alike": halves, "hook": halves, "no image": all_or_nothing}.items():
        block = copy.deepcopy(shared)
        if case == "hook" and dist.get_rank() == 0:
            block.sdc.register_forward_hook(lambda *given: None)
        output = block(u.float(), v.float())
        (output.sin().sum() / BATCH).backward()
        torch.testing.assert_close(
            output.double(), wanted, rtol=1e-4, atol=1e-5, msg=lambda m, case=case: f"{case}: {m}"
        )
        for (name, parameter), found in zip(whole_batch.named_parameters(), block.parameters(), strict=True):
            dist.all_reduce(found.grad)
            torch.testing.assert_close(
                found.grad.double(), parameter.grad, rtol=1e-3, atol=1e-5, msg=lambda m, at=(case, name): f"{at}: {m}"
            )
        for name, buffer in whole_batch.named_buffers():
            torch.testing.assert_close(block.get_buffer(name).double(), buffer.double(), rtol=1e-5, atol=1e-6)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
