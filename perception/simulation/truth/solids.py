"""The surfaces of a scene, cut along the faces of a grid: how much of which kind lies in every cell.

Surfaces are cut rather than sampled, so that no cell is missed between rays, whatever the angle, and that what decides
about a cell is an area.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from perception.geometry.grid import Grid
from perception.simulation.mesh import Mesh
from perception.simulation.rays import ActorPoses

UNCOUNTED = 255
"""Kind of the surfaces that are left out."""

_MOST_CORNERS = 12  # a triangle that six planes cut has nine at most


class CellSurfaces(NamedTuple):
    """The surfaces in the cells of a grid.

    Attributes:
        area_m2: (X, Y, Z, K) float32 of each kind.
        moment_m3: (X, Y, Z, K) float32 their area times their height above the floor of the grid.
    """

    area_m2: np.ndarray
    moment_m3: np.ndarray


class Solids:
    """The meshes of a scene.

    Args:
        static: what never moves, world coordinates.
        shapes: meshes of the actors, each in its own frame, numbered as in the `RayScene` of the same scene.
    """

    def __init__(self, static: Mesh, shapes: Sequence[Mesh] = ()) -> None:
        self._static = _corners(static)
        self._static_semantics = static.semantics
        self._shapes = [(_corners(shape), shape.semantics) for shape in shapes]
        self._reach_m = [float(np.linalg.norm(shape.vertices, axis=1).max(initial=0.0)) for shape in shapes]

    def areas(
        self, actors: ActorPoses, world2grid: np.ndarray, grid: Grid, kind_of: np.ndarray, num_kinds: int
    ) -> CellSurfaces:
        """Measures the surfaces in each cell of a grid.

        Args:
            actors: what moves, at the start of its span.
            world2grid: (4, 4) float64 rigid transform into the frame of the grid.
            grid: the cells.
            kind_of: (32,) uint8 kind of each point category, `UNCOUNTED` for those that do not matter.
            num_kinds: K, one more than the largest kind.

        Returns:
            How much surface of each kind is in each cell, and how high.

        Raises:
            ValueError: `kind_of` names a kind that there is not.
        """
        if kind_of[kind_of != UNCOUNTED].max(initial=0) >= num_kinds:
            raise ValueError(f"Solids.areas: kind_of must be below num_kinds = {num_kinds} or {UNCOUNTED}")
        shape = (*grid.shape[::-1], num_kinds)
        cells = CellSurfaces(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        lower_m, cell_m = np.array(grid.origin_m), np.array(grid.cell_m)
        middle_m = lower_m + cell_m * grid.shape[::-1] / 2
        radius_m = float(np.linalg.norm(middle_m - lower_m))
        world2cells = world2grid.copy()
        world2cells[:3, 3] -= lower_m
        _deposit(self._static, kind_of[self._static_semantics], world2cells, cell_m, cells)
        middles = actors.start[:, :3, 3] @ world2grid[:3, :3].T + world2grid[:3, 3]  # (A, 3)
        away_m = np.linalg.norm(middles - middle_m, axis=1)  # (A,)
        for actor, shape in enumerate(actors.shapes.tolist()):
            if away_m[actor] <= radius_m + self._reach_m[shape]:
                corners, semantics = self._shapes[shape]
                _deposit(corners, kind_of[semantics], world2cells @ actors.start[actor], cell_m, cells)
        return cells


def _corners(mesh: Mesh) -> np.ndarray:
    return np.ascontiguousarray(mesh.corners, np.float32)


@njit(cache=True, error_model="numpy")
def _deposit(
    corners: np.ndarray, kinds: np.ndarray, mesh2cells: np.ndarray, cell_m: np.ndarray, cells: CellSurfaces
) -> None:
    """Adds triangles (T, 3, 3) of kinds (T,) to cells, whose lower corner is the origin."""
    shape = cells.area_m2.shape
    triangle = np.empty((3, 3))
    piece = np.empty((4, _MOST_CORNERS, 3))  # cut along x, along x and y, along all; room for half a cut
    for t in range(len(corners)):
        if kinds[t] == UNCOUNTED:
            continue
        for i in range(3):
            x, y, z = corners[t, i]
            for j in range(3):
                triangle[i, j] = mesh2cells[j, 0] * x + mesh2cells[j, 1] * y + mesh2cells[j, 2] * z + mesh2cells[j, 3]
        if not _meets(triangle, shape, cell_m):
            continue
        first_x, last_x = _range(triangle, 3, 0, cell_m[0], shape[0])
        for x in range(first_x, last_x + 1):
            num_x = _slab(triangle, 3, 0, x * cell_m[0], cell_m[0], piece[3], piece[0])
            first_y, last_y = _range(piece[0], num_x, 1, cell_m[1], shape[1])
            for y in range(first_y, last_y + 1):
                num_y = _slab(piece[0], num_x, 1, y * cell_m[1], cell_m[1], piece[3], piece[1])
                first_z, last_z = _range(piece[1], num_y, 2, cell_m[2], shape[2])
                for z in range(first_z, last_z + 1):
                    num_z = _slab(piece[1], num_y, 2, z * cell_m[2], cell_m[2], piece[3], piece[2])
                    area, moment = _area(piece[2], num_z)
                    cells.area_m2[x, y, z, kinds[t]] += area
                    cells.moment_m3[x, y, z, kinds[t]] += moment


@njit(cache=True, error_model="numpy", inline="always")
def _meets(triangle: np.ndarray, shape: tuple[int, ...], cell_m: np.ndarray) -> bool:
    """Whether the box around a triangle meets the grid."""
    for j in range(3):
        low = min(triangle[0, j], triangle[1, j], triangle[2, j])
        high = max(triangle[0, j], triangle[1, j], triangle[2, j])
        if high < 0 or low >= shape[j] * cell_m[j]:
            return False
    return True


@njit(cache=True, error_model="numpy", inline="always")
def _range(corners: np.ndarray, count: int, axis: int, cell_m: float, num_cells: int) -> tuple[int, int]:
    """First and last cell along an axis that a polygon reaches; the last lies before the first where there is none."""
    if count < 3:
        return 0, -1
    low, high = corners[0, axis], corners[0, axis]
    for i in range(1, count):
        low, high = min(low, corners[i, axis]), max(high, corners[i, axis])
    return max(int(np.floor(low / cell_m)), 0), min(int(np.floor(high / cell_m)), num_cells - 1)


@njit(cache=True, error_model="numpy", inline="always")
def _slab(
    corners: np.ndarray, count: int, axis: int, low_m: float, cell_m: float, room: np.ndarray, out: np.ndarray
) -> int:
    """Cuts out what of a polygon lies between two planes; returns the number of its corners."""
    half = _cut(corners, count, axis, low_m, 1.0, room)
    return _cut(room, half, axis, low_m + cell_m, -1.0, out)


@njit(cache=True, error_model="numpy", inline="always")
def _cut(corners: np.ndarray, count: int, axis: int, plane_m: float, side: float, out: np.ndarray) -> int:
    """Cuts off what of a convex polygon lies before a plane (Sutherland and Hodgman 1974)."""
    num_out = 0
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        here, there = side * (corners[i, axis] - plane_m), side * (corners[j, axis] - plane_m)
        if here >= 0:
            for k in range(3):
                out[num_out, k] = corners[i, k]
            num_out += 1
        if (here > 0 and there < 0) or (here < 0 and there > 0):
            share = here / (here - there)
            for k in range(3):
                out[num_out, k] = corners[i, k] + share * (corners[j, k] - corners[i, k])
            num_out += 1
    return num_out


@njit(cache=True, error_model="numpy", inline="always")
def _area(corners: np.ndarray, count: int) -> tuple[float, float]:
    """Area of a plane convex polygon, and that times the height of its centroid."""
    area, moment = 0.0, 0.0
    for i in range(1, count - 1):
        k = i + 1
        ux, uy, uz = corners[i, 0] - corners[0, 0], corners[i, 1] - corners[0, 1], corners[i, 2] - corners[0, 2]
        vx, vy, vz = corners[k, 0] - corners[0, 0], corners[k, 1] - corners[0, 1], corners[k, 2] - corners[0, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        part = 0.5 * np.sqrt(x * x + y * y + z * z)
        area += part
        moment += part * (corners[0, 2] + corners[i, 2] + corners[k, 2]) / 3
    return area, moment
