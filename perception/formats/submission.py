"""Detection submissions of nuScenes, written: boxes by sample token in one JSON file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.formats.classes import ATTRIBUTES, DETECTION_CLASSES, default_attributes
from perception.formats.nuscenes_boxes import boxes_to_nuscenes
from perception.formats.result_files import MAX_BOXES_PER_SAMPLE, write_results


@dataclass(frozen=True)
class SubmissionMeta:
    """What the detector used; the benchmark's own five questions."""

    use_camera: bool
    use_lidar: bool
    use_radar: bool
    use_map: bool = False
    use_external: bool = False


@dataclass(frozen=True, eq=False)
class SampleDetections:
    """The boxes found in one sample.

    Attributes:
        boxes_global: (M, 9) float64 x y z l w h yaw vx vy in the global frame; NaN velocity is unknown.
        scores: (M,).
        labels: (M,) index into `DETECTION_CLASSES`.
        attributes: M attribute names, '' for none; None guesses them from class and speed.
    """

    boxes_global: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    attributes: list[str] | None = None


def write_submission(path: str | Path, detections: Iterable[tuple[str, SampleDetections]], meta: SubmissionMeta) -> int:
    """Writes a submission, sample by sample; the file appears only when all are written.

    Args:
        path: the JSON file.
        detections: sample token and its boxes, one entry for every sample of the split, also for those without boxes.
        meta: what the detector used.

    Returns:
        How many boxes were written.

    Raises:
        ValueError: a token comes twice; a sample has more than 500 boxes; a value is not allowed. Names the sample.
    """
    entries = ((token, submission_records(token, found)) for token, found in detections)
    return write_results(path, entries, asdict(meta), "write_submission")


def submission_records(token: str, found: SampleDetections) -> list[dict[str, Any]]:
    """The records of one sample, as a submission holds them.

    Args:
        token: of the sample.
        found: its boxes.

    Returns:
        M records.

    Raises:
        ValueError: shapes do not fit, too many boxes, or a value is not allowed. Names the sample.
    """
    _check(token, found)
    translations, sizes, rotations, velocities = boxes_to_nuscenes(found.boxes_global)
    attributes = found.attributes
    if attributes is None:
        attributes = default_attributes(found.labels, velocities)
    columns = (translations, sizes, rotations, velocities, np.asarray(found.scores, dtype=np.float64), found.labels)
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": size,
            "rotation": rotation,
            "velocity": velocity,
            "detection_name": DETECTION_CLASSES[label],
            "detection_score": score,
            "attribute_name": attribute,
        }
        for translation, size, rotation, velocity, score, label, attribute in zip(
            *(column.tolist() for column in columns), attributes, strict=True
        )
    ]


def _check(token: str, found: SampleDetections) -> None:
    boxes, scores, labels = found.boxes_global, found.scores, found.labels
    where = f"submission_records: sample {token!r}"
    if boxes.ndim != 2 or boxes.shape[1] != 9 or scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
        raise ValueError(
            f"{where}: boxes, scores and labels must be (M, 9), (M,) and (M,), "
            f"got {boxes.shape}, {scores.shape} and {labels.shape}"
        )
    if len(boxes) > MAX_BOXES_PER_SAMPLE:
        raise ValueError(f"{where}: must have at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(boxes)}")
    if not np.isfinite(boxes[:, :7]).all() or not np.isfinite(scores).all():
        raise ValueError(f"{where}: boxes and scores must be finite, got NaN or infinity")
    if (boxes[:, 3:6] <= 0).any():
        raise ValueError(f"{where}: sizes must be > 0, got {boxes[:, 3:6].min()}")
    if not np.isin(labels, np.arange(len(DETECTION_CLASSES))).all():
        raise ValueError(f"{where}: labels must be in 0..{len(DETECTION_CLASSES) - 1}, got {labels.tolist()}")
    if found.attributes is not None:
        unknown = set(found.attributes) - {*ATTRIBUTES, ""}
        if unknown or len(found.attributes) != len(boxes):
            raise ValueError(f"{where}: attributes must be {len(boxes)} known names or '', got unknown {unknown}")
