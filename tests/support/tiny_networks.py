"""Networks of other frameworks, as small as their configurations allow, with random weights, and where a neck goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from torch import Tensor, nn

CLASSES = 3
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def listed(args: Any, kwargs: Any) -> list[Tensor]:
    """Features in a list that is the first argument."""
    return list(args[0])


def single(args: Any, kwargs: Any) -> list[Tensor]:
    """One feature map, the first argument."""
    return [args[0]]


@dataclass(frozen=True)
class Case:
    """A network: how it is made, where the neck goes, the channels there by the network's own account."""

    make: Callable[[], nn.Module]
    at: str
    channels: Callable[[Any], Sequence[int]]
    entering: Callable[[Any, Any], list[Tensor]] = listed
    options: dict[str, Any] = field(default_factory=dict)
    inside: str = ""  # below ``at``, where that is a plain nn.Sequential
    fullgraph: bool = True
    requires: tuple[str, ...] = ()

    def made(self) -> nn.Module:
        for package in self.requires:
            pytest.importorskip(package, reason=f"{package} is not installed: `make test` installs it")
        return self.make().eval()

    @property
    def host(self) -> str:
        return f"{self.at}.{self.inside}" if self.inside else self.at


def segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = dict(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16)
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES, **sizes))


def swin() -> Any:
    from transformers import SwinConfig

    sizes = dict(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2, image_size=64)
    return SwinConfig(out_features=STAGES, **sizes)


def convnext() -> Any:
    from transformers import ConvNextConfig

    return ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], out_features=STAGES)


def upernet(backbone: Callable[[], Any], third: int) -> nn.Module:
    from transformers import UperNetConfig, UperNetForSemanticSegmentation

    sizes = dict(hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=third)
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone(), num_labels=CLASSES, **sizes))


def mask2former() -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    widths = dict(feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32, dim_feedforward=32)
    depths = dict(encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=4)
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=swin(), num_labels=CLASSES, **widths, **depths)
    )


def dpt() -> nn.Module:
    from transformers import DPTConfig, DPTForSemanticSegmentation

    vit = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=64)
    neck = dict(
        patch_size=8, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16
    )
    return DPTForSemanticSegmentation(DPTConfig(is_hybrid=False, num_labels=CLASSES, **vit, **neck))


def torchvision_network(kind: str) -> nn.Module:
    from torchvision.models import resnet, segmentation
    from torchvision.models._utils import IntermediateLayerGetter

    encoder = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    backbone = IntermediateLayerGetter(encoder, {"layer3": "aux", "layer4": "out"})
    auxiliary = segmentation.fcn.FCNHead(256, CLASSES)
    if kind == "fcn":
        return segmentation.FCN(backbone, segmentation.fcn.FCNHead(512, CLASSES), auxiliary)
    return segmentation.DeepLabV3(backbone, segmentation.deeplabv3.DeepLabHead(512, CLASSES), auxiliary)


def smp_network(kind: str, **options: Any) -> nn.Module:
    import segmentation_models_pytorch as smp

    return getattr(smp, kind)("resnet18", encoder_weights=None, classes=CLASSES, **options)


class TimmNetwork(nn.Module):
    """What people write around timm: its features, and a head of their own."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.encoder = timm.create_model("resnet10t", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))
        self.head = SumHead(self.encoder.feature_info.channels())

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(image))


class SumHead(nn.Module):
    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(channels, CLASSES, 1) for channels in in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        maps = [nn.functional.interpolate(conv(f), size=size) for conv, f in zip(self.project, features)]
        return sum(maps[1:], maps[0])


def flexible_unet() -> nn.Module:
    from monai.networks.nets import FlexibleUNet

    return FlexibleUNet(3, CLASSES, "resnet10", decoder_channels=(16, 8, 8, 8, 8))


def basic_unet() -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=CLASSES, features=(4, 8, 8, 8, 16, 8))


TRANSFORMERS, TORCHVISION = ("transformers",), ("torchvision",)
SMP, TIMM, MONAI = ("torchvision", "segmentation_models_pytorch"), ("torchvision", "timm"), ("monai",)

CASES = {
    "segformer": Case(segformer, "decode_head", lambda m: m.config.hidden_sizes, requires=TRANSFORMERS),
    "upernet-swin": Case(
        lambda: upernet(swin, 32), "decode_head", lambda m: m.backbone.channels, requires=TRANSFORMERS
    ),
    "upernet-convnext": Case(
        lambda: upernet(convnext, 24), "decode_head", lambda m: m.backbone.channels, requires=TRANSFORMERS
    ),
    "mask2former": Case(
        mask2former,
        "model.pixel_level_module.decoder",
        lambda m: m.model.pixel_level_module.encoder.channels,
        requires=(*TRANSFORMERS, "scipy"),
    ),
    "dpt": Case(dpt, "neck.fusion_stage", lambda m: [m.config.fusion_hidden_size] * 4, requires=TRANSFORMERS),
    "torchvision-fcn": Case(
        lambda: torchvision_network("fcn"), "classifier", lambda m: [512], single, inside="0", requires=TORCHVISION
    ),
    "torchvision-deeplabv3": Case(
        lambda: torchvision_network("deeplabv3"),
        "classifier",
        lambda m: [512],
        single,
        inside="0",
        requires=TORCHVISION,
    ),
    "smp-unet": Case(
        lambda: smp_network("Unet", decoder_channels=(16, 8, 8, 8, 8)),
        "decoder",
        lambda m: m.encoder.out_channels[1:],
        lambda args, kwargs: args[0][1:],
        dict(select=[1, 2, 3, 4, 5]),
        requires=SMP,
    ),
    "smp-deeplabv3plus": Case(
        lambda: smp_network("DeepLabV3Plus", decoder_channels=16),
        "decoder",
        lambda m: [m.encoder.out_channels[2], m.encoder.out_channels[-1]],
        lambda args, kwargs: [args[0][2], args[0][-1]],
        dict(select=[2, -1]),
        requires=SMP,
    ),
    "smp-upernet": Case(
        lambda: smp_network("UPerNet", decoder_channels=16),
        "decoder",
        lambda m: m.encoder.out_channels[2:],
        lambda args, kwargs: args[0][2:],
        dict(select=[2, 3, 4, 5]),
        requires=SMP,
    ),
    "timm-features": Case(TimmNetwork, "head", lambda m: m.encoder.feature_info.channels(), requires=TIMM),
    # MONAI's forward asks torch.jit.isinstance, which Dynamo does not trace: its graphs break with or without a neck.
    "monai-flexibleunet": Case(
        flexible_unet, "decoder", lambda m: [64, 64, 128, 256, 512], fullgraph=False, requires=MONAI
    ),
    "monai-basicunet": Case(
        basic_unet,
        "upcat_1",
        lambda m: [4, 8],
        lambda args, kwargs: [args[1], args[0]],
        fullgraph=False,
        requires=MONAI,
    ),
}


def imported() -> set[str]:
    """Which of the frameworks the process has imported."""
    names = {package for case in CASES.values() for package in case.requires} | {"mmengine"}
    return names & set(sys.modules)
