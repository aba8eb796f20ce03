"""Tracking submissions of nuScenes: boxes by sample token, each with the id of its track."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.nuscenes_boxes import boxes_to_nuscenes
from perception.formats.result_files import (
    MAX_BOXES_PER_SAMPLE,
    MAX_FAULTS,
    UNKNOWN,
    BoxRecord,
    RecordFormat,
    check_tokens,
    check_values,
    decode_sample,
    number_columns,
    parse_results,
    place_of,
    raise_faults,
    rows_of_samples,
    write_results,
)
from perception.formats.submission import SubmissionMeta

TRACKING_CLASSES = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
"""The seven of the detection classes that are tracked, in the devkit's order; labels stay indices into
`DETECTION_CLASSES`. They are evaluated up to the same distances as detections."""

_LABELS = {name: DETECTION_CLASSES.index(name) for name in TRACKING_CLASSES}
_COLUMNS = ("translations", "sizes_wlh", "rotations_wxyz", "velocities", "labels", "scores", "num_pts")


@dataclass(frozen=True, eq=False)
class SampleTracks:
    """The tracked boxes of one sample.

    Attributes:
        boxes_global: (M, 9) float64 x y z l w h yaw vx vy in the global frame; NaN velocity is unknown.
        scores: (M,).
        labels: (M,) int64 index into `DETECTION_CLASSES`.
        ids: (M,) int64 number of the track; the same object has the same one in every sample of its scene.
    """

    boxes_global: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class TrackingSubmission:
    """A tracking submission as columns; N boxes of S samples, in file order.

    Attributes:
        meta: what the file says of its tracker.
        sample_tokens: S tokens, the keys of the file.
        offsets: (S + 1,) int64; the boxes of sample s are rows offsets[s] to offsets[s + 1].
        inner_tokens: N sample tokens as the boxes themselves name them.
        tracking_ids: N ids of tracks.
        translations: (N, 3) float64, global frame, metres.
        sizes_wlh: (N, 3) float64, width length height.
        rotations_wxyz: (N, 4) float64, as written; not normalised.
        velocities: (N, 2) float64, NaN where unknown.
        labels: (N,) int64 index into `DETECTION_CLASSES`.
        scores: (N,) float64.
        num_pts: (N,) int64, -1 where not given.
    """

    meta: Any
    sample_tokens: tuple[str, ...]
    offsets: np.ndarray
    inner_tokens: tuple[str, ...]
    tracking_ids: tuple[str, ...]
    translations: np.ndarray
    sizes_wlh: np.ndarray
    rotations_wxyz: np.ndarray
    velocities: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    num_pts: np.ndarray

    def of_samples(self, sample_tokens: Sequence[str]) -> TrackingSubmission:
        """The boxes of some samples.

        Args:
            sample_tokens: keys of the file, each once.

        Returns:
            Their boxes, in the order of `sample_tokens`.

        Raises:
            ValueError: the file does not have one of the samples.
        """
        rows, offsets = rows_of_samples(self.sample_tokens, self.offsets, sample_tokens)
        return TrackingSubmission(
            meta=self.meta,
            sample_tokens=tuple(sample_tokens),
            offsets=offsets,
            inner_tokens=tuple(self.inner_tokens[row] for row in rows.tolist()),
            tracking_ids=tuple(self.tracking_ids[row] for row in rows.tolist()),
            **{name: getattr(self, name)[rows] for name in _COLUMNS},
        )


class _Record(BoxRecord, gc=False, kw_only=True):
    tracking_id: str
    tracking_name: str
    tracking_score: float = -1.0


_FORM = RecordFormat(
    reader="read_tracks",
    decoder=msgspec.json.Decoder(list[_Record]),
    score="tracking_score",
    names={"tracking_name": ("labels", f"must be one of {', '.join(TRACKING_CLASSES)}")},
)


def read_tracks(path: str | Path) -> TrackingSubmission:
    """Reads a tracking submission and checks every box.

    The checks are those of `read_submission`. Besides, ids must be texts, and a sample must not have one twice, which
    the devkit does not ask but would count wrongly.

    Args:
        path: the JSON file; NaN and Infinity are read as Python writes them.

    Returns:
        The boxes as columns.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not JSON, lacks `meta` or `results`, or boxes break a rule; names up to ten of them
            with sample token, number of the box and field.
    """
    path = Path(path)
    meta, results = parse_results(path, _FORM.reader)
    faults: list[str] = []
    parts = [_columns([])]
    inner_tokens: list[str] = []
    ids: list[str] = []
    for token, value in results.items():
        records = decode_sample(token, value, _FORM, faults)
        parts.append(_columns(records))
        inner_tokens.extend([record.sample_token for record in records])
        ids.extend([record.tracking_id for record in records])
        if len(faults) >= MAX_FAULTS:
            break
    raise_faults(path, faults, _FORM.reader)
    numbers, labels, num_pts = (np.concatenate(column) for column in zip(*parts, strict=True))
    columns = number_columns(numbers) | {"labels": labels, "num_pts": num_pts}
    submission = TrackingSubmission(
        meta=meta,
        sample_tokens=tuple(results),
        offsets=np.cumsum([len(part[0]) for part in parts], dtype=np.int64),
        inner_tokens=tuple(inner_tokens),
        tracking_ids=tuple(ids),
        **columns,
    )
    check_values(path, columns, submission.offsets, results, _FORM)
    raise_faults(path, _repeated_ids(submission), _FORM.reader)
    return submission


def _columns(records: Sequence[_Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers (M, 13), labels (M,), with `UNKNOWN` for unknown names, and points (M,) of some boxes."""
    numbers = [(*it.translation, *it.size, *it.rotation, *it.velocity, it.tracking_score) for it in records]
    labels = [_LABELS.get(record.tracking_name, UNKNOWN) for record in records]
    return (
        np.array(numbers, dtype=np.float64).reshape(-1, 13),
        np.array(labels, dtype=np.int64),
        np.array([int(record.num_pts) for record in records], dtype=np.int64),
    )


