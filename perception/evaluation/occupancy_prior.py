"""What can be said of the occupied space without looking: the best guess that is the same for every sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.data.index import Index
from perception.evaluation.occupancy import MASKS, counted_voxels
from perception.formats.occupancy import FREE, OCCUPANCY_CLASSES, OCCUPANCY_SHAPE, Occupancy, read_occupancy
from perception.formats.occupancy_predictions import occupancy_truth_path

_CLASSES = len(OCCUPANCY_CLASSES)


class OccupancyTally:
    """How often each voxel is of each class.

    Args:
        mask: which voxels of a truth are counted, as in `MASKS`.

    Raises:
        ValueError: the mask is unknown.
    """

    def __init__(self, mask: str = "lidar") -> None:
        if mask not in MASKS:
            raise ValueError(f"OccupancyTally: mask must be one of {', '.join(MASKS)}, got {mask!r}")
        self.mask = mask
        self._counts = np.zeros((*OCCUPANCY_SHAPE, _CLASSES), np.uint32)
        self._first = np.arange(0, self._counts.size, _CLASSES).reshape(OCCUPANCY_SHAPE)  # place of class 0

    def add(self, truth: Occupancy) -> None:
        """Counts a truth.

        Args:
            truth: of a sample.
        """
        counted = counted_voxels(truth, self.mask)
        places = self._first[counted] + truth.semantics[counted]
        self._counts.reshape(-1)[places] += 1  # each voxel once

    def most_frequent(self) -> np.ndarray:
        """The class that each voxel mostly is.

        Returns:
            (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`: of equally frequent ones the first, free for a voxel
            that was never counted.
        """
        seen = self._counts.any(-1)
        return np.where(seen, self._counts.argmax(-1), FREE).astype(np.uint8)

    def class_counts(self) -> np.ndarray:
        """How many voxels were counted of each class, as `OccupancyLoss` takes them.

        Returns:
            (18,) int64.
        """
        return self._counts.sum((0, 1, 2), dtype=np.int64)


def occupancy_prior(dataroot: str | Path, index: Index, split: str, mask: str = "lidar") -> np.ndarray:
    """The most frequent class of each voxel in a split: what a predictor can say that looks at nothing.

    Args:
        dataroot: of a set with occupancy truth.
        index: of the set.
        split: whose samples are counted: those that a model would be trained on.
        mask: which voxels are counted, as in `MASKS`.

    Returns:
        (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`.

    Raises:
        FileNotFoundError: a sample has no truth.
        ValueError: a file is damaged, the split or the mask is unknown.
    """
    tally, positions = OccupancyTally(mask), index.samples_of(split)
    for token, number in zip(index.tokens_of(positions), index.scenes_of(positions).tolist(), strict=True):
        tally.add(read_occupancy(occupancy_truth_path(dataroot, index.scenes[number], token)))
    return tally.most_frequent()
