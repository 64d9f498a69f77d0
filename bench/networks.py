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
    "segformer-b2": Network("SegFormer-B2", (64, 128, 320, 512)),
    "resnet-50": Network("ResNet-50", (256, 512, 1024, 2048)),
    "swin-t": Network("Swin-T", (96, 192, 384, 768)),
}
