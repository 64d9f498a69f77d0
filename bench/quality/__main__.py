"""Does SDN sharpen borders? Train small networks with and without it, and measure.

``python -m sdn_triton.bench.quality``.

Six networks that differ in what stands between encoder and decoder, trained from scratch on scenes made by code, each
with several seeds; then sweeps over contrast, similarity and guidance. On a GPU first the loss curves of the Triton and
the eager path are compared. Runs that ``--json`` holds already are not repeated. See docs/quality.md.

With ``--map`` four of the networks over a plane of edge strengths and along lines of blur, noise, stride, scenes and
steps. See docs/quality-map.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from .. import arguments
from ..reports.images import MissingExtraError
from ..terminal import Report
from . import map_summary, summary
from .convergence import by_backend, compare_paths
from .experiment import FULL, QUICK, Job, Results, describe_task, execute
from .map_plan import FULL_MAP, QUICK_MAP, describe_cells, missing
from .training import Setting

COMMAND = "python -m sdn_triton.bench.quality"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    opening, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog=COMMAND, description=opening, epilog=rest)
    add = parser.add_argument
    add("--map", action="store_true", help="a map over edge strengths, blur, noise, stride and scenes")
    add("--quick", action="store_true", help="two seeds of a seventh of the steps, no sweeps: a few minutes")
    add("--json", type=Path, metavar="FILE", help="results, carried on if there are any (default: in build/quality/)")
    add("--device", choices=["cpu", "cuda"], help="default: the GPU if there is one")
    add("--workers", type=arguments.count, metavar="N", help="processes of one thread each (default: 2; 1 on a GPU)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--table", type=Path, metavar="FILE", help="run nothing; print the tables of results in Markdown"
    )
    shown.add_argument("--docs", type=Path, metavar="FILE", help="run nothing; put the tables into their page")
    shown.add_argument("--figures", type=Path, metavar="FILE", help="run nothing; draw the pictures beside the results")
    args = parser.parse_args(argv)
    for path in (args.table, args.docs, args.figures):
        if path is not None and not path.is_file():
            parser.error(f"there is no file {path}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.workers = args.workers or (1 if args.device == "cuda" else 2)
    stem = f"{'map-' if args.map else ''}{args.device}{'-quick' if args.quick else ''}"
    args.json = args.json or Path("build", "quality", f"{stem}.json")
    args.error = parser.error
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; 1 if the paths on a GPU do not train alike."""
    args = parse(argv)
    if args.table:
        print(tables(summary.load(args.table))[1])
        return 0
    if args.docs:
        page, text = tables(summary.load(args.docs))
        page.write_text(summary.with_tables(page.read_text(), text))
        return 0
    if args.figures:
        return pictures(args)
    return explore(args) if args.map else experiment(args)


def tables(results: dict[str, Any]) -> tuple[Path, str]:
    """The page of a results file and the tables for it, which are a map's if the file is one's."""
    shown = map_summary if "cells" in results else summary
    return shown.PAGE, shown.markdown(results)


def pictures(args: argparse.Namespace) -> int:
    """Draw."""
    from . import figures, map_figures  # matplotlib is only needed here

    draw = map_figures.draw if "cells" in summary.load(args.figures) else figures.draw
    try:
        for path in draw(args.figures):
            print(path)
    except MissingExtraError as error:
        args.error(str(error))
    return 0


def open_results(args: argparse.Namespace, setting: Setting) -> Results:
    """The file to write to, with the runs that it has."""
    refuse: Callable[[str], NoReturn] = args.error
    args.json.parent.mkdir(parents=True, exist_ok=True)
    try:
        return Results(args.json, setting, torch.device(args.device), [COMMAND, *sys.argv[1:]])
    except ValueError as error:
        refuse(str(error))


def carry_out(args: argparse.Namespace, jobs: Sequence[tuple[str | None, Job]], results: Results) -> None:
    """Carry out runs, each of a cell if it is on a map, and print the tables."""
    cells = {job: cell for cell, job in jobs}
    with Report(len(jobs)) as report:
        for job, record, maps in execute(list(cells), torch.device(args.device), args.workers, not args.map):
            figures, cell = record["figures"], cells[job]
            report.begin(
                f"{f'{cell}: ' if cell else ''}{record['variant']}, seed {record['seed']}: mIoU {figures['miou']:.3f}, "
                f"boundary IoU {figures['boundary_iou_2']:.3f}, {record['cpu_seconds']:.0f} s"
            )
            results.add(record | ({"cell": cell} if cell else {}), maps)
    print(tables(results.content)[1])
    print(f"\nResults are in {args.json}.")


def experiment(args: argparse.Namespace) -> int:
    """Carry out the plan of the experiment."""
    plan = QUICK if args.quick else FULL
    results = open_results(args, plan.setting)
    describe_task(plan.setting, results)
    alike = args.device != "cuda" or compare_on_gpu(results, args.quick)
    carry_out(args, [(None, job) for job in plan.jobs() if not results.has(job.variant, job.seed)], results)
    return 0 if alike else 1


def explore(args: argparse.Namespace) -> int:
    """Carry out the plan of the map."""
    plan = QUICK_MAP if args.quick else FULL_MAP
    results = open_results(args, plan.base)
    describe_cells(plan, results)
    carry_out(args, list(missing(plan, results)), results)
    return 0


def compare_on_gpu(results: Results, quick: bool) -> bool:
    """Train along the Triton and the eager path from the same seed, keep and print what comes out."""
    setting = replace(FULL.setting, training_scenes=512, steps=60 if quick else 200)
    paths = [(name, by_backend(name)) for name in ("eager", "triton")]
    comparison = compare_paths(setting, 0, torch.device("cuda"), *paths)
    results.note("convergence", comparison.describe())
    for name, (deviation, allowed) in comparison.checks().items():
        print(f"triton against eager, {name}: loss curves part by {deviation:.1e}, allowed {allowed:.1e}")
    return comparison.alike


if __name__ == "__main__":
    sys.exit(main())
