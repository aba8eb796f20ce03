"""Where roads meet: how far each road is cut back, and where its crossing and its stop line lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from shapely.geometry import Polygon

from perception.simulation.town import curves
from perception.simulation.town.network import LANE_WIDTH_M, Network, Road

CORNER_RADIUS_M = 7.0
CROSSING_M = 3.4
STOP_LINE_M = 0.9


@dataclass(frozen=True, eq=False)
class Approach:
    """One end of a road.

    Attributes:
        road: index of the road.
        at_end: whether it is the road's end or its start.
        junction: index of the junction.
        phase: signal phase.
        control: "TRAFFIC_LIGHT", "STOP_SIGN", "YIELD" or "" (right of way).
        crossing: whether people cross there.
        mouth_m: distance from the junction's centre, along the road, to where the kerb is straight.
        setback_m: distance to where its lanes end.
        line: (N, 2) the road's middle, seen from the junction outward.
        lanes: lanes in each direction.
        half_width_m: distance from the middle to the kerb.
    """

    road: int
    at_end: bool
    junction: int
    phase: int
    control: str
    crossing: bool
    mouth_m: float
    setback_m: float
    line: np.ndarray
    lanes: int
    half_width_m: float

    def crossing_polygon(self) -> Polygon:
        """The zebra, from kerb to kerb."""
        start = self.mouth_m + 0.4
        part = curves.cut(self.line, start, start + CROSSING_M, CROSSING_M / 2)
        return curves.strip(part, self.half_width_m, -self.half_width_m)

    def crossing_line(self) -> np.ndarray:
        """(2, 2) its middle, from kerb to kerb."""
        station = self.mouth_m + 0.4 + CROSSING_M / 2
        middle, heading = curves.at(self.line, station), curves.pose_at(self.line, station)[2]
        across = np.array([-np.sin(heading), np.cos(heading)]) * self.half_width_m
        return np.stack([middle + across, middle - across])

    def stop_polygon(self) -> Polygon:
        """Where the arriving lanes stop: the left side seen from the junction outward."""
        part = curves.cut(self.line, self.setback_m, self.setback_m + STOP_LINE_M, STOP_LINE_M)
        return curves.strip(part, self.lanes * LANE_WIDTH_M, 0.08)


def outward(road: Road, at_end: bool) -> np.ndarray:
    """The road's middle seen from one of its ends.

    Args:
        road: a road.
        at_end: whether from its end.

    Returns:
        (N, 2) polyline that starts at the junction's centre.
    """
    return road.line[::-1] if at_end else road.line


def _mouths(roads: list[Road], lines: list[np.ndarray]) -> np.ndarray:
    """(A,) how far from the centre each arm's kerbs are straight, so that rounded corners fit between arms."""
    headings = np.array([np.arctan2(*(curves.at(line, 12.0) - line[0])[::-1]) for line in lines])
    order = np.argsort(headings)
    mouths = np.zeros(len(roads))
    for here, there in zip(order, np.roll(order, -1), strict=True):
        angle = (headings[there] - headings[here]) % (2 * np.pi)
        if angle > np.radians(150):
            continue
        for a, b in ((here, there), (there, here)):
            wide, other = roads[a].half_width_m, roads[b].half_width_m
            corner = (other + wide * np.cos(angle)) / np.sin(angle) + CORNER_RADIUS_M / np.tan(angle / 2)
            mouths[a] = max(mouths[a], corner)
    return mouths + 0.8


def _controls(rng: np.random.Generator, roads: list[Road], phases: list[int]) -> list[str]:
    """How each arm is controlled: lights at busy junctions, stop signs on the minor arms of the others."""
    busy = max(road.lanes for road in roads) > 1 or (len(roads) > 3 and rng.random() < 0.5)
    return ["TRAFFIC_LIGHT" if busy else "STOP_SIGN" if phase else "" for phase in phases]


def draw_approaches(rng: np.random.Generator, network: Network) -> list[Approach]:
    """Draws how the roads meet at every junction.

    Args:
        rng: where the randomness comes from.
        network: roads and junctions.

    Returns:
        Two approaches for each road, in the order of the junctions.
    """
    approaches = []
    for junction in range(len(network.centers)):
        meeting = _Meeting(network, junction)
        for k, control in enumerate(_controls(rng, meeting.roads, meeting.phases)):
            crossing = control != "" or rng.random() < 0.25
            approaches.append(meeting.approach(k, control or ("YIELD" if crossing else ""), crossing))
    return approaches


def draw_country_approaches(rng: np.random.Generator, network: Network) -> list[Approach]:
    """Draws how country roads meet: the minor ones stop or give way, and at one place people cross.

    Args:
        rng: where the randomness comes from.
        network: roads and junctions.

    Returns:
        Two approaches for each road, in the order of the junctions.
    """
    approaches = []
    hamlet = int(rng.integers(len(network.centers)))
    for junction in range(len(network.centers)):
        meeting = _Meeting(network, junction)
        minor = "STOP_SIGN" if rng.random() < 0.5 else "YIELD"
        crossed = meeting.phases.index(0) if junction == hamlet else -1
        for k, phase in enumerate(meeting.phases):
            control = minor if phase else "YIELD" if k == crossed else ""
            approaches.append(meeting.approach(k, control, k == crossed))
    return approaches


class _Meeting:
    """The ends of roads that meet at a junction, roads that begin there first."""

    def __init__(self, network: Network, junction: int) -> None:
        self._junction = junction
        self._ends = [(i, False) for i, road in enumerate(network.roads) if road.start == junction]
        self._ends += [(i, True) for i, road in enumerate(network.roads) if road.end == junction]
        self.roads = [network.roads[i] for i, _ in self._ends]
        self.phases = [road.phases[at_end] for road, (_, at_end) in zip(self.roads, self._ends, strict=True)]
        self._lines = [outward(road, at_end) for road, (_, at_end) in zip(self.roads, self._ends, strict=True)]
        self._mouths = _mouths(self.roads, self._lines)

    def approach(self, k: int, control: str, crossing: bool) -> Approach:
        """The k-th end as it is controlled, with or without a crossing."""
        index, at_end = self._ends[k]
        setback = self._mouths[k] + (0.4 + CROSSING_M + 1.0 if crossing else 0.6)
        return Approach(
            road=index,
            at_end=at_end,
            junction=self._junction,
            phase=self.phases[k],
            control=control,
            crossing=crossing,
            mouth_m=float(self._mouths[k]),
            setback_m=float(setback),
            line=self._lines[k],
            lanes=self.roads[k].lanes,
            half_width_m=self.roads[k].half_width_m,
        )


def road_middles(network: Network, approaches: Sequence[Approach]) -> list[np.ndarray]:
    """The middle of each road between the places where its lanes end.

    Args:
        network: roads and junctions.
        approaches: how the roads meet.

    Returns:
        (N, 2) for each road, from its start to its end.
    """
    setbacks = {(approach.road, approach.at_end): approach.setback_m for approach in approaches}
    return [
        curves.cut(road.line, setbacks[k, False], curves.length(road.line) - setbacks[k, True])
        for k, road in enumerate(network.roads)
    ]
