"""Smooth curves that actors move along: routes over the town's lanes, lines along its walkways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception.geometry.headings import headings
from perception.simulation.town.town import Lane

SPACING_M = 0.5
"""Distance between the points that a path is stored at."""

LATERAL_ACCELERATION = 1.8
"""What drivers allow themselves in bends, in m/s^2."""

COMFORTABLE_BRAKING = 1.5
"""How they slow down before bends, in m/s^2."""

_SMOOTHING_M = 1.5
_NO_TURNS: Mapping[str, float] = {"straight": 1.0, "left": 1.0, "right": 1.0}


@dataclass(frozen=True, eq=False)
class Path:
    """A smooth planar curve, stored at points `SPACING_M` apart.

    Attributes:
        points: (K, 2) in the global frame.
        stations_m: (N,) arc length along the curve of each point that it was made from.
    """

    points: np.ndarray
    stations_m: np.ndarray

    @property
    def length_m(self) -> float:
        """Arc length from the first to the last point."""
        return (len(self.points) - 1) * SPACING_M

    def positions(self, stations_m: np.ndarray) -> np.ndarray:
        """Points on the curve.

        Args:
            stations_m: (...) arc lengths; the curve goes on straight before its start and after its end.

        Returns:
            (..., 2) global positions, continuously differentiable in the arc length.
        """
        return self._evaluate(stations_m)[0]

    def headings(self, stations_m: np.ndarray) -> np.ndarray:
        """Directions of the curve: (...) arc lengths to (...) radians in (-pi, pi]."""
        tangent = self._evaluate(stations_m)[1]
        return headings(tangent)

    def _evaluate(self, stations_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and derivative (..., 2) of the Catmull-Rom spline through the points."""
        share = np.asarray(stations_m, dtype=np.float64) / SPACING_M
        cell = np.clip(np.floor(share).astype(np.int64), 0, len(self.points) - 2)
        t = (share - cell)[..., None]
        beyond = t - np.clip(t, 0, 1)
        t = t - beyond
        p0, p1, p2, p3 = (self._padded[cell + offset] for offset in range(4))
        m1, m2 = (p2 - p0) / 2, (p3 - p1) / 2
        cubic = 2 * (p1 - p2) + m1 + m2
        square = 3 * (p2 - p1) - 2 * m1 - m2
        derivative = m1 + t * (2 * square + 3 * t * cubic)
        return p1 + t * (m1 + t * (square + t * cubic)) + beyond * derivative, derivative

    @cached_property
    def _padded(self) -> np.ndarray:
        """The points with one more at either end, straight on."""
        first, last = 2 * self.points[:1] - self.points[1:2], 2 * self.points[-1:] - self.points[-2:-1]
        return np.concatenate((first, self.points, last))  # (K + 2, 2)


def smooth_path(line: np.ndarray, offset_m: float = 0.0) -> Path:
    """A smooth curve along a polyline.

    Args:
        line: (N, 2) points, no two consecutive ones equal.
        offset_m: shift to the left of the line.

    Returns:
        The curve; bends of radius r are cut by about 1 / r metres.
    """
    line = np.asarray(line, dtype=np.float64)
    if offset_m:
        step = np.gradient(line, axis=0)
        step /= np.linalg.norm(step, axis=1, keepdims=True)
        line = line + offset_m * np.stack((-step[:, 1], step[:, 0]), axis=1)
    raw, stations = _resampled(line)
    reach = int(4 * _SMOOTHING_M / SPACING_M)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * SPACING_M / _SMOOTHING_M) ** 2)
    kernel /= kernel.sum()
    # Reflected through its ends, so that they stay where they are.
    before, after = 2 * raw[0] - raw[reach:0:-1], 2 * raw[-1] - raw[-2 : -reach - 2 : -1]
    padded = np.concatenate((before, raw, after))
    smooth = np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in (0, 1)], axis=1)  # (K, 2)
    points, of_raw = _resampled(smooth)
    return Path(points, np.interp(stations, np.arange(len(raw)) * SPACING_M, of_raw))


