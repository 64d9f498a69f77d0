"""The tables of ``machine_code``, each row one kernel on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..terminal import BAD, Table, ratio

Row = dict[str, Any]

PIPES = ("issue", "fp", "integer", "special", "tensor", "l1", "l2", "memory")


def _label(row: Row) -> str:
    config = row["config"]
    tile = f"{config['block_p']}x{config['block_c']}x{config['block_o']}"
    splits = f" {config['splits']} splits" if config["splits"] > 1 else ""
    return (
        f"{row['kernel']} {row['arch']} {row['dtype']} {row['channels']}->{row['outputs']} "
        f"[{tile} {config['num_warps']}w {config['num_stages']}s{splits}]"
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def resource_table(rows: Sequence[Row]) -> Table:
    """What a block takes, how many fit, and the shape of the hot loop."""
    table = Table(
        "Resources and hot loop",
        (
            "kernel arch dtype C->O [pixels x channels x outputs, warps, stages]",
            "regis-\nters",
            "spilled\nbytes",
            "shared\nKiB",
            "fits",
            "blocks\n/SM",
            "haz-\nards",
            "loads\nbits:number",
            "tensor\ninstr.",
            "instr.\n/trip",
            "elements\n/trip",
        ),
        notes=[
            "Hazards: instructions that use registers of a product which may not have ended (machine_code/hazards.py).",
            "Loads, instructions and elements are those of one thread in one trip of the hot loop.",
        ],
    )
    for row in rows:
        loads = (
            "" if row["load_bits"] is None else " ".join(f"{k}:{v:.0f}" for k, v in row["load_bits"].items()) or "bulk"
        )
        table.add(
            [
                _label(row),
                _whole(row["registers"]),
                _whole(row["spill_bytes"]),
                "" if row["shared_bytes"] is None else f"{row['shared_bytes'] / 1024:.1f}",
                "" if row["fits"] is None else "yes" if row["fits"] else "NO",
                _whole(row["blocks_per_sm"]),
                _whole(row["hazards"]),
                loads,
                _whole(row["tensor_instructions"]),
                _whole(row["instructions_per_trip"]),
                _whole(row["elements_per_trip"]),
            ],
            BAD if row["error"] or row["spill_bytes"] or row["hazards"] or not row["fits"] else "",
        )
    return table


COUNTS = {
    "issued\nhot loop": "issued_per_element",
    "arith-\nmetic": "arithmetic_per_element",
    "integer,\naddress": "integer_per_element",
    "load,\nstore": "memory_per_element",
    "special": "special_per_element",
    "tensor": "tensor_per_element",
    "other": "other_per_element",
    "issued\noutside": "outside_per_element",
    "L1\nbytes": "l1_bytes_per_element",
    "past L1\nbytes": "l2_bytes_per_element",
    "shared\nbytes": "shared_bytes_per_element",
}


PIXEL = {"least\nB/pixel": "least_bytes_per_pixel", "past L1\nB/pixel": "l2_bytes_per_pixel"}


def count_table(rows: Sequence[Row]) -> Table:
    """Instructions and bytes for one difference element."""
    table = Table(
        "For one difference element: instructions of a thread, bytes asked for",
        ("kernel", *COUNTS, *PIXEL),
        notes=[
            "other: branches, barriers, uniform registers. outside: of the hot loop, spread over all elements.",
            "shared: written, read, and read by tensor instructions.",
            "B/pixel: the least that device memory must move, and what passes the L1 cache (halos, weights).",
        ],
    )
    for row in rows:
        counts = [_number(row[key]) for key in COUNTS.values()]
        table.add([_label(row), *counts, *(_whole(row[key]) for key in PIXEL.values())], BAD if row["error"] else "")
    return table


def clock_table(rows: Sequence[Row]) -> Table:
    """Predicted clocks of each pipe, and the time over the plain convolution's."""
    table = Table(
        "Predicted: clocks of one multiprocessor for one difference element, and time over the plain convolution's",
        ("kernel", *PIPES, "bound", "floor\n/conv", "/conv", "", "least to\nmost"),
        notes=[
            "issue: hot loop and outside. l1: cached loads and shared memory.",
            "l2: what is asked for past L1, or weights and first touches if those are more.",
            "/conv: over the tensor time of a 3x3 convolution's 9 taps. floor: all pipes overlap.",
            "simulated: the machine code played in time; least to most: under other assumptions (timeline/hopper.py).",
            "bound: only what the order of instructions allows overlaps, and no latency counts: at least.",
        ],
    )
    for row in rows:
        clocks, span = row["clocks_per_element"] or {}, row["ratio_range"]
        table.add(
            [
                _label(row),
                *(_number(clocks.get(pipe), 3) for pipe in PIPES),
                row["bound"] or "",
                *("" if row[key] is None else ratio(row[key]) for key in ("floor_ratio", "ratio")),
                row["ratio_is"] or "",
                "" if span is None else f"{ratio(span[0])} to {ratio(span[1])}",
            ],
            BAD if row["error"] else "",
        )
    return table


def against_table(revision: str, rows: Sequence[Row], earlier: Sequence[Row]) -> Table:
    """Then, now, and the change."""
    table = Table(
        f"Against {revision}: then -> now",
        ("kernel", "registers", "spilled", "blocks/SM", "issued/element", "change", "/conv", "change"),
    )
    for row, before in zip(rows, earlier, strict=True):
        issued, ratios = ((before[key], row[key]) for key in ("issued_per_element", "ratio"))
        worse = any(then is not None and now is not None and now > 1.005 * then for then, now in (issued, ratios))
        label = _label(row) if _label(row) == _label(before) else f"{_label(before)} -> {_label(row)}"
        table.add(
            [
                label,
                *(
                    f"{_whole(before[key])} -> {_whole(row[key])}"
                    for key in ("registers", "spill_bytes", "blocks_per_sm")
                ),
                f"{_number(issued[0])} -> {_number(issued[1])}",
                _change(*issued),
                f"{_number(ratios[0])} -> {_number(ratios[1])}",
                _change(*ratios),
            ],
            BAD if worse or row["error"] else "",
        )
        if before["error"]:
            table.notes.append(f"then, {_label(before)}: {before['error']}")
    return table


def _change(then: float | None, now: float | None) -> str:
    return "" if not then or now is None else f"{now / then - 1:+.1%}"
