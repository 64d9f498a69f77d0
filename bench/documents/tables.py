"""Tables and sentences of the documents whose figures come from files under ``bench/results``.

Each function takes that folder and the way to it from the document, for links.
"""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..gpu.predicted import Prediction, by_case, compared, newest
from ..reports.markdown import markdown_table
from ..runs.saved_runs import read_run
from ..terminal import Cell, Table, figure

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


def where(content: dict[str, Any]) -> str:
    """Device and torch of an older file, whose environment is spread over its top level or in a field of its own."""
    environment = content.get("environment", content)
    device = environment["device"]
    return f"{device['name']}, {device['threads']} threads, torch {environment['torch']}"


MOST_OVER_CONVOLUTION = 1.7
"""The aim for the median over all shapes of the eager path's time over conv2d's, forward and forward + backward."""
LEAST_MEMORY = 16 * 2**20
"""The eager forward may take so many bytes beside its output, or as many as that has."""


def eager_forward(results: Path, link: str) -> str:
    """The table of ``sdn_triton.bench.experiments.eager_forward``, four cases in a row, and which aims it misses."""
    content = load(results, f"{CPU}/eager-forward.json")
    table = Table("", ("C = O, size", *(name for name, _, _ in _EAGER_COLUMNS), "extra memory [MiB]"), text=True)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in content["shapes"]:
        shape = row["shape"]
        groups.setdefault(f"{shape['channels']}, {shape['size']}x{shape['size']}", []).append(row)
    for name, rows in groups.items():
        cells = [_eager_cell(rows, ratio, choose) for _, ratio, choose in _EAGER_COLUMNS]
        memory = max(row["extra_memory_bytes"] for row in rows) / 2**20
        table.add([name, *cells, f"{memory:.1f}"])
    head = prose(
        f"{where(content)}, float32, 3x3: ours over the other way, below 1 ours is faster. A row has four cases, batch "
        "1 and 4, contiguous and channels_last: the median of them over conv2d, and the slowest of them over unfolding "
        "and torch.compile of the plain formula (- where it was not tried)."
    )
    return "\n\n".join((head, markdown_table(table), "\n".join(_eager_aims(content))))


_EAGER_COLUMNS: tuple[tuple[str, str, Callable[[Sequence[float]], float]], ...] = (
    ("forward / conv2d", "forward / conv2d", statistics.median),
    ("/ unfold", "forward / unfold", max),
    ("/ compile", "forward / compile", max),
    ("forward + backward / conv2d", "both / conv2d", statistics.median),
    ("/ unfold", "both / unfold", max),
    ("/ compile", "both / compile", max),
)


def _eager_cell(rows: Sequence[dict[str, Any]], ratio: str, choose: Callable[[Sequence[float]], float]) -> str:
    values = [row["ratios"][ratio]["median"] for row in rows if ratio in row["ratios"]]
    return f"{choose(values):.2f}" if values else "-"


def _eager_aims(content: dict[str, Any]) -> list[str]:
    """Each aim, and what misses it."""
    aims = []
    for name, said in (("forward / conv2d", "the forward"), ("both / conv2d", "forward and backward")):
        median = content["medians"][name]
        verdict = "kept" if median <= MOST_OVER_CONVOLUTION else "**missed**"
        aims.append(
            prose(
                f"- Aim: the median over conv2d is at most {MOST_OVER_CONVOLUTION}: {median:.2f} for {said}, {verdict}."
            )
        )
    missed = content["misses"]
    which = f"**missed** by {len(missed)}: {'; '.join(missed)}" if missed else "kept by all"
    aims.append(prose(f"- Aim: no other way to the same result is faster beyond the noise of its rounds: {which}."))
    rows = content["shapes"]
    large = [row for row in rows if row["extra_memory_bytes"] > max(row["output_bytes"], LEAST_MEMORY)]
    which = "kept by all" if not large else f"**missed** by {len(large)}"
    aims.append(prose(f"- Aim: the forward takes at most 16 MiB beside its output, or as much as that has: {which}."))
    return aims


def eager_forward_in_short(results: Path, link: str) -> str:
    """The same in a sentence."""
    content = load(results, f"{CPU}/eager-forward.json")
    medians, shapes = content["medians"], content["shapes"]
    comparisons = [v["median"] for row in shapes for name, v in row["ratios"].items() if not name.endswith("conv2d")]
    return prose(
        f"A layer on a CPU ({where(content)}, float32, {len(shapes)} shapes from 32 channels at 8x8 to 256 at 128x128, "
        f"`python -m sdn_triton.bench.experiments.eager_forward`, [figures]({link}/{CPU}/eager-forward.json)) takes "
        f"{medians['forward / conv2d']:.2f} times as long as `conv2d`, {medians['both / conv2d']:.2f} times with the "
        f"backward (medians). Of {len(comparisons)} comparisons with unfolding and with torch.compile of the plain "
        f"formula it is slower, beyond noise, in {len(content['misses'])}."
    )


