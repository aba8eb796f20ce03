"""Detection submissions of nuScenes, read and checked as the devkit does, with errors that say where."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception.formats.classes import ATTRIBUTES, DETECTION_CLASSES
from perception.formats.nuscenes_rows import Int64
from perception.formats.submission import MAX_BOXES_PER_SAMPLE

_LISTED = 10  # how many faults an error names


class _Record(msgspec.Struct, gc=False):
    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    detection_name: str
    attribute_name: str
    detection_score: float = -1.0
    num_pts: Int64 = -1


class _File(msgspec.Struct):
    meta: Any
    results: dict[str, msgspec.Raw]


_NUMBERS = ("translation", "size", "rotation", "velocity")
_FILE_DECODER = msgspec.json.Decoder(_File)
_RECORDS_DECODER = msgspec.json.Decoder(list[_Record])


@dataclass(frozen=True, eq=False)
class Submission:
    """A submission as columns; N boxes of S samples, in file order.

    Attributes:
        meta: what the file says of its detector.
        sample_tokens: S tokens, the keys of the file.
        offsets: (S + 1,) int64; the boxes of sample s are rows offsets[s] to offsets[s + 1].
        inner_tokens: N sample tokens as the boxes themselves name them, which is what the devkit matches by.
        translations: (N, 3) float64, global frame, metres.
        sizes_wlh: (N, 3) float64, width length height.
        rotations_wxyz: (N, 4) float64, as written; not normalised.
        velocities: (N, 2) float64, NaN where unknown.
        labels: (N,) int64 index into `DETECTION_CLASSES`.
        scores: (N,) float64.
        attributes: (N,) int64 index into `ATTRIBUTES`, -1 for none.
        num_pts: (N,) int64, -1 where not given.
    """

    meta: Any
    sample_tokens: tuple[str, ...]
    offsets: np.ndarray
    inner_tokens: tuple[str, ...]
    translations: np.ndarray
    sizes_wlh: np.ndarray
    rotations_wxyz: np.ndarray
    velocities: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    attributes: np.ndarray
    num_pts: np.ndarray


def validate_submission(path: str | Path, sample_tokens: Iterable[str]) -> Submission:
    """Reads a submission and holds it against a split.

    Args:
        path: the JSON file.
        sample_tokens: of every sample in the split.

    Returns:
        The submission.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is no submission (see `read_submission`), or its tokens are not those of the split.
    """
    submission = read_submission(path)
    expected, found = set(sample_tokens), set(submission.sample_tokens)
    faults = []
    if missing := sorted(expected - found):
        faults.append(f"{len(missing)} samples of the split are missing, such as {_some(missing)}")
    if extra := sorted(found - expected):
        faults.append(f"{len(extra)} samples are not in the split, such as {_some(extra)}")
    if faults:
        raise ValueError(f"validate_submission: {path}: results must be of the split's samples: {'; '.join(faults)}")
    return submission


def read_submission(path: str | Path) -> Submission:
    """Reads a submission and checks every box.

    The checks are the devkit's: at most 500 boxes a sample, vectors of the right length without NaN (but for the
    velocity), known classes and attributes, scores that are numbers. Sizes must be positive besides, which the devkit
    asks of matched boxes only, and numbers must not be written as strings.

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
    meta, results = _parse(path)
    faults: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    inner_tokens: list[str] = []
    counts: list[int] = []
    for token, records in _decode_samples(results, faults):
        if len(records) > MAX_BOXES_PER_SAMPLE:
            faults.append(f"sample {token!r}: must have at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(records)}")
        columns = _columns(records)
        faults.extend(f"sample {token!r}: {fault}" for fault in _value_faults(records, columns))
        parts.append(columns)
        counts.append(len(records))
        inner_tokens.extend(record.sample_token for record in records)
        if len(faults) >= _LISTED:
            break
    if faults:
        raise ValueError(f"read_submission: {path}: " + "\n  ".join(faults[:_LISTED]))
    columns = {name: np.concatenate([part[name] for part in [_columns([]), *parts]]) for name in _columns([])}
    return Submission(
        meta=meta,
        sample_tokens=tuple(results),
        offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
        inner_tokens=tuple(inner_tokens),
        translations=columns["translation"],
        sizes_wlh=columns["size"],
        rotations_wxyz=columns["rotation"],
        velocities=columns["velocity"],
        labels=columns["label"],
        scores=columns["score"],
        attributes=columns["attribute"],
        num_pts=columns["num_pts"],
    )