def _resampled(line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points `SPACING_M` apart along a polyline, and the arc length (N,) of the points given."""
    pieces = np.linalg.norm(np.diff(line, axis=0), axis=1)
    stations = np.concatenate(([0.0], np.cumsum(pieces)))
    targets = np.arange(max(int(stations[-1] / SPACING_M), 3) + 1) * SPACING_M
    return np.stack([np.interp(targets, stations, line[:, axis]) for axis in (0, 1)], axis=1), stations


@dataclass(frozen=True, eq=False)
class Route:
    """A way through the town.

    Attributes:
        lanes: ids of the lanes and connectors, in order.
        path: the curve along them.
        starts_m: (len(lanes) + 1,) arc length where each begins, and where the last ends.
        speeds_mps: (K,) highest sensible speed at each point of the path, for speed limits and bends.
    """

    lanes: tuple[int, ...]
    path: Path
    starts_m: np.ndarray
    speeds_mps: np.ndarray


def route_along(lanes: Sequence[Lane], ids: Sequence[int], offset_m: float = 0.0, top_speed_mps: float = 99.0) -> Route:
    """The route along given lanes.

    Args:
        lanes: the town's.
        ids: of the lanes and connectors, each a successor of the one before.
        offset_m: shift to the left of the lanes' middle.
        top_speed_mps: what the vehicle is able or willing to drive.

    Returns:
        The route.
    """
    pieces = [lanes[i].centerline[(1 if k else 0) :] for k, i in enumerate(ids)]
    path = smooth_path(np.concatenate(pieces), offset_m)
    ends = np.cumsum([len(piece) for piece in pieces]) - 1
    starts = np.concatenate(([0.0], path.stations_m[ends]))
    limits = np.array([min(lanes[i].speed_limit_mps, top_speed_mps) for i in ids])
    at = np.arange(len(path.points)) * SPACING_M
    of_lane = np.clip(np.searchsorted(starts, at, side="right") - 1, 0, len(ids) - 1)
    return Route(tuple(ids), path, starts, _speed_profile(path, limits[of_lane]))


def _speed_profile(path: Path, limits_mps: np.ndarray) -> np.ndarray:
    """(K,) speeds that keep to the limits and to `LATERAL_ACCELERATION`, slowing down in time."""
    heading = np.unwrap(path.headings(np.arange(len(path.points)) * SPACING_M))
    curvature = np.abs(np.gradient(heading, SPACING_M))
    curvature = np.convolve(np.pad(curvature, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    squared = np.minimum(limits_mps**2, LATERAL_ACCELERATION / np.maximum(curvature, 1e-3))
    # Braking at a constant rate makes the squared speed fall linearly: a running minimum of lines.
    slope = 2 * COMFORTABLE_BRAKING * SPACING_M * np.arange(len(squared))
    return np.sqrt(np.minimum.accumulate((squared + slope)[::-1])[::-1] - slope)


def draw_lane_ids(
    lanes: Sequence[Lane],
    start: int,
    length_m: float,
    rng: np.random.Generator,
    turns: Mapping[str, float] = _NO_TURNS,
    closed: frozenset[int] = frozenset(),
) -> list[int]:
    """Lanes to drive along from a start, drawn at every junction.

    Args:
        lanes: the town's.
        start: id of the first lane.
        length_m: least length of the whole.
        rng: source of the turns.
        turns: how much each turn is liked.
        closed: lanes to keep off, where there is another way.

    Returns:
        Ids, shorter than asked only where the lanes end.
    """
    ids, length = [start], _length(lanes[start])
    while length < length_m and lanes[ids[-1]].successors:
        options = lanes[ids[-1]].successors
        weights = np.array([turns.get(lanes[i].turn, 1.0) for i in options])
        blocked = np.array([i in closed or bool(closed.intersection(lanes[i].successors)) for i in options])
        weights = np.where(blocked, 1e-9, weights)
        ids.append(int(rng.choice(options, p=weights / weights.sum())))
        length += _length(lanes[ids[-1]])
    return ids


def _length(lane: Lane) -> float:
    return float(np.linalg.norm(np.diff(lane.centerline, axis=0), axis=1).sum())
