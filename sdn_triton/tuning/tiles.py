"""The tiles of the default configurations: pixels, channels, outputs, warps, stages. ``defaults.py`` has the rules."""

from __future__ import annotations

# One stage means that loads go straight to registers and through the first
# cache, where a tap finds what its neighbours have read; the products of the fusion share nothing and prefetch.
ALL = ("half", "tf32", "ieee")
TILES = {
    "difference_forward": {"half": (64, 32, 128, 4, 1), "tf32": (64, 32, 64, 8, 1), "ieee": (64, 16, 32, 4, 1)},
    "difference_data_gradient": dict.fromkeys(ALL, (64, 32, 32, 8, 1)),
    "difference_weight_gradient": {"half": (64, 64, 128, 8, 1), "tf32": (32, 64, 64, 4, 1), "ieee": (64, 32, 32, 4, 1)},
    "tap_products": {"half": (128, 256, 64, 8, 3), "tf32": (128, 256, 32, 8, 3), "ieee": (64, 32, 16, 4, 1)},
    "edge_products": {"half": (128, 256, 64, 8, 3), "tf32": (128, 256, 16, 8, 4), "ieee": (64, 32, 16, 4, 1)},
    "depthwise_forward": dict.fromkeys(ALL, (64, 32, 32, 4, 1)),
    "depthwise_data_gradient": dict.fromkeys(ALL, (64, 32, 32, 4, 1)),
    "depthwise_weight_gradient": dict.fromkeys(ALL, (64, 32, 32, 4, 1)),
    "similarity": dict.fromkeys(ALL, (64, 32, 32, 4, 1)),
    "similarity_gradient": dict.fromkeys(ALL, (32, 32, 32, 4, 1)),
    "block_forward": {"half": (64, 32, 256, 8, 1), "tf32": (32, 32, 128, 8, 1), "ieee": (64, 32, 64, 8, 1)},
    "fusion_forward": {"half": (128, 32, 128, 8, 3), "tf32": (64, 32, 64, 4, 3), "ieee": (64, 32, 32, 4, 1)},
    "fusion_data_gradient": {"half": (128, 64, 128, 8, 2), "tf32": (64, 32, 64, 4, 3), "ieee": (64, 32, 32, 4, 1)},
    "fusion_weight_gradient": {"half": (64, 64, 128, 8, 2), "tf32": (32, 64, 64, 4, 3), "ieee": (64, 32, 32, 4, 1)},
}
# Tiles of packed channels, for many blocks and for few, by how many outputs there are.
PAIRED_TILES = {
    "difference_forward": {
        ("many", "widest"): (128, 32, 256, 8, 3),
        ("many", "wide"): (64, 32, 128, 4, 3),
        ("many", "narrow"): (128, 32, 64, 4, 3),
        ("few", "widest"): (64, 32, 128, 4, 3),
        ("few", "wide"): (64, 32, 128, 4, 3),
        ("few", "narrow"): (64, 32, 64, 4, 3),
    },
    "block_forward": {
        ("many", "widest"): (128, 32, 256, 8, 3),
        ("many", "wide"): (64, 32, 128, 4, 3),
        ("many", "narrow"): (128, 32, 64, 4, 3),
        ("few", "widest"): (64, 32, 256, 8, 3),
        ("few", "wide"): (64, 32, 128, 4, 3),
        ("few", "narrow"): (64, 32, 64, 4, 3),
    },
    "difference_data_gradient": {
        ("many", "wide"): (64, 32, 64, 4, 1),
        ("many", "narrow"): (64, 32, 64, 4, 1),
        ("few", "wide"): (32, 32, 64, 4, 1),
        ("few", "narrow"): (32, 32, 64, 4, 1),
    },
    "difference_weight_gradient": {
        ("many", "widest"): (64, 32, 256, 8, 3),
        ("many", "wide"): (64, 32, 128, 8, 3),
        ("many", "narrow"): (64, 32, 64, 8, 3),
        ("few", "widest"): (64, 32, 256, 8, 3),
        ("few", "wide"): (64, 32, 128, 8, 3),
        ("few", "narrow"): (64, 32, 64, 8, 3),
    },
}
PAIRED_TILES |= {
    kernel: {(blocks, width): tile for blocks, tile in tiles.items() for width in ("wide", "narrow")}
    for kernel, tiles in {
        "depthwise_forward": {"many": (128, 32, 32, 4, 1), "few": (32, 32, 32, 4, 1)},
        "depthwise_data_gradient": {"many": (64, 32, 32, 4, 1), "few": (32, 32, 32, 4, 1)},
        "depthwise_weight_gradient": dict.fromkeys(("many", "few"), (32, 32, 32, 4, 1)),
    }.items()
}
# The same where a word is one channel in float32.
FLOAT32_TILES = {
    "difference_forward": {
        ("many", "widest"): (128, 16, 256, 8, 3),
        ("many", "wide"): (64, 16, 128, 4, 3),
        ("many", "narrow"): (64, 16, 64, 4, 3),
        ("few", "widest"): (64, 16, 128, 4, 3),
        ("few", "wide"): (64, 16, 128, 4, 3),
        ("few", "narrow"): (64, 16, 64, 4, 3),
    },
    "difference_weight_gradient": {
        ("many", "widest"): (32, 16, 256, 8, 3),
        ("many", "wide"): (32, 16, 128, 8, 3),
        ("many", "narrow"): (32, 16, 64, 8, 3),
        ("few", "widest"): (32, 16, 256, 8, 3),
        ("few", "wide"): (32, 16, 128, 8, 3),
        ("few", "narrow"): (32, 16, 64, 8, 3),
    },
}
# Tensor memory leaves registers to differences: tiles may have more pixels, which read weights less often. But it gives
# all of its sums back at once, for which a block with tiles of 256 outputs would not have the registers. A tile that
# does not hold all responses stands for two kernels.
TENSOR_MEMORY_TILES = {
    ("difference_forward", "many", "widest"): (256, 32, 128, 8, 3),
    ("difference_forward", "many", "wide"): (256, 32, 128, 8, 3),
    ("difference_forward", "many", "narrow"): (256, 32, 64, 8, 3),
    ("difference_forward", "few", "widest"): (128, 32, 128, 8, 3),
    ("difference_forward", "few", "wide"): (128, 32, 128, 8, 3),
    ("difference_forward", "few", "narrow"): (128, 32, 64, 8, 3),
    ("block_forward", "many", "widest"): (256, 32, 128, 8, 2),
    ("block_forward", "many", "wide"): (256, 32, 128, 8, 2),
    ("block_forward", "many", "narrow"): (256, 32, 64, 8, 2),
    ("block_forward", "few", "widest"): (128, 32, 128, 8, 2),
    ("block_forward", "few", "wide"): (128, 32, 128, 8, 2),
    ("block_forward", "few", "narrow"): (128, 32, 64, 8, 2),
    ("difference_weight_gradient", "many", "widest"): (64, 32, 128, 8, 2),
    ("difference_weight_gradient", "many", "wide"): (64, 32, 128, 8, 2),
    ("difference_weight_gradient", "many", "narrow"): (64, 32, 64, 8, 2),
    ("difference_weight_gradient", "few", "widest"): (64, 32, 128, 8, 2),
    ("difference_weight_gradient", "few", "wide"): (64, 32, 128, 8, 2),
    ("difference_weight_gradient", "few", "narrow"): (64, 32, 64, 8, 2),
}
# The same where a word is one channel in float32: with more pixels 128 outputs and 256x16 spill.
TENSOR_MEMORY_FLOAT32_TILES = {
    ("difference_forward", "many", "wide"): (128, 16, 128, 8, 3),
    ("difference_forward", "many", "narrow"): (256, 16, 64, 8, 3),
    ("difference_forward", "few", "narrow"): (128, 16, 64, 8, 3),
}
# The same where warps make products by themselves, and each takes its factors from shared memory.
WARP_PAIRED_TILES = {
    ("difference_weight_gradient", "wide"): (32, 32, 128, 8, 2),
    ("difference_weight_gradient", "narrow"): (64, 32, 64, 8, 2),
}
# Where warps make products by themselves: tiles of which each warp has other pixels, so that no two compute the same
# differences (forward), and large ones, which ask less of the second-level cache (weight gradient); of products of all
# taps, tiles whose sums and factors share the registers. The first one counts that outputs fill more than half of.
WARP_PRODUCTS_TILES = {
    ("difference_forward", "tf32"): ((128, 16, 64, 4, 1),),
    ("difference_weight_gradient", "half"): ((32, 128, 256, 8, 1),),
    ("difference_weight_gradient", "tf32"): ((32, 64, 256, 8, 2), (32, 128, 128, 8, 1)),
    ("tap_products", "half"): ((128, 256, 32, 8, 3),),
    ("tap_products", "tf32"): ((128, 128, 32, 8, 3),),
    ("edge_products", "half"): ((128, 256, 32, 8, 3),),
    ("edge_products", "tf32"): ((128, 128, 32, 8, 3),),
}
UNALIGNED_TILES = {("difference_forward", "half"): (128, 32, 64, 8, 1)}
# One channel at a time takes an address for each: fewer of them in a thread.
CONTIGUOUS_TILES = {"difference_data_gradient": (64, 16, 32, 4, 1), "depthwise_data_gradient": (32, 32, 32, 4, 1)}
# Of more than 128 outputs where channels do not lie together, so that instructions bind: all share the differences.
WARP_PRODUCTS_CONTIGUOUS_TILES = {("difference_forward", "half"): ((64, 32, 256, 8, 1),)}
# Products of taps and edges where sums have a memory of their own: all of it, which reads factors least often. In TF32
# that spills.
TENSOR_MEMORY_PRODUCTS_TILE = (256, 256, 64, 8, 3)
HIP_PRODUCTS_TILE = (128, 128, 32, 8, 2)
HIP_FUSION_TILE = (64, 32, 64, 4, 2)
