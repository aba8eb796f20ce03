"""Files of radars that measure height: points with Doppler, cross-section and power.

nuScenes has no such sensor, so the layout is this project's own. Little-endian, nothing after the last point:

| bytes | content |
|---|---|
| 8 | `RADAR4D` and the version, one byte, 1 |
| 4 | uint32, number of points P |
| 4 | uint32, CRC-32 of what follows |
| 28 P | points of seven float32, `RADAR4D_FIELDS` |

`x y z` in metres, sensor frame (x forward, y left, z up); `range_rate` in m/s along the line of sight, relative to the
moving sensor, positive as the distance grows; `range_rate_over_ground` the same less the sensor's own motion, 0 for
what stands still; `rcs` in dBsm; `power` in dB above the noise.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from perception.formats.files import atomic_writer
from perception.formats.lidar import NonFinite, keep_finite

RADAR4D_FIELDS = ("x", "y", "z", "range_rate", "range_rate_over_ground", "rcs", "power")
"""Columns of a scan."""

_MAGIC = b"RADAR4D\x01"
_HEADER = struct.Struct("<8sII")
_ROW_BYTES = 4 * len(RADAR4D_FIELDS)


def read_radar4d(path: str | Path, *, non_finite: NonFinite = "raise") -> np.ndarray:
    """The points of a scan.

    Args:
        path: the file.
        non_finite: what to do about points with NaN or infinity: raise, or drop them with a warning that counts them.

    Returns:
        (P, 7) float32, columns `RADAR4D_FIELDS`; (0, 7) for an empty scan.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is no scan of this version, has another length than it says or has changed since it was
            written; a point is not finite.
    """
    path = Path(path)
    data = path.read_bytes()
    if len(data) < _HEADER.size or not data.startswith(_MAGIC[:-1]):
        raise ValueError(f"read_radar4d: {path}: must begin with a header of RADAR4D, got {data[:8]!r}")
    magic, num_points, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError(f"read_radar4d: {path}: version must be {_MAGIC[-1]}, got {magic[-1]}")
    needed = _HEADER.size + num_points * _ROW_BYTES
    if len(data) != needed:
        raise ValueError(f"read_radar4d: {path}: {num_points} points need {needed} bytes, got {len(data)}")
    if zlib.crc32(data[_HEADER.size :]) != checksum:
        raise ValueError(f"read_radar4d: {path}: checksum must be that of the points, got another: damaged")
    points = np.frombuffer(data, dtype="<f4", offset=_HEADER.size).reshape(
        -1, len(RADAR4D_FIELDS)
    )  # (P * 7,) -> (P, 7)
    return keep_finite(points.astype(np.float32), "read_radar4d", path, non_finite)


def radar4d_bytes(points: np.ndarray) -> bytes:
    """The file of a scan.

    Args:
        points: (P, 7) columns `RADAR4D_FIELDS`.

    Returns:
        What `read_radar4d` reads.

    Raises:
        ValueError: `points` is not (P, 7) or not finite.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != len(RADAR4D_FIELDS):
        raise ValueError(f"radar4d_bytes: points must be (P, {len(RADAR4D_FIELDS)}), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("radar4d_bytes: points must be finite, got NaN or infinity")
    rows = points.astype("<f4").tobytes()
    return _HEADER.pack(_MAGIC, len(points), zlib.crc32(rows)) + rows


def write_radar4d(path: str | Path, points: np.ndarray) -> None:
    """Writes a scan.

    Args:
        path: the file.
        points: (P, 7) columns `RADAR4D_FIELDS`.

    Raises:
        ValueError: `points` is not (P, 7) or not finite.
    """
    content = radar4d_bytes(points)
    with atomic_writer(path) as file:
        file.write(content)
