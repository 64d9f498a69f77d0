"""Tasks for the smoke run's processes, which import them by name: they end well, wrongly, or with their process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Stub:
    """What ``deed`` says; a variant is what is tried after a wrong result."""

    family: str
    deed: str
    variant: str = "as chosen"
    remedies: tuple[str, ...] = ()
    spoils_its_process: bool = False

    def facts(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "kernels": [self.deed],
            "arithmetic": "bf16",
            "shape": "odd",
            "variant": self.variant,
        }

    def run(self, place: Any) -> dict[str, Any]:
        if self.deed == "aborts":
            os.abort()
        if self.deed == "sleeps":
            time.sleep(60)
        row = self.facts() | {"process": os.getpid(), "shares": {}, "why": None}
        if self.deed == "raises":
            return row | {"ok": False, "why": "RuntimeError: an illegal memory access", "raised": True}
        return row | {"ok": self.deed == "right" or self.variant in self.remedies}

    def variants(self, place: Any) -> Iterable[Stub]:
        if self.variant == "as chosen":
            yield replace(self, variant="one stage")
            yield replace(self, variant="4 warps")
