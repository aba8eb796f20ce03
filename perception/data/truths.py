"""What is known to be there: boxes, the ground near the vehicle, the map, the occupied space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception.data.annotations import boxes_in_ego
from perception.data.index import Index
from perception.data.index_records import SampleRecord
from perception.data.map_truth import VEHICLE_CLASS, MapSource, check_map_classes
from perception.data.sample_files import SampleFiles
from perception.formats.near_field import NEAR_FIELD_GRID, read_near_field
from perception.formats.nuscenes_map_raster import MAP_CLASSES
from perception.formats.occupancy import OCCUPANCY_GRID, read_occupancy
from perception.geometry.grid import Grid
from perception.structures import Boxes3D, MapTruth, NearField, OccupancyTruth


@dataclass(frozen=True, kw_only=True)
class MapLoading:
    """Which classes of the map to load, and how far around.

    The truth reaches farther than what is predicted, so that a turned, scaled and shifted grid still finds it: 80 m
    cover +-50 m under every turn, scales from 0.9 up and shifts up to 1 m.

    Args:
        class_names: some of `perception.data.map_truth.MAP_TRUTH_CLASSES`.
        half_m: it reaches from -half_m to half_m in x and y of the ego frame.
        cell_m: size of a cell; a range must hold a whole number of them.

    Raises:
        ValueError: an unknown or repeated class, or none; a size that is not positive or does not fit.
    """

    class_names: tuple[str, ...] = MAP_CLASSES
    half_m: float = 80.0
    cell_m: float = 0.5

    def __post_init__(self) -> None:
        check_map_classes(self.class_names)
        Grid.square(self.half_m, self.cell_m)  # which checks them

    @property
    def grid(self) -> Grid:
        """Where the cells lie in the ego frame."""
        return Grid.square(self.half_m, self.cell_m)


@dataclass(frozen=True, kw_only=True)
class TruthLoading:
    """Which truths to load, where the set has them.

    Args:
        boxes: whether to load annotated boxes.
        near_field: whether to load what is known of the ground near the vehicle.
        map: classes of the map to load; None loads none.
        occupancy: whether to load the occupied space.
    """

    boxes: bool = True
    near_field: bool = True
    map: MapLoading | None = None
    occupancy: bool = False


ANNOTATIONS = TruthLoading()
"""Boxes and the near field: what is loaded where nothing else is asked for."""


class Truths:
    """Loads the truths of samples.

    Args:
        index: the index.
        dataroot: folder that paths are relative to.
        wanted: which to load.
        label_map: as `perception.data.annotations.class_label_map` gives it.
    """

    def __init__(self, index: Index, dataroot: Path, wanted: TruthLoading, label_map: Tensor) -> None:
        self._wanted = wanted
        self._label_map = label_map
        self._maps = MapSource(index, dataroot)

    def boxes(self, files: SampleFiles) -> Boxes3D | None:
        """Loads the annotated boxes of a sample.

        Args:
            files: of the sample.

        Returns:
            The boxes; None where they are not wanted, or the set has no annotations.
        """
        annotations = files.record.annotations
        if not self._wanted.boxes or annotations is None:
            return None
        return boxes_in_ego(annotations, files.global2ego, self._label_map)

    def near_field(self, files: SampleFiles) -> NearField | None:
        """Loads what is known of the ground near the vehicle.

        Args:
            files: of the sample.

        Returns:
            The truth; None where it is not wanted, or the set has none for the scene.

        Raises:
            SensorFileError: the file cannot be used, and that is to raise.
        """
        record = files.record
        folder = f"near_field/{record.scene}"
        if not self._wanted.near_field or not (files.dataroot / folder).is_dir():
            return None
        cells = files.read("near_field", f"{folder}/{record.token}.npz", read_near_field)
        return None if cells is None else NearField(cells=torch.from_numpy(cells), grid=NEAR_FIELD_GRID)

    def map(self, files: SampleFiles) -> MapTruth | None:
        """Draws the map around the vehicle.

        The masks are those of the protocols, moved where these are off: every cell means what is around its centre.

        Args:
            files: of the sample.

        Returns:
            The truth; None where it is not wanted or cannot be had, after noting why.

        Raises:
            SensorFileError: the file cannot be used, and that is to raise.
        """
        wanted = self._wanted.map
        if wanted is None:
            return None
        if VEHICLE_CLASS in wanted.class_names and files.record.annotations is None:
            files.note("missing_map", "map", VEHICLE_CLASS, "the set has no annotations")
            return None

        def _draw(_: Path) -> np.ndarray:
            return self._maps.around_ego(files.number, wanted.class_names, wanted.grid)

        if wanted.class_names == (VEHICLE_CLASS,):
            cells: np.ndarray | None = _draw(files.dataroot)
        else:
            cells = files.read_truth("map", self._maps.path_of(files.number), _draw)
        if cells is None:
            return None
        return MapTruth(cells=torch.from_numpy(cells), class_names=wanted.class_names, grid=wanted.grid)

    def occupancy(self, files: SampleFiles) -> OccupancyTruth | None:
        """Loads the occupied space around the vehicle.

        Args:
            files: of the sample.

        Returns:
            The truth; None where it is not wanted or cannot be had, after noting why.

        Raises:
            SensorFileError: the file cannot be used, and that is to raise.
        """
        if not self._wanted.occupancy:
            return None
        found = files.read_truth("occupancy", occupancy_path(files.record), read_occupancy)
        if found is None:
            return None
        labels, lidar, camera = (
            torch.from_numpy(np.ascontiguousarray(array.transpose(2, 1, 0)))  # (X, Y, Z) -> (Z, Y, X)
            for array in (found.semantics, found.mask_lidar, found.mask_camera)
        )
        return OccupancyTruth(labels=labels, mask_lidar=lidar, mask_camera=camera, grid=OCCUPANCY_GRID)


def occupancy_path(record: SampleRecord) -> str:
    """Names the file of a sample's occupancy.

    Args:
        record: of the sample.

    Returns:
        Its path in the layout of Occ3D, relative to the dataroot.
    """
    return f"gts/{record.scene}/{record.token}/labels.npz"
