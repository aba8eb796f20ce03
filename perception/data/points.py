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
    """Reads one LiDAR file without its ring column.

    Args:
        path: the file.
        min_range_m: points nearer to the sensor are removed; the files hold missing returns there.
        non_finite: whether to raise on points with NaN or infinity, or to drop them.

    Returns:
        (P, 4) float32 x y z intensity in the sensor's frame, and how many points were dropped for not being finite.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or ends within a point; a point is not finite and that is to raise.
    """
    points = torch.from_numpy(read_lidar(path, non_finite=non_finite))[:, :4]  # (P, 5) -> (P, 4)
    num_stored = Path(path).stat().st_size // (4 * len(LIDAR_FIELDS))
    x, y, z = points[:, :3].unbind(1)
    far = (x * x + y * y + z * z >= min_range_m**2).nonzero().squeeze(1)  # (P',)
    return points.index_select(0, far), num_stored - len(points)


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
