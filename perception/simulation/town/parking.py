"""Places to park: bays along the kerb, lay-bys, and car parks inside blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from shapely.geometry import LineString, Polygon

from perception.simulation.town import curves
from perception.simulation.town.approaches import Approach
from perception.simulation.town.network import Network
from perception.simulation.town.town import ParkingSlot

BAY_WIDTH_M = 2.4
_BAY_LENGTH_M = 6.2
_TAPER_M = 1.6
_LAY_BY_WIDTH_M = 3.0
_LAY_BY_TAPER_M = 7.0
_OVERLAP_M = 0.25
_STALL_M = (5.0, 2.6)
_AISLE_M = 6.4
_DRIVEWAY_M = 6.4


@dataclass(frozen=True, eq=False)
class Bays:
    """A row of bays along a road: its area, its places, and (N, 2) the edge of the carriageway beside it."""

    polygon: Polygon
    slots: tuple[ParkingSlot, ...]
    kerb: np.ndarray


@dataclass(frozen=True, eq=False)
class CarPark:
    """A car park in a block.

    Attributes:
        polygon: its area without the driveway.
        driveway: the way to the road, which overlaps both.
        mouth: (2, 2) where the driveway meets the road.
        slots: its places.
        frame: x, y and heading of the middle of its near side; its y axis points away from the road.
        size_m: extent along the road and away from it.
    """

    polygon: Polygon
    driveway: Polygon
    mouth: np.ndarray
    slots: tuple[ParkingSlot, ...]
    frame: tuple[float, float, float]
    size_m: tuple[float, float]


def draw_bays(rng: np.random.Generator, network: Network, approaches: Sequence[Approach]) -> list[Bays]:
    """Draws bays along the sides of roads that have them, clear of the junctions.

    Args:
        rng: where the randomness comes from.
        network: roads and junctions.
        approaches: how the roads meet.

    Returns:
        Rows of bays.
    """
    rows = []
    for index, road in enumerate(network.roads):
        first, last = sorted((a for a in approaches if a.road == index), key=lambda a: a.at_end)
        low, high = first.setback_m + 9.0, curves.length(road.line) - last.setback_m - 9.0
        for side, wanted in ((1, road.parking[0]), (-1, road.parking[1])):
            start = low
            while wanted and high - start > 3 * _BAY_LENGTH_M:
                count = int(min(rng.integers(4, 10), (high - start) // _BAY_LENGTH_M))
                rows.append(_bays(road.line, start, count, side * road.half_width_m))
                start += count * _BAY_LENGTH_M + rng.uniform(9.0, 24.0)
    return rows


def draw_lay_bys(rng: np.random.Generator, network: Network, approaches: Sequence[Approach]) -> list[Bays]:
    """Draws lay-bys along country roads, on one side and the other in turn.

    Args:
        rng: where the randomness comes from.
        network: roads and junctions.
        approaches: how the roads meet.

    Returns:
        Rows of a few places each, with long tapers.
    """
    rows = []
    for index, road in enumerate(network.roads):
        first, last = sorted((a for a in approaches if a.road == index), key=lambda a: a.at_end)
        start, side = first.setback_m + rng.uniform(13.0, 28.0), int(rng.choice([1, -1]))
        count, end = int(rng.integers(4, 8)), curves.length(road.line) - last.setback_m - 13.0
        while start + count * _BAY_LENGTH_M < end:
            rows.append(_bays(road.line, start, count, side * road.half_width_m, (_LAY_BY_WIDTH_M, _LAY_BY_TAPER_M)))
            start += count * _BAY_LENGTH_M + rng.uniform(24.0, 46.0)
            count, side = int(rng.integers(4, 8)), -side
    return rows


def _bays(
    line: np.ndarray,
    start_m: float,
    count: int,
    kerb_m: float,
    width_and_taper_m: tuple[float, float] = (BAY_WIDTH_M, _TAPER_M),
) -> Bays:
    """Bays beside a road, whose kerb lies `kerb_m` left of its middle (right where negative)."""
    side = np.sign(kerb_m)
    width_m, taper_m = width_and_taper_m
    end_m = start_m + count * _BAY_LENGTH_M
    knots = np.concatenate([[start_m - taper_m], np.linspace(start_m, end_m, 2 * count + 1), [end_m + taper_m]])
    part = curves.at(line, knots)  # (K, 2)
    widths = np.full(len(knots), width_m)
    widths[[0, -1]] = 0.0
    near, far = curves.shifted(part, kerb_m - side * _OVERLAP_M), curves.shifted(part, kerb_m + side * widths)
    slots = []
    for k in range(count):
        x, y, yaw = curves.pose_at(line, start_m + (k + 0.5) * _BAY_LENGTH_M, kerb_m + side * width_m / 2)
        slots.append(ParkingSlot(x, y, yaw + (np.pi if side > 0 else 0.0), _BAY_LENGTH_M, width_m))
    kerb = curves.shifted(part, kerb_m)
    return Bays(Polygon(np.concatenate([near, far[-2:0:-1]])), tuple(slots), kerb)


def draw_car_park(
    rng: np.random.Generator, network: Network, approaches: Sequence[Approach], plots: Polygon, bays: Sequence[Bays]
) -> CarPark | None:
    """Draws a car park on one block, where there is room for it.

    Args:
        rng: where the randomness comes from.
        network: roads and junctions.
        approaches: how the roads meet.
        plots: the block without its walkways.
        bays: rows of bays, which the driveway must leave alone.

    Returns:
        The car park, or None where it fits nowhere along the block.
    """
    size = (float(rng.uniform(30, 40)), 2 * _STALL_M[0] + _AISLE_M + float(rng.choice([0.0, _STALL_M[0] + _AISLE_M])))
    for index in rng.permutation(len(network.roads)):
        road = network.roads[index]
        first, last = sorted((a for a in approaches if a.road == index), key=lambda a: a.at_end)
        low, high = first.setback_m + 7.0, curves.length(road.line) - last.setback_m - 7.0
        for station in rng.uniform(low, high, 8) if high > low else ():
            for side in (1, -1):
                x, y, heading = curves.pose_at(road.line, station, side * (road.half_width_m + 5.5))
                park = _car_park((x, y, heading if side > 0 else heading + np.pi), size)
                clear = plots.contains(park.polygon.buffer(1.0))
                if clear and not any(park.driveway.buffer(1.0).intersects(row.polygon) for row in bays):
                    return replace(park, slots=_stalls(park.frame, size))
    return None


def _in_town(frame: tuple[float, float, float], points: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, 2) points of a car park's frame in the town."""
    c, s = np.cos(frame[2]), np.sin(frame[2])
    return np.asarray(points, dtype=np.float64) @ np.array([[c, s], [-s, c]]) + frame[:2]


