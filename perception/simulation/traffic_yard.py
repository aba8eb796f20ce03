"""Who and what is around a car that parks: neighbours in their places, bins and cones, people, one who drives off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import shapely

from perception.simulation.actors.catalogue import ActorShape, build_shape
from perception.simulation.ego import EGO_CENTRE_M, EGO_SIZE_LWH_M, ego_rectangles
from perception.simulation.ego_parking import CAR_LW_M, Parking
from perception.simulation.manoeuvres import Move, Straight, Turn, legs_along, solved, timed
from perception.simulation.traffic_actors import ActorTrack, Behaviour, standing
from perception.simulation.traffic_overlap import rectangle_corners, rectangles_overlap
from perception.simulation.traffic_paths import smooth_path
from perception.simulation.yards import Place, Yard

_CHECK_EVERY = 4
_NEIGHBOUR_SHARE = 0.96
_THINGS = ("bin", "cone", "bin", "cone", "debris", "barrier")
_GAP_M = 0.4
"""From things and people who stand to the ego's way, at least."""

_WALKERS = ("adult_walking", "adult_walking", "adult_walking", "child_walking", "worker_walking")
_REACH_M = 9.0
_TO_AXLE = 0.29
"""From a car's middle back to its rear axle, as a share of its length."""


def draw_yard(parking: Parking, times: np.ndarray, rng: np.random.Generator) -> tuple[list[ActorTrack], frozenset[int]]:
    """Draws what is around the ego's places.

    Args:
        parking: how it parks.
        times: (K,) times of the tracks.
        rng: source of who and what there is.

    Returns:
        Tracks that keep clear of the ego and of one another, and the indices of the town's places that are settled
        with them: taken, or kept free.
    """
    yard = _Scene(parking, rng)
    for index in _neighbours(parking):
        yard.settled.add(index)
        if rng.random() < _NEIGHBOUR_SHARE:
            yard.tracks.append(_neighbour(parking.yard, parking.yard.places[index], rng))
    if parking.yard.across:
        yard.add_leaver(times)
    for pose in parking.parked:
        for _ in range(int(rng.integers(1, 3))):
            yard.add_standing(str(rng.choice(_THINGS)), Behaviour.THING, pose, (0.45, 1.7))
        if rng.random() < 0.5:
            yard.add_standing("adult_standing", Behaviour.ON_FOOT, pose, (0.8, 3.0))
    if parking.yard.across:
        for _ in range(int(rng.integers(2, 5))):
            yard.add_walker(times)
    slots = (parking.yard.places[i].slot for i in yard.settled)
    return yard.tracks, frozenset(slot for slot in slots if slot >= 0)


def _neighbours(parking: Parking) -> list[int]:
    """Places next to those that the ego uses."""
    places, free = parking.yard.places, parking.free
    beside = []
    for index, place in enumerate(places):
        reach = 1.3 * (place.width_m if parking.yard.across else place.length_m)
        near = (np.hypot(place.x - places[i].x, place.y - places[i].y) < reach for i in free)
        if index not in free and any(near):
            beside.append(index)
    return beside


def _neighbour(yard: Yard, place: Place, rng: np.random.Generator) -> ActorTrack:
    """A car in its place, not quite straight, and no larger than the ego reckons with."""
    shape = build_shape("car", rng)
    while shape.size_lwh_m[0] > CAR_LW_M[0] or shape.size_lwh_m[1] > CAR_LW_M[1]:
        shape = build_shape("car", rng)
    spare_m = (CAR_LW_M[0] - shape.size_lwh_m[0]) / 2
    along = float(rng.uniform(-spare_m, spare_m))
    turned = place.yaw_rad + float(rng.normal(0, 0.012)) + (np.pi if rng.random() < 0.4 else 0.0)
    across = float(rng.uniform(-0.05, 0.05))
    cos, sin = np.cos(place.yaw_rad), np.sin(place.yaw_rad)
    local = np.array([place.x + along * cos - across * sin, place.y + along * sin + across * cos, turned])
    x, y, yaw = yard.in_town(local).tolist()
    return ActorTrack(shape, Behaviour.PARKED, standing(x, y, 0.0, yaw), priority=58)


