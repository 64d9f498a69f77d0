"""Channels in 32-bit words: packed arithmetic, and the order in which matrix units read words.

A word is two channels of a half type, the lower one in its lower half, or one of float32. In half types differences
and products are formed on words, two channels at a time, similarities in float32; gradients take more in float32. With
PTX the packed arithmetic is NVIDIA's; without, it is spelled out, rounded alike.

Hopper's tensor cores read the left operand of a product from registers, where a thread holds the channels 2t, 2t + 1,
2t + 8 and 2t + 9 of every 16, of two pixels that are 8 apart. A thread that loads 16 bytes has eight neighbouring
channels instead. But the channels of a product may stand in any order that is the same on both sides. In *fragment
order*, where word ``4t + w`` of a block of 32 channels is word ``4w + t``, a thread has loaded just what it has to
hold, and the operand need not go through shared memory. Elsewhere the order does no harm. In float32, with TF32
products, all of this is the same for a block of 16 channels: a thread holds channels t and t + 4 of every 8.
"""

import triton
import triton.language as tl

from sdn_triton.kernels.diffusivity import diffusivity
from sdn_triton.kernels.factors import as_factor

WORDS = tl.constexpr(16)
"""Words in a block of channels: 16 bytes for each of the four threads that share a pixel."""
WORD_BITS = tl.constexpr(32)
"""Two channels of a half type, or one of float32. A function of the dtype would be no constant in triton 3.6."""
APART = tl.constexpr(8)
"""How far apart the two pixels are that a thread holds of every 16."""


