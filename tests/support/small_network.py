"""A small segmentation network with a neck, for compilers and exporters."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdn_triton import SDNNeck


class Network(nn.Module):
    """A small segmentation network: two stages, a neck, a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.neck = SDNNeck([4, 6], learn_contrast=True)
        self.decoder = nn.Conv2d(10, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.first(image).relu()
        fine, coarse = self.neck((fine, self.second(fine).relu()))
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.decoder(torch.cat([fine, coarse], 1))
