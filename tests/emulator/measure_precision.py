"""How exact the kernels are as compiled: measures what the precision contract is about, and writes docs/precision.md.

    make precision
    TRITON_INTERPRET=0 python tests/emulator/measure_precision.py --arch sm_90 --dtype bf16 --subject C32-O40-6x9

What is measured replaces the like of it in docs/precision.json; the page is made of all that stands there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch
import triton
from support.precision import DTYPES, LIMIT, SEEDS, SUBJECTS, limits, measure

from emulator import Mode, emulated

FIGURES = TESTS.parent / "docs/precision.json"
PAGE = FIGURES.with_suffix(".md")
BEGIN, END = "<!-- measure_precision.py -->\n", "<!-- end of measure_precision.py -->"
KEY = ("arch", "dtype", "subject")
ARCHITECTURES = ("sm_80", "sm_90")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for, in as many processes as there are cores; both files are written after each call.

    The exit status is 1 if anything of it is less exact than the contract and its known misses allow.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES)
    parser.add_argument("--dtype", action="append", choices=tuple(DTYPES))
    parser.add_argument("--subject", action="append", choices=tuple(SUBJECTS))
    parser.add_argument("--missing", action="store_true", help="only what is not in the file yet")
    asked = parser.parse_args(argv)
    calls = list(product(asked.subject or SUBJECTS, asked.dtype or DTYPES, asked.arch or ARCHITECTURES))
    if asked.missing:
        known = {tuple(row[k] for k in KEY) for row in read()}
        calls = [(subject, dtype, arch) for subject, dtype, arch in calls if (arch, dtype, subject) not in known]
    wrong = 0
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        for done in as_completed([processes.submit(rows_of, *call) for call in calls]):
            write(rows := done.result())
            wrong += sum(map(is_wrong, rows))
            print(*(f"{row['arch']} {row['dtype']} {row['subject']}" for row in rows[:1]), flush=True)
    return int(wrong > 0)


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a row is beyond what is allowed; it is printed then."""
    rms, maximum = limits(row["output"], row["dtype"], row["kernels"])
    if too_large := row["rms"] > rms or row["maximum"] > maximum:
        print(f"allowed are {rms} and {maximum}: {row}", file=sys.stderr)
    return too_large


def read() -> list[dict[str, Any]]:
    """The rows on file."""
    rows: list[dict[str, Any]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
    return rows


def rows_of(subject: str, dtype: str, arch: str) -> list[dict[str, Any]]:
    """A row for each output and gradient."""
    torch.set_num_threads(1)
    with emulated(arch, Mode(checks=False), is_strict=False) as emulation:
        found = measure(SUBJECTS[subject], dtype)
    return [
        {
            **dict(zip(KEY, (arch, dtype, subject))),
            "output": output,
            "rms": round(errors.rms_ratio, 3),
            "worst_rms": round(errors.worst_rms_ratio, 3),
            "maximum": round(errors.maximum_ratio, 3),
            "worst_maximum": round(errors.worst_maximum_ratio, 3),
            "seeds": len(SEEDS),
            "kernels": sorted(emulation.kernels),
            "triton": triton.__version__,
        }
        for output, errors in found.items()
    ]


def write(rows: list[dict[str, Any]]) -> None:
    """Put rows in the place of those of the same architecture, dtype and subject, and write the page."""
    replaced = {tuple(row[k] for k in KEY) for row in rows}
    rows = [row for row in read() if tuple(row[k] for k in KEY) not in replaced] + rows
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
    raise SystemExit(main())
