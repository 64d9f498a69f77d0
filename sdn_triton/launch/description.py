"""What recorded launches say in words: a line for each kernel that is tuned, with the memory that it needs besides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sdn_triton.kernels.image_copy import image_copy_kernel
from sdn_triton.launch.run import Launch
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.kernels import KERNELS

READ_IMAGES = {"u_ptr": "input", "v_ptr": "guidance"}
READ_GRADIENT = "gradient_ptr"
WRITTEN_GRADIENTS = ("du_ptr", "dv_ptr")
PRODUCTS = "h_ptr"


def describe(launches: Sequence[Launch]) -> tuple[str, ...]:
    """A line for each kernel and configuration among the launches of forward and backward, in their order."""
    by_line: dict[tuple[str, KernelConfig], list[Launch]] = {}
    for launch in launches:
        if launch.tuned_as in KERNELS:
            by_line.setdefault((launch.tuned_as, launch.config), []).append(launch)
    copies = [launch.arguments for launch in launches if launch.kernel is image_copy_kernel]
    memory = [_Memory(copies, own) for own in by_line.values()]
    reads = Counter(storage for line in memory for storage in {_storage(image) for image in line.images.values()})
    return tuple(f"{name}: {config}{line.note(reads)}" for (name, config), line in zip(by_line, memory))


class _Memory:
    """The memory of the launches of a line besides their arguments and results: copies, and products."""

    def __init__(self, copies: Sequence[dict[str, Any]], launches: Sequence[Launch]) -> None:
        targets, sources = ({_storage(copy[name]) for copy in copies} for name in ("target_ptr", "source_ptr"))
        self.images = {
            name: image for name in READ_IMAGES for image in _tensors(launches, name) if _storage(image) in targets
        }
        self.incoming = [x for x in _tensors(launches, READ_GRADIENT) if _storage(x) in targets]
        self.written = [x for name in WRITTEN_GRADIENTS for x in _tensors(launches, name) if _storage(x) in sources]
        self.products = _tensors(launches, PRODUCTS) if KERNELS[launches[0].tuned_as].step == "products" else []

    def note(self, reads: Mapping[int, int]) -> str:
        """What stands behind the configuration; ``reads`` says how many lines read a copy."""
        text = ""
        if self.images:
            names = {_storage(image): READ_IMAGES[name] for name, image in reversed(self.images.items())}
            what = " and ".join(reversed(names.values()))
            shared = ", one set for the backward" if any(reads[storage] > 1 for storage in names) else ""
            text += f"; reads channels_last copies of {what} ({_bytes(self.images.values()):,} bytes{shared})"
        if self.incoming:
            text += f"; reads a channels_last copy of the incoming gradient ({_bytes(self.incoming):,} bytes)"
        if self.written:
            text += f"; writes gradients in channels_last first ({_bytes(self.written):,} bytes)"
        if self.products:
            most = max(_bytes([products]) for products in self.products)
            text += f"; makes products of up to {most:,} bytes at a time"
        return text


def _tensors(launches: Iterable[Launch], name: str) -> list[Tensor]:
    """The tensors that are passed under a name."""
    return [launch.arguments[name] for launch in launches if launch.arguments.get(name) is not None]


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor lies in; views of one tensor lie in the same."""
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Iterable[Tensor]) -> int:
    """What the memory of tensors takes, that of views once."""
    return sum({_storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
