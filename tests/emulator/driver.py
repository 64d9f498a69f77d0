"""What Triton takes for a GPU: compiled kernels are run by the emulator, on CPU tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from sdn_triton.tuning.configs import Target

from .program import Program
from .ptx import parse

Run = Callable[[Program, tuple[int, int, int], list[Any], list[Any]], None]


class EmulatedDriver:
    """Triton's driver for a pretended device; ``run`` takes the launches.

    Triton keeps a kernel with its launcher, so that what runs it is found through ``current``.
    """

    current: EmulatedDriver | None = None

    def __init__(self, target: Target, run: Run, edit: Callable[[str], str]) -> None:
        self.target, self.run, self.edit = target, run, edit
        properties = {"max_shared_mem": target.shared_bytes, "multiprocessor_count": target.multiprocessors}
        self.utils = SimpleNamespace(load_binary=load_binary, get_device_properties=lambda device: properties)

    def get_current_target(self) -> Any:
        """The architecture that kernels are compiled for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.target.architecture, 32)

    def get_current_device(self) -> int:
        """A number that no other device has: Triton keeps kernels by it."""
        return 2000 + int(self.target.architecture)

    def get_current_stream(self, device: int) -> int:
        """There is one."""
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """What launches a kernel."""
        signature = list(source.signature.values())

        def launch(x: int, y: int, z: int, stream: int, loaded: Loaded, *rest: Any) -> None:
            arguments = list(rest[4:])  # behind the metadata and the hooks
            driver = EmulatedDriver.current
            driver.run(loaded.program(driver.edit), (x, y, z), signature, arguments)

        return launch


class Loaded:
    """A kernel as the driver has loaded it: its PTX, and what was made of it."""

    def __init__(self, text: str, shared_bytes: int) -> None:
        self.text, self.shared_bytes = text, shared_bytes
        self.programs: dict[str, Program] = {}

    def program(self, edit: Callable[[str], str]) -> Program:
        """The kernel, translated; ``edit`` may change its text before."""
        text = edit(self.text)
        if text not in self.programs:
            self.programs[text] = Program(parse(text), self.shared_bytes)
        return self.programs[text]


def load_binary(name: str, binary: bytes | str, shared_bytes: int, device: int) -> tuple[Any, Loaded, int, int, int]:
    """Module, function, registers, spills, and the most threads."""
    text = binary if isinstance(binary, str) else binary.decode()
    return None, Loaded(text, shared_bytes), 0, 0, 1024


def stop_at_ptx(backend: Any = None, stages: Any = None, *others: Any) -> tuple[str, str]:
    """Compile no further than to PTX, which then stands in place of the binary; a hook of Triton's compiler."""
    if stages is not None:
        stages["cubin"] = lambda text, metadata: text
    return "emulated", "emulated"


@contextmanager
def emulated_device(driver: EmulatedDriver) -> Iterator[None]:
    """Let Triton run its kernels on ``driver``."""
    from triton import knobs
    from triton.runtime import driver as drivers

    previous, outer = vars(drivers).get("_active"), EmulatedDriver.current
    with knobs.runtime.scope(), knobs.cache.scope():
        knobs.runtime.add_stages_inspection_hook = stop_at_ptx
        if outer is None:
            knobs.cache.dir = f"{knobs.cache.dir}/emulated"  # no other process must take PTX for a binary
        drivers.set_active(driver)
        EmulatedDriver.current = driver
        try:
            yield
        finally:
            EmulatedDriver.current = outer
            drivers.set_active(previous)
