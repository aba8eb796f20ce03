"""The true maps that predictions are scored against, and predictions looked up where those say something.

Official masks do not mean what is around their cells' centres (see `perception.data.map_truth.mask_lag_cells`).
Predictions, which do, are looked up accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.index import REFERENCE_CHANNEL, Index
from perception.data.map_truth import PROTOCOL_GRID, VEHICLE_CLASS, MapSource, mask_lag_cells, shifted_grid
from perception.evaluation.map import MapRule
from perception.formats.map_predictions import PredictedMap
from perception.formats.nuscenes_map_raster import MAP_CLASSES
from perception.geometry.grid import Grid

PROTOCOLS = {
    "lidar": MapRule(MAP_CLASSES),
    "ego": MapRule(MAP_CLASSES),
    "vehicle": MapRule((VEHICLE_CLASS,), thresholds=(0.5,), strict=True),
}
"""What counts, by protocol: that of BEVFusion in the LiDAR's frame, the same in the ego frame, and Lift-Splat's."""


@dataclass(frozen=True, eq=False)
class ScoredTruth:
    """The truth of one sample by one protocol.

    Attributes:
        cells: (K, Y, X) bool in the protocol's frame.
        points_m: K arrays (Y, X, 2) float64, x y in the ego frame that each cell stands for; classes share them.
    """

    cells: np.ndarray
    points_m: tuple[np.ndarray, ...]


class MapTruths:
    """Draws the truth of samples from vector maps and annotations.

    Args:
        dataroot: folder with `maps/expansion/<location>.json`.
        index: of the set.
    """

    def __init__(self, dataroot: str | Path, index: Index) -> None:
        self._source = MapSource(index, dataroot)

    def of(self, position: int, protocol: str, class_names: Sequence[str]) -> ScoredTruth:
        """The truth of a sample.

        Args:
            position: of the sample in the index.
            protocol: one of `PROTOCOLS`.
            class_names: K of its classes.

        Returns:
            The truth.

        Raises:
            FileNotFoundError: the map of the sample's place is missing, or for vehicles the set's annotations.
            ValueError: the map is damaged; the sample has no LiDAR where it takes it.
        """
        if protocol == "ego":
            points = PROTOCOL_GRID.centers_xy().numpy()  # (Y, X, 2)
            return ScoredTruth(
                self._source.around_ego(position, class_names, PROTOCOL_GRID), (points,) * len(class_names)
            )
        if protocol == "vehicle":
            index = self._source.index
            if not index.has_annotations:
                where = f"{self._source.dataroot} {index.version}"
                raise FileNotFoundError(f"MapTruths: vehicles need annotations, {where} has none")
            return ScoredTruth(self._source.in_ego(position, class_names), _meant(class_names, np.eye(3)))
        cells = self._source.in_lidar(position, class_names).transpose(0, 2, 1)  # (K, X, Y) -> (K, Y, X)
        record = self._source.index.record(position)
        lidar = record.sensors[REFERENCE_CHANNEL]
        lidar2ego = np.linalg.inv(_on_ground(record.ego2global)) @ _on_ground(lidar.ego2global @ lidar.sensor2ego)
        return ScoredTruth(cells, _meant(class_names, lidar2ego))


def _meant(class_names: Sequence[str], frame2ego: np.ndarray) -> tuple[np.ndarray, ...]:
    """K arrays (Y, X, 2) of what the cells of a protocol's masks stand for, in the ego frame."""
    by_lag = {
        lag_cells: shifted_grid(PROTOCOL_GRID, -lag_cells).centers_xy().numpy() @ frame2ego[:2, :2].T + frame2ego[:2, 2]
        for lag_cells in set(map(mask_lag_cells, class_names))
    }
    return tuple(by_lag[mask_lag_cells(name)] for name in class_names)


def _on_ground(a2global: np.ndarray) -> np.ndarray:
    """(3, 3) the frame's place on the map and the direction of its x axis there."""
    yaw_rad = math.atan2(a2global[1, 0], a2global[0, 0])
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array([[cos, -sin, a2global[0, 3]], [sin, cos, a2global[1, 3]], [0.0, 0.0, 1.0]])


def look_up(found: PredictedMap, class_names: Sequence[str], points_m: Sequence[np.ndarray], owner: str) -> np.ndarray:
    """Reads a prediction at points by bilinear interpolation; where it says nothing, the probability is 0.

    Args:
        found: the prediction.
        class_names: K names of the classes to read.
        points_m: for each class its own (Y, X, 2) x y in the ego frame.
        owner: whose prediction it is, for the message.

    Returns:
        (K, Y, X) float64.

    Raises:
        ValueError: the prediction lacks a class.
    """
    missing = [name for name in class_names if name not in found.class_names]
    if missing:
        raise ValueError(f"look_up: {owner} must have {', '.join(missing)}, got {', '.join(found.class_names)}")
    corners = {key: _corners(found.grid, points) for key, points in {id(points): points for points in points_m}.items()}
    rows = []
    for name, points in zip(class_names, points_m, strict=True):
        values = np.nan_to_num(found.probabilities[found.class_names.index(name)], nan=0.0).astype(np.float64)
        places, (share_x, share_y), inside = corners[id(points)]
        rows.append(_between(_between(values.ravel()[places], share_x), share_y) * inside)
    return np.stack(rows)


def _between(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What lies a share of the way from the first of two arrays (..., 2, Y, X) to the second; of equal ones just that.

    A sum of four products would miss a threshold by a rounding that all four cells reach.
    """
    first, second = values[..., 0, :, :], values[..., 1, :, :]
    return first + share * (second - first)


def _corners(grid: Grid, points_m: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The four cells around each point, their shares, and whether the point lies on the grid.

    Of points (Y, X, 2) the cells are (2, 2, Y, X) by row and column, the shares those of the second ones along x and y.
    Between the centres of the outermost cells and the edge of the grid the outermost cells count whole.
    """
    (columns, share_x, in_x), (rows, share_y, in_y) = (
        _neighbours((points_m[..., axis] - low) / cell, count)
        for axis, low, cell, count in zip(
            (0, 1), grid.origin_m[:2], grid.cell_m[:2], (grid.num_x, grid.num_y), strict=True
        )
    )
    return rows[:, None] * grid.num_x + columns, (share_x, share_y), in_x & in_y


def _neighbours(position: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells before and after positions on one axis (2, Y, X), the share of the latter, and who is between the ends.

    Positions count in cells from the lower end.
    """
    before = np.floor(position - 0.5)
    inside = (position >= 0) & (position <= count)
    places = np.stack([before, before + 1]).clip(0, count - 1).astype(np.int64)
    return places, position - 0.5 - before, inside
