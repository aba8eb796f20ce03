"""Which class is taken for which, and in which samples most goes wrong: matches regardless of the class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from perception.evaluation.detection_matches import DISTANCES_M, match_boxes
from perception.evaluation.detection_metrics import ERROR_DISTANCE_M
from perception.evaluation.detection_report import DetectionReport
from perception.formats.classes import DETECTION_CLASSES

SURE = 0.3
"""Predictions below this score are left out."""

_COLUMN = DISTANCES_M.index(ERROR_DISTANCE_M)
_NOTHING = len(DETECTION_CLASSES)


@dataclass(frozen=True, eq=False)
class Confusion:
    """What annotations were taken for.

    Attributes:
        counts: (11, 11) int64; row: class of the annotation, the last for predictions that hit none; column: class of
            the prediction, the last for annotations that none hit.
        faults: (S,) int64 by sample of the split: annotations that were missed or taken for another class, and
            predictions that hit none.
    """

    counts: np.ndarray
    faults: np.ndarray


def confusion(report: DetectionReport, min_score: float = SURE) -> Confusion:
    """Matches predictions to annotations of any class within 2 m, the better score first, the nearest annotation.

    Args:
        report: of a submission.
        min_score: predictions below are left out.

    Returns:
        What was taken for what.
    """
    num_samples = len(report.sample_scenes)
    truth, found = report.truth, report.predictions.select(report.predictions.scores >= min_score)
    one_class = [replace(boxes, labels=np.zeros_like(boxes.labels)) for boxes in (truth, found)]
    match = match_boxes(one_class[0], one_class[1], num_samples)[DETECTION_CLASSES[0]]
    hits = match.hits[:, _COLUMN]
    true_labels = np.append(truth.labels, _NOTHING)[hits]  # (P,), NO_HIT takes the last
    labels = found.labels[match.predictions]
    counts = np.zeros((_NOTHING + 1, _NOTHING + 1), dtype=np.int64)
    np.add.at(counts, (true_labels, labels), 1)
    missed = np.setdiff1d(np.arange(len(truth)), hits)
    np.add.at(counts, (truth.labels[missed], _NOTHING), 1)
    samples = found.samples[match.predictions]
    wrong = samples[(true_labels != labels) & (samples >= 0)]
    faults = np.bincount(wrong, minlength=num_samples) + np.bincount(truth.samples[missed], minlength=num_samples)
    return Confusion(counts, faults)
