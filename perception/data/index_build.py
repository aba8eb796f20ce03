"""From nuScenes tables to an index: joins by token, checks, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perception.data.index import REFERENCE_CHANNEL
from perception.data.index_store import SCHEMAS, write_index, write_table
from perception.formats.classes import DETECTION_CLASSES, category_label
from perception.formats.nuscenes_boxes import box_velocities, boxes_from_nuscenes
from perception.formats.nuscenes_tables import iter_table
from perception.formats.splits import read_custom_splits

Progress = Callable[[str, int, int], None]
"""Called with a table's name, the bytes read of it so far, and its size in bytes."""

_KEYFRAME_MODALITIES = ("camera", "lidar", "radar")
_CAMERA_MODELS = ("pinhole", "kannala_brandt")
_VISIBILITY_TOKENS = ("1", "2", "3", "4")
_ROTATION_LENGTHS = (1e-3, 1e3)  # quaternions are normalised where they are used; beyond this they are no rotations
_NO_FILE_NAME = r"^\.{0,2}$|[/\\\pC]"  # nothing, dots alone, slashes, control characters
_TEXT = pa.large_string()
_INT = pa.int64()
_POINT = pa.list_(pa.float64(), 3)
_QUATERNION = pa.list_(pa.float64(), 4)


def build_index(dataroot: str | Path, version: str, folder: str | Path, progress: Progress | None = None) -> None:
    """Makes an index of a set in nuScenes format.

    Args:
        dataroot: the folder that holds the version folder; the paths in the index are relative to it.
        version: name of the folder with the tables, such as `v1.0-trainval`.
        folder: where the index goes; an existing index there is replaced.
        progress: told how far the reading is.

    Raises:
        FileNotFoundError: the version folder or a required table is missing.
        FileExistsError: `folder` exists and is no index.
        ValueError: `version` is no plain name; a table is damaged, refers to a row that does not exist or holds a
            value that cannot be; names file, token and field.
    """
    source = Path(dataroot) / version
    if Path(version).name != version or version in ("", ".."):
        raise ValueError(f"build_index: version must be the name of a folder in {dataroot}, got {version!r}")
    if not source.is_dir():
        raise FileNotFoundError(f"build_index: {source}: there is no such version folder")
    reader = _Reader(source, progress or (lambda table, done, total: None))

    def _write_tables(target: Path) -> tuple[str, dict[str, list[str]]]:
        splits = read_custom_splits(source)
        _write_all(reader, target)
        return version, {split: list(scenes) for split, scenes in splits.items()}

    write_index(folder, _write_tables, list(DETECTION_CLASSES))


def _write_all(reader: _Reader, target: Path) -> None:
    scenes = reader.read("scene", {"token": _TEXT, "name": _TEXT, "description": _TEXT, "log_token": _TEXT})
    reader.check_unique("scene", "name", scenes["name"])
    reader.check_file_names("scene", scenes, "name")
    write_table(target, "scenes", _scene_columns(reader, scenes))
    samples = reader.read("sample", {"token": _TEXT, "scene_token": _TEXT, "timestamp": _INT})
    reader.check_file_names("sample", samples, "token")
    scene_of_sample = reader.join("sample", samples, "scene_token", "scene", scenes)
    order = np.lexsort((samples["timestamp"].to_numpy(), scene_of_sample))  # drives are followed from row to row
    samples, scene_of_sample = samples.take(order), scene_of_sample[order]
    calibrations, mountings = _calibration_columns(reader)
    write_table(target, "calibrations", calibrations)
    sensors = _SensorRows(reader, samples, scene_of_sample, mountings, calibrations)
    write_table(target, "sensors", sensors.columns())
    keyframes, extras, reference = sensors.by_sample()
    del sensors
    annotations, num_annotations = _annotation_columns(reader, samples)
    write_table(target, "annotations", annotations)
    by_token = pc.sort_indices(samples["token"]).to_numpy().astype(np.int64)
    columns = {
        "token": samples["token"],
        "scene": scene_of_sample,
        "timestamp_us": samples["timestamp"],
        "reference": reference,
        "keyframes": keyframes,
        "extras": extras,
        "first_annotation": np.cumsum(num_annotations) - num_annotations,
        "num_annotations": num_annotations,
        "by_token": by_token,
    }
    write_table(target, "samples", _table("samples", columns))


