"""Reports in Markdown: the same tables as on the page, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..runs.saved_runs import Run
from ..terminal import Cell, Table
from .page_tables import (
    DOES_NOT_TELL,
    TELLS,
    absent_sheet,
    answer,
    case_sheets,
    environment_sheet,
    headline,
    measured,
    provider_sheet,
    standing_sheets,
    summary_sheet,
)


def table(sheet: Table) -> str:
    """A Markdown table, without its title; losing and wrong figures are bold."""
    if not sheet.rows:
        return "None."
    rules = ["---:" if sheet.is_figure(column) else "---" for column in range(len(sheet.columns))]
    rows = [" | ".join(map(_cell, row)) for row in sheet.rows]
    return "\n".join(f"| {row} |" for row in (" | ".join(sheet.columns), " | ".join(rules), *rows))


def _cell(cell: Cell) -> str:
    text = " ".join(cell.replace("|", "\\|").replace("<", "&lt;").split())
    return f"**{text}**" if cell.mark == "bad" and text else text


def section(sheet: Table, level: int = 3) -> str:
    """A table under its title."""
    return f"{'#' * level} {sheet.title}\n\n{table(sheet)}"


def report(runs: Sequence[Run], pictures: Mapping[str, Sequence[str]] | None = None) -> str:
    """Everything about the runs; ``pictures`` has Markdown to show for the path of a run."""
    parts = ["# Benchmarks of sdn_triton"]
    for run in runs:
        parts += [
            f"## {run.device}: {run.path.name}",
            *(f"**{line}**" for line in headline(run)),
            *answer(run),
            measured(run),
        ]
        parts += [section(summary_sheet(run)), *(section(sheet) for sheet in standing_sheets(run))]
        parts += (pictures or {}).get(str(run.path), [])
        parts += [section(absent_sheet(run)), section(provider_sheet(run))]
        parts += ["### What the figures tell", _list(TELLS), "### What they do not tell", _list(DOES_NOT_TELL)]
        parts += ["### Every case", *(section(sheet, 4) for sheet in case_sheets(run))]
        parts.append(section(environment_sheet(run)))
    return "\n\n".join(parts) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
