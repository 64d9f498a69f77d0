"""Matrix products that run on after they have been issued, and where a kernel waits for them."""

import triton
import triton.language as tl


def _products_run_on() -> bool:
    """Whether products read registers while other instructions go on, as on Hopper; they may on an unknown target."""
    if triton.knobs.runtime.interpret:
        return False
    target = tl.target_info.current_target()
    return target is None or (target.backend == "cuda" and target.arch // 10 == 9)


def _sums_in_tensor_memory() -> bool:
    """Whether the sums of products have a memory of their own, as on data-centre Blackwell."""
    if triton.knobs.runtime.interpret:
        return False
    target = tl.target_info.current_target()
    return target is not None and target.backend == "cuda" and target.arch // 10 == 10


# Asked at compile time. Triton before 3.4 cannot be asked; it does not leave products running.
if hasattr(triton, "constexpr_function"):
    products_run_on = triton.constexpr_function(_products_run_on)
    sums_in_tensor_memory = triton.constexpr_function(_sums_in_tensor_memory)
else:

    def products_run_on(**_: object) -> bool:
        return False

    sums_in_tensor_memory = products_run_on
    products_run_on.__triton_builtin__ = True


@triton.jit
def finished(sums, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """``sums`` once every product of factors of ``dtype`` that adds to them has ended: the end of a trip of a loop.

    Hopper's tensor cores read the left operand of a product from registers while other instructions go on. In a loop
    of several stages Triton lets the last product of a trip run into the next one, which writes to these registers:
    wrong sums, unless the assembler keeps them, which that of CUDA before 13.3 does not. Whoever uses a sum has to wait
    for it, and inline assembly counts as a use, whatever it does. This one does nothing: the assembler drops the copy.
    Products in float32 are made by ordinary instructions.
    """
    IN_TENSOR_CORES: tl.constexpr = dtype != tl.float32 or PRECISION == "tf32"
    if IN_TENSOR_CORES and products_run_on():
        sums = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [sums], dtype=tl.float32, is_pure=True, pack=1)
    return sums
