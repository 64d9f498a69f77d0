"""The table of ``sdn_triton.bench.yardstick`` in the documents, with the aims, and where another way is ahead.

Imports neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..reports.markdown import markdown_table
from ..terminal import Cell, Table, figure
from ..yardstick.aims import PASSES, TRAINING, WAYS, ahead, aims_of, layer_of, missed, our_ratios
from ..yardstick.reasons import reasons
from .tables import load, prose

FILE = "machine-code/yardstick.json"
NAMES = {"forward": "forward", "weight_gradient": "weight", "data_gradient": "data", TRAINING: "training"}
METHODS = {("simulated",): "simulated", ("bound",): "at least", ("bound", "simulated"): "partly simulated"}


def yardstick_in_short(results: Path, link: str) -> str:
    """Whether ``auto`` takes the faster of its paths by the model, and how often another way would be faster."""
    cells = load(results, FILE)["cells"]
    eager, compiled = (sum(TRAINING in ahead(cell).get(way, ()) for cell in cells) for way in ("eager", "compiled"))
    return prose(
        f"By the same model the kernels train faster than the eager path in {len(cells) - eager} of {len(cells)} "
        "layers (64 to 256 channels, bfloat16 and TF32, both layouts, four architectures): there `auto` takes the "
        "faster of its two paths. torch.compile of the plain formula, as well as it could be compiled and with eight "
        f"times the input's memory, would train faster than the kernels in {compiled} of them, which "
        f"[docs/benchmarks.md]({link.removesuffix('bench/results')}docs/benchmarks.md) names. Nothing of this was "
        "measured."
    )


def yardstick(results: Path, link: str) -> str:
    """A row for every layer, and how many keep their aims or lose to another way."""
    content = load(results, FILE)
    cells = content["cells"]
    columns = (
        "layer",
        "figures are",
        *(NAMES[name] for name in PASSES),
        TRAINING,
        "aims",
        *_OTHER_COLUMNS,
        "ahead of us",
    )
    table = Table("", columns, text=True)
    for cell in cells:
        table.add(_row(cell))
    why = Table("", ("layer", "pass", "should take", "takes", "why"), text=True)
    for row in reasons(cells):
        why.add([row.layer, NAMES[row.aim], row.limit_is, figure(row.value, f"{row.value:.2f}"), row.text])
    return "\n\n".join((_legend(content, link), markdown_table(table), _counts(cells), _WHY, markdown_table(why)))


_WHY = prose(
    "Why aims are missed, by arithmetic on the same figures; of sm_100, for which none were set, where torch.compile "
    "would train faster. *If nothing waited*: every kernel takes what its busiest part of the device takes, which only "
    "a kernel that does less could change; an element is a pixel, a channel and a tap, or an edge. Else it is copies, "
    "which move their bytes at the memory's rate, or what kernels wait for in the simulation."
)


_OTHER_COLUMNS = ("torch.compile: forward, weight, data, training", "unfolding: training", "convolution: training")


def _row(cell: Mapping[str, Any]) -> list[str]:
    own, aims, ways, too_slow = our_ratios(cell), aims_of(cell), cell["others"], missed(cell)
    methods = sorted({kernel["ratio_is"] for name in PASSES for kernel in cell["ours"][name]["kernels"]})
    marks = {name: "bad" if name in too_slow else "" for name in own}
    losses = "; ".join(f"{WAYS[way]}: {_said(names)}" for way, names in ahead(cell).items())
    return [
        layer_of(cell),
        METHODS[tuple(methods)],
        *(Cell(_with_bounds(cell["ours"][name]), mark=marks[name]) for name in PASSES),
        figure(own[TRAINING], f"{own[TRAINING]:.2f}", marks[TRAINING]),
        ", ".join(f"{NAMES[name]} {aim:.2f}" for name, aim in aims.items()) or "none",
        " / ".join(f"{ways['compiled'][name]:.2f}" for name in own),
        *(figure(ways[way][TRAINING], f"{ways[way][TRAINING]:.2f}") for way in ("unfolding", "convolution")),
        Cell(losses, mark="bad"),
    ]


def _said(passes: list[str]) -> str:
    return ", ".join(NAMES[name] for name in passes)


def _with_bounds(ours: Mapping[str, Any]) -> str:
    """A pass of ours with, of each kernel, the part of the device that is busiest and what that takes alone."""
    ratio, kernels = f"{ours['ratio']:.2f}", ours["kernels"]
    if len(kernels) == 1 and ratio == f"{kernels[0]['floor_ratio']:.2f}":
        return f"{ratio} ({kernels[0]['bound']})"
    bounds = " + ".join(f"{kernel['bound']} {kernel['floor_ratio']:.2f}" for kernel in kernels)
    return f"{ratio} ({bounds})"


def _legend(content: Mapping[str, Any], link: str) -> str:
    share = ", ".join(f"{value:.2f} of that rate on {arch}" for arch, value in _shares(content))
    return prose(
        "All figures are times of what the tensor cores take for the 3x3 convolution's same pass; *training* is "
        "the sum of three passes over three of the convolution, less copies that both gradients read. *Simulated*: "
        "the machine code played in time. *At least*: no latency counts, and only what the code allows overlaps. In "
        "brackets, for each kernel: the part "
        "of the device that is busiest, and what that part takes alone. Bold: an aim that is missed, and what "
        "another way would do faster. *torch.compile* is the plain formula compiled as well as it could be: all "
        "differences written once in the layer's dtype, and read by a library's product. In training they are kept "
        "for the weight's gradient, which takes eight times the input's memory; that gradient by itself makes them "
        "anew. *Unfolding* is counted operator by operator. The *convolution* itself may wait for memory, and it "
        "converts contiguous half types. Library products and convolutions are taken to reach the "
        f"tensor cores' rate, {share} ([figures and assumptions]({link}/{FILE}), "
        f"`python -m sdn_triton.bench.yardstick`, triton {content['environment']['triton']}). "
        "**Nothing of this was measured.**"
    )


def _shares(content: Mapping[str, Any]) -> list[tuple[str, float]]:
    return list(content["assumptions"]["product_share"].items())


def _counts(cells: list[Mapping[str, Any]]) -> str:
    lines = []
    for name, said in (("forward", "forward"), (TRAINING, "training step")):
        having = [cell for cell in cells if name in aims_of(cell)]
        kept = sum(name not in missed(cell) for cell in having)
        lines.append(f"- The aim of the {said} is kept by {kept} of {len(having)} layers.")
    for way, title in WAYS.items():
        counts = {name: sum(name in ahead(cell).get(way, ()) for cell in cells) for name in NAMES}
        said = ", ".join(f"{NAMES[name]} {count}" for name, count in counts.items())
        lines.append(f"- Of {len(cells)} layers {title} would be ahead in: {said}.")
    return "\n".join(map(prose, lines))
