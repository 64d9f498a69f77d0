"""How results are compared that stand for one another."""

from torch import Tensor

from sdn_triton.outputs import memory_format


def assert_like(result: Tensor, like: Tensor) -> None:
    """Of one dtype and memory format, and without gaps."""
    assert result.dtype == like.dtype
    assert memory_format(result) == memory_format(like)
    assert result.is_contiguous(memory_format=memory_format(like))
