"""What the compiler makes of a kernel, and what that should cost. Needs no GPU.

``python -m sdn_triton.bench.machine_code``.

Compiles kernels ahead of time, disassembles them with the tools inside the triton package, finds the hot loop and
counts what it does for one *difference element*: one pixel, one tap, one input channel (``kernel_work.py`` defines it
for every kernel, ``kernel_cost.py`` finds the loop). A device model (``throughput.py``) turns the counts into clocks of
each pipe. The ratio to the 9-tap tensor time of a plain 3x3 convolution of as many outputs is that of the loop played
in time on a simulated multiprocessor (Hopper), else a bound by what may overlap with what (``prediction.py``).

It also says whether the code can be trusted: instructions that use registers of an unfinished product are counted
(``hazards.py``). ``python -m sdn_triton.bench.machine_code.hazards`` shows them, in any binary.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from sdn_triton.extras import how_to_install
from sdn_triton.streams import guarded
from sdn_triton.tuning.configs import ARITHMETICS, KernelConfig
from sdn_triton.tuning.kernels import DEPTHWISE_KERNELS

from .. import FOLDER, ROOT, arguments
from ..measuring.environment import package_version
from ..measuring.revision import git_revision
from ..measuring.saving import save
from ..terminal import BAD, Report
from .kernel_work import COLUMNS, IMAGES, KERNELS, ROWS
from .tables import against_table, clock_table, count_table, resource_table
from .throughput import MULTIPROCESSORS

DEFAULT_KERNELS = ("difference_forward", "difference_data_gradient", "difference_weight_gradient", "block_forward")
DEFAULT_CHANNELS = (256, 128)
CONFIG_KEYS = tuple(field.name for field in fields(KernelConfig) if field.name != "source")
INSTRUMENT = ("streams", "aot/__init__", "aot/assembler", "aot/compile", "tuning/files", "tuning/precision")
"""What ``--against`` takes along of the package, beside this folder, so that both revisions are measured alike."""
HAZARDS = "its results may be wrong: {} instructions use registers of an unfinished product"


def _config(text: str) -> tuple[tuple[str, int], ...]:
    pairs = []
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in CONFIG_KEYS:
            raise argparse.ArgumentTypeError(f"unknown key {key!r} in {text!r}: choose from {', '.join(CONFIG_KEYS)}")
        if not value.isdigit():
            raise argparse.ArgumentTypeError(f"{part!r} is not KEY=NUMBER")
        pairs.append((key, int(value)))
    return tuple(pairs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.machine_code", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add(
        "--kernel",
        action="append",
        choices=KERNELS,
        help="may be repeated (default: those of the difference, and the block)",
    )
    add("--arch", action="append", choices=list(MULTIPROCESSORS), help="may be repeated (default: sm_90)")
    add("--dtype", action="append", choices=ARITHMETICS, help="may be repeated; ieee is float32 (default: bf16)")
    add("--channels", action="append", type=arguments.count, metavar="C", help="may be repeated (default: 256 and 128)")
    add(
        "--outputs",
        action="append",
        type=arguments.count,
        metavar="O",
        help="may be repeated (default: as many as channels)",
    )
    add(
        "--config",
        action="append",
        type=_config,
        metavar="KEY=VALUE,...",
        help=f"change the heuristic's configuration; may be repeated. Keys: {', '.join(CONFIG_KEYS)}",
    )
    add("--memory-format", choices=("channels_last", "contiguous"), default="channels_last")
    add("--json", type=arguments.writable_file, metavar="FILE", help="write a list of objects, one a row of the tables")
    add("--against", metavar="REV", help="compare with the kernels of another git revision")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Examine, print, write; 0, or 1 where a kernel cannot be compiled, understood or trusted, 2 for a wrong option."""
    parser = _parser()
    args = parser.parse_args(argv)
    if find_spec("triton") is None:
        parser.error(f"needs triton: {how_to_install('interpreter')}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("0", ""):
        parser.error("needs Triton's compiler, but TRITON_INTERPRET is set: unset it")
    from .examination import KernelCase, examine  # imports triton

    cases = []
    for kernel, arch, arithmetic, (channels, outputs), overrides in product(
        args.kernel or DEFAULT_KERNELS,
        args.arch or ("sm_90",),
        args.dtype or ("bf16",),
        _sizes(args),
        args.config or ((),),
    ):
        outputs = channels if kernel in DEPTHWISE_KERNELS else outputs
        case = KernelCase(kernel, arch, arithmetic, channels, outputs, args.memory_format, overrides)
        try:
            case.config()
        except ValueError as error:
            parser.error(str(error))
        if case not in cases:
            cases.append(case)
    earlier = None
    if args.against is not None:
        try:
            earlier = _rows_at(args.against, _selection(args))
        except _AgainstError as error:
            parser.exit(error.status, f"{parser.prog}: error: --against {args.against}: {error}\n")

    rows = []
    report = Report(len(cases))
    with report:
        for case in cases:
            report.begin(f"{case.kernel} {case.arch} {case.arithmetic} {case.channels}->{case.outputs}")
            rows.append(examine(case))
            report.done()
        went_elsewhere = args.json is not None and args.json != save(
            args.json, rows if earlier is None else _paired(rows, earlier)
        )
        report.say(_versions(rows))
        report.say(f"{args.memory_format}, {IMAGES} images of {ROWS}x{COLUMNS}; no device was asked, nothing was timed")
        report.say()
        for table in (resource_table(rows), count_table(rows), clock_table(rows)):
            report.show(table)
        if earlier is not None:
            report.show(against_table(args.against, rows, earlier))
        for row in rows:
            if row["error"]:
                report.say(f"{row['kernel']} {row['arch']} {row['dtype']}: {row['error']}", BAD)
            if row["hazards"]:
                report.say(f"{row['kernel']} {row['arch']} {row['dtype']}: {HAZARDS.format(row['hazards'])}", BAD)
    return int(went_elsewhere or any(row["error"] or row["hazards"] for row in rows))


def _sizes(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Pairs of channels and outputs."""
    channels = args.channels or args.outputs or DEFAULT_CHANNELS
    if args.outputs is None or args.channels is None:
        return [(count, count) for count in channels]
    return list(product(channels, args.outputs))


def _versions(rows: Sequence[dict[str, Any]]) -> str:
    git = git_revision()
    revision = f", revision {git['revision'][:10]}{' (changed)' if git['dirty'] else ''}" if git["revision"] else ""
    assemblers = "".join(f", ptxas {version}" for version in sorted({row["assembler"] for row in rows} - {None}))
    return f"triton {package_version('triton')}{assemblers}{revision}"


class _AgainstError(Exception):
    """Why the other revision could not be examined; ``status`` is the exit status that it calls for."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _selection(args: argparse.Namespace) -> list[str]:
    """The options that select cases, to be given again."""
    options = [f"--memory-format={args.memory_format}"]
    for name in ("kernel", "arch", "dtype", "channels", "outputs"):
        options += [f"--{name}={value}" for value in getattr(args, name) or ()]
    return options + [f"--config={','.join(f'{key}={value}' for key, value in config)}" for config in args.config or ()]


def _rows_at(revision: str, selection: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of another revision's kernels, by this instrument."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        raise _AgainstError("this is no git checkout", 2)
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit.returncode:
        raise _AgainstError("there is no such revision", 2)
    with (
        tempfile.TemporaryDirectory(prefix="machine_code_") as folder,
        _worktree(commit.stdout.strip(), folder) as tree,
    ):
        shutil.rmtree(tree / "bench")
        shutil.copytree(FOLDER, tree / "bench", ignore=shutil.ignore_patterns("results", "__pycache__"))
        for name in INSTRUMENT:
            (tree / "sdn_triton" / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / "sdn_triton" / f"{name}.py", tree / "sdn_triton" / f"{name}.py")
        output = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "sdn_triton.bench.machine_code", *selection, f"--json={output}"]
        run = subprocess.run(command, cwd=tree, capture_output=True, text=True)
        if not output.exists():
            reason = (run.stderr.strip().splitlines() or ["no output"])[-1]
            raise _AgainstError(f"its kernels cannot be examined ({reason})", 1)
        rows: list[dict[str, Any]] = json.loads(output.read_text())
        return rows


@contextmanager
def _worktree(commit: str, folder: str) -> Iterator[Path]:
    """A checkout of a commit that is gone afterwards."""
    tree = Path(folder) / "tree"
    added = _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    if added.returncode:
        raise _AgainstError(added.stderr.strip(), 1)
    try:
        yield tree
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


def _paired(rows: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with that of the other revision under ``against``."""
    return [{**row, "against": before} for row, before in zip(rows, earlier, strict=True)]


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.machine_code", main))