class _Reader:
    """Reads tables into Arrow columns and joins them by token, with errors that name file, row and field."""

    def __init__(self, source: Path, progress: Progress) -> None:
        self.source = source
        self._progress = progress

    def read(self, table: str, fields: Mapping[str, pa.DataType]) -> pa.Table:
        """Some fields of a table; tokens must be unique."""
        schema = pa.schema(list(fields.items()))
        batches = []
        for chunk in iter_table(self.source, table):
            arrays = [self._array(table, name, chunk.rows, kind) for name, kind in fields.items()]
            batches.append(pa.record_batch(arrays, schema=schema))
            self._progress(table, chunk.bytes_done, chunk.bytes_total)
        columns = pa.Table.from_batches(batches, schema).combine_chunks()
        self.check_unique(table, "token", columns["token"])
        return columns

    def _array(self, table: str, name: str, rows: list, kind: pa.DataType) -> pa.Array:
        try:
            return pa.array(list(map(attrgetter(name), rows)), kind)
        except UnicodeEncodeError as error:  # JSON can spell halves of characters
            raise ValueError(f"build_index: {self.source / table}.json: field `{name}`: no text: {error}") from error

    def check_unique(self, table: str, name: str, values: pa.ChunkedArray) -> None:
        """Raises if a value occurs twice."""
        if pc.count_distinct(values).as_py() == len(values):
            return
        counts = pc.value_counts(values)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise ValueError(f"build_index: {self.source / table}.json: field `{name}`: {twice!r} occurs more than once")

    def join(
        self, table: str, rows: pa.Table, name: str, other: str, targets: pa.Table, *, optional: bool = False
    ) -> np.ndarray:
        """(R,) row of `other` that each row's token names; -1 for '' where that is allowed."""
        found = pc.index_in(rows[name], value_set=targets["token"].combine_chunks())
        lost = pc.is_null(found)
        if optional:
            lost = pc.and_(lost, pc.not_equal(rows[name], ""))
        if pc.any(lost).as_py():
            bad = rows.filter(lost).slice(0, 1).to_pylist()[0]
            self.fail(table, bad["token"], name, f"must name a row of {other}.json, got {bad[name]!r}")
        return found.fill_null(-1).to_numpy().astype(np.int64)

    def check_file_names(self, table: str, rows: pa.Table, name: str) -> None:
        """Raises if a text cannot stand in the name of a file, as those of scenes and samples do."""
        bad = rows.filter(pc.match_substring_regex(rows[name], _NO_FILE_NAME)).slice(0, 1).to_pylist()
        if bad:
            self.fail(table, bad[0]["token"], name, f"must be usable as the name of a file, got {bad[0][name]!r}")

    def check_order(
        self, table: str, rows: pa.Table, name: str, linked: np.ndarray, timestamps_us: np.ndarray, *, earlier: bool
    ) -> None:
        """Raises if a link (R,), -1 for none, leads to no earlier or no later row; so no chain runs in circles."""
        step_us = timestamps_us - timestamps_us[linked]
        bad = np.flatnonzero((linked >= 0) & ((step_us if earlier else -step_us) <= 0))
        if len(bad):
            row, kind = int(bad[0]), "an earlier" if earlier else "a later"
            self.fail(table, rows["token"][row].as_py(), name, f"must name {kind} row, got {rows[name][row].as_py()!r}")

    def numbers(self, table: str, rows: pa.Table, name: str) -> np.ndarray:
        """(R, K) float64 of a vector field; every number must be finite."""
        column = rows[name].combine_chunks()
        values = column.values.to_numpy().reshape(-1, column.type.list_size)  # (R * K,) -> (R, K)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            token = rows["token"][int(bad[0])].as_py()
            self.fail(table, token, name, f"must be finite, got {values[bad[0]].tolist()}")
        return values

    def rotations(self, table: str, rows: pa.Table) -> np.ndarray:
        """(R, 4) quaternions of the field `rotation`, none of them almost zero or absurdly long."""
        values = self.numbers(table, rows, "rotation")
        largest = np.abs(values).max(axis=1, initial=0)
        bad = np.flatnonzero((largest < _ROTATION_LENGTHS[0]) | (largest > _ROTATION_LENGTHS[1]))
        if len(bad):
            token = rows["token"][int(bad[0])].as_py()
            self.fail(table, token, "rotation", f"must be a unit quaternion, got {values[bad[0]].tolist()}")
        return values

    def fail(self, table: str, token: str, name: str, reason: str) -> None:
        """Raises with file, token, field and reason."""
        raise ValueError(f"build_index: {self.source / table}.json: token {token!r}, field `{name}`: {reason}")


