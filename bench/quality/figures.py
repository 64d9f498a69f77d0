"""The pictures of an experiment, from its results and the maps beside them; needs matplotlib (the extra ``bench``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdn_triton.extras import how_to_install

from ..reports.images import MissingExtraError
from .network import BASE, SWEEPS, VARIANTS
from .scenes import CLASSES
from .summary import by_seed, load, paired_difference, present

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#F0E442")
"""Of the classes; they can be told apart by readers with any kind of colour vision."""

WRONG = "#000000"
INK = "#333333"
SHOWN = {"miou": "mIoU", "trimap_1": "trimap mIoU, 1 pixel", "boundary_iou_2": "boundary IoU, 2 pixels"}


def pyplot() -> Any:
    """matplotlib's, drawing to files."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError(f"pictures need the package matplotlib: {how_to_install('bench')}") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "sdn", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "figure.dpi": 150})
    return plt


def save(figure: Any, path: Path) -> list[Path]:
    """As PNG and SVG, without the time in them."""
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    figure.savefig(files[0], bbox_inches="tight")
    figure.savefig(files[1], bbox_inches="tight", metadata={"Date": None})
    pyplot().close(figure)
    return files


def draw(results_path: Path) -> list[Path]:
    """Draw all pictures that the results have the material for, into the folder of the results."""
    results = load(results_path)
    maps = dict(np.load(results_path.with_suffix(".npz")))
    folder, stem = results_path.parent, results_path.stem
    files = save(predictions(results, maps), folder / f"{stem}-predictions")
    files += save(responses(results, maps), folder / f"{stem}-responses")
    files += save(differences(results), folder / f"{stem}-differences")
    if present(results, SWEEPS):
        files += save(sweeps(results), folder / f"{stem}-sweeps")
    return files


def _show(axes: Any, image: np.ndarray, title: str = "", **options: Any) -> None:
    axes.imshow(image.astype(np.float32), interpolation="nearest", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8, color=INK)


def coloured(labels: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """Labels ``[H, W]`` as colours ``[H, W, 3]``, with pixels that differ from the truth in black."""
    palette = np.array([_rgb(colour) for colour in COLOURS[:CLASSES]])
    shown: np.ndarray = palette[labels]
    if truth is not None:
        shown[labels != truth] = _rgb(WRONG)
    return shown


def _rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def predictions(results: dict[str, Any], maps: dict[str, np.ndarray]) -> Any:
    """Image, truth and the predictions of every variant, wrong pixels in black."""
    variants = [v for v in present(results, BASE) if f"{v.name}/prediction" in maps]
    images, truth = maps["image"], maps["truth"]
    figure, axes = pyplot().subplots(len(images), 2 + len(variants), squeeze=False, layout="constrained")
    figure.set_size_inches(1.35 * (2 + len(variants)), 1.45 * len(images) + 0.3)
    for row, (image, labels) in enumerate(zip(images, truth)):
        top = row == 0
        _show(axes[row, 0], image, "image" if top else "", cmap="gray")
        _show(axes[row, 1], coloured(labels), "truth" if top else "")
        for column, variant in enumerate(variants, start=2):
            shown = coloured(maps[f"{variant.name}/prediction"][row], labels)
            _show(
                axes[row, column], shown, variant.title.replace(", ", ",\n").replace(" block", "\nblock") if top else ""
            )
    return figure


def responses(results: dict[str, Any], maps: dict[str, np.ndarray]) -> Any:
    """Image, true borders, and what answers to edges: gradients, vanilla and difference convolutions."""
    chosen = [
        ("gradient of the image", "sdn", "image_gradient"),
        ("gradient of the features", "sdn", "feature_gradient"),
        *((f"3x3 layer:\n{VARIANTS[name].title}", name, "response") for name in ("conv", "cdc", "sdn")),
    ]
    chosen = [(title, name, key) for title, name, key in chosen if f"{name}/{key}" in maps]
    images, truth = maps["image"], maps["truth"]
    figure, axes = pyplot().subplots(len(images), 2 + len(chosen), squeeze=False, layout="constrained")
    figure.set_size_inches(1.35 * (2 + len(chosen)), 1.45 * len(images) + 0.5)
    for row, (image, labels) in enumerate(zip(images, truth)):
        top = row == 0
        _show(axes[row, 0], image, "image" if top else "", cmap="gray")
        _show(axes[row, 1], coloured(labels), "truth" if top else "")
        for column, (title, name, key) in enumerate(chosen, start=2):
            share = np.mean(list(by_seed(results, name, key, "separation").values()))
            inside = maps[f"{name}/{key}"][row][1:-1, 1:-1]  # zero padding answers along the frame
            _show(axes[row, column], inside, f"{title}\n{100 * share:.0f} %" if top else "", cmap="magma", vmin=0)
    return figure


def _points(axes: Any, titles: Sequence[str], values: Sequence[Any]) -> None:
    """Differences with their intervals, one below the other, in percentage points."""
    for place, difference in enumerate(values):
        half = 0.0 if difference.half_width is None else 100 * difference.half_width
        axes.errorbar(100 * difference.mean, place, xerr=half, fmt="o", color=COLOURS[0], capsize=3, markersize=4)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def differences(results: dict[str, Any]) -> Any:
    """SDN less each other variant, paired by seed."""
    variants = [variant for variant in present(results, BASE) if variant.name != "sdn"]
    figure, axes = pyplot().subplots(1, len(SHOWN), sharey=True, squeeze=False, layout="constrained")
    figure.set_size_inches(9, 0.4 * len(variants) + 1.1)
    for place, (metric, title) in zip(axes[0], SHOWN.items()):
        own = by_seed(results, "sdn", metric)
        _points(
            place,
            [f"SDN - {variant.title}" for variant in variants],
            [paired_difference(own, by_seed(results, variant.name, metric)) for variant in variants],
        )
        place.set_title(title, fontsize=9)
    figure.supxlabel("percentage points, mean over paired seeds with 95 % interval", fontsize=9)
    return figure


def sweeps(results: dict[str, Any]) -> Any:
    """Each variant of SDN less SDN with the defaults, paired by seed."""
    variants = present(results, SWEEPS)
    figure, axes = pyplot().subplots(1, len(SHOWN), sharey=True, squeeze=False, layout="constrained")
    figure.set_size_inches(9, 0.4 * len(variants) + 1.1)
    for place, (metric, title) in zip(axes[0], SHOWN.items()):
        reference = by_seed(results, "sdn", metric)
        _points(
            place,
            [variant.title for variant in variants],
            [paired_difference(by_seed(results, variant.name, metric), reference) for variant in variants],
        )
        place.set_title(title, fontsize=9)
    figure.supxlabel("percentage points against SDN with the defaults, paired seeds, 95 % interval", fontsize=9)
    return figure
