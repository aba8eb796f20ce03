"""From predictions in the ego frame to a submission in the global frame, and from a submission to counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception.data.index import Annotations, Index
from perception.evaluation.matching import MatchCounts, MatchRule, PlacedObjects, match_detections
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import MAX_BOXES_PER_SAMPLE, SampleDetections, SubmissionMeta, write_submission
from perception.formats.submission_reader import read_submission
from perception.geometry.boxes import transform_boxes
from perception.structures import Detections, Predictions


def detections_in_global(detections: Detections, ego2global: Tensor, class_names: Sequence[str]) -> SampleDetections:
    """Moves detections into the global frame, in float64; the 500 best are kept.

    Args:
        detections: of one sample, in its ego frame.
        ego2global: (4, 4) float64 at the sample's time.
        class_names: what the detections' labels index.

    Returns:
        The boxes with the labels of nuScenes and attributes to be guessed.

    Raises:
        ValueError: a class that nuScenes does not know.
    """
    unknown = [name for name in class_names if name not in DETECTION_CLASSES]
    if unknown:
        raise ValueError(
            f"detections_in_global: class_names must be of {', '.join(DETECTION_CLASSES)}, got {', '.join(unknown)}"
        )
    label_map = np.array([DETECTION_CLASSES.index(name) for name in class_names], dtype=np.int64)
    boxes = detections.boxes[:MAX_BOXES_PER_SAMPLE].detach().cpu().to(torch.float64)
    return SampleDetections(
        boxes_global=transform_boxes(ego2global.cpu(), boxes).numpy(),
        scores=detections.scores[:MAX_BOXES_PER_SAMPLE].detach().cpu().to(torch.float64).numpy(),
        labels=label_map[detections.labels[:MAX_BOXES_PER_SAMPLE].cpu().numpy()],
    )


def write_predictions(
    path: str | Path,
    predictions: Iterable[tuple[Predictions, Tensor]],
    class_names: Sequence[str],
    meta: SubmissionMeta,
) -> int:
    """Writes a submission as the predictions come.

    Args:
        path: the JSON file; it appears when all predictions are written.
        predictions: predictions of a sample and its ego2global (4, 4) float64; each sample once.
        class_names: what the detections' labels index.
        meta: which sensors were used.

    Returns:
        How many boxes were written.

    Raises:
        ValueError: a sample comes twice, has no detections (the model has no detection head) or values that are not
            allowed.
    """
    return write_submission(path, (_entry(found, pose, class_names) for found, pose in predictions), meta)


def annotations_as_detections(annotations: Annotations) -> SampleDetections:
    """What a perfect detector would submit: every annotated box of a detection class that has a point in it.

    Args:
        annotations: of one sample.

    Returns:
        The boxes with their own attributes and score 1.
    """
    keep = (annotations.labels >= 0) & (annotations.num_lidar_pts + annotations.num_radar_pts > 0)
    return SampleDetections(
        boxes_global=annotations.boxes_global[keep],
        scores=np.ones(int(keep.sum())),
        labels=annotations.labels[keep],
        attributes=[name for name, kept in zip(annotations.attributes, keep, strict=True) if kept],
    )


def score_submission(results_path: str | Path, index: Index, rule: MatchRule | None = None) -> dict[str, MatchCounts]:
    """Counts the hits of a submission, sample by sample.

    Args:
        results_path: the submission; its samples must be in the index.
        index: of a set with annotations.
        rule: what counts as a hit.

    Returns:
        Counts by sample token, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: a sample is not in the index.
        ValueError: the file is no submission, or the set has no annotations.
    """
    if not index.has_annotations:
        raise ValueError(f"score_submission: the set must have annotations, {index.version} has none")
    submission = read_submission(results_path)
    counts: dict[str, MatchCounts] = {}
    for number, token in enumerate(submission.sample_tokens):
        record = index.record(index.by_token(token))
        assert record.annotations is not None, "checked above: the index has annotations"
        rows = slice(submission.offsets[number], submission.offsets[number + 1])
        ego_xy_m = record.ego2global[:2, 3]
        found = PlacedObjects(
            offsets_m=submission.translations[rows, :2] - ego_xy_m,
            labels=submission.labels[rows],
            weights=submission.scores[rows],
        )
        known = record.annotations.labels >= 0
        truth = PlacedObjects(
            offsets_m=record.annotations.boxes_global[known, :2] - ego_xy_m,
            labels=record.annotations.labels[known],
            weights=record.annotations.num_lidar_pts[known],
        )
        counts[token] = match_detections(found, truth, rule)
    return counts


def _entry(found: Predictions, ego2global: Tensor, class_names: Sequence[str]) -> tuple[str, SampleDetections]:
    if found.detections is None:
        raise ValueError(f"write_predictions: predictions must have detections, got none for {found.token}")
    return found.token, detections_in_global(found.detections, ego2global, class_names)
