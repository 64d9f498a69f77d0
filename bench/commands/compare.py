"""``sdn-triton compare``: the layers on the pyramids of real networks, beside what would otherwise be used."""

from __future__ import annotations

import argparse
import sys

import torch

from .. import arguments
from ..measuring.environment import settle
from ..measuring.saving import save
from ..problems.cases import DTYPES, FORMATS
from ..problems.checking import Setting
from ..problems.networks import NETWORKS, distinct_networks
from ..problems.providers import FLOOR, PROVIDERS
from ..problems.workloads import Workload, workloads_of
from ..reports.compare_tables import conclusion, introduction, restlessness, workload_table
from ..reports.images import MissingExtraError, image_features
from ..runs.session import Budget, Session
from ..terminal import BAD, Report

COMPARED = ("conv2d", "triton", "eager", "compile", "unfold")
"""What is compared unless providers are named; ``sdn-triton bench run`` has all of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``compare``."""
    add = parser.add_argument
    add(
        "--network",
        action="append",
        type=str.lower,
        choices=[*NETWORKS, "all"],
        help="whose feature pyramid; may be repeated (default: segformer-b0)",
    )
    add(
        "--size",
        action="append",
        type=arguments.size,
        metavar="HxW",
        help="size of the image; may be repeated (default: 512x512, on a GPU 1024x2048 too)",
    )
    add(
        "--image",
        type=arguments.existing_file,
        metavar="FILE",
        help="features of this image through the network with random weights",
    )
    add("--batch", type=arguments.count, default=1, metavar="N", help="images a batch (default: 1)")
    add(
        "--provider",
        action="append",
        choices=list(PROVIDERS),
        help=f"these and the floor; may be repeated (default: {', '.join(COMPARED)})",
    )
    add("--device", type=arguments.device, help="cpu, cuda or cuda:INDEX (default: the GPU if there is one)")
    add("--dtype", type=arguments.dtype, choices=list(DTYPES), help="default: float32 on a CPU, bfloat16 on a GPU")
    add(
        "--memory-format",
        choices=list(FORMATS),
        help="default: contiguous on a CPU, channels_last on a GPU",
    )
    add("--backward", action=argparse.BooleanOptionalAction, default=True, help="time forward + backward too")
    add(
        "--tf32", action=argparse.BooleanOptionalAction, help="TF32 for float32 on a GPU (default: as for convolutions)"
    )
    add("--threads", type=arguments.count, metavar="N", help="CPU threads (default: as torch finds)")
    add("--quick", action="store_true", help="a first impression: a fifth of the time, no torch.compile")
    add(
        "--budget", type=arguments.seconds, metavar="SECONDS", help="time for the run (default: 270 a network and size)"
    )
    add(
        "--json",
        type=arguments.writable_file,
        metavar="FILE",
        help="write environment and all figures, after every workload anew",
    )
    parser.set_defaults(run=run, parser=parser)


def _workloads(args: argparse.Namespace) -> list[Workload]:
    names = distinct_networks() if "all" in args.network else list(dict.fromkeys(args.network))
    found: list[Workload] = []
    for name in names:
        for height, width in args.size:
            features = None
            if args.image is not None:
                try:
                    features = image_features(name, args.image, height, width)
                except (MissingExtraError, ValueError) as error:
                    args.parser.error(str(error))
            kinds = ("layer", "block", "neck")
            every = workloads_of(NETWORKS[name], height, width, args.batch, features, kinds)
            # Blocks take their time to be compiled; that of the finest stage says what fusing is worth.
            found += [w for w in every if w.kind != "block" or w.stages == every[0].stages]
    return found


def _complete(args: argparse.Namespace) -> Setting:
    """Put the defaults that depend on the device into ``args``."""
    if args.device is None:
        args.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = args.device.type == "cuda"
    args.network = args.network or ["segformer-b0"]
    args.size = args.size or ([(512, 512), (1024, 2048)] if on_gpu else [(512, 512)])
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    args.memory_format = args.memory_format or ("channels_last" if on_gpu else "contiguous")
    settle(args.device, args.threads, args.tf32)
    return Setting(args.device, DTYPES[args.dtype], FORMATS[args.memory_format], args.backward)


def run(args: argparse.Namespace) -> int:
    """Compare, print, write; the exit status is 1 if a provider gave wrong results or failed."""
    setting, asked = _complete(args), args.json
    workloads = _workloads(args)
    if args.budget is None:
        pyramids = len({workload.network for workload in workloads})
        args.budget = (30.0 if args.quick else 270.0) * pyramids
    names = {FLOOR, *(args.provider or COMPARED)}
    chosen = [provider for provider in PROVIDERS.values() if provider.name in names]
    session = Session(setting, chosen, Budget(args.budget, workloads), quick=args.quick)
    session.settings |= {
        "command": args.command,
        "dtype": args.dtype,
        "memory_format": args.memory_format,
        "image": None if args.image is None else args.image.name,
    }
    report = Report(len(workloads))
    try:
        with report:
            for line in introduction(session):
                report.say(line)
            for workload in workloads:
                report.begin(workload.title)
                results = session.run(workload, report.doing)
                report.done()
                if args.json is not None:
                    args.json = save(args.json, session.describe(complete=False))
                report.show(workload_table(workload, results))
            if args.json is not None:
                args.json = save(args.json, session.describe(complete=True))
            for table in conclusion(session):
                report.show(table)
            if warning := restlessness(session):
                report.say(warning, BAD)
    except KeyboardInterrupt:
        kept = f"; the finished part is in {args.json}" if args.json is not None and args.json.exists() else ""
        print(f"stopped{kept}", file=sys.stderr)
        return 130
    if session.went_wrong:
        report.say("A provider gave wrong results or failed: see above.", BAD)
    return int(session.went_wrong or args.json != asked)
