"""Voxelization against the plain-torch reference, and against mmcv and spconv where they are installed."""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops._measure import Row, compare, num_bytes
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
    """Measures a cloud of ten sweeps at 0.075 m."""
    points = spinning_lidar(240_000)
    batch_index = torch.zeros(len(points), dtype=torch.int64)
    case = f"{len(points)} points, {_GRID.cell_m[0]} m"
    coords, point2voxel = voxelize_dynamic(points, batch_index, _GRID)
    hard = voxelize_hard(points, batch_index, _GRID, **_LIMITS)
    peers = {
        "reference": lambda: voxelize_hard_reference(points, batch_index, _GRID, **_LIMITS),
        "mmcv": _mmcv(points),
        "spconv": _spconv(points),
    }
    return [
        *compare(
            "voxelize_dynamic",
            case,
            lambda: voxelize_dynamic(points, batch_index, _GRID),
            {"reference": lambda: voxelize_dynamic_reference(points, batch_index, _GRID)},
            num_bytes(points, batch_index, coords, point2voxel),
        ),
        *compare(
            "voxelize_hard",
            case,
            lambda: voxelize_hard(points, batch_index, _GRID, **_LIMITS),
            peers,
            num_bytes(points, batch_index, *hard),
        ),
    ]


def spinning_lidar(num_points: int) -> Tensor:
    """Makes a cloud as a spinning sensor leaves it: points in firing order, rings of 32 beams on ground and walls.

    Args:
        num_points: how many points.

    Returns:
        (num_points, 5) float32 x y z intensity time.
    """
    generator = torch.Generator().manual_seed(0)
    shot = torch.arange(num_points)
    azimuth_rad = (shot // 32) * (2 * math.pi / 1085)
    elevation_rad = torch.deg2rad(-30 + 40 * (shot % 32) / 31)
    wall_m = 15 + 25 * (3 * azimuth_rad).sin().abs()
    ground_m = 1.8 / (-elevation_rad).clamp(min=1e-3).tan()
    range_m = torch.minimum(wall_m, ground_m) * (1 + 0.01 * torch.randn(num_points, generator=generator))
    x, y = range_m * azimuth_rad.cos(), range_m * azimuth_rad.sin()
    z = range_m * elevation_rad.tan()
    return torch.stack((x, y, z, torch.rand(num_points, generator=generator), torch.zeros(num_points)), dim=1)


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
