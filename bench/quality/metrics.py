"""How well labels are predicted, over whole images and near the borders.

All figures are shares of pixels counted over a whole set of images and averaged over classes. Distance is Chebyshev's:
the larger of the differences in rows and columns. The image's frame is a border for boundary IoU only, as in its
authors' code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _maximum(maps: Tensor, reach: int) -> Tensor:
    """The largest value within ``reach`` of every pixel and inside the image, ``[N, C, H, W]``."""
    return F.max_pool2d(maps, 2 * reach + 1, stride=1, padding=reach)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels, classes).permute(0, 3, 1, 2).float()


def border_band(labels: Tensor, width: int) -> Tensor:
    """Pixels with another label within ``width`` pixels, ``[N, H, W]`` of bool: the trimap of that width."""
    values = labels.unsqueeze(1).float()
    return (_maximum(values, width) != -_maximum(-values, width)).squeeze(1)


def intersections_and_unions(prediction: Tensor, truth: Tensor, classes: int, band: Tensor | None = None) -> Tensor:
    """Pixels of each class in both and in either, ``[2, classes]`` of int64; inside ``band`` only, if there is one."""
    for name, labels in (("prediction", prediction), ("truth", truth)):
        if labels.numel() and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"{name} must be labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    pairs = truth.long() * classes + prediction.long()
    counted = torch.bincount(pairs.flatten() if band is None else pairs[band], minlength=classes**2)
    confusion = counted.view(classes, classes)
    both = confusion.diagonal()
    return torch.stack((both, confusion.sum(0) + confusion.sum(1) - both))


def mean_iou(counts: Tensor) -> float:
    """Intersection over union, averaged over the classes that occur in truth or prediction."""
    both, either = counts.double()
    return float((both / either)[either > 0].mean())


def boundary_pixels(labels: Tensor, classes: int, distance: int) -> Tensor:
    """Pixels of each class with one outside it, or the frame, within ``distance``: ``[N, K, H, W]`` of bool.

    That is the mask less its erosion by a square.
    """
    framed = F.pad(labels, (distance,) * 4, value=-1)
    near = border_band(framed, distance)[:, distance:-distance, distance:-distance]
    return _one_hot(labels, classes).bool() & near.unsqueeze(1)


def boundary_counts(prediction: Tensor, truth: Tensor, classes: int, distance: int) -> Tensor:
    """Intersections and unions of the boundary pixels of each class, ``[2, classes]``.

    Source: Cheng, Girshick, Dollar, Berg, Kirillov: *Boundary IoU*, CVPR 2021.
    """
    predicted, true = (boundary_pixels(labels, classes, distance) for labels in (prediction, truth))
    return torch.stack([mask.sum(dim=(0, 2, 3)) for mask in (predicted & true, predicted | true)])


def contour_pixels(labels: Tensor, classes: int) -> Tensor:
    """Pixels of each class with a pixel of another class beside, above or below them, ``[N, K, H, W]`` of bool."""
    different = torch.zeros_like(labels, dtype=torch.bool)
    rows, columns = labels[:, 1:] != labels[:, :-1], labels[:, :, 1:] != labels[:, :, :-1]
    different[:, 1:] |= rows
    different[:, :-1] |= rows
    different[:, :, 1:] |= columns
    different[:, :, :-1] |= columns
    return _one_hot(labels, classes).bool() & different.unsqueeze(1)


def contour_counts(prediction: Tensor, truth: Tensor, classes: int, tolerance: int) -> Tensor:
    """Contour pixels of each class, ``[4, K]``: predicted near true ones, predicted, true near predicted ones, true."""
    predicted, true = (contour_pixels(labels, classes).float() for labels in (prediction, truth))
    right, recalled = predicted * _maximum(true, tolerance), true * _maximum(predicted, tolerance)
    return torch.stack([mask.sum(dim=(0, 2, 3)).long() for mask in (right, predicted, recalled, true)])


def f_score(counts: Tensor) -> float:
    """``2 P R / (P + R)`` of contours, averaged over the classes that have one in truth or prediction.

    Source: Csurka, Larlus, Perronnin: *What is a good evaluation measure for semantic segmentation?*, BMVC 2013; here
    over a whole set rather than image by image.
    """
    right, predicted, recalled, true = counts.double()
    precision, recall = right / predicted.clamp(min=1), recalled / true.clamp(min=1)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return float(score[predicted + true > 0].mean())


def separation(response: Tensor, positive: Tensor) -> float:
    """How well a response tells ``positive`` pixels: the chance that one of them responds more than another pixel.

    The area under the ROC curve; 0.5 says nothing, ties count half.
    """
    values, order = response.flatten().double().sort()
    _, first, counts = values.unique_consecutive(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts.double() - 1) / 2)[first]
    chosen = positive.flatten()[order]
    positives, negatives = int(chosen.sum()), int((~chosen).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(f"separation needs pixels of both kinds, got {positives} positive and {negatives} others")
    return float((ranks[chosen].sum() - positives * (positives + 1) / 2) / (positives * negatives))


TRIMAPS = (1, 2, 3, 5)
DISTANCES = (1, 2, 3)
TOLERANCES = (1, 2)


def evaluate(prediction: Tensor, truth: Tensor, classes: int) -> dict[str, float]:
    """All figures of predicted labels ``[N, H, W]``."""
    figures = {"miou": mean_iou(intersections_and_unions(prediction, truth, classes))}
    for width in TRIMAPS:
        band = border_band(truth, width)
        figures[f"trimap_{width}"] = mean_iou(intersections_and_unions(prediction, truth, classes, band))
    inside = ~border_band(truth, max(TRIMAPS))
    figures["interior"] = mean_iou(intersections_and_unions(prediction, truth, classes, inside))
    for distance in DISTANCES:
        figures[f"boundary_iou_{distance}"] = mean_iou(boundary_counts(prediction, truth, classes, distance))
    for tolerance in TOLERANCES:
        figures[f"boundary_f_{tolerance}"] = f_score(contour_counts(prediction, truth, classes, tolerance))
    return figures
