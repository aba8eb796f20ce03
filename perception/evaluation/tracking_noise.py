"""A detector's own errors, measured by class on annotated samples, as the Kalman tracker's settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from perception.evaluation.detection_matches import DISTANCES_M, ClassMatches
from perception.evaluation.detection_report import DetectionReport
from perception.evaluation.eval_boxes import EvalBoxes
from perception.formats.nuscenes_boxes import yaw_of_rotations
from perception.tracking.kalman import NOISE, ClassNoise

_HIT = DISTANCES_M.index(2.0)  # what counts as the same object in tracking
_LEAST = 0.02  # no error is believed to be smaller, in metres, metres per second and radians


def measure_noise(
    report: DetectionReport, base: Mapping[str, ClassNoise] = NOISE, min_matches: int = 50
) -> dict[str, ClassNoise]:
    """Measures how far detections lie from the annotations that they hit within 2 m.

    Args:
        report: of `evaluate_submission`, on samples other than those to be tracked.
        base: how objects move, and the errors of classes with too few hits; the classes of the result.
        min_matches: so many hits are needed.

    Returns:
        By class, root mean squares of the errors: place and velocity along each axis, height, size, and yaw modulo half
        a turn.
    """
    measured = {}
    for name, noise in base.items():
        found, truth = _hits(report.matches[name], report.predictions, report.truth)
        measured[name] = dataclasses.replace(noise, **_errors(found, truth)) if len(found) >= min_matches else noise
    return measured


def _hits(matches: ClassMatches, predictions: EvalBoxes, truth: EvalBoxes) -> tuple[EvalBoxes, EvalBoxes]:
    hits = matches.hits[:, _HIT]  # (P,)
    return predictions.select(matches.predictions[hits >= 0]), truth.select(hits[hits >= 0])


def _errors(found: EvalBoxes, truth: EvalBoxes) -> dict[str, float]:
    turn = yaw_of_rotations(found.rotations_wxyz) - yaw_of_rotations(truth.rotations_wxyz)
    offsets = found.translations - truth.translations
    errors = {
        "position_m": offsets[:, :2],
        "velocity_m_s": found.velocities - truth.velocities,
        "height_m": offsets[:, 2],
        "size_m": found.sizes_wlh - truth.sizes_wlh,
        "yaw_rad": (turn + np.pi / 2) % np.pi - np.pi / 2,
    }
    known = {name: error[np.isfinite(error)] for name, error in errors.items()}
    return {name: max(_LEAST, float(np.sqrt(np.square(error).mean()))) for name, error in known.items() if len(error)}
