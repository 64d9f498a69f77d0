"""The modules: what they compute, how their state behaves, what they look like from outside."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, semantic_difference_conv2d


def test_layer_is_a_conv2d_with_its_parameters_and_initialisation():
    torch.manual_seed(3)
    ours = SemanticDifferenceConv2d(4, 6, (3, 5), stride=2, padding=(1, 2), groups=2)
    torch.manual_seed(3)
    theirs = nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), groups=2)
    assert isinstance(ours, nn.Conv2d)
    assert ours.state_dict().keys() == {*theirs.state_dict(), "contrast"}
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert ours(torch.randn(2, 4, 9, 11)).shape == theirs(torch.randn(2, 4, 9, 11)).shape


def test_layer_calls_the_function_with_its_options():
    u, v = torch.randn(2, 1, 4, 9, 8)
    layer = SemanticDifferenceConv2d(
        4, 6, 3, 2, 1, 1, 2, False, "replicate", diffusivity="rational", contrast=0.4, similarity="vector"
    )
    expected = semantic_difference_conv2d(
        u, v, layer.weight, None, 2, 1, 1, 2, padding_mode="replicate", diffusivity="rational", contrast=0.4,
        similarity="vector",
    )  # fmt: skip
    assert torch.equal(layer(u, v), expected)
    assert torch.equal(layer(u), layer(u, u))
    assert not torch.equal(layer(u), layer(u, v))


@pytest.mark.parametrize(
    "contrast", [0.5, torch.tensor(0.5), torch.full((4,), 0.5)], ids=["float", "scalar", "channel"]
)
def test_contrast_is_the_same_fixed_or_learned(contrast):
    fixed = SemanticDifferenceConv2d(4, 4, padding=1, contrast=contrast)
    learned = SemanticDifferenceConv2d(4, 4, padding=1, contrast=contrast, learn_contrast=True)
    learned.load_state_dict(fixed.state_dict())
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(learned(x), fixed(x))
    learned(x).sum().backward()
    assert learned.log_contrast.grad is not None
    assert learned.log_contrast.grad.abs().sum() > 0
    assert learned.log_contrast.shape == torch.as_tensor(contrast).reshape(-1).shape
    assert torch.as_tensor(learned.current_contrast()).shape == torch.as_tensor(contrast).shape
    assert "contrast" in fixed.state_dict()


def test_a_learned_contrast_stays_positive():
    layer = SemanticDifferenceConv2d(2, 2, padding=1, contrast=1e-3, learn_contrast=True)
    optimizer = torch.optim.SGD([layer.log_contrast], lr=1e3)
    x = torch.randn(1, 2, 6, 6)
    for sign in (1, -1):
        optimizer.zero_grad()
        (sign * layer(x).sum()).backward()
        optimizer.step()
        assert layer.current_contrast() >= 0


def test_block_is_what_the_definition_says():
    sdn = SDN(4, guidance_channels=6, out_channels=5, response_channels=3).double()
    u, v = torch.randn(2, 4, 8, 9).double(), torch.randn(2, 6, 4, 5).double()
    guidance = F.interpolate(sdn.project(v), size=(8, 9), mode="bilinear", align_corners=False)
    y = semantic_difference_conv2d(u, guidance, sdn.sdc.weight, padding=1)
    for training in (True, False):
        sdn.train(training)
        norm = copy.deepcopy(sdn.fusion.norm)
        expected = F.conv2d(torch.cat([u, norm(y).relu()], 1), sdn.fusion.weight, sdn.fusion.bias)
        torch.testing.assert_close(sdn(u, v), expected)
        assert torch.equal(sdn.fusion.norm.running_var, norm.running_var)


@pytest.mark.parametrize("norm", ["affine-off", "no-statistics", "group-norm"])
def test_fusion_with_other_norms(norm):
    fusion = FeatureFusion(4, 6)
    fusion.norm = {
        "affine-off": nn.BatchNorm2d(6, affine=False),
        "no-statistics": nn.BatchNorm2d(6, track_running_stats=False),
        "group-norm": nn.GroupNorm(2, 6),
    }[norm]
    u, y = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5) + 3
    fusion(u, y)
    fusion.eval()
    expected = F.conv2d(torch.cat([u, fusion.norm(y).relu()], 1), fusion.weight, fusion.bias)
    torch.testing.assert_close(fusion(u, y), expected)


def test_frozen_batch_norm_inside_training():
    fusion = FeatureFusion(4, 6)
    fusion.norm.eval()
    before = fusion.norm.running_mean.clone()
    fusion(torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5) + 3).sum().backward()
    assert torch.equal(fusion.norm.running_mean, before)
    assert fusion.norm.weight.grad is not None
    assert fusion.norm.bias.grad is not None


def test_vector_similarity_uses_guidance_as_it_is():
    sdn = SDN(4, guidance_channels=6, similarity="vector")
    assert sdn.project is None
    assert sdn(torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)).shape == (2, 4, 8, 8)


def test_zero_init_changes_nothing_and_trains():
    neck = SDNNeck([4, 8], zero_init=True)
    features = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)
    for output, feature in zip(neck(features), features):
        assert torch.equal(output, feature)
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves the fusion, the second the kernels behind it
        optimizer.zero_grad()
        sum(f.square().mean() for f in neck(features)).backward()
        optimizer.step()
    assert all(stage.sdc.weight.grad.abs().sum() > 0 for stage in neck.stages)
    assert not torch.equal(neck(features)[0], features[0])


def test_neck_guides_each_stage_by_the_next_and_the_last_by_itself():
    neck = SDNNeck([4, 6, 8]).eval()
    features = [torch.randn(1, c, s, s) for c, s in ((4, 16), (6, 8), (8, 5))]
    outputs = neck(features)
    guides = [features[1], features[2], neck.guidance(features[2])]
    assert isinstance(outputs, tuple)
    for stage, feature, guide, output in zip(neck.stages, features, guides, outputs):
        assert torch.equal(stage(feature, guide), output)
    single = SDNNeck(8).eval()
    assert single(features[2])[0].shape == features[2].shape


def test_dtype_and_device_reach_every_parameter_and_buffer():
    neck = SDNNeck([4, 6], dtype=torch.float64, device="meta", contrast=0.5)
    tensors = {**dict(neck.named_parameters()), **dict(neck.named_buffers())}
    assert {t.dtype for n, t in tensors.items() if not n.endswith("num_batches_tracked")} == {torch.float64}
    assert {t.device.type for t in tensors.values()} == {"meta"}
    outputs = neck([torch.empty(1, 4, 8, 8, device="meta").double(), torch.empty(1, 6, 4, 4, device="meta").double()])
    assert [list(o.shape) for o in outputs] == [[1, 4, 8, 8], [1, 6, 4, 4]]


def make_sdn():
    return SDN(4, 6, learn_contrast=True, contrast=torch.full((4,), 0.7))


ROUND_TRIPS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": lambda module: torch.load(_saved(module), weights_only=False),
    "state_dict": lambda module: _loaded(make_sdn(), torch.load(_saved(module.state_dict()))),
}


def _saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def _loaded(module, state):
    module.load_state_dict(state, strict=True)
    return module


@pytest.mark.parametrize("trip", ROUND_TRIPS.values(), ids=ROUND_TRIPS.keys())
def test_round_trip(trip):
    module = make_sdn()
    u, v = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)
    module(u, v).sum().backward()  # running statistics and gradients are there
    module.eval()
    again = trip(module).eval()
    assert torch.equal(again(u, v), module(u, v))


def test_one_state_for_every_backend():
    eager, auto = SDN(4, backend="eager"), SDN(4, backend="auto")
    assert auto.load_state_dict(eager.state_dict(), strict=True)


def test_sync_batch_norm_conversion():
    neck = nn.SyncBatchNorm.convert_sync_batchnorm(SDNNeck([4, 8]))
    assert all(isinstance(stage.fusion.norm, nn.SyncBatchNorm) for stage in neck.stages)
    features = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)
    assert [f.shape for f in neck.eval()(features)] == [f.shape for f in features]


def unfold_block_state(channels=4):
    """A state_dict with the keys of the public rewrite, and its block computed by unfolding."""
    norm, out = nn.BatchNorm2d(channels), nn.Conv2d(2 * channels, channels, 1)
    norm(torch.randn(4, channels, 5, 5) * 2 + 1)
    weight = torch.randn(channels, channels, 3, 3)
    state = {"SDC.weight": weight}
    state |= {f"BN.{k}": v for k, v in norm.state_dict().items()} | {f"out.{k}": v for k, v in out.state_dict().items()}

    def block(u, v):
        n, c, h, w = u.shape
        du, dv = (F.unfold(x, 3, padding=1).view(n, c, 9, h, w) - x.unsqueeze(2) for x in (u, v))
        y = torch.einsum("oct,ncthw->nohw", weight.flatten(2), du / (1 + dv**2).sqrt())
        return out(torch.cat([u, norm.eval()(y).relu()], 1))

    return state, block


def test_import_of_the_public_rewrite():
    state, block = unfold_block_state()
    sdn = SDN(4).eval()
    network = {"encoder.weight": torch.zeros(3), **{f"neck.0.{k}": v for k, v in state.items()}}
    sdn.load_unfold_state_dict(network, prefix="neck.0.")
    u, v = torch.randn(2, 2, 4, 7, 6)
    torch.testing.assert_close(sdn(u, v), block(u, v))


def test_import_of_another_operator_is_refused():
    state, _ = unfold_block_state()
    state["SDC.depthwise.weight"] = state.pop("SDC.weight")
    sdn = SDN(4)
    before = copy.deepcopy(sdn.state_dict())
    with pytest.raises(ValueError, match=r"unknown keys \['SDC.depthwise.weight'\], missing keys \['SDC.weight'\]"):
        sdn.load_unfold_state_dict(state)
    assert all(torch.equal(before[k], v) for k, v in sdn.state_dict().items())


def test_repr_shows_the_options():
    text = repr(SDN(4, 6, diffusivity="rational", contrast=0.5, similarity="vector"))
    for part in ("diffusivity=rational", "contrast=0.5", "similarity=vector", "backend=auto", "activation=relu"):
        assert part in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_what_conv2d_gives(dtype):
    ours, theirs = SemanticDifferenceConv2d(4, 6, padding=1), nn.Conv2d(4, 6, 3, padding=1)
    u, v = torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 4, 8, 8).to(dtype).requires_grad_()
    exact = ours(u, v.float())
    with torch.autocast("cpu", dtype):
        output = ours(u, v)
        assert output.dtype == theirs(u).dtype == dtype
        output.float().sum().backward()
    assert u.grad.dtype == torch.float32
    assert v.grad.dtype == dtype
    assert ours.weight.grad.dtype == torch.float32
    # The arguments are rounded to the dtype; everything after is computed in float32.
    torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.05)


def test_unbatched_input():
    layer = SemanticDifferenceConv2d(4, 6, padding=1)
    u, v = torch.randn(2, 4, 8, 8)
    assert torch.equal(layer(u, v), layer(u[None], v[None])[0])
