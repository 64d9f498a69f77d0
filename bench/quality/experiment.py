"""All runs of an experiment: spread over processes, written to a file one by one, resumed from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..measuring.environment import fingerprint, write_json
from .network import BASE, SWEEPS, VARIANTS, Variant
from .scenes import edge_statistics
from .training import PICTURES, TEST_SEED, Pictures, Setting, run, test_scenes


class Job(NamedTuple):
    """A run to be carried out."""

    variant: Variant
    setting: Setting
    seed: int


@dataclass(frozen=True)
class Plan:
    """What is run: the variants of the main table with ``seeds`` seeds each, those of the sweeps with fewer."""

    setting: Setting
    seeds: int
    sweep_seeds: int

    def jobs(self) -> list[Job]:
        """Seed by seed, so that a run cut short has whole seeds."""
        counts = [(variant, self.sweep_seeds if variant.sweep else self.seeds) for variant in (*BASE, *SWEEPS)]
        most = max(count for _, count in counts)
        return [Job(variant, self.setting, seed) for seed in range(most) for variant, count in counts if seed < count]


FULL = Plan(Setting(), seeds=8, sweep_seeds=5)
QUICK = Plan(Setting(training_scenes=512, test_scenes=64, steps=120), seeds=2, sweep_seeds=0)


class Results:
    """The file of an experiment, and beside it the maps of the first seed (``.npz``).

    Raises:
        ValueError: the file is of another setting or device, so that its runs cannot be carried on.
    """

    def __init__(self, path: Path, setting: Setting, device: torch.device, command: Sequence[str]) -> None:
        self.path = path
        identity = json.loads(json.dumps({"setting": asdict(setting), "test_seed": TEST_SEED}))
        self.content: dict[str, Any] = {"command": " ".join(command), **identity, "sessions": [], "runs": []}
        self.pictures: dict[str, np.ndarray] = {}
        if path.exists():
            self.content = json.loads(path.read_text())
            self.pictures = dict(np.load(self._pictures_path)) if self._pictures_path.exists() else {}
        stored = Setting(**self.content["setting"])  # a file from before a setting was one has its default
        stored_identity = {"setting": asdict(stored), "test_seed": self.content["test_seed"]}
        devices = {session["device"]["type"] for session in self.content["sessions"]} | {device.type}
        if stored_identity != identity or len(devices) > 1:
            raise ValueError(
                f"{path} has runs of another setting or device ({stored_identity}); name another file to start anew"
            )
        self.content["sessions"].append(fingerprint(device))

    @property
    def _pictures_path(self) -> Path:
        return self.path.with_suffix(".npz")

    def has(self, variant: Variant, seed: int, cell: str | None = None) -> bool:
        """Whether a run, on a map one of a cell, is there already."""
        wanted = (variant.name, seed, cell)
        return any((run["variant"], run["seed"], run.get("cell")) == wanted for run in self.content["runs"])

    def add(self, record: dict[str, Any], pictures: Pictures) -> None:
        """Keep a run, and its maps if it is of the first seed and no sweep's."""
        record["session"] = len(self.content["sessions"]) - 1
        self.content["runs"].append(record)
        if record["seed"] == 0 and not VARIANTS[record["variant"]].sweep:
            self.pictures |= {f"{record['variant']}/{name}": values for name, values in pictures.items()}
            np.savez_compressed(self._pictures_path, allow_pickle=False, **self.pictures)
        write_json(self.path, self.content)

    def note(self, name: str, value: Any) -> None:
        """Keep a finding about the whole experiment."""
        self.content[name] = value
        write_json(self.path, self.content)


def describe_task(setting: Setting, results: Results) -> None:
    """Keep what the scenes are like, and those of the pictures."""
    scenes = test_scenes(setting)
    results.pictures |= {
        "image": scenes.images[:PICTURES, 0].numpy().astype(np.float16),
        "truth": scenes.labels[:PICTURES].numpy().astype(np.uint8),
    }
    results.note("task", edge_statistics(scenes))


def execute(
    jobs: Sequence[Job], device: torch.device, workers: int, with_maps: bool = True
) -> Iterator[tuple[Job, dict[str, Any], Pictures]]:
    """The runs as they end, each in a process of one thread; with ``workers=0`` in this process, in order."""
    if workers == 0:
        for job in jobs:
            yield job, *run(*job, device, with_maps)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = {pool.submit(_run_by_name, job.variant.name, *job[1:], device, with_maps): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], *future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _run_by_name(
    name: str, setting: Setting, seed: int, device: torch.device, with_maps: bool
) -> tuple[dict[str, Any], Pictures]:
    # By name: a variant's functions do not travel to a process.
    return run(VARIANTS[name], setting, seed, device, with_maps)
