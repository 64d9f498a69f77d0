"""``sdn-triton compare``: the layers on the pyramids of real networks, beside what would otherwise be used.

What ``sdn-triton bench run`` does, with cases and providers that are done in minutes, and both passes in one table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import arguments
from ..problems.cases import DTYPES, BenchCase
from ..problems.networks import NETWORKS
from ..problems.providers import PROVIDERS
from ..problems.workloads import Workload, workloads_of
from ..reports.compare_tables import LEGEND, PASSES, by_workload, restlessness, summary_tables, workload_table
from ..reports.images import MissingExtraError, image_features
from ..runs.runner import UnusableDeviceError
from ..runs.saved_runs import Run
from ..terminal import Report, Table
from . import options
from .running import View, chosen_providers, kept, run_and_show, runner_for

COMPARED = ("conv2d", "triton", "eager", "compile", "unfold")
"""What is compared unless providers are named; ``sdn-triton bench run`` has all of them."""
ROUNDS = {"cpu": (3, 40), "cuda": (5, 100)}
QUICK_ROUNDS = (3, 8)
SECONDS, QUICK_SECONDS = 300.0, 30.0
"""For a pyramid: enough to compile every workload of four stages, see ``runs/budget.py``."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``compare``."""
    add = parser.add_argument
    options.add_pyramids(
        parser,
        "whose feature pyramid (default: segformer-b0)",
        "default: 512x512, on a GPU 1024x2048 too",
    )
    add(
        "--image",
        type=arguments.existing_file,
        metavar="FILE",
        help="features of this image through the network with random weights",
    )
    options.add_numbers(
        parser, list(DTYPES), "default: float32 and contiguous on a CPU, bfloat16 and channels_last on a GPU"
    )
    options.add_providers(parser, f"default: {', '.join(COMPARED)}")
    options.add_device(parser)
    add("--backward", action=argparse.BooleanOptionalAction, default=True, help="time forward + backward too")
    add("--quick", action="store_true", help="a first impression: a tenth of the time, no torch.compile")
    options.add_budget(parser, f"default: {SECONDS:.0f} a network, size and batch; {QUICK_SECONDS:.0f} with --quick")
    options.add_file(parser, None, "write environment and all figures, as `bench run` does, after every case anew")
    parser.set_defaults(run=run, parser=parser)


def _workloads(args: argparse.Namespace) -> list[list[Workload]]:
    """The workloads of each pyramid."""
    pyramids = []
    for name in options.networks(args):
        for height, width in dict.fromkeys(args.size):
            features = None
            if args.image is not None:
                try:
                    features = image_features(name, args.image, height, width)
                except (MissingExtraError, ValueError) as error:
                    args.parser.error(str(error))
            for batch in dict.fromkeys(args.batch):
                every = workloads_of(NETWORKS[name], height, width, batch, features, ("layer", "block", "neck"))
                # Blocks take their time to be compiled; that of the finest stage says what fusing is worth.
                pyramids.append([w for w in every if w.kind != "block" or w.stages == every[0].stages])
    return pyramids


class PassesSideBySide(View):
    """A table a workload, with both passes."""

    def __init__(self, passes: Sequence[str], heading: str) -> None:
        super().__init__()
        self.passes, self.legend = passes, (heading, "", *LEGEND)

    def steps(self, cases: Sequence[BenchCase]) -> int:
        return len(cases) // len(self.passes)

    def begin(self, report: Report, case: BenchCase) -> None:
        if case.pass_ == self.passes[0]:
            report.begin(case.workload.title)

    def done(self, report: Report, run: Run, case: BenchCase) -> None:
        if case.pass_ == self.passes[-1]:
            report.done()
            report.show(workload_table(run, case.workload.title, by_workload(run.cases)[-1], self.told))

    def summary(self, run: Run) -> list[Table]:
        return summary_tables(run)

    def remark(self, run: Run, unfinished: int, cases: int) -> str | None:
        return restlessness(run)


def run(args: argparse.Namespace) -> int:
    """Compare, print, write; the exit status is 1 if a provider gave wrong results or failed."""
    on_gpu = options.take_device(args)
    args.network = args.network or ["segformer-b0"]
    args.size = args.size or ([options.SIZE, (1024, 2048)] if on_gpu else [options.SIZE])
    args.batch = args.batch or [1]
    dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    memory_format = args.memory_format or ("channels_last" if on_gpu else "contiguous")
    pyramids = _workloads(args)
    args.budget = args.budget or (QUICK_SECONDS if args.quick else SECONDS) * len(pyramids)
    passes = PASSES if args.backward else PASSES[:1]
    cases = [
        BenchCase(workload, dtype, memory_format, pass_, "operator", "cold" if on_gpu else "warm")
        for workloads in pyramids
        for workload in workloads
        for pass_ in passes
    ]
    names = chosen_providers(args.provider, COMPARED)
    left_out = {name: "--quick leaves compilation out" for name in names if args.quick and PROVIDERS[name].compiled}
    runner = runner_for(
        args,
        [name for name in names if name not in left_out],
        QUICK_ROUNDS if args.quick else ROUNDS[args.device.type],
        replace=True,
        quick=args.quick,
        image=None if args.image is None else args.image.name,
    )
    view = PassesSideBySide(passes, f"{dtype}, {memory_format}; budget {args.budget:.0f} s")
    try:
        return run_and_show(runner, cases, view, left_out, with_roofs=not args.quick)
    except KeyboardInterrupt:
        print(kept(runner.record.path), file=sys.stderr)
        return 130
    except UnusableDeviceError as error:
        print(f"{error}; `sdn-triton bench run` goes on in a new process", file=sys.stderr)
        return 1
