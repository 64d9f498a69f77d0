"""The segmentation metrics against their definitions, pixel by pixel in plain Python, and on cases known by hand."""

import itertools
import math

import pytest
import torch

from sdn_triton.bench.quality import metrics

CLASSES = 4


def blobs(seed, count=3, height=11, width=14):
    """Labels in lumps, with a class or two that may be absent from an image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(CLASSES - 1, (count, 1, 3, 4), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, size=(height, width)).squeeze(1).long()
    flipped = torch.rand(labels.shape, generator=generator) < 0.1
    return torch.where(flipped, torch.randint(CLASSES - 1, labels.shape, generator=generator), labels)


PAIRS = [(blobs(seed), blobs(seed + 100)) for seed in range(3)] + [(blobs(7), blobs(7))]
pairs = pytest.mark.parametrize(("prediction", "truth"), PAIRS, ids=["a", "b", "c", "equal"])


def pixels(labels):
    """{(image, row, column): label}."""
    N, H, W = labels.shape
    return {place: int(labels[place]) for place in itertools.product(range(N), range(H), range(W))}


def near(place, reach):
    """All places within Chebyshev distance, those outside the image too."""
    n, y, x = place
    steps = range(-reach, reach + 1)
    return [(n, y + dy, x + dx) for dy in steps for dx in steps]


def iou(prediction, truth, chosen):
    """The mean over classes of intersection over union of the chosen pixels."""
    shares = []
    for c in range(CLASSES):
        own, other = ({p for p in chosen if labels[p] == c} for labels in (prediction, truth))
        if own | other:
            shares.append(len(own & other) / len(own | other))
    return sum(shares) / len(shares)


def trimap(truth, width):
    return {p for p in truth if any(truth[q] != truth[p] for q in near(p, width) if q in truth)}


def boundary(labels, c, distance):
    return {p for p in labels if labels[p] == c and any(labels.get(q) != c for q in near(p, distance))}


def boundary_iou(prediction, truth, distance):
    shares = []
    for c in range(CLASSES):
        own, other = boundary(prediction, c, distance), boundary(truth, c, distance)
        if own | other:
            shares.append(len(own & other) / len(own | other))
    return sum(shares) / len(shares)


def contour(labels, c):
    def beside(n, y, x):
        return [(n, y - 1, x), (n, y + 1, x), (n, y, x - 1), (n, y, x + 1)]

    return {p for p in labels if labels[p] == c and any(q in labels and labels[q] != c for q in beside(*p))}


def boundary_f(prediction, truth, tolerance):
    scores = []
    for c in range(CLASSES):
        own, other = contour(prediction, c), contour(truth, c)
        if not own | other:
            continue
        right = [p for p in own if other & set(near(p, tolerance))]
        found = [p for p in other if own & set(near(p, tolerance))]
        precision, recall = (len(a) / len(b) if b else 0.0 for a, b in ((right, own), (found, other)))
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return sum(scores) / len(scores)


@pairs
def test_all_figures_against_their_definitions(prediction, truth):
    figures = metrics.evaluate(prediction, truth, CLASSES)
    own, true = pixels(prediction), pixels(truth)
    expected = {"miou": iou(own, true, true)}
    expected |= {f"trimap_{w}": iou(own, true, trimap(true, w)) for w in metrics.TRIMAPS}
    expected |= {f"boundary_iou_{d}": boundary_iou(own, true, d) for d in metrics.DISTANCES}
    expected |= {f"boundary_f_{t}": boundary_f(own, true, t) for t in metrics.TOLERANCES}
    inside = figures.pop("interior")
    assert figures == pytest.approx(expected, abs=1e-12)
    rest = set(true) - trimap(true, max(metrics.TRIMAPS))
    assert math.isnan(inside) if not rest else inside == pytest.approx(iou(own, true, rest), abs=1e-12)


def square(shift, size=20):
    """A square of class 1 and 10 x 10 pixels, shifted to the right."""
    labels = torch.zeros(1, size, size, dtype=torch.int64)
    labels[:, 5:15, 5 + shift : 15 + shift] = 1
    return labels


def test_a_square_shifted_by_two():
    """By hand: 80 of 120 pixels of the square agree, 280 of 320 of the ground."""
    figures = metrics.evaluate(square(2), square(0), 2)
    assert figures["miou"] == pytest.approx((80 / 120 + 280 / 320) / 2)
    # Its boundary of width 1 has 36 pixels. Both rows of 10 agree in 8; no column of one is one of the other, but
    # columns 5 and 14 of the one cross rows of the other, which is in the rows already.
    counts = metrics.boundary_counts(square(2), square(0), 2, 1)
    assert counts[:, 1].tolist() == [16, 2 * 36 - 16]
    # Within one pixel of the other's contour: 9 pixels of each row of 10, and the two ends of the near column.
    counts = metrics.contour_counts(square(2), square(0), 2, 1)
    assert counts[:, 1].tolist() == [20, 36, 20, 36]
    # Within 2 pixels everything is found.
    assert metrics.evaluate(square(2), square(0), 2)["boundary_f_2"] == 1


def test_nothing_wrong_and_nothing_right():
    truth = blobs(1)
    perfect = metrics.evaluate(truth, truth, CLASSES)
    assert all(value == 1 or math.isnan(value) for value in perfect.values())
    flat = metrics.evaluate(torch.full_like(truth, CLASSES - 1), truth, CLASSES)
    assert flat["miou"] == flat["trimap_1"] == flat["boundary_iou_1"] == flat["boundary_f_1"] == 0


def test_the_frame_is_a_border_for_boundary_iou_only():
    flat = torch.zeros(1, 6, 7, dtype=torch.int64)
    assert metrics.boundary_pixels(flat, 1, 1).sum() == 2 * 6 + 2 * 5
    assert metrics.border_band(flat, 3).sum() == 0
    assert metrics.contour_pixels(flat, 1).sum() == 0


@pytest.mark.parametrize("seed", range(3))
def test_separation_is_the_chance_of_a_larger_response(seed):
    generator = torch.Generator().manual_seed(seed)
    response = torch.randint(6, (2, 5, 7), generator=generator).float()  # with ties
    positive = torch.rand(2, 5, 7, generator=generator) < 0.3
    wins = [(a > b) + (a == b) / 2 for a in response[positive].tolist() for b in response[~positive].tolist()]
    assert metrics.separation(response, positive) == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    assert metrics.separation(positive.float(), positive) == 1
    with pytest.raises(ValueError, match="0 positive"):
        metrics.separation(response, torch.zeros_like(positive))


def test_small_integers_do_not_wrap_and_other_labels_are_refused():
    labels = torch.full((1, 4, 4), 20, dtype=torch.uint8)
    assert metrics.mean_iou(metrics.intersections_and_unions(labels, labels, 21)) == 1
    for wrong in (21, 255):
        with pytest.raises(ValueError, match=f"prediction must be labels from 0 to 20, got {wrong} to {wrong}"):
            metrics.intersections_and_unions(torch.full_like(labels, wrong), labels, 21)
    with pytest.raises(ValueError, match="truth must be labels from 0 to 20, got -1 to -1"):
        metrics.intersections_and_unions(labels, torch.full((1, 4, 4), -1), 21)
