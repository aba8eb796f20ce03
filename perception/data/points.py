"""LiDAR files -> points of one sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception.formats.lidar import LIDAR_FIELDS, NonFinite, read_lidar

POINT_FIELDS = ("intensity", "time_lag_s")
"""Extra columns of a loaded cloud: as recorded (nuScenes: 0..255), and seconds before the sample's time."""


def load_points(path: str | Path, min_range_m: float, non_finite: NonFinite = "raise") -> tuple[Tensor, int]:
    """Reads one LiDAR file.

    Args:
        path: the file.
        min_range_m: points nearer to the sensor are removed; the files hold missing returns there.
        non_finite: whether to raise on points with NaN or infinity, or to drop them.

    Returns:
        (P, 5) float32 x y z intensity ring in the sensor's frame, and how many points were dropped as not finite.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or ends within a point; a point is not finite and that is to raise.
    """
    points = read_lidar(path, non_finite=non_finite)  # (P, 5)
    num_stored = Path(path).stat().st_size // (4 * len(LIDAR_FIELDS))
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    with np.errstate(over="ignore"):  # absurdly far is far
        far = np.compress(x * x + y * y + z * z >= min_range_m**2, points, axis=0)
    return torch.from_numpy(far), num_stored - len(points)


def move_points(points: Tensor, lidar2ego: Tensor, lag_s: float) -> Tensor:
    """Moves the points of one file into the ego frame and replaces their ring by their age.

    Args:
        points: (P, 5) float32 x y z intensity ring in the sensor's frame.
        lidar2ego: (4, 4) float64.
        lag_s: seconds before the sample's time.

    Returns:
        (P, 5) float32 x y z intensity time_lag_s, computed in float64.
    """
    turn, offset = lidar2ego[:3, :3].tolist(), lidar2ego[:3, 3].tolist()
    sensor = points.numpy()
    moved = np.empty_like(sensor)
    x, y, z = (sensor[:, axis].astype(np.float64) for axis in range(3))
    for axis, (along_x, along_y, along_z) in enumerate(turn):  # twice as fast as a product of so narrow matrices
        moved[:, axis] = along_x * x + along_y * y + along_z * z + offset[axis]
    moved[:, 3], moved[:, 4] = sensor[:, 3], lag_s
    return torch.from_numpy(moved)


def thin_points(points: Tensor, max_points: int | None, seed: int) -> Tensor:
    """Keeps a random subset, in order.

    Args:
        points: (P, F).
        max_points: how many to keep; None keeps all.
        seed: the subset depends on it and on P alone.

    Returns:
        (min(P, max_points), F).
    """
    if max_points is None or len(points) <= max_points:
        return points
    chosen = np.random.default_rng(seed).choice(len(points), max_points, replace=False)
    return points[torch.from_numpy(np.sort(chosen))]
