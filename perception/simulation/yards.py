"""Where a car may be parked: aisles of car parks, rows of bays along roads, or else the edge of a road.

Each is described in a frame of its own, whose x axis runs along the aisle or the road where a car drives by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from shapely import affinity
from shapely.geometry import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from perception.simulation.ego import BORDER_M
from perception.simulation.town.town import Lane, ParkingSlot, Town

LEAST_AISLE_M = 5.2
_LEAST_PLACES = 4
_STRAIGHT_M = 0.45
"""How far the middle of a row may lie off the line between its ends, so that it counts as straight."""

_EDGE_LENGTH_M, _EDGE_WIDTH_M, _EDGE_COUNT = 6.4, 2.1, 6
_EDGE_INSIDE_M = 0.12
_SETBACK_M = 8.0
_DRIVEWAY_M = 5.0
"""How much of the way to the road belongs to a car park: less than to the kerb."""


class Place(NamedTuple):
    """A place in the frame of its yard: centre, heading, size, and its index in `Town.parking_slots`, -1 for none."""

    x: float
    y: float
    yaw_rad: float
    length_m: float
    width_m: float
    slot: int


@dataclass(frozen=True, eq=False)
class Yard:
    """An aisle with places beside it.

    Attributes:
        frame: x, y and heading in the town; traffic along a road goes to +x.
        places: those beside the aisle, and all others near it.
        beside: how many of the first `places` are entered from this aisle.
        across: whether they lie across the aisle (a car park) or along it (a road).
        span_m: from where to where cars drive along the aisle.
        half_width_m: from the middle of the aisle to the places, on either side; along roads it is not used.
        ground: what may be driven on, in this frame.
        entry: x, y and heading where one comes in from the road, if that is known.
        lanes: ids of the lanes that the aisle takes up, which are left to who parks there.
    """

    frame: tuple[float, float, float]
    places: tuple[Place, ...]
    beside: int
    across: bool
    span_m: tuple[float, float]
    half_width_m: float
    ground: BaseGeometry
    entry: tuple[float, float, float] | None = None
    lanes: frozenset[int] = frozenset()

    def in_town(self, poses: np.ndarray) -> np.ndarray:
        """Poses (..., 3) x, y and heading of this frame in the town."""
        x, y, heading = self.frame
        cos, sin = np.cos(heading), np.sin(heading)
        turn = np.array([[cos, sin], [-sin, cos]])
        return np.concatenate((poses[..., :2] @ turn + (x, y), poses[..., 2:] + heading), axis=-1)

    def from_town(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of the town in this frame."""
        return _in_frame(self.frame, points)


def find_yards(town: Town) -> Iterator[list[Yard]]:
    """The yards of a town by kind: aisles of car parks, then rows of bays, then edges of roads.

    Args:
        town: any town.

    Yields:
        All yards of a kind that lie away from the edges of the map; kinds that the town does not have are left out.
    """
    rows = [(slots, area, _is_across(town, slots)) for slots, area in _rows(town)]
    kinds = (
        (yard for slots, area, across in rows if across for yard in _aisles(town, slots, area)),
        (yard for slots, _, across in rows if not across for yard in _kerbside(town, slots)),
        (yard for lane in town.lanes if lane.junction is None for yard in _edge(town, lane)),
    )
    for yards in kinds:
        inside = [yard for yard in yards if _is_inside(town, yard)]
        if inside:
            yield inside


def _is_inside(town: Town, yard: Yard) -> bool:
    ends = yard.in_town(np.array([[yard.span_m[0], 0.0, 0.0], [yard.span_m[1], 0.0, 0.0]]))[:, :2]
    return bool(ends.min() > BORDER_M + 2 and (np.array(town.size_m) - ends).min() > BORDER_M + 2)


def _rows(town: Town) -> list[tuple[list[int], Polygon]]:
    """Areas to park on with the places in each."""
    points = [Point(slot.x, slot.y) for slot in town.parking_slots]
    rows = []
    for area in town.areas.get("carpark_area", []):
        inside = [i for i, point in enumerate(points) if area.contains(point)]
        if len(inside) >= 2:
            rows.append((inside, area))
    return rows


