"""What is done to a module besides calling it: copies, averages, parametrizations, folding, checkpoints, meta."""

import copy

import pytest
import torch
from support.devices import DEVICE, RUNS_EAGERLY
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, semantic_difference_conv2d


def features() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, 8, 8, device=DEVICE), torch.randn(2, 6, 4, 4, device=DEVICE)


def make_neck(**options) -> SDNNeck:
    return SDNNeck([4, 6], contrast=0.7, learn_contrast=True, **options).to(DEVICE)


def step(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    sum(output.square().mean() for output in module(inputs)).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None


def test_a_copy_shares_nothing():
    neck, inputs = make_neck(), features()
    twin = copy.deepcopy(neck)
    before = [p.clone() for p in twin.parameters()]
    step(neck, inputs)
    assert all(torch.equal(p, old) for p, old in zip(twin.parameters(), before))
    assert not torch.equal(neck.stages[0].sdc.log_contrast, twin.stages[0].sdc.log_contrast)


def test_an_exponential_moving_average():
    neck, inputs = make_neck(), features()
    average = AveragedModel(neck, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    average.update_parameters(neck)
    expected = {name: p.detach().clone() for name, p in neck.named_parameters()}
    for _ in range(2):
        step(neck, inputs)
        average.update_parameters(neck)
        for name, p in neck.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * p.detach()
    for name, p in average.module.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])
    assert [o.shape for o in average.eval()(inputs)] == [x.shape for x in inputs]


@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_weight_is_the_one_that_is_used(normalise):
    layer = normalise(SemanticDifferenceConv2d(4, 3, padding=1).to(DEVICE))
    u = features()[0]
    layer.eval()
    output = layer(u)
    assert torch.equal(output, semantic_difference_conv2d(u, u, layer.weight, layer.bias, padding=1))
    output.square().sum().backward()
    originals = list(layer.parametrizations.weight.parameters())
    assert originals
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in originals)


def warm(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm(torch.randn(8, norm.num_features, 5, 5) * 3 + 2)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    return norm.double().eval()


@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_behind_folds_into_weight_and_bias(bias):
    """The normalisation is affine and so is the operator in its weight and bias: PyTorch's own helper is right."""
    layer = SemanticDifferenceConv2d(4, 6, padding=1, bias=bias, contrast=0.6).double().eval()
    norm = warm(nn.BatchNorm2d(6))
    folded = fuse_conv_bn_eval(layer, norm)
    assert type(folded) is SemanticDifferenceConv2d
    u, v = torch.randn(2, 2, 4, 8, 9, dtype=torch.float64)
    torch.testing.assert_close(folded(u, v), norm(layer(u, v)))


def test_a_batch_norm_in_front_is_not_folded():
    """Differences lose a shift, but zeros outside the image do not: only the scale could move into the weight."""
    norm = warm(nn.BatchNorm2d(4))
    layer = SemanticDifferenceConv2d(4, 6, padding=1, padding_mode="zero_flux").double()
    u, v = torch.randn(2, 2, 4, 8, 9, dtype=torch.float64)
    scaled = copy.deepcopy(layer)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    scaled.weight = nn.Parameter(layer.weight * scale.view(1, -1, 1, 1))
    torch.testing.assert_close(scaled(u, v), layer(norm(u), v))
    for module in (layer, scaled):
        module.padding_mode = "zeros"
    assert not torch.allclose(scaled(u, v), layer(norm(u), v))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_no_gradient(reentrant):
    neck, (fine, coarse) = make_neck().eval(), features()
    gradients = []
    for checkpointed in (False, True):
        neck.zero_grad()
        fine, coarse = (x.detach().requires_grad_() for x in (fine, coarse))
        call = (lambda *x: checkpoint(lambda a, b: neck((a, b)), *x, use_reentrant=reentrant)) if checkpointed else None
        outputs = call(fine, coarse) if call else neck((fine, coarse))
        sum(o.sin().sum() for o in outputs).backward()
        gradients.append([fine.grad, coarse.grad, *(p.grad.clone() for p in neck.parameters())])
    for plain, again in zip(*gradients, strict=True):
        # On a GPU the forward of a reentrant checkpoint, which records nothing, is one kernel and not its parts.
        torch.testing.assert_close(plain, again, rtol=0 if RUNS_EAGERLY else None, atol=0 if RUNS_EAGERLY else None)


MADE = {
    "neck": lambda **o: SDNNeck([4, 6], contrast=0.7, learn_contrast=True, zero_init=True, **o),
    "layer": lambda **o: SemanticDifferenceConv2d(4, 4, contrast=torch.rand(4, device="cpu") + 0.5, **o),
    "learned-channels": lambda **o: SemanticDifferenceConv2d(
        4, 4, contrast=torch.rand(4, device="cpu") + 0.5, learn_contrast=True, **o
    ),
    "fusion": lambda **o: FeatureFusion(4, 6, **o),
}


@pytest.mark.parametrize("how", ["device=", "with device"])
@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
def test_made_on_the_meta_device_and_initialised_later(make, how):
    torch.manual_seed(3)
    expected = make().to(DEVICE)
    torch.manual_seed(3)
    if how == "device=":
        module = make(device="meta")
    else:
        with torch.device("meta"):
            module = make()
    assert {t.device.type for t in (*module.parameters(), *module.buffers())} == {"meta"}
    module.to_empty(device=DEVICE)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.fill_(77)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    for (name, got), want in zip(module.state_dict().items(), expected.state_dict().values(), strict=True):
        assert got.shape == want.shape
        if "weight" not in name and "bias" not in name:  # what is drawn at random depends on the order of drawing
            torch.testing.assert_close(got, want, msg=lambda m, name=name: f"{name}: {m}")
        assert not (got == 77).any(), name
    if isinstance(module, SDNNeck):
        for output, feature in zip(module(inputs := features()), inputs):
            assert torch.equal(output, feature)


def test_skipped_initialisation_takes_a_checkpoint():
    layer = SemanticDifferenceConv2d(4, 6, padding=1, bias=False, contrast=0.4).to(DEVICE)
    empty = nn.utils.skip_init(SemanticDifferenceConv2d, 4, 6, padding=1, bias=False, contrast=0.4, device=DEVICE)
    empty.load_state_dict(layer.state_dict(), strict=True)
    u = features()[0]
    assert torch.equal(empty(u), layer(u))


BACKENDS = ["eager", "auto", "triton"]


@pytest.mark.parametrize("source", BACKENDS)
@pytest.mark.parametrize("target", BACKENDS)
def test_a_checkpoint_knows_no_backend(source, target):
    one, other = make_neck(backend=source), make_neck(backend=target)
    assert other.load_state_dict(one.state_dict(), strict=True)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


def test_channels_last_weights_give_the_same_and_keep_their_layout():
    block = SDN(4, 6).to(DEVICE).eval()
    twin = copy.deepcopy(block).to(memory_format=torch.channels_last)
    u, v = features()
    expected = block(u, v)
    u, v = (x.to(memory_format=torch.channels_last) for x in (u, v))
    output = twin(u, v)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    output.sum().backward()
    assert twin.sdc.weight.grad.stride() == twin.sdc.weight.stride()
