"""How well the ground near the vehicle is known: cells, and the nearest obstacle in every direction.

Only cells of which the truth is known count. Directions are equal angles about the middle of the vehicle's outline;
distances are from the outline, as a driver who parks reads them, to the centres of cells. In a direction in which the
truth has an obstacle, what is predicted behind its surface counts too, known or not: no sensor sees in there, and a
prediction that lies too deep is a wrong distance, not a missed obstacle.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

from perception.formats.near_field import NEAR_FIELD_GRID, NearFieldCell
from perception.geometry.grid import Grid

FIGURES = ("iou", "precision", "recall", "distance_error_m", "too_far_m", "missed_bins", "false_bins")
"""Names of the scores: see `NearFieldCounts.figures`."""


@dataclass(frozen=True, kw_only=True)
class NearFieldRule:
    """What counts as an obstacle, and in which directions it is looked for.

    Args:
        threshold: a cell is predicted to be occupied from this probability on; one without prediction is not.
        num_bins: directions; the first begins straight ahead, they follow counter-clockwise.
        x_range_m: rear and front of the vehicle's outline in the ego frame; default that of nuScenes' car.
        half_width_m: half its width.

    Raises:
        ValueError: the threshold is not in (0, 1], there is no direction, or the outline is empty.
    """

    threshold: float = 0.5
    num_bins: int = 72
    x_range_m: tuple[float, float] = (-0.657, 3.427)
    half_width_m: float = 0.865

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.num_bins < 1:
            raise ValueError(
                f"NearFieldRule: threshold must be in (0, 1] and num_bins at least 1, "
                f"got {self.threshold} and {self.num_bins}"
            )
        if not self.x_range_m[0] < self.x_range_m[1] or not self.half_width_m > 0:
            raise ValueError(
                f"NearFieldRule: x_range_m must rise and half_width_m be positive, "
                f"got {self.x_range_m} and {self.half_width_m}"
            )


@dataclass(frozen=True)
class NearFieldCounts:
    """What was counted over some samples; counts of several are added.

    Args:
        samples: how many.
        hit_cells: cells that are occupied, in truth and prediction.
        false_cells: cells that are predicted to be occupied and are free.
        missed_cells: cells that are occupied and not predicted to be.
        occupied_bins: directions in which the truth has an obstacle.
        clear_bins: directions in which some of the ground is known and the truth has no obstacle.
        missed_bins: of the occupied ones, those in which nothing is predicted.
        false_bins: of the clear ones, those in which something is predicted.
        error_m: sum over occupied bins that are not missed of the distances by which the nearest obstacle is wrong.
        far_error_m: the part of it where the obstacle is nearer than predicted.
    """

    samples: float = 0
    hit_cells: float = 0
    false_cells: float = 0
    missed_cells: float = 0
    occupied_bins: float = 0
    clear_bins: float = 0
    missed_bins: float = 0
    false_bins: float = 0
    error_m: float = 0
    far_error_m: float = 0

    def __add__(self, other: NearFieldCounts) -> NearFieldCounts:
        return NearFieldCounts(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> dict[str, float]:
        """The scores that the counts give.

        Returns:
            "iou", "precision" and "recall" of occupied cells; "distance_error_m", mean of the nearest obstacles that
            were found, and "too_far_m", the part of it where the obstacle is nearer than predicted; "missed_bins" and
            "false_bins" as shares of the occupied and of the clear ones. NaN where there is nothing to divide by.
        """
        predicted, occupied = self.hit_cells + self.false_cells, self.hit_cells + self.missed_cells
        found_bins = self.occupied_bins - self.missed_bins
        values = (
            _share(self.hit_cells, occupied + self.false_cells),
            _share(self.hit_cells, predicted),
            _share(self.hit_cells, occupied),
            _share(self.error_m, found_bins),
            _share(self.far_error_m, found_bins),
            _share(self.missed_bins, self.occupied_bins),
            _share(self.false_bins, self.clear_bins),
        )
        return dict(zip(FIGURES, values, strict=True))


class NearFieldScorer:
    """Counts samples by one rule.

    Args:
        rule: what counts.
        grid: where the cells of truth and prediction lie in the ego frame.
    """

    def __init__(self, rule: NearFieldRule | None = None, grid: Grid = NEAR_FIELD_GRID) -> None:
        self.rule = rule or NearFieldRule()
        self.shape = (grid.num_y, grid.num_x)
        centers = grid.centers_xy().numpy()  # (Y, X, 2)
        (rear, front), half = self.rule.x_range_m, self.rule.half_width_m
        ahead, left = centers[..., 0] - (rear + front) / 2, centers[..., 1]
        turn = np.arctan2(left, ahead) / (2 * math.pi) % 1.0
        self.bins = np.minimum((turn * self.rule.num_bins).astype(np.int64), self.rule.num_bins - 1)  # (Y, X)
        beside = np.maximum(np.abs(ahead) - (front - rear) / 2, 0), np.maximum(np.abs(left) - half, 0)
        self.distances_m = np.hypot(*beside)  # (Y, X)

    def nearest_m(self, occupied: np.ndarray) -> np.ndarray:
        """The distance of the nearest obstacle in every direction.

        Args:
            occupied: (Y, X) bool.

        Returns:
            (num_bins,) float64 from the vehicle's outline, infinite where there is none.
        """
        nearest = np.full(self.rule.num_bins, np.inf)
        np.minimum.at(nearest, self.bins[occupied], self.distances_m[occupied])
        return nearest

    def count(self, occupied: np.ndarray, cells: np.ndarray) -> NearFieldCounts:
        """Compares the prediction for one sample with its truth.

        Args:
            occupied: (Y, X) probability, NaN where nothing was predicted.
            cells: (Y, X) `NearFieldCell`.

        Returns:
            The counts.

        Raises:
            ValueError: an array has not one value per cell.
        """
        if occupied.shape != self.shape or cells.shape != self.shape:
            raise ValueError(
                f"NearFieldScorer.count: occupied and cells must be {self.shape}, "
                f"got {occupied.shape} and {cells.shape}"
            )
        predicted = occupied >= self.rule.threshold
        known, real = cells != NearFieldCell.UNKNOWN, cells == NearFieldCell.OCCUPIED
        true_m = self.nearest_m(real)
        behind = self.distances_m > true_m[self.bins]  # (Y, X), nowhere in a clear direction
        found_m = self.nearest_m(predicted & (known | behind))
        seen = np.bincount(self.bins[known], minlength=self.rule.num_bins) > 0
        has, sees = np.isfinite(true_m), np.isfinite(found_m)  # (num_bins,)
        errors_m = found_m[has & sees] - true_m[has & sees]
        return NearFieldCounts(
            samples=1,
            hit_cells=int((predicted & real).sum()),
            false_cells=int((predicted & known & ~real).sum()),
            missed_cells=int((~predicted & real).sum()),
            occupied_bins=int(has.sum()),
            clear_bins=int((seen & ~has).sum()),
            missed_bins=int((has & ~sees).sum()),
            false_bins=int((sees & ~has).sum()),
            error_m=float(np.abs(errors_m).sum()),
            far_error_m=float(errors_m.clip(min=0).sum()),
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
