"""nuScenes tables: folders of JSON files <-> typed rows."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Any, NamedTuple

import msgspec

from perception.formats.files import atomic_writer
from perception.formats.nuscenes_rows import (
    OPTIONAL_TABLES,
    ROW_TYPES,
    AttributeRow,
    CalibratedSensorRow,
    CategoryRow,
    EgoPoseRow,
    InstanceRow,
    LogRow,
    MapRow,
    PointLabelRow,
    Row,
    SampleAnnotationRow,
    SampleDataRow,
    SampleRow,
    SceneRow,
    SensorRow,
    VisibilityRow,
)

_ROW_BREAK = re.compile(rb"\}\s*,\s*(?=\{)")
_FIELD_PATH = re.compile(r"`\$\[(\d+)\]\.?([^`]*)`")


class TableChunk(NamedTuple):
    """Some consecutive rows of a table, and how much of its file they complete."""

    rows: list[Any]
    bytes_done: int
    bytes_total: int


@dataclass
class Tables:
    """All tables of a set, in file order; the optional ones are empty where absent."""

    category: list[CategoryRow] = field(default_factory=list)
    attribute: list[AttributeRow] = field(default_factory=list)
    visibility: list[VisibilityRow] = field(default_factory=list)
    instance: list[InstanceRow] = field(default_factory=list)
    sensor: list[SensorRow] = field(default_factory=list)
    calibrated_sensor: list[CalibratedSensorRow] = field(default_factory=list)
    ego_pose: list[EgoPoseRow] = field(default_factory=list)
    log: list[LogRow] = field(default_factory=list)
    scene: list[SceneRow] = field(default_factory=list)
    sample: list[SampleRow] = field(default_factory=list)
    sample_data: list[SampleDataRow] = field(default_factory=list)
    sample_annotation: list[SampleAnnotationRow] = field(default_factory=list)
    map: list[MapRow] = field(default_factory=list)
    lidarseg: list[PointLabelRow] = field(default_factory=list)
    panoptic: list[PointLabelRow] = field(default_factory=list)


def read_tables(version_folder: str | Path) -> Tables:
    """All tables of a set, in memory; for sets far below full size (see `iter_table`).

    Args:
        version_folder: the folder of the tables, `<dataroot>/<version>`.

    Returns:
        The rows; keys that the row types do not name are dropped.

    Raises:
        FileNotFoundError: a required table is missing.
        ValueError: a table is no list of valid rows; names the file, the row, its token and the field.
    """
    folder = Path(version_folder)
    tables = Tables()
    for name in ROW_TYPES:
        if name not in OPTIONAL_TABLES or (folder / f"{name}.json").exists():
            setattr(tables, name, [row for chunk in iter_table(folder, name) for row in chunk.rows])
    return tables


def write_tables(version_folder: str | Path, tables: Tables) -> None:
    """Writes all tables, one row a line; optional tables without rows are left out.

    Args:
        version_folder: the folder to write to; made if it does not exist.
        tables: the rows.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(version_folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ROW_TYPES:
        rows = getattr(tables, name)
        if rows or name not in OPTIONAL_TABLES:
            _write_table(folder / f"{name}.json", rows)


def iter_table(version_folder: str | Path, table: str, chunk_bytes: int = 1 << 24) -> Iterator[TableChunk]:
    """The rows of one table, chunk by chunk, so that the largest tables need little memory.

    Args:
        version_folder: the folder of the tables, `<dataroot>/<version>`.
        table: a key of `ROW_TYPES`.
        chunk_bytes: how much of the file to decode at a time.

    Yields:
        Chunks in file order; none for an empty list.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: `table` is unknown; the file is no list of valid rows.
    """
    if table not in ROW_TYPES:
        raise ValueError(f"iter_table: table must be one of {', '.join(ROW_TYPES)}, got {table!r}")
    path = Path(version_folder) / f"{table}.json"
    if not path.is_file():
        raise FileNotFoundError(f"iter_table: {path}: required table is missing")
    if path.stat().st_size == 0:
        raise ValueError(f"iter_table: {path}: file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield from _iter_chunks(path, data, table, chunk_bytes)


def _iter_chunks(path: Path, data: mmap.mmap, table: str, chunk_bytes: int) -> Iterator[TableChunk]:
    """Cuts the text between rows and decodes the pieces.

    A cut inside a string or a nested list leaves the piece before it unbalanced, so decoding it fails;
    the rest of the file is then decoded in one go. A piece that decodes ends between rows.
    """
    begin, num_rows = 0, 0
    while begin < len(data):
        cut = _ROW_BREAK.search(data, begin + chunk_bytes)
        piece = data[begin : cut.start() + 1] + b"]" if cut else data[begin:]
        piece = piece if begin == 0 else b"[" + piece
        end = cut.end() if cut else len(data)
        try:
            rows = _decode(piece, table)
        except msgspec.ValidationError as error:
            raise ValueError(_describe(path, piece, num_rows, error)) from error
        except (ValueError, RecursionError) as error:
            if cut is None:
                raise ValueError(f"iter_table: {path}: not JSON: {error}") from error
            chunk_bytes = len(data)  # no further cut
            continue
        num_rows += len(rows)
        begin = end
        if rows:
            yield TableChunk(rows, end, len(data))


def _rows_type(table: str) -> Any:
    return GenericAlias(list, (ROW_TYPES[table],))


@cache
def _decoder(table: str) -> msgspec.json.Decoder:
    return msgspec.json.Decoder(_rows_type(table))


def _decode(text: bytes, table: str) -> list[Row]:
    """Typed rows; text with NaN or Infinity, which msgspec refuses, takes the slower way through `json`."""
    try:
        return _decoder(table).decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(text), _rows_type(table))


def _describe(path: Path, piece: bytes, first_row: int, error: msgspec.ValidationError) -> str:
    """The error sentence: file, row number, token and field."""
    found = _FIELD_PATH.search(str(error))
    reason = str(error).split(" - at ")[0]
    if found is None:
        return f"iter_table: {path}: {reason}"
    try:
        row = json.loads(piece)[int(found[1])]
    except (ValueError, RecursionError):  # broken besides, after the row
        row = None
    token = row.get("token") if isinstance(row, dict) else None
    field_name = f" field `{found[2]}`:" if found[2] else ""
    return f"iter_table: {path}: row {first_row + int(found[1])} (token {token!r}):{field_name} {reason}"


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    with atomic_writer(path) as file:
        separator = b"[\n"
        for row in rows:
            text = msgspec.json.encode(row)
            if b"null" in text:  # perhaps a NaN, which msgspec writes as null and the devkit as NaN
                text = json.dumps(msgspec.to_builtins(row)).encode()
            file.write(separator + text)
            separator = b",\n"
        file.write(b"\n]\n" if rows else b"[]\n")
