"""The nuScenes detection metrics, number for number those of the devkit, from matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.evaluation.detection_matches import DISTANCES_M, IGNORED, ClassMatches
from perception.evaluation.eval_boxes import EvalBoxes
from perception.formats.classes import CLASS_RANGE_M, DETECTION_CLASSES
from perception.formats.nuscenes_boxes import yaw_of_rotations
from perception.formats.submission import MAX_BOXES_PER_SAMPLE

ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
ERROR_DISTANCE_M = 2.0
"""Errors of true positives are those of the hits at this distance."""

MIN_RECALL = 0.1
MIN_PRECISION = 0.1
MEAN_AP_WEIGHT = 5
_RECALLS = np.linspace(0, 1, 101)
_UPRIGHT = 1e-5
"""A heading of which less than this is left in the ground plane is given to the devkit's own function."""
_FIRST = round(100 * MIN_RECALL) + 1
_NO_ERROR_OF = {"traffic_cone": ("attr_err", "vel_err", "orient_err"), "barrier": ("attr_err", "vel_err")}


@dataclass(frozen=True, eq=False)
class Curves:
    """One class at one distance, at 101 recalls from 0 to 1.

    Attributes:
        precision: (101,) float64, 0 beyond the recall that is reached.
        confidence: (101,) float64 score at which the recall is reached, 0 beyond.
        errors: name to (101,) float64, mean error of the hits down to that score.
    """

    precision: np.ndarray
    confidence: np.ndarray
    errors: dict[str, np.ndarray]

    @staticmethod
    def nothing_found() -> Curves:
        """The curves of a class without annotation or without a hit."""
        return Curves(np.zeros(101), np.zeros(101), {name: np.ones(101) for name in ERRORS})

    @property
    def average_precision(self) -> float:
        """Mean precision beyond 10 % recall and above 10 % precision, scaled to 0..1."""
        clipped = np.maximum(self.precision[_FIRST:] - MIN_PRECISION, 0)
        return float(np.mean(clipped)) / (1.0 - MIN_PRECISION)

    def mean_error(self, name: str) -> float:
        """Mean of an error from 10 % recall to the highest that is reached; 1 where 10 % are not reached."""
        reached = np.flatnonzero(self.confidence)
        last = reached[-1] if len(reached) else 0
        return float(np.mean(self.errors[name][_FIRST : last + 1])) if last >= _FIRST else 1.0


def curves(scores: np.ndarray, hit: np.ndarray, errors: Mapping[str, np.ndarray], num_truth: int) -> Curves:
    """Precision, score and errors over recall.

    Args:
        scores: (P,) float64, falling.
        hit: (P,) bool.
        errors: (H,) of each hit, in the order of the scores; NaN where there is none.
        num_truth: annotations of the class.

    Returns:
        The curves.

    Raises:
        ValueError: the confidence does not fall, as a score is negative or too large to interpolate.
    """
    if num_truth == 0 or not hit.any():
        return Curves.nothing_found()
    true_positives = np.cumsum(hit).astype(np.float64)
    recall = true_positives / float(num_truth)
    precision = np.interp(_RECALLS, recall, true_positives / np.arange(1, len(hit) + 1), right=0)
    with np.errstate(invalid="ignore", over="ignore"):
        confidence = np.interp(_RECALLS, recall, scores, right=0)
        rises = ~(np.diff(confidence) <= 0).all()
    if rises:
        raise ValueError(
            f"curves: scores must be >= 0 and not too large to interpolate, got {scores.min()} to {scores.max()}"
        )
    hit_scores = scores[hit][::-1]
    over_recall = {
        name: np.interp(confidence[::-1], hit_scores, _cumulative_mean(errors[name])[::-1])[::-1] for name in ERRORS
    }
    return Curves(precision, confidence, over_recall)


def hit_errors(truth: EvalBoxes, predictions: EvalBoxes, rows: np.ndarray, hits: np.ndarray) -> dict[str, np.ndarray]:
    """How far hits are off.

    Args:
        truth: annotations.
        predictions: predictions.
        rows: (H,) int64 predictions.
        hits: (H,) int64 the annotations that they hit.

    Returns:
        By name (H,): distance of the centres in metres, 1 - overlap of the aligned sizes, difference of the headings
        in radians (barriers modulo half a turn), of the velocities in m/s, and 0 or 1 for the attribute; NaN where the
        annotation has none.
    """
    offsets = predictions.translations[rows, :2] - truth.translations[hits, :2]  # (H, 2)
    drift = predictions.velocities[rows] - truth.velocities[hits]  # (H, 2)
    sizes, true_sizes = predictions.sizes_wlh[rows], truth.sizes_wlh[hits]  # (H, 3)
    with np.errstate(invalid="ignore", over="ignore"):
        common = np.prod(np.minimum(sizes, true_sizes), axis=1)
        overlap = common / (np.prod(true_sizes, axis=1) + np.prod(sizes, axis=1) - common)
        period = np.where(truth.labels[hits] == DETECTION_CLASSES.index("barrier"), np.pi, 2 * np.pi)
        turn = _yaws(truth.rotations_wxyz[hits]) - _yaws(predictions.rotations_wxyz[rows])
        turn = (turn + period / 2) % period - period / 2
        wrong = (predictions.attributes[rows] != truth.attributes[hits]).astype(np.float64)
        return {
            "trans_err": np.sqrt(np.square(offsets).sum(axis=1)),
            "scale_err": 1 - overlap,
            "orient_err": np.abs(turn),
            "vel_err": np.sqrt(np.square(drift).sum(axis=1)),
            "attr_err": np.where(truth.attributes[hits] < 0, np.nan, wrong),
        }


