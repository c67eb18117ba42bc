"""Intersection over union of layouts with the true ones."""

import numpy as np
from jaxtyping import Float, Int, Integer

from hsd_jax.labels import LabelSet

Confusion = Int[np.ndarray, "k k"]
"""Pixel counts by true class (rows) and predicted class (columns)."""


def confusion(
    true: Integer[np.ndarray, "..."], found: Integer[np.ndarray, "..."], classes: int
) -> Confusion:
    """The confusion matrix of two layouts of the same shape, int64 `[K, K]`."""
    index = true.astype(np.int64).ravel() * classes + found.ravel()
    return np.bincount(index, minlength=classes**2).reshape(classes, classes)


def ious(counts: Confusion) -> Float[np.ndarray, " k"]:
    """The IoU of each class, float64; NaN for classes that the true layouts lack."""
    both = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - both
    present = counts.sum(1) > 0
    return np.where(present, both / np.maximum(union, 1), np.nan)


def named_ious(counts: Confusion, labels: LabelSet) -> dict[str, float]:
    """The IoU by class name, for the classes that the true layouts contain."""
    values = zip(labels.classes, ious(counts), strict=True)
    return {name: float(value) for name, value in values if not np.isnan(value)}


def group_iou(counts: Confusion, group: list[int]) -> float:
    """The IoU of several classes merged into one; 0 if neither layout contains any of them."""
    both = counts[np.ix_(group, group)].sum()
    union = counts[group].sum() + counts[:, group].sum() - both
    return float(both / max(union, 1))
