"""Where kernels run: on a GPU, or as compiled for one in the emulator of the tests, on a CPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sdn_triton.aot.compile import TARGETS
from sdn_triton.backend import INTERPRETED, is_interpreted
from sdn_triton.launch.run import target_of
from sdn_triton.tuning.configs import Target

from .. import ROOT
from ..measuring.poison import poisoned

TESTS = ROOT / "tests"
EMULATED = tuple(name for name, target in TARGETS.items() if target.kind == "cuda")


@dataclass(frozen=True)
class Place:
    """A device by its name: "cuda", or an architecture like "sm_90", which the emulator stands in for."""

    name: str

    @property
    def is_emulated(self) -> bool:
        """Whether there is no such device here."""
        return self.name != "cuda"

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return torch.device("cpu" if self.is_emulated else "cuda")

    @property
    def target(self) -> Target:
        """What configurations are chosen by."""
        return TARGETS[self.name] if self.is_emulated else target_of(self.device)

    def why_not(self) -> str | None:
        """Why nothing can run there; None if it can."""
        if not self.is_emulated:
            return None if torch.cuda.is_available() else "torch sees no GPU here; an architecture runs in the emulator"
        if is_interpreted():
            return f"Triton interprets in this process; the emulator needs its compiler: unset {INTERPRETED}"
        return None if (TESTS / "emulator").is_dir() else f"the emulator is not here, it is part of the tests: {TESTS}"

    @contextmanager
    def running(self, **options: Any) -> Iterator[Any]:
        """Kernels run inside, and what is allocated is full of NaN; yields the emulation that ``options`` are for."""
        if not self.is_emulated:
            with poisoned():
                yield None
                torch.cuda.synchronize()
            return
        with emulator().emulated(self.name, **options) as emulation:
            yield emulation


def emulator() -> Any:
    """The emulator, which is part of the tests."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    return importlib.import_module("emulator")