def all_curves(
    truth: EvalBoxes, predictions: EvalBoxes, matches: Mapping[str, ClassMatches]
) -> dict[tuple[str, float], Curves]:
    """The curves of every class and distance.

    Args:
        truth: annotations.
        predictions: predictions.
        matches: of these two.

    Returns:
        Curves by class and distance in metres.
    """
    found = {}
    for name, match in matches.items():
        for column, distance_m in enumerate(DISTANCES_M):
            counted = match.hits[:, column] != IGNORED
            hits = match.hits[counted, column]
            hit = hits >= 0
            errors = hit_errors(truth, predictions, match.predictions[counted][hit], hits[hit])
            found[name, distance_m] = curves(match.scores[counted], hit, errors, len(match.truth))
    return found


def summarize(found: Mapping[tuple[str, float], Curves]) -> dict[str, Any]:
    """The figures of `metrics_summary.json`, without the time and the description of the detector.

    Args:
        found: curves of every class and distance.

    Returns:
        `label_aps`, `mean_dist_aps`, `mean_ap`, `label_tp_errors`, `tp_errors`, `tp_scores`, `nd_score` and `cfg`.
    """
    aps = {
        name: {distance_m: found[name, distance_m].average_precision for distance_m in DISTANCES_M}
        for name in DETECTION_CLASSES
    }
    errors = {
        name: {
            error: np.nan if error in _NO_ERROR_OF.get(name, ()) else found[name, ERROR_DISTANCE_M].mean_error(error)
            for error in ERRORS
        }
        for name in DETECTION_CLASSES
    }
    mean_dist_aps = {name: float(np.mean(list(by_distance.values()))) for name, by_distance in aps.items()}
    mean_ap = float(np.mean(list(mean_dist_aps.values())))
    tp_errors = {error: float(np.nanmean([errors[name][error] for name in DETECTION_CLASSES])) for error in ERRORS}
    tp_scores = {error: max(0.0, 1.0 - value) for error, value in tp_errors.items()}
    total = float(MEAN_AP_WEIGHT * mean_ap + np.sum(list(tp_scores.values())))
    return {
        "label_aps": aps,
        "mean_dist_aps": mean_dist_aps,
        "mean_ap": mean_ap,
        "label_tp_errors": errors,
        "tp_errors": tp_errors,
        "tp_scores": tp_scores,
        "nd_score": total / float(MEAN_AP_WEIGHT + len(ERRORS)),
        "cfg": {
            "class_range": dict(CLASS_RANGE_M),
            "dist_fcn": "center_distance",
            "dist_ths": list(DISTANCES_M),
            "dist_th_tp": ERROR_DISTANCE_M,
            "min_recall": MIN_RECALL,
            "min_precision": MIN_PRECISION,
            "max_boxes_per_sample": MAX_BOXES_PER_SAMPLE,
            "mean_ap_weight": MEAN_AP_WEIGHT,
        },
    }


def mean_of_present(precisions: Mapping[str, float], num_truth: Mapping[str, int]) -> float:
    """Mean over the classes that a part of a split has; the official mean counts absent ones as 0.

    Args:
        precisions: average precision by class.
        num_truth: annotations by class.

    Returns:
        The mean, NaN where no class is there.
    """
    present = [precisions[name] for name, count in num_truth.items() if count]
    return float(np.mean(present)) if present else float("nan")


def _yaws(rotations_wxyz: np.ndarray) -> np.ndarray:
    """(H,) headings of x axes; of one that stands upright, the heading that the devkit's rounding leaves."""
    yaws = yaw_of_rotations(rotations_wxyz)
    w, x, y, z = rotations_wxyz.T
    upright = (np.abs(w * w + x * x - y * y - z * z) < _UPRIGHT) & (2 * np.abs(x * y + w * z) < _UPRIGHT)
    for row in np.flatnonzero(upright):
        yaws[row] = _yaw_by_devkit(rotations_wxyz[row])
    return yaws


def _yaw_by_devkit(rotation_wxyz: np.ndarray) -> float:
    from nuscenes.eval.common.utils import quaternion_yaw
    from nuscenes.utils.data_classes import Quaternion

    return float(quaternion_yaw(Quaternion(rotation_wxyz)))


def _cumulative_mean(values: np.ndarray) -> np.ndarray:
    """(H,) mean of the values up to each, NaN left out; 0 before the first number, 1 if there is none at all."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    counts = np.cumsum(known)
    sums = np.nancumsum(values)
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts != 0)
