"""What stands still: parked vehicles, road works in the bays, cycle racks, machines in car parks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from shapely.geometry import Polygon

from perception.simulation.actors.catalogue import build_shape
from perception.simulation.ego import expected_view
from perception.simulation.town.town import ParkingSlot, Town
from perception.simulation.traffic_actors import ActorTrack, Behaviour, standing
from perception.simulation.traffic_overlap import rectangle_corners, rectangles_overlap
from perception.simulation.traffic_paths import Path, Route, smooth_path

_NEAR_M = 75.0
_BESIDE_M = 28.0
_CAR_PARK_M2 = 300.0
_LANE_WORKS_SHARE = 0.7


class Piece(NamedTuple):
    """One thing of an arrangement: its kind, where it stands (forward, towards the road), its yaw, what it does."""

    kind: str
    forward_m: float
    roadward_m: float
    yaw_rad: float = 0.0
    behaviour: Behaviour = Behaviour.THING


def _vehicle(kind: str, roadward_m: float) -> Callable[[np.random.Generator], list[Piece]]:
    """An arrangement of one parked vehicle."""
    return lambda rng: [Piece(kind, float(rng.uniform(-0.3, 0.3)), roadward_m, 0.0, Behaviour.PARKED)]


def _digging(rng: np.random.Generator) -> list[Piece]:
    """A machine behind barriers, with cones, workers and rubble, over three bays."""
    pieces = [Piece("machine", -4.0, -0.05, float(rng.choice((0.0, np.pi))), Behaviour.PARKED)]
    pieces += [Piece("barrier", x, 0.0, float(rng.normal(0, 0.05))) for x in (-8.7, 8.7)]
    pieces += [Piece("cone", float(x), 0.88 + float(rng.normal(0, 0.04))) for x in np.arange(0.8, 8.0, 2.3)]
    pieces += [Piece("cone", x, 0.9) for x in (-9.6, 9.6)]
    pieces.append(Piece("debris", 6.8, -0.5, float(rng.uniform(0, 3))))
    for x in (1.4, 3.3, 4.9)[: int(rng.integers(1, 4))]:
        pieces.append(
            Piece("worker_standing", x, float(rng.uniform(-0.7, 0.2)), float(rng.uniform(-3, 3)), Behaviour.ON_FOOT)
        )
    return pieces


def _fenced(rng: np.random.Generator) -> list[Piece]:
    """Barriers along the road and cones around them, over two bays."""
    pieces = [Piece("barrier", x, 0.8, np.pi / 2 + float(rng.normal(0, 0.03))) for x in (-4.5, -1.4, 1.7, 4.8)]
    pieces += [Piece("cone", x, y) for x, y in ((-6.7, 0.4), (6.9, 0.4), (6.7, -0.6))]
    pieces += [Piece("bin", 3.2, -0.3, float(rng.uniform(-3, 3))), Piece("debris", 0.3, -0.7, float(rng.uniform(0, 3)))]
    pieces.append(Piece("worker_standing", -1.6, -0.4, float(rng.uniform(-3, 3)), Behaviour.ON_FOOT))
    return pieces


def _lane_works(rng: np.random.Generator) -> list[Piece]:
    """A closed lane: barriers across its ends, cones along the open lane, a machine and a lorry between them."""
    pieces = [Piece("barrier", x, -0.1, float(rng.normal(0, 0.05))) for x in (-16.0, 16.0)]
    pieces += [Piece("cone", float(x), 1.15 + float(rng.normal(0, 0.05))) for x in np.arange(-14.5, 15.0, 4.0)]
    pieces.append(Piece("machine", -8.0, -0.4, float(rng.choice((0.0, np.pi))), Behaviour.PARKED))
    pieces.append(Piece("truck", 9.0, -0.4, 0.0, Behaviour.PARKED))
    for x in (-2.5, -0.5, 1.5, 3.0)[: int(rng.integers(1, 5))]:
        yaw = float(rng.uniform(-3, 3))
        pieces.append(Piece("worker_standing", x, float(rng.uniform(-1.2, 0.3)), yaw, Behaviour.ON_FOOT))
    return pieces


class LaneWorks(NamedTuple):
    """Road works that shut a lane: its id, and the station of their middle."""

    lane: int
    station_m: float


def draw_lane_works(town: Town, route: Route, rng: np.random.Generator) -> LaneWorks | None:
    """Road works on an outer lane beside the ego's route, where there is one and chance wants it.

    Args:
        town: where they are.
        route: the ego's, which they leave free.
        rng: source of the choice.

    Returns:
        The works, or None.
    """
    seen = expected_view(route)
    options = []
    for lane in town.lanes:
        outer = (lane.left is None) != (lane.right is None)
        kerb_side = lane.right if town.drives_on_the_right else lane.left
        if lane.junction is not None or not outer or kerb_side is not None or lane.id in route.lanes:
            continue
        path = smooth_path(lane.centerline)
        stations = np.arange(24.0, path.length_m - 24.0, 4.0)
        if len(stations):
            away = np.linalg.norm(path.positions(stations)[:, None] - seen, axis=-1).min(axis=1)
            options += [LaneWorks(lane.id, float(station)) for station in stations[away < _BESIDE_M]]
    if not options or rng.random() > _LANE_WORKS_SHARE:
        return None
    return options[int(rng.integers(len(options)))]


def _two_wheelers(kind: str, count: int) -> Callable[[np.random.Generator], list[Piece]]:
    """An arrangement of cycles side by side, across one bay."""

    def arrange(rng: np.random.Generator) -> list[Piece]:
        """The cycles, some places empty."""
        places = (np.arange(count) - (count - 1) / 2) * (1.35 if kind == "motorcycle" else 1.0)
        lean = np.pi / 2 + rng.normal(0, 0.08, count)
        return [
            Piece(kind, float(x), float(rng.uniform(-0.1, 0.1)), float(yaw), Behaviour.LEFT)
            for x, yaw in zip(places, lean, strict=True)
            if rng.random() < 0.85
        ]

    return arrange


_ACROSS_M = 5.0
"""From the ego's way to the bays of the other side: what is high fills half the sweep where it stands nearer."""

