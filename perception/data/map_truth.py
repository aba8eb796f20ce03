"""Which cells around the vehicle each class of the map covers, and which a vehicle stands on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from perception.data.index import REFERENCE_CHANNEL, Annotations, Index
from perception.formats.nuscenes_boxes import rotation_matrices
from perception.formats.nuscenes_map_raster import MAP_CLASSES, MapPatch, VectorMap
from perception.geometry.grid import Grid

VEHICLE_CLASS = "vehicle"
"""The layer of the Lift-Splat protocol, drawn from the boxes."""

MAP_TRUTH_CLASSES = (*MAP_CLASSES, VEHICLE_CLASS)
"""Every class that a truth of the map can be asked for."""

PROTOCOL_GRID = Grid.square(50.0, 0.5)
"""The cells that both protocols score: 200 x 200 of 0.5 m."""

_EXACT_CLASS = "divider"


class MapSource:
    """Masks of the samples of an index, in the frames of the protocols; each vector map is read when first needed.

    Args:
        index: the index.
        dataroot: folder that holds `maps/expansion/<location>.json`.
    """

    def __init__(self, index: Index, dataroot: str | Path) -> None:
        self.index = index
        self.dataroot = Path(dataroot)
        self._maps: dict[str, VectorMap] = {}
        self._faults: dict[str, str] = {}  # a damaged file is read once, not for every sample

    def path_of(self, position: int) -> str:
        """Names the vector map of a sample.

        Args:
            position: in the index.

        Returns:
            The path of the file, relative to the dataroot.

        Raises:
            IndexError: there is no such position.
        """
        scene = self.index.scenes[self.index.scenes_of(np.array([position]))[0]]
        return str(PurePosixPath("maps/expansion") / f"{self.index.scene(scene).location}.json")

    def vector_map(self, position: int) -> VectorMap:
        """Finds the vector map of a sample.

        Args:
            position: in the index.

        Returns:
            The map, read once.

        Raises:
            FileNotFoundError: its file is missing.
            IndexError: there is no such position.
            ValueError: the file is damaged.
        """
        path = self.path_of(position)
        if path in self._faults:
            raise ValueError(self._faults[path])
        if path not in self._maps:
            try:
                self._maps[path] = VectorMap(self.dataroot / path)
            except ValueError as error:
                self._faults[path] = str(error)
                raise
        return self._maps[path]

    def in_ego(
        self, position: int, class_names: Sequence[str] = MAP_TRUTH_CLASSES, grid: Grid = PROTOCOL_GRID
    ) -> np.ndarray:
        """Masks in the ego frame at the sample's time, as the protocols draw them (see `VectorMap.rasterize`).

        Args:
            position: in the index.
            class_names: some of `MAP_TRUTH_CLASSES`; `vehicle` alone needs no map.
            grid: the cells; its middle need not be the vehicle.

        Returns:
            (K, Y, X) bool; row = y cell, column = x cell.

        Raises:
            FileNotFoundError: the map's file is missing.
            IndexError: there is no such position.
            ValueError: an unknown class; the map's file is damaged; `vehicle` of a set without annotations.
        """
        check_map_classes(class_names)
        record = self.index.record(position)
        on_map = [name for name in class_names if name != VEHICLE_CLASS]
        masks = {}
        if on_map:
            patch = _patch_around(record.ego2global, grid)
            masks = dict(zip(on_map, self.vector_map(position).rasterize(patch, on_map), strict=True))
        if VEHICLE_CLASS in class_names:
            if record.annotations is None:
                raise ValueError(f"MapSource.in_ego: class {VEHICLE_CLASS} needs annotations, the index has none")
            masks[VEHICLE_CLASS] = vehicle_mask(record.annotations, record.ego2global, grid)
        return np.stack([masks[name] for name in class_names])  # K x (Y, X) -> (K, Y, X)

    def around_ego(self, position: int, class_names: Sequence[str], grid: Grid) -> np.ndarray:
        """Masks in the ego frame in which every cell means what is around its centre (see `mask_lag_cells`).

        Args:
            position: in the index.
            class_names: some of `MAP_TRUTH_CLASSES`.
            grid: the cells.

        Returns:
            (K, Y, X) bool; row = y cell, column = x cell.

        Raises:
            FileNotFoundError: the map's file is missing.
            IndexError: there is no such position.
            ValueError: as `in_ego`.
        """
        check_map_classes(class_names)
        cells = np.zeros((len(class_names), grid.num_y, grid.num_x), dtype=bool)
        for lag_cells in sorted(set(map(mask_lag_cells, class_names))):
            rows = [row for row, name in enumerate(class_names) if mask_lag_cells(name) == lag_cells]
            names = [class_names[row] for row in rows]
            cells[rows] = self.in_ego(position, names, shifted_grid(grid, lag_cells))
        return cells

    def in_lidar(self, position: int, class_names: Sequence[str] = MAP_CLASSES) -> np.ndarray:
        """Masks as BEVFusion scores them: around LIDAR_TOP, turned like its x axis, and transposed.

        Args:
            position: in the index.
            class_names: some of `MAP_CLASSES`.

        Returns:
            (K, 200, 200) bool over `PROTOCOL_GRID`, indexed class, x cell, y cell; x and y are those of the LiDAR
            (nuScenes: x right, y forward).

        Raises:
            FileNotFoundError: the map's file is missing.
            IndexError: there is no such position.
            ValueError: the sample has no LIDAR_TOP; an unknown class; the map's file is damaged.

        Source:
            Liu et al., "BEVFusion", ICRA 2023, and `LoadBEVSegmentation` of its code.
        """
        lidar = self.index.record(position).sensors.get(REFERENCE_CHANNEL)
        if lidar is None:
            raise ValueError(f"MapSource.in_lidar: sample at position {position} must have {REFERENCE_CHANNEL}")
        patch = _patch_around(lidar.ego2global @ lidar.sensor2ego, PROTOCOL_GRID)
        return self.vector_map(position).rasterize(patch, class_names).transpose(0, 2, 1)  # (K, Y, X) -> (K, X, Y)


def vehicle_mask(annotations: Annotations, ego2global: np.ndarray, grid: Grid = PROTOCOL_GRID) -> np.ndarray:
    """Cells on which a vehicle stands: every category `vehicle.*`, seen or not.

    Args:
        annotations: of one sample.
        ego2global: (4, 4) float64 at the sample's time.
        grid: the cells, in the ego frame.

    Returns:
        (Y, X) bool; row = y cell, column = x cell. Transposed it is what Lift-Splat's code draws.

    Source:
        Philion and Fidler, "Lift, Splat, Shoot", ECCV 2020, section 5, and `get_binimg` of its code.
    """
    rows = [row for row, category in enumerate(annotations.categories) if category.startswith("vehicle.")]
    boxes = annotations.boxes_global[rows]  # (M, 9)
    floor = np.array([[1, 1, -1], [1, -1, -1], [-1, -1, -1], [-1, 1, -1]]) / 2  # (4, 3)
    turned = (floor * boxes[:, None, 3:6]) @ rotation_matrices(annotations.rotations[rows]).swapaxes(1, 2)  # (M, 4, 3)
    corners = (turned + boxes[:, None, :3] - ego2global[:3, 3]) @ ego2global[:3, :3]  # into ego, (M, 4, 3)
    low, cell = np.array([grid.x_range_m[0], grid.y_range_m[0]]), np.array(grid.cell_m[:2])
    pixels = np.round((corners[..., :2] - low) / cell)
    near = np.abs(pixels).max(axis=(1, 2), initial=0) < 2**15 if len(rows) else np.zeros(0, dtype=bool)
    mask = np.zeros((grid.num_x, grid.num_y), dtype=np.uint8)  # drawn as there, with x downwards
    for polygon in pixels[near][..., ::-1].astype(np.int32):
        cv2.fillPoly(mask, [polygon], (1,))
    return mask.T.astype(bool)


def mask_lag_cells(class_name: str) -> float:
    """How far before its centre, along x and along y, a cell of a protocol's mask is meant.

    The protocols put a corner of an area on the nearest whole number of cells from the border, so that cell i stands
    for what is around `low + i * cell`; only a point of a divider falls on the cell that it lies in.

    Args:
        class_name: one of `MAP_TRUTH_CLASSES`.

    Returns:
        Cells.
    """
    return 0.0 if class_name == _EXACT_CLASS else 0.5


def shifted_grid(grid: Grid, cells: float) -> Grid:
    """Moves a grid by a part of its cells, along x and along y.

    Args:
        grid: the grid.
        cells: how far; above 0 towards larger coordinates.

    Returns:
        As many cells of the same size.
    """
    (x_low, x_high), (y_low, y_high), (cell_x, cell_y, _) = grid.x_range_m, grid.y_range_m, grid.cell_m
    x_m, y_m = cells * cell_x, cells * cell_y
    return Grid((x_low + x_m, x_high + x_m), (y_low + y_m, y_high + y_m), grid.z_range_m, grid.cell_m)


def check_map_classes(class_names: Sequence[str]) -> None:
    """Checks the names of classes of the map.

    Args:
        class_names: what is asked for.

    Raises:
        ValueError: none, an unknown one, or one twice.
    """
    names = list(class_names)
    if not names or not set(names) <= set(MAP_TRUTH_CLASSES) or len(set(names)) < len(names):
        known = ", ".join(MAP_TRUTH_CLASSES)
        raise ValueError(f"check_map_classes: class_names must be different names of {known}, got {names}")


def _patch_around(frame2global: np.ndarray, grid: Grid) -> MapPatch:
    """The rectangle of a grid in a frame on the ground, which is turned like the frame's x axis."""
    yaw_rad = math.atan2(frame2global[1, 0], frame2global[0, 0])
    (x_low, x_high), (y_low, y_high) = grid.x_range_m, grid.y_range_m
    middle = np.array([(x_low + x_high) / 2, (y_low + y_high) / 2])
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    x, y = frame2global[:2, 3] + np.array([[cos, -sin], [sin, cos]]) @ middle
    size_m = y_high - y_low, x_high - x_low
    return MapPatch(center_m=(x, y), yaw_rad=yaw_rad, size_m=size_m, cells=(grid.num_y, grid.num_x))
