"""A block is what its parts are, whatever is done to them: it runs fused only where that is the same."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.block_reference import assert_close, by_parts, images, paths_of, results, trained
from torch import nn
from torch.nn.utils import prune

from sdn_triton import SDN, SemanticDifferenceConv2d, explain

pytest.importorskip("triton")


def test_hooks_and_replaced_parts_are_respected(device):
    fused, (u, v) = trained(device).eval(), images(device)
    seen = []
    handle = fused.sdc.register_forward_hook(lambda module, given, output: seen.append(output.shape))
    with torch.no_grad():
        fused(u, v)
        assert len(seen) == 1
        assert "hooks" in explain(fused, u, v).decisions[0].reason
        handle.remove()
        assert paths_of(fused, u, v) == [("semantic_diffusion_block", "triton")]
        fused.fusion.norm = nn.GroupNorm(2, 8).to(device)
        assert "GroupNorm" in explain(fused, u, v).decisions[0].reason
        exact = by_parts(fused)(u.cpu().double(), v.cpu().double())
        assert_close({"output": fused(u, v)}, {"output": exact}, 1e-5)


@pytest.fixture(params=["eager", "triton"])
def backend(request):
    return request.param


def block(backend, device, channels=4, **options) -> SDN:
    made = trained(device, channels, **options)
    made.sdc.backend = made.fusion.backend = backend
    return made


def written_out(made: SDN, u, v):
    """The block by calls of its parts in PyTorch; ``norm`` is called as it is."""
    h = torch.cat((u, made.fusion.norm(made.sdc(u, v)).relu()), 1)
    return F.conv2d(h, made.fusion.weight, made.fusion.bias)


@pytest.mark.parametrize("part", ["sdc", "fusion"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_part_in_a_wrapper(part, training, backend, device):
    """As adapters of low rank do it."""

    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.extra = nn.Conv2d(4, 4, 1)

        def forward(self, x, other):
            return self.base(x, other) + self.extra(x)

    made, (u, v) = block(backend, device).train(training), images(device, 4)
    adapted = copy.deepcopy(made)
    setattr(adapted, part, Adapter(getattr(adapted, part)).to(device))
    extra = getattr(adapted, part).extra
    expected = made.fusion(u, made.sdc(u, v) + extra(u)) if part == "sdc" else written_out(made, u, v) + extra(u)
    torch.testing.assert_close(adapted(u, v), expected, rtol=1e-5, atol=1e-5)
    assert "replaced" in explain(adapted, u, v).decisions[0].reason or backend == "eager"


def test_hooks_of_the_normalisation_in_evaluation(backend, device):
    made, (u, v) = block(backend, device).eval(), images(device, 4)
    seen = []
    made.fusion.norm.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        z = made(u, v)
        assert len(seen) == 1
        torch.testing.assert_close(z, written_out(made, u, v), rtol=1e-5, atol=1e-5)


def test_a_normalisation_with_a_forward_of_its_own(backend, device):
    class Activated(nn.BatchNorm2d):
        def forward(self, input):
            return F.silu(super().forward(input))

    made, (u, v) = block(backend, device).eval(), images(device, 4)
    made.fusion.norm = Activated(4).to(device).eval()
    with torch.no_grad():
        torch.testing.assert_close(made(u, v), written_out(made, u, v), rtol=1e-5, atol=1e-5)


def test_a_pruned_normalisation(backend, device):
    """Its weight is made by a hook, anew before every call."""
    made, (u, v) = block(backend, device), images(device, 4)
    prune.random_unstructured(made.fusion.norm, "weight", amount=0.5)
    made(u, v)
    with torch.no_grad():
        made.fusion.norm.weight_orig.mul_(3.0)
        made.eval()
        found = made(u, v)
        torch.testing.assert_close(found, written_out(made, u, v), rtol=1e-5, atol=1e-5)


WEIGHTS = {
    "sdc.weight": lambda made: made.sdc,
    "fusion.weight": lambda made: made.fusion,
    "fusion.bias": lambda made: made.fusion,
    "norm.weight": lambda made: made.fusion.norm,
    "norm.bias": lambda made: made.fusion.norm,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients_of_what_is_no_parameter(name, backend, device):
    """Replicas of DataParallel, flattened FSDP and hypernetworks have plain tensors in the place of parameters."""
    made, (u, v) = block(backend, device).eval().requires_grad_(False), images(device, 4)
    part, field = WEIGHTS[name](made), name.partition(".")[2]
    tensor = getattr(part, field).detach().clone().requires_grad_()
    delattr(part, field)
    setattr(part, field, tensor)
    made(u, v).square().sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.abs().max() > 0


def test_gradients_of_a_contrast_that_is_a_buffer(backend, device):
    made, (u, v) = block(backend, device, contrast=torch.tensor(1.0)).eval().requires_grad_(False), images(device, 4)
    made.sdc.contrast.requires_grad_()
    made(u, v).square().sum().backward()
    assert made.sdc.contrast.grad.abs() > 0


WRONG = {
    "long-norm": lambda made: setattr(made.fusion, "norm", nn.BatchNorm2d(6)),
    "short-norm": lambda made: setattr(made.fusion, "norm", nn.BatchNorm2d(2)),
    "norm-of-one": lambda made: setattr(made.fusion, "norm", nn.BatchNorm2d(1)),
    "short-bias": lambda made: setattr(made.fusion, "bias", nn.Parameter(torch.randn(2))),
    "large-kernel": lambda made: setattr(made.fusion, "weight", nn.Parameter(torch.randn(4, 8, 3, 3))),
    "no-padding": lambda made: setattr(made, "sdc", SemanticDifferenceConv2d(4, 4)),
    "stride": lambda made: setattr(made, "sdc", SemanticDifferenceConv2d(4, 4, stride=2, padding=1)),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", WRONG)
def test_parts_that_do_not_fit_are_refused(name, training, backend, device):
    made, (u, v) = block(backend, device), images(device, 4)
    WRONG[name](made)
    made = made.to(device).train(training)
    for part in (made.sdc, made.fusion):
        part.backend = backend
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
        made(u, v)


def test_statistics_that_are_no_longer_tracked(backend, device):
    """Switched off after construction, as where a second pass must not count."""
    made, (u, v) = block(backend, device), images(device, 4)
    made.fusion.norm.track_running_stats = False
    before = copy.deepcopy(made.fusion.norm.state_dict())
    found, expected = results(made, u, v), results(by_parts(made), u.cpu().double(), v.cpu().double())
    assert_close(found, expected)
    for name, value in made.fusion.norm.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batches_that_are_not_counted(momentum, backend, device):
    made, (u, v) = block(backend, device), images(device, 4)
    made.fusion.norm.num_batches_tracked = None
    made.fusion.norm.momentum = momentum
    exact = by_parts(made)
    assert_close(results(made, u, v), results(exact, u.cpu().double(), v.cpu().double()))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, which the interpreter computes with
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("responses", [1, 3, 16])
def test_what_is_not_finite_stays_where_it_is(value, responses, device):
    made, (u, v) = block("triton", device, response_channels=responses).eval(), images(device, 4)
    other = copy.deepcopy(made)
    other.sdc.backend = other.fusion.backend = "eager"
    u[0, 1, 2, 3] = value
    with torch.no_grad():
        found, expected = made(u, v), other(u, v)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())


@pytest.mark.parametrize(("bias", "spread"), [(0.0, 1.0), (10.0, 1.0), (0.1, 0.01)])
@pytest.mark.sampled(1)
def test_a_bias_costs_no_digits(bias, spread, device):
    """The normalisation takes it away again; until then it is large beside what the response says."""
    errors = {}
    for backend in ("eager", "triton"):
        worst = []
        for seed in range(4):
            torch.manual_seed(seed)
            made, (u, v) = block(backend, device, 8, bias=True), images(device, 8, (16, 16))
            torch.nn.init.constant_(made.sdc.bias, bias)
            exact = by_parts(made)
            found, expected = results(made, u * spread, v), results(exact, u.cpu().double() * spread, v.cpu().double())
            worst.append({k: (found[k].cpu().double() - expected[k]).norm() for k in expected})
        errors[backend] = {name: sum(one[name] for one in worst) for name in worst[0]}
    for name in ("output", "input", "guidance", "sdc.weight", "fusion.weight", "fusion.norm.weight", "sdc.bias"):
        assert errors["triton"][name] <= 2 * errors["eager"][name], name


def test_the_gradient_of_a_bias_that_is_taken_away_is_zero(device):
    made, (u, v) = block("triton", device, bias=True), images(device, 4)
    found = results(made, u, v)
    assert torch.equal(found["sdc.bias"], torch.zeros_like(found["sdc.bias"]))