_BESIDE, _ACROSS, _FARTHER = (0.0, _BESIDE_M), (_ACROSS_M, _BESIDE_M), (_BESIDE_M, 58.0)

# What is looked for near the ego's route: bays needed, metres from the ego's way, how likely each time it is tried.
_SPECIALS: tuple[
    tuple[Callable[[np.random.Generator], list[Piece]], int, tuple[float, float], tuple[float, ...]], ...
] = (
    (_digging, 3, _BESIDE, (1.0, 0.2)),
    (_fenced, 2, _BESIDE, (1.0, 0.3)),
    (_vehicle("trailer", -0.1), 2, _ACROSS, (0.9, 0.3)),
    (_two_wheelers("motorcycle", 3), 1, _BESIDE, (0.9, 0.5)),
    (_two_wheelers("bicycle", 4), 1, _BESIDE, (0.9, 0.6)),
    (lambda rng: [Piece("rack", 0.0, -0.1)], 1, _BESIDE, (0.8, 0.5)),
    (_vehicle("truck", -0.05), 2, _ACROSS, (0.9, 0.5, 0.2)),
    (_vehicle("bus", -0.1), 2, _ACROSS, (0.8, 0.2)),
    (_digging, 3, _FARTHER, (1.0, 1.0)),
    (_vehicle("bus", -0.1), 2, _FARTHER, (0.9, 0.3)),
    (_vehicle("trailer", -0.1), 2, _FARTHER, (1.0, 0.9)),
    (_vehicle("truck", -0.05), 2, _FARTHER, (1.0, 0.6)),
)


