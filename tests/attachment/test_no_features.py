"""attach: images and maps with their channels last are no features; how to say that they are."""

import pytest
import torch
from support.pyramid_network import CHANNELS, Network, image, make
from support.tiny_networks import SMP, TIMM, SumHead, smp_network
from torch import Tensor, nn

from sdn_triton import attach

SMP_DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
                "Segformer")  # fmt: skip


class ChannelsLast(Network):
    """What some transformers return: ``[N, H, W, C]``."""

    def forward(self, image: Tensor) -> Tensor:
        return self.decode_head([feature.permute(0, 2, 3, 1) for feature in self.encoder(image)])


class WithImage(Network):
    """Hands the image on, normalised, as the first of the features."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        scales = torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)
        return self.decode_head([self.scale * scales * image - scales, *self.encoder(image)])


@pytest.mark.parametrize("size", [(32, 40), (40, 40), (64, 16), (35, 61)], ids=str)
def test_maps_with_their_channels_last_are_refused(size):
    model = ChannelsLast().eval()
    model.decode_head.forward = lambda features: features[0].sum()
    with pytest.raises(ValueError, match=r"\[N, H, W, C\].*give channels="):
        attach(model, "decode_head", example=image(1, *size))
    with torch.no_grad():
        found = [feature.shape[2] for feature in model.encoder(image(1, *size))]
    attach(model, "decode_head", found, example=image(1, *size))


@pytest.mark.parametrize("size", [(32, 40), (8, 8), (64, 16), (35, 61)], ids=str)
def test_features_of_any_proportions_are_taken(size):
    attach(make(), "decode_head", example=image(1, *size))
    pooled = make(call=lambda head, f: head([f[0], f[1], f[2].mean((2, 3), keepdim=True)]))
    attach(pooled, "decode_head", example=image(1, *size))


@pytest.mark.parametrize("scale", [1.0, -0.1])
def test_the_image_among_the_features_is_refused(scale):
    model, x = WithImage(scale).eval(), image()
    with pytest.raises(ValueError, match=r"own input among \[2, 3, 32, 40\].* at place 0.*by select=\[1, 2, 3\]"):
        attach(model, "decode_head", example=x)
    neck = attach(model, "decode_head", example=x, select=[1, 2, 3])
    assert [stage.sdc.in_channels for stage in neck.stages] == list(CHANNELS)
    named = attach(WithImage(scale).eval(), "decode_head", example=x, select=[0, 1, 2, 3])
    assert [stage.sdc.in_channels for stage in named.stages] == [3, *CHANNELS]


def test_the_image_of_the_whole_model_is_refused():
    with pytest.raises(ValueError, match=r"the input of ''.*attach to a part behind the encoder"):
        attach(make(), "", example=image())
    attach(make(), "", example=image(), select=[0])


def test_what_a_stem_makes_of_the_image_is_a_feature():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)).eval()
    attach(model, "1", example=image())


def test_a_decoder_may_be_given_its_features():
    features = [torch.randn(1, channels, 8, 8) for channels in (3, 4)]
    attach(SumHead([3, 4]).eval(), "", example=(features,))
    attach(nn.Sequential(nn.Conv2d(5, 2, 1)), "", example=torch.randn(1, 5, 8, 8))


@pytest.mark.parametrize("kind", SMP_DECODERS)
def test_the_image_is_refused_in_segmentation_models_pytorch(kind):
    for package in SMP:
        pytest.importorskip(package)
    model, x = smp_network(kind).eval(), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"own input among .* at place 0.*by select=\[1, 2, 3"):
        attach(model, "decoder", example=x)
    with pytest.raises(ValueError, match=r"the output of 'encoder'.*own input among .* at place 0"):
        attach(model, "encoder", example=x, side="output")


def swin(**options) -> nn.Module:
    for package in TIMM:
        pytest.importorskip(package)
    import timm

    sizes = dict(img_size=64, window_size=2, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    return timm.create_model("swin_tiny_patch4_window7_224", features_only=True, **sizes, **options).eval()


def test_a_swin_encoder_of_timm():
    x = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"\[1, 16, 16, 8\].*\[N, H, W, C\]"):
        attach(swin(), "", example=x, side="output")
    encoder = swin(feature_cls="getter")  # which permutes, see docs/networks.md
    neck = attach(encoder, "", example=x, side="output")
    assert [stage.sdc.in_channels for stage in neck.stages] == [8, 16, 32, 64]
    assert list(encoder(x)[0].shape) == [1, 8, 16, 16]
