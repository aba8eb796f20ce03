"""Right of way: traffic lights, and who may enter a junction or step onto a crossing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from perception.simulation.town.town import Town

GREEN_S, AMBER_S, CLEARING_S = 10.0, 3.0, 2.0
HALF_CYCLE_S = GREEN_S + AMBER_S + CLEARING_S
"""A phase's green, amber and the time when both are red; then it is the other phase's turn."""

PATIENCE_S = 3.0
"""Who has stood before a junction for this long is let in before others who come later."""

PASSED_M = 2.0
"""A vehicle need not wait for people who are this far past the middle of its way."""

CLEARANCE_M = 3.15
"""Connectors whose middles come closer than this are not driven at the same time (lanes lie 3.3 m apart)."""


@dataclass(frozen=True, eq=False)
class Signals:
    """The traffic lights of a town over time.

    Attributes:
        town: whose lights they are.
        offsets_s: (junctions,) when phase 0 turns green, modulo two half cycles.
    """

    town: Town
    offsets_s: np.ndarray

    def colour(self, stop_line: int, time_s: float) -> str:
        """What a stop line's lights show: "green", "amber" or "red"; "" where there are none.

        Args:
            stop_line: index into the town's stop lines.
            time_s: seconds since the start of the scene.

        Returns:
            The colour.
        """
        stop = self.town.stop_lines[stop_line]
        if stop.kind != "TRAFFIC_LIGHT":
            return ""
        return self.phase_colour(stop.junction, stop.phase, time_s)[0]

    def phase_colour(self, junction: int, phase: int, time_s: float) -> tuple[str, float]:
        """Colour of a phase of a junction with lights, and how many seconds it will last."""
        since = (time_s - self.offsets_s[junction] - phase * HALF_CYCLE_S) % (2 * HALF_CYCLE_S)
        if since < GREEN_S:
            return "green", GREEN_S - since
        if since < GREEN_S + AMBER_S:
            return "amber", GREEN_S + AMBER_S - since
        return "red", 2 * HALF_CYCLE_S - since


@dataclass(eq=False)
class RightOfWay:
    """Who holds which way through the junctions; ways that touch are never held at the same time.

    Attributes:
        town: whose junctions they are.
        signals: its traffic lights.
        driving: by junction, the connector that each vehicle holds.
        walking: by crossing, the people who hold it: how far each is from the first point of the crossing's
            centreline, and its direction, 1 along the centreline or -1 against it.
    """

    town: Town
    signals: Signals
    driving: dict[int, dict[int, int]] = field(default_factory=dict)
    walking: dict[int, dict[int, tuple[float, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driving = {junction: {} for junction in range(len(self.town.junctions))}
        self.walking = {crossing: {} for crossing in range(len(self.town.crossings))}
        self._waiting: dict[int, dict[int, tuple[float, int]]] = {junction: {} for junction in self.driving}
        self._conflicts: dict[int, frozenset[int]] = {}
        self._crossings: dict[int, dict[int, float]] = {}
        for junction in self.town.junctions:
            self._conflicts.update(connector_conflicts(self.town, junction.connectors))
        for index, junction in enumerate(self.town.junctions):
            here = [i for i, crossing in enumerate(self.town.crossings) if crossing.junction == index]
            for connector in junction.connectors:
                line = self.town.lanes[connector].centerline
                meets = ((i, _meeting_m(line, self.town.crossings[i].centerline)) for i in here)
                self._crossings[connector] = {i: place for i, place in meets if place is not None}

    def colour(self, lane: int, time_s: float) -> str:
        """What the lights at the end of a lane show, "" where there are none."""
        stop_line = self.town.lanes[lane].stop_line
        return "" if stop_line is None else self.signals.colour(stop_line, time_s)

    def enter(self, vehicle: int, connector: int, time_s: float = 0.0, stands: bool = False) -> bool:
        """Takes a connector for a vehicle if no conflicting way is held, nor wanted by one who waits for long.

        Args:
            vehicle: who asks.
            connector: id of the lane connector.
            time_s: seconds since the start of the scene.
            stands: whether the vehicle has come to rest before the junction.

        Returns:
            Whether it may drive; it then holds the connector until `leave`.
        """
        junction = self._junction(connector)
        if not self._is_free(vehicle, connector, time_s):
            if stands:
                self._waiting[junction].setdefault(vehicle, (time_s, connector))
            return False
        self._waiting[junction].pop(vehicle, None)
        self.driving[junction][vehicle] = connector
        return True

    def give_up(self, vehicle: int, connector: int) -> None:
        """Notes that a vehicle no longer waits for a connector: its lights are red, or there is no room behind."""
        self._waiting[self._junction(connector)].pop(vehicle, None)

    def _is_free(self, vehicle: int, connector: int, time_s: float) -> bool:
        """Whether nobody is in the way of a vehicle, nor ahead of it in the queue."""
        junction, conflicts = self._junction(connector), self._conflicts[connector]
        holders, queue = self.driving[junction], self._waiting[junction]
        since = queue.get(vehicle, (time_s, connector))[0]
        if any(
            begun < min(since, time_s - PATIENCE_S) and wanted in conflicts
            for other, (begun, wanted) in queue.items()
            if other != vehicle
        ):
            return False
        if any(held in conflicts for other, held in holders.items() if other != vehicle):
            return False
        for crossing, place_m in self._crossings[connector].items():
            if any((place_m - at_m) * ahead > -PASSED_M for at_m, ahead in self.walking[crossing].values()):
                return False
        return True

    def leave(self, vehicle: int, connector: int) -> None:
        """Gives a connector back."""
        self.driving[self._junction(connector)].pop(vehicle, None)

    def holders(self, connector: int) -> list[int]:
        """Vehicles that hold a connector."""
        return [vehicle for vehicle, held in self.driving[self._junction(connector)].items() if held == connector]

    def step_out(self, person: int, crossing: int, ahead: int, needed_s: float, time_s: float) -> bool:
        """Takes a crossing for a person if its lights allow it and nobody drives over it.

        Args:
            person: who asks.
            crossing: index into the town's crossings.
            ahead: 1 to walk along its centreline, -1 against it.
            needed_s: how long it takes to cross.
            time_s: seconds since the start of the scene.

        Returns:
            Whether the person may walk; it then holds the crossing until `step_off`.
        """
        place = self.town.crossings[crossing]
        if self.town.junctions[place.junction].signals:
            colour, left_s = self.signals.phase_colour(place.junction, place.phase, time_s)
            if colour != "red" or left_s < needed_s + 1.0:
                return False
        if any(crossing in self._crossings[held] for held in self.driving[place.junction].values()):
            return False
        self.walk(person, crossing, ahead, 0.0)
        return True

    def walk(self, person: int, crossing: int, ahead: int, done_m: float) -> None:
        """Notes how far a person who holds a crossing has come from the kerb that it started at."""
        width = float(np.linalg.norm(np.diff(self.town.crossings[crossing].centerline, axis=0)))
        self.walking[crossing][person] = (done_m if ahead > 0 else width - done_m, ahead)

    def step_off(self, person: int, crossing: int) -> None:
        """Gives a crossing back."""
        self.walking[crossing].pop(person, None)

    def _junction(self, connector: int) -> int:
        junction = self.town.lanes[connector].junction
        assert junction is not None, "only connectors are held"
        return junction


def connector_conflicts(town: Town, connectors: tuple[int, ...]) -> dict[int, frozenset[int]]:
    """Which connectors of a junction come too close to each other to be driven at the same time.

    Args:
        town: their town.
        connectors: ids of the junction's connectors.

    Returns:
        For each connector the others that conflict with it; symmetric.
    """
    lines = [town.lanes[i].centerline for i in connectors]
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])  # (P,)
    points = np.concatenate(lines)  # (P, 2)
    near = ((points[:, None] - points[None]) ** 2).sum(axis=-1) < CLEARANCE_M**2  # (P, P)
    pairs = set(zip(owner[near.nonzero()[0]].tolist(), owner[near.nonzero()[1]].tolist(), strict=True))
    return {
        connector: frozenset(connectors[b] for a, b in pairs if a == index and b != index)
        for index, connector in enumerate(connectors)
    }


def _meeting_m(line: np.ndarray, crossing: np.ndarray) -> float | None:
    """Where along a crossing (2, 2) a connector (P, 2) comes over it, or None where it does not."""
    along = crossing[1] - crossing[0]
    share = np.clip((line - crossing[0]) @ along / (along @ along), 0, 1)
    distance = np.linalg.norm(line - crossing[0] - share[:, None] * along, axis=1)
    nearest = int(distance.argmin())
    return float(share[nearest] * np.linalg.norm(along)) if distance[nearest] < 2.6 else None
