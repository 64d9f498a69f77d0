"""``sdn-triton tune``: measure configurations on this GPU for the shapes that matter, and keep them in a table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from sdn_triton.backend import INTERPRETED, is_interpreted
from sdn_triton.launch.run import target_of
from sdn_triton.tuning.files import write_json
from sdn_triton.tuning.lookup import SHIPPED, user_folder
from sdn_triton.tuning.shapes import DTYPES, LayerShape, read_shapes
from sdn_triton.tuning.tables import TableError, table_of

from .. import arguments
from ..machine_code.throughput import MULTIPROCESSORS
from ..measuring.environment import device_slug
from ..problems.networks import NETWORKS, Network
from ..terminal import BAD, GOOD, Report, Table
from . import options

BUDGET = 600.0
NOT_RUN = "it does not run", "it is not run"
"""How the reasons begin for which a configuration was rejected before it gave results."""
NO_GPU = (
    "there is no GPU here, so that nothing can be measured. What the compiler predicts, without measuring: "
    "sdn-triton tune --static sm_90 {shapes}"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tune``."""
    add = parser.add_argument
    options.add_pyramids(parser, "the shapes of its neck", "with --network; default: 512x512")
    add(
        "--shapes",
        type=arguments.saying(lambda text: read_shapes(Path(text))),
        action="append",
        metavar="FILE",
        help="a JSON list, as record_shapes writes it",
    )
    add(
        "--shape",
        type=arguments.saying(LayerShape.parse),
        action="append",
        metavar="KEY=VALUE,...",
        help="as in explain(): c=256,h=64,w=64",
    )
    options.add_numbers(
        parser,
        DTYPES,
        "tf32: float32 with TF32; default: the shapes' own, for networks bfloat16 and channels_last",
        layout=True,
    )
    options.add_budget(parser, f"default: {BUDGET:.0f}")
    add("--table", type=Path, metavar="FILE", help="the table, gone on with if it is there (default: the user's own)")
    add("--export", action="store_true", help="put the finished entries where a pull request would, into the package")
    add(
        "--device",
        type=arguments.device,
        help=f"cuda or cuda:INDEX; cpu under {INTERPRETED}=1, to try the tuner itself",
    )
    add(
        "--static",
        choices=list(MULTIPROCESSORS),
        metavar="ARCH",
        help="without a GPU: rank by machine code",
    )
    parser.set_defaults(run=run, parser=parser, budget=BUDGET)


def shapes_of_network(network: Network, size: tuple[int, int], batch: int) -> list[LayerShape]:
    """The difference convolution and the fusion of every stage."""
    stages = zip(network.channels, network.sizes(*size), strict=True)
    return [
        LayerShape(op=op, n=batch, c=channels, h=rows, w=columns)
        for channels, (rows, columns) in stages
        for op in ("difference", "fusion")
    ]


def _chosen_shapes(args: argparse.Namespace) -> list[LayerShape]:
    pyramids = product(options.networks(args), args.size or [options.SIZE], args.batch or [1])
    chosen = [shape for name, size, batch in pyramids for shape in shapes_of_network(NETWORKS[name], size, batch)]
    chosen += [shape for shapes in args.shapes or () for shape in shapes]
    chosen += args.shape or ()
    if not chosen:
        args.parser.error("no shapes: use --network, --shapes or --shape (explain() prints one for a call)")
    asked = {"dtype": args.dtype, "layout": args.memory_format}
    changes = {name: value for name, value in asked.items() if value is not None}
    return list(dict.fromkeys(replace(shape, **changes) for shape in chosen))


