"""Where a model has torch.compile of the plain formula ahead of the kernels, in a training step of a 3x3 layer.

The model is that of docs/benchmarks.md (``python -m sdn_triton.bench.yardstick``). The other way is taken at its best:
all differences written once, in eight times the input's memory, and read by a library's product. Nothing was measured.
"""

from __future__ import annotations

from sdn_triton.tuning.configs import Target

COMPILED_AHEAD = (
    "torch.compile of the plain formula may train this layer faster, with eight times the input's memory: a model has "
    "it ahead (docs/benchmarks.md), nothing was measured"
)
"""What explain() says of such layers."""
FEWEST_CHANNELS: dict[tuple[int | str, str, str], int] = {
    (80, "half", "channels_last"): 256,
    (80, "half", "contiguous"): 256,
    (80, "tf32", "channels_last"): 256,
    (80, "tf32", "contiguous"): 256,
    (90, "half", "channels_last"): 512,
    (90, "half", "contiguous"): 256,
    (90, "tf32", "channels_last"): 512,
    (90, "tf32", "contiguous"): 256,
    (100, "half", "channels_last"): 64,
    (100, "half", "contiguous"): 64,
    (100, "tf32", "channels_last"): 64,
    (100, "tf32", "contiguous"): 64,
}
"""By architecture, arithmetic and layout, the channels and outputs from which on it is ahead; sm_89 has none."""


def compiled_is_ahead(arithmetic: str, channels_last: bool, channels: int, outputs: int, target: Target) -> bool:
    """Whether the model has the other way ahead.

    Example:
        >>> hopper, ada = Target("cuda", 90, 132), Target("cuda", 89, 142)
        >>> compiled_is_ahead("bf16", False, 256, 256, hopper), compiled_is_ahead("bf16", False, 256, 256, ada)
        (True, False)
    """
    family = "half" if arithmetic in ("fp16", "bf16") else arithmetic
    layout = "channels_last" if channels_last else "contiguous"
    fewest = FEWEST_CHANNELS.get((target.architecture, family, layout))
    return fewest is not None and min(channels, outputs) >= fewest
