"""Does SDN sharpen borders? Train small networks with and without it, and measure.

``python -m sdn_triton.bench.quality``.

Six networks that differ in what stands between encoder and decoder, trained from scratch on scenes made by code, each
with several seeds; then sweeps over contrast, similarity and guidance. On a GPU first the loss curves of the Triton and
the eager path are compared. Runs that ``--json`` holds already are not repeated. See docs/quality.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..reports.images import MissingExtraError
from ..terminal import Report
from . import summary
from .convergence import by_backend, compare_paths
from .experiment import FULL, QUICK, Results, describe_task, execute


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    opening, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m sdn_triton.bench.quality", description=opening, epilog=rest)
    add = parser.add_argument
    add("--quick", action="store_true", help="two seeds of a seventh of the steps, no sweeps: about two minutes")
    add("--json", type=Path, metavar="FILE", help="results, carried on if there are any (default: in build/quality/)")
    add("--device", choices=["cpu", "cuda"], help="default: the GPU if there is one")
    add("--workers", type=int, metavar="N", help="processes of one thread each (default: 2; 1 on a GPU)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--table", type=Path, metavar="FILE", help="run nothing; print the tables of results in Markdown"
    )
    shown.add_argument("--docs", type=Path, metavar="FILE", help="run nothing; put the tables into docs/quality.md")
    shown.add_argument("--figures", type=Path, metavar="FILE", help="run nothing; draw the pictures beside the results")
    args = parser.parse_args(arguments)
    for path in (args.table, args.docs, args.figures):
        if path is not None and not path.is_file():
            parser.error(f"there is no file {path}")
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.workers = args.workers or (1 if args.device == "cuda" else 2)
    args.json = args.json or Path("build", "quality", f"{args.device}{'-quick' if args.quick else ''}.json")
    args.error = parser.error
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; 1 if the paths on a GPU do not train alike."""
    args = parse(arguments)
    if args.table:
        print(summary.markdown(summary.load(args.table)))
        return 0
    if args.docs:
        summary.update_page(summary.load(args.docs))
        return 0
    if args.figures:
        return pictures(args)
    return experiment(args)


def pictures(args: argparse.Namespace) -> int:
    """Draw."""
    from .figures import draw  # matplotlib is only needed here

    try:
        for path in draw(args.figures):
            print(path)
    except MissingExtraError as error:
        args.error(str(error))
    return 0


def experiment(args: argparse.Namespace) -> int:
    """Carry out the plan."""
    plan, device = QUICK if args.quick else FULL, torch.device(args.device)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    command = ["python -m sdn_triton.bench.quality", *(sys.argv[1:])]
    try:
        results = Results(args.json, plan.setting, device, command)
    except ValueError as error:
        args.error(str(error))
    describe_task(plan.setting, results)
    alike = device.type != "cuda" or compare_on_gpu(results, args.quick)
    jobs = [(variant, seed) for variant, seed in plan.jobs() if not results.has(variant, seed)]
    with Report(len(jobs)) as report:
        for record, pictures in execute(jobs, plan.setting, device, args.workers):
            figures = record["figures"]
            report.begin(
                f"{record['variant']}, seed {record['seed']}: mIoU {figures['miou']:.3f}, "
                f"boundary IoU {figures['boundary_iou_2']:.3f}, {record['cpu_seconds']:.0f} s"
            )
            results.add(record, pictures)
    print(summary.markdown(results.content))
    print(f"\nResults are in {args.json}.")
    return 0 if alike else 1


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
