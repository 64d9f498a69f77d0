"""``make report``: the tables, sentences and pictures of the documents, made anew from ``bench/results``.

A block of a document between ``<!-- make report: NAME -->`` and ``<!-- end of make report -->`` is replaced by the text
of that name. Each run of ``sdn-triton bench run`` under ``bench/results`` gets tables (a ``.md`` beside it) and
pictures (in ``pictures/``). ``--check`` writes nothing and says what is stale.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sdn_triton.extras import how_to_install
from sdn_triton.streams import guarded

from .. import ROOT
from ..reports import markdown
from ..reports.page_tables import headline, measured, summary_table
from ..reports.theme import THEMES
from ..runs.saved_runs import Run, RunFileError, read_run
from ..runs.verdicts import VERDICTS, speedups_of
from . import results_list
from . import tables as document_tables
from .yardstick_tables import yardstick, yardstick_in_short

PAGES = ("README.md", "docs/benchmarks.md", "docs/distributed.md", "docs/proofs.md", "bench/results/README.md")
BEGIN, END = "<!-- make report: {} -->", "<!-- end of make report -->"
BLOCK = re.compile(r"<!-- make report: ([\w-]+) -->\n(.*?)(?=<!-- (?:end of )?make report|\Z)", re.DOTALL)
HTML = Path("build/benchmarks.html")
HASHED_NAME = re.compile(r"\b[a-z][0-9a-f]{10}\b")
COORDINATE = re.compile(r"(?<![\w#.-])-?\d+(?:\.\d+)?(?![\w.%-])")
UNSEEN = 1e-3  # of a point, of which 72 are an inch
OVERVIEW = "overview"


def suites(root: Path) -> list[Run]:
    """The runs of ``sdn-triton bench run`` under ``bench/results``."""
    return [read_run(path) for path in sorted((root / "bench/results").rglob("*.json")) if is_suite(path)]


def is_suite(path: Path) -> bool:
    """Whether a file is, or was meant to be, a run with cases."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFileError(f"{path}: not JSON: {error}") from error
    return isinstance(content, dict) and {"schema", "cases"} <= set(content)


def in_short(root: Path, page: Path) -> str:
    """For the README: of each run a table of counts, a picture and where the rest is."""
    parts = []
    for run in suites(root):
        parts += [
            document_tables.prose(f"**{run.device}**: {measured(run)}"),
            *(f"**{line}**" for line in headline(run)),
        ]
        parts += [markdown.markdown_table(summary_table(run, by_condition=False))]
        if overview := _overview(run, page):
            parts.append(overview)
        parts.append(f"[Every case, the slower ones first]({way(run.path.with_suffix('.md'), page)})")
    return "\n\n".join(parts) or "No run of `sdn-triton bench run` has been committed yet."


def _overview(run: Run, page: Path) -> str | None:
    """The picture of all cases, if the run has one."""
    speedups = speedups_of(run)
    if not speedups:
        return None
    counts = ", ".join(f"{sum(speedup.verdict == word for speedup in speedups)} {word}" for word in VERDICTS)
    alt = f"Times as fast as the fastest baseline on {run.device}: of {len(speedups)} cases {counts}"
    return picture(_pictures_folder(run) / f"{run.path.stem}-{OVERVIEW}", page, alt)


def picture(stem: Path, page: Path, alt: str) -> str:
    """A picture that follows the reader's theme, for the document ``page``."""
    light, dark = (f"{way(stem, page)}-{theme}.svg" for theme in ("light", "dark"))
    alt = alt.replace("&", "&amp;").replace('"', "&quot;")
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'  <img alt="{alt}" src="{light}">\n</picture>'
    )


def way(path: Path, page: Path) -> str:
    """A link to a file from a document."""
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _pictures_folder(run: Run) -> Path:
    return run.path.parent / "pictures"


