"""Bad input: a typed error that names the argument, what was given and what is allowed, before anything runs."""

import re

import pytest
import torch

from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, anisotropic_diffusion
from sdn_triton import feature_fusion as fuse
from sdn_triton import semantic_difference_conv2d as sdc

U = torch.randn(2, 4, 6, 7)
K = torch.randn(3, 4, 3, 3)

DIFFERENCE = {
    "rank": (dict(input=torch.randn(4, 6), guidance=torch.randn(4, 6)), ValueError, "input .*rank 2"),
    "rank-weight": (dict(weight=torch.randn(3, 4, 3)), ValueError, "weight .*rank 3"),
    "batched-input-unbatched-guidance": (dict(guidance=U[0]), ValueError, "guidance .*rank 3"),
    "not-a-tensor": (dict(guidance=None), TypeError, "guidance must be a Tensor .*NoneType"),
    "weight-channels": (dict(weight=torch.randn(3, 5, 3, 3)), ValueError, r"weight \[3, 5, 3, 3\].*\[2, 4, 6, 7\]"),
    "guidance-channels": (dict(guidance=torch.randn(2, 5, 6, 7)), ValueError, r"guidance .* 5 channels .* has 4"),
    "guidance-size": (dict(guidance=torch.randn(2, 4, 3, 4)), ValueError, r"guidance \[2, 4, 3, 4\].*\[2, 4, 6, 7\]"),
    "guidance-batch": (dict(guidance=torch.randn(1, 4, 6, 7)), ValueError, r"guidance \[1, 4, 6, 7\]"),
    "bias-size": (dict(bias=torch.randn(4)), ValueError, r"bias .*\[3\], got \[4\]"),
    "even-kernel": (dict(weight=torch.randn(3, 4, 2, 3)), ValueError, r"odd.*\(2, 3\)"),
    "contrast-zero": (dict(contrast=0.0), ValueError, "contrast must be positive.*0.0"),
    "contrast-nan": (dict(contrast=float("nan")), ValueError, "contrast .*nan"),
    "contrast-string": (dict(contrast="1"), TypeError, "contrast .*str"),
    "contrast-tensor-negative": (dict(contrast=torch.tensor([1.0, 1, -2, 1])), ValueError, "contrast .*-2"),
    "contrast-tensor-size": (dict(contrast=torch.ones(5)), ValueError, r"contrast .*\[4\].*\[5\]"),
    "contrast-per-channel-vector": (dict(contrast=torch.ones(4), similarity="vector"), ValueError, "contrast"),
    "stride-zero": (dict(stride=0), ValueError, "stride must be at least 1.*0"),
    "stride-float": (dict(stride=1.5), TypeError, "stride .*1.5"),
    "stride-triple": (dict(stride=(1, 1, 1)), TypeError, "stride"),
    "dilation-zero": (dict(dilation=(1, 0)), ValueError, "dilation"),
    "padding-negative": (dict(padding=-1), ValueError, "padding .*-1"),
    "padding-name": (dict(padding="full"), ValueError, "padding must be one of 'same', 'valid', got 'full'"),
    "padding-same-stride": (dict(padding="same", stride=2), ValueError, "same.*stride"),
    "padding_mode": (dict(padding_mode="mirror"), ValueError, "padding_mode must be one of .*'zero_flux'.*'mirror'"),
    "diffusivity": (dict(diffusivity="gauss"), ValueError, "diffusivity must be one of .*'rational'.*'gauss'"),
    "similarity": (dict(similarity="cosine"), ValueError, "similarity must be one of 'channel', 'vector'.*'cosine'"),
    "backend": (dict(backend="cuda"), ValueError, "backend must be one of .*'triton'.*'cuda'"),
    "groups": (dict(groups=3), ValueError, "groups .*3"),
    "groups-float": (dict(groups=1.0), TypeError, "groups .*1.0"),
    "integer-dtype": (dict(input=torch.ones(2, 4, 6, 7, dtype=torch.int32)), TypeError, "input .*int32"),
    "complex-dtype": (dict(weight=K.to(torch.complex64)), TypeError, "weight .*complex64"),
    "mixed-dtypes": (dict(weight=K.double()), TypeError, "weight is torch.float64 but input is torch.float32"),
    "mixed-devices": (dict(weight=K.to("meta")), ValueError, "weight is on meta but input is on cpu"),
    "kernel-too-large": (dict(weight=torch.randn(3, 4, 7, 7)), ValueError, "7 pixels of height.*6 of input"),
    "dilated-too-large": (dict(dilation=(1, 4)), ValueError, "9 pixels of width"),
    "reflect-too-large": (dict(padding_mode="reflect", padding=(6, 0)), ValueError, "reflect.*6"),
    "circular-too-large": (dict(padding_mode="circular", padding=(0, 8)), ValueError, "circular.*8"),
    "empty-image": (dict(input=U[:, :, :0], guidance=U[:, :, :0]), ValueError, "height"),
    "no-channels": (dict(input=U[:, :0], guidance=U[:, :0], weight=K[:, :0]), ValueError, "channels"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), DIFFERENCE.values(), ids=DIFFERENCE.keys())