def run(args: argparse.Namespace) -> int:
    """Tune or rank; 0, 1 if a configuration gave wrong results, 2 where nothing can be done."""
    shapes = _chosen_shapes(args)
    if args.static is not None:
        return _rank(args, shapes)
    device = args.device or torch.device("cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        args.parser.error(NO_GPU.format(shapes=" ".join(f"--shape {shape}" for shape in shapes[:2])))
    if device.type == "cpu" and not is_interpreted():
        args.parser.error(f"on a CPU the kernels run only under {INTERPRETED}=1, and their times mean nothing")
    if device.type == "cpu" and args.export:
        args.parser.error("--export ships what was measured on a GPU, not the interpreter")
    return _tune(args, shapes, device)


def _tune(args: argparse.Namespace, shapes: list[LayerShape], device: torch.device) -> int:
    from ..tuner.trials import units_of  # imports triton
    from ..tuner.tuner import Tuner

    path = args.table or user_folder() / f"{device_slug(device)}.json"
    units = units_of(shapes, target_of(device))
    report = Report(len(units))
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        tuner = Tuner(path, device, target_of(device), args.budget, doing=report.doing)
    except (TableError, OSError) as error:
        args.parser.error(str(error))
    table = Table(f"Microseconds, {path}", ["kernel and shape", "fastest", "runner-up", "heuristic", "right", "wrong"])
    table.notes.append("right, wrong: how many configurations gave right results and were timed, and how many did not.")
    wrong = 0
    try:
        with report:
            for number, unit in enumerate(units):
                report.begin(unit.title)
                try:
                    if not tuner.is_complete(unit) and tuner.left > 0:
                        tuner.run(unit, tuner.left / (len(units) - number))
                except torch.OutOfMemoryError:
                    report.say(f"{unit.title}: out of memory, left out", BAD)
                report.done()
                wrong += _add_row(table, unit.title, tuner.entry(unit))
            report.show(table)
            unfinished = [unit.title for unit in units if not tuner.is_complete(unit)]
            if unfinished:
                report.say(f"{len(unfinished)} of {len(units)} have candidates left: the same command goes on.", BAD)
            report.say(f"The table: {path}")
            if args.export:
                report.say(f"Exported to {export(path, device)}", GOOD)
    except KeyboardInterrupt:
        print(f"stopped; {path} has what was measured, the same command goes on", file=sys.stderr)
        return 130
    except OSError as error:
        args.parser.error(f"cannot write: {error}")
    return int(wrong > 0)


def _add_row(table: Table, title: str, entry: dict[str, Any] | None) -> int:
    """Show what is known of a unit; how many configurations were wrong."""
    if entry is None:
        table.add([title, "not reached", "", "", "", ""])
        return 0
    rows = [entry if entry.get("verified") else None, entry.get("runner_up"), entry.get("heuristic")]
    times = ["" if row is None else f"{row['microseconds']:.1f}" for row in rows]
    wrong = [row for row in entry["rejected"] if not row["reason"].startswith(NOT_RUN)]
    table.add([title, *times, str(len(entry["timed"])), str(len(entry["rejected"]))], BAD if wrong else "")
    table.notes += [f"WRONG: {title}: {row['config']}: {row['reason']}" for row in wrong[:3]]
    if "unchecked" in entry:
        table.notes.append(f"UNCHECKED: {title}: {entry['unchecked']}")
    return len(wrong)


def export(path: Path, device: torch.device) -> Path:
    """Put the finished entries of a table among those that are shipped; where that is.

    Raises:
        OSError: the package cannot be written to.
    """
    from ..tuner.tuner import exported, merged

    content = exported(json.loads(path.read_text()))
    shipped = SHIPPED / f"{device_slug(device)}.json"
    if shipped.exists():
        content = merged(json.loads(shipped.read_text()), content)
    table_of(content, shipped)
    write_json(shipped, content)
    return shipped


def _rank(args: argparse.Namespace, shapes: list[LayerShape]) -> int:
    from sdn_triton.aot.compile import TARGETS

    from ..tuner.static_ranking import NOTES, rank, ranking_table, why_not_static, workers
    from ..tuner.trials import units_of

    for shape in shapes:
        if obstacle := why_not_static(args.static, shape):
            args.parser.error(obstacle)
    if args.export or args.table:
        args.parser.error("--static measures nothing, so that there is no table to write")
    units = units_of(shapes, TARGETS[args.static])
    report = Report(len(units))
    until = time.perf_counter() + args.budget
    with report, workers() as executor:
        report.say(f"No device was asked and nothing was timed: what {args.static}'s compiler makes of the candidates.")
        for note in NOTES:
            report.say(note)
        report.say()
        for number, unit in enumerate(units):
            report.begin(unit.title)
            seconds = (until - time.perf_counter()) / (len(units) - number)
            ranked, total = rank(unit, args.static, seconds, executor, report.doing)
            report.done()
            report.show(ranking_table(unit, args.static, ranked, total))
    return 0
