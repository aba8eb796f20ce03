"""What is known of the surroundings beside boxes: the map and the occupied space."""

from dataclasses import dataclass

from torch import Tensor

from perception.geometry.grid import Grid
from perception.structures.tensors import check_shapes


@dataclass(frozen=True, kw_only=True)
class MapTruth:
    """Which cells of the ground each class of the map covers.

    Args:
        cells: (K, Y, X) bool; row = y cell, column = x cell. A cell may belong to several classes or to none.
        class_names: K names of the layers.
        grid: where the cells lie in the ego frame (the true one, not the augmented); outside of it nothing is known.

    Raises:
        TypeError: `cells` is no tensor.
        ValueError: shapes that do not fit the names and the grid.
    """

    cells: Tensor
    class_names: tuple[str, ...]
    grid: Grid

    def __post_init__(self) -> None:
        sizes = {"K": len(self.class_names), "Y": self.grid.num_y, "X": self.grid.num_x}
        check_shapes(self, {"cells": "K Y X"}, sizes)


@dataclass(frozen=True, kw_only=True)
class OccupancyTruth:
    """What fills the space around the vehicle, and which of it was observed.

    Args:
        labels: (Z, Y, X) uint8, number in `perception.formats.occupancy.OCCUPANCY_CLASSES`.
        mask_lidar: (Z, Y, X) bool, observed by the LiDAR.
        mask_camera: (Z, Y, X) bool, observed by a camera.
        grid: where the voxels lie in the ego frame (the true one, not the augmented); outside of it nothing is known.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit the grid.
    """

    labels: Tensor
    mask_lidar: Tensor
    mask_camera: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        sizes = {"Z": self.grid.num_z, "Y": self.grid.num_y, "X": self.grid.num_x}
        check_shapes(self, dict.fromkeys(("labels", "mask_lidar", "mask_camera"), "Z Y X"), sizes)
