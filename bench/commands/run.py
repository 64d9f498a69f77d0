"""``sdn-triton bench run``: every provider checked and timed on a suite of shapes; all figures into one JSON file.

The exit status is 0; 1 if a provider other than a compiler's gave wrong results or broke; 2 for a wrong option or a
file that cannot be gone on with; 130 if it was stopped, after which ``--resume`` goes on. A provider that leaves the
GPU unusable, as a failed capture of a CUDA graph does, is recorded as failed, and a new process takes this one's place
and goes on without it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from .. import arguments
from ..measuring.clocks import CACHES, MODES
from ..measuring.environment import fingerprint, settle
from ..measuring.roofs import measure_roofs
from ..problems.cases import DTYPES, FORMATS, BenchCase, grid
from ..problems.networks import NETWORKS, distinct_networks
from ..problems.providers import FLOOR, KINDS, PROVIDERS
from ..problems.suites import SUITES
from ..problems.workloads import PASSES
from ..reports.run_tables import case_table, legend, summary_tables
from ..runs.record import Record, RecordError
from ..runs.runner import ROUNDS, Row, Runner, UnusableDeviceError
from ..terminal import BAD, FAINT, Report

DEFAULT = Path("bench.json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench run``."""
    add = parser.add_argument
    add(
        "--suite",
        choices=list(SUITES),
        help="which shapes (default: cpu, on a GPU gpu); the options below choose in it",
    )
    add(
        "--network",
        action="append",
        type=str.lower,
        choices=[*NETWORKS, "all"],
        help="instead of a suite: the shapes of this pyramid; may be repeated",
    )
    add("--size", action="append", type=arguments.size, metavar="HxW", help="with --network (default: 512x512)")
    add("--batch", action="append", type=arguments.count, metavar="N", help="images a batch")
    add("--kind", action="append", choices=KINDS, help="of what is called; this and the next ones may be repeated")
    add("--dtype", action="append", type=arguments.dtype, choices=list(DTYPES), help="of features and weights")
    add("--memory-format", action="append", choices=list(FORMATS), help="of the features")
    add("--pass", action="append", choices=PASSES, dest="pass_", help="training: forward and backward")
    add(
        "--mode",
        action="append",
        choices=MODES,
        help="operator: as called; kernel: a CUDA graph; host: without waiting",
    )
    add("--cache", action="append", choices=CACHES, help="cold: the last cache is overwritten before every call")
    add("--provider", action="append", choices=list(PROVIDERS), help="these and the floor (default: all)")
    add("--device", type=arguments.device, help="cpu, cuda or cuda:INDEX (default: the GPU if there is one)")
    add("--threads", type=arguments.count, metavar="N", help="CPU threads (default: as torch finds)")
    add("--tf32", action=argparse.BooleanOptionalAction, help="TF32 for float32 on a GPU")
    add(
        "--rounds",
        type=arguments.count,
        nargs=2,
        metavar=("LEAST", "MOST"),
        help="of every case (default: 8 40, on a GPU 10 100)",
    )
    add("--budget", type=arguments.seconds, default=900.0, metavar="SECONDS", help="for all of it (default: 900)")
    add("--json", type=arguments.writable_file, default=DEFAULT, metavar="FILE", help=f"default: {DEFAULT}")
    add("--resume", action="store_true", help="go on with the file: keep what is finished")
    add("--list", action="store_true", help="show the cases and run nothing")
    parser.set_defaults(run=run, parser=parser)


def chosen_cases(args: argparse.Namespace) -> list[BenchCase]:
    """The cases that the options ask for, each once, in the order of the suite."""
    if args.network:
        names = distinct_networks() if "all" in args.network else args.network
        on_gpu = args.device.type == "cuda"
        cases = grid(
            [NETWORKS[name] for name in dict.fromkeys(names)],
            args.size or [(512, 512)],
            batches=args.batch or (1,),
            kinds=args.kind or KINDS,
            dtypes=args.dtype or ("bfloat16" if on_gpu else "float32",),
            formats=args.memory_format or ("channels_last" if on_gpu else "contiguous",),
            passes=args.pass_ or ("inference", "training"),
            modes=args.mode or ("operator",),
            caches=args.cache or ("cold" if on_gpu else "warm",),
        )
    else:
        if args.size:
            args.parser.error("--size needs --network: a suite has sizes of its own")
        cases = SUITES[args.suite or ("gpu" if args.device.type == "cuda" else "cpu")]()
    return [case for case in dict.fromkeys(cases) if _is_asked_for(case, args)]


