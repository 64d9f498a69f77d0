"""Call SDN by hand in a U-Net that is written in one piece, whose `forward` concatenates skip connections.

Shows what to do where `attach` finds no part to attach to: a block for each skip connection, called in `forward` with
the decoder's features as guidance. They are deeper, have other channels and are half as large; the block projects and
resizes them. `explain` says what runs where.

    python examples/unet_by_hand.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdn_triton import SDN, explain


def convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions with normalisation, as in every U-Net."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three scales; what is new against the usual one are `sharpen1` and `sharpen2`, and the lines that call them."""

    def __init__(self, in_channels: int = 3, classes: int = 2, width: int = 8) -> None:
        super().__init__()
        self.down1 = convolutions(in_channels, width)
        self.down2 = convolutions(width, 2 * width)
        self.bottom = convolutions(2 * width, 4 * width)
        self.sharpen2 = SDN(2 * width, guidance_channels=4 * width, zero_init=True)
        self.up2 = convolutions(6 * width, 2 * width)
        self.sharpen1 = SDN(width, guidance_channels=2 * width, zero_init=True)
        self.up1 = convolutions(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        pool, upsample = nn.functional.max_pool2d, nn.functional.interpolate
        skip1 = self.down1(image)
        skip2 = self.down2(pool(skip1, 2))
        deep = self.bottom(pool(skip2, 2))

        skip2 = self.sharpen2(skip2, deep)
        deep = self.up2(torch.cat([skip2, upsample(deep, size=skip2.shape[-2:])], dim=1))
        skip1 = self.sharpen1(skip1, deep)
        deep = self.up1(torch.cat([skip1, upsample(deep, size=skip1.shape[-2:])], dim=1))
        logits: Tensor = self.head(deep)
        return logits


def main() -> None:
    torch.manual_seed(0)
    model, image = UNet(), torch.randn(2, 3, 64, 48)
    target = torch.randint(0, 2, (2, 64, 48))
    print(explain(model, image))

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")
    assert all(p.grad is not None for p in model.parameters()), "every parameter takes part"


if __name__ == "__main__":
    main()
