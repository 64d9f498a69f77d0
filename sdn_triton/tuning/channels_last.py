"""When images are copied to channels_last for the kernels that take channels in words: by bytes and operations.

Those kernels need the channels of a pixel side by side, in blocks of 32 (depthwise: of 8), and input and guidance
alike. Other images are brought into that form where this takes less time than it saves. Nothing is timed: both sides
are counted in bytes of device memory, for the less favourable of the architectures that have such kernels, sm_90, which
moves 13.9 bytes a clock and multiprocessor (``bench/machine_code/throughput.py``).

What copies cost: of each pixel of an image with C channels of 2 bytes, and C' with those that fill up the last block,
2 C bytes are read, 2 C' written, and 2 (C' - C) more are read by the kernel than it would have read: 4 C' in all. There
are two images, input and guidance, if they are not one. Both gradients read one set of copies, but each has to pay for
it alone; gradients are written as they lie.

What they save: a *difference element*, one pixel, tap and channel, takes an unpaired kernel more clocks, and where it
forms products itself it makes them anew for every 128 outputs. By ``bench/machine_code`` (triton 3.7.1, bf16,
as if all pipes overlapped, which is the least), contiguous less channels_last:

| clocks of an element | C = O = 64 | C = O = 256, two times 128 outputs | bytes for 128 outputs, at least |
|---|---|---|---|
| forward | 0.214 - 0.083 | 2 x 0.221 - 0.147 | 1.8 |
| weight gradient | 0.351 - 0.094 | 2 x 0.307 - 2 x 0.101 | 2.8 |
| data gradient, whatever the outputs | 0.303 - 0.159 | 0.303 - 0.159 | 2.0 |

Both sides grow with C', as an unpaired kernel computes all 32 channels of a block, too. So what decides is taps,
outputs and stride. A 3x3 kernel at stride 1 always gains: its forward saves 8 x 1.8 = 14.4 bytes a pixel and channel
for 8. A 1x3 kernel saves 3.6 and does not; nor does a 3x3 kernel at stride 2, which has a quarter of the pixels. With
more than 256 outputs, three times 128, both do.

Memory is too slow for copies on sm_86, sm_89 and sm_120. On sm_80, which moves 13.4 bytes, the data gradient saves 2.4
bytes and the weight gradient 2.9, 2.7 and, where the unpaired kernel has tiles of more outputs, 0.54 for each 128 (64,
128 and 256 channels); its forward takes no pairs.

Depthwise kernels know no blocks of outputs. Contiguous less packed, on sm_90: forward 0.222 - 0.090 clocks, weight
gradient 0.253 - 0.088, data gradient 0.372 - 0.188; the last two also have a contiguous gradient copied, 0.036 each.

In TF32 copies move twice the bytes, so that an element has to save 2 bytes at 3x3. By the simulation (the bounds differ
little from it) a contiguous forward on sm_90 takes 6.3 / 6.2 / 6.1 times a convolution with 64, 128 and 256 channels
unpaired, and 2.7 / 1.9 / 1.4 in words; the weight gradient 6.9 / 6.8 / 6.8 and 3.8 / 2.5 / 2.1. The least of that is
3.5 and 3.0 bytes.

The incoming gradient is a matter of its own: packed kernels read it in any layout, as well as channels_last, unless
its rows begin at odd places. Then they read two bytes at a time, without prefetching. Products of all taps do so anew
for every 256 columns, which takes 1.6 bytes for each output of a pixel and each time by the floor, and by the
simulation 2.5 times that; a copy costs 4. So it is made from the third time on. The weight gradient spills and takes
7.0 times a convolution instead of 3.5, which is 6.8 bytes for each output and each of its blocks of channels.
"""

from __future__ import annotations

from sdn_triton.tuning.configs import PAIRED_CHANNELS, Target
from sdn_triton.tuning.defaults import PAIRED_ARCHITECTURES, Work, takes_pairs
from sdn_triton.tuning.kernels import DEPTHWISE_KERNELS

SAVED_BYTES = {
    "difference_forward": 1.8,
    "block_forward": 1.8,
    "difference_weight_gradient": 2.8,
    "difference_data_gradient": 2.0,
    "depthwise_forward": 1.8,
    "depthwise_weight_gradient": 1.7,
    "depthwise_data_gradient": 2.0,
}
"""What a difference element saves where channels are packed: the bytes that could be moved meanwhile."""
SAVED_BYTES_OF_MANY = 0.54
"""That of the weight gradient on sm_80 where tiles of the unpaired kernel have more than 128 outputs."""
SAVED_BYTES_TF32 = {"difference_forward": 3.5, "difference_weight_gradient": 3.0}
"""The same of TF32."""
OUTPUTS = 128
"""Those that share the differences of an unpaired kernel."""
SHARED_BY_ALL = ("block_forward", "difference_data_gradient", *DEPTHWISE_KERNELS)
"""Where all outputs share them, or each has its own."""
FAST_MEMORY = (80, *PAIRED_ARCHITECTURES)
"""Architectures on which copies gain more than they cost."""
COPIED_BYTES = 4
"""What it costs to copy a channel of a pixel of a half type; of float32 it is twice that."""
READ_TWICE = 512
"""Columns for which products of all taps read the incoming gradient no more than twice."""


def padded(channels: int) -> int:
    """Channels with those that fill up the last block.

    Example:
        >>> padded(40), padded(64)
        (64, 64)
    """
    return -(-channels // PAIRED_CHANNELS) * PAIRED_CHANNELS


def copies_pay(kernel: str, work: Work, pixels: int, images: int, target: Target) -> bool:
    """Whether ``kernel`` is faster on packed channels, with copies of so many images that have so many pixels.

    Example:
        >>> work = Work("bf16", images=2, rows=64, columns=64, channels=256, outputs=256, taps=9)
        >>> copies_pay("difference_forward", work, 2 * 64 * 64, 2, Target("cuda", 90, 132))
        True
        >>> copies_pay("difference_forward", work._replace(taps=3), 2 * 64 * 64, 2, Target("cuda", 90, 132))
        False
    """
    if target.architecture not in FAST_MEMORY or not takes_pairs(kernel, work.arithmetic, target):
        return False
    elements = work.images * work.rows * work.columns * (work.taps - 1)
    is_tf32 = work.arithmetic == "tf32"
    blocks = 1 if kernel in SHARED_BY_ALL else -(-work.outputs // OUTPUTS)
    saved = (SAVED_BYTES_TF32 if is_tf32 else SAVED_BYTES)[kernel]
    if (target.architecture, kernel) == (80, "difference_weight_gradient") and blocks > 1:
        saved = SAVED_BYTES_OF_MANY
    return images * pixels * COPIED_BYTES * (2 if is_tf32 else 1) < elements * blocks * saved


def gradient_copy_pays(kernel: str, work: Work, is_aligned: bool) -> bool:
    """Whether ``kernel``, on packed channels, reads an incoming gradient in channels_last sooner, with the copy.

    ``is_aligned`` says whether all rows of the gradient begin at multiples of 16 bytes.

    Example:
        >>> work = Work("bf16", images=2, rows=64, columns=64, channels=8 * 256, outputs=256)
        >>> gradient_copy_pays("tap_products", work, is_aligned=True)
        False
        >>> gradient_copy_pays("tap_products", work, is_aligned=False)
        True
    """
    if is_aligned:
        return False
    if kernel == "difference_weight_gradient":
        # In TF32 numbers of a channels_last gradient are read one by one, too.
        return work.arithmetic != "tf32"
    return work.channels > READ_TWICE
