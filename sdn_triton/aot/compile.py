"""Ahead-of-time compilation: what a launch becomes on a device that need not be there.

A launch recorded with meta tensors (see ``launch/run.py``) goes through Triton's own specialisation, so that what is
compiled here is what such a launch would compile. Runs in a process without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdn_triton.launch.run import Launch
from sdn_triton.tuning.configs import Target

TARGETS = {
    name: Target(kind, architecture, multiprocessors)
    for name, kind, architecture, multiprocessors in (
        ("sm_80", "cuda", 80, 108),
        ("sm_86", "cuda", 86, 84),
        ("sm_89", "cuda", 89, 128),
        ("sm_90", "cuda", 90, 132),
        ("sm_100", "cuda", 100, 148),
        ("sm_120", "cuda", 120, 170),
        ("gfx942", "hip", "gfx942", 304),
    )
}
"""The devices that every default configuration is compiled for."""


class ToolError(RuntimeError):
    """A tool that reads binaries is not where the triton package should have it, or cannot read this one."""


@dataclass(frozen=True)
class Resources:
    """What one block of a compiled kernel takes: bytes of shared memory, registers a thread, bytes of local memory."""

    shared_bytes: int
    registers: int
    local_bytes: int
    threads: int


@dataclass(frozen=True)
class Compiled:
    """A compiled launch; ``assembly`` holds what Triton's stages made ("ttgir", "ptx", "cubin", "amdgcn" ...)."""

    name: str
    target: Target
    assembly: dict[str, Any]
    shared_bytes: int
    threads: int
    parameters: dict[str, str]
    """What the compiled kernel is passed, by name: "*bf16", "i32" ...; what Triton made a constant of is none.

    Members of a tuple are called "u_strides.h".
    """
    tensor_columns: int = 0
    """Columns of tensor memory, on architectures that have it; more than 512 cannot be launched."""

    def resources(self) -> Resources:
        """Read the resource use out of the binary (NVIDIA) or the assembly's metadata (AMD)."""
        if self.target.kind == "cuda":
            report = _run_tool("cuobjdump", "-res-usage", binary=self.assembly["cubin"])
            registers, stack, local = (_number(rf"{key}:(\d+)", report) for key in ("REG", "STACK", "LOCAL"))
            return Resources(self.shared_bytes, registers, stack + local, self.threads)
        text = self.assembly["amdgcn"]
        registers = _number(r"\.vgpr_count:\s+(\d+)", text)
        return Resources(
            self.shared_bytes, registers, _number(r"\.private_segment_fixed_size:\s+(\d+)", text), self.threads
        )

    def machine_code(self) -> str:
        """The instructions: SASS on NVIDIA, with its encoding behind it, else AMD's assembly."""
        if self.target.kind == "cuda":
            return disassembly(self.assembly["cubin"])
        return self.assembly["amdgcn"]

    def tensor_instructions(self) -> int:
        """How many matrix instructions the code holds."""
        if self.target.kind == "cuda":
            pattern, text = r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", self.assembly["ptx"]
        else:
            pattern, text = r"\bv_mfma_", self.assembly["amdgcn"]
        return len(re.findall(pattern, text))


def compile_launch(launch: Launch, target: Target) -> Compiled:
    """Compile a recorded launch for ``target`` exactly as launching it there would.

    Raises:
        RuntimeError: Triton interprets kernels in this process.
        Exception: whatever the compiler raises for a kernel that it cannot compile.
    """
    from triton.runtime import JITFunction

    if not isinstance(launch.kernel, JITFunction):
        raise RuntimeError("kernels are interpreted in this process; unset TRITON_INTERPRET to compile them")
    with active_driver(OfflineDriver(target)):
        kernel = launch.kernel.warmup(**launch.arguments, **launch.options, grid=launch.grid)
    if hasattr(kernel, "result"):  # compiled in the background
        kernel = kernel.result()
    return Compiled(
        name=launch.name,
        target=target,
        assembly=kernel.asm,
        shared_bytes=kernel.metadata.shared,
        tensor_columns=getattr(kernel.metadata, "tmem_size", None) or 0,
        threads=launch.config.num_warps * (32 if target.kind == "cuda" else 64),
        parameters={name: kind for name, kind in _flat(kernel.src.signature) if kind != "constexpr"},
    )


def _flat(signature: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Arguments and what Triton takes them for; each member of a tuple by itself."""
    for name, kind in signature.items():
        if isinstance(kind, str):
            yield name, kind
        else:
            yield from _flat({f"{name}.{member}": x for member, x in kind._asdict().items()})


def disassembly(cubin: bytes) -> str:
    """The instructions in a binary of NVIDIA's with their encoding, by the disassembler in the triton package.

    Raises:
        ToolError: there is none that runs, or it cannot read the binary.
    """
    return _run_tool("nvdisasm", "-c", "-hex", binary=cubin)


class OfflineDriver:
    """Stands in for a driver: it knows which device there is, and gives each architecture an index of its own."""

    def __init__(self, target: Target) -> None:
        from triton.backends.compiler import GPUTarget

        self._index = 1000 + int(re.sub(r"\D", "", str(target.architecture)))
        self._target = GPUTarget(target.kind, target.architecture, 32 if target.kind == "cuda" else 64)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return self._index

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def active_driver(stand_in: OfflineDriver) -> Iterator[None]:
    """Let Triton use ``stand_in`` in place of the driver of a device."""
    from triton.runtime import driver

    drivers: Any = driver
    previous = vars(drivers).get("_active", vars(drivers).get("active"))  # the second is triton 3.2's name
    drivers.set_active(stand_in)
    try:
        yield
    finally:
        drivers.set_active(previous)


def _run_tool(tool: str, *options: str, binary: bytes) -> str:
    """Run one of the binary tools that come inside the triton package."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        try:
            run = subprocess.run([path, *options, file.name], capture_output=True, text=True)
        except OSError as error:
            raise ToolError(f"this triton comes without a {tool} that runs ({error})") from error
    if run.returncode:
        raise ToolError(f"{tool} cannot read the binary: {' '.join(run.stderr.split())[:200]}")
    return run.stdout


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"no {pattern!r} in the compiler's report")
    return int(match.group(1))
