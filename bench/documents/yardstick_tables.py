"""The table of ``sdn_triton.bench.yardstick`` in the documents, with the aims, and where another way is ahead.

Imports neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..reports.markdown import table
from ..reports.page_tables import Cell, Sheet, figure
from .tables import load, prose

FILE = "machine-code/yardstick.json"
PASSES = ("forward", "weight_gradient", "data_gradient")
TRAINING = "training"
NAMES = {"forward": "forward", "weight_gradient": "weight", "data_gradient": "data", TRAINING: "training"}
WAYS = {"compiled": "torch.compile", "unfolding": "unfolding", "eager": "the eager path"}
"""The other ways to the same result; the convolution computes something else."""
METHODS = {("simulated",): "simulated", ("bound",): "at least", ("bound", "simulated"): "partly simulated"}
HALF_FORWARD = {"sm_80": 1.6, "sm_89": 1.6, "sm_90": 1.8}
HALF_TRAINING = 2.0
OF_128_CHANNELS = 1.25
TF32 = {"forward": 2.0, TRAINING: 2.5}
NARROW_TRAINING = 3.0
"""The aims: in half types for 256 channels, of 128 channels a quarter more, in TF32 for both, and for 64 channels."""


def aims_of(cell: Mapping[str, Any]) -> dict[str, float]:
    """What a forward and a training step of a layer should take at most; nothing is set for sm_100."""
    arch, channels = cell["arch"], cell["channels"]
    if arch not in HALF_FORWARD:
        return {}
    if channels < 128:
        return {TRAINING: NARROW_TRAINING}
    if cell["dtype"] == "tf32":
        return TF32
    more = OF_128_CHANNELS if channels < 256 else 1.0
    return {"forward": more * HALF_FORWARD[arch], TRAINING: more * HALF_TRAINING}


def our_ratios(cell: Mapping[str, Any]) -> dict[str, float]:
    """What each pass takes here, and a training step over three passes of the convolution."""
    passes = {name: cell["ours"][name]["ratio"] for name in PASSES}
    return {**passes, TRAINING: sum(passes.values()) / len(PASSES)}


def ahead(cell: Mapping[str, Any]) -> dict[str, list[str]]:
    """By other ways that would be faster somewhere, the passes in which they would."""
    own = our_ratios(cell)
    found = {way: [name for name in own if cell["others"][way][name] < own[name]] for way in WAYS}
    return {way: names for way, names in found.items() if names}


def missed(cell: Mapping[str, Any]) -> list[str]:
    """The aims that a layer misses."""
    own = our_ratios(cell)
    return [name for name, aim in aims_of(cell).items() if own[name] > aim]


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
        *(f"{NAMES[name]}" for name in PASSES),
        TRAINING,
        "aims",
        *_OTHERS,
        "ahead of us",
    )
    sheet = Sheet("", columns)
    for cell in cells:
        sheet.add(*_row(cell))
    return "\n\n".join((_legend(content, link), table(sheet), _counts(cells)))


_OTHERS = ("torch.compile: forward, weight, data, training", "unfolding: training", "convolution: training")


def _row(cell: Mapping[str, Any]) -> list[Cell | str]:
    own, aims, others, too_slow = our_ratios(cell), aims_of(cell), cell["others"], missed(cell)
    methods = sorted({kernel["ratio_is"] for name in PASSES for kernel in cell["ours"][name]["kernels"]})
    marks = {name: "bad" if name in too_slow else "" for name in own}
    losses = "; ".join(f"{WAYS[way]}: {_said(names)}" for way, names in ahead(cell).items())
    return [
        f"{cell['arch']} {cell['dtype']} {cell['memory_format']} {cell['channels']}",
        METHODS[tuple(methods)],
        *(Cell(_with_bounds(cell["ours"][name]), mark=marks[name]) for name in PASSES),
        figure(own[TRAINING], f"{own[TRAINING]:.2f}", marks[TRAINING]),
        ", ".join(f"{NAMES[name]} {aim:.2f}" for name, aim in aims.items()) or "none",
        " / ".join(f"{others['compiled'][name]:.2f}" for name in own),
        *(figure(others[way][TRAINING], f"{others[way][TRAINING]:.2f}") for way in ("unfolding", "convolution")),
        Cell(losses, mark="bad"),
    ]


def _said(passes: list[str]) -> str:
    return ", ".join(NAMES[name] for name in passes)


def _with_bounds(found: Mapping[str, Any]) -> str:
    """A pass with, of each kernel, the part of the device that is busiest and what that takes alone."""
    ratio, kernels = f"{found['ratio']:.2f}", found["kernels"]
    if len(kernels) == 1 and ratio == f"{kernels[0]['floor_ratio']:.2f}":
        return f"{ratio} ({kernels[0]['bound']})"
    bounds = " + ".join(f"{kernel['bound']} {kernel['floor_ratio']:.2f}" for kernel in kernels)
    return f"{ratio} ({bounds})"


def _legend(content: Mapping[str, Any], link: str) -> str:
    share = ", ".join(f"{value:.2f} of that rate on {arch}" for arch, value in _shares(content))
    return prose(
        "All figures are times of what the tensor cores take for the 3x3 convolution's same pass; *training* is "
        "the sum of three passes over three of the convolution. *Simulated*: the machine code played in time. *At "
        "least*: no latency counts, and only what the code allows overlaps. In brackets, for each kernel: the part "
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
