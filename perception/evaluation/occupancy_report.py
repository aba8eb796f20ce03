"""Occupancy predictions of a split: written, read again, scored scene by scene, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from perception.data.index import REFERENCE_CHANNEL, Index
from perception.evaluation.bootstrap import Interval, draw_scenes, intervals_of
from perception.evaluation.occupancy import FIGURES, OccupancyCounts, OccupancyScorer
from perception.evaluation.ray_iou import ray_origins
from perception.formats.files import atomic_writer
from perception.formats.occupancy import FREE, OCCUPANCY_GRID, read_occupancy
from perception.formats.occupancy_predictions import (
    occupancy_prediction_bytes,
    occupancy_prediction_path,
    occupancy_truth_path,
    read_occupancy_prediction,
)
from perception.geometry.grid import Grid
from perception.structures import OccupancyPrediction, Predictions


@dataclass(frozen=True)
class OccupancyReport:
    """What occupancy predictions reach on a split.

    Attributes:
        scenes: names of the scenes of the split, ascending.
        counts: of each scene.
    """

    scenes: tuple[str, ...]
    counts: tuple[OccupancyCounts, ...]

    @property
    def total(self) -> OccupancyCounts:
        """Counts over all samples."""
        return sum(self.counts, OccupancyCounts.none())

    @property
    def figures(self) -> dict[str, float]:
        """Scores over all samples, by name in `FIGURES`."""
        return self.total.figures()


def write_occupancy_predictions(folder: str | Path, predictions: Iterable[tuple[Predictions, str]]) -> int:
    """Writes a file per sample as the predictions come.

    Args:
        folder: made where it is missing; a file of an earlier run is replaced.
        predictions: predictions of a sample and the name of its scene.

    Returns:
        How many files were written.

    Raises:
        ValueError: a sample has no occupancy, one on another grid than the truth's, or a label that is no class; a name
            would lead out of the folder.
    """
    written = 0
    for found, scene in predictions:
        name = f"write_occupancy_predictions: {found.token}"
        if found.occupancy is None:
            raise ValueError(f"{name}: predictions must have occupancy, got none")
        if not _same_voxels(found.occupancy.grid):
            raise ValueError(f"{name}: grid must have the truth's voxels, {OCCUPANCY_GRID}, got {found.occupancy.grid}")
        path = occupancy_prediction_path(folder, scene, found.token)
        labels = found.occupancy.labels.detach().cpu().numpy()
        content = occupancy_prediction_bytes(labels.transpose(2, 1, 0))  # (Z, Y, X) -> (X, Y, Z)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            file.write(content)
        written += 1
    return written


def no_occupancy() -> OccupancyPrediction:
    """Gives what is predicted of a sample in which no sensor saw anything.

    Returns:
        The truth's voxels, all free.
    """
    return OccupancyPrediction(labels=torch.full(OCCUPANCY_GRID.shape, FREE, dtype=torch.uint8), grid=OCCUPANCY_GRID)


def evaluate_occupancy(folder: str | Path, dataroot: str | Path, index: Index, split: str) -> OccupancyReport:
    """Scores the predictions of a split.

    Args:
        folder: of `write_occupancy_predictions`; it may hold more samples.
        dataroot: of a set with occupancy truth.
        index: of the set.
        split: an official one, of which scenes may be missing, or one of the set's own.

    Returns:
        The counts by scene.

    Raises:
        FileNotFoundError: a sample has no prediction or no truth.
        ValueError: a file is damaged, or the split is unknown.
    """
    return _evaluate(
        lambda scene, token: read_occupancy_prediction(occupancy_prediction_path(folder, scene, token)),
        dataroot,
        index,
        split,
    )


def evaluate_occupancy_prior(prior: np.ndarray, dataroot: str | Path, index: Index, split: str) -> OccupancyReport:
    """Scores one prediction for every sample of a split, such as that of `occupancy_prior`.

    Args:
        prior: (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`.
        dataroot: of a set with occupancy truth.
        index: of the set.
        split: as in `evaluate_occupancy`.

    Returns:
        The counts by scene.

    Raises:
        FileNotFoundError: a sample has no truth.
        ValueError: a file is damaged, the split is unknown, or the prediction is no such array.
    """
    return _evaluate(lambda scene, token: prior, dataroot, index, split)


def occupancy_bootstrap(report: OccupancyReport, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Intervals of the scores: scenes drawn with replacement, percentile method.

    Args:
        report: of some predictions.
        draws: how often scenes are drawn.
        seed: of the draws.

    Returns:
        By name in `FIGURES`; NaN where a draw gives nothing to divide by.

    Raises:
        ValueError: there are no draws.
    """
    return intervals_of(_drawn(report, draws, seed), FIGURES)


def paired_occupancy_bootstrap(
    first: OccupancyReport, second: OccupancyReport, draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of how much larger the second's scores are, both on the same drawn scenes.

    Args:
        first: of some predictions.
        second: of others, on the same split.
        draws: how often scenes are drawn.
        seed: of the draws.

    Returns:
        Second minus first, by name in `FIGURES`; a difference is significant at 5 % where 0 is not in the interval.

    Raises:
        ValueError: the reports are of different scenes, or there are no draws.
    """
    if first.scenes != second.scenes:
        raise ValueError(
            "paired_occupancy_bootstrap: both reports must be of the same scenes, "
            f"got {', '.join(first.scenes)} and {', '.join(second.scenes)}"
        )
    return intervals_of(_drawn(second, draws, seed) - _drawn(first, draws, seed), FIGURES)


def scene_lidars(index: Index, scene: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Where the LiDAR was in the course of a scene.

    Args:
        index: of the set.
        scene: name of the scene.

    Returns:
        (S, 3) float64 of all keyframes in the global frame, in the order of time, and the pose `ego2global` (4, 4) of
        each by its token.

    Raises:
        ValueError: there is no such scene, or one of its samples has no LiDAR.
    """
    records = sorted((index.record(int(i)) for i in index.samples_of([scene])), key=lambda record: record.timestamp_us)
    if without := [record.token for record in records if REFERENCE_CHANNEL not in record.sensors]:
        raise ValueError(f"scene_lidars: every sample of {scene} must have {REFERENCE_CHANNEL}, {without[0]} has none")
    lidars = [record.ego2global @ record.sensors[REFERENCE_CHANNEL].sensor2ego for record in records]
    return np.stack(lidars)[:, :3, 3], {record.token: record.ego2global for record in records}


def _evaluate(
    predicted: Callable[[str, str], np.ndarray], dataroot: str | Path, index: Index, split: str
) -> OccupancyReport:
    scorer, positions = OccupancyScorer(), index.samples_of(split)
    tokens, numbers = index.tokens_of(positions), index.scenes_of(positions).tolist()
    samples: dict[str, list[str]] = {}
    for token, number in zip(tokens, numbers, strict=True):
        samples.setdefault(index.scenes[number], []).append(token)
    counts = []
    for scene in sorted(samples):
        lidars, poses = scene_lidars(index, scene)
        found = OccupancyCounts.none()
        for token in samples[scene]:
            truth = read_occupancy(occupancy_truth_path(dataroot, scene, token))
            found += scorer.count(predicted(scene, token), truth, ray_origins(lidars, poses[token]))
        counts.append(found)
    return OccupancyReport(scenes=tuple(sorted(samples)), counts=tuple(counts))


def _drawn(report: OccupancyReport, draws: int, seed: int) -> np.ndarray:
    """(D + 1, K) figures of every draw; the first row is every scene once."""
    repeats = draw_scenes(len(report.scenes), draws, seed)  # (D + 1, S)
    sums = repeats @ np.stack([counts.row() for counts in report.counts])  # (D + 1, S) @ (S, F)
    return np.array([list(OccupancyCounts.from_row(row).figures().values()) for row in sums])


def _same_voxels(grid: Grid) -> bool:
    ends, wanted = ((*one.x_range_m, *one.y_range_m, *one.z_range_m) for one in (grid, OCCUPANCY_GRID))
    return grid.shape == OCCUPANCY_GRID.shape and bool(np.allclose(ends, wanted, rtol=0, atol=1e-6))