def draw_parked(
    town: Town,
    driven: np.ndarray,
    works: LaneWorks | None,
    rng: np.random.Generator,
    settled: frozenset[int] = frozenset(),
) -> list[ActorTrack]:
    """Everything that stands still near the ego's drive.

    Args:
        town: where it stands.
        driven: (K, 2) positions of the ego during the scene.
        works: road works on a lane, if any.
        rng: source of what stands where.
        settled: indices of places that are left as they are.

    Returns:
        Tracks of one pose.
    """
    tracks: list[ActorTrack] = []
    if works is not None:
        tracks += _at_lane_works(town, works, rng)
    slots = town.parking_slots
    if not slots:
        return tracks
    centres = np.array([(slot.x, slot.y) for slot in slots])
    away = np.linalg.norm(centres[:, None] - driven[::10], axis=-1).min(axis=1)  # (S,)
    following = _following_slots(slots)
    free = set(np.flatnonzero(away < _NEAR_M).tolist()) - settled
    lanes = np.concatenate([lane.centerline for lane in town.lanes if lane.junction is None])
    for arrange, needed, (least_m, most_m), chances in _SPECIALS:
        for chance in chances:
            near = [i for i in sorted(free) if least_m < away[i] < most_m]
            chains = [chain for i in near if (chain := _chain(i, needed, following, free))]
            if not chains or rng.random() > chance:
                continue
            chain = chains[int(rng.integers(len(chains)))]
            free.difference_update(chain)
            tracks += _in_bays(arrange(rng), [slots[i] for i in chain], lanes, rng)
    for i in sorted(free):
        bay = i in following or i in following.values()
        if rng.random() < (0.8 if bay else 0.6):
            tracks.append(_parked_car(slots[i], rng))
    return tracks + _in_car_parks(town, driven, tracks, rng)


def _following_slots(slots: tuple[ParkingSlot, ...]) -> dict[int, int]:
    """For each bay the next one of its row, end to end."""
    poses = np.array([(slot.x, slot.y, slot.yaw_rad, slot.length_m) for slot in slots])
    ahead = poses[:, :2] + poses[:, 3:] * np.stack((np.cos(poses[:, 2]), np.sin(poses[:, 2])), axis=1)
    gap = np.linalg.norm(ahead[:, None] - poses[:, :2], axis=-1)  # (S, S)
    turn = np.abs(np.angle(np.exp(1j * (poses[:, 2, None] - poses[:, 2]))))
    joined = (gap < 1.0) & (turn < 0.3)
    return {int(i): int(j) for i, j in zip(*np.nonzero(joined), strict=True)}


def _chain(start: int, needed: int, following: dict[int, int], free: set[int]) -> list[int] | None:
    """Free bays in a row from a start, as many as needed."""
    chain = [start]
    while len(chain) < needed:
        if following.get(chain[-1]) not in free:
            return None
        chain.append(following[chain[-1]])
    return chain


def _in_bays(
    pieces: list[Piece], slots: list[ParkingSlot], lanes: np.ndarray, rng: np.random.Generator
) -> list[ActorTrack]:
    """The tracks of an arrangement in the middle of a row of bays."""
    ends = np.array([(slots[0].x, slots[0].y), (slots[-1].x, slots[-1].y)])
    middle = ends.mean(axis=0)
    yaw = slots[0].yaw_rad if len(slots) == 1 else float(np.arctan2(*(ends[1] - ends[0])[::-1]))
    left = np.array([-np.sin(yaw), np.cos(yaw)])
    road = lanes[np.linalg.norm(lanes - middle, axis=1).argmin()]
    side = 1.0 if (road - middle) @ left > 0 else -1.0
    line = middle + np.array([[-12.0], [12.0]]) * np.array([np.cos(yaw), np.sin(yaw)])
    return _arranged(pieces, smooth_path(line), 12.0, side, rng)


