"""The suggested contrast: an exact quantile of the differences that the kernel forms, found without sorting them."""

import itertools
import math

import numpy as np
import pytest
import torch

from sdn_triton import SDN, SDNNeck, contrast, suggest_contrast
from sdn_triton.bench.measuring.rounds import peak_memory


def expected(features, quantile=0.5, similarity="channel", dilation=(1, 1), kernel=(3, 3)):
    """All differences of all pixels with all their taps inside, sorted: numpy, in float64, pixel by pixel."""
    v = features.double().numpy()
    v = v if v.ndim == 4 else v[None]
    H, W = v.shape[2:]
    taps = itertools.product(*(range(-(k // 2), k // 2 + 1) for k in kernel))
    found = []
    for dy, dx in ((i * dilation[0], j * dilation[1]) for i, j in taps):
        for y, x in itertools.product(range(H), range(W)):
            if 0 <= y + dy < H and 0 <= x + dx < W:
                d = v[:, :, y + dy, x + dx] - v[:, :, y, x]
                found.append((np.sqrt((d * d).sum(1)) if similarity == "vector" else np.abs(d)).ravel())
    sizes = np.sort(np.concatenate(found))
    sizes = sizes[sizes > 0]
    return sizes[math.ceil(quantile * len(sizes)) - 1]


SHAPES = {"batch": (2, 3, 5, 7), "image": (4, 6, 5), "row": (1, 2, 1, 9), "column": (1, 1, 9, 1), "pair": (1, 1, 1, 2)}


@pytest.mark.parametrize("quantile", [1e-9, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("similarity", ["channel", "vector"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_quantile(shape, similarity, quantile, device):
    features = torch.randn(shape)
    found = suggest_contrast(features.to(device), quantile, similarity)
    assert isinstance(found, float)
    assert found == pytest.approx(expected(features, quantile, similarity), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype, device):
    """Whole numbers differ by whole numbers, in every dtype: no rounding, and many ties and zeros."""
    features = torch.randint(-6, 7, (2, 3, 8, 9)).to(dtype)
    for quantile in (0.05, 0.3, 0.5, 0.77, 1):
        assert suggest_contrast(features.to(device), quantile) == expected(features, quantile)


def test_float64_is_exact(device):
    features = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    assert suggest_contrast(features.to(device), 0.4) == expected(features, 0.4)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (1, 3)], ids=str)
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (2, 3)], ids=str)
def test_kernels(kernel, dilation):
    features = torch.randn(2, 2, 9, 10).cumsum(-1).cumsum(-2)
    found = suggest_contrast(features, dilation=dilation, kernel_size=kernel)
    assert found == pytest.approx(expected(features, dilation=dilation, kernel=kernel), rel=1e-6)


@pytest.mark.parametrize("piece", [1, 50, 333])
@pytest.mark.parametrize("similarity", ["channel", "vector"])
def test_strips_change_nothing(monkeypatch, piece, similarity):
    features = torch.randn(2, 3, 11, 6).to(memory_format=torch.channels_last)
    whole = suggest_contrast(features, 0.3, similarity, dilation=2)
    monkeypatch.setattr(contrast, "_PIECE", piece)
    assert suggest_contrast(features, 0.3, similarity, dilation=2) == whole


def test_per_channel(device):
    features = torch.randn(2, 4, 6, 7) * torch.tensor([1.0, 10.0, 0.0, 0.1]).view(1, 4, 1, 1)
    found = suggest_contrast(features.to(device), 0.25, per_channel=True)
    assert found.shape == (4,)
    assert found.device.type == device.type
    assert found.dtype == torch.float32
    single = [expected(features[:, c : c + 1], 0.25) for c in (0, 1, 3)]
    np.testing.assert_allclose(found.cpu()[[0, 1, 3]], single, rtol=1e-6)
    assert found[2] == suggest_contrast(features, 0.25)  # flat: its contrast has no effect
    SDN(4, contrast=found, device=device)


def test_stages_and_scale():
    stages = [torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4)]
    assert suggest_contrast(stages) == [suggest_contrast(stage) for stage in stages]
    assert suggest_contrast(4 * stages[0]) == 4 * suggest_contrast(stages[0])
    assert suggest_contrast(stages[0].requires_grad_()) == suggest_contrast(stages[0].detach())


def test_what_a_relu_switched_off_does_not_count():
    features = torch.randn(1, 3, 16, 16)
    dead = torch.zeros(1, 5, 16, 16)
    assert suggest_contrast(torch.cat((features, dead), 1)) == suggest_contrast(features)


def test_memory_is_bounded():
    features = torch.randn(1, 32, 512, 512)  # 33 million differences, 134 MB a tap
    peak = peak_memory(lambda: suggest_contrast(features, 0.9), torch.device("cpu"))
    assert peak < 40 * contrast._PIECE


ERRORS = {
    "type": (dict(features=1.0), TypeError, "features must be a Tensor or a sequence.*float"),
    "text": (dict(features="abc"), TypeError, "features .*str"),
    "no-stages": (dict(features=[]), ValueError, "features must have at least one stage"),
    "stage-type": (dict(features=[1.0]), TypeError, "features must be a Tensor or a sequence.*float"),
    "integers": (dict(features=torch.ones(1, 1, 4, 4, dtype=torch.int64)), TypeError, "features .*int64"),
    "rank": (dict(features=torch.ones(4, 4)), ValueError, "features .*rank 2"),
    "nan": (dict(features=torch.full((1, 1, 4, 4), torch.nan)), ValueError, "finite"),
    "infinite": (dict(features=torch.eye(4)[None] / 0), ValueError, "finite"),
    "constant": (dict(features=torch.ones(1, 1, 4, 4)), ValueError, "constant"),
    "one-pixel": (dict(features=torch.ones(1, 1, 1, 1)), ValueError, r"\[1, 1, 1, 1\].*two pixels.*3x3"),
    "dilation-too-large": (dict(dilation=4), ValueError, r"two pixels.*\(4, 4\)"),
    "no-channels": (dict(features=torch.ones(1, 0, 4, 4)), ValueError, "two pixels"),
    "dilation": (dict(dilation=0), ValueError, "dilation .*0"),
    "kernel": (dict(kernel_size=2), ValueError, "odd"),
    "quantile": (dict(quantile=0.0), ValueError, "quantile must be above 0 and at most 1, got 0.0"),
    "quantile-above": (dict(quantile=1.5), ValueError, "quantile .*1.5"),
    "quantile-nan": (dict(quantile=math.nan), ValueError, "quantile .*nan"),
    "quantile-type": (dict(quantile="0.5"), TypeError, "quantile .*str"),
    "similarity": (dict(similarity="cosine"), ValueError, "similarity must be one of 'channel', 'vector'.*'cosine'"),
    "per-channel-vector": (dict(similarity="vector", per_channel=True), ValueError, "per_channel.*'channel'"),
}


@pytest.mark.parametrize(("change", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(change, error, message):
    with pytest.raises(error, match=message):
        suggest_contrast(**{"features": torch.randn(1, 2, 4, 4), **change})


@pytest.mark.parametrize("similarity", ["channel", "vector"])
def test_aligned_guidance_is_what_the_layers_read(similarity):
    neck = SDNNeck([3, 5], similarity=similarity).eval()
    seen = []
    for stage in neck.stages:
        stage.sdc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    features = [torch.randn(2, 3, 9, 10), torch.randn(2, 5, 5, 5)]
    neck.train()(features)  # in evaluation a block may run as one kernel, past its layers
    for own, aligned in zip(seen, neck.align_guidance(features), strict=True):
        assert torch.equal(own, aligned)


def test_one_contrast_a_stage():
    features = [torch.randn(2, 3, 9, 10), torch.randn(2, 5, 5, 5)]
    values = suggest_contrast(SDNNeck([3, 5]).align_guidance(features), 0.9)
    neck = SDNNeck([3, 5], contrast=values)
    assert [stage.sdc.contrast for stage in neck.stages] == values
    learned = SDNNeck([3, 5], contrast=(0.5, torch.full((5,), 0.25)), learn_contrast=True)
    assert [stage.sdc.log_contrast.shape for stage in learned.stages] == [(1,), (5,)]
    with pytest.raises(ValueError, match="contrast must be one for all or one for each of the 2 stages, got 3"):
        SDNNeck([3, 5], contrast=[1.0, 1.0, 1.0])
