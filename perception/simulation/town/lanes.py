"""Lanes along the roads and the connectors that join them across junctions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np

from perception.simulation.town import curves
from perception.simulation.town.approaches import CORNER_RADIUS_M, Approach, road_middles
from perception.simulation.town.network import GUTTER_M, LANE_WIDTH_M, Network, Road
from perception.simulation.town.town import Lane

_TURN_MPS = 5.0
_GIVING_WAY_MPS = 7.0
_PASSING_MPS = 13.4
_NEAR_RADIUS_M = CORNER_RADIUS_M + GUTTER_M + LANE_WIDTH_M / 2
"""Radius of a turn around the near corner: concentric with the rounded kerb."""


@dataclass
class LaneGraph:
    """Lanes, and which of them arrive at and leave each approach (innermost first)."""

    lanes: list[Lane] = field(default_factory=list)
    arriving: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    leaving: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


def _add_road_lanes(graph: LaneGraph, middle: np.ndarray, road: Road, ends: tuple[int, int]) -> None:
    """Adds the lanes of one road in both directions; `ends` are its approaches at start and end."""
    for line, source, target in ((middle, *ends), (middle[::-1], *ends[::-1])):
        base = len(graph.lanes)
        for k in range(road.lanes):
            graph.lanes.append(
                Lane(
                    id=base + k,
                    centerline=curves.shifted(line, -(k + 0.5) * LANE_WIDTH_M),
                    width_m=LANE_WIDTH_M,
                    left=base + k - 1 if k else None,
                    right=base + k + 1 if k + 1 < road.lanes else None,
                    successors=(),
                    predecessors=(),
                    speed_limit_mps=road.speed_limit_mps,
                )
            )
            graph.leaving[source].append(base + k)
            graph.arriving[target].append(base + k)


def _turn(arriving: Approach, leaving: Approach) -> str:
    """Which way a car turns from one approach to another."""
    ahead = -curves.direction_at(arriving.line, arriving.setback_m)
    onward = curves.direction_at(leaving.line, leaving.setback_m)
    angle = np.arctan2(ahead[0] * onward[1] - ahead[1] * onward[0], ahead @ onward)
    return "straight" if abs(angle) < np.radians(42) else "left" if angle > 0 else "right"


def _pairs(turn: str, sources: list[int], targets: list[int]) -> list[tuple[int, int]]:
    """Which lanes a turn joins; lanes are listed innermost (left) first."""
    if turn == "left":
        return [(sources[0], targets[0])]
    if turn == "right":
        return [(sources[-1], targets[-1])]
    if len(sources) == len(targets):
        return list(zip(sources, targets, strict=True))
    if len(sources) < len(targets):
        return [(sources[0], target) for target in targets]
    return [(source, targets[0]) for source in sources]


def _cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def connector_line(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A smooth path from the end of one lane to the start of another.

    Args:
        source: (N, 2) the lane that it continues.
        target: (M, 2) the lane that it leads into.

    Returns:
        (K, 2) points about 1 m apart.
    """
    start, end = source[-1], target[0]
    ahead, onward = curves.directions(source)[-1], curves.directions(target)[0]
    cross, chord = _cross(ahead, onward), end - start
    if abs(cross) < 0.4:
        handle = np.linalg.norm(chord) / 3
        controls = np.array([start, start + handle * ahead, end - handle * onward, end])
        return curves.resampled(curves.bezier(controls, 100), 1.0)
    reach = np.array([_cross(chord, onward), _cross(ahead, chord)]) / cross  # from both ends to where they would meet
    angle = np.arctan2(abs(cross), ahead @ onward)
    bend = reach.min() if cross > 0 else min(reach.min(), _NEAR_RADIUS_M * np.tan(angle / 2))
    handle = bend * (1 - 4 / 3 * np.tan(angle / 4) / np.tan(angle / 2))  # what makes the Bezier curve an arc
    corner = start + reach[0] * ahead
    controls = np.array([-bend * ahead, -handle * ahead, handle * onward, bend * onward]) + corner
    arc = curves.bezier(controls, 100)
    first = start[None] if reach[0] - bend > 0.01 else arc[:0]
    last = end[None] if reach[1] - bend > 0.01 else arc[:0]
    return curves.resampled(np.concatenate([first, arc, last]), 1.0)


def _add_connectors(graph: LaneGraph, approaches: list[Approach], junction: int) -> None:
    """Adds every allowed way across one junction."""
    arms = [i for i, approach in enumerate(approaches) if approach.junction == junction]
    for a in arms:
        for b in arms:
            if a == b:
                continue
            turn = _turn(approaches[a], approaches[b])
            for source, target in _pairs(turn, graph.arriving[a], graph.leaving[b]):
                lane = Lane(
                    id=len(graph.lanes),
                    centerline=connector_line(graph.lanes[source].centerline, graph.lanes[target].centerline),
                    width_m=LANE_WIDTH_M,
                    left=None,
                    right=None,
                    successors=(target,),
                    predecessors=(source,),
                    speed_limit_mps=_TURN_MPS if turn != "straight" else graph.lanes[source].speed_limit_mps,
                    junction=junction,
                    turn=turn,
                )
                graph.lanes.append(lane)
                source_lane, target_lane = graph.lanes[source], graph.lanes[target]
                graph.lanes[source] = replace(source_lane, successors=(*source_lane.successors, lane.id))
                graph.lanes[target] = replace(target_lane, predecessors=(*target_lane.predecessors, lane.id))


def lane_graph(network: Network, approaches: list[Approach]) -> LaneGraph:
    """The lanes of a network that drives on the right.

    Args:
        network: roads and junctions.
        approaches: how the roads meet.

    Returns:
        Lanes of roads first, then connectors; every lane has a successor.
    """
    graph = LaneGraph()
    for index, middle in enumerate(road_middles(network, approaches)):
        ends = sorted((i for i, a in enumerate(approaches) if a.road == index), key=lambda i: approaches[i].at_end)
        _add_road_lanes(graph, middle, network.roads[index], (ends[0], ends[1]))
    for junction in range(len(network.centers)):
        _add_connectors(graph, approaches, junction)
    return graph


def slow_at_junctions(graph: LaneGraph, approaches: list[Approach]) -> None:
    """Lowers the speed limits of connectors where roads are fast: to what lets a car give way, or be given way.

    Args:
        graph: lanes and connectors; changed in place.
        approaches: how the roads meet.
    """
    gives_way = {lane for i, lanes in graph.arriving.items() if approaches[i].control for lane in lanes}
    for lane in graph.lanes:
        if lane.junction is not None:
            most = _GIVING_WAY_MPS if gives_way.intersection(lane.predecessors) else _PASSING_MPS
            graph.lanes[lane.id] = replace(lane, speed_limit_mps=min(lane.speed_limit_mps, most))
