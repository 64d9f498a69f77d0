"""Which ptxas Triton assembles with: it decides whether the same kernel computes rightly (docs/miscompilations.md)."""

from __future__ import annotations

from sdn_triton.tuning.configs import Target


def assembler_version(target: Target) -> str | None:
    """The version of the ptxas that Triton runs for ``target``; None without triton, or where it does not say.

    Triton has one for each generation of devices; the variables that name others, as ``TRITON_PTXAS_PATH``, count.
    """
    if target.kind != "cuda":
        return None
    try:
        from triton.backends.nvidia.compiler import get_ptxas

        return str(get_ptxas(target.architecture).version)
    except (ImportError, AttributeError, RuntimeError):  # no triton, one before 3.6, or one without a ptxas
        return None
