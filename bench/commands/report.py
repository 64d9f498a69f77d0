"""``sdn-triton bench report``: one HTML page that needs nothing else, and the same tables in Markdown."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdn_triton.extras import how_to_install

from .. import FOLDER
from ..reports import markdown
from ..reports.images import MissingExtraError
from ..reports.page_tables import (
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
from ..runs.saved_runs import Run
from .plot import inline_svg, names, pictures, read_or_stop, subtitle

TEMPLATE = FOLDER / "reports" / "page.html.jinja"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench report``."""
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="a file of `sdn-triton bench run`")
    add("--out", type=_page, required=True, metavar="FILE.html", help="the page; the tables go beside it as FILE.md")
    parser.set_defaults(run=run, parser=parser)


def _page(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".html", ".htm") or path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: it must be a file *.html in an existing folder")
    return path


def run(args: argparse.Namespace) -> int:
    """Write page and tables, and print their names."""
    runs = read_or_stop(args)
    try:
        page = html(runs)
    except MissingExtraError as error:
        args.parser.error(str(error))
    tables_path = args.out.with_suffix(".md")
    args.out.write_text(page, encoding="utf-8")
    tables_path.write_text(markdown.report(runs), encoding="utf-8")
    for run in runs:
        for line in headline(run):
            print(f"{run.path}: {line}")
    print(args.out)
    print(tables_path)
    return 0


def html(runs: Sequence[Run]) -> str:
    """The page of one or several runs."""
    if importlib.util.find_spec("jinja2") is None:
        raise MissingExtraError(f"the page needs the package jinja2: {how_to_install('bench')}")
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["code"] = _code
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    sections = [_section(run, f"run-{name}") for run, name in zip(runs, names(runs), strict=True)]
    return template.render(sections=sections, tells=TELLS, does_not_tell=DOES_NOT_TELL)


def _code(text: str) -> Any:
    """Words between backticks as code."""
    from markupsafe import Markup, escape

    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _section(run: Run, anchor: str) -> dict[str, Any]:
    """What the template shows of one run."""
    return {
        "anchor": anchor.replace(" ", "-"),
        "title": f"{run.device}: {run.path.name}",
        "headline": headline(run),
        "answer": answer(run),
        "measured": measured(run),
        "fingerprint": fingerprint(run),
        "summary": summary_table(run),
        "speedups": speedup_tables(run),
        "untimed": untimed_table(run),
        "pictures": _pictures(run, anchor),
        "providers": provider_table(run),
        "cases": case_tables(run),
        "environment": environment_table(run),
    }


def fingerprint(run: Run) -> str:
    """Device, versions and revision in a sentence; everything else is in the table at the end."""
    environment = run.environment
    versions = [f"{name} {environment[name]}" for name in ("torch", "triton", "python") if environment.get(name)]
    revision = (environment.get("git") or {}).get("revision")
    parts = [run.device, *versions, *([f"revision {revision[:10]}"] if revision else []), environment.get("time")]
    return f"Measured with {', '.join(str(part) for part in parts if part)}."


def _pictures(run: Run, anchor: str) -> list[dict[str, Any]]:
    from markupsafe import Markup

    shown = []
    for _, chart, condition in pictures(run):
        title = f"{chart.title}: {subtitle(run, chart, condition)}"
        svg = Markup(inline_svg(run, chart, condition, f"{title}. {chart.caption}", anchor))
        shown.append({"title": title, "caption": chart.caption, "svg": svg})
    return shown
