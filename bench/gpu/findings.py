"""What the files of a run say, read back: smoke's lines, the tests', the sanitizer's.

Imports neither torch nor anything that does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import SMOKE, Folders, read_lines

AS_CHOSEN = "as chosen"
"""Smoke's variant that users get; it tries the others where that one is wrong."""
QUESTION = "hazard, "
"""How the families begin that ask whether the hardware shows the compiler's fault."""
SHIPPED_HAZARD = f"{QUESTION}as shipped"


@dataclass
class Smoke:
    """The lines of ``smoke.jsonl``."""

    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, folders: Folders) -> Smoke:
        """Those of this run or of part 1."""
        return cls(list(read_lines(folders.result(SMOKE))))

    def count(self, ok: bool | None) -> int:
        """How many of the kernels as users get them are right, wrong, or neither."""
        return sum(row["ok"] is ok for row in self.rows if row["variant"] == AS_CHOSEN)

    def wrong(self) -> list[dict[str, Any]]:
        """What is wrong as users get it."""
        return [row for row in self.rows if row["ok"] is False and _is_shipped(row)]

    def right_variants(self, wrong: dict[str, Any]) -> list[str]:
        """The ways to compile it that are right."""
        same = [row for row in self.rows if _identity(row) == _identity(wrong) and row["variant"] != wrong["variant"]]
        return [row["variant"] for row in same if row["ok"]]

    def questions(self) -> list[dict[str, Any]]:
        """The lines about the compiler's fault."""
        return [row for row in self.rows if row["family"].startswith(QUESTION)]

    def broken_families(self) -> list[str]:
        """Families in which anything is wrong."""
        return list(dict.fromkeys(row["family"] for row in self.wrong()))

    def hopeless_kernels(self) -> set[str]:
        """Kernels that are wrong and that no variant makes right."""
        return {name for row in self.wrong() if not self.right_variants(row) for name in row["kernels"]}


def _is_shipped(row: dict[str, Any]) -> bool:
    return row["variant"] == AS_CHOSEN or row["family"] == SHIPPED_HAZARD


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What is computed; the kernels that do may differ from variant to variant."""
    return row["family"], row["arithmetic"], row["shape"], row.get("size")


@dataclass
class Tests:
    """The groups of ``tests.txt``, and what failed in them, by the function that failed."""

    begun: Counter[str] = field(default_factory=Counter)
    """How many processes began each group."""
    ended: dict[str, list[str]] = field(default_factory=dict)
    """How each of them ended."""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path | None) -> Tests:
        """Read the file; one that was cut off says what it has."""
        tests, group, last = cls(), "", ""
        for line in [] if path is None else path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"== (\S+): (begun|ended: (.*))$", line):
                group = match[1]
                tests.begun[group] += match[2] == "begun"
                tests.ended.setdefault(group, []).extend([match[3]] if match[3] else [])
                tests.counts.setdefault(group, Counter())
            elif match := re.match(r"(passed|failed|skipped) [\d.]+ (.*)$", line):
                tests.counts[group][match[1]] += 1
                last = match[2].partition("[")[0] if match[1] == "failed" else ""
                if last:
                    tests.failed.setdefault(last, []).append(match[2])
            elif last and line.startswith("    E "):
                tests.said.setdefault(last, " ".join(line.split()[1:]))
        return tests


@dataclass(frozen=True)
class Sanitizer:
    """What compute-sanitizer said."""

    errors: int | None
    """How many it counted; None if it was cut off before, or could not start."""
    tasks: int
    """How many of smoke's came to their end under it."""
    said: list[str]
    """The first line of each of its messages, with the place in a kernel where there is one."""

    @classmethod
    def of(cls, text: str) -> Sanitizer:
        """Read its output, in which smoke's lines are, too."""
        counts = [int(number) for number in re.findall(r"^=+ ERROR SUMMARY: (\d+) errors?$", text, re.MULTILINE)]
        messages = re.findall(
            r"^=+ (?!COMPUTE-SANITIZER|ERROR SUMMARY)(\S.*)(?:\n=+ {2,}(at .*))?$", text, re.MULTILINE
        )
        tasks = re.findall(r"^(?:ok|WRONG) +\S", text, re.MULTILINE)
        return cls(
            sum(counts) if counts else None, len(tasks), _distinct([" ".join(filter(None, m)) for m in messages])
        )


def _distinct(lines: Sequence[str]) -> list[str]:
    return [f"{line} ({count} times)" if count > 1 else line for line, count in Counter(lines).items()]
