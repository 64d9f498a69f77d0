"""One run of ``sdn-triton tune``: tries configurations, times those that are right, and keeps a table of the fastest.

For each unit (a kernel, a shape) the candidates come nearest to the heuristic first. The machine code of each is
checked before it runs (``machine_code/hazards.py``), its results before its time counts; it is timed in turns with the
fastest so far. At the end the best few and the heuristic are timed again, all in turns, and that decides. The file is
written anew after every trial, whole or not at all: what is stopped goes on where it was, and a candidate that took the
process down with it is not tried a second time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sdn_triton.aot.compile import ToolError
from sdn_triton.tuning.configs import KernelConfig, Target, config_from_json, config_to_json
from sdn_triton.tuning.defaults import Work
from sdn_triton.tuning.files import write_json
from sdn_triton.tuning.spaces import candidates
from sdn_triton.tuning.tables import SCHEMA, TableError, table_of

from ..measuring.environment import describe_device, fingerprint
from ..measuring.rounds import Timing, interleave
from .trials import Trial, Unit, precision_of

FINALISTS = 4
TRIAL_SECONDS = 0.2
FINAL_SECONDS = 2.0
TRIAL_ROUNDS = (3, 15)
FINAL_ROUNDS = (7, 50)

Config = Mapping[str, Any]
"""The fields of a configuration, as they are in the file."""
Timer = Callable[[Mapping[str, Callable[[], object]], torch.device, float, tuple[int, int]], Mapping[str, Timing]]
Space = Callable[[str, Work, Target], Sequence[KernelConfig]]


class Tuner:
    """A table in the making. ``time_calls``, ``clock`` and ``space`` can be replaced, to test without a GPU."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        target: Target,
        budget: float,
        *,
        time_calls: Timer = interleave,
        clock: Callable[[], float] = time.perf_counter,
        space: Space = candidates,
        doing: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Open the table at ``path``, or begin it.

        Raises:
            TableError: there is a file that is no table, or one for another GPU.
            RuntimeError: a CUDA graph is being captured.
        """
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a CUDA graph is being captured: tuning compiles and times kernels, which a graph cannot hold; "
                "tune before the capture"
            )
        self.path, self.device, self.target = path, device, target
        self.time_calls, self.clock, self.space, self.doing = time_calls, clock, space, doing
        self.stop = clock() + budget
        self.content = self._opened()
        self._run: int | None = None

    def _opened(self) -> dict[str, Any]:
        if not self.path.exists():
            device = {
                "name": describe_device(self.device)["name"],
                "kind": self.target.kind,
                "architecture": self.target.architecture,
                "multiprocessors": self.target.multiprocessors,
                "shared_bytes": self.target.shared_bytes,
            }
            return {"schema": SCHEMA, "device": device, "runs": [], "entries": [], "unfinished": []}
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise TableError(f"{self.path} is there but cannot be gone on with: {error}") from error
        table = table_of(content, self.path)
        if not table.is_for(self.target):
            raise TableError(f"{self.path} is for another GPU, {table.device_name} ({table.target})")
        content.setdefault("unfinished", [])
        return dict(content)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.stop - self.clock()

    def entry(self, unit: Unit) -> dict[str, Any] | None:
        """What the table has for a unit, finished or not."""
        key = unit.kernel, unit.bucket._asdict()
        for entry in (*self.content["entries"], *self.content["unfinished"]):
            if (entry["kernel"], entry["bucket"]) == key:
                return dict(entry)
        return None

    def is_complete(self, unit: Unit) -> bool:
        """Whether all candidates were tried already."""
        entry = self.entry(unit)
        return entry is not None and bool(entry.get("complete"))

    def run(self, unit: Unit, seconds: float) -> dict[str, Any]:
        """Try the candidates of a unit for so long, at least the first; its entry, which is in the table if any ran."""
        until = self.clock() + seconds
        reserve = min(FINAL_SECONDS, seconds / 4)
        entry = self._begun(unit)
        with precision_of(unit.shape):
            trial = Trial(unit, self.device)
            trial.expected  # noqa: B018 (computed before anything is tried, whose failure a lack of memory is not)
            tried = {label(row["config"]) for row in (*entry["timed"], *entry["rejected"])}
            space = [config_to_json(config) for config in self.space(unit.kernel, unit.work, self.target)]
            todo = [config for config in space if label(config) not in tried]
            for number, config in enumerate(todo, start=1):
                if number > 1 and self.clock() > until - reserve:
                    break
                self.doing(f"{unit.title}: {number} of {len(todo)}")
                self._try(trial, config, entry)
            else:
                entry["complete"] = True
            self._decide(trial, space[0], entry)
            self.save(entry)
        return entry

    def _begun(self, unit: Unit) -> dict[str, Any]:
        if self._run is None:
            self._run = len(self.content["runs"])
            self.content["runs"].append(fingerprint(self.device))
        entry = self.entry(unit)
        if entry is None:
            kernel, bucket = unit.kernel, unit.bucket._asdict()
            entry = {"kernel": kernel, "bucket": bucket, "shape": str(unit.shape), "timed": [], "rejected": []}
        if (died := entry.pop("trying", None)) is not None:
            entry["rejected"].append({"config": died, "reason": "the process ended while it was tried"})
        return entry

    def _try(self, trial: Trial, config: Config, entry: dict[str, Any]) -> None:
        """Check one configuration, then time it beside the fastest so far."""
        entry["trying"] = config
        self.save(entry)
        if self._passes(trial, config, entry):
            best = [row["config"] for row in entry["timed"][:1]]
            times = self._time(trial, [config, *best], TRIAL_SECONDS, TRIAL_ROUNDS)
            entry["timed"].append({"config": config, "microseconds": times[label(config)]})
            entry["timed"].sort(key=_microseconds)
        del entry["trying"]

    def _passes(self, trial: Trial, config: Config, entry: dict[str, Any]) -> bool:
        """Whether code and results are right; if not the configuration is put among the rejected."""
        kernel_config = _kernel_config(config)
        try:
            reason = trial.why_not_run(kernel_config, self.target)
        except ToolError as error:
            entry["unchecked"] = f"the machine code of its configurations was not checked: {error}"
            reason = None
        reason = reason or trial.why_wrong(kernel_config)
        if reason is not None:
            entry["rejected"].append({"config": config, "reason": reason})
        return reason is None

    def _time(
        self, trial: Trial, configs: Sequence[Config], seconds: float, rounds: tuple[int, int]
    ) -> dict[str, float]:
        """Microseconds by label, measured in turns."""
        calls = {label(config): trial.call(_kernel_config(config)) for config in configs}
        times = self.time_calls(calls, self.device, seconds, rounds)
        return {name: timing.median * 1e6 for name, timing in times.items()}

    def _decide(self, trial: Trial, heuristic: Config, entry: dict[str, Any]) -> None:
        """Time the best few and the heuristic in turns: the fastest of these it is."""
        rest = [row["config"] for row in entry["timed"][FINALISTS:] if label(row["config"]) == label(heuristic)]
        finalists = [row["config"] for row in entry["timed"][:FINALISTS]] + rest
        # Checked once more: what an earlier run has timed is compiled here for the first time.
        right = [config for config in finalists if self._passes(trial, config, entry)]
        rejected = {label(row["config"]) for row in entry["rejected"]}
        entry["timed"] = [row for row in entry["timed"] if label(row["config"]) not in rejected]
        if not right:
            return
        times = self._time(trial, right, min(FINAL_SECONDS, max(self.left, 0.0)), FINAL_ROUNDS)
        rows = [{"config": config, "microseconds": times[label(config)]} for config in right]
        rows.sort(key=_microseconds)
        entry |= {
            **rows[0],
            "runner_up": rows[1] if len(rows) > 1 else None,
            "heuristic": next((row for row in rows if label(row["config"]) == label(heuristic)), None),
            "verified": True,
            "run": self._run,
        }

    def save(self, entry: dict[str, Any]) -> None:
        """Put an entry where it belongs and write the file."""
        for part in ("entries", "unfinished"):
            self.content[part] = [
                kept
                for kept in self.content[part]
                if (kept["kernel"], kept["bucket"]) != (entry["kernel"], entry["bucket"])
            ]
        self.content["entries" if entry.get("verified") else "unfinished"].append(entry)
        write_json(self.path, self.content)


def exported(content: Mapping[str, Any]) -> dict[str, Any]:
    """A table as it is shipped: what was decided and why, without the times of all that lost."""
    entries = []
    for entry in content["entries"]:
        kept = {name: value for name, value in entry.items() if name not in ("timed", "trying")}
        entries.append({**kept, "candidates": len(entry["timed"]) + len(entry["rejected"])})
    return {**content, "entries": entries, "unfinished": []}


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables of one GPU in one; where both have an entry the new one counts."""
    shift = len(old["runs"])
    fresh = [{**entry, "run": entry["run"] + shift} for entry in new["entries"]]
    keys = [(entry["kernel"], entry["bucket"]) for entry in fresh]
    kept = [entry for entry in old["entries"] if (entry["kernel"], entry["bucket"]) not in keys]
    return {**old, "runs": [*old["runs"], *new["runs"]], "entries": [*kept, *fresh]}


def label(config: Config) -> str:
    """A configuration in one line, as ``python -m sdn_triton.bench.machine_code --config`` takes it."""
    return ",".join(f"{name}={value}" for name, value in config_to_json(_kernel_config(config)).items())


def _kernel_config(config: Config) -> KernelConfig:
    return config_from_json(config, "candidate")


def _microseconds(row: Mapping[str, Any]) -> float:
    return float(row["microseconds"])
