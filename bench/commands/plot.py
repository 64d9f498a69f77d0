"""``sdn-triton bench plot``: time, roofline, memory and speed-up of runs, as SVG and PNG, light and dark."""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdn_triton.extras import how_to_install

from ..reports.images import MissingExtraError
from ..reports.theme import INLINE, INLINE_VARIABLES, THEMES, Theme
from ..runs.saved_runs import Condition, Run, RunFileError, read_run

if TYPE_CHECKING:
    from ..reports.charts import Chart

FORMATS = ("svg", "png")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench plot``."""
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="a file of `sdn-triton bench run`")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures; made if it is not there")
    add("--format", action="append", choices=FORMATS, help="may be repeated (default: all)")
    add("--theme", action="append", choices=list(THEMES), help="may be repeated (default: all)")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Draw, write, print the name of each picture; the exit status is 1 if there was nothing to draw."""
    runs = read_or_stop(args)
    parser: argparse.ArgumentParser = args.parser
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out}: cannot be made: {error.strerror}")
    total = 0
    for name, run in zip(names(runs), runs, strict=True):
        written = 0
        if not run.complete:
            print(f"{run.path}: incomplete: the run was cut off, the pictures show what it has")
        for stem, chart, condition in pictures(run):
            for theme in args.theme or THEMES:
                for kind in args.format or FORMATS:
                    path = args.out / f"{name}-{stem}-{theme}.{kind}"
                    path.write_bytes(render(run, chart, condition, THEMES[theme], kind))
                    print(path)
                    written += 1
        total += written
        if not written:
            print(f"{run.path}: no case has a time, there is nothing to draw")
    return int(total == 0)


def read_or_stop(args: argparse.Namespace) -> list[Run]:
    """The files of the command line; an error of usage if one is not a run or matplotlib is missing."""
    parser: argparse.ArgumentParser = args.parser
    try:
        need_matplotlib()
        runs = [read_run(path) for path in args.files]
        names(runs)
    except (RunFileError, MissingExtraError) as error:
        parser.error(str(error))
    return runs


def need_matplotlib() -> None:
    """Raise an error that names the extra."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(f"pictures need the package matplotlib: {how_to_install('bench')}")


def names(runs: Sequence[Run]) -> list[str]:
    """A short name for each file: its stem, with as many folders before it as tell the files apart."""
    parts = [run.path.absolute().with_suffix("").parts for run in runs]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        candidates = ["-".join(part.strip("/\\:") for part in path[-depth:]) for path in parts]
        if len(set(candidates)) == len(candidates):
            return candidates
    raise RunFileError(f"{runs[0].path}: a file was given twice")


def pictures(run: Run) -> list[tuple[str, Chart, Condition]]:
    """Everything a run has a picture for, with its name in file names."""
    from ..reports.charts import CHARTS

    conditions = run.conditions()
    whole = [(chart.name, chart, conditions[0]) for chart in CHARTS if chart.whole and conditions]
    single = [(f"{chart.name}-{c.slug}", chart, c) for c in conditions for chart in CHARTS if not chart.whole]
    return [picture for picture in (*whole, *single) if picture[1].draw(run, picture[2], INLINE) is not None]


def render(
    run: Run, chart: Chart, condition: Condition, theme: Theme, kind: str, identifier: str | None = None
) -> bytes:
    """The bytes of one picture. They depend on the run, the theme and matplotlib's version only, not on the date."""
    import matplotlib

    with theme(text_as_paths=theme is not INLINE):
        figure = chart.draw(run, condition, theme)
        if figure is None:
            raise ValueError(f"{run.path} has nothing for the picture {chart.name!r} under {condition}")
        if theme is not INLINE:  # the page says it
            figure.suptitle(f"{chart.title}\n{subtitle(run, chart, condition)}")
        metadata: dict[str, str | None] = {"Software": None}
        if kind == "svg":
            creator = f"matplotlib {matplotlib.__version__}"
            title = f"{chart.title}: {subtitle(run, chart, condition)}"
            metadata = {"Date": None, "Creator": creator, "Title": title, "Identifier": identifier}
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, metadata=metadata)
    return stream.getvalue()


def subtitle(run: Run, chart: Chart, condition: Condition) -> str:
    """Where and how, with a warning if the run was cut off."""
    several = chart.whole and len(run.conditions()) > 1
    return f"{run.device}{'' if several else f', {condition}'}{'' if run.complete else ' (INCOMPLETE RUN)'}"


def inline_svg(run: Run, chart: Chart, condition: Condition, label: str, anchor: str) -> str:
    """A picture for the inside of a page: it takes its colours from the page and says ``label`` to a screen reader.

    Its names begin with ``anchor``, so that they do not meet those of another picture.
    """
    text = render(run, chart, condition, INLINE, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for stand_in, variable in INLINE_VARIABLES.items():
        text = text.replace(stand_in, variable)
    prefix = f"{anchor}-{chart.name}-{condition.slug}-"
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    quoted = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{quoted}" ', text, count=1)
