"""Annotated objects cut out of a set's point clouds, kept in a folder and read through memory maps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perception.data.loading import SampleLoader
from perception.formats.files import atomic_writer
from perception.ops.points_in_boxes import points_in_boxes
from perception.structures import Boxes3D, Sample

_LOG = logging.getLogger(__name__)
_FORMAT = 1
_COLUMNS = {"boxes": np.float32, "labels": np.int64, "num_lidar_points": np.int64, "num_points": np.int64}


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Objects with their points, both in the ego frame of the sample they come from.

    Args:
        boxes: N objects.
        points: (sum of num_points, 3 + C) float32, one object after the other.
        num_points: (N,) int64.
    """

    boxes: Boxes3D
    points: Tensor
    num_points: Tensor


class ObjectDatabase:
    """Objects in a folder that `build_object_database` made.

    Worker processes get the folder's name and map the same memory.

    Args:
        folder: the folder.

    Raises:
        ValueError: the folder is missing, damaged, or of another format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.description: dict[str, Any] = json.loads((self.folder / "objects.json").read_text(encoding="utf-8"))
            if self.description["format"] != _FORMAT:
                raise ValueError(f"format must be {_FORMAT}, got {self.description['format']}")
            self.class_names: tuple[str, ...] = tuple(self.description["class_names"])
            self.fields: tuple[str, ...] = tuple(self.description["fields"])
            self._tokens: list[str] = self.description["tokens"]
            columns = {name: np.load(self.folder / f"{name}.npy", allow_pickle=False) for name in _COLUMNS}
            self.labels = torch.from_numpy(columns["labels"])
            self.num_lidar_points = torch.from_numpy(columns["num_lidar_points"])
            self._boxes = torch.from_numpy(columns["boxes"])
            self._num_points = torch.from_numpy(columns["num_points"])
            self._starts = self._num_points.cumsum(0) - self._num_points
            self._points = _map_points(self.folder / "points.f32", int(self._num_points.sum()), 3 + len(self.fields))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"ObjectDatabase: {self.folder} must be a whole object database: {error}") from error
        if not len(self._boxes) == len(self.labels) == len(self.num_lidar_points) == len(self._tokens):
            raise ValueError(f"ObjectDatabase: {self.folder} must have equally many boxes, labels, counts and tokens")

    def __reduce__(self) -> tuple[Callable[[Path], ObjectDatabase], tuple[Path]]:
        return (ObjectDatabase, (self.folder,))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> Objects:
        """Reads some objects.

        Args:
            rows: N positions.

        Returns:
            Copies of them, in that order.
        """
        chosen = torch.as_tensor(rows, dtype=torch.int64)
        starts, counts = self._starts[chosen].tolist(), self._num_points[chosen]
        parts = [self._points[start : start + count] for start, count in zip(starts, counts.tolist(), strict=True)]
        empty = np.zeros((0, 3 + len(self.fields)), dtype=np.float32)
        return Objects(
            boxes=Boxes3D(
                boxes=self._boxes[chosen],
                labels=self.labels[chosen],
                num_lidar_points=self.num_lidar_points[chosen],
                tokens=tuple(self._tokens[row] for row in chosen.tolist()),
            ),
            points=torch.from_numpy(np.concatenate([empty, *parts])),
            num_points=counts,
        )


def cut_out_objects(sample: Sample) -> Objects | None:
    """Finds the points in every box; a point in several boxes goes to the first.

    Args:
        sample: with annotations and points.

    Returns:
        The objects with at least one point, or None where the sample lacks points or annotations.
    """
    if sample.lidar is None or sample.boxes is None:
        return None
    points, boxes = sample.lidar.points, sample.boxes
    owners = points_in_boxes(points, boxes.boxes)  # (P,)
    counts = torch.bincount(owners[owners >= 0], minlength=len(boxes))  # (M,)
    order = owners.argsort(stable=True)[(owners < 0).sum() :]
    keep = counts > 0
    kept = Boxes3D(
        boxes=boxes.boxes[keep],
        labels=boxes.labels[keep],
        num_lidar_points=boxes.num_lidar_points[keep],
        tokens=tuple(token for token, wanted in zip(boxes.tokens, keep.tolist(), strict=True) if wanted),
    )
    return Objects(boxes=kept, points=points[order], num_points=counts[keep])


def build_object_database(
    loader: SampleLoader, positions: Sequence[int], folder: str | Path, num_workers: int = 0
) -> None:
    """Cuts the objects out of samples and writes them to a folder, which appears when it is whole.

    Args:
        loader: gives samples with points and annotations; one without cameras is the quickest.
        positions: samples to read, as positions in the index; repeats are left out.
        folder: the folder to make.
        num_workers: processes that read; 0 reads in this one.

    Raises:
        FileExistsError: the folder is there.
        ValueError: no object has a point, or the loader has no LiDAR.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"build_object_database: folder must not exist, got {folder}")
    if loader.lidar is None:
        raise ValueError("build_object_database: loader must load LiDAR points, got cameras alone")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    wanted = list(dict.fromkeys(positions))
    _write(temporary, _read_all(loader, wanted, num_workers), describe_source(loader, wanted))
    temporary.rename(folder)


