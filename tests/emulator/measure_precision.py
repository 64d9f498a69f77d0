"""How exact the kernels are as compiled: measures what the precision contract is about, and writes docs/precision.md.

    TRITON_INTERPRET=0 python tests/emulator/measure_precision.py [--arch sm_90] [--dtype bf16] [--subject C32-O40-6x9]

What is measured replaces the like of it in docs/precision.json; the page is made of all that stands there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import triton
from precision import DTYPES, LIMIT, SEEDS, SUBJECTS, measure

from emulator import Mode, emulated

FIGURES = TESTS.parent / "docs/precision.json"
PAGE = FIGURES.with_suffix(".md")
BEGIN, END = "<!-- measure_precision.py -->\n", "<!-- end of measure_precision.py -->"
KEY = ("arch", "dtype", "subject")
ARCHITECTURES = ("sm_80", "sm_90")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what was asked for, one subject after the other, and write both files after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES)
    parser.add_argument("--dtype", action="append", choices=tuple(DTYPES))
    parser.add_argument("--subject", action="append", choices=tuple(SUBJECTS))
    asked = parser.parse_args(argv)
    for arch in asked.arch or ARCHITECTURES:
        for dtype in asked.dtype or DTYPES:
            for subject in asked.subject or SUBJECTS:
                write(list(rows_of(arch, dtype, subject)))


def rows_of(arch: str, dtype: str, subject: str) -> Iterator[dict[str, Any]]:
    """A row for each output and gradient."""
    with emulated(arch, Mode(checks=False), is_strict=False) as emulation:
        found = measure(SUBJECTS[subject], dtype)
    kernels = sorted({launch.name.removesuffix("_kernel") for launch in emulation.launches})
    for output, errors in found.items():
        yield {
            **dict(zip(KEY, (arch, dtype, subject))),
            "output": output,
            "rms": round(errors.rms_ratio, 2),
            "worst_rms": round(errors.worst_rms_ratio, 2),
            "maximum": round(errors.maximum_ratio, 2),
            "worst_maximum": round(errors.worst_maximum_ratio, 2),
            "seeds": len(SEEDS),
            "kernels": kernels,
            "triton": triton.__version__,
        }


def write(rows: list[dict[str, Any]]) -> None:
    """Put rows in the place of those of the same architecture, dtype and subject, and write the page."""
    replaced = {tuple(row[k] for k in KEY) for row in rows}
    before = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
    rows = [row for row in before if tuple(row[k] for k in KEY) not in replaced] + rows
    rows.sort(key=lambda row: (row["arch"], list(DTYPES).index(row["dtype"]), list(SUBJECTS).index(row["subject"])))
    FIGURES.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + BEGIN + "\n" + tables(rows) + "\n" + text[text.index(END) :])


def tables(rows: list[dict[str, Any]]) -> str:
    """A table for each architecture and dtype: a line a subject, root of the mean square / maximum of each output."""
    parts = []
    for arch, dtype in dict.fromkeys((row["arch"], row["dtype"]) for row in rows):
        chosen = [row for row in rows if (row["arch"], row["dtype"]) == (arch, dtype)]
        parts += [
            f"### {arch}, {dtype}",
            "",
            "| call | output or gradient: rms, maximum | kernels |",
            "| --- | --- | --- |",
        ]
        for subject in dict.fromkeys(row["subject"] for row in chosen):
            of_subject = [row for row in chosen if row["subject"] == subject]
            figures = "; ".join(f"{row['output']} {shown(row['rms'])}, {shown(row['maximum'])}" for row in of_subject)
            parts.append(f"| {subject} | {figures} | {', '.join(of_subject[0]['kernels'])} |")
        parts.append("")
    return "\n".join(parts)


def shown(ratio: float) -> str:
    """Two digits; bold where the contract is missed."""
    return f"**{ratio:.2f}**" if ratio > LIMIT else f"{ratio:.2f}"


if __name__ == "__main__":
    main()
