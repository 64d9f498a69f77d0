"""The run of ``make gpu``: one step after the other, and after each of them everything in its folder is in order.

Imports neither torch nor anything of the package, so that the run begins at once.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .files import ENVIRONMENT, SUMMARY, Folders, read_json, write_whole
from .machine import facts
from .steps import LEAST, Outcome, Step, run_step
from .summary import summary

FINGERPRINT, COMPILED_BEFORE = "fingerprint.json", "precompile.json"
"""In the folder ``work``: what torch says of the machine, and how many kernels were compiled, or were there already."""
TICK = 5.0
"""Seconds between two times that results, archive and outcomes are put into the folder while a step runs."""


@dataclass
class Run:
    """The steps that are still to come, what became of those before, and how much time there is."""

    folders: Folders
    steps: Sequence[Step]
    total: float
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    earlier: Mapping[str, Any] = field(default_factory=dict)
    """The steps of part 1, where this is part 2."""
    facts: Mapping[str, Any] = field(default_factory=facts)

    def __post_init__(self) -> None:
        self.stop = time.monotonic() + self.total
        if content := read_json(self.folders.result(ENVIRONMENT)):
            self.earlier = content["steps"]
        self._current: Step | None = None
        self._ticked = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.stop - time.monotonic()

    def run(self) -> dict[str, Outcome]:
        """Run what fits; every file is in order before each step, while it runs, and at the end."""
        todo = list(self.steps)
        try:
            while todo:
                step = self._next(todo)
                todo.remove(step)
                self._current = step
                self._save()
                self.outcomes[step.name] = self._one(step, sum(later.seconds for later in todo))
                self._current = None
        finally:
            self._save()
        return self.outcomes

    def _next(self, todo: Sequence[Step]) -> Step:
        try:
            return next((step for step in todo if step.is_urgent(self.folders)), todo[0])
        except Exception:  # what cannot be read is told in the summary, too, and costs the rest nothing
            traceback.print_exc()
            return todo[0]

    def _one(self, step: Step, reserved: float) -> Outcome:
        slack = max(self.left - reserved - step.seconds, 0.0)
        limit = min(step.seconds + (slack if step.takes_slack else 0.0), self.left)
        try:
            return self._begun(step, limit)
        except Exception as error:  # a fault of the run's own costs one step, and is told
            traceback.print_exc()
            return Outcome(None, 0.0, f"the run failed: {type(error).__name__}: {error}")

    def _begun(self, step: Step, limit: float) -> Outcome:
        why_not = step.why_not(self.folders)
        if why_not is None and limit < min(LEAST, step.seconds):
            why_not = f"{max(limit, 0):.0f} s were left"
        if why_not is not None:
            print(f"\n== {step.name}: not run: {why_not}", flush=True)
            return Outcome(None, 0.0, why_not, begun=0)
        print(f"\n== {step.name}, at most {limit:.0f} s\n", flush=True)
        return run_step(step, self.folders, limit, self._look)

    def _look(self) -> None:
        if time.monotonic() - self._ticked > TICK:
            self._save()

    def _save(self) -> None:
        for name in dict.fromkeys(name for step in self.steps for name in step.published):
            self.folders.publish(name)
        self.folders.write_json(ENVIRONMENT, self._environment())
        write_whole(self.folders.out / SUMMARY, self.summary().encode(), self.folders.work)
        self.folders.pack()
        self._ticked = time.monotonic()

    def summary(self) -> str:
        """What is known so far; where that cannot be told, why."""
        try:
            return summary(self.folders)
        except Exception:
            return f"The summary itself failed:\n{traceback.format_exc()}"

    def _environment(self) -> dict[str, Any]:
        fingerprint, compiled = (self._written(name) for name in (FINGERPRINT, COMPILED_BEFORE))
        steps = dict(self.earlier) | {name: outcome.describe() for name, outcome in self.outcomes.items()}
        if self._current is not None:
            steps[self._current.name] = {"status": None, "seconds": None, "why": "cut off with the run", "begun": 1}
        return {
            "environment": {**self.facts, **(fingerprint or {}), "compiled_before": compiled},
            "steps": steps,
        }

    def _written(self, name: str) -> Any:
        path = self.folders.work / name
        return read_json(path if path.is_file() else None)