def describe_source(loader: SampleLoader, positions: Sequence[int]) -> dict[str, Any]:
    """Says what a database is made of.

    Args:
        loader: gives the samples.
        positions: of the samples in the index.

    Returns:
        Plain values; equal ones mean equal databases.
    """
    tokens = loader.index.tokens_of(np.array(list(dict.fromkeys(positions)), dtype=np.int64))
    return {
        "version": loader.index.version,
        "class_names": list(loader.class_names),
        "lidar": dataclasses.asdict(loader.lidar) if loader.lidar else None,
        "num_samples": len(tokens),
        "samples_sha256": hashlib.sha256("\n".join(tokens).encode()).hexdigest(),
    }


class _CutOuts(Dataset[tuple[Objects | None, tuple[str, ...]]]):
    """The objects of samples; what travels between processes is small."""

    def __init__(self, loader: SampleLoader, positions: Sequence[int]) -> None:
        self.loader = loader
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> tuple[Objects | None, tuple[str, ...]]:
        sample = self.loader.load(self.positions[number])
        return cut_out_objects(sample), sample.lidar.fields if sample.lidar else ()


def _read_all(loader: SampleLoader, positions: Sequence[int], num_workers: int) -> DataLoader[Any]:
    return DataLoader(
        _CutOuts(loader, positions),
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
    )


def _write(folder: Path, samples: DataLoader[Any], source: Mapping[str, Any]) -> None:
    tokens: list[str] = []
    rows: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
    found_fields: tuple[str, ...] = ()
    with atomic_writer(folder / "points.f32") as file:
        for objects, fields in samples:
            if objects is None:
                continue
            found_fields = fields
            tokens += objects.boxes.tokens
            file.write(objects.points.numpy().astype(np.float32).tobytes())
            for name in rows:
                rows[name].append(getattr(objects if name == "num_points" else objects.boxes, name))
    if not tokens:
        raise ValueError(f"build_object_database: {source['num_samples']} samples must hold an object with points")
    for name, dtype in _COLUMNS.items():
        with atomic_writer(folder / f"{name}.npy") as file:
            np.save(file, torch.cat(rows[name]).numpy().astype(dtype))
    description = {"format": _FORMAT, **source, "fields": list(found_fields), "tokens": tokens}
    with atomic_writer(folder / "objects.json") as file:
        file.write(json.dumps(description).encode())
    _LOG.info("cut %d objects out of %d samples", len(tokens), source["num_samples"])


def _map_points(path: Path, num_points: int, num_columns: int) -> np.ndarray:
    size = path.stat().st_size
    if size != num_points * num_columns * 4:
        raise ValueError(f"{path.name} must hold {num_points} points of {num_columns} numbers, got {size} bytes")
    return np.memmap(path, dtype=np.float32, mode="r", shape=(num_points, num_columns))