class _Scene:
    """The ego's way and what has been put around it so far."""

    def __init__(self, parking: Parking, rng: np.random.Generator) -> None:
        self.tracks: list[ActorTrack] = []
        self.settled = set(parking.free)
        self._parking, self._rng = parking, rng
        places = parking.yard.places
        self._ego = _boxes(ego_rectangles(parking.poses[::_CHECK_EVERY]), EGO_SIZE_LWH_M)  # (T, 5)
        poses = parking.yard.in_town(np.array([(place.x, place.y, place.yaw_rad) for place in places]))
        self._cars = _boxes(poses, CAR_LW_M)  # (P, 5) of all places
        self._ground = parking.yard.ground
        shapely.prepare(self._ground)

    def add_standing(self, kind: str, behaviour: Behaviour, pose: np.ndarray, gap_m: tuple[float, float]) -> None:
        """Puts something near one of the ego's places, where nobody drives; not at all where there is no room."""
        rng, shape = self._rng, build_shape(kind, self._rng)
        x, y, yaw = pose.tolist()
        for _ in range(60):
            gap = float(rng.uniform(*gap_m)) + float(shape.size_lwh_m[:2].min()) / 2
            angle = float(rng.uniform(-np.pi, np.pi))
            reach = np.array([EGO_SIZE_LWH_M[0] / 2 + gap, EGO_SIZE_LWH_M[1] / 2 + gap])
            ray = np.array([np.cos(angle), np.sin(angle)])
            ahead, left = ray / np.abs(ray / reach).max() + [EGO_CENTRE_M, 0.0]
            place = (x + ahead * np.cos(yaw) - left * np.sin(yaw), y + ahead * np.sin(yaw) + left * np.cos(yaw))
            if not self._is_aside(place):
                continue
            facing = yaw + float(rng.uniform(-np.pi, np.pi))
            track = ActorTrack(shape, behaviour, standing(float(place[0]), float(place[1]), 0.0, facing), priority=46)
            if self._fits(track, _GAP_M):
                self.tracks.append(track)
                return

    def _is_aside(self, place: tuple[float, float]) -> bool:
        """Whether a place is off the lane that passes the yard's places; in car parks every place is."""
        yard = self._parking.yard
        if yard.across:
            return True
        row = yard.places[0].y
        ((_, y),) = yard.from_town(np.array([place]))
        return bool((y - row) * np.sign(row) > -0.5)

    def add_walker(self, times: np.ndarray) -> None:
        """Lets somebody walk around the aisle, near the ego at some time but out of its way."""
        rng, yard = self._rng, self._parking.yard
        shape = build_shape(str(rng.choice(_WALKERS)), rng)
        low, high = yard.span_m[0] + 1.0, yard.span_m[1] - 1.0
        for _ in range(16):
            aside = yard.half_width_m - float(rng.uniform(0.5, 0.9))
            ring = np.array([[low, -aside], [high, -aside], [high, aside], [low, aside]])[:: int(rng.choice([-1, 1]))]
            path = smooth_path(np.tile(ring, (4, 1)))
            pace = float(np.clip(rng.normal(1.25, 0.15), 0.8, 1.6))
            stations = float(rng.uniform(2.0, 2 * (high - low))) + pace * (times - times[0])
            local = np.column_stack((path.positions(stations), np.unwrap(path.headings(stations))))
            poses = _lifted(yard.in_town(local))
            track = ActorTrack(shape, Behaviour.ON_FOOT, poses, priority=47)
            apart = np.linalg.norm(poses[::_CHECK_EVERY, :2] - self._ego[:, :2], axis=1)
            if apart.min() < _REACH_M and self._fits(track, 0.45):
                self.tracks.append(track)
                return

    def add_leaver(self, times: np.ndarray) -> None:
        """Lets a car leave a place of the same aisle, if it comes nowhere near the ego."""
        rng, yard = self._rng, self._parking.yard
        beside = [i for i in range(yard.beside) if i not in self.settled]
        shape = build_shape("car", rng)
        while shape.size_lwh_m[0] > 4.8:
            shape = build_shape("car", rng)
        for index in rng.permutation(beside)[:5].tolist():
            for start, moves in _ways_out(yard, yard.places[index], shape, rng):
                legs = legs_along(start, moves)
                drive = timed(legs, float(rng.uniform(1.8, 2.6)), float(rng.uniform(0.9, 1.3))).poses
                for share in rng.permutation([0.0, 0.2, 0.4, 0.6, 0.8]):
                    before = np.tile(drive[0], (int(share * len(times)), 1))
                    way = np.concatenate((before, drive, np.tile(drive[-1], (len(times), 1))))
                    track = _driven(shape, yard, way[: len(times)])
                    if self._fits(track, 0.5, but=index):
                        self.settled.add(index)
                        self.tracks.append(track)
                        return

    def _fits(self, track: ActorTrack, gap_m: float, but: int = -1) -> bool:
        """Whether an actor stays on the ground, off the ego, all places' cars and what was put before it."""
        boxes = _boxes(track.poses[::_CHECK_EVERY][:, [0, 1, 3]], track.shape.size_lwh_m)  # (T, 5)
        corners = self._parking.yard.from_town(rectangle_corners(boxes).reshape(-1, 2))
        if not shapely.contains_xy(self._ground, corners[:, 0], corners[:, 1]).all():
            return False
        if rectangles_overlap(_grown(boxes, gap_m), self._ego).any():
            return False
        near = [i for i in range(len(self._cars)) if i != but and i not in self._parking.free]
        if rectangles_overlap(_grown(boxes, 0.1)[:, None], self._cars[near]).any():
            return False
        others = (_boxes(other.poses[::_CHECK_EVERY][:, [0, 1, 3]], other.shape.size_lwh_m) for other in self.tracks)
        return not any(rectangles_overlap(_grown(boxes, 0.15), other).any() for other in others)


