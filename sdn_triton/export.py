"""For runtimes that know PyTorch's own operators only: the layers in those, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdn_triton import dispatch_state


@contextmanager
def decomposed() -> Iterator[None]:
    """Compute by plain PyTorch operations inside, whatever the ``backend``: no custom operator, no kernel.

    What ``torch.onnx.export``, ``torch.export`` or ``torch.compile`` traces inside runs wherever PyTorch's own
    convolutions do: in ONNX Runtime, TensorRT and the like. Weights and formulas are the same. The plain
    form keeps a copy of the features for every tap, eight for a 3x3 kernel. It holds for the whole process while the
    block lasts. ``torch.onnx.export`` takes that form without it.

    Example:
        >>> import torch
        >>> from sdn_triton import SDN, decomposed
        >>> features = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)
        >>> with decomposed():
        ...     program = torch.export.export(SDN(4).eval(), features)
        >>> any("sdn_triton" in str(node.target) for node in program.graph.nodes)
        False
    """
    before, dispatch_state.decomposing = dispatch_state.decomposing, True
    try:
        yield
    finally:
        dispatch_state.decomposing = before