def host_cost(results: Path, link: str) -> str:
    """What a call costs the host, in a sentence."""
    content = load(results, f"{CPU}/host-cost.json")
    ratios = {row["call"]: row["ratio"] for row in content["microseconds"] if row["work"] == "no images"}
    call, recorded, both = (f"{ratios[name]:.1f}" for name in HOST_CALLS)
    return prose(
        f"The host's time of an eager call on a CPU, with nothing to compute, is {call} times that of `nn.Conv2d`, "
        f"{recorded} times where gradients are recorded (the aim is 2), {both} times forward and backward "
        f"(`python -m sdn_triton.bench.experiments.host_cost`, [figures]({link}/{CPU}/host-cost.json))."
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
    products, gather = of("edge_products", 256), of("difference_data_gradient", 256)
    block, apart = of("block_forward", 128), [of(name, 128) for name in ("difference_forward", "fusion_forward")]
    least = "least_bytes_per_pixel"
    return prose(
        "`python -m sdn_triton.bench.machine_code` plays the hot loops of their machine code, clock by clock, on a "
        "simulated multiprocessor of an H100 (sm_90, bfloat16, channels_last). In times of the tensor cores' time for "
        f"a vanilla 3x3 convolution of 256 channels it predicts {simulated(forward)} for the forward, "
        f"{simulated(weight)} for the weight gradient and at least {products['ratio'] + gather['ratio']:.1f}x for the "
        f"data gradient; for a block of 128 channels in one kernel {simulated(block)}, in times of a 3x3 and a 1x1 "
        f"convolution, and {block[least]:.0f} bytes a pixel to and from device memory where difference and fusion in "
        f"turn move {sum(row[least] for row in apart):.0f}. In brackets: what hits the first-level cache and what the "
        "second one gives is varied. Were every pipe busy all the time, it would be "
        f"{forward['floor_ratio']:.2f}x for the forward and {block['floor_ratio']:.2f}x for the block. Latencies, "
        "queues and rates of the simulation are others' measurements and estimates; **no GPU has confirmed any of "
        f"this** ([figures]({link}/machine-code/defaults.json), "
        f"[assumptions]({link.removesuffix('/results')}/README.md))."
    )


def predictions(results: Path, link: str) -> str:
    """What was predicted of the shapes that `make gpu` times, and what was measured wherever it ran."""
    path = newest(results / "predictions")
    if path is None:
        return "Nothing was predicted yet: `python -m sdn_triton.bench.gpu.predictions`."
    content = json.loads(path.read_text(encoding="utf-8"))
    predicted = {f"triton {entry['triton']}": by_case(content, entry["triton"]) for entry in content["versions"]}
    measured = dict(_measured(content, results))
    table = Table("", ("case", "pass", *predicted, *measured), text=True)
    for case in dict.fromkeys(case for version in predicted.values() for case in version):
        network, kind, name, *_, pass_, _, _ = case.split("/")
        cells = [_predicted(version.get(case)) for version in predicted.values()]
        cells += [run.get(case, "not measured") for run in measured.values()]
        table.add([f"{network}, {kind} of {name}", pass_, *cells])
    none = "" if measured else " **No GPU has run any of it yet.**"
    return f"{markdown_table(table)}\n\n" + prose(
        f"Predicted on {path.stem} from machine code, for an H100 ([figures]({link}/predictions/{path.name})): "
        "microseconds, and times of what the plain convolution would take if its tensor cores never waited, with the "
        "range of the assumptions. Not in it: what a launch costs, programs that do not fill the device, and of a "
        f"block's training the kernels of its moments.{none}"
    )


def _predicted(prediction: Prediction | None) -> str:
    if prediction is None:
        return "not predicted"
    low, high = prediction.range_ratio
    return f"{prediction.ms * 1e3:.1f} us, {prediction.ratio:.2f}x ({low:.2f}x to {high:.2f}x)"


def _measured(content: Mapping[str, Any], results: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """For each run with cases that were predicted its name, and their times and how far off they were."""
    for file in sorted(results.rglob("bench.json")):
        run = read_run(file)
        rows = list(compared(by_case(content, run.environment["triton"]), run))
        if rows:
            name = file.parent.relative_to(results).as_posix()
            yield name, {row.predicted.id: f"{row.ms * 1e3:.1f} us, {row.ratio:.2f}x: {row.verdict}" for row in rows}


def row_sharded(results: Path, link: str) -> str:
    """Memory of a rank by the number of ranks."""
    rows = load(results, f"{CPU}/row-sharded.json")["rows"]
    table = Table("", ("ranks", *(str(row["ranks"]) for row in rows)), text=True)
    peaks = [max(row["peak_bytes"]) / 2**20 for row in rows]
    table.add(["MiB a rank", *(figure(peak, f"{peak:.0f}") for peak in peaks)])
    return markdown_table(table)


def proofs(results: Path, link: str) -> str:
    """Every verdict on a compiled kernel, and what was used."""
    content = load(results, "proofs.json")
    table = Table("", ("kernel", "for", "claim", "verdict", "seconds", "launch", "what the verifier adds"), text=True)
    for v in content["verdicts"]:
        mark = "bad" if v["verdict"] == "refuted" else ""
        reason = v["reason"] or ("" if v["verdict"] == "proved" else v["result"])
        seconds = figure(v["seconds"], f"{v['seconds']:.0f}")
        table.add(
            [v["function"], v["architecture"], v["claim"], Cell(v["verdict"], mark=mark), seconds, v["launch"], reason]
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
            markdown_table(table),
        )
    )
