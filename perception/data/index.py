"""A set's tables as one memory-mapped index, from which any sample opens without loading the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from perception.data.index_records import Annotations, SampleRecord, SceneRecord, SensorRecord
from perception.data.index_store import open_index, verify_index
from perception.formats.nuscenes_boxes import pose_matrices
from perception.formats.splits import SPLITS, split_scenes

REFERENCE_CHANNEL = "LIDAR_TOP"
"""The sensor whose pose a sample has."""

__all__ = ["REFERENCE_CHANNEL", "Annotations", "Index", "SampleRecord", "SceneRecord", "SensorRecord"]


class Index:
    """All samples of a set, in the order of the sample table.

    Opening maps files into memory and reads next to nothing; processes that open the same index share its pages.
    An index travels to worker processes as its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest, tables = open_index(folder)
        self.version: str = manifest.version
        self.classes: tuple[str, ...] = tuple(manifest.classes)
        self._custom_splits = manifest.splits
        self._scene_table = tables["scenes"]
        self._samples = _columns(tables["samples"])
        self._sensors = _columns(tables["sensors"])
        self._calibrations = _columns(tables["calibrations"])
        self._annotations = _columns(tables["annotations"])
        self.has_annotations: bool = tables["annotations"].num_rows > 0
        self.scenes: tuple[str, ...] = tuple(self._scene_table["name"].to_pylist())

    @staticmethod
    def open(path: str | Path) -> Index:
        """Opens an index.

        Args:
            path: the folder that `tools/create_data.py` made.

        Returns:
            The index.

        Raises:
            FileNotFoundError: the folder or a file of it is missing.
            ValueError: the folder is no index, of another schema version, or damaged.
        """
        return Index(Path(path))

    def __reduce__(self) -> tuple[Callable[[Path], Index], tuple[Path]]:
        return Index, (self.folder,)

    def __len__(self) -> int:
        return len(self._samples["timestamp_us"])

    def record(self, i: int) -> SampleRecord:
        """One sample with its keyframes and annotations.

        Args:
            i: position in the index.

        Returns:
            The record; its arrays are copies.

        Raises:
            IndexError: there is no such position.
            ValueError: the index is damaged there.
        """
        with self._reading("record", i):
            samples = self._samples
            sensors = self._sensor_records(self._rows("keyframes", i))
            reference = self._sensors["ego2global"][samples["reference"][i]]  # (7,)
            return SampleRecord(
                token=samples["token"][i].as_py(),
                scene=self.scenes[samples["scene"][i]],
                timestamp_us=int(samples["timestamp_us"][i]),
                ego2global=pose_matrices(reference[:3], reference[3:]),
                sensors={sensor.channel: sensor for sensor in sensors},
                annotations=self._annotations_of(i) if self.has_annotations else None,
            )

    def sweeps(self, i: int, channel: str, count: int, since_us: int | None = None) -> list[SensorRecord]:
        """The recordings of a sensor before the one that belongs to a sample, newest first; never out of the scene.

        That one is the keyframe, or else the sensor's recording attached to the sample that is nearest to it in time.

        Args:
            i: position in the index.
            channel: a channel that has a recording at this sample, else there are no sweeps.
            count: how many at most.
            since_us: recordings before this time are left out.

        Returns:
            Up to `count` records, without the sample's own; earlier keyframes count as sweeps.

        Raises:
            IndexError: there is no such position.
            ValueError: `count` is negative, or the index is damaged there.
        """
        if count < 0:
            raise ValueError(f"sweeps: count must be >= 0, got {count}")
        with self._reading("sweeps", i):
            row = self._own_row(i, channel)
            found: list[int] = []
            while row >= 0 and len(found) <= count:
                if found and since_us is not None and self._sensors["timestamp_us"][row] < since_us:
                    break
                found.append(row)
                row = self._sensors["previous"][row]
            return self._sensor_records(np.array(found[1 : count + 1], dtype=np.int64)) if len(found) > 1 else []

    def annotations_of(self, positions: np.ndarray) -> tuple[Annotations, np.ndarray]:
        """The annotations of many samples in one table, without reading the samples one by one.

        Args:
            positions: (S,) int64 positions in the index.

        Returns:
            The annotations, sample by sample, and (M,) int64 which entry of `positions` each belongs to.

        Raises:
            IndexError: there is no such position.
            ValueError: the index is damaged there.
        """
        positions = self._checked_positions("annotations_of", positions)
        with self._reading("annotations_of"):
            counts = self._samples["num_annotations"][positions]  # (S,)
            starts = np.cumsum(counts) - counts
            rows = np.arange(counts.sum()) + np.repeat(self._samples["first_annotation"][positions] - starts, counts)
            return self._annotation_table(rows), np.repeat(np.arange(len(positions)), counts)

    def ego_translations(self, positions: np.ndarray) -> np.ndarray:
        """Where the vehicle was at many samples: the translations of their poses.

        Args:
            positions: (S,) int64 positions in the index.

        Returns:
            (S, 3) float64 in the global frame, metres.

        Raises:
            IndexError: there is no such position.
            ValueError: the index is damaged there.
        """
        positions = self._checked_positions("ego_translations", positions)
        with self._reading("ego_translations"):
            return self._sensors["ego2global"][self._samples["reference"][positions], :3]  # (S, 7) -> (S, 3)

    def tokens_of(self, positions: np.ndarray) -> tuple[str, ...]:
        """The tokens of many samples.

        Args:
            positions: (S,) int64 positions in the index.

        Returns:
            S sample tokens.

        Raises:
            IndexError: there is no such position.
        """
        positions = self._checked_positions("tokens_of", positions)
        return tuple(self._samples["token"].take(pa.array(positions)).to_pylist())

    def scenes_of(self, positions: np.ndarray) -> np.ndarray:
        """The scenes of many samples.

        Args:
            positions: (S,) int64 positions in the index.

        Returns:
            (S,) int64 positions in `scenes`.

        Raises:
            IndexError: there is no such position.
        """
        return self._samples["scene"][self._checked_positions("scenes_of", positions)]

    def extra_sensors(self, i: int) -> dict[str, list[SensorRecord]]:
        """Recordings of sensors beside camera, LiDAR and radar that a set attaches to a sample without keyframes.

        Args:
            i: position in the index.

        Returns:
            Records by channel, oldest first; empty in plain nuScenes.

        Raises:
            IndexError: there is no such position.
            ValueError: the index is damaged there.
        """
        by_channel: dict[str, list[SensorRecord]] = {}
        with self._reading("extra_sensors", i):
            for record in self._sensor_records(self._rows("extras", i)):
                by_channel.setdefault(record.channel, []).append(record)
        return by_channel

    def by_token(self, token: str) -> int:
        """The position of a sample.

        Args:
            token: a sample token.

        Returns:
            Its position in the index.

        Raises:
            KeyError: no sample has this token.
            ValueError: the index is damaged.
        """
        tokens, order = self._samples["token"], self._samples["by_token"]
        with self._reading("by_token"):
            place = bisect_left(order, token, key=lambda row: tokens[row].as_py())
            if place < len(order) and tokens[order[place]].as_py() == token:
                return int(order[place])
        raise KeyError(f"by_token: token must be of a sample in {self.folder}, got {token!r}")

    def scene(self, name: str) -> SceneRecord:
        """What is known of a scene.

        Args:
            name: such as `scene-0103`.

        Returns:
            The scene.

        Raises:
            ValueError: there is no such scene.
        """
        return SceneRecord(**self._scene_table.slice(self._scene_row(name, "scene"), 1).to_pylist()[0])

    def samples_of(self, scenes: str | Sequence[str]) -> np.ndarray:
        """The positions of the samples of a split or of some scenes.

        Args:
            scenes: the name of an official split or of one of the set's own, or scene names. Of an official split,
                the scenes that the set holds count.

        Returns:
            (N,) int64, ascending.

        Raises:
            ValueError: unknown split or scene; the set holds no sample of the split.
        """
        names = self._scenes_of_split(scenes) if isinstance(scenes, str) else scenes
        rows = [self._scene_row(name, "samples_of") for name in names]
        positions = np.flatnonzero(np.isin(self._samples["scene"], rows))
        if isinstance(scenes, str) and not len(positions):
            raise ValueError(
                f"samples_of: split must have samples in {self.folder} ({self.version}), {scenes!r} has none"
            )
        return positions

    def verify(self) -> None:
        """Reads every byte and compares it with the checksums of the day the index was made.

        Raises:
            ValueError: a file has changed.
        """
        verify_index(self.folder)

    @cached_property
    def _row_of_scene(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.scenes)}

    def _scene_row(self, name: str, function: str) -> int:
        if name not in self._row_of_scene:
            raise ValueError(f"{function}: scene must be one of the {len(self.scenes)} in {self.folder}, got {name!r}")
        return self._row_of_scene[name]

    def _scenes_of_split(self, split: str) -> Sequence[str]:
        if split in self._custom_splits and split not in SPLITS:
            return self._custom_splits[split]
        if split not in SPLITS:
            known = (*SPLITS, *self._custom_splits)
            raise ValueError(f"samples_of: split must be one of {', '.join(known)}, got {split!r}")
        return [name for name in split_scenes(split) if name in self._row_of_scene]

    @contextmanager
    def _reading(self, function: str, i: int | None = None) -> Iterator[None]:
        """Checks a position, and says of what goes wrong within that the files do not fit each other."""
        if i is not None and not 0 <= i < len(self):
            raise IndexError(f"{function}: i must be in 0..{len(self) - 1}, got {i}")
        try:
            yield
        except (IndexError, UnicodeDecodeError, pa.ArrowException) as error:
            place = "" if i is None else f" at position {i}"
            raise ValueError(
                f"{function}: {self.folder}: damaged{place}, make it again with tools/create_data.py: {error}"
            ) from error

    def _checked_positions(self, function: str, positions: np.ndarray) -> np.ndarray:
        positions = np.asarray(positions, dtype=np.int64).reshape(-1)
        if len(positions) and not (positions.min() >= 0 and positions.max() < len(self)):
            raise IndexError(
                f"{function}: positions must be in 0..{len(self) - 1}, got {positions.min()}..{positions.max()}"
            )
        return positions

    def _rows(self, column: str, i: int) -> np.ndarray:
        """Rows of the sensor table that a sample lists."""
        offsets, rows = self._samples[column]
        return rows[offsets[i] : offsets[i + 1]]

    def _own_row(self, i: int, channel: str) -> int:
        """Row of a channel's keyframe, or of the attached recording nearest in time; -1 for none."""
        for row in self._rows("keyframes", i):
            if self._channel(row) == channel:
                return int(row)
        rows = [row for row in self._rows("extras", i) if self._channel(row) == channel]
        away = [abs(int(self._sensors["timestamp_us"][row]) - int(self._samples["timestamp_us"][i])) for row in rows]
        return int(rows[np.argmin(away)]) if rows else -1

    def _channel(self, row: int) -> str:
        return self._calibrations["channel"][self._sensors["calibration"][row]].as_py()

    def _sensor_records(self, rows: np.ndarray) -> list[SensorRecord]:
        """Records of rows of the sensor table, in that order."""
        table, calibrations = self._sensors, self._calibrations
        calibration = table["calibration"][rows]  # (N,)
        mounting, pose = calibrations["sensor2ego"][calibration], table["ego2global"][rows]  # (N, 7)
        sensor2ego = pose_matrices(mounting[:, :3], mounting[:, 3:])  # (N, 4, 4)
        ego2global = pose_matrices(pose[:, :3], pose[:, 3:])  # (N, 4, 4)
        return [
            SensorRecord(
                token=_text(table["token"], row),
                channel=calibrations["channel"][c].as_py(),
                modality=calibrations["modality"][c].as_py(),
                path=_text(table["path"], row),
                timestamp_us=int(table["timestamp_us"][row]),
                sensor2ego=sensor2ego[n],
                ego2global=ego2global[n],
                intrinsics=_array_or_none(calibrations["intrinsics"][c], (3, 3)),
                distortion=_array_or_none(calibrations["distortion"][c], (4,)),
                camera_model=calibrations["camera_model"][c].as_py(),
                width=int(table["width"][row]),
                height=int(table["height"][row]),
                is_key_frame=table["is_key_frame"][row].as_py(),
                theta_max_rad=calibrations["theta_max_rad"][c].as_py(),
            )
            for n, (row, c) in enumerate(zip(rows.tolist(), calibration.tolist(), strict=True))
        ]

    def _annotations_of(self, i: int) -> Annotations:
        first = int(self._samples["first_annotation"][i])
        return self._annotation_table(slice(first, first + int(self._samples["num_annotations"][i])))

    def _annotation_table(self, rows: slice | np.ndarray) -> Annotations:
        columns = self._annotations

        def _names(column: str) -> tuple[str, ...]:
            names = columns[column][rows] if isinstance(rows, slice) else columns[column]
            names.validate(full=True)  # before `take`, which would follow a wrong offset out of its memory
            found = names if isinstance(rows, slice) else names.take(pa.array(rows))
            if isinstance(found, pa.DictionaryArray):  # far quicker than its own to_pylist
                words = found.dictionary.to_pylist()
                return tuple(words[number] for number in np.from_dlpack(found.indices).tolist())
            return tuple(found.to_pylist())

        return Annotations(
            boxes_global=columns["box"][rows].copy(),
            rotations=columns["rotation"][rows].copy(),
            categories=_names("category"),
            labels=columns["label"][rows].copy(),
            num_lidar_pts=columns["num_lidar_pts"][rows].copy(),
            num_radar_pts=columns["num_radar_pts"][rows].copy(),
            visibility=columns["visibility"][rows].copy(),
            attributes=_names("attribute"),
            tokens=_names("token"),
            instance_tokens=_names("instance_token"),
        )


def _columns(batch: pa.RecordBatch) -> dict[str, Any]:
    """Columns in place: numpy views of numbers (R,), of vectors without gaps (R, K) and of lists (offsets and values).

    The rest stays Arrow. The views go by DLPack because pyarrow's own `to_numpy` imports pandas.
    """
    columns: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_integer(column.type):
            columns[name] = np.from_dlpack(column)
        elif pa.types.is_fixed_size_list(column.type) and column.null_count == 0:
            columns[name] = np.from_dlpack(column.values).reshape(-1, column.type.list_size)  # (R * K,) -> (R, K)
        elif pa.types.is_large_list(column.type):
            columns[name] = np.from_dlpack(column.offsets), np.from_dlpack(column.values)
        else:
            columns[name] = column
    return columns


def _text(column: pa.Array, row: int) -> str:
    """One text of a table that is not checked as a whole; Arrow would follow a wrong offset out of its memory."""
    piece = column[row : row + 1]
    piece.validate(full=True)
    return piece[0].as_py()


def _array_or_none(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """One entry of a vector column that may have gaps."""
    values = value if isinstance(value, np.ndarray) else value.as_py()
    return None if values is None else np.array(values, dtype=np.float64).reshape(shape)
