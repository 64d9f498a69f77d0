"""The contrast is part of a layer's state, whatever its form: saved, loaded, moved, and set by assigning it."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from support.devices import DEVICE
from support.pyramid_network import CHANNELS, image, make
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.func import functional_call

from sdn_triton import SemanticDifferenceConv2d, attach, semantic_difference_conv2d, suggest_contrast

C = 4
ONE = 0.1  # no float32 is that number
VALUES = torch.tensor([0.2, 0.3, 0.4, 0.5])

FORMS = {
    "number": dict(contrast=ONE),
    "scalar": dict(contrast=torch.tensor(ONE)),
    "channels": dict(contrast=VALUES),
    "learned": dict(contrast=ONE, learn_contrast=True),
    "learned-channels": dict(contrast=VALUES, learn_contrast=True),
}
every_form = pytest.mark.parametrize("form", FORMS)


def layer(form: str = "number", **changes) -> SemanticDifferenceConv2d:
    return SemanticDifferenceConv2d(C, C, padding=1, **{**FORMS[form], **changes}).to(DEVICE)


def values(module: SemanticDifferenceConv2d) -> Tensor:
    """The contrast of each channel that a call would use."""
    return torch.as_tensor(module.current_contrast(), dtype=torch.float64).detach().cpu().expand(C)


def without_contrast(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint from before the contrast was part of the state."""
    return {key: value for key, value in state.items() if not key.endswith("sdc.contrast") and key != "contrast"}


def test_the_guides_recipe_survives_saving_and_loading():
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS)
    stages = neck.align_guidance(model.encoder(x))
    for stage, guidance in zip(neck.stages, stages):
        stage.sdc.contrast = suggest_contrast(guidance, 0.1)
    neck.stages[1].sdc.contrast = suggest_contrast(stages[1], per_channel=True)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = make()
    attach(again, "decode_head", CHANNELS)
    assert again.load_state_dict(torch.load(file, weights_only=True)) == ([], [])
    assert torch.equal(again(x), model(x))


@every_form
@pytest.mark.parametrize("target", FORMS)
def test_every_form_loads_into_every_other(form, target):
    """Those of one value per channel do not fit where one is learned for all; all else keeps its values."""
    source, other = layer(form), layer(target, contrast=torch.full((C,), 9.0) if "channels" in target else 9.0)
    if "channels" in form and target == "learned":
        with pytest.raises(RuntimeError, match="size mismatch for log_contrast"):
            other.load_state_dict(source.state_dict())
        return
    assert other.load_state_dict(source.state_dict()) == ([], [])
    exact = "learned" not in (form + target) and "scalar" not in (form, target) and "channels" not in target
    torch.testing.assert_close(values(other), values(source), rtol=0 if exact else 1e-6, atol=0)
    other.load_state_dict(other.state_dict())
    assert other.learn_contrast == ("learned" in target)


@every_form
def test_a_round_trip_keeps_every_bit(form):
    source, again = layer(form), layer(form, contrast=3 * FORMS[form]["contrast"])
    again.load_state_dict(source.state_dict())
    u, v = torch.randn(2, 1, C, 6, 7, device=DEVICE)
    assert torch.equal(again(u, v), source(u, v))
    for twin in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert torch.equal(twin(u, v), source(u, v))


@every_form
def test_a_round_trip_through_distributed_checkpoints(form):
    """They go by the names of attributes."""
    model = nn.Sequential(layer(form))
    other = nn.Sequential(layer(form, contrast=3 * FORMS[form]["contrast"]))
    set_model_state_dict(other, get_model_state_dict(model))
    assert torch.equal(values(other[0]), values(model[0]))


@every_form
@pytest.mark.parametrize(
    "value",
    [0.7, np.float32(0.7), 2, torch.tensor(0.7), torch.full((C,), 0.7)],
    ids=["float", "numpy", "int", "scalar", "channels"],
)
def test_assigning_sets(form, value):
    module = layer(form)
    if form == "learned" and getattr(value, "shape", ()) == (C,):
        with pytest.raises(ValueError, match=r"contrast must be one number, .*got \[4\]"):
            module.contrast = value
        assert values(module)[0].item() == pytest.approx(ONE)
        return
    trained = getattr(module, "log_contrast", None)
    module.contrast = value
    assert getattr(module, "log_contrast", None) is trained  # an optimizer holds it
    assert values(module).tolist() == pytest.approx([float(torch.as_tensor(value).max())] * C, rel=1e-6)
    u, v = torch.randn(2, 1, C, 6, 7, device=DEVICE)
    given = torch.as_tensor(value).to(DEVICE) if isinstance(value, Tensor) else value
    expected = semantic_difference_conv2d(u, v, module.weight, module.bias, padding=1, contrast=given)
    torch.testing.assert_close(module(u, v), expected)
    again = layer(form)
    assert again.load_state_dict(module.state_dict()) == ([], [])
    torch.testing.assert_close(values(again), values(module), rtol=1e-6, atol=0)
    module.reset_parameters()
    assert values(module).tolist() == pytest.approx(values(again).tolist(), rel=1e-6)


