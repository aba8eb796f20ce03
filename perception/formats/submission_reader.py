"""Detection submissions of nuScenes, read and checked as the devkit does, with errors that say where."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception.formats.classes import ATTRIBUTE_NUMBERS, ATTRIBUTES, DETECTION_CLASSES
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
    raise_faults,
    rows_of_samples,
)
from perception.formats.submission_scan import NUM_NUMBERS, SampleScanner, ScannedBoxes


class _Record(BoxRecord, gc=False, kw_only=True):
    detection_name: str
    attribute_name: str
    detection_score: float = -1.0


_COLUMNS = (
    "translations", "sizes_wlh", "rotations_wxyz", "velocities", "labels", "scores", "attributes", "num_pts"
)  # fmt: skip
_SHARE = 64
"""Samples that one thread reads in a row."""

_LABELS = {name: label for label, name in enumerate(DETECTION_CLASSES)}
_FORM = RecordFormat(
    reader="read_submission",
    decoder=msgspec.json.Decoder(list[_Record]),
    score="detection_score",
    names={
        "detection_name": ("labels", f"must be one of {', '.join(DETECTION_CLASSES)}"),
        "attribute_name": ("attributes", f"must be '' or one of {', '.join(ATTRIBUTES)}"),
    },
)


@dataclass(frozen=True, eq=False)
class Submission:
    """A submission as columns; N boxes of S samples, in file order.

    Attributes:
        meta: what the file says of its detector.
        sample_tokens: S tokens, the keys of the file.
        offsets: (S + 1,) int64; the boxes of sample s are rows offsets[s] to offsets[s + 1].
        other_tokens: sample token by row of the boxes that name another sample than the one they stand under; the
            devkit matches by what a box names.
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
    other_tokens: dict[int, str]
    translations: np.ndarray
    sizes_wlh: np.ndarray
    rotations_wxyz: np.ndarray
    velocities: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    attributes: np.ndarray
    num_pts: np.ndarray

    def of_samples(self, sample_tokens: Sequence[str]) -> Submission:
        """The boxes of some samples.

        Args:
            sample_tokens: keys of the file, each once.

        Returns:
            Their boxes, in the order of `sample_tokens`.

        Raises:
            ValueError: the file does not have one of the samples.
        """
        rows, offsets = rows_of_samples(self.sample_tokens, self.offsets, sample_tokens)
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        others = np.flatnonzero(np.isin(rows, list(self.other_tokens)))
        other_tokens = {row: self.other_tokens[rows[row]] for row in others.tolist()}
        return Submission(self.meta, tuple(sample_tokens), offsets, other_tokens, **columns)


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
    check_tokens("validate_submission", path, submission.sample_tokens, sample_tokens)
    return submission


def read_submission(path: str | Path) -> Submission:
    """Reads a submission and checks every box.

    The checks are the devkit's: at most 500 boxes a sample, vectors of the right length without NaN (but for the
    velocity), known classes and attributes, scores that are numbers. Besides, sizes must be positive, which the devkit
    asks of matched boxes only, quaternions must have norm 1 within 1e-3, and numbers must not be written as strings.

    Args:
        path: the JSON file; NaN and Infinity are read as Python writes them.

    Returns:
        The boxes as columns.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not JSON, has no objects `meta` and `results`, or boxes break a rule; names up to ten of
            them with sample token, number of the box and field.
    """
    path = Path(path)
    meta, results = parse_results(path, _FORM.reader)
    faults: list[str] = []
    parts = [_boxes([])]
    num_boxes = 0
    other_tokens: dict[int, str] = {}
    for token, part, names in _read_samples(results, faults):
        parts.append(part)
        other_tokens.update((num_boxes + box, name) for box, name in enumerate(names) if name != token)
        num_boxes += len(part.labels)
        if len(faults) >= MAX_FAULTS:
            break
    raise_faults(path, faults, _FORM.reader)
    columns = _columns(parts)
    offsets = np.cumsum([len(part.labels) for part in parts], dtype=np.int64)
    check_values(path, columns, offsets, results, _FORM)
    return Submission(meta=meta, sample_tokens=tuple(results), offsets=offsets, other_tokens=other_tokens, **columns)


def _read_samples(results: dict[str, Any], faults: list[str]) -> Iterator[tuple[str, ScannedBoxes, Sequence[str]]]:
    """Token, boxes and, where they may differ, the tokens they name; what cannot be read goes to `faults`."""
    for (token, value), plain in zip(results.items(), _scan_samples(results), strict=True):
        if plain is not None:
            yield token, plain, ()
            continue
        records = decode_sample(token, value, _FORM, faults)
        yield token, _boxes(records), [record.sample_token for record in records]


def _scan_samples(results: dict[str, Any]) -> list[ScannedBoxes | None]:
    """The samples that are plain, read on all processors: the scanner runs outside Python's lock."""

    def _scan(share: Sequence[tuple[str, Any]]) -> list[ScannedBoxes | None]:
        scanner = SampleScanner(MAX_BOXES_PER_SAMPLE)
        return [
            scanner.scan(memoryview(value), token) if isinstance(value, msgspec.Raw) else None for token, value in share
        ]

    samples = list(results.items())
    shares = [samples[start : start + _SHARE] for start in range(0, len(samples), _SHARE)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return [found for share in pool.map(_scan, shares) for found in share]


def _boxes(records: Sequence[_Record]) -> ScannedBoxes:
    """Numbers of some boxes; labels and attributes that are unknown become `UNKNOWN`."""
    numbers = [(*it.translation, *it.size, *it.rotation, *it.velocity, it.detection_score) for it in records]
    attributes = [ATTRIBUTE_NUMBERS.get(record.attribute_name, UNKNOWN) for record in records]
    return ScannedBoxes(
        numbers=np.array(numbers, dtype=np.float64).reshape(-1, NUM_NUMBERS),
        labels=np.array([_LABELS.get(record.detection_name, UNKNOWN) for record in records], dtype=np.int64),
        attributes=np.array(attributes, dtype=np.int64),
        num_pts=np.array([int(record.num_pts) for record in records], dtype=np.int64),
    )


def _columns(parts: Sequence[ScannedBoxes]) -> dict[str, np.ndarray]:
    labels, attributes, num_pts = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "attributes", "num_pts")
    )
    numbers = number_columns(np.concatenate([part.numbers for part in parts]))
    return numbers | {"labels": labels, "attributes": attributes, "num_pts": num_pts}
