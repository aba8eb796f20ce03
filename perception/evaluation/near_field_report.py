"""Near-field predictions of a split: written, read again, scored scene by scene, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch

from perception.data.index import Index
from perception.evaluation.bootstrap import Interval, draw_scenes, intervals_of
from perception.evaluation.near_field import FIGURES, NearFieldCounts, NearFieldRule, NearFieldScorer
from perception.formats.files import atomic_writer
from perception.formats.near_field import NEAR_FIELD_GRID, read_near_field
from perception.formats.near_field_predictions import (
    near_field_path,
    near_field_prediction_bytes,
    read_near_field_prediction,
)
from perception.structures import NearFieldPrediction, Predictions

TRUTH_FOLDER = "near_field"
"""Where the truth lies in a dataroot."""


@dataclass(frozen=True)
class NearFieldReport:
    """What near-field predictions reach on a split.

    Attributes:
        scenes: names of the scenes of the split, ascending.
        counts: of each scene.
    """

    scenes: tuple[str, ...]
    counts: tuple[NearFieldCounts, ...]

    @property
    def figures(self) -> dict[str, float]:
        """Scores over all samples, by name in `FIGURES`."""
        return sum(self.counts, NearFieldCounts()).figures()


def write_near_field_predictions(folder: str | Path, predictions: Iterable[tuple[Predictions, str]]) -> int:
    """Writes a file per sample as the predictions come.

    Args:
        folder: made where it is missing; a file of an earlier run is replaced.
        predictions: predictions of a sample and the name of its scene.

    Returns:
        How many files were written.

    Raises:
        ValueError: a sample has no near-field prediction, one on another grid than the truth's, or values that are not
            allowed; a name would lead out of the folder.
    """
    written = 0
    for found, scene in predictions:
        if found.near_field is None:
            raise ValueError(
                f"write_near_field_predictions: predictions must have a near field, got none for {found.token}"
            )
        if not _same_cells(found):
            raise ValueError(
                f"write_near_field_predictions: {found.token}: grid must have the truth's cells, "
                f"{NEAR_FIELD_GRID}, got {found.near_field.grid}"
            )
        path = near_field_path(folder, scene, found.token)
        content = near_field_prediction_bytes(found.near_field.occupied.detach().cpu().numpy())
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            file.write(content)
        written += 1
    return written


def no_near_field() -> NearFieldPrediction:
    """Gives what is predicted of a sample in which no sensor saw anything.

    Returns:
        The truth's cells, none of them predicted.
    """
    occupied = torch.full(NEAR_FIELD_GRID.shape[1:], torch.nan)  # (Y, X)
    return NearFieldPrediction(occupied=occupied, grid=NEAR_FIELD_GRID)


def evaluate_near_field(
    folder: str | Path, dataroot: str | Path, index: Index, split: str, rule: NearFieldRule | None = None
) -> NearFieldReport:
    """Scores the predictions of a split.

    Args:
        folder: of `write_near_field_predictions`; it may hold more samples.
        dataroot: of a set with near-field truth.
        index: of the set.
        split: an official one, of which scenes may be missing, or one of the set's own.
        rule: what counts.

    Returns:
        The counts by scene.

    Raises:
        FileNotFoundError: a sample has no prediction or no truth.
        ValueError: a file is damaged, or the split is unknown.
    """
    scorer = NearFieldScorer(rule)
    positions = index.samples_of(split)
    by_scene: dict[str, NearFieldCounts] = {}
    for token, number in zip(index.tokens_of(positions), index.scenes_of(positions).tolist(), strict=True):
        scene = index.scenes[number]
        cells = read_near_field(near_field_path(Path(dataroot) / TRUTH_FOLDER, scene, token))
        found = read_near_field_prediction(near_field_path(folder, scene, token))
        by_scene[scene] = by_scene.get(scene, NearFieldCounts()) + scorer.count(found, cells)
    scenes = tuple(sorted(by_scene))
    return NearFieldReport(scenes=scenes, counts=tuple(by_scene[scene] for scene in scenes))


def near_field_bootstrap(report: NearFieldReport, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
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


def paired_near_field_bootstrap(
    first: NearFieldReport, second: NearFieldReport, draws: int = 1000, seed: int = 0
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
            "paired_near_field_bootstrap: both reports must be of the same scenes, "
            f"got {', '.join(first.scenes)} and {', '.join(second.scenes)}"
        )
    return intervals_of(_drawn(second, draws, seed) - _drawn(first, draws, seed), FIGURES)


def _drawn(report: NearFieldReport, draws: int, seed: int) -> np.ndarray:
    """(D + 1, K) figures of every draw; the first row is every scene once."""
    repeats = draw_scenes(len(report.scenes), draws, seed)  # (D + 1, S)
    sums = repeats @ np.array([astuple(counts) for counts in report.counts])  # (D + 1, S) @ (S, F)
    return np.array([list(NearFieldCounts(*row).figures().values()) for row in sums.tolist()])


def _same_cells(found: Predictions) -> bool:
    assert found.near_field is not None, "the caller checked it"
    grid, wanted = found.near_field.grid, NEAR_FIELD_GRID
    ends, wanted_ends = ((*one.x_range_m, *one.y_range_m) for one in (grid, wanted))
    return grid.shape[1:] == wanted.shape[1:] and bool(np.allclose(ends, wanted_ends, rtol=0, atol=1e-6))
