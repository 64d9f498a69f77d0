"""Fine-tune a SegFormer of transformers with an SDN neck before its decode head.

Shows: `attach` with `zero_init` (predictions stay what they were until training changes them), a contrast that fits the
features (`suggest_contrast`), two learning rates, and how the state is saved and loaded into a network made anew.

    python examples/finetune_segformer.py
    python examples/finetune_segformer.py --checkpoint nvidia/segformer-b0-finetuned-ade-512-512

Without a checkpoint the network is a small one with random weights, so that the example runs in seconds and fetches
nothing. It needs the extra `networks`.
"""

from __future__ import annotations

import argparse
import io

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from sdn_triton import SDNNeck, attach, suggest_contrast

CLASSES = 3


def make_model(checkpoint: str | None) -> SegformerForSemanticSegmentation:
    """The network before it has a neck."""
    if checkpoint is not None:
        return SegformerForSemanticSegmentation.from_pretrained(
            checkpoint, num_labels=CLASSES, ignore_mismatched_sizes=True
        )
    small = dict(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=32)
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES, **small))


def batch(images: int = 2, side: int = 128) -> tuple[Tensor, Tensor]:
    """Noisy images of a rectangle on a background, half of it another class: your images and labels go here."""
    pixels, labels = 0.3 * torch.randn(images, 3, side, side), torch.zeros(images, side, side, dtype=torch.long)
    for image, label in zip(pixels, labels):
        top, left = (int(x) for x in torch.randint(0, side // 2, (2,)))
        middle, bottom, right = top + side // 4, top + side // 2, left + side // 2
        for name, rows in ((1, slice(top, middle)), (2, slice(middle, bottom))):
            image[name, rows, left:right] += 1.0
            label[rows, left:right] = name
    return pixels, labels


def set_contrasts(model: nn.Module, neck: SDNNeck, image: Tensor) -> None:
    """The contrast of each stage from the guidance that it sees: differences about as large count as edges."""
    seen: list[tuple[Tensor, ...]] = []
    hook = neck.register_forward_pre_hook(lambda _, features: seen.append(neck.align_guidance(features[0])))
    with torch.no_grad():
        model.eval()(image)
    hook.remove()
    for stage, guidance in zip(neck.stages, seen[0]):
        stage.sdc.contrast = suggest_contrast(guidance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="name or folder of a SegFormer (default: random weights)")
    parser.add_argument("--steps", type=int, default=10, help="training steps (default: 10)")
    args = parser.parse_args()
    torch.manual_seed(0)
    images, labels = batch()

    model = make_model(args.checkpoint).eval()
    with torch.no_grad():
        before = model(images).logits
    neck = attach(model, at="decode_head", example=images, zero_init=True)
    with torch.no_grad():
        assert torch.equal(model(images).logits, before), "zero_init changes nothing"
    set_contrasts(model, neck, images)
    print("contrast of each stage:", [f"{float(stage.sdc.contrast):.2g}" for stage in neck.stages])

    # What is new learns faster than what was trained before. The neck is a part of the decode head.
    groups = [
        {"params": model.segformer.parameters(), "lr": 6e-4},
        {"params": model.decode_head.parameters(), "lr": 6e-3},
    ]
    optimizer = torch.optim.AdamW(groups)
    model.train()
    losses = []
    for _ in range(args.steps):
        images, labels = batch()
        loss = model(pixel_values=images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {args.steps} steps")

    file = io.BytesIO()  # or a path
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = make_model(args.checkpoint)
    attach(again, at="decode_head", channels=again.config.hidden_sizes)
    again.load_state_dict(torch.load(file))
    with torch.no_grad():
        assert torch.equal(again.eval()(images).logits, model.eval()(images).logits), "contrasts are in the state, too"
    print("saved, loaded into a network made anew: the same predictions")


if __name__ == "__main__":
    main()
