"""Voxelization against the plain-torch reference, torch's `unique`, a hash table in numba, mmcv and spconv."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ops._cloud import multi_sweep_cloud, spinning_lidar
from benchmarks.ops._measure import Row, compare, num_bytes
from benchmarks.ops._numba_voxels import numba_voxels
from perception.geometry.grid import Grid
from perception.ops.voxelize import (
    voxelize_dynamic,
    voxelize_dynamic_reference,
    voxelize_hard,
    voxelize_hard_reference,
)

_GRID = Grid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), (0.075, 0.075, 0.2))
_LIMITS = {"max_points": 10, "max_voxels": 120_000}


def run() -> list[Row]:
    """Measures recorded sweeps, where there are some, and a made-up cloud of ten.

    The limit is the memory bus, each number moved once. What keeps both ops from it is the hash table: one access per
    point, at a place that nothing foretells, by one thread, as voxels are numbered in the order of the points.
    """
    clouds = [(spinning_lidar(240_000), "made-up cloud")]
    recorded, source = multi_sweep_cloud(5)
    if source != "made-up cloud":
        clouds.insert(0, (recorded, source))
    return [row for points, source in clouds for row in _rows(points, source)]


def _rows(points: Tensor, source: str) -> list[Row]:
    batch_index = torch.zeros(len(points), dtype=torch.int64)
    dynamic = voxelize_dynamic(points, batch_index, _GRID)
    hard = voxelize_hard(points, batch_index, _GRID, **_LIMITS)
    case = f"{len(points)} points ({source}), {len(dynamic.coords)} voxels of {_GRID.cell_m[0]} m"
    numba = numba_voxels()
    shape = np.array(_GRID.shape)
    arguments = points.numpy(), np.array(_GRID.origin_m, np.float32), np.array(_GRID.cell_m, np.float32), shape
    return [
        *compare(
            "voxelize_dynamic",
            case,
            lambda: voxelize_dynamic(points, batch_index, _GRID),
            {
                "reference": lambda: voxelize_dynamic_reference(points, batch_index, _GRID),
                "torch.unique": lambda: _unique(points),
                "numba": (lambda: numba.dynamic(*arguments)) if numba else None,
            },
            num_bytes(points, batch_index, *dynamic),
        ),
        *compare(
            "voxelize_hard",
            case,
            lambda: voxelize_hard(points, batch_index, _GRID, **_LIMITS),
            {
                "reference": lambda: voxelize_hard_reference(points, batch_index, _GRID, **_LIMITS),
                "torch.unique": lambda: _unique_hard(points),
                "numba": (lambda: numba.hard(*arguments, **_LIMITS)) if numba else None,
                "mmcv": _mmcv(points),
                "spconv": _spconv(points),
            },
            num_bytes(points, batch_index, *hard),
        ),
    ]


def _unique(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gives rows inside the grid, voxels (V, 3) in rising order and the voxel of each row."""
    places = (points[:, :3] - points.new_tensor(_GRID.origin_m)) / points.new_tensor(_GRID.cell_m)
    counts = places.new_tensor(_GRID.shape[::-1])
    rows = ((places >= 0) & (places < counts)).all(1).nonzero()[:, 0]
    x, y, z = places[rows].long().unbind(1)
    keys, voxel = torch.unique((z * _GRID.num_y + y) * _GRID.num_x + x, return_inverse=True)
    layers = keys // _GRID.num_x
    return rows, torch.stack((layers // _GRID.num_y, layers % _GRID.num_y, keys % _GRID.num_x), dim=1), voxel


def _unique_hard(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorts points by voxel and copies the first of each."""
    rows, coords, voxel = _unique(points)
    order = torch.argsort(voxel, stable=True)
    counts = torch.bincount(voxel)
    place = torch.arange(len(order)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    first = place < _LIMITS["max_points"]
    voxels = points.new_zeros(len(coords), _LIMITS["max_points"], points.shape[1])
    voxels[voxel[order][first], place[first]] = points[rows[order[first]]]
    return voxels, coords, counts.clamp(max=_LIMITS["max_points"])


def _mmcv(points: Tensor) -> Callable[[], Any] | None:
    if importlib.util.find_spec("mmcv") is None:
        return None
    from mmcv.ops import Voxelization

    bounds = [*_GRID.origin_m, _GRID.x_range_m[1], _GRID.y_range_m[1], _GRID.z_range_m[1]]
    layer = Voxelization(list(_GRID.cell_m), bounds, _LIMITS["max_points"], _LIMITS["max_voxels"])
    return lambda: layer(points)


def _spconv(points: Tensor) -> Callable[[], Any] | None:
    if importlib.util.find_spec("spconv") is None:
        return None
    from spconv.pytorch.utils import PointToVoxel

    bounds = [*_GRID.origin_m, _GRID.x_range_m[1], _GRID.y_range_m[1], _GRID.z_range_m[1]]
    layer = PointToVoxel(list(_GRID.cell_m), bounds, points.shape[1], _LIMITS["max_voxels"], _LIMITS["max_points"])
    return lambda: layer(points)