def documents(root: Path) -> dict[Path, bytes]:
    """Every page as it should be: the same text around, the blocks made anew."""
    results = root / "bench/results"
    blocks: dict[str, Callable[[Path], str]] = {
        "runs": lambda page: in_short(root, page),
        "eager-forward": lambda page: document_tables.eager_forward(results, way(results, page)),
        "eager-forward-in-short": lambda page: document_tables.eager_forward_in_short(results, way(results, page)),
        "host-cost": lambda page: document_tables.host_cost(results, way(results, page)),
        "machine-code": lambda page: document_tables.machine_code(results, way(results, page)),
        "predictions": lambda page: document_tables.predictions(results, way(results, page)),
        "proofs": lambda page: document_tables.proofs(results, way(results, page)),
        "row-sharded": lambda page: document_tables.row_sharded(results, way(results, page)),
        "yardstick": lambda page: yardstick(results, way(results, page)),
        "yardstick-in-short": lambda page: yardstick_in_short(results, way(results, page)),
        "files": lambda page: results_list.table_of_files(results),
    }
    pages = (root / name for name in PAGES)
    return {page: filled(page, blocks).encode() for page in pages if page.is_file()}


def filled(page: Path, blocks: dict[str, Callable[[Path], str]]) -> str:
    """The text of a page with its blocks made anew.

    Raises:
        ValueError: a block has no end, or no text goes by its name.
    """
    text = page.read_text(encoding="utf-8")
    if text.count("<!-- make report:") != text.count(END):
        raise ValueError(f"{page}: every '{BEGIN.format('NAME')}' needs its '{END}'")

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name not in blocks or not text.startswith(END, match.end()):
            raise ValueError(f"{page}: no text is called {name!r}, or its block has no end: {', '.join(blocks)}")
        return f"{BEGIN.format(name)}\n\n{blocks[name](page)}\n\n"

    return BLOCK.sub(replace, text)


def tables_of(run: Run) -> tuple[Path, bytes]:
    """The run's tables, with its pictures among them."""
    shown = [
        picture(_pictures_folder(run) / f"{run.path.stem}-{stem}", run.path, f"{title}. {caption}") + f"\n\n{caption}"
        for stem, title, caption in _titles(run)
    ]
    note = "<!-- Written by `make report` from the file of the same name; edits are lost. -->\n\n"
    return run.path.with_suffix(".md"), (note + markdown.report([run], {str(run.path): shown})).encode()


def _titles(run: Run) -> list[tuple[str, str, str]]:
    from ..commands.plot import pictures, subtitle

    return [(stem, f"{c.title}: {subtitle(run, c, condition)}", c.caption) for stem, c, condition in pictures(run)]


def pictures_of(run: Run) -> Iterator[tuple[Path, bytes]]:
    """Every picture of a run, light and dark, as SVG."""
    from ..commands.plot import pictures, render

    for stem, chart, condition in pictures(run):
        for theme in THEMES.values():
            path = _pictures_folder(run) / f"{run.path.stem}-{stem}-{theme.name}.svg"
            yield path, render(run, chart, condition, theme, "svg", identifier=digest(run.path))


def digest(path: Path) -> str:
    """What a picture carries to say which figures it shows."""
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def contents(root: Path) -> dict[Path, bytes]:
    """All files that ``make report`` writes."""
    files = documents(root)
    for run in suites(root):
        files |= dict([tables_of(run), *pictures_of(run)])
    return files


def left_over(root: Path, wanted: Sequence[Path]) -> list[Path]:
    """Pictures that no run has any more."""
    return [path for path in sorted((root / "bench/results").rglob("pictures/*.svg")) if path not in wanted]


