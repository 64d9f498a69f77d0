"""What a matrix product multiplies."""

import triton
import triton.language as tl


@triton.jit
def as_factor(x, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """``x`` as a factor of a product of ``dtype``, rounded to nearest.

    Tensor cores cut off the 13 bits that TF32 does not have; see launch/run.py for what that costs in precision.
    """
    factor = x.to(dtype)
    if PRECISION == "tf32":
        bits = tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,f", [factor], dtype=tl.int32, is_pure=True, pack=1
        )
        factor = bits.to(tl.float32, bitcast=True)
    return factor
