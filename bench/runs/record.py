"""The JSON file of a benchmark: begun or gone on with, written whole after every case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measuring.saving import save
from .saved_runs import SCHEMA, Run, RunFileError, read_content, run_of

CHANGING = ("time", "load", "clocks")
"""What a fingerprint has that two parts of one run may differ in."""
FREE = ("command", "budget_seconds", "suite")
"""Settings that may differ, too: they say which cases are run, not how."""


class Record:
    """A file in the making; without a path nothing is written."""

    def __init__(
        self,
        path: Path | None,
        environment: Mapping[str, Any],
        settings: Mapping[str, Any],
        resume: bool = False,
        replace: bool = False,
    ) -> None:
        """Begin a file, or go on with the one that is there.

        Raises:
            RunFileError: there is a file that is neither to be gone on with nor to be replaced, or it is no
                benchmark's, or it was made on another device, with other versions, from other sources or with other
                settings.
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
        if path is not None and path.exists() and not replace:
            if not resume:
                raise RunFileError(f"{path} is there: --resume goes on with it, or name another file")
            self._go_on(read_record(path))

    def _go_on(self, earlier: dict[str, Any]) -> None:
        differences = [
            f"{name}: {old!r} there, {new!r} now"
            for part, left_out in (("environment", CHANGING), ("settings", FREE))
            for name, old, new in _different(earlier[part], self.content[part], left_out)
        ]
        if differences:
            raise RunFileError(
                f"{self.path} cannot be gone on with, for what was measured there differs from what would be measured "
                f"now; name another file. {'; '.join(differences)}"
            )
        self.content |= {name: earlier[name] for name in ("roofs", "providers", "cases")}

    @property
    def run(self) -> Run:
        """What is known so far, as readers see it."""
        return run_of(self.path or Path("this run"), self.content)

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
        places = [i for i, present in enumerate(cases) if present["id"] == case["id"]]
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
    """The content of a benchmark's file, checked, to be gone on with.

    Raises:
        RunFileError: there is no such file, or it holds something else.
    """
    content: dict[str, Any] = read_content(path)
    run_of(path, content)
    return content


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Objects inside objects by dotted names."""
    fields: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def _different(
    old: Mapping[str, Any], new: Mapping[str, Any], left_out: Sequence[str]
) -> list[tuple[str, object, object]]:
    """Name, old and new value of what differs."""
    a, b = (flat({name: value for name, value in x.items() if name not in left_out}) for x in (old, new))
    return [(name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name)]


def differences(a: Run, b: Run) -> list[tuple[str, object, object]]:
    """How the environments of two runs differ: name, value in the first, value in the second."""
    return _different(a.environment, b.environment, CHANGING)
