"""Voxelization in numba, as one writes it for speed: keys by all threads, then open addressing in one loop."""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


@cache
def numba_voxels() -> SimpleNamespace | None:
    """Compiles the loops.

    Returns:
        `dynamic(points, lower, cell, shape)` gives coordinates (V, 3) z y x in the order of first points and the voxel
        of each point; `hard(points, lower, cell, shape, max_points, max_voxels)` gives blocks of points, how many each
        holds and coordinates. Arrays are float32; None where numba is not installed.
    """
    try:
        import numba
    except ImportError:
        return None
    numba.set_num_threads(min(torch.get_num_threads(), numba.get_num_threads()))
    number = _number(numba)

    @numba.njit(parallel=True)
    def find_keys(points: Any, lower: Any, cell: Any, shape: Any) -> Any:
        """Number of each point's voxel in the grid, -1 outside."""
        keys = np.empty(len(points), np.int64)
        for i in numba.prange(len(points)):
            x, y = (points[i, 0] - lower[0]) / cell[0], (points[i, 1] - lower[1]) / cell[1]
            z = (points[i, 2] - lower[2]) / cell[2]
            inside = x >= 0 and x < shape[2] and y >= 0 and y < shape[1] and z >= 0 and z < shape[0]
            keys[i] = (np.int64(z) * shape[1] + np.int64(y)) * shape[2] + np.int64(x) if inside else -1
        return keys

    @numba.njit
    def fill(points: Any, point2voxel: Any, count: int, max_points: int) -> Any:
        """Blocks of points and how many each holds."""
        voxels = np.zeros((count, max_points, points.shape[1]), np.float32)
        num_points = np.zeros(count, np.int64)
        for i in range(len(points)):
            voxel = point2voxel[i]
            if 0 <= voxel < count and num_points[voxel] < max_points:
                for c in range(points.shape[1]):
                    voxels[voxel, num_points[voxel], c] = points[i, c]
                num_points[voxel] += 1
        return voxels, num_points

    def dynamic(points: Any, lower: Any, cell: Any, shape: Any) -> Any:
        """Voxels, and the voxel of each point."""
        return number(find_keys(points, lower, cell, shape), shape)

    def hard(points: Any, lower: Any, cell: Any, shape: Any, max_points: int, max_voxels: int) -> Any:
        """Blocks of points besides."""
        coords, point2voxel = dynamic(points, lower, cell, shape)
        coords = coords[:max_voxels]
        return *fill(points, point2voxel, len(coords), max_points), coords

    return SimpleNamespace(dynamic=dynamic, hard=hard)


def _number(numba: Any) -> Callable[..., Any]:
    @numba.njit
    def number(keys: Any, shape: Any) -> Any:
        """Coordinates of the voxels in the order of their first points, and the voxel of each point."""
        capacity = 2 ** int(np.ceil(np.log2(2 * len(keys))))
        table, voxel_of = np.full(capacity, -1, np.int64), np.empty(capacity, np.int64)
        point2voxel, coords = np.full(len(keys), -1, np.int64), np.empty((len(keys), 3), np.int64)
        count = 0
        for i in range(len(keys)):
            key = keys[i]
            if key < 0:
                continue
            at = ((key * 0x9E3779B1) >> 12) & (capacity - 1)
            while table[at] != key and table[at] != -1:
                at = (at + 1) & (capacity - 1)
            if table[at] == -1:
                table[at], voxel_of[at] = key, count
                layer = key // shape[2]
                coords[count] = layer // shape[1], layer % shape[1], key % shape[2]
                count += 1
            point2voxel[i] = voxel_of[at]
        return coords[:count], point2voxel

    return number
