"""Whether scores mean what they say: of boxes with a score of 0.7, do 70 % hit something?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.evaluation.detection_matches import DISTANCES_M, IGNORED, ClassMatches
from perception.evaluation.detection_metrics import ERROR_DISTANCE_M
from perception.evaluation.detection_report import DetectionReport

_COLUMN = DISTANCES_M.index(ERROR_DISTANCE_M)


@dataclass(frozen=True, eq=False)
class Reliability:
    """The predictions of a class in bins of equal width from score 0 to 1.

    Attributes:
        counts: (B,) int64 predictions with a score in the bin.
        confidences: (B,) float64 their mean score, NaN in an empty bin.
        precisions: (B,) float64 the share of them that hit an annotation of their class within 2 m, NaN likewise.
    """

    counts: np.ndarray
    confidences: np.ndarray
    precisions: np.ndarray

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean over all predictions of how far their bin's score is off; NaN for none.

        Source: Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015, section 3.
        """
        if not self.counts.sum():
            return float("nan")
        return float(np.nansum(self.counts * np.abs(self.precisions - self.confidences)) / self.counts.sum())


def reliability(report: DetectionReport, bins: int = 10) -> dict[str, Reliability]:
    """How often predictions of each score hit, class by class.

    Args:
        report: of a submission, or of a slice, whose ignored predictions do not count.
        bins: B, how many there are; the lower bound belongs to a bin, and 1 to the last. Scores above 1 are in the
            last bin too.

    Returns:
        By class.

    Raises:
        ValueError: there are no bins.
    """
    if bins < 1:
        raise ValueError(f"reliability: bins must be >= 1, got {bins}")
    return {name: _of_class(match, bins) for name, match in report.matches.items()}


def _of_class(match: ClassMatches, bins: int) -> Reliability:
    hits = match.hits[:, _COLUMN]
    scores, hit = match.scores[hits != IGNORED], hits[hits != IGNORED] >= 0
    places = np.clip(np.floor(scores * bins), 0, bins - 1).astype(np.int64)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidences = np.bincount(places, weights=scores, minlength=bins) / counts
        precisions = np.bincount(places, weights=hit, minlength=bins) / counts
    return Reliability(counts, confidences, precisions)
