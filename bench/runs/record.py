"""The JSON file of a benchmark: begun or gone on with, written whole after every case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measuring.saving import save

SCHEMA = 1
CHANGING = ("time", "load", "clocks")
"""What a fingerprint has that two parts of one run may differ in."""
FREE = ("command", "budget_seconds", "suite")
"""Settings that may differ, too: they say which cases are run, not how."""


class RecordError(ValueError):
    """A file cannot be read as a benchmark's, or not be gone on with."""


class Record:
    """A file in the making; without a path nothing is written."""

    def __init__(
        self, path: Path | None, environment: Mapping[str, Any], settings: Mapping[str, Any], resume: bool = False
    ) -> None:
        """Begin a file, or go on with the one that is there.

        Raises:
            RecordError: there is a file and ``resume`` is not set, or it is no benchmark's, or it was made on another
                device, with other versions, from other sources or with other settings.
        """
        self.path = path
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "complete": False,
            "environment": dict(environment),
            "settings": dict(settings),
            "roofs": None,
            "providers": {},
            "cases": [],
        }
        if path is not None and path.exists():
            if not resume:
                raise RecordError(f"{path} is there: --resume goes on with it, or name another file")
            self._go_on(read_record(path))

    def _go_on(self, found: dict[str, Any]) -> None:
        differences = [
            f"{name}: {old!r} there, {new!r} now"
            for part, left_out in (("environment", CHANGING), ("settings", FREE))
            for name, old, new in _different(found[part], self.content[part], left_out)
        ]
        if differences:
            raise RecordError(
                f"{self.path} cannot be gone on with, for what was measured there differs from what would be measured "
                f"now; name another file. {'; '.join(differences)}"
            )
        self.content |= {"roofs": found["roofs"], "providers": found["providers"], "cases": found["cases"]}

    def results(self, case_id: str) -> dict[str, Any]:
        """What became of each provider in a case; empty if the file has none of it."""
        case = next((case for case in self.content["cases"] if case["id"] == case_id), None)
        return {} if case is None else case["results"]

    def is_finished(self, case_id: str, providers: Sequence[str]) -> bool:
        """Whether the file has a result of each of these providers, and none was skipped for lack of time."""
        results = self.results(case_id)
        return all(name in results and results[name]["status"] != "skipped" for name in providers)

    def add(self, case: Mapping[str, Any]) -> None:
        """Put a case in, in the place of an earlier one of its id, and write the file."""
        cases = self.content["cases"]
        places = [i for i, other in enumerate(cases) if other["id"] == case["id"]]
        if places:
            cases[places[0]] = dict(case)
        else:
            cases.append(dict(case))
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            self.path = save(self.path, self.content)


def read_record(path: Path) -> dict[str, Any]:
    """The content of a benchmark's file.

    Raises:
        RecordError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path} is no JSON: {error}") from error
    parts = {"schema", "environment", "settings", "roofs", "providers", "cases", "complete"}
    if not isinstance(content, dict) or not parts <= content.keys():
        raise RecordError(f"{path} was not written by `sdn-triton bench run`")
    if content["schema"] != SCHEMA:
        raise RecordError(f"{path} has schema {content['schema']}, and this version reads {SCHEMA}")
    return content


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Objects inside objects by dotted names."""
    found: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _different(
    old: Mapping[str, Any], new: Mapping[str, Any], left_out: Sequence[str]
) -> list[tuple[str, object, object]]:
    """Name, old and new value of what differs."""
    a, b = (_flat({name: value for name, value in x.items() if name not in left_out}) for x in (old, new))
    return [(name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name)]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """How the environments of two files differ: name, value in the first, value in the second."""
    return _different(a["environment"], b["environment"], CHANGING)
