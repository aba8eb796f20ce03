"""The traffic of a scene: everybody's track around the ego's drive, drawn from a seed, free of collisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perception.simulation.ego import (
    DRIVES,
    EGO_SIZE_LWH_M,
    MANNERS,
    Drive,
    Manner,
    draw_ego,
    ego_poses,
    ego_rectangles,
)
from perception.simulation.ego_parking import draw_parking
from perception.simulation.ego_routes import best_part, draw_ego_for
from perception.simulation.town.town import Town
from perception.simulation.traffic_actors import MARGIN_S, TRACK_STEP_S, WARM_UP_S, ActorTrack, track_times
from perception.simulation.traffic_cast import complete_cast
from perception.simulation.traffic_flow import STEP_S, Flow, Vehicle, stations_at
from perception.simulation.traffic_overlap import colliding_pairs, survivors
from perception.simulation.traffic_parked import LaneWorks, draw_lane_works, draw_parked
from perception.simulation.traffic_paths import SPACING_M
from perception.simulation.traffic_people import Pedestrian, crosser_track, draw_crossers, draw_strollers
from perception.simulation.traffic_rules import GREEN_S, HALF_CYCLE_S, RightOfWay, Signals
from perception.simulation.traffic_vehicles import Train, draw_vehicles, train_tracks
from perception.simulation.traffic_yard import draw_yard

SAFETY_M = 0.12
"""Actors whose boxes come closer than this at a stored time are taken out, so that none touch in between."""

_TOP_SPEED_MPS = 14.0
_CHECK_EVERY = 2


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


class _Moved(NamedTuple):
    """What has moved, after it has, and what stands by it."""

    ego: np.ndarray
    signals: Signals
    trains: list[Train]
    crossers: list[Pedestrian]
    works: LaneWorks | None = None
    yard: tuple[ActorTrack, ...] = ()
    settled: frozenset[int] = frozenset()
    tight: frozenset[int] = frozenset()


def draw_traffic(town: Town, seed: int, duration_s: float, drive: Drive = "any") -> Traffic:
    """Draws and runs the traffic of a scene.

    Args:
        town: where it drives.
        seed: of the scene; the same seed gives the same traffic.
        duration_s: length of the scene; tracks reach `MARGIN_S` beyond either end.
        drive: what the ego does; each kind has random numbers of its own.

    Returns:
        The traffic: no two boxes overlap at any time, the ego's included, and of every detection class somebody is
        near and in sight at some keyframe.
    """
    times = track_times(duration_s)
    moved = _parked(town, seed, times) if drive == "parking" else _driven(town, seed, times, drive)
    poses, driven = moved.ego, moved.ego[:, :2]
    tracks = [track for train in moved.trains for track in train_tracks(train)]
    tracks += [crosser_track(person) for person in moved.crossers]
    tracks += moved.yard
    tracks += draw_parked(town, driven, moved.works, _stream(seed, drive, 1), moved.settled)
    tracks += draw_strollers(town, driven[::20], times, _stream(seed, drive, 2))
    together = _without_collisions(poses, tracks)
    tracks = complete_cast(town, poses, together, _stream(seed, drive, 3), moved.tight)
    return Traffic(poses, tuple(tracks), moved.signals)


def _stream(seed: int, drive: Drive, *purpose: int) -> np.random.Generator:
    """Random numbers of a scene for one purpose, which nothing else uses."""
    kind = DRIVES.index(drive)
    return np.random.default_rng([seed, 3 + 100 * kind, *purpose])


def _driven(town: Town, seed: int, times: np.ndarray, drive: Drive) -> _Moved:
    """Runs the flow of traffic with the ego in it; another is drawn where the ego does not drive as it should."""
    manner = MANNERS[drive]
    last_s = times[-1] + manner.spare_s
    steps = round(float(times[-1] - times[0]) / STEP_S) + 1
    length_m = (WARM_UP_S + last_s - times[0]) * _top_speed_mps(town)
    best: tuple[float, _Moved] | None = None
    for attempt in range(manner.attempts):
        streams = [_stream(seed, drive, 0, attempt, purpose) for purpose in range(5)]
        if drive == "any":
            ego = draw_ego(town, length_m, streams[0])
        else:
            ego = draw_ego_for(town, drive, length_m, float(times[-1]) - MARGIN_S, streams[0])
        signals = _draw_signals(town, ego, manner, streams[1])
        works = draw_lane_works(town, ego.route, streams[4])
        closed = frozenset() if works is None else frozenset([works.lane])
        seen = ego.route.path.points[: int(2 * (ego.front_m + 280)) : 10]  # (S, 2)
        trains = draw_vehicles(town, seen, (ego, manner.free_ahead), length_m, closed, streams[2])
        seen = ego.route.path.points[: int(2 * (ego.front_m + 300)) : 8]  # (S, 2)
        crossers = draw_crossers(town, seen, len(trains) + 1, streams[3], manner.crossed)
        vehicles, walkers = [ego, *(train.vehicle for train in trains)], [person.walker for person in crossers]
        Flow(town, RightOfWay(town, signals), vehicles, walkers).run(times[0] - WARM_UP_S, times[0], last_s)
        wanted, reached, later = best_part(town, ego, times, drive)
        for history in [vehicle.history for vehicle in vehicles] + [walker.history for walker in walkers]:
            history[:] = history[later : later + steps]
        if best is None or reached > best[0]:
            shifted = Signals(town, signals.offsets_s - later * STEP_S)
            poses = ego_poses(ego.route.path, stations_at(ego.history, round(STEP_S / TRACK_STEP_S)))
            best = (reached, _Moved(poses, shifted, trains, crossers, works))
        if reached > wanted:
            break
    assert best is not None, "there is at least one attempt"
    return best[1]


def _parked(town: Town, seed: int, times: np.ndarray) -> _Moved:
    """Lets the ego park, with the traffic of the streets around it."""
    streams = [_stream(seed, "parking", 0, purpose) for purpose in range(5)]
    parking = draw_parking(town, times[-1] - MARGIN_S, streams[0])
    signals = Signals(town, streams[1].uniform(0, 2 * HALF_CYCLE_S, len(town.junctions)))
    length_m = (WARM_UP_S + times[-1] - times[0]) * _top_speed_mps(town)
    seen = parking.poses[::40, :2]
    trains = draw_vehicles(town, seen, None, length_m, parking.yard.lanes, streams[2])
    crossers = draw_crossers(town, seen, len(trains) + 1, streams[3])
    flow = Flow(
        town,
        RightOfWay(town, signals),
        [train.vehicle for train in trains],
        [person.walker for person in crossers],
    )
    flow.run(times[0] - WARM_UP_S, times[0], times[-1])
    tracks, settled = draw_yard(parking, times, streams[4])
    tight = frozenset(place.slot for place in parking.yard.places) if parking.yard.across else frozenset()
    return _Moved(parking.poses, signals, trains, crossers, yard=tuple(tracks), settled=settled, tight=tight)


def _draw_signals(town: Town, ego: Vehicle, manner: Manner, rng: np.random.Generator) -> Signals:
    """Lights at random, except before the ego: there some are green when it arrives, the others turn green soon."""
    offsets = rng.uniform(0, 2 * HALF_CYCLE_S, len(town.junctions))
    route = ego.route
    elapsed_s = np.cumsum(SPACING_M / np.maximum(ego.driver.pace * route.speeds_mps, 1.0))
    set_already: set[int] = set()
    for index, lane in enumerate(route.lanes[:-1]):
        stop = town.lanes[lane].stop_line
        here, there = (int(station / SPACING_M) for station in (ego.front_m, route.starts_m[index + 1]))
        arrival_s = elapsed_s[min(there, len(elapsed_s) - 1)] - elapsed_s[here] - WARM_UP_S - MARGIN_S
        lead_s = rng.uniform(2.0, 0.9 * GREEN_S) if rng.random() < manner.green else -rng.uniform(*manner.wait_s)
        if stop is None or town.stop_lines[stop].junction in set_already:
            continue
        place = town.stop_lines[stop]
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


def _top_speed_mps(town: Town) -> float:
    """How fast anybody may come to drive."""
    return max(_TOP_SPEED_MPS, *(lane.speed_limit_mps for lane in town.lanes))
