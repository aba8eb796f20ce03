"""Truths of map and occupancy in memory: some 20 KB a sample, which take a millisecond instead of twenty to load."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.fusion.study import Study
from perception.data.loading import MapLoading, SampleLoader, TruthLoading
from perception.data.map_truth import MAP_TRUTH_CLASSES
from perception.geometry.grid import Grid
from perception.structures import MapTruth, OccupancyTruth, Sample

HALF_M = 52.0
"""How far the truth of the map reaches: as far as the head's cells, as kept maps are not augmented."""

_LABEL, _LIDAR, _CAMERA = 0b0001_1111, 0b0010_0000, 0b0100_0000


@dataclass(frozen=True)
class PackedMap:
    """A truth of the map, a bit for each cell and class.

    Attributes:
        content: compressed.
        class_names: of the K layers.
        grid: of the cells.
    """

    content: bytes
    class_names: tuple[str, ...]
    grid: Grid

    @classmethod
    def of(cls, truth: MapTruth) -> PackedMap:
        """Packs a truth."""
        return cls(_compressed(np.packbits(truth.cells.numpy())), truth.class_names, truth.grid)

    def truth(self) -> MapTruth:
        """The same truth again."""
        shape = (len(self.class_names), self.grid.num_y, self.grid.num_x)
        bits = np.unpackbits(_bytes(self.content), count=int(np.prod(shape))).astype(bool)
        return MapTruth(
            cells=torch.from_numpy(bits.reshape(shape)), class_names=self.class_names, grid=self.grid
        )  # (K * Y * X,) -> (K, Y, X)


@dataclass(frozen=True)
class PackedOccupancy:
    """A truth of the occupied space, a byte for each voxel: class and both masks.

    Attributes:
        content: compressed.
        grid: of the voxels.
    """

    content: bytes
    grid: Grid

    @classmethod
    def of(cls, truth: OccupancyTruth) -> PackedOccupancy:
        """Packs a truth."""
        masks = truth.mask_lidar.numpy() * np.uint8(_LIDAR) | truth.mask_camera.numpy() * np.uint8(_CAMERA)
        return cls(_compressed(truth.labels.numpy() | masks), truth.grid)

    def truth(self) -> OccupancyTruth:
        """The same truth again."""
        voxels = torch.from_numpy(_bytes(self.content).reshape(self.grid.shape))  # (Z * Y * X,) -> (Z, Y, X)
        return OccupancyTruth(
            labels=voxels & _LABEL,
            mask_lidar=(voxels & _LIDAR) > 0,
            mask_camera=(voxels & _CAMERA) > 0,
            grid=self.grid,
        )


class TrainingSamples:
    """The annotated samples of the training split, without sensors.

    Args:
        study: where they lie.
        class_names: what labels of boxes count from 0.
        tasks: of which truths are kept, beside boxes and near field.
    """

    def __init__(self, study: Study, class_names: Sequence[str], tasks: Sequence[str]) -> None:
        layers = MapLoading(class_names=MAP_TRUTH_CLASSES, half_m=HALF_M)
        wanted = TruthLoading(map=layers if "map" in tasks else None, occupancy="occupancy" in tasks)
        loader = SampleLoader(index=study.index, dataroot=study.dataroot, class_names=class_names, truths=wanted)
        self._samples: list[Sample] = []
        self._maps: list[PackedMap | None] = []
        self._occupancy: list[PackedOccupancy | None] = []
        for position in study.positions("train"):
            sample = loader.load(position)
            if sample.problems:
                raise ValueError(f"TrainingSamples: every sample must have its truths, got {sample.problems}")
            self._maps.append(None if sample.map is None else PackedMap.of(sample.map))
            self._occupancy.append(None if sample.occupancy is None else PackedOccupancy.of(sample.occupancy))
            self._samples.append(replace(sample, map=None, occupancy=None))

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, place: int, tasks: Sequence[str]) -> Sample:
        """A sample with the truths of some tasks.

        Args:
            place: from 0.
            tasks: whose truths are wanted, beside boxes and near field.

        Returns:
            The sample.
        """
        packed_map = self._maps[place] if "map" in tasks else None
        packed_occupancy = self._occupancy[place] if "occupancy" in tasks else None
        return replace(
            self._samples[place],
            map=None if packed_map is None else packed_map.truth(),
            occupancy=None if packed_occupancy is None else packed_occupancy.truth(),
        )


def _compressed(values: np.ndarray) -> bytes:
    return zlib.compress(np.ascontiguousarray(values).tobytes(), 1)


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(zlib.decompress(content)), np.uint8)
