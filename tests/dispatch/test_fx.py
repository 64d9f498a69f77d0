"""torch.fx: networks with these layers, each a call in the graph; feature extractors made of such."""

import pytest
import torch
from support.pyramid_network import CHANNELS, Pyramid, stir
from support.tiny_networks import TORCHVISION, SumHead
from torch import Tensor, nn

from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, attach


class Network(nn.Module):
    """Every kind of layer, in the ways in which they may be called."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Pyramid()
        self.neck = SDNNeck(CHANNELS, contrast=0.5)
        self.block = SDN(CHANNELS[0], CHANNELS[1], learn_contrast=True)
        self.layer = SemanticDifferenceConv2d(CHANNELS[0], 5, padding=1)
        self.fusion = FeatureFusion(CHANNELS[0], 5)

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, coarse = self.neck(self.encoder(x))
        sharp = self.block(fine, middle)
        return self.fusion(self.block(sharp, guidance=middle), self.layer(sharp)).sum() + coarse.sum()


def called(graph: torch.fx.GraphModule) -> set[str]:
    return {node.target for node in graph.graph.nodes if node.op == "call_module"}


@pytest.mark.parametrize("training", [False, True])
def test_symbolic_trace(training):
    model, x = Network().train(training), torch.randn(2, 3, 32, 40)
    graph = torch.fx.symbolic_trace(model)
    assert called(graph) >= {"neck", "block", "layer", "fusion"}
    assert torch.equal(graph(x), model(x))
    graph(x).backward()
    assert model.neck.stages[0].sdc.weight.grad is not None


class Listed(nn.Module):
    """An encoder, and a head that takes its list."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Pyramid(), SumHead(CHANNELS)
        self.head.forward = lambda features: sum(conv(f).sum() for conv, f in zip(self.head.project, features))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_neck_that_was_attached(side):
    model, x = Listed().eval(), torch.randn(2, 3, 32, 40)
    at = {"input": "head", "output": "encoder"}[side]
    neck = attach(model, at, CHANNELS, side=side)
    with pytest.raises(ValueError, match=f"the neck at the {side} of '{at}': torch.fx .*call the model once before"):
        torch.fx.symbolic_trace(model)
    stir(neck)
    expected = model(x)
    graph = torch.fx.symbolic_trace(model)
    assert f"{at}.sdn_neck" in called(graph)
    torch.testing.assert_close(graph(x), expected)


def test_a_neck_that_was_attached_with_an_example():
    model, x = Listed().eval(), torch.randn(2, 3, 32, 40)
    stir(attach(model, "head", example=x))
    graph = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(graph(x), model(x))


def test_a_feature_extractor_of_torchvision():
    for package in TORCHVISION:
        pytest.importorskip(package)
    from torchvision.models.feature_extraction import create_feature_extractor

    model, x = Network().eval(), torch.randn(2, 3, 32, 40)
    found = create_feature_extractor(model, {"block": "sharp", "layer": "response"})(x)
    fine, middle, _ = model.neck(model.encoder(x))
    assert torch.equal(found["sharp"], model.block(fine, middle))
    assert torch.equal(found["response"], model.layer(found["sharp"]))
