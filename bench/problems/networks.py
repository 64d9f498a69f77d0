"""The feature pyramids of real segmentation networks; a new one is one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A backbone as a neck sees it: the channels of each stage, fine to coarse, and how far each is scaled down."""

    title: str
    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each stage for an image of this size."""
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)


NETWORKS = {
    "segformer-b0": Network("SegFormer-B0", (32, 64, 160, 256)),
    "segformer-b1": Network("SegFormer-B1", (64, 128, 320, 512)),
    "segformer-b2": Network("SegFormer-B2", (64, 128, 320, 512)),
    "segformer-b3": Network("SegFormer-B3", (64, 128, 320, 512)),
    "segformer-b4": Network("SegFormer-B4", (64, 128, 320, 512)),
    "segformer-b5": Network("SegFormer-B5", (64, 128, 320, 512)),
    "resnet-50": Network("ResNet-50", (256, 512, 1024, 2048)),
    "resnet-101": Network("ResNet-101", (256, 512, 1024, 2048)),
    "resnet-50-fpn": Network("ResNet-50 FPN", (256, 256, 256, 256)),
    "resnet-101-fpn": Network("ResNet-101 FPN", (256, 256, 256, 256)),
    "swin-t": Network("Swin-T", (96, 192, 384, 768)),
    "swin-b": Network("Swin-B", (128, 256, 512, 1024)),
    "hrnet-w48": Network("HRNet-W48", (48, 96, 192, 384)),
    "convnext-t": Network("ConvNeXt-T", (96, 192, 384, 768)),
}


def distinct_networks() -> list[str]:
    """One name for every pyramid: SegFormer-B1 to B5 have the same, and so on; what ``--network all`` stands for."""
    first: dict[Network, str] = {}
    for name, network in NETWORKS.items():
        first.setdefault(Network("", network.channels, network.strides), name)
    return list(first.values())
