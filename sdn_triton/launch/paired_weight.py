"""The weight as the kernels read it that take channels in words; see ``kernels/pairs.py`` for the order of channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.launch.image_layout import WORD_BYTES

THREADS, WORDS = 4, 4
"""Those that share a pixel, and the words that each loads of a block of channels."""


def in_pairs(weight: Tensor, groups: int, block_o: int) -> Tensor:
    """``[O, C, kh, kw]`` as ``[groups, blocks of outputs, blocks of channels, taps // 2, block_o, 2, 32]``.

    A tile, that of a tap and its opposite, lies together in memory, channels in fragment order; in float32 it has 16 of
    them. The weight of the centre is left out, the last block of outputs is filled up with zeros.
    """
    _, channels, rows, columns = weight.shape
    half = rows * columns // 2
    by_group = weight.reshape(groups, -1, channels, rows * columns)
    missing = -by_group.shape[1] % block_o
    if missing:
        by_group = F.pad(by_group, (0, 0, 0, 0, 0, missing))
    in_word = WORD_BYTES // weight.itemsize
    block = THREADS * WORDS * in_word
    tiles = by_group.view(groups, -1, block_o, channels // block, THREADS, WORDS, in_word, rows * columns)
    tiles = tiles.permute(0, 1, 3, 7, 2, 5, 4, 6)
    taps, opposites = tiles[:, :, :, :half], tiles.flip(3)[:, :, :, :half]
    return torch.stack((taps, opposites), 5).flatten(6)
