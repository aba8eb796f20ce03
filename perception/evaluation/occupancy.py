"""How well the space around the vehicle is known: voxels by class under three masks, and rays.

A class of which the truth has no voxel under a mask has no intersection over union and does not enter the mean, as in
the evaluation of Occ3D; what is falsely predicted to be of it is still missing elsewhere. Of rays, as in that of
RayIoU, a class has none where neither truth nor prediction has a ray of it.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
import torch

from perception.evaluation.ray_iou import THRESHOLDS_M, RayScorer
from perception.formats.occupancy import FREE, OCCUPANCY_CLASSES, OCCUPANCY_GRID, OCCUPANCY_SHAPE, Occupancy

MASKS = ("camera", "lidar", "none")
"""Which voxels count: those in view of the cameras (the official score), those that the LiDAR observed, or all."""

_MASK_NAMES = ("mask_camera", "mask_lidar", "no_mask")
_RAY_NAMES = tuple(f"ray_iou_{threshold:g}m" for threshold in THRESHOLDS_M)

FIGURES = (
    *(f"miou_{name}" for name in _MASK_NAMES),
    *(f"occupied_iou_{name}" for name in _MASK_NAMES),
    "ray_iou",
    *_RAY_NAMES,
)
"""Names of the scores: see `OccupancyCounts.figures`."""

CLASS_FIGURES = (*(f"iou_{name}" for name in _MASK_NAMES), *_RAY_NAMES)
"""Names of the scores of a class: see `OccupancyCounts.by_class`."""

_CLASSES = len(OCCUPANCY_CLASSES)


@dataclass(frozen=True, eq=False)
class OccupancyCounts:
    """What was counted over some samples; counts of several are added.

    Args:
        samples: how many.
        voxels: (3, 18, 18) by mask as in `MASKS`, class of the truth and class of the prediction.
        rays_truth: (17,) rays by class of the truth.
        rays_predicted: (17,) the same rays by class of the prediction.
        rays_hit: (3, 17) those of one class in both, at depths nearer than `THRESHOLDS_M`.
    """

    samples: float
    voxels: np.ndarray
    rays_truth: np.ndarray
    rays_predicted: np.ndarray
    rays_hit: np.ndarray

    @staticmethod
    def none() -> OccupancyCounts:
        """The counts over no sample.

        Returns:
            Zeros.
        """
        shapes = ((len(MASKS), _CLASSES, _CLASSES), (FREE,), (FREE,), (len(THRESHOLDS_M), FREE))
        return OccupancyCounts(0, *(np.zeros(shape) for shape in shapes))

    def __add__(self, other: OccupancyCounts) -> OccupancyCounts:
        return OccupancyCounts(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def row(self) -> np.ndarray:
        """All numbers one after another.

        Returns:
            (F,) float64.
        """
        return np.concatenate([np.ravel(value) for value in astuple(self)]).astype(np.float64)

    @staticmethod
    def from_row(row: np.ndarray) -> OccupancyCounts:
        """The counts of which `row` gives the numbers.

        Args:
            row: (F,).

        Returns:
            The counts.
        """
        shapes = [np.shape(value) for value in astuple(OccupancyCounts.none())]
        parts = np.split(row, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        samples, *arrays = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return OccupancyCounts(float(samples), *arrays)

    def figures(self) -> dict[str, float]:
        """The scores that the counts give.

        Returns:
            "miou_..." under each mask: mean over the 17 classes but free; "occupied_iou_..." of occupied voxels,
            whatever their class; "ray_iou_..." at each threshold: mean over the classes, and "ray_iou" over both. NaN
            where there is nothing to divide by.
        """
        wrong = self.voxels[:, FREE, :FREE].sum(1) + self.voxels[:, :FREE, FREE].sum(1)  # (3,)
        occupied = self.voxels[:, :FREE, :FREE].sum((1, 2))
        rays = self._ray_iou()
        values = (
            *map(_mean, self._voxel_iou()),
            *_ratio(occupied, occupied + wrong).tolist(),
            _mean(rays.ravel()),
            *map(_mean, rays),
        )
        return dict(zip(FIGURES, values, strict=True))

    def by_class(self) -> dict[str, dict[str, float]]:
        """The scores of each class.

        Returns:
            Class but free -> name in `CLASS_FIGURES` -> intersection over union; NaN for a class that does not count.
        """
        table = np.concatenate((self._voxel_iou(), self._ray_iou()))  # (6, 17)
        return {
            name: dict(zip(CLASS_FIGURES, column.tolist(), strict=True))
            for name, column in zip(OCCUPANCY_CLASSES[:FREE], table.T, strict=True)
        }

    def _voxel_iou(self) -> np.ndarray:
        """(3, 17) by mask and class."""
        hits = self.voxels.diagonal(axis1=1, axis2=2)[:, :FREE]
        truth, predicted = self.voxels.sum(2)[:, :FREE], self.voxels.sum(1)[:, :FREE]
        return np.where(truth > 0, _ratio(hits, truth + predicted - hits), np.nan)

    def _ray_iou(self) -> np.ndarray:
        """(3, 17) by threshold and class."""
        return _ratio(self.rays_hit, self.rays_truth + self.rays_predicted - self.rays_hit)


class OccupancyScorer:
    """Counts samples."""

    def __init__(self) -> None:
        self._rays = RayScorer(OCCUPANCY_GRID, _CLASSES)

    def count(self, semantics: np.ndarray, truth: Occupancy, origins: np.ndarray) -> OccupancyCounts:
        """Compares the prediction for one sample with its truth.

        Args:
            semantics: (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`.
            truth: of the sample.
            origins: (N, 3) of `ray_origins`.

        Returns:
            The counts.

        Raises:
            ValueError: there is not one class per voxel, or one is none.
        """
        if semantics.shape != OCCUPANCY_SHAPE or semantics.dtype != np.uint8 or semantics.max() > FREE:
            raise ValueError(
                f"OccupancyScorer.count: semantics must be {OCCUPANCY_SHAPE} uint8 in 0..{FREE}, "
                f"got {semantics.shape} {semantics.dtype} up to {semantics.max()}"
            )
        pairs = truth.semantics.astype(np.int64) * _CLASSES + semantics
        tables = [np.bincount(pairs[counted_voxels(truth, mask)], minlength=_CLASSES**2) for mask in MASKS]
        real, said = (torch.from_numpy(labels.T.copy()) for labels in (truth.semantics, semantics))  # (Z, Y, X)
        voxels = np.reshape(tables, (len(MASKS), _CLASSES, _CLASSES))
        return OccupancyCounts(1, voxels, *self._rays.count(real, said, origins))


def counted_voxels(truth: Occupancy, mask: str) -> np.ndarray:
    """Which voxels of a truth count.

    Args:
        truth: of a sample.
        mask: one of `MASKS`.

    Returns:
        (200, 200, 16) bool.

    Raises:
        ValueError: the mask is unknown.
    """
    if mask not in MASKS:
        raise ValueError(f"counted_voxels: mask must be one of {', '.join(MASKS)}, got {mask!r}")
    return {"camera": truth.mask_camera, "lidar": truth.mask_lidar, "none": np.ones(OCCUPANCY_SHAPE, bool)}[mask]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else math.nan