def _at_lane_works(town: Town, works: LaneWorks, rng: np.random.Generator) -> list[ActorTrack]:
    """The tracks of road works on a lane."""
    side = 1.0 if town.drives_on_the_right else -1.0
    path = smooth_path(town.lanes[works.lane].centerline)
    return _arranged(_lane_works(rng), path, works.station_m, side, rng)


def _arranged(
    pieces: list[Piece], path: Path, middle_m: float, side: float, rng: np.random.Generator
) -> list[ActorTrack]:
    """The tracks of an arrangement along a path; `side` is 1 where the open road lies to the left of it."""
    tracks = []
    for piece in pieces:
        station = np.array(middle_m + piece.forward_m)
        yaw = float(path.headings(station))
        x, y = path.positions(station) + side * piece.roadward_m * np.array([-np.sin(yaw), np.cos(yaw)])
        pose = standing(float(x), float(y), 0.0, yaw + piece.yaw_rad)
        tracks.append(ActorTrack(build_shape(piece.kind, rng), piece.behaviour, pose, priority=60))
    return tracks


def _parked_car(slot: ParkingSlot, rng: np.random.Generator) -> ActorTrack:
    """A car in its place, not quite straight."""
    yaw = slot.yaw_rad + float(rng.normal(0, 0.02)) + (np.pi if rng.random() < 0.3 else 0.0)
    along, across = rng.uniform(-0.25, 0.25), rng.uniform(-0.08, 0.08)
    x = slot.x + along * np.cos(yaw) - across * np.sin(yaw)
    y = slot.y + along * np.sin(yaw) + across * np.cos(yaw)
    return ActorTrack(build_shape("car", rng), Behaviour.PARKED, standing(float(x), float(y), 0.0, yaw), priority=55)


def _in_car_parks(
    town: Town, driven: np.ndarray, parked: list[ActorTrack], rng: np.random.Generator
) -> list[ActorTrack]:
    """Machines, trailers and stacked barriers in the aisles of car parks, where there is room."""
    taken = [(*track.poses[0, :2], *track.shape.size_lwh_m[:2], track.poses[0, 3]) for track in parked]
    tracks: list[ActorTrack] = []
    for area in town.areas.get("carpark_area", []):
        centre = np.array(area.centroid.coords[0])
        if area.area < _CAR_PARK_M2 or np.linalg.norm(driven - centre, axis=1).min() > _NEAR_M:
            continue
        low_x, low_y, high_x, high_y = area.bounds
        heading = _longest_side(area)
        wanted = ["machine", "trailer", "truck", "barrier", "barrier", "barrier", "cone", "cone", "cone", "bin"]
        for kind in [kind for kind in wanted if rng.random() < 0.6]:
            shape = build_shape(kind, rng)
            for _ in range(10):
                x, y = rng.uniform((low_x, low_y), (high_x, high_y))
                box = np.array([x, y, *shape.size_lwh_m[:2], heading + np.pi / 2 * rng.integers(0, 4)])
                grown = box + np.array([0, 0, 0.5, 0.5, 0])
                blocked = bool(taken) and bool(rectangles_overlap(grown, np.array(taken)).any())
                if not blocked and area.contains(Polygon(rectangle_corners(grown))):
                    taken.append(tuple(box))
                    vehicle = shape.category.startswith("vehicle")
                    behaviour = Behaviour.PARKED if vehicle else Behaviour.THING
                    pose = standing(float(x), float(y), 0.0, float(box[4]))
                    tracks.append(ActorTrack(shape, behaviour, pose, priority=45))
                    break
    return tracks


def _longest_side(area: Polygon) -> float:
    """Heading of the longest side of a polygon."""
    ring = np.array(area.exterior.coords)
    sides = np.diff(ring, axis=0)
    x, y = sides[np.linalg.norm(sides, axis=1).argmax()]
    return float(np.arctan2(y, x))
