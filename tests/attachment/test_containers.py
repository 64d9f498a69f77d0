"""attach: encoders that are containers and run what they hold: the neck is called there and held inside."""

import copy
import io
import pickle
from collections import OrderedDict

import pytest
import torch
from support.pyramid_network import attributes, stir
from support.tiny_networks import TIMM, TORCHVISION
from torch import Tensor, nn

from sdn_triton import attach, detach


class Getter(nn.ModuleDict):
    """Runs all that it holds and returns what two of them gave."""

    def __init__(self) -> None:
        block = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        super().__init__({"body": nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()), "deep": block})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = OrderedDict()
        for name, module in self.items():
            x = found[name] = module(x)
        return found


class Stack(nn.Sequential):
    """A sequence that returns every step."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x := module(x) for module in self]


def timm_encoder() -> nn.Module:
    for package in TIMM:
        pytest.importorskip(package)
    import timm

    return timm.create_model("resnet10t", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))


def torchvision_encoder() -> nn.Module:
    for package in TORCHVISION:
        pytest.importorskip(package)
    from torchvision.models import resnet
    from torchvision.models._utils import IntermediateLayerGetter

    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    return IntermediateLayerGetter(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]), layers)


ENCODERS = {
    "mapping": (Getter, "body.0"),
    "sequence": (lambda: Stack(*Getter().values()), "0.0"),
    "timm": (timm_encoder, "conv1.0"),
    "torchvision": (torchvision_encoder, "conv1"),
}


class Network(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.encoder(x)
        return list(features.values()) if isinstance(features, dict) else list(features)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize(("make", "holder"), ENCODERS.values(), ids=ENCODERS.keys())
def test_the_outputs_pass_a_neck_that_is_held_inside(make, holder):
    model, x = Network(make()).eval(), torch.randn(1, 3, 64, 64)
    before, held = model(x), attributes(model)
    neck = attach(model, "encoder", example=x, side="output")
    stir(neck)
    assert model.get_submodule(f"encoder.{holder}.sdn_neck") is neck
    assert equal(model(x), list(neck(before)))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert equal(twin(x), model(x))
        assert twin.get_submodule(f"encoder.{holder}.sdn_neck") is not neck
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = Network(make()).eval()
    attach(again, "encoder", [f.shape[1] for f in before], side="output")
    again.load_state_dict(torch.load(file))
    assert equal(again(x), model(x))
    sum(output.sum() for output in model.train()(x)).backward()
    assert all(p.grad is not None for p in neck.parameters())
    model.eval()
    with pytest.raises(ValueError, match=f"attached are: 'encoder.{holder}.sdn_neck'"):
        detach(model, "encoder")
    assert detach(model, "encoder", side="output") is neck
    assert attributes(model) == held


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_container_compiles_with_its_neck(side):
    model, x = Network(Getter()).eval(), torch.randn(1, 3, 16, 16)
    stir(attach(model, "encoder", example=x, side=side, **({"select": [0]} if side == "input" else {})))
    expected = model(x)
    got = torch.compile(model, fullgraph=True, backend="eager")(x)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_container_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="is a Stack that is never called, or holds nothing"):
        attach(Stack(), "", 3)
