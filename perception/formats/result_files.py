"""Result files of nuScenes, of detections and of tracks alike: boxes by sample token in one JSON file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from perception.formats.files import atomic_writer
from perception.formats.nuscenes_rows import Int64

MAX_BOXES_PER_SAMPLE = 500
UNKNOWN = -2
"""Stands for a name that is not known, in a column of numbers."""

_LISTED = 10  # how many faults an error names
_NAN = re.compile(rb"NaN(?=[\s,\]}])")
_NORM_TOLERANCE = 1e-3
_STANDS_FOR_NAN = -sys.float_info.max


class BoxRecord(msgspec.Struct, gc=False, kw_only=True):
    """What every box of a result file has."""

    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    num_pts: Int64 = -1


class _File(msgspec.Struct):
    meta: Any
    results: dict[str, msgspec.Raw]


Record = TypeVar("Record", bound=BoxRecord)
Columns = dict[str, np.ndarray]
_FILE_DECODER = msgspec.json.Decoder(_File)


@dataclass(frozen=True)
class RecordFormat(Generic[Record]):
    """One kind of result file.

    Args:
        reader: name of the public function that reads it, for errors.
        record: type of a box.
        own_columns: records -> the columns that other kinds do not have; unknown names become `UNKNOWN`.
        score: name of the field with the score.
        names: fields with names, each with what its column must be.
    """

    reader: str
    record: type[Record]
    own_columns: Callable[[Sequence[Record]], Columns]
    score: str
    names: dict[str, tuple[str, str]]


def read_results(
    path: str | Path, form: RecordFormat[Record]
) -> tuple[Any, tuple[str, ...], np.ndarray, tuple[str, ...], Columns]:
    """Reads a result file and checks every box.

    Args:
        path: the JSON file; NaN and Infinity are read as Python writes them.
        form: what kind of file it is.

    Returns:
        What the file says of its maker; S sample tokens, the keys of the file; (S + 1,) int64 offsets of their boxes;
        N sample tokens as the boxes name them; and columns of N rows: `translations` (N, 3), `sizes_wlh` (N, 3),
        `rotations_wxyz` (N, 4), `velocities` (N, 2), `scores` (N,) float64, `num_pts` (N,) int64 and the kind's own.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not JSON, lacks `meta` or `results`, or boxes break a rule; names up to ten of them
            with sample token, number of the box and field.
    """
    path = Path(path)
    meta, results = _parse(path, form.reader)
    decoder = msgspec.json.Decoder(list[form.record])  # type: ignore[name-defined]
    faults: list[str] = []
    parts: list[Columns] = [_columns([], form)]
    inner_tokens: list[str] = []
    counts: list[int] = []
    for token, records in _decoded(results, decoder, faults):
        if len(records) > MAX_BOXES_PER_SAMPLE:
            faults.append(f"sample {token!r}: must have at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(records)}")
        parts.append(_columns(records, form))
        counts.append(len(records))
        inner_tokens.extend([record.sample_token for record in records])
        if len(faults) >= _LISTED:
            break
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    if not faults:
        faults.extend(_value_faults(columns, offsets, results, decoder, form))
    if faults:
        raise ValueError(f"{form.reader}: {path}: " + "\n  ".join(faults[:_LISTED]))
    return meta, tuple(results), offsets, tuple(inner_tokens), columns


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


def _parse(path: Path, reader: str) -> tuple[Any, dict[str, Any]]:
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
            raise ValueError(f"{reader}: {path}: not JSON: {error}") from error
    for key in ("meta", "results"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{reader}: {path}: must be an object with `meta` and `results`, lacks `{key}`")
    if not isinstance(content["results"], dict):
        raise ValueError(f"{reader}: {path}: `results` must be boxes by sample token")
    return content["meta"], content["results"]


def _stand_in(found: re.Match[bytes]) -> bytes:
    """What is read in place of NaN; within a text it stays."""
    is_value = found.string[found.start() - 1 : found.start()] in b"[,: \t\r\n"
    return repr(_STANDS_FOR_NAN).encode() if is_value else found.group()


def _decoded(
    results: dict[str, Any], decoder: msgspec.json.Decoder[list[Record]], faults: list[str]
) -> Iterator[tuple[str, list[Record]]]:
    """Typed boxes of each sample; what cannot be typed goes to `faults`."""
    for token, value in results.items():
        try:
            yield token, _records(value, decoder)
        except msgspec.ValidationError as error:
            reason, _, place = str(error).partition(" - at ")
            place = place.replace("`$", "").replace("`", "").replace("[", "box ", 1).replace("]", "", 1)
            faults.append(": ".join(filter(None, (f"sample {token!r}", place.replace(".", ", field ", 1), reason))))
        except (ValueError, RecursionError) as error:
            faults.append(f"sample {token!r}: not JSON: {error}")


def _records(value: Any, decoder: msgspec.json.Decoder[list[Record]]) -> list[Record]:
    if isinstance(value, msgspec.Raw):
        return decoder.decode(value)
    return msgspec.convert(value, decoder.type)


def _columns(records: Sequence[Record], form: RecordFormat[Record]) -> Columns:
    numbers = [record.translation + record.size + record.rotation + record.velocity for record in records]
    table = np.fromiter(chain.from_iterable(numbers), dtype=np.float64, count=12 * len(records)).reshape(-1, 12)
    table[table == _STANDS_FOR_NAN] = np.nan
    scores = np.array([getattr(record, form.score) for record in records], dtype=np.float64)
    scores[scores == _STANDS_FOR_NAN] = np.nan
    return {
        "translations": table[:, :3],
        "sizes_wlh": table[:, 3:6],
        "rotations_wxyz": table[:, 6:10],
        "velocities": table[:, 10:],
        "scores": scores,
        "num_pts": np.array([record.num_pts for record in records], dtype=np.int64),
        **form.own_columns(records),
    }


def _value_faults(
    columns: Columns,
    offsets: np.ndarray,
    results: dict[str, Any],
    decoder: msgspec.json.Decoder[list[Record]],
    form: RecordFormat[Record],
) -> Iterator[str]:
    """What is wrong with the values of the boxes, field by field."""
    translations, sizes, rotations = columns["translations"], columns["sizes_wlh"], columns["rotations_wxyz"]
    no_unit = np.abs(np.linalg.norm(rotations, axis=1) - 1) > _NORM_TOLERANCE  # false for NaN
    numbers = (
        ("translation", translations, np.isnan(translations).any(axis=1), "must not be NaN"),
        ("size", sizes, ~(sizes > 0).all(axis=1), "must be > 0"),
        ("rotation", rotations, np.isnan(rotations).any(axis=1), "must not be NaN"),
        ("rotation", rotations, no_unit, f"must have norm 1 within {_NORM_TOLERANCE}"),
        (form.score, columns["scores"], np.isnan(columns["scores"]), "must not be NaN"),
    )
    tokens = list(results)
    for field, values, bad, contract in numbers:
        for row in np.flatnonzero(bad)[:_LISTED]:
            sample, box = place_of(offsets, row)
            yield f"sample {tokens[sample]!r}: box {box}, field {field}: {contract}, got {values[row].tolist()}"
    for field, (column, contract) in form.names.items():
        for row in np.flatnonzero(columns[column] == UNKNOWN)[:_LISTED]:
            sample, box = place_of(offsets, row)
            name = getattr(_records(results[tokens[sample]], decoder)[box], field)
            yield f"sample {tokens[sample]!r}: box {box}, field {field}: {contract}, got {name!r}"


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(tokens[:3])
