"""Result files of nuScenes, of detections and of tracks alike: boxes by sample token in one JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np

from perception.formats.files import atomic_writer
from perception.formats.nuscenes_rows import Int64

MAX_BOXES_PER_SAMPLE = 500
MAX_FAULTS = 10
"""How many faults an error names."""

UNKNOWN = -2
"""Stands for a name that is not known, in a column of numbers."""

_NAN = re.compile(rb"NaN(?=[\s,\]}])")
_NORM_TOLERANCE = 1e-3
_STANDS_FOR_NAN = -1.6180339887498949e308  # a number that nobody writes, unlike the least one that there is
_STAND_IN = repr(_STANDS_FOR_NAN).encode()

_WithFraction = Annotated[float, msgspec.Meta(ge=-(2.0**63), lt=2.0**63)]  # a number whose whole part is an Int64


class BoxRecord(msgspec.Struct, gc=False, kw_only=True):
    """What every box of a result file has."""

    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    num_pts: Int64 | _WithFraction = -1  # the devkit cuts off a fraction


class _File(msgspec.Struct):
    meta: msgspec.Raw
    results: dict[str, msgspec.Raw]


Record = TypeVar("Record", bound=BoxRecord)
Columns = dict[str, np.ndarray]
_FILE_DECODER = msgspec.json.Decoder(_File)


@dataclass(frozen=True)
class RecordFormat(Generic[Record]):
    """One kind of result file.

    Args:
        reader: name of the public function that reads it, for errors.
        decoder: of the boxes of one sample.
        score: name of the field with the score.
        names: fields with names, each with its column and with what it must be.
    """

    reader: str
    decoder: msgspec.json.Decoder[list[Record]]
    score: str
    names: dict[str, tuple[str, str]]


def write_results(
    path: str | Path, samples: Iterable[tuple[str, list[dict[str, Any]]]], meta: dict[str, Any], writer: str
) -> int:
    """Writes a result file, sample by sample; the file appears only when all are written.

    Args:
        path: the JSON file.
        samples: sample token and the records of its boxes.
        meta: what is said of the maker.
        writer: name of the public function, for errors.

    Returns:
        How many boxes were written.

    Raises:
        ValueError: a token comes twice. Names the sample.
    """
    seen: set[str] = set()
    num_boxes = 0
    with atomic_writer(path) as file:
        file.write(b'{"meta":' + msgspec.json.encode(meta) + b',"results":{')
        for token, records in samples:
            if token in seen:
                raise ValueError(f"{writer}: sample {token!r}: must come once, this is the second time")
            text = msgspec.json.encode(records)
            if b"null" in text:  # msgspec's word for NaN, which JSON does not have but Python's json does
                text = json.dumps(records).encode()
            file.write((b",\n" if seen else b"\n") + msgspec.json.encode(token) + b":" + text)
            seen.add(token)
            num_boxes += len(records)
        file.write(b"\n}}\n")
    return num_boxes


def rows_of_samples(
    file_tokens: Sequence[str], offsets: np.ndarray, sample_tokens: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the boxes of some samples are in the columns of a file.

    Args:
        file_tokens: S sample tokens, the keys of the file.
        offsets: (S + 1,) int64; the boxes of sample s are rows offsets[s] to offsets[s + 1].
        sample_tokens: keys of the file, each once.

    Returns:
        (N,) int64 rows in the order of `sample_tokens`, and their offsets.

    Raises:
        ValueError: the file does not have one of the samples.
    """
    number = {token: sample for sample, token in enumerate(file_tokens)}
    if missing := [token for token in sample_tokens if token not in number]:
        raise ValueError(f"of_samples: {len(missing)} samples are not in the file, such as {_some(missing)}")
    samples = np.array([number[token] for token in sample_tokens], dtype=np.int64)  # (S,)
    counts = np.diff(offsets)[samples]
    ends = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(ends[-1]) + np.repeat(offsets[samples] - ends[:-1], counts), ends


