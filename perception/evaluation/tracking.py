"""Tracking on a split: moments from a detection submission or from predictions, and the official AMOTA and AMOTP."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import unittest
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from perception.data.index import Index
from perception.evaluation.detection import detections_in_global
from perception.evaluation.official import silence
from perception.evaluation.split_results import check_in_set
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.nuscenes_boxes import boxes_from_nuscenes
from perception.formats.result_files import place_of
from perception.formats.splits import SPLITS
from perception.formats.submission import SampleDetections, SubmissionMeta
from perception.formats.submission_reader import Submission
from perception.formats.tracking_submission import (
    TRACKING_CLASSES,
    TrackingSubmission,
    read_tracks,
    validate_tracks,
)
from perception.structures import Predictions, Sample
from perception.tracking.tracker import Moment

_LOG = logging.getLogger(__name__)
_FAR_M = 1e6  # beyond the range of every class
_LARGEST = 1e7  # metres and m/s that a tracker can still reckon with


def meta_of(submission: Submission) -> SubmissionMeta:
    """What a tracking submission says of the detector below.

    Args:
        submission: the detections.

    Returns:
        The benchmark's five questions; what the file does not answer with true is no.
    """
    return SubmissionMeta(**{field.name: submission.meta.get(field.name) is True for field in fields(SubmissionMeta)})


def moments_of(submission: Submission, index: Index) -> Iterator[Moment]:
    """The detections of a submission as a tracker takes them.

    Args:
        submission: its samples must be in the index.
        index: of the set.

    Yields:
        Moments, scene by scene, in order of time.

    Raises:
        KeyError: a sample is not in the index.
        ValueError: a place, a size or a velocity is beyond 1e7, which a submission may hold and no tracker can follow.
    """
    for field in ("translations", "sizes_wlh", "velocities"):
        values = getattr(submission, field)
        if len(large := np.flatnonzero((np.abs(values) > _LARGEST).any(axis=1))):  # NaN is not
            sample, box = place_of(submission.offsets, int(large[0]))
            raise ValueError(
                f"moments_of: sample {submission.sample_tokens[sample]!r}: box {box}: {field} must be within "
                f"{_LARGEST:g}, got {values[large[0]].tolist()}"
            )
    records = [index.record(index.by_token(token)) for token in submission.sample_tokens]
    boxes = boxes_from_nuscenes(
        submission.translations, submission.sizes_wlh, submission.rotations_wxyz, submission.velocities
    )
    for number in sorted(range(len(records)), key=lambda i: (records[i].scene, records[i].timestamp_us)):
        rows = slice(submission.offsets[number], submission.offsets[number + 1])
        record = records[number]
        yield Moment(
            token=record.token,
            scene=record.scene,
            timestamp_us=record.timestamp_us,
            detections=SampleDetections(boxes[rows], submission.scores[rows], submission.labels[rows]),
        )


def moment_of(predictions: Predictions, sample: Sample, class_names: Sequence[str]) -> Moment:
    """The detections of one prediction as a tracker takes them, while a drive runs.

    Args:
        predictions: of the sample, in its ego frame.
        sample: what was predicted.
        class_names: what the detections' labels index.

    Returns:
        The moment.

    Raises:
        ValueError: there is no detection head, or a class that nuScenes does not know.
    """
    if predictions.detections is None:
        raise ValueError(f"moment_of: predictions must have detections, got none for {predictions.token}")
    return Moment(
        token=sample.token,
        scene=sample.scene,
        timestamp_us=sample.timestamp_us,
        detections=detections_in_global(predictions.detections, sample.ego2global, class_names),
    )


def evaluate_tracks(
    tracks_path: str | Path, index: Index, split: str, dataroot: str | Path, out_dir: str | Path
) -> dict[str, Any]:
    """Runs the devkit's tracking evaluation (configuration `tracking_nips_2019`) on a tracking submission.

    A class without annotations has NaN in every figure and drops out of the means. A submission without any track,
    which the devkit cannot evaluate, gets what the devkit gives to tracks that hit nothing: AMOTA 0 and AMOTP 2 m for
    each class with annotations; a warning says so.

    Args:
        tracks_path: the submission; its samples must fit the split as in
            `perception.evaluation.split_results.read_detections`.
        index: of the set, with annotations.
        split: an official one, of which scenes may be missing, or one of the set's own.
        dataroot: folder of the set.
        out_dir: made where it is missing; receives `metrics_summary.json` and `metrics_details.json`.

    Returns:
        The content of `metrics_summary.json`: `amota`, `amotp`, `mota`, `ids` and more over all classes, and
        `label_metrics` by figure and class.

    Raises:
        ImportError: the devkit or motmetrics is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file is no tracking submission or does not fit the split; a track has two classes; the split has
            no annotation of a tracked class; the devkit fails.
    """
    if not index.has_annotations:
        raise ValueError(f"evaluate_tracks: the set must have annotations, {dataroot} {index.version} has none")
    positions = index.samples_of(split)
    tokens = index.tokens_of(positions)
    if split in SPLITS:
        submission = validate_tracks(tracks_path, tokens)
    else:
        submission = read_tracks(tracks_path)
        check_in_set("evaluate_tracks", tracks_path, submission.sample_tokens, index, tokens)
        submission = submission.of_samples(tokens)
    _check_one_class_each(submission, index, positions, tracks_path)
    annotations, _ = index.annotations_of(positions)
    if not np.isin(annotations.labels, [DETECTION_CLASSES.index(name) for name in TRACKING_CLASSES]).any():
        raise ValueError(f"evaluate_tracks: split must have annotations of tracked classes, {split!r} has none")
    if len(submission.labels):
        return _evaluate_official(Path(tracks_path), index.version, split, dataroot, out_dir)
    _LOG.warning("%s: there is not one track in the split %s; every AMOTA is 0", tracks_path, split)
    with tempfile.TemporaryDirectory() as temporary:
        stand_in = Path(temporary) / "tracks.json"
        _write_out_of_range(stand_in, submission)
        return _evaluate_official(stand_in, index.version, split, dataroot, out_dir)


def _check_one_class_each(
    submission: TrackingSubmission, index: Index, positions: np.ndarray, tracks_path: str | Path
) -> None:
    """The devkit takes the boxes of each class apart, so that a track of two classes would count as two."""
    scene_of = dict(zip(index.tokens_of(positions), index.scenes_of(positions).tolist(), strict=True))
    classes: dict[tuple[int, str], int] = {}
    for number, token in enumerate(submission.sample_tokens):
        for row in range(submission.offsets[number], submission.offsets[number + 1]):
            one, label = submission.tracking_ids[row], int(submission.labels[row])
            first = classes.setdefault((scene_of[token], one), label)
            if first != label:
                raise ValueError(
                    f"evaluate_tracks: {tracks_path}: sample {token!r}: track {one!r} must have one class, "
                    f"got {DETECTION_CLASSES[first]} and {DETECTION_CLASSES[label]}"
                )


def _write_out_of_range(path: Path, submission: TrackingSubmission) -> None:
    """The samples with a single box, too far away to be evaluated: the devkit wants one box of any kind to begin."""
    results: dict[str, list[dict[str, Any]]] = {token: [] for token in submission.sample_tokens}
    token = submission.sample_tokens[0]
    results[token].append(
        {
            "sample_token": token,
            "translation": [_FAR_M, _FAR_M, 0.0],
            "size": [1.0, 1.0, 1.0],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "velocity": [0.0, 0.0],
            "tracking_id": "",
            "tracking_name": TRACKING_CLASSES[0],
            "tracking_score": 0.0,
        }
    )
    path.write_text(json.dumps({"meta": submission.meta, "results": results}))


def _evaluate_official(
    tracks_path: Path, version: str, split: str, dataroot: str | Path, out_dir: str | Path
) -> dict[str, Any]:
    try:
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.tracking.evaluate import TrackingEval
    except (ImportError, unittest.SkipTest) as error:  # the devkit skips a test where motmetrics or pandas is missing
        raise ImportError(
            "evaluate_tracks: nuscenes-devkit, motmetrics and pandas are needed: pip install '.[tracking]'"
        ) from error
    try:
        with silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of means over classes without annotations
            evaluation = TrackingEval(
                config_factory("tracking_nips_2019"),
                str(tracks_path),
                split,
                str(out_dir),
                version,
                str(dataroot),
                False,
            )
            summary = evaluation.main(render_curves=False)
    except Exception as error:  # the devkit fails with bare asserts, KeyError and Exception
        raise ValueError(f"evaluate_tracks: {tracks_path}: the devkit says {type(error).__name__}: {error}") from error
    with contextlib.suppress(OSError):
        (Path(out_dir) / "plots").rmdir()  # made for curves, and empty without them
    return summary