def _scene_columns(reader: _Reader, scenes: pa.Table) -> pa.Table:
    logs = reader.read("log", {"token": _TEXT, "logfile": _TEXT, "vehicle": _TEXT, "location": _TEXT})
    log = reader.join("scene", scenes, "log_token", "log", logs)
    columns = {name: scenes[name] for name in ("token", "name", "description")}
    columns |= {name: logs[name].take(log) for name in ("location", "logfile", "vehicle")}
    return _table("scenes", columns)


def _calibration_columns(reader: _Reader) -> tuple[pa.Table, pa.Table]:
    """The index's calibrations, and the table as read (its tokens are what recordings refer to)."""
    sensors = reader.read("sensor", {"token": _TEXT, "channel": pa.string(), "modality": pa.string()})
    fields = {
        "token": _TEXT,
        "sensor_token": _TEXT,
        "translation": _POINT,
        "rotation": _QUATERNION,
        "camera_intrinsic": pa.list_(_POINT),
        "camera_distortion": _QUATERNION,
        "camera_model": pa.string(),
        "camera_theta_max_rad": pa.float64(),
    }
    rows = reader.read("calibrated_sensor", fields)
    sensor = reader.join("calibrated_sensor", rows, "sensor_token", "sensor", sensors)
    cameras = [_camera(reader, row) for row in rows.to_pylist()]
    table = {
        "channel": sensors["channel"].take(sensor),
        "modality": sensors["modality"].take(sensor),
        "sensor2ego": _poses(reader, "calibrated_sensor", rows),
        "intrinsics": [intrinsics for intrinsics, _ in cameras],
        "distortion": rows["camera_distortion"],
        "camera_model": [model for _, model in cameras],
        "theta_max_rad": rows["camera_theta_max_rad"],
    }
    return _table("calibrations", table), rows


def _camera(reader: _Reader, row: dict) -> tuple[list[float] | None, str | None]:
    """Intrinsics (nine numbers, row by row) and camera model of one calibrated sensor; None for what is no camera."""
    matrix, model, distortion = row["camera_intrinsic"], row["camera_model"], row["camera_distortion"]
    table, token = "calibrated_sensor", row["token"]
    if not matrix:
        return None, None
    if len(matrix) != 3:
        reader.fail(table, token, "camera_intrinsic", f"must have 3 rows or none, got {len(matrix)}")
    flat = [value for line in matrix for value in line]
    if not np.isfinite(flat).all():
        reader.fail(table, token, "camera_intrinsic", f"must be finite, got {matrix}")
    if not (matrix[0][0] > 0 and matrix[1][1] > 0 and matrix[2] == [0.0, 0.0, 1.0]):
        reader.fail(table, token, "camera_intrinsic", f"must have focal lengths > 0 and end in 0 0 1, got {matrix}")
    if model not in (None, *_CAMERA_MODELS):
        reader.fail(table, token, "camera_model", f"must be one of {', '.join(_CAMERA_MODELS)}, got {model!r}")
    if model == "kannala_brandt" and (distortion is None or not np.isfinite(distortion).all()):
        reader.fail(table, token, "camera_distortion", f"must be four numbers for {model}, got {distortion}")
    theta_max = row["camera_theta_max_rad"]
    if theta_max is not None and not 0 < theta_max <= math.pi:
        reader.fail(table, token, "camera_theta_max_rad", f"must be in (0, pi], got {theta_max}")
    return flat, model or "pinhole"


def _poses(reader: _Reader, table: str, rows: pa.Table) -> np.ndarray:
    """(R, 7) translation and rotation."""
    return np.hstack([reader.numbers(table, rows, "translation"), reader.rotations(table, rows)])