def _boxes(poses: np.ndarray, size_m: Sequence[float] | np.ndarray) -> np.ndarray:
    """(K, 5) rectangles of a size at poses (K, 3)."""
    return np.column_stack((poses[:, :2], np.tile(np.asarray(size_m[:2], np.float64), (len(poses), 1)), poses[:, 2]))


def _grown(boxes: np.ndarray, by_m: float) -> np.ndarray:
    """Rectangles (K, 5) that reach farther on all sides."""
    return boxes + np.array([0, 0, 2 * by_m, 2 * by_m, 0])


def _ways_out(
    yard: Yard, place: Place, shape: ActorShape, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, list[Move]]]:
    """Ways of a parked car out of its place and along the aisle, backward or forward."""
    axle_m = _TO_AXLE * float(shape.size_lwh_m[0])
    side = 1.0 if place.y > 0 else -1.0
    outward = side * np.pi / 2
    for facing, gear in ((outward, -1), (-outward, 1)):
        start = np.array([place.x, place.y - axle_m * np.sin(facing), facing])
        for way in rng.permutation([0.0, np.pi]):
            angle = float(np.angle(np.exp(1j * (way - facing))))
            end = (yard.span_m[1] - 5.0) if way == 0 else (yard.span_m[0] + 5.0)
            turn = Turn(gear, angle, eased=(True, gear > 0))
            moves = solved(start, [Straight(gear), turn, Straight(1)], (end, float(rng.uniform(-0.5, 0.5))))
            if moves is not None:
                yield start, moves


def _driven(shape: ActorShape, yard: Yard, axle: np.ndarray) -> ActorTrack:
    """The track of a car whose rear axle has poses (K, 3) in a yard."""
    ahead = _TO_AXLE * float(shape.size_lwh_m[0]) * np.stack((np.cos(axle[:, 2]), np.sin(axle[:, 2])), axis=1)
    poses = _lifted(yard.in_town(np.column_stack((axle[:, :2] + ahead, axle[:, 2]))))
    return ActorTrack(shape, Behaviour.DRIVEN, poses, priority=52)


def _lifted(poses: np.ndarray) -> np.ndarray:
    """(K, 4) x, y, z = 0 and yaw from (K, 3)."""
    return np.column_stack((poses[:, :2], np.zeros(len(poses)), poses[:, 2]))
