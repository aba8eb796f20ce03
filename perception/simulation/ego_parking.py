"""The ego parks: along an aisle or a road, into a free place, out of it again and into another.

A way is put together from manoeuvres whose straights are solved for (`manoeuvres.py`), each tried at random until one
keeps clear of all cars that may stand in the other places and of what is not to be driven on.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
import shapely

from perception.simulation.ego import EGO_CENTRE_M, EGO_SIZE_LWH_M
from perception.simulation.manoeuvres import (
    Leg,
    Move,
    Rest,
    Straight,
    Timeline,
    Turn,
    legs_along,
    solved,
    swept,
    timed,
)
from perception.simulation.town.town import Town
from perception.simulation.traffic_actors import MARGIN_S, TRACK_STEP_S
from perception.simulation.traffic_overlap import rectangle_corners, rectangles_overlap
from perception.simulation.yards import Place, Yard, find_yards

CAR_LW_M = (5.1, 2.04)
"""Parked cars are taken to be no larger than this."""

CLEARANCE_M = 0.22
"""From the ego to them, at least."""

_RUN_UP_S = 3.0
"""A way begins at rest; a scene begins when the car has been on it for this long."""

_STAYS_S = 5.0
"""How long it stands in the last place, so that a scene may end there."""

_SHORT_S = 9.0
_LEAVING_SHARE = 0.22
_APPROACH_M = (1.5, 24.0)
_LANE_GAP_M = 0.75
_TRIES = 6
_QUARTER = np.pi / 2


@dataclass(frozen=True, eq=False)
class Parking:
    """How the ego parks in a scene.

    Attributes:
        yard: where.
        poses: (K, 4) x, y, z and yaw of its rear axle in the town, at `track_times`.
        free: indices of the places of `yard` that nobody else takes.
        parked: (N, 3) x, y and yaw in the town of its axle in each place that it stands in during the scene, or is on
            its way to at the end, in turn.
    """

    yard: Yard
    poses: np.ndarray
    free: frozenset[int]
    parked: np.ndarray


def draw_parking(town: Town, duration_s: float, rng: np.random.Generator) -> Parking:
    """Draws where and how the ego parks.

    Args:
        town: any town.
        duration_s: length of the scene.
        rng: source of all choices.

    Returns:
        A drive that keeps moving for most of the scene, where the yard has room for that.

    Raises:
        ValueError: the town has no lane to park beside.
    """
    for yards in find_yards(town):
        parking = _draw_in(yards, duration_s, rng)
        if parking is not None:
            return parking
    raise ValueError("draw_parking: town must have a lane long enough to park beside, got none")


def _draw_in(yards: list[Yard], duration_s: float, rng: np.random.Generator) -> Parking | None:
    """A drive in one of some yards; None where none of those tried lets the ego in."""
    steps = round((duration_s + 2 * MARGIN_S) / TRACK_STEP_S) + 1
    best: tuple[int, Parking] | None = None
    for _ in range(_TRIES):
        way = _Way(yards[int(rng.integers(len(yards)))], rng)
        way.extend((duration_s + 2 * MARGIN_S) + _RUN_UP_S + 2.0)
        if way.timeline is None:
            continue
        parking, missing = _cut(way, way.timeline, steps)
        if best is None or missing < best[0]:
            best = (missing, parking)
        if not missing:
            break
    return None if best is None else best[1]


def _cut(way: _Way, timeline: Timeline, steps: int) -> tuple[Parking, int]:
    """The part of a way that a scene shows, and how many steps too short the way is."""
    rng, total = way.rng, len(timeline.poses)
    margin, run_up = round(MARGIN_S / TRACK_STEP_S), round(_RUN_UP_S / TRACK_STEP_S)
    arrivals, departures = np.rint(timeline.parked / TRACK_STEP_S).astype(int).reshape(-1, 2).T
    early = int(rng.integers(0, max(1, round(_SHORT_S / TRACK_STEP_S) - steps)))  # short scenes may end on the way in
    ends = arrivals + margin + rng.integers(4, 22, len(arrivals)) - early
    fitting = ends[(ends >= steps + run_up) & (ends <= total)]
    first = int(fitting[0]) - steps if len(fitting) else max(0, min(run_up, total - steps))
    leaves = departures - margin - int(rng.integers(8, 20))
    leaves = leaves[(departures < total) & (leaves >= 0) & (leaves + steps <= total)]
    if len(leaves) and rng.random() < _LEAVING_SHARE:
        first = int(leaves[0])
    missing = max(0, first + steps - total)
    shown = timeline.poses[first : first + steps]
    shown = np.concatenate((shown, np.tile(shown[-1], (missing, 1))))  # (K, 3)
    poses = way.yard.in_town(shown)
    begun = np.append(0, departures[:-1]) < first + steps  # the way to a place begins where the one before is left
    used = (departures > first) & begun
    near = [freed for freed, is_used in zip(way.freed, used, strict=True) if is_used]
    stood = timeline.poses[np.minimum(arrivals[used] + 1, total - 1)]
    parking = Parking(
        yard=way.yard,
        poses=np.column_stack((poses[:, :2], np.zeros(steps), np.unwrap(poses[:, 2]))),
        free=frozenset().union(*near),
        parked=way.yard.in_town(stood.reshape(-1, 3)),
    )
    return parking, missing


class _Way:
    """A way through a yard that grows place by place."""

    def __init__(self, yard: Yard, rng: np.random.Generator) -> None:
        self.yard, self.rng = yard, rng
        self.freed: list[set[int]] = []
        self.timeline: Timeline | None = None
        self._obstacles = np.array([(place.x, place.y, *CAR_LW_M, place.yaw_rad) for place in yard.places])
        self._ground = yard.ground
        shapely.prepare(self._ground)
        self._forward_mps, self._back_mps = float(rng.uniform(1.9, 3.0)), float(rng.uniform(0.9, 1.4))
        self._kerb = 1.0 if yard.places[0].y > 0 else -1.0
        outer = CAR_LW_M[1] / 2 + _LANE_GAP_M + EGO_SIZE_LWH_M[1] / 2
        self._lane_y = 0.0 if yard.across else yard.places[0].y - self._kerb * outer

    def extend(self, least_s: float) -> None:
        """Drives on from place to place until a time has passed or nothing more can be reached."""
        for start, moves in self._starts():
            self.freed.clear()
            if moves and not self._is_clear(start, moves):
                continue
            done = list(moves)
            while True:
                found = self._next(start, done)
                if found is None:
                    break
                done = found
                timeline = self._timed(start, done)
                self.timeline = timeline
                if len(timeline.poses) * TRACK_STEP_S > least_s:
                    self.timeline = self._timed(start, [*done[:-1], Rest(_STAYS_S)])
                    return
                out = self._leave(start, done)
                if out is None:
                    break
                done = out
                self.timeline = self._timed(start, done)
            if self.timeline is not None:
                return

    def _timed(self, start: np.ndarray, moves: list[Move]) -> Timeline:
        return timed(legs_along(start, moves), self._forward_mps, self._back_mps)

    def _end(self, start: np.ndarray, moves: list[Move]) -> np.ndarray:
        """(3,) the pose that moves lead to."""
        legs = [leg for leg in legs_along(start, moves) if isinstance(leg, Leg)]
        return legs[-1].poses[-1] if legs else start

    def _starts(self) -> Iterator[tuple[np.ndarray, list[Move]]]:
        """Poses that a way may begin at, with what leads from there into the aisle."""
        yard, rng = self.yard, self.rng
        low, high = yard.span_m
        options: list[tuple[np.ndarray, list[Move]]] = []
        for _ in range(3):
            if yard.across:
                line = float(rng.uniform(-1.2, 1.2))
                options.append((np.array([low + 1.2, line, 0.0]), []))
                options.append((np.array([high - 1.2, line, np.pi]), []))
            else:
                first = min(place.x for place in yard.places[: yard.beside])
                back = float(rng.uniform(6.0, 16.0))
                options.append((np.array([max(low + 1.2, first - back), self._lane_y, 0.0]), []))
        options = [options[i] for i in rng.permutation(len(options))]
        if yard.entry is not None and rng.random() < 0.6:
            gate = np.array(yard.entry)
            for way in rng.permutation([0.0, np.pi]):
                angle = float(np.angle(np.exp(1j * (way - gate[2]))))
                moves = solved(gate, [Straight(1), Turn(1, angle)], (np.nan, float(rng.uniform(-1.2, 1.2))))
                if moves is not None:
                    options.insert(0, (gate, moves))
        yield from options

    def _next(self, start: np.ndarray, done: list[Move]) -> list[Move] | None:
        """The way on into a free place, with a rest there."""
        here = self._end(start, done)
        yard, rng = self.yard, self.rng
        for index in rng.permutation(yard.beside)[:16]:
            place = yard.places[index]
            if index in self._free():
                continue
            trials = self._across(here, place) if yard.across else self._along(here, place)
            for moves, goal, cleared in trials:
                found = solved(here, moves, goal)
                if found is None or not isinstance(found[0], Straight):
                    continue
                approach = found[0].length_m or 0.0
                if not _APPROACH_M[0] <= approach <= _APPROACH_M[1]:
                    continue
                freed = {int(index)} | self._inner(place, cleared)
                if self._is_clear(here, found, freed):
                    self.freed.append(freed)
                    return [*done, *found, Rest(float(rng.uniform(1.0, 2.2)))]
        return None

    def _inner(self, place: Place, x_sign: float) -> set[int]:
        """The place next to one, on the side of +x or -x, that a car turning in forward cuts across."""
        if not x_sign:
            return set()
        return {
            i
            for i, other in enumerate(self.yard.places[: self.yard.beside])
            if abs(other.y - place.y) < 0.5 and 0 < (other.x - place.x) * x_sign < 1.5 * place.width_m
        }

    def _across(self, here: np.ndarray, place: Place) -> Iterator[tuple[list[Move], tuple[float, float], float]]:
        """Ways into a place beside an aisle: backing in, or forward."""
        rng = self.rng
        side = 1.0 if place.y > 0 else -1.0
        heading = 1.0 if np.cos(here[2]) > 0 else -1.0
        left = side * heading
        depth, aside = float(rng.uniform(-0.15, 0.2)), place.x + float(rng.uniform(-0.18, 0.18))
        for _ in range(3):
            swing = float(rng.choice([0.0, 0.3, 0.5, 0.7]) + rng.uniform(0, 0.1))
            if rng.random() < 0.68:
                away = [Turn(1, -left * swing)] if swing > 0.2 else []
                back = Turn(-1, -left * (_QUARTER - swing), eased=(False, True))
                goal = (aside, place.y + side * (EGO_CENTRE_M + depth))
                yield [Straight(1), *away, back, Straight(-1)], goal, 0.0
            else:
                turns = [Turn(1, -left * swing), Turn(1, left * (_QUARTER + swing))]
                goal = (aside, place.y - side * (EGO_CENTRE_M - depth))
                yield [Straight(1), *turns, Straight(1)], goal, -heading

    def _along(self, here: np.ndarray, place: Place) -> Iterator[tuple[list[Move], tuple[float, float], float]]:
        """Ways into a bay along the road: past it, and back in."""
        rng, side = self.rng, self._kerb
        for _ in range(6):
            turn = float(rng.uniform(0.5, 0.85))
            forth = float(rng.choice([0.0, 0.6, 0.9]))
            goal = (place.x - EGO_CENTRE_M + float(rng.uniform(-0.6, 0.3)), place.y)
            yield (
                [
                    Straight(1),
                    Turn(-1, -side * turn, eased=(False, True)),
                    Straight(-1),
                    Turn(-1, side * turn, eased=(True, False)),
                    Straight(1, forth),
                ],
                goal,
                0.0,
            )

    def _leave(self, start: np.ndarray, done: list[Move]) -> list[Move] | None:
        """The way on from a place into the aisle, from which another place can be reached."""
        here = self._end(start, done)
        for moves, line in self._ways_out(here):
            found = solved(here, moves, (np.nan, line))
            if found is not None and self._is_clear(here, found):
                return [*done, *found]
        return None

    def _ways_out(self, here: np.ndarray) -> Iterator[tuple[list[Move], float]]:
        """Ways out of the place at a pose, each with the line in the aisle that it leads to."""
        rng = self.rng
        if not self.yard.across:
            for back in (0.4, 0.8, 1.2):
                turn, side = float(rng.uniform(0.5, 0.8)), self._kerb
                out: list[Move] = [Turn(1, -side * turn, eased=(False, True)), Straight(1), Turn(1, side * turn)]
                yield [Straight(-1, back), *out], self._lane_y
            return
        side = 1.0 if here[1] > 0 else -1.0
        gear = -1 if np.sin(here[2]) * side > 0 else 1
        low, high = self.yard.span_m
        onward = [0.0, np.pi] if here[0] < (low + high) / 2 else [np.pi, 0.0]  # towards the longer part of the aisle
        for way in onward:
            angle = float(np.angle(np.exp(1j * (way - here[2]))))
            for line in rng.permutation([-1.2, -0.6, 0.0, 0.6, 1.2]):
                yield [Straight(gear), Turn(gear, angle, eased=(True, gear > 0))], float(line)

    def _free(self) -> set[int]:
        """Places that have been used so far, or cut across."""
        return set().union(*self.freed)

    def _is_clear(self, start: np.ndarray, moves: list[Move], freed: Set[int] = frozenset()) -> bool:
        """Whether the ego keeps off all other places' cars, and on the ground, all along moves."""
        poses = swept(legs_along(start, moves))
        ahead = np.stack((np.cos(poses[:, 2]), np.sin(poses[:, 2])), axis=1)
        size = np.tile(EGO_SIZE_LWH_M[:2], (len(poses), 1))
        boxes = np.column_stack((poses[:, :2] + EGO_CENTRE_M * ahead, size, poses[:, 2]))  # (K, 5)
        corners = rectangle_corners(boxes).reshape(-1, 2)
        if not shapely.contains_xy(self._ground, corners[:, 0], corners[:, 1]).all():
            return False
        free = self._free() | freed
        others = self._obstacles[[i for i in range(len(self._obstacles)) if i not in free]]
        boxes[:, 2:4] += 2 * CLEARANCE_M
        apart = np.linalg.norm(boxes[:, None, :2] - others[:, :2], axis=-1)  # (K, N)
        at, of = np.nonzero(apart < (np.hypot(*boxes[0, 2:4]) + np.hypot(*CAR_LW_M)) / 2)
        return not rectangles_overlap(boxes[at], others[of]).any()