def test_difference_convolution(change, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        sdc(**{"input": U, "guidance": U, "weight": K, **change})


R = torch.randn(2, 5, 6, 7)
W = torch.randn(3, 9, 1, 1)
FUSION = {
    "rank": (dict(input=U[0, 0]), ValueError, "input .*rank 2"),
    "weight": (dict(weight=torch.randn(3, 8, 1, 1)), ValueError, r"weight .*\[O, 9, 1, 1\].*\[3, 8, 1, 1\]"),
    "weight-kernel": (dict(weight=torch.randn(3, 9, 3, 3)), ValueError, "weight"),
    "response-size": (dict(response=R[:, :, 1:]), ValueError, r"response \[2, 5, 5, 7\].*\[2, 4, 6, 7\]"),
    "bias": (dict(bias=torch.ones(2)), ValueError, r"bias .*\[3\].*\[2\]"),
    "scale": (dict(scale=torch.ones(4)), ValueError, r"scale .*\[5\].*\[4\]"),
    "shift-integer": (dict(shift=torch.ones(5, dtype=torch.int64)), TypeError, "shift .*int64"),
    "activation": (dict(activation="gelu"), ValueError, "activation must be one of 'relu', 'identity', got 'gelu'"),
    "dtype": (dict(response=R.half()), TypeError, "response is torch.float16"),
    "device": (dict(response=R.to("meta")), ValueError, "response is on meta"),
    "empty": (dict(input=U[:, :, :0], response=R[:, :, :0]), ValueError, "empty"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), FUSION.values(), ids=FUSION.keys())
def test_fusion(change, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        fuse(**{"input": U, "response": R, "weight": W, **change})


MODULES = {
    "even-kernel": (lambda: SemanticDifferenceConv2d(4, 4, 2), ValueError, "odd"),
    "padding_mode": (lambda: SemanticDifferenceConv2d(4, 4, padding_mode="mirror"), ValueError, "padding_mode"),
    "diffusivity": (lambda: SDN(4, diffusivity="gauss"), ValueError, "diffusivity"),
    "contrast": (lambda: SDN(4, contrast=-1.0), ValueError, "contrast"),
    "groups": (
        lambda: SemanticDifferenceConv2d(4, 4, groups=3),
        ValueError,
        "groups must divide the 4 .* got 3",
    ),
    "activation": (lambda: FeatureFusion(4, 4, activation="tanh"), ValueError, "activation"),
    "zero_init": (lambda: SDN(4, out_channels=5, zero_init=True), ValueError, "out_channels=5, in_channels=4"),
    "no-stages": (lambda: SDNNeck([]), ValueError, "in_channels"),
    "stages": (lambda: SDNNeck([4, 8])([torch.randn(1, 4, 8, 8)]), ValueError, "2 stages.*got 1"),
    "unknown-keyword": (lambda: SDNNeck([4], contrasts=2.0), TypeError, "contrasts"),
}


@pytest.mark.parametrize(("make", "error", "message"), MODULES.values(), ids=MODULES.keys())
def test_modules(make, error, message):
    with pytest.raises(error, match=message):
        make()


SOLVER = {
    "step-2d": (dict(step_size=0.26), ValueError, "step_size .*1/4 in 2-D.*0.26"),
    "step-3d": (dict(input=torch.zeros(1, 1, 3, 3, 3), step_size=0.2), ValueError, "1/6 in 3-D"),
    "step-negative": (dict(step_size=-0.1), ValueError, "step_size"),
    "steps-negative": (dict(num_steps=-1), ValueError, "num_steps"),
    "guidance": (dict(guidance=torch.zeros(1, 1, 3, 3)), ValueError, "guidance"),
    "diffusivity": (dict(diffusivity="none"), ValueError, "diffusivity"),
}


@pytest.mark.parametrize(("change", "error", "message"), SOLVER.values(), ids=SOLVER.keys())
def test_solver(change, error, message):
    with pytest.raises(error, match=message):
        anisotropic_diffusion(**{"input": U, **change})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["input", "guidance"])
@pytest.mark.parametrize("padding_mode", ["zeros", "zero_flux", "replicate"])
def test_nan_and_inf_reach_what_the_kernel_reaches(name, value, padding_mode):
    tensors = dict(input=torch.randn(1, 2, 11, 12), guidance=torch.randn(1, 2, 11, 12), weight=torch.randn(3, 2, 3, 3))
    options = dict(padding=2, dilation=2, padding_mode=padding_mode)
    clean = sdc(**tensors, **options)
    tensors[name] = tensors[name].clone()
    tensors[name][0, 1, 5, 4] = value
    output = sdc(**tensors, **options)
    touched = torch.zeros(11, 12, dtype=torch.bool)
    touched[3:8:2, 2:7:2] = True
    assert torch.equal(output[..., ~touched], clean[..., ~touched])
    if name == "input" or value != value:  # infinite guidance damps to nothing: finite, and right
        assert not torch.isfinite(output[..., touched]).any()