class _SensorRows:
    """The recordings of a set, sorted by scene, channel and time."""

    def __init__(
        self,
        reader: _Reader,
        samples: pa.Table,
        scene_of_sample: np.ndarray,
        mountings: pa.Table,
        calibrations: pa.Table,
    ) -> None:
        fields = {name: _TEXT for name in ("token", "sample_token", "ego_pose_token", "calibrated_sensor_token")}
        fields |= {"filename": _TEXT, "prev": _TEXT, "timestamp": _INT, "is_key_frame": pa.bool_()}
        fields |= {"width": pa.int32(), "height": pa.int32()}
        rows = reader.read("sample_data", fields)
        sample = reader.join("sample_data", rows, "sample_token", "sample", samples)
        calibration = reader.join("sample_data", rows, "calibrated_sensor_token", "calibrated_sensor", mountings)
        previous = reader.join("sample_data", rows, "prev", "sample_data", rows, optional=True)
        reader.check_order("sample_data", rows, "prev", previous, rows["timestamp"].to_numpy(), earlier=True)
        ego2global = _ego_poses(reader, rows)
        rows = rows.drop_columns(["sample_token", "calibrated_sensor_token", "ego_pose_token", "prev"])
        code = calibrations["channel"].combine_chunks().dictionary_encode()
        channel = code.indices.to_numpy().astype(np.int64)[calibration]
        order = np.lexsort((rows["timestamp"].to_numpy(), channel, scene_of_sample[sample]))

        self._samples, self._reader = samples, reader
        self._channels = code.dictionary.to_pylist()
        self._file_order = np.argsort(order)  # where each row of the file went
        self._rows = rows.take(order)
        self._sample, self._calibration, self._channel = sample[order], calibration[order], channel[order]
        self._ego2global = ego2global[order]
        self._previous = self._links(previous[order], scene_of_sample[self._sample])
        modality = calibrations["modality"].take(self._calibration)
        self._is_extra = pc.invert(pc.is_in(modality, value_set=pa.array(_KEYFRAME_MODALITIES))).to_numpy()

    def columns(self) -> pa.Table:
        """The index's sensor table."""
        rows = self._rows
        columns = {
            "token": rows["token"],
            "path": rows["filename"],
            "calibration": self._calibration,
            "timestamp_us": rows["timestamp"],
            "ego2global": self._ego2global,
            "width": pc.fill_null(rows["width"], 0),
            "height": pc.fill_null(rows["height"], 0),
            "is_key_frame": rows["is_key_frame"],
            "previous": self._previous,
        }
        return _table("sensors", columns)

    def by_sample(self) -> tuple[pa.Array, pa.Array, np.ndarray]:
        """Per sample: the rows of its keyframes in file order, of its extra sensors in time, and of its reference."""
        is_key = self._rows["is_key_frame"].to_numpy()
        in_file_order = self._file_order[is_key[self._file_order]]
        self._check_one_keyframe(in_file_order)
        keyframes = self._lists(in_file_order)
        extras = self._lists(np.flatnonzero(~is_key & self._is_extra))
        reference = np.full(len(self._samples), -1)
        for candidates in (extras, keyframes):
            offsets, values = candidates.offsets.to_numpy(), candidates.values.to_numpy()
            filled = np.flatnonzero(np.diff(offsets))
            reference[filled] = values[offsets[filled]]
        if REFERENCE_CHANNEL in self._channels:
            lidar = np.flatnonzero(is_key & (self._channel == self._channels.index(REFERENCE_CHANNEL)))
            reference[self._sample[lidar]] = lidar
        lost = np.flatnonzero(reference < 0)
        if len(lost):
            token = self._samples["token"][int(lost[0])].as_py()
            self._reader.fail("sample", token, "token", "must have a recording in sample_data.json, got none")
        return keyframes, extras, reference

    def _links(self, previous: np.ndarray, scene: np.ndarray) -> np.ndarray:
        """Links to earlier recordings as sorted rows; a link out of the scene or channel ends the chain."""
        target = np.where(previous >= 0, self._file_order[previous], 0)
        stays = (scene[target] == scene) & (self._channel[target] == self._channel)
        return np.where((previous >= 0) & stays, target, -1)

    def _check_one_keyframe(self, rows: np.ndarray) -> None:
        key = self._sample[rows] * len(self._channels) + self._channel[rows]
        _, first = np.unique(key, return_index=True)
        if len(first) < len(key):
            row = int(rows[np.setdiff1d(np.arange(len(key)), first)[0]])
            token = self._rows["token"][row].as_py()
            reason = f"must be one per sample and channel, this is the second of {self._channels[self._channel[row]]}"
            self._reader.fail("sample_data", token, "is_key_frame", reason)

    def _lists(self, rows: np.ndarray) -> pa.Array:
        """Rows grouped by sample, in the given order within one."""
        rows = rows[np.argsort(self._sample[rows], kind="stable")]
        counts = np.bincount(self._sample[rows], minlength=len(self._samples))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return pa.LargeListArray.from_arrays(pa.array(offsets, _INT), pa.array(rows, _INT))


def _ego_poses(reader: _Reader, rows: pa.Table) -> np.ndarray:
    """(R, 7) ego to global of each recording."""
    poses = reader.read("ego_pose", {"token": _TEXT, "translation": _POINT, "rotation": _QUATERNION})
    pose = reader.join("sample_data", rows, "ego_pose_token", "ego_pose", poses)
    return _poses(reader, "ego_pose", poses)[pose]