def stale(root: Path) -> list[str]:
    """What ``make report`` would change, a line each.

    One version of matplotlib draws the same picture everywhere, but for the last digits of its coordinates. Pictures of
    another version, or all of them where it is not installed, are checked by the digest of the figures that they carry.
    """
    if not can_draw():
        wanted = documents(root)
        digests = {digest(run.path): run for run in suites(root)}
        old = [p for p in (root / "bench/results").rglob("pictures/*.svg") if _tag(p, "identifier") not in digests]
        return [*_changed(root, wanted), *(f"{p.relative_to(root)}: drawn from other figures" for p in old)]
    wanted = contents(root)
    changed = [*_changed(root, wanted)]
    return changed + [f"{path.relative_to(root)}: no run has this picture" for path in left_over(root, list(wanted))]


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def _changed(root: Path, wanted: dict[Path, bytes]) -> Iterator[str]:
    for path, content in wanted.items():
        if not path.is_file():
            yield f"{path.relative_to(root)}: missing"
        elif not _holds(path, content) and not _same_figures(path, content):
            yield f"{path.relative_to(root)}: not what bench/results gives"


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file holds what it should: a page every byte, a picture what can be seen of it."""
    old = path.read_bytes()
    return old == content or (path.suffix == ".svg" and look_alike(old.decode(), content.decode()))


def look_alike(a: str, b: str) -> bool:
    """Whether two pictures are the same but for coordinates that differ by less than anybody sees.

    Processors round the last digit of a coordinate differently. Matplotlib makes names out of coordinates: they are
    numbered in the order in which they appear.
    """
    (text_a, coordinates_a), (text_b, coordinates_b) = map(_apart, (a, b))
    return text_a == text_b and all(abs(x - y) <= UNSEEN for x, y in zip(coordinates_a, coordinates_b, strict=True))


def _apart(svg: str) -> tuple[str, list[float]]:
    """A picture without its coordinates, and these."""
    names: dict[str, str] = {}
    svg = HASHED_NAME.sub(lambda match: names.setdefault(match[0], f"name {len(names)}"), svg)
    return COORDINATE.sub("#", svg), [float(number) for number in COORDINATE.findall(svg)]


def _same_figures(path: Path, content: bytes) -> bool:
    """Whether a picture differs because another version of matplotlib drew it, from the same figures."""
    new = content.decode()
    return (
        path.suffix == ".svg"
        and _tag(path, "identifier") == _tag_of(new, "identifier") is not None
        and _tag(path, "creator") != _tag_of(new, "creator")
    )


def _tag(path: Path, name: str) -> str | None:
    return _tag_of(path.read_text(encoding="utf-8"), name)


def _tag_of(svg: str, name: str) -> str | None:
    """A field of a picture's metadata."""
    match = re.search(rf"<dc:{name}>(.*?)</dc:{name}>", svg, re.DOTALL)
    return re.sub(r"<[^>]*>", "", match[1]).strip() if match else None


def main(argv: Sequence[str] | None = None) -> int:
    """Write what has changed and the page of all runs, or check; the exit status is 1 if something is stale."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.documents", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    args = parser.parse_args(argv)
    if args.check:
        changes = stale(ROOT)
        print("\n".join(changes) or "Everything is as bench/results gives it.")
        return int(bool(changes))
    if not can_draw():
        print(f"make report needs the package matplotlib: {how_to_install('bench')}", file=sys.stderr)
        return 2
    write(ROOT)
    return 0


def write(root: Path) -> None:
    """Write every file that is not as it should be, remove pictures of runs that are gone, print what was done."""
    from ..commands.report import html

    # The pages last: the list of files and the links in them see what was written before.
    wanted = contents(root)
    for path, content in wanted.items():
        if not path.is_file() or not _holds(path, content):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"wrote {path.relative_to(root)}")
    for path in left_over(root, list(wanted)):
        path.unlink()
        print(f"removed {path.relative_to(root)}")
    if runs := suites(root):
        page = root / HTML
        page.parent.mkdir(exist_ok=True)
        page.write_text(html(runs), encoding="utf-8")
        print(f"wrote {HTML}")


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.documents", main))