def _repeated_ids(submission: TrackingSubmission) -> list[str]:
    """Boxes of a sample that have the id of an earlier one."""
    faults, seen = [], set()
    for row, one in enumerate(submission.tracking_ids):
        sample, box = place_of(submission.offsets, row)
        if (sample, one) in seen:
            token = submission.sample_tokens[sample]
            faults.append(
                f"sample {token!r}: box {box}, field tracking_id: must come once in a sample, got {one!r} again"
            )
        seen.add((sample, one))
    return faults


def validate_tracks(path: str | Path, sample_tokens: Iterable[str]) -> TrackingSubmission:
    """Reads a tracking submission and holds it against a split.

    Args:
        path: the JSON file.
        sample_tokens: of every sample in the split.

    Returns:
        The submission.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is no submission (see `read_tracks`), or its tokens are not those of the split.
    """
    submission = read_tracks(path)
    check_tokens("validate_tracks", path, submission.sample_tokens, sample_tokens)
    return submission


def write_tracks(path: str | Path, tracks: Iterable[tuple[str, SampleTracks]], meta: SubmissionMeta) -> int:
    """Writes a tracking submission, sample by sample; the file appears only when all are written.

    Args:
        path: the JSON file.
        tracks: sample token and its boxes, one entry for every sample of the split, also for those without boxes.
        meta: what the detector below used.

    Returns:
        How many boxes were written.

    Raises:
        ValueError: a token comes twice; a sample has more than 500 boxes or an id twice; a value is not allowed. Names
            the sample.
    """
    entries = ((token, track_records(token, one)) for token, one in tracks)
    return write_results(path, entries, asdict(meta), "write_tracks")


def track_records(token: str, tracks: SampleTracks) -> list[dict[str, Any]]:
    """The records of one sample, as a tracking submission holds them.

    Args:
        token: of the sample.
        tracks: its boxes.

    Returns:
        M records.

    Raises:
        ValueError: shapes do not fit, too many boxes, an id twice, or a value is not allowed. Names the sample.
    """
    _check(token, tracks)
    translations, sizes, rotations, velocities = boxes_to_nuscenes(tracks.boxes_global)
    scores = np.asarray(tracks.scores, dtype=np.float64)
    columns = (translations, sizes, rotations, velocities, tracks.ids, tracks.labels, scores)
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": size,
            "rotation": rotation,
            "velocity": velocity,
            "tracking_id": str(number),
            "tracking_name": DETECTION_CLASSES[label],
            "tracking_score": score,
        }
        for translation, size, rotation, velocity, number, label, score in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def _check(token: str, tracks: SampleTracks) -> None:
    boxes = tracks.boxes_global
    where = f"track_records: sample {token!r}"
    shapes = [column.shape for column in (tracks.scores, tracks.labels, tracks.ids)]
    if boxes.ndim != 2 or boxes.shape[1] != 9 or shapes != [(len(boxes),)] * 3:
        raise ValueError(
            f"{where}: boxes must be (M, 9) and scores, labels and ids (M,), got {boxes.shape} and {shapes}"
        )
    if len(boxes) > MAX_BOXES_PER_SAMPLE:
        raise ValueError(f"{where}: must have at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(boxes)}")
    if not np.isfinite(boxes[:, :7]).all() or not np.isfinite(tracks.scores).all():
        raise ValueError(f"{where}: boxes and scores must be finite, got NaN or infinity")
    if (boxes[:, 3:6] <= 0).any():
        raise ValueError(f"{where}: sizes must be > 0, got {boxes[:, 3:6].min()}")
    if not np.isin(tracks.labels, list(_LABELS.values())).all():
        raise ValueError(f"{where}: labels must be of {', '.join(TRACKING_CLASSES)}, got {tracks.labels.tolist()}")
    if len(np.unique(tracks.ids)) != len(boxes):
        raise ValueError(f"{where}: ids must differ, got {sorted(tracks.ids.tolist())}")
