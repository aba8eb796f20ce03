"""Smooth plane curves as polylines: drawing, measuring, cutting and shifting them."""

from __future__ import annotations

import numpy as np
from shapely.geometry import Polygon


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length one.

    Args:
        vectors: (..., 2), none of length zero.

    Returns:
        (..., 2) unit vectors.
    """
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def left_of(directions: np.ndarray) -> np.ndarray:
    """Directions turned a quarter to the left.

    Args:
        directions: (..., 2).

    Returns:
        (..., 2).
    """
    return np.stack([-directions[..., 1], directions[..., 0]], axis=-1)


def bezier(points: np.ndarray, count: int) -> np.ndarray:
    """A cubic Bezier curve.

    Args:
        points: (4, 2) control points.
        count: number of points wanted.

    Returns:
        (count, 2) points, the first and last control point among them.
    """
    t = np.linspace(0, 1, count)[:, None]
    return (
        (1 - t) ** 3 * points[0] + 3 * t * (1 - t) ** 2 * points[1] + 3 * t**2 * (1 - t) * points[2] + t**3 * points[3]
    )


def stations(line: np.ndarray) -> np.ndarray:
    """The distance of each point from the line's start, along the line.

    Args:
        line: (N, 2) polyline.

    Returns:
        (N,) metres, the last one the line's length.
    """
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


def length(line: np.ndarray) -> float:
    """The length of a polyline in metres.

    Args:
        line: (N, 2) polyline.

    Returns:
        Its length.
    """
    return float(stations(line)[-1])


def at(line: np.ndarray, station_m: np.ndarray | float) -> np.ndarray:
    """Points of a line at given distances from its start.

    Args:
        line: (N, 2) polyline.
        station_m: (...,) distances; clamped to the line.

    Returns:
        (..., 2) points.
    """
    s = stations(line)
    return np.stack([np.interp(station_m, s, line[:, 0]), np.interp(station_m, s, line[:, 1])], axis=-1)


def directions(line: np.ndarray) -> np.ndarray:
    """The unit tangent at each point of a line.

    Args:
        line: (N, 2) polyline.

    Returns:
        (N, 2) unit vectors.
    """
    steps = np.diff(line, axis=0)
    pieces = unit(steps)  # (N - 1, 2)
    if len(line) == 2:
        return np.concatenate([pieces, pieces])
    weights = np.linalg.norm(steps, axis=1, keepdims=True)
    inner = unit(pieces[:-1] * weights[1:] + pieces[1:] * weights[:-1])  # the shorter neighbour counts more
    first, last = 2 * pieces[0] - inner[0], 2 * pieces[-1] - inner[-1]  # as if the curvature went on
    return unit(np.concatenate([first[None], inner, last[None]]))


def direction_at(line: np.ndarray, station_m: float) -> np.ndarray:
    """The unit tangent at a distance from the start.

    Args:
        line: (N, 2) polyline.
        station_m: the distance.

    Returns:
        (2,) unit vector.
    """
    tangents = directions(line)
    s = stations(line)
    return unit(np.array([np.interp(station_m, s, tangents[:, 0]), np.interp(station_m, s, tangents[:, 1])]))


def pose_at(line: np.ndarray, station_m: float, offset_m: float = 0.0) -> tuple[float, float, float]:
    """A pose beside a line.

    Args:
        line: (N, 2) polyline.
        station_m: distance from its start.
        offset_m: distance to its left.

    Returns:
        x, y and the line's heading there in radians.
    """
    heading = direction_at(line, station_m)
    x, y = at(line, station_m) + offset_m * left_of(heading)
    return float(x), float(y), float(np.arctan2(heading[1], heading[0]))


def resampled(line: np.ndarray, spacing_m: float) -> np.ndarray:
    """The line with evenly spaced points.

    Args:
        line: (N, 2) polyline.
        spacing_m: largest distance between them.

    Returns:
        (M, 2) polyline with the same ends.
    """
    total = length(line)
    return at(line, np.linspace(0, total, max(int(np.ceil(total / spacing_m)), 1) + 1))


def cut(line: np.ndarray, start_m: float, end_m: float, spacing_m: float = 2.0) -> np.ndarray:
    """The part of a line between two distances from its start.

    Args:
        line: (N, 2) polyline.
        start_m: where the part begins.
        end_m: where it ends.
        spacing_m: largest distance between its points.

    Returns:
        (M, 2) evenly spaced points.
    """
    count = max(int(np.ceil((end_m - start_m) / spacing_m)), 1) + 1
    return at(line, np.linspace(start_m, end_m, count))


def shifted(line: np.ndarray, offset_m: float | np.ndarray) -> np.ndarray:
    """The line moved sideways.

    Args:
        line: (N, 2) polyline.
        offset_m: distance to the left, one or (N,).

    Returns:
        (N, 2) polyline.
    """
    return line + np.asarray(offset_m)[..., None] * left_of(directions(line))


def strip(line: np.ndarray, left_m: float, right_m: float) -> Polygon:
    """The area between two offsets of a line.

    Args:
        line: (N, 2) polyline.
        left_m: offset of its left side.
        right_m: offset of its right side, smaller.

    Returns:
        A polygon of 2 N corners.
    """
    return Polygon(np.concatenate([shifted(line, right_m), shifted(line, left_m)[::-1]]))