def _is_asked_for(case: BenchCase, args: argparse.Namespace) -> bool:
    asked = [
        (case.workload.kind, args.kind),
        (case.workload.batch, args.batch),
        (case.dtype, args.dtype),
        (case.memory_format, args.memory_format),
        (case.pass_, args.pass_),
        (case.mode, args.mode),
        (case.cache, args.cache),
    ]
    return all(not wanted or value in wanted for value, wanted in asked)


def run(args: argparse.Namespace) -> int:
    """Run what is asked for, show every case, then where the library wins and where it loses."""
    args.device = args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = chosen_cases(args)
    if not cases:
        args.parser.error("no case of the suite is left by these options")
    if args.list:
        print("\n".join(case.id for case in cases))
        return 0
    settle(args.device, args.threads, args.tf32)
    chosen = [name for name in PROVIDERS if not args.provider or name in args.provider or name == FLOOR]
    rounds = tuple(args.rounds) if args.rounds else ROUNDS[args.device.type]
    if rounds[0] > rounds[1]:
        args.parser.error(f"--rounds LEAST MOST: the least must not be above the most, got {rounds[0]} and {rounds[1]}")
    try:
        record = Record(args.json, fingerprint(args.device), _settings(args, rounds), args.resume)
    except RecordError as error:
        args.parser.error(str(error))
    record.content["providers"] |= {n: {"title": PROVIDERS[n].title, "role": PROVIDERS[n].role} for n in chosen}
    runner = Runner(args.device, chosen, record, args.budget, rounds)
    try:
        return _run(runner, cases, args)
    except KeyboardInterrupt:
        print(f"stopped; {args.json} has every finished case, --resume goes on", file=sys.stderr)
        return 130
    except UnusableDeviceError as error:
        print(f"{error}; a new process goes on", file=sys.stderr)
        _go_on(args.command, runner.left)


def _go_on(command: Sequence[str], seconds: float) -> NoReturn:
    """Replace this process by one that runs the same command for what is left of its budget, with ``--resume``.

    To a driver that is the end of a process: threads and memory go, and with its last descriptor what was held on the
    device. A parent that begins one child after the other would import torch once more, seconds of every run on a GPU.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:  # the standard streams stay
            with suppress(OSError):  # that of the listing itself is closed by now
                os.set_inheritable(descriptor, False)
    options = ["--resume", "--budget", f"{max(seconds, 1.0):.0f}"]
    os.execv(sys.executable, [sys.executable, "-m", "sdn_triton", *command, *options])


def _settings(args: argparse.Namespace, rounds: tuple[int, int]) -> dict[str, Any]:
    return {
        "command": args.command,
        "suite": None if args.network else args.suite or ("gpu" if args.device.type == "cuda" else "cpu"),
        "budget_seconds": args.budget,
        "rounds": list(rounds),
        "interleaved": True,
        "interval_level": 0.95,
    }


def _run(runner: Runner, cases: list[BenchCase], args: argparse.Namespace) -> int:
    record, todo = runner.record, runner.unfinished(cases)
    report = Report(len(todo), most=lambda: runner.left)
    with report:
        for line in legend(record.content):
            report.say(line)
        if len(todo) < len(cases):
            report.say(f"{len(cases) - len(todo)} of {len(cases)} cases are finished and kept.", FAINT)
        if record.content["roofs"] is None and todo:
            report.doing("measuring the roofs")
            dtypes = tuple(DTYPES[name] for name in dict.fromkeys(case.dtype for case in cases))
            record.content["roofs"] = measure_roofs(args.device, dtypes)
            record.write()

        told: set[str] = set()

        def done(case: BenchCase, results: Mapping[str, Row]) -> None:
            report.done()
            report.show(case_table(record.content, case.describe() | {"results": results}, told))

        runner.run(todo, lambda case: report.begin(case.id), report.doing, done)
        record.content["complete"] = not runner.unfinished(cases)
        record.write()
        for table in summary_tables(record.content):
            report.show(table)
        if left := len(runner.unfinished(cases)):
            report.say(
                f"{left} of {len(cases)} cases did not fit the budget: the same command with --resume goes on.", BAD
            )
        report.say(f"Written to {record.path}")
    went_wrong = _mistakes(record.content)
    for line in went_wrong:
        report.say(line, BAD)
    return int(bool(went_wrong) or record.path != args.json)


def _mistakes(content: Mapping[str, Any]) -> list[str]:
    """Where a provider that is no compiler's was wrong or broke: a compiler's mistakes are shown, and not ours."""
    return [
        f"{case['id']}: {name} {result['status']}: {result['why']}"
        for case in content["cases"]
        for name, result in case["results"].items()
        if result["status"] in ("refused", "failed") and name in PROVIDERS and not PROVIDERS[name].compiled
    ]