def check_tokens(validator: str, path: str | Path, file_tokens: Iterable[str], split_tokens: Iterable[str]) -> None:
    """Holds the samples of a file against those of a split.

    Args:
        validator: name of the public function, for the error.
        path: the file.
        file_tokens: its sample tokens.
        split_tokens: of every sample in the split.

    Raises:
        ValueError: samples are missing, or do not belong to the split.
    """
    expected, found = set(split_tokens), set(file_tokens)
    faults = []
    if missing := sorted(expected - found):
        faults.append(f"{len(missing)} samples of the split are missing, such as {_some(missing)}")
    if extra := sorted(found - expected):
        faults.append(f"{len(extra)} samples are not in the split, such as {_some(extra)}")
    if faults:
        raise ValueError(f"{validator}: {path}: results must be of the split's samples: {'; '.join(faults)}")


def place_of(offsets: np.ndarray, row: int) -> tuple[int, int]:
    """Finds a box.

    Args:
        offsets: (S + 1,) int64 of the samples' boxes.
        row: of the box.

    Returns:
        Number of its sample, and its number there.
    """
    sample = int(np.searchsorted(offsets, row, side="right")) - 1
    return sample, int(row - offsets[sample])


def parse_results(path: Path, reader: str) -> tuple[Any, dict[str, Any]]:
    """Takes a file apart into samples.

    Args:
        path: the JSON file; NaN and Infinity are read as Python writes them.
        reader: name of the public function, for errors.

    Returns:
        What the file says of its maker, and by sample token what `decode_sample` takes: undecoded text where the file
        is strict JSON but for NaN.

    Raises:
        OSError: the file is missing, or a folder.
        ValueError: the file is not JSON, or has no objects `meta` and `results`.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{reader}: {path}: must be a file, got a folder")
    text = path.read_bytes()
    try:
        if not text.isascii():
            text.decode()  # msgspec skips what it does not keep, however it is written
        if b"N" in text and b"NaN" in text:  # one letter is found several times as fast, and is hardly ever there
            text = _without_nan(text)
        file = _FILE_DECODER.decode(text)
        meta, results = json.loads(bytes(file.meta).replace(_STAND_IN, b"NaN")), file.results
    except (ValueError, RecursionError):  # not JSON, with Infinity, or not the wanted object
        meta, results = _parse_by_python(path, reader)
    if not isinstance(meta, dict):
        raise ValueError(f"{reader}: {path}: `meta` must be an object, got {meta!r}")
    return meta, results


def _parse_by_python(path: Path, reader: str) -> tuple[Any, dict[str, Any]]:
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{reader}: {path}: not JSON: {error}") from error
    for key in ("meta", "results"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{reader}: {path}: must be an object with `meta` and `results`, lacks `{key}`")
    if not isinstance(content["results"], dict):
        raise ValueError(f"{reader}: {path}: `results` must be boxes by sample token")
    return content["meta"], content["results"]


def decode_sample(token: str, value: Any, form: RecordFormat[Record], faults: list[str]) -> list[Record]:
    """Typed boxes of a sample.

    Args:
        token: of the sample, for faults.
        value: of `parse_results`.
        form: what kind of file it is.
        faults: receives what is wrong: boxes that cannot be typed, or too many.

    Returns:
        The boxes; none where they cannot be typed.
    """
    try:
        records = _records(value, form)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        place = place.replace("`$", "").replace("`", "").replace("[", "box ", 1).replace("]", "", 1)
        faults.append(": ".join(filter(None, (f"sample {token!r}", place.replace(".", ", field ", 1), reason))))
        return []
    except (ValueError, RecursionError) as error:
        faults.append(f"sample {token!r}: not JSON: {error}")
        return []
    if len(records) > MAX_BOXES_PER_SAMPLE:
        faults.append(f"sample {token!r}: must have at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(records)}")
    return records


def number_columns(table: np.ndarray) -> Columns:
    """Names the numbers of boxes, and puts NaN where `parse_results` left its stand-in.

    Args:
        table: (N, 13) float64 translation, size, rotation, velocity, score; changed in place.

    Returns:
        `translations` (N, 3), `sizes_wlh` (N, 3), `rotations_wxyz` (N, 4), `velocities` (N, 2), `scores` (N,).
    """
    table[table == _STANDS_FOR_NAN] = np.nan
    return {
        "translations": table[:, :3],
        "sizes_wlh": table[:, 3:6],
        "rotations_wxyz": table[:, 6:10],
        "velocities": table[:, 10:12],
        "scores": table[:, 12],
    }


def check_values(
    path: Path,
    columns: Columns,
    offsets: np.ndarray,
    results: dict[str, Any],
    form: RecordFormat[Record],
) -> None:
    """Holds the values of all boxes against the rules.

    Args:
        path: the file, for the error.
        columns: of `number_columns`, and those of names, with `UNKNOWN` for a name that is not known.
        offsets: (S + 1,) int64; the boxes of sample s are rows offsets[s] to offsets[s + 1].
        results: of `parse_results`.
        form: what kind of file it is.

    Raises:
        ValueError: boxes break a rule; names up to ten of them with sample token, number of the box and field.
    """
    raise_faults(path, list(islice(_value_faults(columns, offsets, results, form), MAX_FAULTS)), form.reader)


def raise_faults(path: Path, faults: Sequence[str], reader: str) -> None:
    """Tells what is wrong with a file, if anything.

    Args:
        path: the file.
        faults: one line each; the first ten are told.
        reader: name of the public function.

    Raises:
        ValueError: there are faults.
    """
    if faults:
        raise ValueError(f"{reader}: {path}: " + "\n  ".join(faults[:MAX_FAULTS]))


def _without_nan(text: bytes) -> bytes:
    """The stand-in for every NaN, of which msgspec reads none, but for those within names.

    Raises:
        ValueError: the text has escapes, so that its quotes do not say what a name is.
    """
    if b"\\" in text:
        raise ValueError("_without_nan: text must have no escapes")
    parts, start, num_quotes = [], 0, 0
    for found in _NAN.finditer(text):
        num_quotes += text.count(b'"', start, found.start())
        parts += [text[start : found.start()], found.group() if num_quotes % 2 else _STAND_IN]
        start = found.end()
    return b"".join((*parts, text[start:]))


def _records(value: Any, form: RecordFormat[Record]) -> list[Record]:
    if isinstance(value, msgspec.Raw):
        return form.decoder.decode(value)
    return msgspec.convert(value, form.decoder.type)


def _value_faults(
    columns: Columns, offsets: np.ndarray, results: dict[str, Any], form: RecordFormat[Record]
) -> Iterator[str]:
    """What is wrong with the values of the boxes, field by field."""
    translations, sizes, rotations = columns["translations"], columns["sizes_wlh"], columns["rotations_wxyz"]
    norms = np.sqrt(np.einsum("nk,nk->n", rotations, rotations))  # a tenth of the time of numpy's own norm
    no_unit = np.abs(norms - 1) > _NORM_TOLERANCE  # false for NaN
    numbers = (
        ("translation", translations, np.isnan(translations).any(axis=1), "must not be NaN"),
        ("size", sizes, ~(sizes > 0).all(axis=1), "must be > 0"),
        ("rotation", rotations, np.isnan(rotations).any(axis=1), "must not be NaN"),
        ("rotation", rotations, no_unit, f"must have norm 1 within {_NORM_TOLERANCE}"),
        (form.score, columns["scores"], np.isnan(columns["scores"]), "must not be NaN"),
    )
    tokens = list(results)
    for field, values, bad, contract in numbers:
        for row in np.flatnonzero(bad)[:MAX_FAULTS]:
            sample, box = place_of(offsets, row)
            yield f"sample {tokens[sample]!r}: box {box}, field {field}: {contract}, got {values[row].tolist()}"
    for field, (column, contract) in form.names.items():
        for row in np.flatnonzero(columns[column] == UNKNOWN)[:MAX_FAULTS]:
            sample, box = place_of(offsets, row)
            name = getattr(_records(results[tokens[sample]], form)[box], field)
            yield f"sample {tokens[sample]!r}: box {box}, field {field}: {contract}, got {name!r}"


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens[:3]))