def _annotation_columns(reader: _Reader, samples: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """The index's annotations, and how many each sample has."""
    fields = {name: _TEXT for name in ("token", "sample_token", "instance_token", "visibility_token", "prev", "next")}
    fields |= {"translation": _POINT, "size": _POINT, "rotation": _QUATERNION, "attribute_tokens": pa.list_(_TEXT)}
    fields |= {"num_lidar_pts": _INT, "num_radar_pts": _INT}
    rows = reader.read("sample_annotation", fields)
    sample = reader.join("sample_annotation", rows, "sample_token", "sample", samples)
    order = np.argsort(sample, kind="stable")
    category = _categories(reader, rows)
    labels = np.array([category_label(name) for name in category.dictionary.to_pylist()], dtype=np.int64)
    columns = {
        "token": rows["token"],
        "instance_token": rows["instance_token"],
        "box": _boxes(reader, rows, samples["timestamp"].to_numpy()[sample]),
        "rotation": rows["rotation"],
        "category": category,
        "label": labels[category.indices.to_numpy()] if len(labels) else np.zeros(0, dtype=np.int64),
        "num_lidar_pts": rows["num_lidar_pts"],
        "num_radar_pts": rows["num_radar_pts"],
        "visibility": _visibilities(rows),
        "attribute": _attributes(reader, rows),
    }
    return _table("annotations", columns).take(order), np.bincount(sample, minlength=len(samples))


def _boxes(reader: _Reader, rows: pa.Table, timestamps_us: np.ndarray) -> np.ndarray:
    """(R, 9) boxes with velocities from the neighbours in their tracks."""
    table = "sample_annotation"
    previous = reader.join(table, rows, "prev", table, rows, optional=True)
    following = reader.join(table, rows, "next", table, rows, optional=True)
    reader.check_order(table, rows, "prev", previous, timestamps_us, earlier=True)
    reader.check_order(table, rows, "next", following, timestamps_us, earlier=False)
    translations = reader.numbers(table, rows, "translation")
    velocities = box_velocities(translations, timestamps_us, previous, following)
    sizes, rotations = reader.numbers(table, rows, "size"), reader.rotations(table, rows)
    return boxes_from_nuscenes(translations, sizes, rotations, velocities[:, :2])


def _categories(reader: _Reader, rows: pa.Table) -> pa.DictionaryArray:
    """Category name of each annotation, by way of its instance."""
    names = reader.read("category", {"token": _TEXT, "name": pa.string()})
    instances = reader.read("instance", {"token": _TEXT, "category_token": _TEXT})
    of_instance = reader.join("instance", instances, "category_token", "category", names)
    instance = reader.join("sample_annotation", rows, "instance_token", "instance", instances)
    return _named(of_instance[instance], names["name"].to_pylist())


def _visibilities(rows: pa.Table) -> np.ndarray:
    """(R,) 1 to 4, which are the tokens themselves; 0 for any other."""
    found = pc.index_in(rows["visibility_token"], value_set=pa.array(_VISIBILITY_TOKENS, _TEXT))
    return pc.fill_null(found, -1).to_numpy().astype(np.int64) + 1


def _attributes(reader: _Reader, rows: pa.Table) -> pa.DictionaryArray:
    """Attribute name of each annotation, '' for none."""
    names = reader.read("attribute", {"token": _TEXT, "name": pa.string()})
    many = pc.greater(pc.list_value_length(rows["attribute_tokens"]), 1)
    if pc.any(many).as_py():
        bad = rows.filter(many)["token"][0].as_py()
        reader.fail("sample_annotation", bad, "attribute_tokens", "must be at most one, got more")
    lists = rows["attribute_tokens"].combine_chunks()
    tokens = pa.table(
        {
            "token": rows["token"].take(pc.list_parent_indices(lists)),
            "attribute_tokens": pc.list_flatten(lists),
        }
    )
    row = np.zeros(len(rows), dtype=np.int64)  # 0: none
    found = reader.join("sample_annotation", tokens, "attribute_tokens", "attribute", names)
    row[pc.list_parent_indices(lists).to_numpy()] = found + 1
    return _named(row, ["", *names["name"].to_pylist()])


def _named(rows: np.ndarray, names: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), pa.array(names, pa.string()))


def _table(name: str, columns: Mapping[str, object]) -> pa.Table:
    """A table of the index's schema; numpy arrays (R,) and (R, K) become its columns."""
    arrays = []
    for field in SCHEMAS[name]:
        values = columns[field.name]
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))  # (R, K) -> (R * K,)
            values = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(values, field.type)
        arrays.append(values)
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[name])
