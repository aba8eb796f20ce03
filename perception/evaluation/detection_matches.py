"""Which prediction hits which annotation, for every class and distance of the nuScenes detection metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from perception.evaluation.eval_boxes import EvalBoxes
from perception.formats.classes import DETECTION_CLASSES

DISTANCES_M = (0.5, 1.0, 2.0, 4.0)
"""A prediction hits an annotation that is nearer than this (configuration `detection_cvpr_2019`)."""

NO_HIT = -1
IGNORED = -2
"""What `hits` holds of a prediction that counts neither as a hit nor as a false alarm."""

_UNDECIDED_M = 1e-9
"""Distances closer to each other than this are compared as the devkit computes them."""


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The predictions and annotations of one class.

    Attributes:
        predictions: (P,) int64 rows of the predictions, best score first; of equal scores the later one first.
        scores: (P,) float64 their scores.
        hits: (P, 4) int64 row of the annotation that the prediction hits at each of `DISTANCES_M`, NO_HIT or IGNORED.
        truth: (G,) int64 rows of the annotations.
    """

    predictions: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    truth: np.ndarray


def match_boxes(truth: EvalBoxes, predictions: EvalBoxes, num_samples: int) -> dict[str, ClassMatches]:
    """Matches predictions to annotations as the devkit does.

    By falling score, each prediction takes the nearest annotation of its class in its sample that none has taken
    before it, if that one is near enough.

    Args:
        truth: annotations, sample by sample.
        predictions: in any order; `samples` of -1 hit nothing.
        num_samples: of the split.

    Returns:
        Matches of each of `DETECTION_CLASSES`.
    """
    return {name: _match_class(truth, predictions, label, num_samples) for label, name in enumerate(DETECTION_CLASSES)}


def _match_class(truth: EvalBoxes, predictions: EvalBoxes, label: int, num_samples: int) -> ClassMatches:
    of_truth = np.flatnonzero(truth.labels == label)  # (G,)
    of_predictions = np.flatnonzero(predictions.labels == label)
    order = np.argsort(predictions.scores[of_predictions], kind="stable")[::-1]
    of_predictions = of_predictions[order]  # (P,)
    samples = predictions.samples[of_predictions]
    first = np.searchsorted(truth.samples[of_truth], np.arange(num_samples + 1))  # (S + 1,)
    found_xy = np.ascontiguousarray(predictions.translations[of_predictions, :2])  # (P, 2)
    truth_xy = np.ascontiguousarray(truth.translations[of_truth, :2])  # (G, 2)
    hits, undecided = _match(found_xy, samples, truth_xy, first, np.array(DISTANCES_M))
    for sample in np.flatnonzero(undecided):
        rows = np.flatnonzero(samples == sample)
        start, stop = first[sample], first[sample + 1]
        local = _match_by_norm(found_xy[rows], truth_xy[start:stop])  # (R, 4)
        hits[rows] = np.where(local >= 0, local + start, NO_HIT)
    return ClassMatches(
        predictions=of_predictions,
        scores=predictions.scores[of_predictions],
        hits=np.where(hits >= 0, of_truth[hits] if len(of_truth) else NO_HIT, NO_HIT),
        truth=of_truth,
    )


@numba.njit(cache=True, nogil=True)
def _match(
    found_xy: np.ndarray, samples: np.ndarray, truth_xy: np.ndarray, first: np.ndarray, limits_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(P, 4) int64 hits, and (S,) bool: samples in which rounding decides."""
    hits = np.full((len(found_xy), len(limits_m)), NO_HIT, dtype=np.int64)
    taken = np.zeros((len(truth_xy), len(limits_m)), dtype=np.bool_)
    undecided = np.zeros(len(first) - 1, dtype=np.bool_)
    for row in range(len(found_xy)):
        sample = samples[row]
        if sample < 0:
            continue
        for column in range(len(limits_m)):
            best, nearest = np.inf, -1
            for other in range(first[sample], first[sample + 1]):
                if taken[other, column]:
                    continue
                dx, dy = found_xy[row, 0] - truth_xy[other, 0], found_xy[row, 1] - truth_xy[other, 1]
                distance = math.sqrt(dx * dx + dy * dy)
                if nearest >= 0 and abs(distance - best) <= _UNDECIDED_M:
                    undecided[sample] = True
                if distance < best:
                    best, nearest = distance, other
            if nearest >= 0 and abs(best - limits_m[column]) <= _UNDECIDED_M:
                undecided[sample] = True
            if best < limits_m[column]:
                hits[row, column] = nearest
                taken[nearest, column] = True
    return hits, undecided


def _match_by_norm(found_xy: np.ndarray, truth_xy: np.ndarray) -> np.ndarray:
    """(R, 4) hits in one sample by numpy's norm, whose fused multiply-add decides between nearly equal distances."""
    distances = np.array([[np.linalg.norm(found - truth) for truth in truth_xy] for found in found_xy])  # (R, G)
    hits = np.full((len(found_xy), len(DISTANCES_M)), NO_HIT, dtype=np.int64)
    for column, limit_m in enumerate(DISTANCES_M):
        free = np.ones(len(truth_xy), dtype=bool)
        for row, distance in enumerate(distances):
            candidates = np.where(free, distance, np.inf)
            nearest = int(candidates.argmin())
            if candidates[nearest] < limit_m:
                hits[row, column] = nearest
                free[nearest] = False
    return hits