def _car_park(frame: tuple[float, float, float], size_m: tuple[float, float]) -> CarPark:
    """The car park whose near side has its middle at `frame`, without places."""
    width, depth = size_m
    half = _DRIVEWAY_M / 2
    area = [(-width / 2, 0), (width / 2, 0), (width / 2, depth), (-width / 2, depth)]
    way = [(-half - 1.2, -6.2), (half + 1.2, -6.2), (half, -4.2), (half, 0.5), (-half, 0.5), (-half, -4.2)]
    mouth = _in_town(frame, [(-half - 3.0, -5.5), (half + 3.0, -5.5)])
    return CarPark(Polygon(_in_town(frame, area)), Polygon(_in_town(frame, way)), mouth, (), frame, size_m)


def _stalls(frame: tuple[float, float, float], size_m: tuple[float, float]) -> tuple[ParkingSlot, ...]:
    """The places of a car park: a row at the near side, one at the far side, and in deep ones a third between."""
    width, depth = size_m
    slots = []
    rows = [(_STALL_M[0] / 2, -np.pi / 2, 0.8), (depth - _STALL_M[0] / 2, np.pi / 2, 0.8)]
    if depth > 3 * _STALL_M[0] + _AISLE_M:
        rows.append((depth - 1.5 * _STALL_M[0] - _AISLE_M, -np.pi / 2, 6.5))
    for k, (y, yaw, margin) in enumerate(rows):
        count = int((width - 2 * margin) // _STALL_M[1])
        for x in (np.arange(count) - (count - 1) / 2) * _STALL_M[1]:
            if k > 0 or abs(x) >= (_DRIVEWAY_M + _STALL_M[1]) / 2:
                ((px, py),) = _in_town(frame, [(x, y)])
                slots.append(ParkingSlot(float(px), float(py), frame[2] + yaw, *_STALL_M))
    return tuple(slots)


def mouth_line(park: CarPark) -> LineString:
    """Where a car park's driveway meets the road.

    Args:
        park: a car park.

    Returns:
        A line across the driveway.
    """
    return LineString(park.mouth)
