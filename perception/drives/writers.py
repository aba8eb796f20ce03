"""What is kept of a drive: JSON lines, a submission, files of the other tasks, pictures."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from PIL import Image
from torch import Tensor

from perception.data.loading import SampleLoader
from perception.evaluation.detection import write_predictions
from perception.evaluation.tasks import TASKS
from perception.formats.submission import SubmissionMeta
from perception.structures import Detections, Predictions, Sample
from perception.visualization.layers import BoxLayer, detection_layer, ground_truth_layer
from perception.visualization.panel import PanelStyle, render_panel
from perception.visualization.task_tiles import tiles_of

_TILE_PX = (315, 560)  # of a camera: panels of six cameras are 2334 pixels wide, of ten 2574


class DriveWriter(ABC):
    """Is told of every sample of a drive in turn; a context manager that finishes its files when it is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    @abstractmethod
    def write(self, sample: Sample, predictions: Predictions) -> None:
        """Takes one sample.

        Args:
            sample: as it was loaded.
            predictions: what was found in it.
        """

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """Finishes.

        Args:
            failed: whether the drive broke off.
        """


class JsonLinesWriter(DriveWriter):
    """One line of JSON per sample, written when the sample is done, so that a broken drive leaves whole lines.

    Args:
        path: the file; an existing one is replaced.
        class_names: what the labels index.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self.class_names = tuple(class_names)
        self._file: IO[str] | None = None

    def write(self, sample: Sample, predictions: Predictions) -> None:
        """Appends a line.

        Args:
            sample: as it was loaded.
            predictions: what was found in it.
        """
        if self._file is None:
            self._file = self.path.open("w", encoding="utf-8")
        self._file.write(json.dumps(sample_line(sample, predictions, self.class_names), allow_nan=False) + "\n")
        self._file.flush()

    def close(self, *, failed: bool) -> None:
        """Closes the file.

        Args:
            failed: makes no difference here.
        """
        if self._file is not None:
            self._file.close()


class SubmissionWriter(DriveWriter):
    """A detection submission of nuScenes, written at the end of a drive that did not break off.

    Args:
        path: the JSON file.
        class_names: what the labels index.
        meta: which sensors were used.
    """

    def __init__(self, path: Path, class_names: Sequence[str], meta: SubmissionMeta) -> None:
        self.path = path
        self.class_names = tuple(class_names)
        self.meta = meta
        self._found: list[tuple[Predictions, Tensor]] = []

    def write(self, sample: Sample, predictions: Predictions) -> None:
        """Remembers the boxes.

        Args:
            sample: as it was loaded.
            predictions: what was found in it.
        """
        self._found.append((predictions, sample.ego2global))

    def close(self, *, failed: bool) -> None:
        """Writes the file.

        Args:
            failed: nothing is written then.
        """
        if not failed:
            write_predictions(self.path, self._found, self.class_names, self.meta)


class TaskWriter(DriveWriter):
    """What a model says of the near field, the map and occupancy: `<folder>/<task>/<scene>/<sample token>.npz`.

    They are the files that `tools/test.py` writes and `tools/evaluate.py` scores. Each appears under its name when it
    is complete, so that a broken drive leaves whole files.

    Args:
        folder: receives a folder for each task that the model knows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_files: Counter[str] = Counter()

    def write(self, sample: Sample, predictions: Predictions) -> None:
        """Writes a file for each task.

        Args:
            sample: as it was loaded.
            predictions: what was found in it.

        Raises:
            ValueError: a prediction is on another grid than the truth's, or has values that are not allowed.
        """
        for name, task in TASKS.items():
            if getattr(predictions, name) is not None:
                self.num_files[name] += task.write(self.folder / name, [(predictions, sample.scene)])

    def close(self, *, failed: bool) -> None:
        """Has nothing to finish.

        Args:
            failed: makes no difference here.
        """


