"""Which cells of a grid sensors observe: lines of sight through the cells, as in Occ3D, but none left to chance.

Rays spread evenly miss most of the ground far away, whose cells stand for hundredths of a degree. So rays go to the
middle of every face of an occupied cell that looks towards the sensor, and an even fan besides fills the free space.
What cells hide from such a ray, but surfaces do not, is seen too: a low barrier fills its cells in part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from perception.geometry.grid import Grid
from perception.ops.raycast_voxels import visible_voxels
from perception.simulation.sensors.camera import Camera

_LIDAR_FIELD_DEG = (-30.7, 10.7)
_STEP_RAD = 0.009  # a cell of 0.4 m at 45 m

Hidden = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Says of places (N, 3) which an eye (3,) does not see for the surfaces between, (N,) bool; frame of the grid."""


class Viewpoint(NamedTuple):
    """A sensor at one place.

    Attributes:
        sensor2grid: (4, 4) pose in the frame of the grid.
        holds: says of directions (N, 3) in the sensor frame, any length, which are in the sensor's field, (N,) bool.
        fan: (F, 3) directions all over the field, sensor frame.
    """

    sensor2grid: np.ndarray
    holds: Callable[[np.ndarray], np.ndarray]
    fan: np.ndarray


def lidar_viewpoint(lidar2grid: np.ndarray) -> Viewpoint:
    """A spinning LiDAR, whose beams sweep over all of its field as it moves.

    Args:
        lidar2grid: (4, 4) pose.

    Returns:
        It, looking all around.
    """
    low, high = np.radians(_LIDAR_FIELD_DEG)
    elevation = np.linspace(low, high, int((high - low) / _STEP_RAD) + 2)[:, None]  # (E, 1)
    azimuth = np.arange(0, 2 * np.pi, _STEP_RAD)  # (N,)
    across, up = np.cos(elevation), np.broadcast_to(np.sin(elevation), (len(elevation), len(azimuth)))
    fan = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), up], axis=-1)  # (E, N, 3)

    def holds(directions: np.ndarray) -> np.ndarray:
        """Which directions (N, 3) are in the field."""
        slope = directions[:, 2] / np.maximum(np.hypot(directions[:, 0], directions[:, 1]), 1e-9)
        return (slope >= np.tan(low)) & (slope <= np.tan(high))

    return Viewpoint(lidar2grid, holds, fan.reshape(-1, 3))


def camera_viewpoint(camera: Camera, camera2grid: np.ndarray) -> Viewpoint:
    """A pinhole camera.

    Args:
        camera: its lens.
        camera2grid: (4, 4) pose.

    Returns:
        It, with its picture as field.
    """
    size = np.array(camera.image_size_px[::-1])  # u v
    focal, principal = camera.intrinsics[[0, 1], [0, 1]], camera.intrinsics[:2, 2]
    low, high = (-0.5 - principal) / focal, (size - 0.5 - principal) / focal  # the picture's borders, at depth 1
    u, v = (np.linspace(a, b, int((b - a) / _STEP_RAD) + 2) for a, b in zip(low, high, strict=True))
    across, down = np.meshgrid(u, v)

    def holds(directions: np.ndarray) -> np.ndarray:
        """Which directions (N, 3) are in the field."""
        depth = directions[:, 2]
        at = directions[:, :2] / np.where(depth > 0, depth, np.nan)[:, None]  # (N, 2)
        return ((at >= low) & (at <= high)).all(axis=1)

    return Viewpoint(camera2grid, holds, np.stack([across, down, np.ones_like(across)], axis=-1).reshape(-1, 3))


def observed_cells(occupied: np.ndarray, grid: Grid, viewpoints: Sequence[Viewpoint], hidden: Hidden) -> np.ndarray:
    """The cells that at least one sensor sees: the free ones before, and the first occupied one, along its rays.

    Args:
        occupied: (X, Y, Z) bool.
        grid: where they are.
        viewpoints: the sensors.
        hidden: asked about faces that other cells hide, since what fills a cell in part may leave the view open.

    Returns:
        (X, Y, Z) bool.
    """
    middles, normals, owners = _faces(occupied, grid)
    cells = torch.from_numpy(np.ascontiguousarray(occupied.transpose(2, 1, 0)))  # (Z, Y, X)
    seen = torch.zeros_like(cells)
    flat_seen = seen.numpy().reshape(-1)  # shares its memory
    for view in viewpoints:
        eye, rotation = view.sensor2grid[:3, 3].astype(np.float32), view.sensor2grid[:3, :3].astype(np.float32)
        ways = middles - eye  # (N, 3)
        shown = np.nonzero(np.einsum("ij,ij->i", ways, normals) < 0)[0]
        shown = shown[view.holds(ways[shown] @ rotation)]  # (S,) faces in the field that look towards the sensor
        directions = torch.from_numpy(np.concatenate([ways[shown], view.fan.astype(np.float32) @ rotation.T]))
        seen |= visible_voxels(cells, torch.from_numpy(eye).expand(len(directions), 3).contiguous(), directions, grid)
        left = shown[~flat_seen[owners[shown]]]
        flat_seen[owners[left[~hidden(view.sensor2grid[:3, 3], middles[left])]]] = True
    return np.ascontiguousarray(seen.numpy().transpose(2, 1, 0))  # (Z, Y, X) -> (X, Y, Z)


def _faces(occupied: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All faces between occupied and free: middles and outward axes (N, 3) float32, and whose (N,), z y x in one."""
    middles, normals, owners = [], [], []
    for axis in range(3):
        before, after = np.moveaxis(occupied, axis, 0)[:-1], np.moveaxis(occupied, axis, 0)[1:]
        for sign, open_face in ((1, before & ~after), (-1, after & ~before)):
            cells = np.argwhere(np.moveaxis(open_face, 0, axis))  # (N, 3) before the face
            step = np.eye(3, dtype=np.int64)[axis]
            middles.append((cells + 0.5 + 0.5 * step) * grid.cell_m + grid.origin_m)
            normals.append(np.broadcast_to(sign * step, cells.shape))
            owners.append(np.ravel_multi_index(tuple((cells + (sign < 0) * step).T[::-1]), occupied.shape[::-1]))
    return (
        np.concatenate(middles).astype(np.float32),
        np.concatenate(normals).astype(np.float32),
        np.concatenate(owners),
    )