def _is_across(town: Town, slots: list[int]) -> bool:
    """Whether places lie side by side rather than end to end."""
    first = town.parking_slots[slots[0]]
    others = np.array([(town.parking_slots[i].x - first.x, town.parking_slots[i].y - first.y) for i in slots[1:]])
    x, y = others[np.linalg.norm(others, axis=1).argmin()]
    along = abs(x * np.cos(first.yaw_rad) + y * np.sin(first.yaw_rad))
    return bool(along < 0.5 * np.hypot(x, y))


def _local(frame: tuple[float, float, float], shape: BaseGeometry) -> BaseGeometry:
    """A shape of the town in a frame."""
    x, y, heading = frame
    moved = affinity.translate(shape, -x, -y)
    return affinity.rotate(moved, -heading, origin=(0, 0), use_radians=True)


def _in_frame(frame: tuple[float, float, float], points: np.ndarray) -> np.ndarray:
    """Points (N, 2) of the town in a frame."""
    x, y, heading = frame
    cos, sin = np.cos(heading), np.sin(heading)
    return (points - (x, y)) @ np.array([[cos, -sin], [sin, cos]])


def _place(frame: tuple[float, float, float], slot: ParkingSlot, index: int) -> Place:
    cos, sin = np.cos(frame[2]), np.sin(frame[2])
    x, y = slot.x - frame[0], slot.y - frame[1]
    yaw = slot.yaw_rad - frame[2]
    return Place(float(x * cos + y * sin), float(y * cos - x * sin), float(yaw), slot.length_m, slot.width_m, index)


def _aisles(town: Town, slots: list[int], area: Polygon) -> list[Yard]:
    """The strips between the rows of a car park that are wide enough to turn in."""
    first = town.parking_slots[slots[0]]
    base = (first.x, first.y, first.yaw_rad + np.pi / 2)
    local = [_place(base, town.parking_slots[i], i) for i in slots]
    shape = _local(base, area)
    low_x, low_y, high_x, high_y = shape.bounds
    depths = sorted(place.y for place in local)
    middles = [depths[0]] + [b for a, b in pairwise(depths) if b - a > 1.0]
    half = first.length_m / 2
    edges = [low_y, *(edge for middle in middles for edge in (middle - half, middle + half)), high_y]
    yards = []
    for below, above in zip(edges[::2], edges[1::2], strict=True):
        if above - below < LEAST_AISLE_M:
            continue
        middle = (below + above) / 2
        line = shape.intersection(LineString([(low_x - 1, middle), (high_x + 1, middle)]))
        beside = [place for place in local if abs(abs(place.y - middle) - half - (above - below) / 2) < 0.6]
        if line.is_empty or len(beside) < _LEAST_PLACES:
            continue
        rest = [place for place in local if place not in beside]
        start, end = (float(np.array(line.bounds)[k]) for k in (0, 2))
        shifted = [place._replace(x=place.x - (start + end) / 2, y=place.y - middle) for place in (*beside, *rest)]
        cos, sin = np.cos(base[2]), np.sin(base[2])
        x, y = (start + end) / 2, middle
        frame = (base[0] + x * cos - y * sin, base[1] + x * sin + y * cos, base[2])
        ground = _ground(town, area)
        yards.append(
            Yard(
                frame=frame,
                places=tuple(shifted),
                beside=len(beside),
                across=True,
                span_m=((start - end) / 2, (end - start) / 2),
                half_width_m=(above - below) / 2,
                ground=_local(frame, ground),
                entry=_entry(_local(frame, ground.difference(area.buffer(0.02)))),
            )
        )
    return yards


def _ground(town: Town, area: Polygon) -> BaseGeometry:
    """What may be driven on in a car park: it, and what leads there from the road."""
    reach = area.buffer(_DRIVEWAY_M, join_style="mitre")
    return unary_union([area, *(face.intersection(reach) for face in town.areas["drivable_area"])])


def _entry(driveway: BaseGeometry) -> tuple[float, float, float] | None:
    """The middle of a driveway, heading for the aisle."""
    parts = [part for part in getattr(driveway, "geoms", [driveway]) if part.area > 8.0]
    if not parts:
        return None
    x, y = max(parts, key=lambda part: part.area).centroid.coords[0]
    return float(x), float(y), float(-np.sign(y) * np.pi / 2)


