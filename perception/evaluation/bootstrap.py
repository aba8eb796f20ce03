"""How sure a score is: intervals from drawing scenes with replacement, for one submission or two on the same scenes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception.evaluation.detection_matches import DISTANCES_M, IGNORED
from perception.evaluation.detection_metrics import ERRORS, curves, hit_errors, mean_of_present, summarize
from perception.evaluation.detection_report import DetectionReport
from perception.formats.classes import DETECTION_CLASSES

SMALL_CLASSES = ("pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier")
"""Classes of which few LiDAR points lie on an object."""

PRESENT = "mAP of present classes"
"""The mean over the classes that have annotations, which is what slices are compared by."""

SCORES = ("mAP", "NDS", "mAP of small classes", PRESENT, *DETECTION_CLASSES)
"""What is resampled: the overall scores, and the average precision of each class over the four distances."""


@dataclass(frozen=True)
class Interval:
    """A figure and the range that holds it with 95 %.

    Attributes:
        value: on all scenes.
        low: 2.5 % quantile over the draws.
        high: 97.5 % quantile over the draws.
    """

    value: float
    low: float
    high: float

    @property
    def has_range(self) -> bool:
        """Whether there is a range: not of one scene, without draws, or where a draw leaves the figure undefined."""
        return not (math.isnan(self.low) or math.isnan(self.high))


@dataclass(frozen=True, eq=False)
class _Sorted:
    """A class's predictions as the curves need them, and their scenes."""

    scenes: np.ndarray  # (P,)
    scores: np.ndarray  # (P,)
    hits: np.ndarray  # (P, 4) bool
    counted: np.ndarray  # (P, 4) bool: not ignored
    errors: list[dict[str, np.ndarray]]  # of the hits at each distance
    truth_by_scene: np.ndarray  # (K,)


def bootstrap(report: DetectionReport, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Intervals of a submission's scores: scenes drawn with replacement, percentile method.

    A class that a draw has no annotation of counts as 0 in its mAP and NDS, as in the devkit's; it drops out of the
    mean over the classes that are there, and a class that may be absent has no range of its own.

    Args:
        report: of the submission.
        draws: how often scenes are drawn.
        seed: of the draws.

    Returns:
        By name in `SCORES`.

    Raises:
        ValueError: there are no draws.
    """
    values = _drawn(report, draw_scenes(len(report.scenes), draws, seed))  # (D + 1, K)
    return intervals_of(values, SCORES)


def paired_bootstrap(
    first: DetectionReport, second: DetectionReport, draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of how much better the second submission is, both scored on the same drawn scenes.

    Args:
        first: of one submission.
        second: of another, on the same split.
        draws: how often scenes are drawn.
        seed: of the draws.

    Returns:
        Second minus first, by name in `SCORES`; a difference is significant at 5 % where 0 is not in the interval.

    Raises:
        ValueError: the reports are of different scenes, or there are no draws.
    """
    if first.scenes != second.scenes:
        raise ValueError(
            "paired_bootstrap: both reports must be of the same scenes, "
            f"got {', '.join(first.scenes)} and {', '.join(second.scenes)}"
        )
    counts = draw_scenes(len(first.scenes), draws, seed)
    return intervals_of(_drawn(second, counts) - _drawn(first, counts), SCORES)


def draw_scenes(num_scenes: int, draws: int, seed: int) -> np.ndarray:
    """Draws scenes with replacement.

    Args:
        num_scenes: S, how many there are.
        draws: D, how often as many are drawn.
        seed: of the draws.

    Returns:
        (D + 1, S) how often each scene is in each draw; the first row is every scene once. One scene varies with none:
        it is there once, and no draw of it.

    Raises:
        ValueError: there are no draws.
    """
    if draws < 1:
        raise ValueError(f"bootstrap: draws must be >= 1, got {draws}")
    once = np.ones((1, num_scenes), dtype=np.int64)
    if num_scenes < 2:
        return once
    drawn = np.random.default_rng(seed).multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), size=draws)
    return np.concatenate([once, drawn])


def intervals_of(values: np.ndarray, names: Sequence[str]) -> dict[str, Interval]:
    """Figures with the range of their draws.

    Args:
        values: (D + 1, K) figures, first those on all scenes, then those of every draw; without draws ranges are NaN.
        names: of the K figures.

    Returns:
        By name.
    """
    drawn = values[1:] if len(values) > 1 else np.full_like(values, np.nan)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)  # (K,) each
    return {name: Interval(float(values[0, k]), float(low[k]), float(high[k])) for k, name in enumerate(names)}


def _drawn(report: DetectionReport, counts: np.ndarray) -> np.ndarray:
    """(D + 1, K) scores of every draw."""
    classes = {name: _sorted_class(report, name) for name in DETECTION_CLASSES}
    return np.array([_scores(classes, count) for count in counts])


def _sorted_class(report: DetectionReport, name: str) -> _Sorted:
    match = report.matches[name]
    hits = match.hits >= 0
    errors = [
        hit_errors(report.truth, report.predictions, match.predictions[hit], match.hits[hit, column])
        for column, hit in enumerate(hits.T)
    ]
    samples = report.predictions.samples[match.predictions]
    scenes = report.sample_scenes[report.truth.samples[match.truth]]
    return _Sorted(
        scenes=report.sample_scenes[np.maximum(samples, 0)],
        scores=match.scores,
        hits=hits,
        counted=match.hits != IGNORED,
        errors=errors,
        truth_by_scene=np.bincount(scenes, minlength=len(report.scenes)),
    )


def _scores(classes: Mapping[str, _Sorted], counts: np.ndarray) -> Sequence[float]:
    """The scores where each scene counts so often."""
    found = {}
    num_truths = {name: int(one.truth_by_scene @ counts) for name, one in classes.items()}
    for name, one in classes.items():
        for column, distance_m in enumerate(DISTANCES_M):
            hit = one.hits[:, column]
            repeats = counts[one.scenes] * one.counted[:, column]  # (P,)
            errors = {error: np.repeat(one.errors[column][error], repeats[hit]) for error in ERRORS}
            found[name, distance_m] = curves(
                np.repeat(one.scores, repeats), np.repeat(hit, repeats), errors, num_truths[name]
            )
    summary = summarize(found)
    precisions = summary["mean_dist_aps"]
    small = float(np.mean([precisions[name] for name in SMALL_CLASSES]))
    present = mean_of_present(precisions, num_truths)
    for name, one in classes.items():
        if not num_truths[name] and one.truth_by_scene.any():
            precisions[name] = math.nan
    return [summary["mean_ap"], summary["nd_score"], small, present, *precisions.values()]
