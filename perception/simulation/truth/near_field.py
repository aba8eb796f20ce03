"""The obstacle grid near the vehicle: where it would run into something, where it would not, and what nobody sees.

A cell is occupied where a surface other than the ground stands in it between `LOW_M` and `HIGH_M`; walkways and kerbs
are ground. A cell is known where a sensor has a free line of sight to it: to the ground of an empty cell, to the
highest surface in an occupied one; what borders on seen ground is seen too, as its side is. The own car hides what is
under it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.near_field import NEAR_FIELD_GRID, NearFieldCell
from perception.geometry.grid import Grid
from perception.simulation.rays import ActorPoses
from perception.simulation.sensors.base import Surroundings
from perception.simulation.truth.solids import UNCOUNTED, Solids

LOW_M, HIGH_M = 0.2, 2.0
"""Heights between which things are in the vehicle's way: above kerbs, up to above its roof."""

_LAYERS = Grid(NEAR_FIELD_GRID.x_range_m, NEAR_FIELD_GRID.y_range_m, (LOW_M, HIGH_M), (0.1, 0.1, 0.3))
_LEAST_AREA_M2 = 0.001
"""A tenth of a cell's floor, or a bar of 3 mm all the way up."""

_SLACK_M = 0.15
"""A ray ends so far before the middle of its cell: a cell's diagonal."""

_LIFT_M = 0.02
"""What is level, as a roof, is looked at from just above."""

_GROUND = ("noise", "flat.driveable_surface", "flat.other", "flat.sidewalk", "flat.terrain")
_KINDS = np.array([UNCOUNTED if name in _GROUND else 0 for name in POINT_CATEGORIES], np.uint8)


def near_field_cells(
    solids: Solids, surroundings: Surroundings, t_us: int, eyes_m: Sequence[Sequence[float]]
) -> np.ndarray:
    """The obstacle grid at a time.

    Args:
        solids: the meshes of the scene.
        surroundings: its rays and motion.
        t_us: time; the ego frame is that of then.
        eyes_m: (E, 3) places of the sensors in the ego frame, outside the own car.

    Returns:
        (160, 160) uint8 `NearFieldCell`; row = y cell, column = x cell.

    Raises:
        ValueError: `eyes_m` is not (E, 3).
    """
    eyes = np.asarray(eyes_m, np.float64)
    if eyes.ndim != 2 or eyes.shape[1] != 3:
        raise ValueError(f"near_field_cells: eyes_m must be (E, 3), got {eyes.shape}")
    ego2global = surroundings.motion.ego2global(t_us)
    surfaces = solids.areas(surroundings.actors(t_us), np.linalg.inv(ego2global), _LAYERS, _KINDS, 1)
    area, moment = (values[..., 0].transpose(2, 1, 0) for values in surfaces)  # (X, Y, Z) -> (Z, Y, X)
    occupied = area.sum(axis=0) >= _LEAST_AREA_M2  # (Y, X)
    top = len(area) - 1 - (area[::-1] > 0).argmax(axis=0)[None]  # (1, Y, X) highest layer with a surface
    rise = np.take_along_axis(moment, top, 0)[0] / np.maximum(np.take_along_axis(area, top, 0)[0], 1e-9)
    height_m = np.where(occupied, LOW_M + rise + _LIFT_M, LOW_M)  # (Y, X)
    targets = np.dstack([NEAR_FIELD_GRID.centers_xy().numpy(), height_m])  # (Y, X, 3)
    seen = _seen(surroundings, surroundings.casting_shadows(t_us), ego2global, eyes, targets.reshape(-1, 3))
    seen = seen.reshape(occupied.shape)
    free = seen & ~occupied
    cells = np.full(occupied.shape, NearFieldCell.UNKNOWN, np.uint8)
    cells[free] = NearFieldCell.FREE
    cells[occupied & (seen | _bordering(free))] = NearFieldCell.OCCUPIED
    return cells


def _seen(
    surroundings: Surroundings, actors: ActorPoses, ego2global: np.ndarray, eyes: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """(N,) bool: which places (N, 3) any of the eyes (E, 3) sees, all in the ego frame."""
    seen = np.zeros(len(targets), bool)
    for eye in eyes:
        left = np.nonzero(~seen)[0]
        ways = targets[left] - eye  # (L, 3)
        lengths = np.linalg.norm(ways, axis=1)
        directions = (ways / np.maximum(lengths, 1e-6)[:, None]) @ ego2global[:3, :3].T
        origin = ego2global[:3, :3] @ eye + ego2global[:3, 3]
        limits = np.maximum(lengths - _SLACK_M, 1e-3).astype(np.float32)
        seen[left] = ~surroundings.rays.occluded(origin, directions, limits, actors)
    return seen


def _bordering(cells: np.ndarray) -> np.ndarray:
    """(Y, X) bool: cells one of whose eight neighbours is among some (Y, X)."""
    padded = np.pad(cells, 1)
    rows, columns = cells.shape
    near = np.zeros_like(cells)
    for row in range(3):
        for column in range(3):
            near |= padded[row : row + rows, column : column + columns]
    return near
