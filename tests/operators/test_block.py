"""SDN blocks that run fused, against their parts in float64: values, gradients, statistics, and what is kept."""

import copy
import re
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from support.block_reference import assert_close, by_parts, images, paths_of, results, trained
from support.places import README
from support.sampling import sample
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile

from sdn_triton import SDN, SDNNeck, explain
from sdn_triton.aot.compile import TARGETS
from sdn_triton.ops.block import block
from sdn_triton.ops.moments import moments
from sdn_triton.options import BlockArguments, BlockOptions, DifferenceArguments, DifferenceOptions
from sdn_triton.tuning.configs import INTERPRETER, Target
from sdn_triton.tuning.defaults import Work, default_config
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended

pytest.importorskip("triton")

from sdn_triton.launch.run import recorded_launches

SAME = DifferenceOptions((3, 3), padding=(1, 1))


OPTIONS = {
    "plain": {},
    "other-channels": dict(response_channels=5, out_channels=11, bias=True),
    "projected": dict(guidance_channels=3),
    "reflect": dict(padding_mode="reflect"),
    "zero_flux-rational": dict(padding_mode="zero_flux", diffusivity="rational"),
    "constant": dict(diffusivity="constant"),
    "vector": dict(similarity="vector", guidance_channels=5),
    "groups": dict(groups=2),
    "depthwise": dict(groups=8),
    "learned-contrast": dict(learn_contrast=True),
    "dilation2-5x5": dict(kernel_size=5, dilation=2),
}
COARSE = {"same": None, "half": (5, 4), "other": (4, 10), "one-pixel": (1, 1)}
RESIZED = ("plain", "projected", "vector", "reflect")  # what is resized does not depend on the other options
BLOCKS = [(name, coarse) for name in OPTIONS for coarse in (COARSE if name in RESIZED else ["same"])]
IN_TURN = dict(zip(RESIZED, COARSE))
blocks = pytest.mark.parametrize(
    ("name", "coarse"), sample(BLOCKS, lambda name, coarse: coarse == IN_TURN.get(name, "same"))
)


@blocks
@pytest.mark.sampled(4)
def test_training(name, coarse, device):
    fused = trained(device, **OPTIONS[name])
    u, v = images(device, guidance=fused.project.in_channels if fused.project else None, coarse=COARSE[coarse])
    if name == "vector":
        v = torch.randn(2, 5, *v.shape[2:], device=device)
    exact = by_parts(fused)
    assert paths_of(fused, u, v)[0] == ("semantic_difference_conv2d_moments", "triton")
    assert_close(results(fused, u, v), results(exact, u.cpu().double(), v.cpu().double()))


@blocks
def test_evaluation(name, coarse, device):
    fused = trained(device, **OPTIONS[name]).eval()
    u, v = images(device, guidance=fused.project.in_channels if fused.project else None, coarse=COARSE[coarse])
    if name == "vector":
        v = torch.randn(2, 5, *v.shape[2:], device=device)
    with torch.no_grad():
        expected = ("semantic_diffusion_block", "by parts" if fused.sdc.groups > 1 else "triton")
        assert paths_of(fused, u, v)[0] == expected
        found, exact = fused(u, v), by_parts(fused)(u.cpu().double(), v.cpu().double())
    assert_close({"output": found}, {"output": exact}, 1e-5)


