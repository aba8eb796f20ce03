"""How well the map is known: overlap of predicted and true cells by class and threshold, summed over a set.

All counts are whole numbers. (The original evaluation of the protocol sums them in single precision, which is inexact
above 1.7e7 cells.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THRESHOLDS = (0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65)
"""Those of the BEVFusion protocol."""

_EPSILON = 1e-7  # of the protocol: a class that nobody has or finds scores 0


@dataclass(frozen=True)
class MapRule:
    """What counts as found.

    Args:
        class_names: K names of the layers.
        thresholds: T rising probabilities.
        strict: whether a probability must be above a threshold rather than reach it.

    Raises:
        ValueError: there are no classes, or the thresholds do not rise.
    """

    class_names: tuple[str, ...]
    thresholds: tuple[float, ...] = THRESHOLDS
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.class_names or not self.thresholds or list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"MapRule: class_names must not be empty and thresholds must rise, got {self}")

    def count(self, probabilities: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Compares the prediction for one sample with its truth.

        Args:
            probabilities: (K, Y, X) floating; NaN is below every threshold.
            cells: (K, Y, X) bool truth.

        Returns:
            (K, T, 3) int64 hits, false and missed cells by class and threshold.

        Raises:
            ValueError: the shapes differ, or are not of K classes.
        """
        num_classes, num_thresholds = len(self.class_names), len(self.thresholds)
        if probabilities.shape != cells.shape or cells.ndim != 3 or len(cells) != num_classes:
            raise ValueError(
                f"MapRule.count: probabilities and cells must be ({num_classes}, Y, X), "
                f"got {probabilities.shape} and {cells.shape}"
            )
        known = np.where(np.isnan(probabilities), -np.inf, probabilities)
        passed = np.searchsorted(self.thresholds, known, side="left" if self.strict else "right")  # (K, Y, X) 0..T
        kinds = (np.arange(num_classes)[:, None, None] * 2 + cells) * (num_thresholds + 1) + passed
        histogram = np.bincount(kinds.ravel(), minlength=num_classes * 2 * (num_thresholds + 1))
        table = histogram.reshape(num_classes, 2, num_thresholds + 1)  # class, in the truth, thresholds passed
        found = table[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]  # (K, 2, T) cells that pass each threshold
        missed = table[:, 1].sum(-1, keepdims=True) - found[:, 1]  # (K, T)
        return np.stack([found[:, 1], found[:, 0], missed], axis=-1).astype(np.int64)


def overlaps(counts: np.ndarray) -> np.ndarray:
    """Intersection over union.

    Args:
        counts: (..., 3) hits, false and missed cells.

    Returns:
        (...) float64; 0 where there is nothing.
    """
    counts = counts.astype(np.float64)
    return counts[..., 0] / (counts.sum(-1) + _EPSILON)


def best_overlaps(counts: np.ndarray) -> np.ndarray:
    """The score of a class: its largest overlap over the thresholds.

    Args:
        counts: (..., T, 3) hits, false and missed cells.

    Returns:
        (...) float64.
    """
    return overlaps(counts).max(-1)
