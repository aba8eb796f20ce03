"""raycast_voxels against the same traversal in numba."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ops._cloud import multi_sweep_cloud, single_sweep
from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.raycast_voxels import raycast_voxels, raycast_voxels_reference, visible_voxels

_GRID = Grid((-40.0, 40.0), (-40.0, 40.0), (-1.0, 5.4), (0.4, 0.4, 0.4))  # Occ3D's
_SENSOR_M = 1.0, 0.0, 1.8


def run() -> list[Row]:
    """Measures the rays of one sweep through a grid that several sweeps fill, and through a tenth of its voxels.

    The limit is the memory bus, with each number moved once. What a cast does is to visit voxels, some forty per ray:
    over a million bytes, loaded one by one, where the place of each depends on the one before.
    """
    points, source = multi_sweep_cloud()
    cells, inside = _GRID.cells(points)
    near = (points[:, :2] - points.new_tensor(_SENSOR_M[:2])).norm(dim=1) < 3.5  # the vehicle itself
    z, y, x = cells[inside & ~near].unbind(1)
    occupied = torch.zeros(_GRID.shape, dtype=torch.bool)
    occupied[z, y, x] = True
    thin = occupied & (torch.rand(_GRID.shape, generator=torch.Generator().manual_seed(0)) < 0.1)
    origins = points.new_tensor(_SENSOR_M).expand(len(single_sweep()[0]), -1).contiguous()
    directions = single_sweep()[0] - origins
    rows = []
    for voxels in (occupied, thin):
        case = f"{len(origins)} rays, {int(voxels.sum())} of {voxels.numel()} voxels ({source})"
        hits = raycast_voxels(voxels, origins, directions, _GRID)
        moved = num_bytes(voxels, origins, directions, *hits)
        for mark, ours in ((False, raycast_voxels), (True, visible_voxels)):
            reference = raycast_voxels_reference if voxels is occupied and not mark else None
            peers: dict[str, Callable[[], Any] | None] = {"numba": _numba(voxels, origins, directions, mark)}
            if reference is not None:
                peers["reference"] = lambda v=voxels: raycast_voxels_reference(v, origins, directions, _GRID)
            rows += compare(
                ours.__name__,
                case,
                lambda ours=ours, voxels=voxels: ours(voxels, origins, directions, _GRID),
                peers,
                moved + (num_bytes(voxels) if mark else 0),
            )
    return rows


def _numba(occupied: Tensor, origins: Tensor, directions: Tensor, mark: bool) -> Callable[[], Any] | None:
    """Compiles one ray after another, rays shared among threads."""
    try:
        import numba
    except ImportError:
        return None
    numba.set_num_threads(min(torch.get_num_threads(), numba.get_num_threads()))

    @numba.njit
    def start(origin: float, speed: float) -> tuple[int, int, float, float]:
        """Where a ray begins its walk."""
        cell = int(np.floor(origin))
        if speed == 0:
            return cell, 1, np.inf, np.inf
        return cell, 1 if speed > 0 else -1, (cell + (speed > 0) - origin) / speed, abs(1 / speed)

    @numba.njit(parallel=True)
    def cast(occupied: Any, origins: Any, directions: Any, lower: Any, size: Any, mark: bool) -> Any:
        """Walks every ray to its first hit."""
        num_z, num_y, num_x = occupied.shape
        cells = np.full(len(origins), -1, np.int64)
        distance = np.full(len(origins), np.inf, np.float32)
        seen = np.zeros(occupied.shape if mark else (0, 0, 0), np.bool_)
        for i in numba.prange(len(origins)):
            direction, place = directions[i] / np.sqrt((directions[i] ** 2).sum()) / size, (origins[i] - lower) / size
            x, step_x, next_x, period_x = start(place[0], direction[0])
            y, step_y, next_y, period_y = start(place[1], direction[1])
            z, step_z, next_z, period_z = start(place[2], direction[2])
            at = 0.0
            while 0 <= x < num_x and 0 <= y < num_y and 0 <= z < num_z:
                if mark:
                    seen[z, y, x] = True
                if occupied[z, y, x]:
                    cells[i], distance[i] = (z * num_y + y) * num_x + x, at
                    break
                if next_x <= next_y and next_x <= next_z:
                    at, x, next_x = next_x, x + step_x, next_x + period_x
                elif next_y <= next_z:
                    at, y, next_y = next_y, y + step_y, next_y + period_y
                else:
                    at, z, next_z = next_z, z + step_z, next_z + period_z
        return cells, distance, seen

    arrays = occupied.numpy(), origins.numpy(), directions.numpy()
    lower, size = np.array(_GRID.origin_m, np.float32), np.array(_GRID.cell_m, np.float32)
    return lambda: cast(*arrays, lower, size, mark)