class PictureWriter(DriveWriter):
    """One picture per sample: cameras, points, boxes and what is said of other tasks, as `0007_<token>.jpg`.

    All pictures have the tiles that the first sample has.

    Args:
        folder: receives the pictures; made if it does not exist.
        class_names: what the labels index.
        min_score: boxes below are not drawn.
        style: how a panel looks.
        truths: loads what is known of the samples, to be drawn beside the predictions; None draws what the samples
            hold themselves.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        min_score: float = 0.3,
        style: PanelStyle | None = None,
        truths: SampleLoader | None = None,
    ) -> None:
        self.folder = folder
        self.class_names = tuple(class_names)
        self.min_score = min_score
        self.style = style or PanelStyle(tile_px=_TILE_PX)
        self.truths = truths
        self._count = 0

    def write(self, sample: Sample, predictions: Predictions) -> None:
        """Draws the sample; annotations, where there are some, lie under the detections.

        Args:
            sample: as it was loaded.
            predictions: what was found in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sample = sample if self.truths is None else _with_truths(sample, self.truths)
        if not self._count:
            self.style = _with_tiles_of(sample, predictions, self.style)
        layers: list[BoxLayer] = []
        if sample.boxes is not None:
            layers.append(ground_truth_layer(sample.boxes, self.class_names, hollow=True))
        if predictions.detections is not None:
            layers.append(detection_layer(predictions.detections, self.class_names, self.min_score))
        picture = render_panel(sample, layers, self.style, predictions=predictions)
        Image.fromarray(picture).save(self.folder / f"{self._count:04d}_{sample.token}.jpg", quality=90)
        self._count += 1

    def close(self, *, failed: bool) -> None:
        """Has nothing to finish.

        Args:
            failed: makes no difference here.
        """


def _with_truths(sample: Sample, truths: SampleLoader) -> Sample:
    known = truths.load(truths.index.by_token(sample.token))
    return replace(sample, boxes=known.boxes, near_field=known.near_field, map=known.map, occupancy=known.occupancy)


def _with_tiles_of(sample: Sample, predictions: Predictions, style: PanelStyle) -> PanelStyle:
    """A style with the tiles of a sample, as far as the style does not say which there are."""
    channels = [name for group in sample.cameras.values() if bool(group.present.any()) for name in group.names]
    tiles = tiles_of(sample, predictions) if style.task_tiles is None else style.task_tiles
    return replace(style, channels=tuple(dict.fromkeys((*style.channels, *channels))), task_tiles=tiles)


def sample_line(sample: Sample, predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """What a JSON line says of one sample.

    Args:
        sample: as it was loaded.
        predictions: what was found in it.
        class_names: what the labels index.

    Returns:
        Token, scene, time, pose, the sensors that were there, problems while loading, and boxes in the ego frame as
        x y z l w h yaw vx vy (null for an unknown velocity) with score and class name.
    """
    found = predictions.detections if predictions.detections is not None else no_detections()
    columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return {
        "token": sample.token,
        "scene": sample.scene,
        "timestamp_us": sample.timestamp_us,
        "ego2global": sample.ego2global.tolist(),
        "sensors": present_sensors(sample),
        "problems": list(sample.problems),
        "detections": [
            {
                "class": class_names[label],
                "score": score,
                "box": [None if math.isnan(value) else value for value in box],
            }
            for box, score, label in zip(*columns, strict=True)
        ],
    }


def present_sensors(sample: Sample) -> list[str]:
    """Names the sensors that a sample has.

    Args:
        sample: not batched.

    Returns:
        Kinds of sensors, such as "lidar" and "radar", and the channels of the cameras.
    """
    kinds = [name for name in ("lidar", "radar", "radar4d", "ultrasonic") if getattr(sample, name) is not None]
    cameras = sample.cameras.values()
    return kinds + [
        name for group in cameras for name, here in zip(group.names, group.present.tolist(), strict=True) if here
    ]


def no_detections() -> Detections:
    """Gives an empty answer.

    Returns:
        No boxes.
    """
    return Detections(boxes=torch.zeros(0, 9), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
