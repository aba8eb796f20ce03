"""A submission scored on a split: the official detection metrics without the devkit, many times as fast."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.data.index import Index
from perception.evaluation.detection_matches import ClassMatches, match_boxes
from perception.evaluation.detection_metrics import ERRORS, Curves, all_curves, mean_of_present, summarize
from perception.evaluation.eval_boxes import EvalBoxes, annotated_boxes, filter_boxes, predicted_boxes
from perception.evaluation.official import SUMMARY_NAME
from perception.evaluation.split_results import read_detections, score_faults, tell_of_other_samples
from perception.formats.files import atomic_writer
from perception.formats.result_files import place_of, raise_faults
from perception.formats.submission_reader import Submission

_LOG = logging.getLogger(__name__)
DETAILS_NAME = "metrics_details.json"


@dataclass(frozen=True, eq=False)
class DetectionReport:
    """What a submission reaches on a split, and what the figures are made of.

    Attributes:
        summary: as `metrics_summary.json` of the devkit has it.
        curves: by class and distance in metres.
        matches: by class.
        truth: the annotations that were evaluated.
        predictions: the predictions that were evaluated.
        sample_scenes: (S,) int64 scene of each sample of the split, as a position in `scenes`.
        scenes: names of the scenes of the split.
        descriptions: what the set says of each scene.
    """

    summary: dict[str, Any]
    curves: dict[tuple[str, float], Curves]
    matches: dict[str, ClassMatches]
    truth: EvalBoxes
    predictions: EvalBoxes
    sample_scenes: np.ndarray
    scenes: tuple[str, ...]
    descriptions: tuple[str, ...] = ()

    @property
    def num_truth(self) -> dict[str, int]:
        """How many annotations are evaluated, by class."""
        return {name: len(match.truth) for name, match in self.matches.items()}

    @property
    def mean_of_present(self) -> float:
        """Mean average precision over the classes that have annotations, as for slices; NaN where none has."""
        return mean_of_present(self.summary["mean_dist_aps"], self.num_truth)


def evaluate_submission(results_path: str | Path, index: Index, split: str) -> DetectionReport:
    """Scores a submission with the nuScenes detection metrics (configuration `detection_cvpr_2019`).

    Every figure equals the devkit's. Where the devkit gives up, because the whole submission has no box or the whole
    split no annotation, all precisions are 0, all errors 1, and a warning says why; so it does where the filters leave
    none of them. A box that names another sample than the one it stands under is matched in that one, as by the devkit;
    a warning counts them.

    Args:
        results_path: the submission. For an official split it must hold exactly the samples that the set has of it;
            for one of the set's own it may hold more of the set's.
        index: of a set with annotations.
        split: an official one, of which scenes may be missing, or one of the set's own.

    Returns:
        The figures, the curves and the matches.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no submission or does not fit the split or the set, the split is unknown, a score is
            negative, not finite (as many as ten are named) or too large to interpolate, or the set has no annotations.
    """
    start = time.perf_counter()
    if not index.has_annotations:
        raise ValueError(f"evaluate_submission: the set must have annotations, {index.version} has none")
    positions = index.samples_of(split)
    submission = read_detections(results_path, index, split)
    raise_faults(Path(results_path), score_faults(submission), "evaluate_submission")
    tell_of_other_samples(results_path, submission, "matched")
    truth, racks = annotated_boxes(index, positions)
    predictions, keys = predicted_boxes(submission, index, positions)
    all_boxes = {"prediction": (predictions, keys), "annotation of a detection class": (truth, truth.samples)}
    predictions, truth = (filter_boxes(boxes, samples, racks) for boxes, samples in all_boxes.values())
    for (kind, (boxes, _)), kept in zip(all_boxes.items(), (predictions, truth), strict=True):
        if not len(kept):
            what = f"{kind} that the filters leave" if len(boxes) else kind
            _LOG.warning("%s: there is not one %s in the split %s; every precision is 0", results_path, what, split)
    matches = match_boxes(truth, predictions, len(positions))
    try:
        found = all_curves(truth, predictions, matches)
    except ValueError as error:
        raise ValueError(f"evaluate_submission: {results_path}: {_largest_score(submission)}: {error}") from error
    summary = summarize(found)
    summary["eval_time"] = time.perf_counter() - start
    summary["meta"] = submission.meta
    names, sample_scenes = np.unique(index.scenes_of(positions), return_inverse=True)
    scenes = tuple(index.scenes[scene] for scene in names)
    descriptions = tuple(index.scene(name).description for name in scenes)
    return DetectionReport(
        summary, found, matches, truth, predictions, sample_scenes.astype(np.int64), scenes, descriptions
    )


def _largest_score(submission: Submission) -> str:
    row = int(np.argmax(submission.scores))
    sample, box = place_of(submission.offsets, row)
    return f"sample {submission.sample_tokens[sample]!r}: box {box}, field detection_score"


def write_metrics(report: DetectionReport, out_dir: str | Path) -> None:
    """Writes `metrics_summary.json` and `metrics_details.json` as the devkit does, NaN included.

    Args:
        report: of `evaluate_submission`.
        out_dir: made where it is missing.

    Raises:
        OSError: a file cannot be written.
    """
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    for name, content in ((SUMMARY_NAME, report.summary), (DETAILS_NAME, details(report.curves))):
        with atomic_writer(Path(out_dir) / name) as file:
            file.write(json.dumps(content, indent=2).encode())


def details(found: dict[tuple[str, float], Curves]) -> dict[str, dict[str, list[float]]]:
    """The curves as `metrics_details.json` has them.

    Args:
        found: curves by class and distance.

    Returns:
        By `class:distance`: `recall`, `precision`, `confidence` and the five errors, 101 numbers each.
    """
    recall = np.linspace(0, 1, 101).tolist()
    return {
        f"{name}:{distance_m}": {
            "recall": recall,
            "precision": one.precision.tolist(),
            "confidence": one.confidence.tolist(),
            **{error: one.errors[error].tolist() for error in ERRORS},
        }
        for (name, distance_m), one in found.items()
    }
