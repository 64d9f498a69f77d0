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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from .. import arguments
from ..measuring.clocks import CACHES, MODES
from ..problems.cases import DTYPES, BenchCase, grid
from ..problems.networks import NETWORKS
from ..problems.providers import KINDS, PROVIDERS
from ..problems.suites import SUITES
from ..problems.workloads import PASSES
from ..runs.runner import ROUNDS, UnusableDeviceError
from . import options
from .running import View, chosen_providers, kept, run_and_show, runner_for

DEFAULT = Path("bench.json")
SECONDS = 900.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench run``."""
    add = parser.add_argument
    add(
        "--suite",
        choices=list(SUITES),
        help="which shapes (default: cpu, on a GPU gpu); the options below choose in it",
    )
    options.add_pyramids(parser, "instead of a suite: the shapes of this pyramid", "with --network; default: 512x512")
    add("--kind", action="append", choices=KINDS, help="of what is called; this and the next ones may be repeated")
    options.add_numbers(parser, list(DTYPES), "default: those of the suite", several=True)
    add("--pass", action="append", choices=PASSES, dest="pass_", help="training: forward and backward")
    add(
        "--mode",
        action="append",
        choices=MODES,
        help="operator: as called; kernel: a CUDA graph; host: without waiting",
    )
    add("--cache", action="append", choices=CACHES, help="cold: the last cache is overwritten before every call")
    options.add_providers(parser, "default: all")
    options.add_device(parser)
    add(
        "--rounds",
        type=arguments.count,
        nargs=2,
        metavar=("LEAST", "MOST"),
        help="of every case (default: 8 40, on a GPU 10 100)",
    )
    options.add_budget(parser, f"default: {SECONDS:.0f}")
    options.add_file(parser, DEFAULT, f"default: {DEFAULT}")
    add("--resume", action="store_true", help="go on with the file: keep what is finished")
    add("--list", action="store_true", help="show the cases and run nothing")
    parser.set_defaults(run=run, parser=parser, budget=SECONDS)


def chosen_cases(args: argparse.Namespace) -> list[BenchCase]:
    """The cases that the options ask for, each once, in the order of the suite."""
    if args.network:
        on_gpu = args.device.type == "cuda"
        cases = grid(
            [NETWORKS[name] for name in options.networks(args)],
            args.size or [options.SIZE],
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
        cases = SUITES[_suite(args)]()
    return [case for case in dict.fromkeys(cases) if _is_asked_for(case, args)]


def _suite(args: argparse.Namespace) -> str:
    return args.suite or ("gpu" if args.device.type == "cuda" else "cpu")


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
    options.take_device(args)
    cases = chosen_cases(args)
    if not cases:
        args.parser.error("no case of the suite is left by these options")
    if args.list:
        print("\n".join(case.id for case in cases))
        return 0
    rounds = tuple(args.rounds) if args.rounds else ROUNDS[args.device.type]
    if rounds[0] > rounds[1]:
        args.parser.error(f"--rounds LEAST MOST: the least must not be above the most, got {rounds[0]} and {rounds[1]}")
    suite = None if args.network else _suite(args)
    names = chosen_providers(args.provider, list(PROVIDERS))
    runner = runner_for(args, names, rounds, resume=args.resume, suite=suite)
    try:
        return run_and_show(runner, cases, View())
    except KeyboardInterrupt:
        print(f"{kept(runner.record.path)}, --resume goes on", file=sys.stderr)
        return 130
    except UnusableDeviceError as error:
        print(f"{error}; a new process goes on", file=sys.stderr)
        _go_on(args.command, runner.budget.left)


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