def _kerbside(town: Town, slots: list[int]) -> list[Yard]:
    """A straight row of bays with the lane beside it."""
    places = [town.parking_slots[i] for i in slots]
    ends = np.array([(place.x, place.y) for place in places])
    chord = ends[-1] - ends[0]
    off = (ends - ends[0]) @ np.array([-chord[1], chord[0]]) / np.linalg.norm(chord)
    if len(places) < _LEAST_PLACES or np.abs(off).max() > _STRAIGHT_M:
        return []
    middle = ends.mean(axis=0)
    lane = min(
        (lane for lane in town.lanes if lane.junction is None),
        key=lambda it: float(np.linalg.norm(it.centerline - middle, axis=1).min()),
    )
    return _beside(town, lane, places, slots)


def _beside(town: Town, lane: Lane, places: list[ParkingSlot], slots: list[int]) -> list[Yard]:
    """The yard of a lane with places along it; the oncoming lanes are left to the others."""
    middle = np.mean([(place.x, place.y) for place in places], axis=0)
    nearest = int(np.linalg.norm(lane.centerline - middle, axis=1).argmin())
    x, y = lane.centerline[nearest]
    yaws = np.array([place.yaw_rad for place in places])
    yaw = float(np.angle(np.exp(2j * yaws).mean()) / 2)
    along = np.gradient(lane.centerline, axis=0)[nearest]
    if along @ [np.cos(yaw), np.sin(yaw)] < 0:
        yaw += np.pi
    frame = (float(x), float(y), yaw)
    local = [_place(frame, place, i) for place, i in zip(places, slots, strict=True)]
    # Ends of the lane, as far as it is straight.
    line = _in_frame(frame, lane.centerline)  # (N, 2)
    straight = np.abs(line[:, 1]) < 2 * _STRAIGHT_M
    before = np.flatnonzero(~straight[:nearest])
    after = np.flatnonzero(~straight[nearest:])
    low = line[before[-1] + 1 if len(before) else 0, 0]
    high = line[nearest + after[0] - 1 if len(after) else -1, 0]
    if high - low < 18.0:
        return []
    ground = unary_union([face for face in town.areas["drivable_area"] if face.distance(Point(x, y)) < 60.0])
    taken = {lane.id, *(other for other in (lane.left, lane.right) if other is not None)}
    return [
        Yard(
            frame=frame,
            places=tuple(local),
            beside=len(local),
            across=False,
            span_m=(float(low), float(high)),
            half_width_m=lane.width_m / 2,
            ground=_local(frame, ground),
            lanes=frozenset(taken),
        )
    ]


def _edge(town: Town, lane: Lane) -> list[Yard]:
    """Places at the edge of a lane, half way along it, and both directions of its road."""
    middle = len(lane.centerline) // 2
    if not 2 <= middle < len(lane.centerline) - 2:
        return []
    x, y = lane.centerline[middle]
    along = lane.centerline[middle + 1] - lane.centerline[middle - 1]
    yaw = float(np.arctan2(along[1], along[0]))
    kerb = -1.0 if town.drives_on_the_right else 1.0
    aside = kerb * (lane.width_m / 2 - _EDGE_WIDTH_M / 2 + _EDGE_INSIDE_M)
    cos, sin = np.cos(yaw), np.sin(yaw)
    line = _in_frame((float(x), float(y), yaw), lane.centerline)  # (N, 2)
    places = []
    for k in range(_EDGE_COUNT):
        forward = (k - (_EDGE_COUNT - 1) / 2) * _EDGE_LENGTH_M
        bend = float(np.interp(forward, line[:, 0], line[:, 1])) if abs(forward) < 25 else 0.0
        if line[0, 0] + _SETBACK_M < forward < line[-1, 0] - _SETBACK_M and abs(bend) < _STRAIGHT_M:
            px, py = x + forward * cos - aside * sin, y + forward * sin + aside * cos
            places.append(ParkingSlot(float(px), float(py), yaw, _EDGE_LENGTH_M, _EDGE_WIDTH_M))
    if len(places) < 2:
        return []
    yards = _beside(town, lane, places, [-1] * len(places))
    heads = np.stack((np.cos(yaw), np.sin(yaw)))
    facing = [
        other.id
        for other in town.lanes
        if other.junction is None
        and np.linalg.norm(other.centerline - (x, y), axis=1).min() < 3 * lane.width_m
        and (other.centerline[-1] - other.centerline[0]) @ heads < 0
    ]
    return [replace(yard, lanes=yard.lanes | set(facing)) for yard in yards]
