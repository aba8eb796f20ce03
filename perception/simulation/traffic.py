"""The traffic of a scene: everybody's track around the ego's drive, drawn from a seed, free of collisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perception.simulation.ego import EGO_SIZE_LWH_M, draw_ego, ego_poses, ego_rectangles
from perception.simulation.town.town import Town
from perception.simulation.traffic_actors import MARGIN_S, TRACK_STEP_S, ActorTrack, track_times
from perception.simulation.traffic_cast import complete_cast
from perception.simulation.traffic_flow import STEP_S, Flow, Vehicle, stations_at
from perception.simulation.traffic_overlap import colliding_pairs, survivors
from perception.simulation.traffic_parked import LaneWorks, draw_lane_works, draw_parked
from perception.simulation.traffic_paths import SPACING_M
from perception.simulation.traffic_people import Pedestrian, crosser_track, draw_crossers, draw_strollers
from perception.simulation.traffic_rules import GREEN_S, HALF_CYCLE_S, RightOfWay, Signals
from perception.simulation.traffic_vehicles import Train, draw_vehicles, train_tracks

WARM_UP_S = 9.0
"""Traffic runs this long before the first track begins, so that queues and gaps have formed."""

SAFETY_M = 0.12
"""Actors whose boxes come closer than this at a stored time are taken out, so that none touch in between."""

_TOP_SPEED_MPS = 14.0
_CHECK_EVERY = 2
_ATTEMPTS = 3
_LEAST_DRIVE_M = 12.0


@dataclass(frozen=True, eq=False)
class Traffic:
    """Everybody's track.

    Attributes:
        ego: (K, 4) x, y, z and yaw of the ego's rear axle at `track_times`.
        tracks: the actors'.
        signals: the traffic lights.
    """

    ego: np.ndarray
    tracks: tuple[ActorTrack, ...]
    signals: Signals


class _Drive(NamedTuple):
    """What has moved, after it has."""

    ego: Vehicle
    signals: Signals
    trains: list[Train]
    crossers: list[Pedestrian]
    works: LaneWorks | None


def draw_traffic(town: Town, seed: int, duration_s: float) -> Traffic:
    """Draws and runs the traffic of a scene.

    Args:
        town: where it drives.
        seed: of the scene; the same seed gives the same traffic.
        duration_s: length of the scene; tracks reach `MARGIN_S` beyond either end.

    Returns:
        The traffic: no two boxes overlap at any time, the ego's included, and of every detection class somebody is
        near and in sight at some keyframe.
    """
    times = track_times(duration_s)
    drive = _drive(town, seed, times)
    ego = drive.ego
    poses = ego_poses(ego.route.path, stations_at(ego.history, round(STEP_S / TRACK_STEP_S)))
    driven = poses[:, :2]
    tracks = [track for train in drive.trains for track in train_tracks(train)]
    tracks += [crosser_track(person) for person in drive.crossers]
    tracks += draw_parked(town, driven, drive.works, np.random.default_rng([seed, 3, 1]))
    tracks += draw_strollers(town, driven[::20], times, np.random.default_rng([seed, 3, 2]))
    tracks = complete_cast(town, poses, _without_collisions(poses, tracks), np.random.default_rng([seed, 3, 3]))
    return Traffic(poses, tuple(tracks), drive.signals)


def _drive(town: Town, seed: int, times: np.ndarray) -> _Drive:
    """Runs the flow of traffic; another is drawn where the ego hardly moves during the scene."""
    length_m = (WARM_UP_S + times[-1] - times[0]) * _TOP_SPEED_MPS
    best: tuple[float, _Drive] | None = None
    for attempt in range(_ATTEMPTS):
        streams = [np.random.default_rng([seed, 3, 0, attempt, purpose]) for purpose in range(5)]
        ego = draw_ego(town, length_m, streams[0])
        signals = _draw_signals(town, ego, streams[1])
        works = draw_lane_works(town, ego.route, streams[4])
        closed = frozenset() if works is None else frozenset([works.lane])
        trains = draw_vehicles(town, ego, length_m, closed, streams[2])
        seen = ego.route.path.points[: int(2 * (ego.front_m + 300)) : 8]  # (S, 2)
        crossers = draw_crossers(town, seen, len(trains) + 1, streams[3])
        vehicles = [ego, *(train.vehicle for train in trains)]
        flow = Flow(town, RightOfWay(town, signals), vehicles, [person.walker for person in crossers])
        flow.run(times[0] - WARM_UP_S, times[0], times[-1])
        driven_m = ego.history[-1][0] - ego.history[0][0]
        least_m = min(_LEAST_DRIVE_M, 0.1 * _TOP_SPEED_MPS * (times[-1] - times[0]))
        if best is None or driven_m > best[0]:
            best = (driven_m, _Drive(ego, signals, trains, crossers, works))
        if driven_m > least_m:
            break
    assert best is not None, "there is at least one attempt"
    return best[1]


def _draw_signals(town: Town, ego: Vehicle, rng: np.random.Generator) -> Signals:
    """Lights at random, except before the ego: there most are green when it arrives, the others turn green soon."""
    offsets = rng.uniform(0, 2 * HALF_CYCLE_S, len(town.junctions))
    route = ego.route
    elapsed_s = np.cumsum(SPACING_M / np.maximum(ego.driver.pace * route.speeds_mps, 1.0))
    set_already: set[int] = set()
    for index, lane in enumerate(route.lanes[:-1]):
        stop = town.lanes[lane].stop_line
        lead_s = rng.uniform(2.0, 0.9 * GREEN_S) if rng.random() < 0.75 else -rng.uniform(3.0, 8.0)
        if stop is None or town.stop_lines[stop].junction in set_already:
            continue
        place = town.stop_lines[stop]
        here, there = (int(station / SPACING_M) for station in (ego.front_m, route.starts_m[index + 1]))
        arrival_s = elapsed_s[there] - elapsed_s[here] - WARM_UP_S - MARGIN_S
        offsets[place.junction] = arrival_s - lead_s - place.phase * HALF_CYCLE_S
        set_already.add(place.junction)
    return Signals(town, offsets)


def _without_collisions(ego: np.ndarray, tracks: list[ActorTrack]) -> list[ActorTrack]:
    """The tracks without those that come too close to the ego or to one of higher priority."""
    steps = len(ego[::_CHECK_EVERY])
    poses = np.stack(
        [ego_rectangles(ego[::_CHECK_EVERY])]
        + [np.broadcast_to(track.poses[::_CHECK_EVERY], (steps, 4))[:, [0, 1, 3]] for track in tracks]
    )  # (A + 1, K, 3)
    sizes = np.array([EGO_SIZE_LWH_M[:2]] + [track.shape.size_lwh_m[:2] for track in tracks])
    priorities = np.array([1000] + [track.priority for track in tracks])
    keep = survivors(colliding_pairs(poses, sizes, SAFETY_M), priorities)
    return [track for track, kept in zip(tracks, keep[1:], strict=True) if kept]
