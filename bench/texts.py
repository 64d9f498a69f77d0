"""Tables and sentences of the documents whose figures come from files under ``bench/results``.

Each function takes that folder and the way to it from the document, for links.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .markdown import table
from .predicted import Prediction, by_case, compared, newest
from .sheets import Cell, Sheet, figure

CPU = "cpu-amd-epyc"
"""The folder of the machine whose figures the documents quote."""
HOST_CALLS = ("layer", "layer, recorded", "layer, forward + backward")


def prose(text: str) -> str:
    """A paragraph in lines of at most 120 characters; what stands between backticks stays on one line."""
    held = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    return "\n".join(textwrap.wrap(held, 120, break_long_words=False, break_on_hyphens=False)).replace("\0", " ")


def load(results: Path, name: str) -> Any:
    """A file of results."""
    return json.loads((results / name).read_text(encoding="utf-8"))


class Aim(NamedTuple):
    """A figure of ``bench.eager_forward``, the bound it should keep, and how both are said."""

    column: str
    value: Callable[[dict[str, Any]], float]
    digits: int
    keeps: Callable[[float], bool]
    said: str


AIMS = (
    Aim(
        "forward / conv2d",
        lambda row: row["eager_over_conv2d"],
        2,
        lambda value: value <= 2.5,
        "the forward takes at most 2.5 times as long as the convolution",
    ),
    Aim(
        "unfold / forward",
        lambda row: row["unfold_over_eager"],
        1,
        lambda value: value >= 4,
        "it is at least 4 times as fast as unfolding",
    ),
    Aim(
        "forward + backward / conv2d",
        lambda row: row["eager_over_conv2d_forward_backward"],
        2,
        lambda value: value <= 3,
        "forward and backward take at most 3 times as long as the convolution's",
    ),
    Aim(
        "extra memory / output",
        lambda row: row["extra_memory_over_output"]["eager"],
        2,
        lambda value: value <= 1,
        "the forward allocates no more than its output's size beside it",
    ),
)


def _shape(row: dict[str, Any]) -> str:
    shape = row["shape"]
    return f"{shape['channels']}, {shape['height']}x{shape['width']} {shape['layout']}"


def where(content: dict[str, Any]) -> str:
    """Device and torch of an older file, whose environment is spread over its top level or in a field of its own."""
    environment = content.get("environment", content)
    device = environment["device"]
    return f"{device['name']}, {device['threads']} threads, torch {environment['torch']}"


def eager_forward(results: Path, link: str) -> str:
    """The table of ``bench.eager_forward``, and which aims it misses."""
    content = load(results, f"{CPU}/eager-forward.json")
    sheet = Sheet("", ("C = O, size", *(aim.column for aim in AIMS)))
    for row in content["shapes"]:
        values = [aim.value(row) for aim in AIMS]
        marks = ["" if aim.keeps(value) else "bad" for aim, value in zip(AIMS, values)]
        cells = [figure(v, f"{v:.{aim.digits}f}", mark) for aim, v, mark in zip(AIMS, values, marks)]
        sheet.add(_shape(row), *cells)
    misses = [_misses(aim, content["shapes"]) for aim in AIMS]
    head = f"{where(content)}, float32, 3x3, batch 1. What misses its aim is bold."
    return "\n\n".join((head, table(sheet), "\n".join(misses)))


def _misses(aim: Aim, rows: Sequence[dict[str, Any]]) -> str:
    missed = [row for row in rows if not aim.keeps(aim.value(row))]
    which = "; ".join(f"{_shape(row)} ({aim.value(row):.{aim.digits}f})" for row in missed)
    ending = f"missed by {len(missed)} of {len(rows)}: {which}" if missed else f"kept by all {len(rows)}"
    return prose(f"- Aim: {aim.said}: {ending}.")


def eager_forward_in_short(results: Path, link: str) -> str:
    """The same in a sentence."""
    content = load(results, f"{CPU}/eager-forward.json")
    ranges = []
    for aim in AIMS:
        values = [aim.value(row) for row in content["shapes"]]
        missed = sum(not aim.keeps(value) for value in values)
        ranges.append(f"{aim.column} {min(values):.{aim.digits}f} to {max(values):.{aim.digits}f} ({_missing(missed)})")
    return prose(
        f"The eager path's functions by themselves ({where(content)}, float32, {len(content['shapes'])} shapes, "
        f"`python -m bench.eager_forward`, [figures]({link}/{CPU}/eager-forward.json)): {'; '.join(ranges)}."
    )


def _missing(count: int) -> str:
    return {0: "all keep the aim", 1: "one misses the aim"}.get(count, f"{count} miss the aim")


def host_cost(results: Path, link: str) -> str:
    """What a call costs the host, in a sentence."""
    content = load(results, f"{CPU}/host-cost.json")
    ratios = {row["call"]: row["ratio"] for row in content["microseconds"] if row["work"] == "no images"}
    call, recorded, both = (f"{ratios[name]:.1f}" for name in HOST_CALLS)
    return prose(
        f"The host's time of an eager call on a CPU, with nothing to compute, is {call} times that of `nn.Conv2d`, "
        f"{recorded} times where gradients are recorded (the aim is 2), {both} times forward and backward "
        f"(`python -m bench.host_cost`, [figures]({link}/{CPU}/host-cost.json))."
    )


def machine_code(results: Path, link: str) -> str:
    """What the simulation of the machine code predicts for the difference convolution and for the block."""
    rows = load(results, "machine-code/defaults.json")

    def of(kernel: str, channels: int) -> dict[str, Any]:
        chosen = [row for row in rows if (row["kernel"], row["arch"], row["channels"]) == (kernel, "sm_90", channels)]
        if len(chosen) != 1:
            raise ValueError(f"machine-code/defaults.json has {len(chosen)} rows for {kernel} on sm_90, not one")
        return chosen[0]

    def simulated(row: dict[str, Any]) -> str:
        least, most = row["ratio_range"]
        return f"{row['ratio']:.2f}x ({least:.2f}x to {most:.2f}x)"

    forward, weight = of("difference_forward", 256), of("difference_weight_gradient", 256)
    products, gather = of("tap_products", 256), of("difference_data_gradient", 256)
    block, apart = of("block_forward", 128), [of(name, 128) for name in ("difference_forward", "fusion_forward")]
    least = "least_bytes_per_pixel"
    return prose(
        "`python -m bench.machine_code` plays the hot loops of their machine code, clock by clock, on a simulated "
        "multiprocessor of an H100 (sm_90, bfloat16, channels_last). In times of the tensor cores' time for a vanilla "
        f"3x3 convolution of 256 channels it predicts {simulated(forward)} for the forward, {simulated(weight)} for "
        f"the weight gradient and at least {products['ratio'] + gather['ratio']:.1f}x for the data gradient; for a "
        f"block of 128 channels in one kernel {simulated(block)}, in times of a 3x3 and a 1x1 convolution, and "
        f"{block[least]:.0f} bytes a pixel to and from device memory where difference and fusion in turn move "
        f"{sum(row[least] for row in apart):.0f}. In brackets: what hits the first-level cache and what the second one "
        "gives is varied. Were every pipe busy all the time, it would be "
        f"{forward['floor_ratio']:.2f}x for the forward and {block['floor_ratio']:.2f}x for the block. Latencies, "
        "queues and rates of the simulation are others' measurements and estimates; **no GPU has confirmed any of "
        f"this** ([figures]({link}/machine-code/defaults.json), "
        f"[assumptions]({link.removesuffix('/results')}/README.md))."
    )


def predictions(results: Path, link: str) -> str:
    """What was predicted of the shapes that `make gpu` times, and what was measured wherever it ran."""
    path = newest(results / "predictions")
    if path is None:
        return "Nothing was predicted yet: `python -m bench.gpu.predictions`."
    content = json.loads(path.read_text(encoding="utf-8"))
    predicted = {f"triton {entry['triton']}": by_case(content, entry["triton"]) for entry in content["versions"]}
    measured = dict(_measured(content, results))
    sheet = Sheet("", ("case", "pass", *predicted, *measured))
    for case in dict.fromkeys(case for version in predicted.values() for case in version):
        network, kind, name, *_, pass_, _, _ = case.split("/")
        cells = [_predicted(version.get(case)) for version in predicted.values()]
        cells += [run.get(case, "not measured") for run in measured.values()]
        sheet.add(f"{network}, {kind} of {name}", pass_, *cells)
    none = "" if measured else " **No GPU has run any of it yet.**"
    return f"{table(sheet)}\n\n" + prose(
        f"Predicted on {path.stem} from machine code, for an H100 ([figures]({link}/predictions/{path.name})): "
        "microseconds, and times of what the plain convolution would take if its tensor cores never waited, with the "
        "range of the assumptions. Not in it: what a launch costs, programs that do not fill the device, and of a "
        f"block's training the kernels of its moments.{none}"
    )


def _predicted(found: Prediction | None) -> str:
    if found is None:
        return "not predicted"
    low, high = found.range_ratio
    return f"{found.ms * 1e3:.1f} us, {found.ratio:.2f}x ({low:.2f}x to {high:.2f}x)"


def _measured(content: Mapping[str, Any], results: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """For each run with cases that were predicted its name, and their times and how far off they were."""
    for file in sorted(results.rglob("bench.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        rows = list(compared(by_case(content, run["environment"]["triton"]), run))
        if rows:
            name = file.parent.relative_to(results).as_posix()
            yield name, {row.predicted.id: f"{row.ms * 1e3:.1f} us, {row.ratio:.2f}x: {row.verdict}" for row in rows}


def row_sharded(results: Path, link: str) -> str:
    """Memory of a rank by the number of ranks."""
    rows = load(results, f"{CPU}/row-sharded.json")["rows"]
    sheet = Sheet("", ("ranks", *(str(row["ranks"]) for row in rows)))
    peaks = [max(row["peak_bytes"]) / 2**20 for row in rows]
    sheet.add("MiB a rank", *(figure(peak, f"{peak:.0f}") for peak in peaks))
    return table(sheet)


def proofs(results: Path, link: str) -> str:
    """Every verdict on a compiled kernel, and what was used."""
    content = load(results, "proofs.json")
    sheet = Sheet("", ("kernel", "for", "claim", "verdict", "seconds", "launch", "what the verifier adds"))
    for v in content["verdicts"]:
        mark = "bad" if v["verdict"] == "refuted" else ""
        reason = v["reason"] or ("" if v["verdict"] == "proved" else v["result"])
        seconds = figure(v["seconds"], f"{v['seconds']:.0f}")
        sheet.add(
            v["function"], v["architecture"], v["claim"], Cell(v["verdict"], mark=mark), seconds, v["launch"], reason
        )
    counts = Counter(v["verdict"] for v in content["verdicts"])
    used = ", ".join(f"{name} {content['environment'][name]}" for name in ("sentryward", "triton", "torch"))
    settings = content["settings"]
    return "\n\n".join(
        (
            prose(
                f"{len(content['verdicts'])} claims: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())} "
                f"({used}; {settings['arithmetic']}; at most {settings['seconds']:.0f} s and "
                f"{settings['mebibytes']} MiB a claim; [record]({link}/proofs.json))."
            ),
            table(sheet),
        )
    )
