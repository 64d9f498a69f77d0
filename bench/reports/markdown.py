"""Reports in Markdown: the same tables as on the page, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..runs.saved_runs import Run
from ..terminal import Cell, Table
from .page_tables import (
    DOES_NOT_TELL,
    TELLS,
    answer,
    case_tables,
    environment_table,
    headline,
    measured,
    provider_table,
    speedup_tables,
    summary_table,
    untimed_table,
)


def markdown_table(table: Table) -> str:
    """A table in Markdown, without its title; losing and wrong figures are bold."""
    if not table.rows:
        return "None."
    rules = ["---:" if table.is_figure(column) else "---" for column in range(len(table.columns))]
    rows = [" | ".join(map(_cell, row)) for row in table.rows]
    return "\n".join(f"| {row} |" for row in (" | ".join(table.columns), " | ".join(rules), *rows))


def _cell(cell: Cell) -> str:
    text = " ".join(cell.replace("|", "\\|").replace("<", "&lt;").split())
    return f"**{text}**" if cell.mark == "bad" and text else text


def section(table: Table, level: int = 3) -> str:
    """A table under its title."""
    return f"{'#' * level} {table.title}\n\n{markdown_table(table)}"


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
        parts += [section(summary_table(run)), *(section(table) for table in speedup_tables(run))]
        parts += (pictures or {}).get(str(run.path), [])
        parts += [section(untimed_table(run)), section(provider_table(run))]
        parts += ["### What the figures tell", _list(TELLS), "### What they do not tell", _list(DOES_NOT_TELL)]
        parts += ["### Every case", *(section(table, 4) for table in case_tables(run))]
        parts.append(section(environment_table(run)))
    return "\n\n".join(parts) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
