"""What a neck and a block may be given: mappings, no guidance, numbers of numpy; what is refused, and how."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from support.tiny_networks import TORCHVISION, SumHead
from torch import Tensor, nn

from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, attach, semantic_difference_conv2d

CHANNELS = (4, 6, 8)


def stages(channels=CHANNELS) -> list[Tensor]:
    return [torch.randn(2, c, 16 >> i, 20 >> i) for i, c in enumerate(channels)]


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_mapping_keeps_its_keys(kind):
    neck, features = SDNNeck(CHANNELS).eval(), stages()
    outputs = neck(kind(zip("abc", features)))
    assert type(outputs) is kind
    assert list(outputs) == list("abc")
    assert all(torch.equal(a, b) for a, b in zip(outputs.values(), neck(features)))
    aligned = neck.align_guidance(kind(zip("abc", features)))
    assert all(torch.equal(a, b) for a, b in zip(aligned, neck.align_guidance(features)))
    compiled = torch.compile(neck, fullgraph=True, backend="eager")(kind(zip("abc", features)))
    assert list(compiled) == list("abc")


def test_torchvisions_feature_pyramid():
    for package in TORCHVISION:
        pytest.importorskip(package)
    from torchvision.ops import FeaturePyramidNetwork

    pyramid = FeaturePyramidNetwork(CHANNELS, 5)
    outputs = SDNNeck([5] * 3)(pyramid(OrderedDict(zip("abc", stages()))))
    assert [list(output.shape) for output in outputs.values()] == [[2, 5, 16, 20], [2, 5, 8, 10], [2, 5, 4, 5]]


def test_a_block_without_guidance_guides_itself():
    block, u = SDN(4).eval(), torch.randn(2, 4, 9, 8)
    assert torch.equal(block(u), block(u, u))
    assert block.align_guidance(u) is u
    with pytest.raises(
        ValueError, match=r"guidance \[2, 4, 9, 8\] has 4 channels, but this block is for 6: .*guidance_ch"
    ):
        SDN(4, 6)(u)


U, V = torch.randn(2, 4, 9, 8), torch.randn(2, 6, 4, 5)
ERRORS = {
    "guidance channels": (lambda: SDN(4, 6)(U, V[:, :5]), ValueError, r"has 5 channels, but this block is for 6"),
    "guidance unprojected": (lambda: SDN(4)(U, V), ValueError, r"for 4: make it with guidance_channels=6"),
    "guidance aligned": (lambda: SDN(4).align_guidance(U, V), ValueError, r"for 4: make it with guidance_channels=6"),
    "guidance type": (lambda: SDN(4)(U, [V]), TypeError, "guidance must be a Tensor .*got list"),
    "input type": (lambda: SDN(4)([U], V), TypeError, "input must be a Tensor .*got list"),
    "none": (lambda: SDNNeck([4, 6])([U, None]), TypeError, r"stage 1 must be a Tensor .*got NoneType"),
    "rank": (lambda: SDNNeck([4, 6])([U, V.flatten(1)]), ValueError, r"stage 1 must have the shape .*got \[2, 120\]"),
    "reversed": (
        lambda: SDNNeck([6, 4])([U, V]),
        ValueError,
        r"\[6, 4\] channels, fine to coarse, got \[2, 4, 9, 8\], \[2, 6, 4, 5\]; they come in the opposite order",
    ),
    "channels": (lambda: SDNNeck([4, 5])([U, V]), ValueError, r"must have \[4, 5\] channels.*got \[2, 4, 9, 8\]"),
    "coarse to fine": (lambda: SDNNeck([4, 4])([U[..., ::2], U]), ValueError, "must come fine to coarse, got"),
    "keys": (lambda: SDNNeck([4, 6])({"a": U}), ValueError, "must have 2 stages, fine to coarse, got 1"),
    "in_channels": (lambda: SDNNeck([4, 0]), ValueError, r"in_channels must be positive.*\[4, 0\]"),
    "in_channels text": (lambda: SDNNeck("ab"), TypeError, "in_channels must be an int or a sequence.* got 'ab'"),
    "in_channels float": (lambda: SDN(4.0), TypeError, "in_channels must be an int, got 4.0"),
    "guidance_channels": (lambda: SDN(4, 0), ValueError, "guidance_channels must be at least 1, got 0"),
    "response_channels": (lambda: FeatureFusion(4, True), TypeError, "response_channels must be an int, got True"),
    "groups": (lambda: SDNNeck([4, 6], groups=4), ValueError, "groups must divide the 6 channels of input and the 6"),
    "groups zero": (lambda: SDN(4, groups=0), ValueError, "groups must be at least 1, got 0"),
    "groups float": (lambda: SemanticDifferenceConv2d(4, 4, groups=2.0), TypeError, "groups must be an int, got 2.0"),
    "kernel_size": (lambda: SDN(4, kernel_size=1), ValueError, r"kernel_size must have more .*\(1, 1\).* the bias"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_channels_given_in_the_opposite_order():
    model = SumHead(CHANNELS)
    with pytest.raises(ValueError, match=r"channels=\[4, 6, 8\] would be"):
        attach(model, "", CHANNELS[::-1], example=(stages(),))


INTEGERS = {"int": int, "int32": np.int32, "int64": np.int64, "uint8": np.uint8}


@pytest.mark.parametrize("number", INTEGERS.values(), ids=INTEGERS.keys())
def test_integers_of_numpy(number):
    def pair(value):
        return number(value), number(value)

    sizes = dict(kernel_size=number(3), stride=pair(2), padding=number(1), dilation=number(1), groups=number(2))
    layer = SemanticDifferenceConv2d(number(4), number(6), **sizes)
    reference = SemanticDifferenceConv2d(4, 6, 3, 2, 1, 1, 2)
    reference.load_state_dict(layer.state_dict())
    assert torch.equal(layer(U), reference(U))
    assert {type(n) for n in (layer.in_channels, layer.groups, *layer.kernel_size, *layer.stride)} == {int}
    options = dict(stride=pair(2), padding=number(1), dilation=np.array([1, 1]), groups=number(2))
    for _ in range(2):  # a call that was checked before is remembered
        assert torch.equal(semantic_difference_conv2d(U, U, layer.weight, layer.bias, **options), layer(U))
    neck = SDNNeck(np.array([4, 6]), kernel_size=number(3), groups=number(2))
    assert [output.shape for output in neck([U, V])] == [U.shape, V.shape]
    assert len(SDNNeck(number(4)).stages) == 1
    SDN(number(4), number(6), number(5), response_channels=number(3))(U, V)
    FeatureFusion(number(4), number(6), number(5))(U, torch.randn(2, 6, 9, 8))


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64], ids=str)
def test_a_contrast_of_numpy(number):
    weight = torch.randn(4, 4, 3, 3)
    assert torch.equal(
        semantic_difference_conv2d(U, U, weight, contrast=number(2)),
        semantic_difference_conv2d(U, U, weight, contrast=2.0),
    )
    block = SDN(4, contrast=number(2))
    assert type(block.sdc.contrast) is float
    torch.export.export(block.eval(), (U, U))
    compiled = torch.compile(lambda u, w: semantic_difference_conv2d(u, u, w, contrast=number(2)), backend="eager")
    assert torch.equal(compiled(U, weight), semantic_difference_conv2d(U, U, weight, contrast=2.0))


def test_a_public_checkpoint_without_a_count_of_batches():
    """As written before PyTorch 0.4.1."""
    block = SDN(4)
    norm = {
        f"BN.{name}": value for name, value in nn.BatchNorm2d(4).state_dict().items() if name != "num_batches_tracked"
    }
    state = {"SDC.weight": torch.randn(4, 4, 3, 3), "out.weight": torch.randn(4, 8, 1, 1), "out.bias": torch.randn(4)}
    block.load_unfold_state_dict({**state, **norm})
    assert torch.equal(block.sdc.weight, state["SDC.weight"])
    with pytest.raises(ValueError, match=r"missing keys \['BN.running_var'\]"):
        block.load_unfold_state_dict({**state, **{k: v for k, v in norm.items() if k != "BN.running_var"}})
