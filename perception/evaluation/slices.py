"""The detection metrics of a part of the split: far annotations, hidden ones, those with few points, bad weather."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from perception.evaluation.detection_matches import IGNORED, NO_HIT, ClassMatches
from perception.evaluation.detection_metrics import all_curves, summarize
from perception.evaluation.detection_report import DetectionReport

RINGS_M = ((0, 20), (20, 30), (30, 50))
"""Distances from the ego vehicle, the farther bound excluded."""

POINT_LIMITS = (5, 50)
"""Annotations with at most so many LiDAR points are hard, and of middling difficulty."""

CONDITIONS = ("night", "dusk", "dawn", "rain", "snow", "fog", "glare")
"""How words on light and weather begin in descriptions of scenes."""

OTHER_SCENES = "other scenes"
"""The slice of scenes whose description has none of them."""


def standard_slices(report: DetectionReport) -> dict[str, DetectionReport]:
    """The report of every ring of distance, number of LiDAR points and visibility, and of scenes by light and weather.

    Light and weather are what the descriptions of the scenes say in words of `CONDITIONS`; where none says anything,
    there are no such slices.

    Args:
        report: of the whole split.

    Returns:
        By name, such as `30-50 m`, `points <= 5`, `visibility 1` or `night`.
    """
    truth, predictions = report.truth, report.predictions
    found = {}
    for low, high in RINGS_M:
        in_ring = [(low <= boxes.ego_distances_m) & (boxes.ego_distances_m < high) for boxes in (truth, predictions)]
        found[f"{low}-{high} m"] = slice_report(report, in_ring[0], in_ring[1])
    few, some = POINT_LIMITS
    found[f"points <= {few}"] = slice_report(report, truth.num_lidar_pts <= few)
    found[f"points {few + 1}-{some}"] = slice_report(
        report, (few < truth.num_lidar_pts) & (truth.num_lidar_pts <= some)
    )
    found[f"points > {some}"] = slice_report(report, truth.num_lidar_pts > some)
    for level in range(1, 5):
        found[f"visibility {level}"] = slice_report(report, truth.visibility == level)
    return found | condition_slices(report)


def condition_slices(report: DetectionReport) -> dict[str, DetectionReport]:
    """The report of the scenes of each light and weather.

    Args:
        report: of the whole split.

    Returns:
        By word of `CONDITIONS` that some description has, and `OTHER_SCENES` for scenes without any; empty where no
        description has one.
    """
    words = np.array([[_has(text, word) for word in CONDITIONS] for text in report.descriptions], dtype=bool)
    words = words.reshape(-1, len(CONDITIONS))  # (K, W)
    if not words.any():
        return {}
    scenes = {word: column for word, column in zip(CONDITIONS, words.T, strict=True) if column.any()}
    if not words.any(axis=1).all():
        scenes[OTHER_SCENES] = ~words.any(axis=1)
    found = {}
    for name, of_scene in scenes.items():
        of_sample = np.append(of_scene[report.sample_scenes], True)  # the last is that of boxes that name no sample
        found[name] = slice_report(report, of_sample[report.truth.samples], of_sample[report.predictions.samples])
    return found


def slice_report(
    report: DetectionReport, of_truth: np.ndarray, of_predictions: np.ndarray | None = None
) -> DetectionReport:
    """The metrics of some of the annotations.

    Predictions keep the annotations that they hit in the whole split. One that hits an annotation outside the slice
    counts neither as a hit nor as a false alarm; one that hits nothing is a false alarm of this slice too, unless
    `of_predictions` says otherwise.

    Args:
        report: of the whole split.
        of_truth: (G,) bool, annotations that belong to the slice.
        of_predictions: (P,) bool, predictions that count as false alarms where they hit nothing; None means all.

    Returns:
        The report of the slice.

    Raises:
        ValueError: a mask does not have an entry per box.
    """
    if of_predictions is None:
        of_predictions = np.ones(len(report.predictions), dtype=bool)
    for name, mask, boxes in (
        ("of_truth", of_truth, report.truth),
        ("of_predictions", of_predictions, report.predictions),
    ):
        if mask.shape != (len(boxes),) or mask.dtype != bool:
            raise ValueError(f"slice_report: {name} must be ({len(boxes)},) bool, got {mask.shape} {mask.dtype}")
    matches = {name: _slice_class(match, of_truth, of_predictions) for name, match in report.matches.items()}
    found = all_curves(report.truth, report.predictions, matches)
    kept = {key: report.summary[key] for key in ("eval_time", "meta")}
    return replace(report, summary=summarize(found) | kept, curves=found, matches=matches)


def _slice_class(match: ClassMatches, of_truth: np.ndarray, of_predictions: np.ndarray) -> ClassMatches:
    alarm = of_predictions[match.predictions][:, None] & (match.hits == NO_HIT)  # (P, 4)
    hit = (match.hits >= 0) & np.append(of_truth, [False, False])[match.hits]  # the last ones stand for what is no row
    return replace(match, hits=np.where(hit | alarm, match.hits, IGNORED), truth=match.truth[of_truth[match.truth]])


def _has(description: str, word: str) -> bool:
    return re.search(rf"\b{word}", description, re.IGNORECASE) is not None
