"""Vehicles that follow each other along their routes and people who cross the roads, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from perception.simulation.town.town import Town
from perception.simulation.traffic_paths import SPACING_M, Path, Route
from perception.simulation.traffic_rules import RightOfWay

STEP_S = 0.1
WIDE_M = 2.06
"""Vehicles wider than this do not fit beside a cyclist in one lane."""

_LOOKAHEAD_M = 70.0
_STOP_SHORT_M = 0.4


@dataclass(frozen=True)
class Driver:
    """How a vehicle is driven: the parameters of the intelligent driver model.

    Attributes:
        acceleration: highest, m/s^2.
        braking: comfortable, m/s^2.
        headway_s: time kept to the vehicle in front.
        gap_m: distance kept at rest.
        pace: share of the sensible speed that it drives.
        hardest_braking: what it never exceeds, m/s^2.
        jerk: largest change of the acceleration, m/s^3.
    """

    acceleration: float = 1.6
    braking: float = 1.9
    headway_s: float = 1.3
    gap_m: float = 2.2
    pace: float = 1.0
    hardest_braking: float = 6.0
    jerk: float = 20.0


@dataclass(eq=False)
class Vehicle:
    """A vehicle, or a lorry with its trailer, on its route.

    Attributes:
        id: its own, also the order in which right of way is asked for.
        route: where it goes.
        length_m: from the front of the first to the rear of the last part.
        width_m: of the widest part.
        driver: how it is driven.
        front_m: station of its front.
        speed: m/s.
        edge: whether it keeps to the edge of the lane (a cyclist), where narrow vehicles pass it.
        acceleration: m/s^2, constant during a step.
        history: front station, speed and acceleration at the beginning of every recorded step.
    """

    id: int
    route: Route
    length_m: float
    width_m: float
    driver: Driver
    front_m: float
    speed: float
    edge: bool = False
    acceleration: float = 0.0
    history: list[tuple[float, float, float]] = field(default_factory=list)
    lane_index: int = 0
    rear_index: int = 0
    gate: int = 0
    held: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Walker:
    """A person on the way over a crossing.

    Attributes:
        id: its own.
        path: where it walks.
        crossing: index into the town's crossings.
        ahead: 1 if it crosses along the crossing's centreline, -1 if against it.
        kerbs_m: stations where it steps onto the road and off it.
        pace: walking speed, m/s.
        station_m: where it is.
        speed: m/s.
        history: station, speed and acceleration at the beginning of every recorded step.
    """

    id: int
    path: Path
    crossing: int
    ahead: int
    kerbs_m: tuple[float, float]
    pace: float
    station_m: float
    speed: float
    crosses: bool = False
    over: bool = False
    history: list[tuple[float, float, float]] = field(default_factory=list)


Occupancy = dict[int, list[tuple[float, float, Vehicle]]]


class Flow:
    """The traffic of a town, moved on in steps of `STEP_S`."""

    def __init__(self, town: Town, right_of_way: RightOfWay, vehicles: list[Vehicle], walkers: list[Walker]) -> None:
        self._lanes = town.lanes
        self._right_of_way = right_of_way
        self._vehicles = vehicles
        self._walkers = walkers
        self._by_id = {vehicle.id: vehicle for vehicle in vehicles}
        self._occupancy: Occupancy = {}
        for vehicle in vehicles:
            self._locate(vehicle)
            vehicle.gate = self._next_gate(vehicle, vehicle.lane_index)

    def run(self, start_s: float, record_from_s: float, end_s: float) -> None:
        """Moves everybody from a start to an end, and records from a time on.

        Args:
            start_s: where the clock begins.
            record_from_s: first recorded time.
            end_s: last recorded time.
        """
        first, last = round(start_s / STEP_S), round(end_s / STEP_S)
        for step in range(first, last + 1):
            time_s = step * STEP_S
            self._occupy()
            for walker in self._walkers:
                self._walk(walker, time_s, step * STEP_S >= record_from_s - 1e-9)
            for vehicle in self._vehicles:
                vehicle.acceleration = self._choose(vehicle, time_s)
            for vehicle in self._vehicles:
                self._move(vehicle, time_s >= record_from_s - 1e-9)

    def _locate(self, vehicle: Vehicle) -> None:
        """Finds the lanes below its front and its rear."""
        starts = vehicle.route.starts_m
        last = len(starts) - 2
        while vehicle.lane_index < last and vehicle.front_m >= starts[vehicle.lane_index + 1]:
            vehicle.lane_index += 1
        while vehicle.rear_index < last and vehicle.front_m - vehicle.length_m >= starts[vehicle.rear_index + 1]:
            lane = vehicle.route.lanes[vehicle.rear_index]
            if vehicle.rear_index in vehicle.held:
                vehicle.held.remove(vehicle.rear_index)
                self._right_of_way.leave(vehicle.id, lane)
            vehicle.rear_index += 1

    def _next_gate(self, vehicle: Vehicle, after: int) -> int:
        """Index of the next connector of the route, or the number of lanes."""
        lanes = vehicle.route.lanes
        for index in range(after + 1, len(lanes)):
            if self._lanes[lanes[index]].junction is not None:
                return index
        return len(lanes)

    def _occupy(self) -> None:
        """Notes on every lane who stands there: offsets of front and rear from the lane's start."""
        self._occupancy = {}
        for vehicle in self._vehicles:
            starts, lanes = vehicle.route.starts_m, vehicle.route.lanes
            rear = vehicle.front_m - vehicle.length_m
            for index in range(vehicle.rear_index, vehicle.lane_index + 1):
                entry = (vehicle.front_m - starts[index], rear - starts[index], vehicle)
                self._occupancy.setdefault(lanes[index], []).append(entry)

    def _choose(self, vehicle: Vehicle, time_s: float) -> float:
        """The acceleration of the next step."""
        driver, speed = vehicle.driver, vehicle.speed
        profile = vehicle.route.speeds_mps
        ahead = vehicle.front_m - 2.5 + 0.3 * speed
        wanted = driver.pace * float(profile[min(max(int(ahead / SPACING_M), 0), len(profile) - 1)])
        if speed <= wanted:
            free = driver.acceleration * (1 - (speed / max(wanted, 0.1)) ** 4)
        else:
            free = max(-2.2, (wanted - speed) / 0.7)
        chosen = min(
            free,
            self._following(vehicle, *self._leader(vehicle)),
            self._following(vehicle, self._gate_gap(vehicle, time_s), 0.0),
        )
        chosen = min(
            max(chosen, vehicle.acceleration - driver.jerk * STEP_S), vehicle.acceleration + driver.jerk * STEP_S
        )
        chosen = max(chosen, -driver.hardest_braking)
        return max(chosen, -speed / STEP_S)

    def _following(self, vehicle: Vehicle, gap_m: float, leader_speed: float) -> float:
        """The intelligent driver model's answer to a leader (Treiber, Hennecke and Helbing 2000)."""
        if gap_m >= _LOOKAHEAD_M:
            return vehicle.driver.acceleration
        driver, speed = vehicle.driver, vehicle.speed
        approach = speed * (speed - leader_speed) / (2 * sqrt(driver.acceleration * driver.braking))
        wanted = driver.gap_m + max(0.0, speed * driver.headway_s + approach)
        return driver.acceleration * (1 - (wanted / max(gap_m, 0.1)) ** 2)

    def _leader(self, vehicle: Vehicle) -> tuple[float, float]:
        """Gap to the next vehicle on the route, or to the route's end, and the speed of what is there."""
        starts, lanes = vehicle.route.starts_m, vehicle.route.lanes
        best, its_speed = _LOOKAHEAD_M, 0.0
        for index in range(vehicle.rear_index, len(lanes)):
            if starts[index] - vehicle.front_m > best:
                break
            for front, rear, other in self._occupancy.get(lanes[index], ()):
                if other is vehicle or not _share_room(vehicle, other):
                    continue
                if front + starts[index] > vehicle.front_m or (
                    front + starts[index] == vehicle.front_m and other.id < vehicle.id
                ):
                    # What lies before the lane's start counts on the lane that it lies on.
                    gap = max(rear, 0.0) + starts[index] - vehicle.front_m
                    if gap < best:
                        best, its_speed = gap, other.speed
        end_gap = starts[-1] - 5.0 - vehicle.front_m
        return (end_gap, 0.0) if end_gap < best else (best, its_speed)

    def _gate_gap(self, vehicle: Vehicle, time_s: float) -> float:
        """Distance to where it must stop before the next junction, as a gap; far off where it may drive."""
        lanes, starts = vehicle.route.lanes, vehicle.route.starts_m
        self._revoke(vehicle, time_s)
        if vehicle.gate >= len(lanes):
            return _LOOKAHEAD_M
        distance = starts[vehicle.gate] - vehicle.front_m
        reach = vehicle.speed**2 / (2 * 1.6) + 9.0
        if distance > reach:
            return _LOOKAHEAD_M
        if not self._queues(vehicle) and self._may_pass(vehicle, distance, time_s):
            vehicle.held.append(vehicle.gate)
            vehicle.gate = self._next_gate(vehicle, vehicle.gate)
            return _LOOKAHEAD_M
        return distance - _STOP_SHORT_M + vehicle.driver.gap_m

    def _queues(self, vehicle: Vehicle) -> bool:
        """Whether somebody in front waits for the same junction; who comes first is let in first."""
        lane, start = vehicle.route.lanes[vehicle.gate - 1], vehicle.route.starts_m[vehicle.gate - 1]
        for front, _, other in self._occupancy.get(lane, ()):
            ahead = front + start > vehicle.front_m and other is not vehicle and _share_room(vehicle, other)
            if ahead and other.gate < len(other.route.lanes) and other.route.lanes[other.gate - 1] == lane:
                return True
        return False

    def _revoke(self, vehicle: Vehicle, time_s: float) -> None:
        """Gives a junction back that cannot be reached before the lights turn red."""
        for index in vehicle.held:
            distance = vehicle.route.starts_m[index] - vehicle.front_m
            if distance < vehicle.speed**2 / (2 * 1.4) + 3.0:
                continue
            if self._right_of_way.colour(vehicle.route.lanes[index - 1], time_s) in ("amber", "red"):
                self._right_of_way.leave(vehicle.id, vehicle.route.lanes[index])
                vehicle.held.remove(index)
                vehicle.gate = index
                return

    def _may_pass(self, vehicle: Vehicle, distance_m: float, time_s: float) -> bool:
        """Whether the next junction can be taken: lights, a stop at stop signs, room behind it, right of way."""
        lanes = vehicle.route.lanes
        before, connector = self._lanes[lanes[vehicle.gate - 1]], lanes[vehicle.gate]
        rights = self._right_of_way
        stops = before.stop_line is not None and rights.town.stop_lines[before.stop_line].kind == "STOP_SIGN"
        if stops and (vehicle.speed > 0.4 or distance_m > 3.0):
            return False
        has_room = vehicle.gate + 1 >= len(lanes) or self._has_room(vehicle, connector, lanes[vehicle.gate + 1])
        if rights.colour(before.id, time_s) in ("amber", "red") or not has_room:
            rights.give_up(vehicle.id, connector)
            return False
        return rights.enter(vehicle.id, connector, time_s, stands=vehicle.speed < 0.4)

    def _has_room(self, vehicle: Vehicle, connector: int, exit_lane: int) -> bool:
        """Whether it will not come to rest inside the junction."""
        room = 1e9
        for _, rear, other in self._occupancy.get(exit_lane, ()):
            if other.speed < 4.0 and _share_room(vehicle, other):
                room = min(room, rear)
        for holder in self._right_of_way.holders(connector):
            room -= self._by_id[holder].length_m + 3.0
        return room > vehicle.length_m + 3.0

    def _move(self, vehicle: Vehicle, record: bool) -> None:
        """Moves it through the step at constant acceleration."""
        if record:
            vehicle.history.append((vehicle.front_m, vehicle.speed, vehicle.acceleration))
        vehicle.front_m += vehicle.speed * STEP_S + 0.5 * vehicle.acceleration * STEP_S**2
        vehicle.speed = max(vehicle.speed + vehicle.acceleration * STEP_S, 0.0)
        self._locate(vehicle)

    def _walk(self, walker: Walker, time_s: float, record: bool) -> None:
        """Moves a person through the step; before the road it waits until it may cross."""
        kerb_in, kerb_out = walker.kerbs_m
        distance = kerb_in - walker.station_m
        waits = False
        if not walker.crosses and -0.2 < distance < 1.6:
            needed = (kerb_out - walker.station_m) / walker.pace
            walker.crosses = self._right_of_way.step_out(walker.id, walker.crossing, walker.ahead, needed, time_s)
            waits = not walker.crosses
        if walker.crosses and not walker.over:
            self._right_of_way.walk(walker.id, walker.crossing, walker.ahead, walker.station_m - kerb_in)
            if walker.station_m > kerb_out:
                self._right_of_way.step_off(walker.id, walker.crossing)
                walker.over = True
        wanted = min(walker.pace, max(0.0, distance - 0.3)) if waits else walker.pace
        acceleration = min(max((wanted - walker.speed) / STEP_S, -2.5), 1.2)
        acceleration = max(acceleration, -walker.speed / STEP_S)
        if record:
            walker.history.append((walker.station_m, walker.speed, acceleration))
        walker.station_m += walker.speed * STEP_S + 0.5 * acceleration * STEP_S**2
        walker.speed = max(walker.speed + acceleration * STEP_S, 0.0)


def _share_room(first: Vehicle, second: Vehicle) -> bool:
    """Whether two vehicles in one lane cannot be side by side."""
    return first.edge == second.edge or first.width_m > WIDE_M or second.width_m > WIDE_M


def stations_at(history: list[tuple[float, float, float]], steps_per_record: int) -> np.ndarray:
    """Stations at even fractions of the recorded steps.

    Args:
        history: station, speed and acceleration at the beginning of every step.
        steps_per_record: into how many parts each step is divided.

    Returns:
        ((len(history) - 1) * steps_per_record + 1,) stations, exact for the constant accelerations.
    """
    station, speed, acceleration = np.array(history).T
    share = np.arange(steps_per_record) / steps_per_record * STEP_S
    inside = station[:-1, None] + speed[:-1, None] * share + 0.5 * acceleration[:-1, None] * share**2
    return np.append(inside.ravel(), station[-1])
