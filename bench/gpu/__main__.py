"""The minutes on a GPU, into a folder of at most eight files (bench/README.md).

``python -m bench.gpu``, see ``make gpu``.

The exit status is 0 only if every step that ran ended well; 2 for options that cannot be; 143 if it was told to end.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from .. import RESULTS
from . import plan, rehearsal
from .files import OUTPUTS, Folders, work_folder
from .run import Run
from .steps import Step


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps, print the summary last."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, metavar="FOLDER", help="default: bench/results/<device>/<date>")
    add("--part", type=int, choices=(1, 2), help="1: smoke and timings; 2: the rest (default: both)")
    add("--first", type=Path, metavar="FOLDER", help="with --part 2: what part 1 wrote (default: --out)")
    add(
        "--archive",
        type=Path,
        metavar="FILE",
        help="compiled kernels, as sdn_triton.bench.gpu.precompile --archive made them",
    )
    add("--rehearse", action="store_true", help="on a CPU, with stand-ins: whether everything runs")
    args = parser.parse_args(argv)
    if args.part and args.out is None:
        parser.error("--part needs --out: the other part must find what it wrote")
    if args.first and args.part != 2:
        parser.error("--first needs --part 2")
    if args.part == 2 and not (args.first or args.out).is_dir():
        parser.error(f"--part 2 needs the folder of part 1, and there is no {str(args.first or args.out)!r}")
    if args.archive and not args.archive.is_file():
        parser.error(f"--archive: there is no file {str(args.archive)!r}")
    if args.rehearse and (args.part or args.archive):
        parser.error("--rehearse takes both parts, and no archive")
    if args.out is None and args.rehearse:
        parser.error("--rehearse needs --out: what it measures means nothing")
    out = args.out or default_folder()
    if out is None:
        parser.error("needs a GPU that torch can use; `sdn-triton doctor` says what is there")
    out.mkdir(parents=True, exist_ok=True)
    written = [name for name in OUTPUTS if (out / name).exists()]
    if written and args.part != 2:
        parser.error(f"--out {out}: it has {', '.join(written)} already; name an empty folder")
    steps = rehearsal.STEPS if args.rehearse else plan.plan(args.part, args.archive and args.archive.resolve())
    seconds = rehearsal.SECONDS if args.rehearse else plan.SECONDS[args.part]
    return run(out.resolve(), (args.first or out).resolve(), steps, seconds)


def run(out: Path, first: Path, steps: Sequence[Step], seconds: float) -> int:
    """Run these steps into ``out``; whatever happens, what there is by then is in order there."""
    folders = Folders(out, work_folder(out), first)
    signal.signal(signal.SIGTERM, _end)
    folders.unpack()
    this = Run(folders, steps, seconds)
    try:
        this.run()
    finally:
        shutil.rmtree(folders.work)
        print(f"\nResults in {out}; `make report` puts those under bench/results into the documents\n")
        print(this.summary(), end="", flush=True)
    return int(not all(outcome.went_well for outcome in this.outcomes.values()))


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def default_folder() -> Path | None:
    """``bench/results/<device>/<date>``, numbered from the second run of a day on; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    from ..measuring.environment import device_slug

    return new_folder(RESULTS / device_slug(torch.device("cuda")), datetime.now(timezone.utc))


def new_folder(results: Path, now: datetime) -> Path:
    """The first name of a day that is free."""
    names = (f"{now:%Y-%m-%d}{f'-{number}' if number > 1 else ''}" for number in itertools.count(1))
    return next(path for name in names if not (path := results / name).exists())


if __name__ == "__main__":
    sys.exit(main())
