"""LiDAR files (`.pcd.bin`): rows of five float32, x y z intensity ring."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np

from perception.formats.files import atomic_writer

LIDAR_FIELDS = ("x", "y", "z", "intensity", "ring")
_ROW_BYTES = 4 * len(LIDAR_FIELDS)
_log = logging.getLogger(__name__)

NonFinite = Literal["raise", "drop"]


def read_lidar(path: str | Path, *, num_points: int | None = None, non_finite: NonFinite = "raise") -> np.ndarray:
    """The points of a LiDAR file.

    Args:
        path: the file.
        num_points: how many there must be, where that is known: a file that was cut between two points shows in no
            other way.
        non_finite: what to do about points with NaN or infinity: raise, or drop them with a warning that counts them.

    Returns:
        (P, 5) float32 in the sensor frame: x y z in metres, intensity 0..255, ring index.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is empty, ends within a point or has another number of points; a point is not finite.
    """
    path = Path(path)
    data = path.read_bytes()
    if not data:
        raise ValueError(f"read_lidar: {path}: file is empty")
    if len(data) % _ROW_BYTES:
        raise ValueError(f"read_lidar: {path}: size must be a multiple of {_ROW_BYTES} bytes, got {len(data)}: cut off")
    points = np.frombuffer(data, dtype="<f4").reshape(-1, len(LIDAR_FIELDS))  # (P * 5,) -> (P, 5)
    if num_points is not None and len(points) != num_points:
        raise ValueError(f"read_lidar: {path}: must have {num_points} points, got {len(points)}")
    return keep_finite(points.astype(np.float32), "read_lidar", path, non_finite)


def write_lidar(path: str | Path, points: np.ndarray) -> None:
    """Writes a LiDAR file.

    Args:
        path: the file; its name should end in `.bin`, which the devkit asks for.
        points: (P, 5) x y z intensity ring, at least one.

    Raises:
        ValueError: `points` is not (P, 5) or has no point.
    """
    if points.ndim != 2 or points.shape[1] != len(LIDAR_FIELDS) or not len(points):
        raise ValueError(f"write_lidar: points must be (P, 5) with P > 0, got {points.shape}")
    with atomic_writer(path) as file:
        file.write(points.astype("<f4").tobytes())


def keep_finite(points: np.ndarray, function: str, path: Path, non_finite: NonFinite) -> np.ndarray:
    """Raises on points that are not finite, or drops them with a warning.

    Args:
        points: (P, C).
        function: name of the reader, for the message.
        path: of the file, for the message.
        non_finite: `raise` or `drop`.

    Returns:
        (P', C) the finite points.

    Raises:
        ValueError: a point is not finite, and that is not to be dropped; `non_finite` is neither.
    """
    if non_finite not in ("raise", "drop"):
        raise ValueError(f"{function}: non_finite must be 'raise' or 'drop', got {non_finite!r}")
    if np.isfinite(points).all():
        return points
    finite = np.isfinite(points).all(axis=1)  # (P,)
    first, count = int(np.argmin(finite)), int((~finite).sum())
    reason = f"{count} of {len(points)} points are not finite, the first is number {first}: {points[first].tolist()}"
    if non_finite == "raise":
        raise ValueError(f"{function}: {path}: {reason}")
    _log.warning("%s: %s: dropped: %s", function, path, reason)
    return points[finite]
