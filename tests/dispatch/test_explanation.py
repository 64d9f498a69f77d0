"""What explain() prints: which modules call the operators, and nothing twice."""

import torch
from torch import nn

from sdn_triton import SDN, SDNNeck, SemanticDifferenceConv2d, explain, semantic_difference_conv2d

FEATURES = [torch.randn(1, channels, side, side) for channels, side in ((4, 8), (8, 4), (8, 2))]


class ByHand(nn.Module):
    """Calls a function, and a block, as a network of somebody else's would."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.block = SDN(4)

    def forward(self, x):
        return self.block(semantic_difference_conv2d(x, x, self.weight, padding=1), x)


def test_every_call_has_its_module():
    found = explain(SDNNeck([4, 8, 8]), FEATURES).decisions
    assert [d.module for d in found] == [f"stages.{i}.{part}" for i in range(3) for part in ("sdc", "fusion")]


def test_what_holds_for_several_modules_is_said_once():
    text = str(explain(SDNNeck([4, 8, 8]), FEATURES))
    assert text == (
        "semantic_difference_conv2d: eager (the tensors are on cpu)\n"
        "    in stages.0.sdc, stages.1.sdc, stages.2.sdc\n"
        "        all taps at once, as for every small map\n"
        "feature_fusion: eager (the tensors are on cpu)\n"
        "    in stages.0.fusion, stages.1.fusion, stages.2.fusion"
    )


def test_what_differs_stands_under_its_own_modules():
    large = [torch.randn(1, 4, 256, 256), torch.randn(1, 8, 4, 4)]
    text = str(explain(SDNNeck([4, 8]), large))
    assert text.count("semantic_difference_conv2d: eager (the tensors are on cpu)") == 1
    first, second = text.index("    in stages.0.sdc\n"), text.index("    in stages.1.sdc\n")
    assert first < text.index("link by link") < second < text.index("all taps at once, as for every small map")


def test_functions_called_in_a_module_are_its_own():
    found = explain(nn.Sequential(ByHand(), ByHand()), FEATURES[0]).decisions
    assert [d.module for d in found] == [f"{i}{part}" for i in range(2) for part in ("", ".block.sdc", ".block.fusion")]


def test_a_layer_alone_and_functions_have_no_name():
    layer = SemanticDifferenceConv2d(4, 4, padding=1)
    assert " in " not in str(explain(layer, FEATURES[0]))
    assert [d.module for d in explain(lambda x: layer(x), FEATURES[0]).decisions] == [""]


def test_a_fused_block_is_one_call_of_the_block():
    neck = SDNNeck([4, 8, 8], backend="triton").eval().requires_grad_(False)
    found = explain(neck, FEATURES).decisions
    assert [d.module for d in found] == ["stages.0", "stages.1", "stages.2"]
