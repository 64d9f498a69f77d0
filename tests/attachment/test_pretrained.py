"""Networks with necks, saved and loaded the way their frameworks do."""

import doctest
import json

import pytest
import torch
from support.pyramid_network import stir
from torch import nn

from sdn_triton import attach

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")

from sdn_triton.integrations import pretrained
from sdn_triton.integrations.pretrained import FILE, from_pretrained, save_pretrained


class Network(nn.Module, huggingface_hub.PyTorchModelHubMixin):
    """An encoder of two stages of a width, and a head for them."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.head = Head(width)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = self.fine(image)
        return self.head([self.coarse(fine), fine])


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(width, 2, 1), nn.Conv2d(2 * width, 2, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        coarse, fine = features
        return self.fine(fine) + nn.functional.interpolate(self.coarse(coarse), scale_factor=2)


class TwoNames(Network):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.head


IMAGE = torch.randn(2, 3, 16, 16)
OPTIONS = {
    "as they are": {},
    "others": dict(kernel_size=(3, 5), dilation=2, padding_mode="zero_flux", diffusivity="rational", eps=1e-3),
    "contrast": dict(contrast=[0.3, torch.rand(8) + 0.5]),
    "learned": dict(contrast=0.3, learn_contrast=True),
    "vector": dict(similarity="vector", bias=True, momentum=None, zero_init=True),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_network_comes_back_as_it_was(options, tmp_path):
    model = Network(width=4).eval()
    stir(attach(model, "head", example=IMAGE, **options))
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(Network, tmp_path)
    assert type(loaded) is Network
    assert torch.equal(loaded(IMAGE), model(IMAGE))
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert repr(loaded.head.sdn_neck) == repr(model.head.sdn_neck)


def test_several_necks_of_chosen_features(tmp_path):
    model = Network().eval()
    stir(attach(model, "fine", channels=4, side="output", name="second"))
    stir(attach(model, "head", channels=4, select=[1]))
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(Network, tmp_path)
    assert torch.equal(loaded(IMAGE), model(IMAGE))


def test_the_order_of_features_that_an_example_told(tmp_path):
    """Of features of one size and one number of channels nothing else would tell it."""
    model = Network().eval()
    attach(model, "head", example=IMAGE)
    save_pretrained(model, tmp_path)
    hook = next(iter(from_pretrained(Network, tmp_path).head._forward_pre_hooks.values()))
    assert hook.coarse_to_fine is True


def test_options_are_written_as_they_are(tmp_path):
    """Not as they were given: who sets eps in all normalisations sets that of necks, too."""
    model = Network().eval()
    stir(attach(model, "head", example=IMAGE))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-2, 0.3
    for stage in model.head.sdn_neck.stages:
        stage.sdc.diffusivity = "rational"
    save_pretrained(model, tmp_path)
    assert torch.equal(from_pretrained(Network, tmp_path)(IMAGE), model(IMAGE))
    model.head.sdn_neck.stages[0].sdc.diffusivity = "exponential"
    with pytest.raises(ValueError, match=r"'sdn_neck' at 'head' have different options.*exponential.*rational"):
        save_pretrained(model, tmp_path)


def test_other_weights_in_the_folder_are_not_taken(tmp_path):
    model = Network().eval()
    neck = attach(model, "head", example=IMAGE)
    save_pretrained(model, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "old.safetensors")
    stir(neck)
    save_pretrained(model, tmp_path)
    assert torch.equal(from_pretrained(Network, tmp_path)(IMAGE), model(IMAGE))


def test_a_part_with_two_names_and_a_compiled_network(tmp_path):
    model = TwoNames().eval()
    stir(attach(model, "head", example=IMAGE))
    save_pretrained(torch.compile(model, backend="eager"), tmp_path)
    assert torch.equal(from_pretrained(TwoNames, tmp_path)(IMAGE), model(IMAGE))


def test_a_neck_of_another_dtype_keeps_it(tmp_path):
    model = Network()
    attach(model, "head", example=IMAGE, dtype=torch.float64)
    save_pretrained(model, tmp_path)
    assert {p.dtype for p in from_pretrained(Network, tmp_path).head.sdn_neck.parameters()} == {torch.float64}
    assert {p.dtype for p in from_pretrained(Network, tmp_path).head.fine.parameters()} == {torch.float32}


def test_transformers(tmp_path, caplog):
    transformers = pytest.importorskip("transformers")
    kind = transformers.SegformerForSemanticSegmentation
    sizes = dict(hidden_sizes=[8, 16], num_encoder_blocks=2, decoder_hidden_size=8, depths=[1, 1], num_labels=3)
    heads = dict(num_attention_heads=[1, 1], sr_ratios=[2, 1], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2])
    model = kind(transformers.SegformerConfig(**sizes, **heads)).eval()
    stir(attach(model, "decode_head", channels=[8, 16], contrast=0.7))
    save_pretrained(model, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    with caplog.at_level("WARNING"):
        loaded = from_pretrained(kind, tmp_path)
    assert "sdn_neck" not in caplog.text
    image = torch.randn(1, 3, 64, 64)
    assert type(loaded) is kind
    assert torch.equal(loaded(image).logits, model(image).logits)


def test_without_this_library_the_network_loads_and_lacks_the_neck(tmp_path):
    model = Network().eval()
    attach(model, "head", example=IMAGE, zero_init=True)
    save_pretrained(model, tmp_path)
    assert torch.allclose(Network.from_pretrained(tmp_path)(IMAGE), model(IMAGE))
    with pytest.raises(RuntimeError, match="sdn_neck"):
        Network.from_pretrained(tmp_path, strict=True)


def test_what_is_refused(tmp_path):
    with pytest.raises(TypeError, match="Linear has no save_pretrained"):
        save_pretrained(nn.Linear(1, 1), tmp_path)
    with pytest.raises(ValueError, match="no neck is attached to this Network"):
        save_pretrained(Network(), tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no {FILE} in 'somebody/network'.*snapshot_download"):
        from_pretrained(Network, "somebody/network")
    model = Network()
    attach(model, "head", example=IMAGE)
    with pytest.raises(ValueError, match="push_to_hub"):
        save_pretrained(model, tmp_path, push_to_hub=True)
    assert not list(tmp_path.iterdir())
    save_pretrained(model, tmp_path)
    necks = json.loads((tmp_path / FILE).read_text())
    necks[0]["options"]["bias"] = True
    (tmp_path / FILE).write_text(json.dumps(necks))
    with pytest.raises(RuntimeError, match="Missing key"):
        from_pretrained(Network, tmp_path)


def test_the_example_in_the_docstring():
    results = doctest.testmod(pretrained)
    assert results.attempted > 0
    assert results.failed == 0