def _parse(path: Path) -> tuple[Any, dict[str, Any]]:
    """Meta and results; the samples stay undecoded text unless the file holds NaN, which msgspec does not read."""
    text = path.read_bytes()
    try:
        file = _FILE_DECODER.decode(text)
        return file.meta, file.results
    except (ValueError, RecursionError):  # not JSON, or with NaN, or not the wanted object
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"read_submission: {path}: not JSON: {error}") from error
    for key in ("meta", "results"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"read_submission: {path}: must be an object with `meta` and `results`, lacks `{key}`")
    if not isinstance(content["results"], dict):
        raise ValueError(f"read_submission: {path}: `results` must be boxes by sample token")
    return content["meta"], content["results"]


def _decode_samples(results: dict[str, Any], faults: list[str]) -> Iterator[tuple[str, list[_Record]]]:
    """Typed boxes of each sample; what cannot be typed goes to `faults`."""
    for token, value in results.items():
        try:
            if isinstance(value, msgspec.Raw):
                yield token, _RECORDS_DECODER.decode(value)
            else:
                yield token, msgspec.convert(value, list[_Record])
        except msgspec.ValidationError as error:
            reason, _, place = str(error).partition(" - at ")
            place = place.replace("`$", "").replace("`", "").replace("[", "box ", 1).replace("]", "", 1)
            faults.append(": ".join(filter(None, (f"sample {token!r}", place.replace(".", ", field ", 1), reason))))
        except (ValueError, RecursionError) as error:
            faults.append(f"sample {token!r}: not JSON: {error}")


def _columns(records: Sequence[_Record]) -> dict[str, np.ndarray]:
    """Numbers of some boxes; labels and attributes that are unknown become -2."""
    classes = {name: label for label, name in enumerate(DETECTION_CLASSES)}
    attributes = {"": -1} | {name: number for number, name in enumerate(ATTRIBUTES)}
    widths = dict(zip(_NUMBERS, (3, 3, 4, 2), strict=True))
    columns = {
        name: np.array([getattr(record, name) for record in records], dtype=np.float64).reshape(-1, width)
        for name, width in widths.items()
    }
    columns["score"] = np.array([record.detection_score for record in records], dtype=np.float64)
    columns["label"] = np.array([classes.get(record.detection_name, -2) for record in records], dtype=np.int64)
    columns["attribute"] = np.array([attributes.get(record.attribute_name, -2) for record in records], dtype=np.int64)
    columns["num_pts"] = np.array([record.num_pts for record in records], dtype=np.int64)
    return columns


def _value_faults(records: Sequence[_Record], columns: dict[str, np.ndarray]) -> Iterator[str]:
    """What is wrong with the values of one sample's boxes."""
    rules = {
        "translation": (np.isnan(columns["translation"]).any(axis=1), "must not be NaN"),
        "size": (~(columns["size"] > 0).all(axis=1), "must be > 0"),
        "rotation": (np.isnan(columns["rotation"]).any(axis=1), "must not be NaN"),
        "detection_score": (np.isnan(columns["score"]), "must not be NaN"),
        "detection_name": (columns["label"] == -2, f"must be one of {', '.join(DETECTION_CLASSES)}"),
        "attribute_name": (columns["attribute"] == -2, f"must be '' or one of {', '.join(ATTRIBUTES)}"),
    }
    for field, (bad, contract) in rules.items():
        for row in np.flatnonzero(bad)[:_LISTED]:
            yield f"box {row}, field {field}: {contract}, got {getattr(records[row], field)!r}"


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(tokens[:3])