NORMS = {
    "no-affine": dict(affine=False),
    "no-statistics": dict(track_running_stats=False),
    "cumulative": dict(momentum=None),
    "eps-and-momentum": dict(eps=0.1, momentum=0.3),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.sampled(1)
def test_statistics_are_those_of_batch_norm(name, device):
    """Over several steps, in training and in evaluation after it."""
    fused = SDN(8, backend="triton").to(device)
    fused.fusion.norm = nn.BatchNorm2d(8, **NORMS[name], device=device)
    exact = by_parts(fused)
    for _ in range(3):
        u, v = images(device)
        fused.zero_grad()
        exact.zero_grad()
        found, expected = results(fused, u, v), results(exact, u.cpu().double(), v.cpu().double())
        assert_close(found, expected)
        assert found.get("fusion.norm.num_batches_tracked") == expected.get("fusion.norm.num_batches_tracked")
    fused.eval()
    with torch.no_grad():
        assert_close({"output": fused(u, v)}, {"output": exact.eval()(u.cpu().double(), v.cpu().double())})


def test_a_frozen_normalisation_in_training(device):
    fused = trained(device)
    fused.fusion.norm.eval()
    u, v = images(device)
    assert_close(results(fused, u, v), results(by_parts(fused), u.cpu().double(), v.cpu().double()))
    assert "frozen" in explain(fused, u, v).decisions[0].reason


def test_a_mean_far_from_zero(device):
    """Statistics come of deviations, not of the difference of two large sums."""
    fused = trained(device, bias=True)
    with torch.no_grad():
        fused.sdc.bias.fill_(3000.0)
    u, v = images(device, size=(24, 24))
    exact = by_parts(fused)
    y = exact.sdc(u.cpu().double(), v.cpu().double())
    contrast = fused.sdc.current_contrast()
    arguments = DifferenceArguments(u, v, fused.sdc.weight.detach(), fused.sdc.bias.detach(), contrast)
    _, mean, variance = moments(arguments, SAME, "triton")
    torch.testing.assert_close(mean.cpu().double(), y.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.cpu().double(), y.var((0, 2, 3), correction=0), rtol=1e-3, atol=0)


@pytest.mark.long
def test_many_tiles_are_merged(device):
    """More tiles than are merged at a time, of images that no tile divides."""
    from sdn_triton.launch import moments as launch
    from sdn_triton.tuning.configs import KernelConfig

    u, v, weight = torch.randn(3, 4, 31, 45), torch.randn(3, 4, 31, 45), torch.randn(5, 4, 3, 3)
    tile = KernelConfig(32, 8, 16, 16, 4, 1)
    u, v, weight = (x.to(device) for x in (u, v, weight))
    y, mean, variance = launch.forward(DifferenceArguments(u, v, weight, None, 1.0), SAME, {"difference_forward": tile})
    y = y.double()
    torch.testing.assert_close(mean.double(), y.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance.double(), y.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)


def test_one_value_a_channel_is_refused_as_by_batch_norm(device):
    u, v = torch.randn(1, 8, 1, 1, device=device), torch.randn(1, 8, 1, 1, device=device)
    for made in (SDN(8, backend="triton").to(device), SDN(8, backend="eager").to(device)):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            made(u, v)


@pytest.mark.parametrize("change", ["load_state_dict", "data", "copy", "norm"])
def test_parameters_are_never_remembered(change, device):
    """What is folded into the kernel is read anew by every call."""
    fused, u_v = trained(device).eval(), images(device)
    with torch.no_grad():
        before = fused(*u_v)
        other = trained(device)
        if change == "load_state_dict":
            fused.load_state_dict(other.state_dict())
        elif change == "data":
            fused.sdc.weight.data.mul_(2.0)
        elif change == "copy":
            fused = copy.deepcopy(fused)
            fused.fusion.norm.running_var.data.mul_(3.0)
        else:
            fused.fusion.norm.bias.data += 1.0
        after = fused(*u_v)
        expected = by_parts(fused)(*(x.cpu().double() for x in u_v))
    assert not torch.equal(before, after)
    assert_close({"output": after}, {"output": expected}, 1e-5)


def test_projection_and_resizing_commute():
    """So the projection, which is cheaper there, is done on the coarse guidance."""
    made = SDN(8, guidance_channels=5).double()
    guidance = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    other = made.project(F.interpolate(guidance, size=(9, 11), mode="bilinear", align_corners=False))
    torch.testing.assert_close(made.align_guidance(torch.empty(2, 8, 9, 11), guidance), other)


def test_what_is_kept_for_the_backward(device):
    """Features, guidance as coarse as it was, response: nothing else that is as large as one of them."""
    fused = trained(device)
    u, v = images(device, size=(16, 18), coarse=(8, 9))
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fused(u.requires_grad_(), v.requires_grad_())
    sizes = sorted(tuple(tensor.shape) for tensor in kept.values() if tensor.dim() == 4 and tensor.shape[2:] != (1, 1))
    weights = [tuple(fused.sdc.weight.shape)]
    assert sizes == sorted([*weights, (2, 8, 8, 9), (2, 8, 16, 18), (2, 8, 16, 18)])


def image_memory(call, smallest: int) -> list[int]:
    """Bytes of every allocation during a call that is at least ``smallest``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    events = profiler.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() >= smallest]


@pytest.mark.parametrize("coarse", [None, (16, 17)], ids=["same", "half"])
def test_evaluation_allocates_nothing_but_the_output(coarse):
    fused = trained(torch.device("cpu")).eval()
    u, v = images(torch.device("cpu"), size=(32, 34), coarse=coarse)
    # What the interpreter itself allocates is none of the library's.
    with pretended(INTERPRETER), torch.no_grad(), recorded_launches():
        allocated = image_memory(lambda: fused(u, v), v.nbytes)
    assert allocated == [u.nbytes]


def test_the_neck_in_evaluation_has_a_kernel_a_stage(device):
    neck = SDNNeck([8, 16, 24], backend="triton").to(device).eval()
    features = [torch.randn(1, c, s, s, device=device) for c, s in ((8, 16), (16, 8), (24, 4))]
    with torch.no_grad(), recorded_launches() as launches:
        neck(features)
    assert [launch.name for launch in launches] == ["block_forward_kernel"] * 3


def test_the_neck_copies_no_image(device):
    """channels_last from end to end: nothing of an image's size is copied or laid out anew."""
    neck = SDNNeck([32, 64], backend="triton").to(device).eval()
    features = [
        torch.randn(2, c, s, s, device=device).contiguous(memory_format=torch.channels_last)
        for c, s in ((32, 16), (64, 8))
    ]
    activities = [ProfilerActivity.CPU]
    with torch.no_grad(), recorded_launches(), profile(activities=activities, record_shapes=True) as profiler:
        outputs = neck(features)
    assert all(z.is_contiguous(memory_format=torch.channels_last) for z in outputs)
    guidance = {"aten::conv2d", "aten::convolution", "aten::_convolution"}  # a plain convolution makes the last one's
    copied = [
        event.input_shapes
        for event in profiler.events()
        if event.name in ("aten::copy_", "aten::clone", "aten::contiguous")
        and event.cpu_parent is not None
        and not {parent.name for parent in parents(event)} & {*guidance, "aten::mkldnn_convolution"}
    ]
    assert not [shapes for shapes in copied if shapes and shapes[0][2:] in ([16, 16], [8, 8], [4, 4])]


def parents(event):
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_autocast(training, device):
    fused = trained(device).train(training)
    u, v = images(device)
    with torch.autocast(device.type, torch.float16), nullcontext() if training else torch.no_grad():
        found = fused(u, v)
    assert found.dtype == torch.float16
    exact = by_parts(trained(device).train(training))
    exact.load_state_dict(fused.state_dict())
    expected = exact(u.cpu().double(), v.cpu().double())
    assert (found.detach().cpu().double() - expected).abs().max() < 4e-2


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_compiled_as_one_graph(training, device):
    fused = trained(device).train(training)
    u, v = images(device, coarse=(5, 4))
    compiled = torch.compile(copy.deepcopy(fused), fullgraph=True, backend="aot_eager")
    if training:
        assert_close(results(compiled._orig_mod, u, v), {k: x.cpu().double() for k, x in results(fused, u, v).items()})
        found, expected = compiled(u, v), fused(u, v)
    else:
        with torch.no_grad():
            found, expected = compiled(u, v), fused(u, v)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_derivatives_of_the_moments_to_second_order():
    u, v = (torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    coarse = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(*tensors):
        return moments(DifferenceArguments(*tensors, 1.3), SAME, "eager")

    assert gradcheck(call, (u, v, weight, bias))
    assert gradcheck(call, (u, coarse, weight, bias))
    assert gradgradcheck(call, (u, v, weight, bias))


def test_opcheck():
    u, v, weight = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5), torch.randn(3, 4, 3, 3)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    flat = moments.flatten(DifferenceArguments(u, v, weight, None, 1.0), SAME)
    torch.library.opcheck(torch.ops.sdn_triton.semantic_difference_conv2d_moments, (*flat, "eager"), test_utils=tests)
    norm = torch.randn(3), torch.rand(3) + 0.1, None, None
    arguments = BlockArguments(u, v, weight, None, 1.0, *norm, torch.randn(6, 7, 1, 1), None)
    flat = block.flatten(arguments, BlockOptions(SAME, 1e-5))
    torch.library.opcheck(torch.ops.sdn_triton.semantic_diffusion_block, (*flat, "eager"), test_utils=tests)


@pytest.mark.parametrize(
    ("large", "small"),
    sample(
        [
            ((16, 18), (8, 9)),
            ((9, 7), (4, 5)),
            ((7, 9), (3, 9)),
            ((4, 5), (9, 11)),
            ((13, 13), (1, 1)),
            ((12, 5), (5, 2)),
        ],
        lambda large, small: small != (1, 1),  # every pixel of the larger one: the interpreter takes a minute
    ),
    ids=str,
)
@pytest.mark.sampled(2)
def test_gradient_of_resizing(large, small, device):
    """The gathered gradient against PyTorch's own in float64, and the same bits each time."""
    from sdn_triton.launch import resize

    grad = torch.randn(2, 5, *large, device=device)
    image = torch.randn(2, 5, *small, device=device)
    found = resize.gradient(grad, image)
    leaf = image.double().cpu().requires_grad_()
    F.interpolate(leaf, size=large, mode="bilinear", align_corners=False).backward(grad.double().cpu())
    torch.testing.assert_close(found.cpu().double(), leaf.grad, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, resize.gradient(grad, image))


def test_two_trainings_give_the_same_bits(device):
    u, v = images(device, coarse=(5, 4))
    made = trained(device)
    first, second = (results(copy.deepcopy(made), u, v) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


ONE, PARTS = ["block_forward_kernel"], ["difference_forward_kernel", "fusion_forward_kernel"]
TRAINED = ["difference_forward_kernel", "merge_moments_kernel", "fusion_forward_kernel"]


def frozen(made: SDN) -> SDN:
    made.fusion.norm.eval()
    return made


def hooked(made: SDN) -> SDN:
    made.sdc.register_forward_hook(lambda *given: None)
    return made


# Line of the README's table -> what it speaks of, whether gradients are recorded, and the kernels of the forward.
LINES = {
    "evaluation, no gradients recorded, up to 256 responses": (lambda: trained(CPU).eval(), False, ONE),
    "evaluation, more responses": (lambda: trained(CPU, response_channels=300).eval(), False, PARTS),
    "evaluation with gradients recorded, frozen BatchNorm": (lambda: frozen(trained(CPU)), True, PARTS),
    "training, any groups, SyncBatchNorm too": (lambda: trained(CPU, groups=2), True, TRAINED),
    "evaluation of a response in groups": (lambda: trained(CPU, groups=2).eval(), False, PARTS),
    "hooks on a part": (lambda: hooked(trained(CPU)).eval(), False, PARTS),
}
CPU = torch.device("cpu")


@pytest.mark.parametrize("line", LINES)
def test_the_table_of_what_fuses(line):
    assert re.search(rf"^\| {re.escape(line)}.* \|$", README.read_text(), re.MULTILINE)
    make, recorded, kernels = LINES[line]
    made, (u, v) = make(), images(CPU)
    with pretended(INTERPRETER), torch.set_grad_enabled(recorded), recorded_launches() as launches:
        made(u, v)
    assert [launch.name for launch in launches] == kernels


@pytest.mark.parametrize("coarse", [None, (4, 4)], ids=["same-size", "coarse"])
@pytest.mark.parametrize(
    ("target", "arithmetic", "kernels"),
    [
        ("sm_90", "tf32", ["paired_forward_kernel", "fusion_forward_kernel"]),
        ("sm_90", "ieee", ["block_forward_kernel"]),
        ("sm_80", "tf32", ["block_forward_kernel"]),
    ],
)
def test_where_two_kernels_are_faster_than_one(target, arithmetic, kernels, coarse):
    """Where only the difference by itself takes channels in words."""
    u, v = (x.contiguous(memory_format=torch.channels_last) for x in torch.zeros(2, 1, 32, 8, 8))
    v = v if coarse is None else v[:, :, :4, :4]
    made = SDN(32, 32).eval()
    with convolutions_in(arithmetic), pretended(TARGETS[target]), torch.no_grad(), recorded_launches() as launches:
        made(u, v)
    assert [launch.name for launch in launches] == kernels


def test_every_line_of_that_table_is_checked():
    table = README.read_text().split("| block | runs as |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(table) == len(LINES)


@pytest.mark.parametrize(("dtype", "responses"), [("bf16", 256), ("fp16", 256), ("tf32", 128), ("ieee", 64)])
@pytest.mark.parametrize("architecture", [80, 86, 89, 90, 120])
def test_how_many_responses_a_tile_holds(dtype, responses, architecture):
    """As the table says, on every architecture but those with tensor memory, which hold 128 where channels pair."""
    for can_pair in (False, True):
        work = Work(dtype, 2, 128, 128, 256, responses, taps=9, can_pair=can_pair and dtype.endswith("16"))
        assert default_config("block_forward", work, Target("cuda", architecture, 132)).block_o >= responses
