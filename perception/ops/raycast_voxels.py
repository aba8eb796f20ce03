"""Rays through an occupancy grid: the first occupied voxel on each, and the voxels that rays reach.

Voxels on a ray are visited in the order in which it passes them (Amanatides and Woo, "A Fast Voxel Traversal Algorithm
for Ray Tracing", Eurographics 1987). No gradient passes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.ops import _library
from perception.ops._checks import FLOATING, check_same_device, check_tensor

_MOST_CELLS = 1 << 28


class RayHits(NamedTuple):
    """What each ray meets first.

    Args:
        cells: (R,) int64, the occupied voxel, numbered (z * Y + y) * X + x, -1 for none.
        distance_m: (R,) metres from the origin to where the ray enters it, 0 for one that starts in it, infinity for
            none.
    """

    cells: Tensor
    distance_m: Tensor


def raycast_voxels(
    occupied: Tensor, origins: Tensor, directions: Tensor, grid: Grid, *, max_range_m: float = math.inf
) -> RayHits:
    """Finds the first occupied voxel on each ray; rays may start outside the grid.

    A ray that is not finite, has no direction or misses the grid meets nothing. Where a ray passes an edge of voxels
    exactly, it goes through the neighbour along x first, then along y. Computed in the wider dtype of the two, float16
    and bfloat16 in float32; under autocast the distances are float32.

    Args:
        occupied: (Z, Y, X) bool, fewer than 2^28 voxels.
        origins: (R, 3) floating x y z, metres, in the grid's frame.
        directions: (R, 3) floating, of any length.
        grid: where the voxels are.
        max_range_m: voxels that a ray enters beyond this distance are not met.

    Returns:
        The voxels and their distances, in the wider dtype of origins and directions.

    Raises:
        TypeError: an argument that must be a tensor or a grid is none.
        ValueError: shapes, dtypes or devices that do not fit, or a range that is negative or NaN.
    """
    cells, distance_m, _ = _cast("raycast_voxels", occupied, (origins, directions), grid, max_range_m, mark=False)
    return RayHits(cells, distance_m)


def visible_voxels(
    occupied: Tensor, origins: Tensor, directions: Tensor, grid: Grid, *, max_range_m: float = math.inf
) -> Tensor:
    """Marks the voxels that at least one ray reaches: those that it passes, known to be free, and the one it ends at.

    Args:
        occupied: (Z, Y, X) bool, fewer than 2^28 voxels.
        origins: (R, 3) floating x y z, metres, in the grid's frame.
        directions: (R, 3) floating, of any length.
        grid: where the voxels are.
        max_range_m: voxels that a ray enters beyond this distance are not reached.

    Returns:
        (Z, Y, X) bool; `visible & ~occupied` is the free space, `visible & occupied` the visible surface.

    Raises:
        TypeError: an argument that must be a tensor or a grid is none.
        ValueError: shapes, dtypes or devices that do not fit, or a range that is negative or NaN.
    """
    return _cast("visible_voxels", occupied, (origins, directions), grid, max_range_m, mark=True)[2]


def raycast_voxels_reference(
    occupied: Tensor, origins: Tensor, directions: Tensor, grid: Grid, *, max_range_m: float = math.inf
) -> tuple[Tensor, Tensor, Tensor]:
    """Does what `raycast_voxels` and `visible_voxels` do, in plain torch: the specification, and the fallback.

    Args:
        occupied: as in `raycast_voxels`.
        origins: as in `raycast_voxels`.
        directions: as in `raycast_voxels`.
        grid: as in `raycast_voxels`.
        max_range_m: as in `raycast_voxels`.

    Returns:
        Voxels (R,), distances (R,) and marks (Z, Y, X).
    """
    dtype = torch.promote_types(origins.dtype, directions.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    origins, directions = origins.detach().to(wide), directions.detach().to(wide)
    size = origins.new_tensor(grid.cell_m)
    counts = torch.tensor(grid.shape[::-1], device=origins.device)  # x y z
    place = (origins - origins.new_tensor(grid.origin_m)) / size  # (R, 3) cells
    length = directions.square().sum(1, keepdim=True).sqrt()
    speed = directions / length / size  # (R, 3) cells per metre
    entry, meets = _enter(place, speed, counts, max_range_m)
    cell = (place + entry[:, None] * speed).floor().clamp(min=0).minimum((counts - 1).to(wide))
    meets = meets & length[:, 0].isfinite() & (length[:, 0] > 0)
    cell = torch.where(meets[:, None], cell, 0).long()  # (R, 3) x y z
    forward = speed > 0
    first = torch.where(speed == 0, math.inf, (cell + forward - place) / speed)
    period = torch.where(speed == 0, 0, 1 / speed.abs())

    found = torch.full_like(cell[:, 0], -1)
    distance_m = torch.full_like(entry, math.inf)
    visible = torch.zeros_like(occupied)
    taken = torch.zeros_like(first)
    rays, at_m = meets.nonzero()[:, 0], entry[meets]
    while len(rays):
        x, y, z = cell[rays].unbind(1)
        visible[z, y, x] = True
        hit = occupied[z, y, x]
        found[rays[hit]] = ((z * counts[1] + y) * counts[0] + x)[hit]
        distance_m[rays[hit]] = at_m[hit]
        rays = rays[~hit]
        at_m, axis = (first[rays] + taken[rays] * period[rays]).min(1)  # the first of equal planes
        taken[rays, axis] += 1
        cell[rays, axis] += torch.where(forward[rays, axis], 1, -1)
        inside = ((cell[rays] >= 0) & (cell[rays] < counts)).all(1) & (at_m <= max_range_m)
        rays, at_m = rays[inside], at_m[inside]
    return found, distance_m.to(_library.output_dtype(dtype, origins.device)), visible


def _enter(place: Tensor, speed: Tensor, counts: Tensor, max_range_m: float) -> tuple[Tensor, Tensor]:
    """Gives where each ray enters the grid, in metres, and whether it does so within its range."""
    low, high = -place / speed, (counts - place) / speed
    within = (place >= 0) & (place < counts)
    still = speed == 0
    near = torch.where(still, -math.inf, torch.minimum(low, high))
    far = torch.where(still, math.inf, torch.maximum(low, high))
    enter, leave = near.amax(1).clamp(min=0), far.amin(1).clamp(max=max_range_m)
    return enter, (enter <= leave) & place.isfinite().all(1) & (within | ~still).all(1)


def _cast(
    function: str, occupied: Tensor, rays: tuple[Tensor, Tensor], grid: Grid, max_range_m: float, *, mark: bool
) -> tuple[Tensor, Tensor, Tensor]:
    origins, directions = rays
    if not isinstance(grid, Grid):
        raise TypeError(f"{function}: grid must be a Grid, got {type(grid).__name__}")
    check_tensor(f"{function}: occupied", occupied, " ".join(map(str, grid.shape)), (torch.bool,))
    check_tensor(f"{function}: origins", origins, "R 3", FLOATING)
    check_tensor(f"{function}: directions", directions, f"{len(origins)} 3", FLOATING)
    check_same_device(function, occupied=occupied, origins=origins, directions=directions)
    if math.prod(grid.shape) >= _MOST_CELLS:
        raise ValueError(f"{function}: occupied must have fewer than 2^28 voxels, got {grid.shape}")
    if not max_range_m >= 0:
        raise ValueError(f"{function}: max_range_m must be 0 or more, got {max_range_m}")
    if not _library.has_kernels(origins.device):
        return raycast_voxels_reference(occupied, origins, directions, grid, max_range_m=max_range_m)
    dtype = torch.promote_types(origins.dtype, directions.dtype)
    return torch.ops.perception.raycast_voxels(
        occupied,
        origins.detach().to(dtype),
        directions.detach().to(dtype),
        grid.origin_m,
        grid.cell_m,
        max_range_m,
        mark,
    )


def _fake(
    occupied: Tensor,
    origins: Tensor,
    directions: Tensor,
    lower_m: list[float],
    cell_m: list[float],
    max_range_m: float,
    mark: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    num_rays = origins.shape[0]
    reached = occupied.new_empty(occupied.shape if mark else (0, 0, 0))
    return origins.new_empty(num_rays, dtype=torch.int64), origins.new_empty(num_rays), reached


_library.register("raycast_voxels", fake=_fake, autocast=True)