def test_an_assigned_tensor_is_the_layers_own():
    module, other, given = layer(), layer(), VALUES.clone()
    module.contrast = other.contrast = given
    given.fill_(7)
    other.contrast.fill_(8)
    assert torch.equal(module.contrast.cpu(), VALUES)
    assert "contrast" in dict(module.named_buffers())
    assert module.to("meta").contrast.is_meta
    assert layer(dtype=torch.float64, contrast=VALUES).contrast.dtype == torch.float64
    assert layer("learned", dtype=torch.float64).log_contrast.dtype == torch.float64


def test_an_assigned_tensor_that_asks_for_a_gradient_gets_one():
    module, scale = layer(), torch.ones(C, device=DEVICE, requires_grad=True)
    u, v = torch.randn(2, 1, C, 6, 7, device=DEVICE)
    module.contrast = 0.5 * scale
    module(u, v).square().sum().backward()
    assert scale.grad.abs().sum() > 0
    module.contrast = nn.Parameter(VALUES.to(DEVICE))
    assert "contrast" in dict(module.named_parameters())
    module(u, v).sum().backward()
    assert module.contrast.grad is not None
    assert functional_call(module, {"contrast": VALUES.to(DEVICE) * 2}, (u, v)).isfinite().all()
    module.contrast = 0.5
    assert "contrast" not in dict(module.named_parameters())
    assert module.contrast == 0.5


@every_form
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0.0, ValueError, "contrast must be positive and finite, got 0.0"),
        (True, TypeError, "contrast must be a float or a Tensor, got bool"),
        (None, TypeError, "contrast must be a float or a Tensor, got NoneType"),
        (torch.tensor(-1.0), ValueError, "contrast must be positive"),
        (torch.ones(C + 1), ValueError, r"contrast must have the shape \[\] or \[4\].*\[5\]"),
    ],
    ids=["zero", "bool", "none", "negative", "channels"],
)
def test_what_is_no_contrast_is_refused_and_changes_nothing(form, value, error, message):
    module = layer(form)
    before = values(module)
    with pytest.raises(error, match=message):
        module.contrast = value
    assert torch.equal(values(module), before)
    if isinstance(value, Tensor):
        with pytest.raises(RuntimeError, match=f"contrast: {message}"):
            module.load_state_dict({**layer().state_dict(), "contrast": value})
        assert torch.equal(values(module), before)


@pytest.mark.parametrize("form", ["number", "scalar", "channels"])
def test_an_older_checkpoint_loads_with_one_word(form):
    model = make()
    neck = attach(model, "decode_head", CHANNELS)
    old = without_contrast(model.state_dict())
    again = make()
    own = attach(again, "decode_head", CHANNELS, contrast=0.25)
    for stage in own.stages:
        if form != "number":
            stage.sdc.contrast = torch.full((stage.sdc.in_channels,) if form == "channels" else (), 0.25)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        assert again.load_state_dict(old) == ([], [])
    shown = {str(warning.message).partition("keeps ")[2].partition(". Assign")[0] for warning in said}
    assert len(said) == len(shown)  # once, but for layers that keep different ones
    assert (
        shown
        == {
            "number": {"contrast=0.25"},
            "scalar": {"contrast=Tensor[]"},
            "channels": {f"contrast=Tensor[{channels}]" for channels in CHANNELS},
        }[form]
    )
    for stage, source in zip(own.stages, neck.stages):
        assert torch.equal(stage.sdc.weight, source.sdc.weight)
        assert torch.all(torch.as_tensor(stage.sdc.contrast) == 0.25)


def test_a_checkpoint_without_the_layer_lacks_its_contrast_as_all_else():
    model = make()
    plain = model.state_dict()
    attach(model, "decode_head", CHANNELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        missing, _ = model.load_state_dict(plain, strict=False)
    assert "decode_head.sdn_neck.stages.0.sdc.contrast" in missing


def test_loading_by_assignment_onto_the_meta_device():
    source = layer("channels")
    with torch.device("meta"):
        empty = SemanticDifferenceConv2d(C, C, padding=1)
    empty.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(values(empty), values(source))