@triton.jit
def first_pixels(PIXELS: tl.constexpr):
    """The first of each two pixels of a tile that are loaded together, [PIXELS // 2]; the second is APART further."""
    row = tl.arange(0, PIXELS // 2)
    return row // APART * (2 * APART) + row % APART


@triton.jit
def in_fragment_order(words, PIXELS: tl.constexpr):
    """Words of first and second pixels, [PIXELS // 2, WORDS, 2], as [PIXELS, WORDS] in the order of the product."""
    words = tl.reshape(words, (PIXELS // (2 * APART), APART, 4, 4, 2))
    return tl.reshape(tl.permute(words, (0, 4, 1, 3, 2)), (PIXELS, WORDS))


@triton.jit
def channels_of(words, dtype: tl.constexpr):
    """Lower and upper channels of words."""
    lower = words.to(tl.int16).to(dtype, bitcast=True)
    upper = (words >> 16).to(tl.int16).to(dtype, bitcast=True)
    return lower, upper


@triton.jit
def wide(words, dtype: tl.constexpr, PTX: tl.constexpr):
    """Lower and upper channels in float32."""
    if PTX and dtype == tl.bfloat16:
        lower, upper = tl.inline_asm_elementwise(
            """{
            .reg .b32 bits;
            shl.b32 bits, $2, 16;
            mov.b32 $0, bits;
            and.b32 bits, $2, 0xffff0000;
            mov.b32 $1, bits;
            }""",
            "=f,=f,r",
            [words],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    elif PTX:
        lower, upper = tl.inline_asm_elementwise(
            """{
            .reg .b16 lower, upper;
            mov.b32 {lower, upper}, $2;
            cvt.f32.f16 $0, lower;
            cvt.f32.f16 $1, upper;
            }""",
            "=f,=f,r",
            [words],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    else:
        half_lower, half_upper = channels_of(words, dtype)
        lower = half_lower.to(tl.float32)
        upper = half_upper.to(tl.float32)
    return lower, upper


@triton.jit
def packed(lower, upper, dtype: tl.constexpr, PTX: tl.constexpr):
    """Words of channels in float32."""
    if PTX and dtype == tl.bfloat16:
        words = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [lower, upper], dtype=tl.int32, is_pure=True, pack=1
        )
    elif PTX:
        words = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", [lower, upper], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        words = words_of(lower.to(dtype), upper.to(dtype))
    return words


@triton.jit
def words_of(lower, upper):
    """The inverse of :func:`channels_of`."""
    return (upper.to(tl.int16, bitcast=True).to(tl.int32) << 16) | (
        lower.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    )


@triton.jit
def side_by_side(a, b):
    """[n, k] and [n, k] as [n, 2 * k]."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (a.shape[0], 2 * a.shape[1]))


@triton.jit
def unpacked(words, dtype: tl.constexpr):
    """The channels of words side by side: of half types [PIXELS, n] becomes [PIXELS, 2 * n]."""
    if dtype == tl.float32:
        channels = words.to(tl.float32, bitcast=True)
    else:
        lower, upper = channels_of(words, dtype)
        channels = tl.reshape(tl.join(lower, upper), (words.shape[0], 2 * words.shape[1]))
    return channels


@triton.jit
def float32_words(
    u_p, u_q, v_p, v_q, inverse, DIFFUSIVITY: tl.constexpr, UNIT_CONTRAST: tl.constexpr, PTX: tl.constexpr
):
    """The weighted differences of words of one channel, rounded to TF32 where tensor cores multiply them."""
    difference = v_q.to(tl.float32, bitcast=True) - v_p.to(tl.float32, bitcast=True)
    if not UNIT_CONTRAST:
        difference *= inverse
    s = diffusivity(difference * difference, DIFFUSIVITY)
    flow = s * (u_q.to(tl.float32, bitcast=True) - u_p.to(tl.float32, bitcast=True))
    return as_factor(flow, tl.float32, "tf32" if PTX else "ieee").to(tl.int32, bitcast=True)


@triton.jit
def wide_differences(x_p, x_q, dtype: tl.constexpr, PTX: tl.constexpr):
    """``x_q - x_p``, rounded to the half type, of lower and upper channels in float32."""
    if PTX and dtype == tl.bfloat16:
        # A subtraction of bfloat16 is new in sm_90; minus one (0xbf80) times x_p plus x_q is the same everywhere.
        lower, upper = tl.inline_asm_elementwise(
            """{
            .reg .b32 difference, minus_one;
            mov.b32 minus_one, 0xbf80bf80;
            fma.rn.bf16x2 difference, $2, minus_one, $3;
            shl.b32 $0, difference, 16;
            and.b32 $1, difference, 0xffff0000;
            }""",
            "=r,=r,r,r",
            [x_p, x_q],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    elif PTX:
        lower, upper = tl.inline_asm_elementwise(
            """{
            .reg .b32 difference;
            .reg .b16 lower, upper;
            sub.rn.f16x2 difference, $3, $2;
            mov.b32 {lower, upper}, difference;
            cvt.f32.f16 $0, lower;
            cvt.f32.f16 $1, upper;
            }""",
            "=f,=f,r,r",
            [x_p, x_q],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    else:
        p_lower, p_upper = channels_of(x_p, dtype)
        q_lower, q_upper = channels_of(x_q, dtype)
        lower = (q_lower - p_lower).to(tl.float32)
        upper = (q_upper - p_upper).to(tl.float32)
    return lower, upper


@triton.jit
def float32_differences(x_p, x_q, dtype: tl.constexpr, PTX: tl.constexpr):
    """``x_q - x_p`` of lower and upper channels, formed in float32: half an instruction more for each channel."""
    p_lower, p_upper = wide(x_p, dtype, PTX)
    q_lower, q_upper = wide(x_q, dtype, PTX)
    return q_lower - p_lower, q_upper - p_upper


@triton.jit
def damped_differences(x_p, x_q, s_lower, s_upper, dtype: tl.constexpr, PTX: tl.constexpr):
    """Words of ``s (x_q - x_p)``, s given in float32; difference, s and product are rounded to the half type."""
    if PTX and dtype == tl.bfloat16:
        words = tl.inline_asm_elementwise(
            """{
            .reg .b32 difference, similarity, minus_one, minus_zero;
            mov.b32 minus_one, 0xbf80bf80;
            mov.b32 minus_zero, 0x80008000;
            fma.rn.bf16x2 difference, $1, minus_one, $2;
            cvt.rn.bf16x2.f32 similarity, $4, $3;
            fma.rn.bf16x2 $0, difference, similarity, minus_zero;
            }""",
            "=r,r,r,f,f",
            [x_p, x_q, s_lower, s_upper],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    elif PTX:
        words = tl.inline_asm_elementwise(
            """{
            .reg .b32 difference, similarity;
            sub.rn.f16x2 difference, $2, $1;
            cvt.rn.f16x2.f32 similarity, $4, $3;
            mul.rn.f16x2 $0, difference, similarity;
            }""",
            "=r,r,r,f,f",
            [x_p, x_q, s_lower, s_upper],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        p_lower, p_upper = channels_of(x_p, dtype)
        q_lower, q_upper = channels_of(x_q, dtype)
        lower = (q_lower - p_lower) * s_lower.to(dtype)
        upper = (q_upper - p_upper) * s_upper.to(dtype)
        words = words_of(lower, upper)
    return words


@triton.jit
def similarities(
    v_p,
    v_q,
    inverse_lower,
    inverse_upper,
    dtype: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    PTX: tl.constexpr,
):
    """``g((v_q - v_p) / k)`` of lower and upper channels in float32, from words."""
    lower, upper = wide_differences(v_p, v_q, dtype, PTX)
    if not UNIT_CONTRAST:
        lower *= inverse_lower
        upper *= inverse_upper
    return diffusivity(lower * lower, DIFFUSIVITY), diffusivity(upper * upper, DIFFUSIVITY)


@triton.jit
def weighted_differences(
    u_p,
    u_q,
    v_p,
    v_q,
    inverse_lower,
    inverse_upper,
    dtype: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    PTX: tl.constexpr,
):
    """Words of ``g((v_q - v_p) / k) (u_q - u_p)`` of one tap, from words; both factors and the product are rounded.

    For gradients that is too much: their errors would be more than twice those of the eager path (docs/precision.md).
    """
    if dtype == tl.float32:
        words = float32_words(u_p, u_q, v_p, v_q, inverse_lower, DIFFUSIVITY, UNIT_CONTRAST, PTX)
    else:
        s_lower, s_upper = similarities(v_p, v_q, inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX)
        words = damped_differences(u_p, u_q, s_lower, s_upper, dtype, PTX)
    return words


@triton.jit
def precise_weighted_differences(
    u_p,
    u_q,
    v_p,
    v_q,
    inverse_lower,
    inverse_upper,
    dtype: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    PTX: tl.constexpr,
):
    """The same with the features' difference and the similarity in float32: two instructions more for each channel."""
    if dtype == tl.float32:
        words = float32_words(u_p, u_q, v_p, v_q, inverse_lower, DIFFUSIVITY, UNIT_CONTRAST, PTX)
    else:
        s_lower, s_upper = similarities(v_p, v_q, inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX)
        e_lower, e_upper = float32_differences(u_p, u_q, dtype, PTX)
        words = packed(s_lower * e_lower, s_upper * e_upper, dtype, PTX)
    return words
