"""How an index lies on disk: a folder of Arrow files and a manifest that says what must be in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

SCHEMA_VERSION = 3
MANIFEST = "index.json"
_FORMAT = "perception-index"


def _vector(length: int) -> pa.DataType:
    return pa.list_(pa.float64(), length)


_NAME = pa.dictionary(pa.int32(), pa.string())
_TEXT = pa.large_string()
_ROWS = pa.large_list(pa.int64())

SCHEMAS = {
    "scenes": pa.schema([(name, _TEXT) for name in ("token", "name", "description", "location", "logfile", "vehicle")]),
    # In the order of the sample table. `by_token` lists the samples in the order of their tokens.
    "samples": pa.schema(
        [
            ("token", _TEXT),
            ("scene", pa.int64()),
            ("timestamp_us", pa.int64()),
            ("reference", pa.int64()),
            ("keyframes", _ROWS),
            ("extras", _ROWS),
            ("first_annotation", pa.int64()),
            ("num_annotations", pa.int64()),
            ("by_token", pa.int64()),
        ]
    ),
    # Sorted by scene, channel and time, so that sweeps lie together. `ego2global` is x y z, then w x y z.
    "sensors": pa.schema(
        [
            ("token", _TEXT),
            ("path", _TEXT),
            ("calibration", pa.int64()),
            ("timestamp_us", pa.int64()),
            ("ego2global", _vector(7)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("is_key_frame", pa.bool_()),
            ("previous", pa.int64()),
        ]
    ),
    "calibrations": pa.schema(
        [
            ("channel", pa.string()),
            ("modality", pa.string()),
            ("sensor2ego", _vector(7)),
            ("intrinsics", _vector(9)),
            ("distortion", _vector(4)),
            ("camera_model", pa.string()),
            ("theta_max_rad", pa.float64()),
        ]
    ),
    # Sorted by sample, within one in the order of the annotation table.
    "annotations": pa.schema(
        [
            ("token", _TEXT),
            ("instance_token", _TEXT),
            ("box", _vector(9)),
            ("rotation", _vector(4)),
            ("category", _NAME),
            ("label", pa.int64()),
            ("num_lidar_pts", pa.int64()),
            ("num_radar_pts", pa.int64()),
            ("visibility", pa.int64()),
            ("attribute", _NAME),
        ]
    ),
}
"""Columns of each table of an index. A row number of -1 means none."""

# Checked through and through when an index is opened; the others, 100 times larger, where they are read.
_SMALL_TABLES = ("scenes", "samples", "calibrations")


@dataclass(frozen=True)
class FileFacts:
    """What a table's file must be: its rows, bytes and sha256."""

    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an index says of itself.

    Attributes:
        version: the version of the set, such as `v1.0-trainval`.
        classes: the detection classes that labels index.
        splits: the set's own splits, scene names by split.
        files: rows, bytes and sha256 of each table's file.
        format: constant, tells an index from other folders.
        schema_version: of `SCHEMAS`.
    """

    version: str
    classes: list[str]
    splits: dict[str, list[str]]
    files: dict[str, FileFacts]
    format: str = _FORMAT
    schema_version: int = SCHEMA_VERSION


def write_index(
    folder: str | Path, write_tables: Callable[[Path], tuple[str, dict[str, list[str]]]], classes: list[str]
) -> None:
    """Makes an index under a temporary name and gives it its name when it is whole.

    Args:
        folder: the index folder; an existing index in its place is replaced, anything else is left alone.
        write_tables: writes the tables of `SCHEMAS` into the folder that it is given (see `write_table`) and
            returns the version and the set's own splits.
        classes: the detection classes that labels index.

    Raises:
        FileExistsError: `folder` exists and is no index.
        OSError: a file cannot be written.
    """
    folder = Path(folder).resolve()  # a link stays a link, to the new index
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise FileExistsError(f"write_index: {folder}: exists and is not an index; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        version, splits = write_tables(temporary)
        manifest = Manifest(version, classes, splits, {name: _file_facts(temporary, name) for name in SCHEMAS})
        (temporary / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_table(folder: Path, name: str, table: pa.Table) -> None:
    """Writes one table of an index, as a single record batch so that its columns can be used in place.

    Args:
        folder: the folder of the index.
        name: a key of `SCHEMAS`.
        table: columns of that schema.

    Raises:
        OSError: the file cannot be written.
    """
    assert table.schema == SCHEMAS[name], f"write_table: {name} must have columns {SCHEMAS[name]}, got {table.schema}"
    path = folder / f"{name}.arrow"
    table = table.combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def open_index(folder: str | Path) -> tuple[Manifest, dict[str, pa.RecordBatch]]:
    """Maps the tables of an index into memory.

    Args:
        folder: the index folder.

    Returns:
        The manifest, and each table as one record batch whose data stay in the files.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: the folder is no index, of another schema version, or a file is not what the manifest says.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    return manifest, {name: _open_table(folder, name, manifest.files[name]) for name in SCHEMAS}


def verify_index(folder: str | Path) -> None:
    """Reads every byte of an index and compares it with the manifest.

    Args:
        folder: the index folder.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file has changed since it was written.
    """
    folder = Path(folder)
    manifest, _ = open_index(folder)
    for name in SCHEMAS:
        if _sha256(folder / f"{name}.arrow") != manifest.files[name].sha256:
            raise ValueError(f"verify_index: {folder / name}.arrow: sha256 differs from the one in {MANIFEST}")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"open_index: {path}: missing; make an index with tools/create_data.py")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"open_index: {path}: not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"open_index: {path}: format must be {_FORMAT!r}, this is no index")
    found = content.get("schema_version")
    if found != SCHEMA_VERSION:
        raise ValueError(
            f"open_index: {path}: schema_version must be {SCHEMA_VERSION}, got {found!r}; "
            "make the index again with tools/create_data.py"
        )
    try:
        manifest = msgspec.convert(content, Manifest)
    except msgspec.ValidationError as error:
        raise ValueError(f"open_index: {path}: {error}") from error
    missing = [name for name in SCHEMAS if name not in manifest.files]
    if missing:
        raise ValueError(f"open_index: {path}: files must name every table, lacks {', '.join(missing)}")
    return manifest


def _open_table(folder: Path, name: str, facts: FileFacts) -> pa.RecordBatch:
    path = folder / f"{name}.arrow"
    if not path.is_file():
        raise FileNotFoundError(f"open_index: {path}: missing")
    size = path.stat().st_size
    if size != facts.bytes:
        raise ValueError(f"open_index: {path}: must have {facts.bytes} bytes, got {size}; the file was cut or changed")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        schema, num_batches = reader.schema, reader.num_record_batches
        batch = reader.get_batch(0) if num_batches else pa.RecordBatch.from_pylist([], schema)
        batch.validate(full=name in _SMALL_TABLES)
        names = schema.names
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"open_index: {path}: not a readable Arrow file: {error}") from error
    if schema != SCHEMAS[name] or num_batches > 1 or batch.num_rows != facts.rows:
        raise ValueError(
            f"open_index: {path}: must hold {facts.rows} rows of schema {SCHEMA_VERSION} in one batch, "
            f"got {batch.num_rows} rows, {num_batches} batches, columns {names}"
        )
    return batch


def _file_facts(folder: Path, name: str) -> FileFacts:
    path = folder / f"{name}.arrow"
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    return FileFacts(rows, path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
