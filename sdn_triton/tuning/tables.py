"""Tables of measured configurations: JSON files, one a GPU, that people can read.

A table has the GPU it was measured on, the runs that measured it (date, driver, versions, git revision) and entries:
for a kernel and a shape bucket the fastest configuration, with its time, the runner-up's and the heuristic's. Only
entries whose results were verified count. ``sdn-triton tune`` writes tables; here they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdn_triton.tuning.buckets import Bucket, bucket_from_json, family_of
from sdn_triton.tuning.configs import KernelConfig, Target, config_from_json
from sdn_triton.tuning.kernels import KERNELS

SCHEMA = 1
ENTRY_KEYS = ("kernel", "bucket", "config", "microseconds", "runner_up", "heuristic", "verified", "run", "shape")
DEVICE_KEYS = ("name", "kind", "architecture", "multiprocessors", "shared_bytes")


class TableError(ValueError):
    """A file is not a table that can be used; the message says why."""


@dataclass(frozen=True)
class Table:
    """What a file says: the GPU it is for, and a configuration for each kernel and bucket."""

    path: Path
    device_name: str
    target: Target
    shared_bytes: int
    configs: Mapping[tuple[str, Bucket], KernelConfig]

    def is_for(self, target: Target) -> bool:
        """Whether it was measured on such a GPU: capability, number of multiprocessors, class of shared memory."""
        return self.target == target._replace(l2=None) and self.shared_bytes == target.shared_bytes

    def is_in_family_of(self, target: Target) -> bool:
        """Whether it was measured on a GPU of the same architecture family."""
        return family_of(self.target) == family_of(target) and self.shared_bytes == target.shared_bytes


def read_table(path: Path) -> Table:
    """Read and check a file.

    Raises:
        TableError: the file is missing or cannot be read, is no JSON, has another schema, or an entry of it is wrong.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise TableError(error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise TableError(f"no valid JSON ({error})") from error
    return table_of(content, path)


def table_of(content: Any, path: Path) -> Table:
    """The table that the content of a file describes.

    Raises:
        TableError: see :func:`read_table`.
    """
    if not isinstance(content, Mapping) or "schema" not in content:
        raise TableError("not a table of sdn-triton tune")
    if content["schema"] != SCHEMA:
        raise TableError(f"its schema is {content['schema']!r}, this version reads {SCHEMA}")
    try:
        device, entries, runs = content["device"], content["entries"], content["runs"]
        _need_keys(device, DEVICE_KEYS, "the device")
        configs = {}
        for number, entry in enumerate(entries, start=1):
            try:
                key, config = _entry(entry, len(runs), str(path))
            except ValueError as error:
                raise TableError(f"entry {number}: {error}") from error
            configs[key] = config
        target = Target(device["kind"], device["architecture"], device["multiprocessors"])
        hash(target)
        return Table(path, str(device["name"]), target, device["shared_bytes"], configs)
    except (KeyError, TypeError) as error:
        raise TableError(f"malformed ({type(error).__name__}: {error})") from error


def _entry(entry: Any, runs: int, path: str) -> tuple[tuple[str, Bucket], KernelConfig]:
    _need_keys(entry, ENTRY_KEYS, "an entry")
    if entry["kernel"] not in KERNELS:
        raise ValueError(f"there is no kernel {entry['kernel']!r}")
    if entry["verified"] is not True:
        raise ValueError("its results were not verified")
    if not (type(entry["microseconds"]) in (int, float) and 0 < entry["microseconds"] < float("inf")):
        raise ValueError(f"{entry['microseconds']!r} is no time")
    if not (type(entry["run"]) is int and 0 <= entry["run"] < runs):
        raise ValueError(f"there is no run {entry['run']!r}")
    return (entry["kernel"], bucket_from_json(entry["bucket"])), config_from_json(entry["config"], path)


def _need_keys(content: Any, keys: tuple[str, ...], what: str) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise TableError(f"{what} needs {', '.join(missing)}")
