"""Semantic occupancy as Occ3D-nuScenes stores it: `gts/<scene>/<sample token>/labels.npz`.

Source: Tian et al., "Occ3D: A Large-Scale 3D Occupancy Prediction Benchmark for Autonomous Driving", NeurIPS 2023,
sections 3 and 4, and its files for nuScenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.formats.classes import CATEGORY_TO_CLASS, POINT_CATEGORIES
from perception.formats.npz import npz_bytes, read_npz
from perception.geometry.grid import Grid

OCCUPANCY_CLASSES = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)
"""The 18 classes; a label is an index into this tuple."""

FREE = OCCUPANCY_CLASSES.index("free")
FLAT_CLASSES = tuple(
    OCCUPANCY_CLASSES.index(name) for name in ("driveable_surface", "other_flat", "sidewalk", "terrain")
)
"""Labels of the ground."""

OCCUPANCY_GRID = Grid((-40.0, 40.0), (-40.0, 40.0), (-1.0, 5.4), (0.4, 0.4, 0.4))
"""Where the cells lie: ego frame at the timestamp of the sample's LIDAR_TOP keyframe."""

OCCUPANCY_SHAPE = OCCUPANCY_GRID.shape[::-1]
"""Cells along x, y, z: the order in which the files index them."""

_STUFF_TO_CLASS = {
    "flat.driveable_surface": "driveable_surface",
    "flat.other": "other_flat",
    "flat.sidewalk": "sidewalk",
    "flat.terrain": "terrain",
    "static.manmade": "manmade",
    "static.vegetation": "vegetation",
}

POINT_TO_OCCUPANCY = np.array(
    [
        OCCUPANCY_CLASSES.index(CATEGORY_TO_CLASS.get(name, _STUFF_TO_CLASS.get(name, "others")))
        for name in POINT_CATEGORIES
    ],
    dtype=np.uint8,
)
"""(32,) label of each of `POINT_CATEGORIES`, as the lidarseg challenge merges them; what that ignores is `others`."""


@dataclass(frozen=True, eq=False)
class Occupancy:
    """What fills the space around the ego vehicle, cells (X, Y, Z) of `OCCUPANCY_GRID`.

    Attributes:
        semantics: (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`; `FREE` also where nothing was observed.
        mask_lidar: (200, 200, 16) bool, observed by the LiDAR in the course of the scene.
        mask_camera: (200, 200, 16) bool, observed by the LiDAR and in view of the sample's cameras.
    """

    semantics: np.ndarray
    mask_lidar: np.ndarray
    mask_camera: np.ndarray


def occupancy_bytes(occupancy: Occupancy) -> bytes:
    """The content of a `labels.npz`.

    Args:
        occupancy: what it holds.

    Returns:
        The file.

    Raises:
        ValueError: shapes or dtypes are others, or a label is no class.
    """
    arrays = vars(occupancy)
    for name, array in arrays.items():
        dtype = np.uint8 if name == "semantics" else np.bool_
        if array.shape != OCCUPANCY_SHAPE or array.dtype != dtype:
            raise ValueError(
                f"occupancy_bytes: {name} must be {OCCUPANCY_SHAPE} {np.dtype(dtype)}, got {array.shape} {array.dtype}"
            )
    if occupancy.semantics.max() > FREE:
        raise ValueError(f"occupancy_bytes: semantics must be in 0..{FREE}, got {occupancy.semantics.max()}")
    return npz_bytes({name: array.astype(np.uint8) for name, array in arrays.items()})


def read_occupancy(path: str | Path) -> Occupancy:
    """The occupancy of a sample.

    Args:
        path: a `labels.npz`.

    Returns:
        Labels and masks.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, an array is missing or has another shape or dtype, a value is not allowed.
    """
    shapes = dict.fromkeys(("semantics", "mask_lidar", "mask_camera"), OCCUPANCY_SHAPE)
    arrays = read_npz("read_occupancy", Path(path), shapes, np.uint8, int(np.prod(OCCUPANCY_SHAPE)))
    for name, array in arrays.items():
        most = FREE if name == "semantics" else 1
        if array.max() > most:
            raise ValueError(f"read_occupancy: {path}: {name} must be in 0..{most}, got {array.max()}")
    return Occupancy(arrays["semantics"], arrays["mask_lidar"].astype(bool), arrays["mask_camera"].astype(bool))
