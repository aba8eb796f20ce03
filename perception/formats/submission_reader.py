"""Detection submissions of nuScenes, read and checked as the devkit does, with errors that say where."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception.formats.classes import ATTRIBUTE_NUMBERS, ATTRIBUTES, DETECTION_CLASSES
from perception.formats.nuscenes_rows import Int64
from perception.formats.submission import MAX_BOXES_PER_SAMPLE
from perception.formats.submission_scan import NUM_NUMBERS, SampleScanner, ScannedBoxes

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


_COLUMNS = (
    "translations", "sizes_wlh", "rotations_wxyz", "velocities", "labels", "scores", "attributes", "num_pts"
)  # fmt: skip
_LABELS = {name: label for label, name in enumerate(DETECTION_CLASSES)}
_NAN = re.compile(rb"NaN(?=[\s,\]}])")
_NORM_TOLERANCE = 1e-3
_STANDS_FOR_NAN = -sys.float_info.max
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

    def of_samples(self, sample_tokens: Sequence[str]) -> Submission:
        """The boxes of some samples.

        Args:
            sample_tokens: keys of the file, each once.

        Returns:
            Their boxes, in the order of `sample_tokens`.

        Raises:
            ValueError: the file does not have one of the samples.
        """
        number = {token: sample for sample, token in enumerate(self.sample_tokens)}
        if missing := [token for token in sample_tokens if token not in number]:
            raise ValueError(f"of_samples: {len(missing)} samples are not in the file, such as {_some(missing)}")
        samples = np.array([number[token] for token in sample_tokens], dtype=np.int64)  # (S,)
        counts = np.diff(self.offsets)[samples]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[samples] - offsets[:-1], counts)  # (N,)
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        tokens = tuple(self.inner_tokens[row] for row in rows.tolist())
        return Submission(self.meta, tuple(sample_tokens), offsets, tokens, **columns)


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
    velocity), known classes and attributes, scores that are numbers. Besides, sizes must be positive, which the devkit
    asks of matched boxes only, quaternions must have norm 1 within 1e-3, and numbers must not be written as strings.

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
    parts = [_boxes([])]
    inner_tokens: list[str] = []
    for part, tokens in _read_samples(results, faults):
        parts.append(part)
        inner_tokens.extend(tokens)
        if len(faults) >= _LISTED:
            break
    columns = _columns(parts)
    offsets = np.cumsum([len(part.labels) for part in parts], dtype=np.int64)
    if not faults:
        faults.extend(_value_faults(columns, offsets, results))
    if faults:
        raise ValueError(f"read_submission: {path}: " + "\n  ".join(faults[:_LISTED]))
    return Submission(
        meta=meta, sample_tokens=tuple(results), offsets=offsets, inner_tokens=tuple(inner_tokens), **columns
    )


def _parse(path: Path) -> tuple[Any, dict[str, Any]]:
    """Meta and results; the samples stay undecoded text where the file is strict JSON, but for NaN."""
    text = path.read_bytes()
    if b"NaN" in text:
        text = _NAN.sub(_stand_in, text)  # msgspec reads no NaN
    try:
        file = _FILE_DECODER.decode(text)
        return file.meta, file.results
    except (ValueError, RecursionError):  # not JSON, with Infinity, or not the wanted object
        try:
            content: Any = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"read_submission: {path}: not JSON: {error}") from error
    for key in ("meta", "results"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"read_submission: {path}: must be an object with `meta` and `results`, lacks `{key}`")
    if not isinstance(content["results"], dict):
        raise ValueError(f"read_submission: {path}: `results` must be boxes by sample token")
    return content["meta"], content["results"]


def _stand_in(found: re.Match[bytes]) -> bytes:
    """What is read in place of NaN; within a text it stays."""
    is_value = found.string[found.start() - 1 : found.start()] in b"[,: \t\r\n"
    return repr(_STANDS_FOR_NAN).encode() if is_value else found.group()


def _read_samples(results: dict[str, Any], faults: list[str]) -> Iterator[tuple[ScannedBoxes, Sequence[str]]]:
    """Boxes and their inner tokens, sample by sample; what cannot be read goes to `faults`."""
    scanner = SampleScanner(MAX_BOXES_PER_SAMPLE)
    for token, value in results.items():
        plain = scanner.scan(memoryview(value), token) if isinstance(value, msgspec.Raw) else None
        if plain is not None:
            yield plain, [token] * len(plain.labels)
            continue
        records = _decode_sample(token, value, faults)
        if len(records) > MAX_BOXES_PER_SAMPLE:
            faults.append(f"sample {token!r}: must have at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(records)}")
        yield _boxes(records), [record.sample_token for record in records]


def _decode_sample(token: str, value: Any, faults: list[str]) -> list[_Record]:
    """Typed boxes of a sample; none where they cannot be typed."""
    try:
        return _records(value)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        place = place.replace("`$", "").replace("`", "").replace("[", "box ", 1).replace("]", "", 1)
        faults.append(": ".join(filter(None, (f"sample {token!r}", place.replace(".", ", field ", 1), reason))))
    except (ValueError, RecursionError) as error:
        faults.append(f"sample {token!r}: not JSON: {error}")
    return []


def _records(value: Any) -> list[_Record]:
    if isinstance(value, msgspec.Raw):
        return _RECORDS_DECODER.decode(value)
    return msgspec.convert(value, list[_Record])


def _boxes(records: Sequence[_Record]) -> ScannedBoxes:
    """Numbers of some boxes; labels and attributes that are unknown become -2."""
    numbers = [(*it.translation, *it.size, *it.rotation, *it.velocity, it.detection_score) for it in records]
    attributes = [ATTRIBUTE_NUMBERS.get(record.attribute_name, -2) for record in records]
    return ScannedBoxes(
        numbers=np.array(numbers, dtype=np.float64).reshape(-1, NUM_NUMBERS),
        labels=np.array([_LABELS.get(record.detection_name, -2) for record in records], dtype=np.int64),
        attributes=np.array(attributes, dtype=np.int64),
        num_pts=np.array([record.num_pts for record in records], dtype=np.int64),
    )


def _columns(parts: Sequence[ScannedBoxes]) -> dict[str, np.ndarray]:
    labels, attributes, num_pts = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "attributes", "num_pts")
    )
    table = np.concatenate([part.numbers for part in parts])  # (N, 13)
    table[table == _STANDS_FOR_NAN] = np.nan
    return {
        "translations": table[:, :3],
        "sizes_wlh": table[:, 3:6],
        "rotations_wxyz": table[:, 6:10],
        "velocities": table[:, 10:12],
        "labels": labels,
        "scores": table[:, 12],
        "attributes": attributes,
        "num_pts": num_pts,
    }


def _value_faults(columns: dict[str, np.ndarray], offsets: np.ndarray, results: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the values of the boxes, field by field."""
    translations, sizes, rotations = columns["translations"], columns["sizes_wlh"], columns["rotations_wxyz"]
    no_unit = np.abs(np.linalg.norm(rotations, axis=1) - 1) > _NORM_TOLERANCE  # false for NaN
    numbers = (
        ("translation", translations, np.isnan(translations).any(axis=1), "must not be NaN"),
        ("size", sizes, ~(sizes > 0).all(axis=1), "must be > 0"),
        ("rotation", rotations, np.isnan(rotations).any(axis=1), "must not be NaN"),
        ("rotation", rotations, no_unit, f"must have norm 1 within {_NORM_TOLERANCE}"),
        ("detection_score", columns["scores"], np.isnan(columns["scores"]), "must not be NaN"),
    )
    names = {
        "detection_name": (columns["labels"], f"must be one of {', '.join(DETECTION_CLASSES)}"),
        "attribute_name": (columns["attributes"], f"must be '' or one of {', '.join(ATTRIBUTES)}"),
    }
    tokens = list(results)
    for field, values, bad, contract in numbers:
        for row in np.flatnonzero(bad)[:_LISTED]:
            sample, box = _place(offsets, row)
            yield f"sample {tokens[sample]!r}: box {box}, field {field}: {contract}, got {values[row].tolist()}"
    for field, (labels, contract) in names.items():
        for row in np.flatnonzero(labels == -2)[:_LISTED]:
            sample, box = _place(offsets, row)
            name = getattr(_records(results[tokens[sample]])[box], field)
            yield f"sample {tokens[sample]!r}: box {box}, field {field}: {contract}, got {name!r}"


def _place(offsets: np.ndarray, row: int) -> tuple[int, int]:
    """Sample of a box, and its number there."""
    sample = int(np.searchsorted(offsets, row, side="right")) - 1
    return sample, int(row - offsets[sample])


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(tokens[:3])
