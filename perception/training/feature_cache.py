"""Maps of a detector's branches on disk, so that what comes after the branches trains in minutes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.formats.files import atomic_writer
from perception.geometry.grid import Grid
from perception.structures import BevMap, SensorFeatures

_FORMAT = "perception-features-1"
_DESCRIPTION = "features.json"


class FeatureCache:
    """Features of chosen samples in half precision, written once, row by row, and read in any order.

    The folder holds `features.json`, which says what is in it, and beside it for every branch and level the maps
    (S, C, Y, X) and their validity (S, Y * X / 8) bit by bit, for every sample which branches were present and whether
    it is done. Work that was interrupted goes on with the rows that are not done.

    Args:
        folder: of `create`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the folder holds something else, or a file of it is not as long as it must be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / _DESCRIPTION
        description = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(description, dict) or description.get("format") != _FORMAT:
            raise ValueError(f"FeatureCache: {path} must be of format {_FORMAT}")
        self.description: dict[str, Any] = description
        self.tokens: tuple[str, ...] = tuple(description["tokens"])
        self.channels: dict[str, dict[str, int]] = description["channels"]
        self.grids = {name: Grid(**_tuples(values)) for name, values in description["grids"].items()}
        self._row = {token: row for row, token in enumerate(self.tokens)}
        self._present = self._open("present.u8", np.uint8, (len(self.channels),))
        self._done = self._open("done.u8", np.uint8, ())
        self._maps, self._valid = {}, {}
        for branch, levels in self.channels.items():
            for level, count in levels.items():
                cells = (self.grids[level].num_y, self.grids[level].num_x)
                self._maps[branch, level] = self._open(f"{branch}.{level}.f16", np.float16, (count, *cells))
                bits = ((cells[0] * cells[1] + 7) // 8,)
                self._valid[branch, level] = self._open(f"{branch}.{level}.valid", np.uint8, bits)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        tokens: Sequence[str],
        channels: Mapping[str, Mapping[str, int]],
        grids: Mapping[str, Grid],
        source: str,
    ) -> FeatureCache:
        """Makes an empty cache, or opens one that was begun with the same arguments.

        Args:
            folder: where it lies.
            tokens: S sample tokens, in the order of the rows.
            channels: branch name -> level name -> channels.
            grids: level name -> grid.
            source: what the features come from, such as the sha256 of the weights.

        Returns:
            The cache.

        Raises:
            ValueError: the folder holds features of something else.
        """
        folder = Path(folder)
        description = {
            "format": _FORMAT,
            "source": source,
            "channels": {branch: dict(levels) for branch, levels in channels.items()},
            "grids": {name: asdict(grid) for name, grid in grids.items()},
            "tokens": list(tokens),
        }
        text = json.dumps(description)
        path = folder / _DESCRIPTION
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise ValueError(f"FeatureCache: {folder} must be new or of the same samples and branches, got another")
            return cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, row_bytes in _files(channels, grids).items():
            with open(folder / name, "wb") as file:
                file.truncate(row_bytes * len(tokens))
        with atomic_writer(path) as file:
            file.write(text.encode())
        return cls(folder)

    @property
    def missing(self) -> list[int]:
        """Rows that are not written yet."""
        return np.flatnonzero(self._done == 0).tolist()

    def rows(self, tokens: Sequence[str]) -> list[int]:
        """The rows of samples.

        Args:
            tokens: of the samples.

        Returns:
            As many rows.

        Raises:
            KeyError: a sample is not in the cache.
        """
        return [self._row[token] for token in tokens]

    def write(self, rows: Sequence[int], features: Mapping[str, SensorFeatures]) -> None:
        """Keeps the features of some samples.

        Args:
            rows: B rows.
            features: branch name -> features of B samples; all branches of the cache.
        """
        for number, (branch, levels) in enumerate(self.channels.items()):
            part = features[branch]
            self._present[rows, number] = part.present.cpu().numpy()
            for level in levels:
                found = part.bev[level]
                self._maps[branch, level][rows] = found.features.detach().cpu().to(torch.float16).numpy()
                valid = found.validity.flatten(1).cpu().numpy()  # (B, 1, Y, X) -> (B, Y * X)
                self._valid[branch, level][rows] = np.packbits(valid, axis=1)
        for kept in (self._present, *self._maps.values(), *self._valid.values()):
            kept.flush()
        self._done[rows] = 1
        self._done.flush()

    def read(
        self, rows: Sequence[int], sensors: Sequence[Collection[str]] | None = None, dtype: torch.dtype = torch.float32
    ) -> dict[str, SensorFeatures]:
        """The features of some samples.

        Args:
            rows: B rows, all of them written.
            sensors: for each the branches that count as present if they were; None: all.
            dtype: of the maps.

        Returns:
            Branch name -> features, channels last in memory; zeros of a branch that no sample has.

        Raises:
            ValueError: a row is not written.
        """
        if not self._done[rows].all():
            raise ValueError(f"FeatureCache: rows must be written, {self.folder} lacks some of {list(rows)[:5]}")
        result = {}
        for number, (branch, levels) in enumerate(self.channels.items()):
            wanted = np.array([sensors is None or branch in sensors[i] for i in range(len(rows))])
            present = torch.from_numpy(self._present[rows, number].astype(bool) & wanted)
            load = self._map if bool(present.any()) else self._nothing
            bev = {level: load(branch, level, rows, dtype) for level in levels}
            result[branch] = SensorFeatures(present=present, bev=bev)
        return result

    def _map(self, branch: str, level: str, rows: Sequence[int], dtype: torch.dtype) -> BevMap:
        grid = self.grids[level]
        bits = np.unpackbits(self._valid[branch, level][rows], axis=1, count=grid.num_y * grid.num_x)
        validity: Tensor = torch.from_numpy(bits.astype(bool)).view(-1, 1, grid.num_y, grid.num_x)
        features = torch.from_numpy(np.asarray(self._maps[branch, level][rows]))
        features = features.to(dtype=dtype, memory_format=torch.channels_last)
        return BevMap(features=features, validity=validity, grid=grid)

    def _nothing(self, branch: str, level: str, rows: Sequence[int], dtype: torch.dtype) -> BevMap:
        grid = self.grids[level]
        size = (len(rows), self.channels[branch][level], grid.num_y, grid.num_x)
        validity = torch.zeros((), dtype=torch.bool).expand(size[0], 1, *size[2:])
        return BevMap(features=torch.zeros((), dtype=dtype).expand(size), validity=validity, grid=grid)

    def _open(self, name: str, kind: type, shape: tuple[int, ...]) -> np.memmap:
        path, whole = self.folder / name, (len(self.tokens), *shape)
        wanted = int(np.prod(whole)) * np.dtype(kind).itemsize
        if path.stat().st_size != wanted:
            raise ValueError(f"FeatureCache: {path} must have {wanted} bytes, got {path.stat().st_size}")
        return np.memmap(path, dtype=kind, mode="r+", shape=whole)


def _files(channels: Mapping[str, Mapping[str, int]], grids: Mapping[str, Grid]) -> dict[str, int]:
    """Bytes of a row by file."""
    sizes = {"present.u8": len(channels), "done.u8": 1}
    for branch, levels in channels.items():
        for level, count in levels.items():
            cells = grids[level].num_y * grids[level].num_x
            sizes[f"{branch}.{level}.f16"] = 2 * count * cells
            sizes[f"{branch}.{level}.valid"] = (cells + 7) // 8
    return sizes


def _tuples(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: tuple(value) for name, value in values.items()}
