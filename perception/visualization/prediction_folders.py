"""Folders of predicted maps, occupancy and near fields -> predictions to draw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from perception.formats.map_predictions import map_path, read_map_prediction
from perception.formats.near_field import NEAR_FIELD_GRID
from perception.formats.near_field_predictions import near_field_path, read_near_field_prediction
from perception.formats.occupancy import OCCUPANCY_GRID
from perception.formats.occupancy_predictions import occupancy_prediction_path, read_occupancy_prediction
from perception.structures import MapPrediction, NearFieldPrediction, OccupancyPrediction, Predictions
from perception.visualization.task_tiles import Task

T = TypeVar("T")

_PATHS: dict[Task, Callable[[str | Path, str, str], Path]] = {
    "map": map_path,
    "occupancy": occupancy_prediction_path,
    "near_field": near_field_path,
}


@dataclass(frozen=True)
class PredictionFolders:
    """What was predicted in a drive, as `tools/test.py` and `tools/run_drive.py` write it: a file for each sample.

    Args:
        folders: by task; of other tasks nothing is predicted.

    Raises:
        FileNotFoundError: one is no folder.
    """

    folders: Mapping[Task, Path]

    def __post_init__(self) -> None:
        for task, folder in self.folders.items():
            if not folder.is_dir():
                raise FileNotFoundError(f"PredictionFolders: {task} must be a folder, got {folder}")

    def missing(self, samples: Sequence[tuple[str, str]]) -> dict[Task, int]:
        """Counts samples that have no file.

        Args:
            samples: scene and token of each.

        Returns:
            By task; only those that lack a file.

        Raises:
            ValueError: a folder has a file for none of the samples.
        """
        counts = {}
        for task, folder in self.folders.items():
            count = sum(self._path(task, scene, token) is None for scene, token in samples)
            if count == len(samples):
                raise ValueError(f"{folder}: must hold samples that are drawn, got none of the {count}")
            if count:
                counts[task] = count
        return counts

    def map_classes(self, samples: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Names what the predicted maps hold.

        Args:
            samples: scene and token of each.

        Returns:
            The classes of the first that has a map; none where no sample has.

        Raises:
            ValueError: its file is damaged.
        """
        paths = (self._path("map", scene, token) for scene, token in samples) if "map" in self.folders else ()
        first = next((path for path in paths if path is not None), None)
        return () if first is None else read_map_prediction(first).class_names

    def load(self, scene: str, token: str) -> Predictions:
        """Reads what is predicted of a sample.

        Args:
            scene: name of its scene.
            token: its own.

        Returns:
            The tasks of which it has a file; no detections.

        Raises:
            ValueError: a file is damaged.
        """
        paths = {task: self._path(task, scene, token) for task in self.folders}
        return Predictions(
            token=token,
            detections=None,
            map=_read(paths.get("map"), _map),
            occupancy=_read(paths.get("occupancy"), _occupancy),
            near_field=_read(paths.get("near_field"), _near_field),
        )

    def _path(self, task: Task, scene: str, token: str) -> Path | None:
        """The file of a sample, where there is one."""
        path = _PATHS[task](self.folders[task], scene, token)
        return path if path.exists() else None


def _read(path: Path | None, read: Callable[[Path], T]) -> T | None:
    return None if path is None else read(path)


def _map(path: Path) -> MapPrediction:
    found = read_map_prediction(path)
    probabilities = torch.from_numpy(found.probabilities.astype(np.float32))
    return MapPrediction(probabilities=probabilities, class_names=found.class_names, grid=found.grid)


def _occupancy(path: Path) -> OccupancyPrediction:
    labels = np.ascontiguousarray(read_occupancy_prediction(path).transpose(2, 1, 0))  # (X, Y, Z) -> (Z, Y, X)
    return OccupancyPrediction(labels=torch.from_numpy(labels), grid=OCCUPANCY_GRID)


def _near_field(path: Path) -> NearFieldPrediction:
    occupied = torch.from_numpy(read_near_field_prediction(path).astype(np.float32))
    return NearFieldPrediction(occupied=occupied, grid=NEAR_FIELD_GRID)
