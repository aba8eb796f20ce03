"""People on the walkways and over the crossings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perception.simulation.actors.catalogue import ActorShape, build_shape
from perception.simulation.town.town import KERB_HEIGHT_M, Town
from perception.simulation.traffic_actors import TRACK_STEP_S, ActorTrack, Behaviour, standing
from perception.simulation.traffic_flow import STEP_S, Walker, stations_at
from perception.simulation.traffic_paths import SPACING_M, Path, smooth_path

KEEP_TO_SIDE_M = 0.42
"""How far people walk from the middle of a walkway, so that those who meet pass each other."""

CROSSED_SHARES = (0.4, 0.7)
"""Of the crossings that people use: fewer where the ego itself drives, so that it is not held up at every junction."""

_SPACING_M = 1.3
_RAMP_M = 0.3
_NEAR_M = 70.0
_PER_PERSON_M = 44.0
_AHEAD_M = 1.25
"""How far a stroller or a dog goes before the person whose it is."""

_WALKERS = {"adult_walking": 0.88, "child_walking": 0.07, "worker_walking": 0.03, "wheelchair": 0.02}
_COMPANIONS = {"": 0.92, "dog": 0.045, "stroller": 0.035}
_STANDING = {"adult_standing": 0.76, "adult_sitting": 0.2, "officer_standing": 0.04}
_RIDER_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class Pedestrian:
    """A person who crosses a road, with the shape that goes with the walker."""

    walker: Walker
    shape: ActorShape


def draw_crossers(
    town: Town,
    seen: np.ndarray,
    first_id: int,
    rng: np.random.Generator,
    shares: tuple[float, float] = CROSSED_SHARES,
) -> list[Pedestrian]:
    """People on their way over crossings near the ego's route.

    Args:
        town: where they walk.
        seen: (S, 2) points of the ego's route.
        first_id: id of the first walker.
        rng: source of who, where and when.
        shares: of the crossings that people use, on the ego's way and elsewhere.

    Returns:
        Walkers before the kerb, some at rest on it.
    """
    people: list[Pedestrian] = []
    for index, crossing in enumerate(town.crossings):
        middle = crossing.centerline.mean(axis=0)
        away = np.linalg.norm(seen - middle, axis=1).min()
        if away > _NEAR_M or rng.random() > shares[int(away > 8.0)]:
            continue
        lanes_across = rng.permutation([-1.2, -0.4, 0.4, 1.2])[: int(rng.integers(1, 4))]
        for across in lanes_across:
            ahead = 1 if rng.random() < 0.5 else -1
            line = crossing.centerline[::ahead]
            path, kerbs = _crossing_path(town, line, float(across), rng)
            pace = float(rng.uniform(1.1, 1.6))
            start = max(0.5, kerbs[0] - float(rng.uniform(1.0, 26.0)))
            walker = Walker(first_id + len(people), path, index, ahead, kerbs, pace, start, pace)
            people.append(Pedestrian(walker, build_shape(_drawn(_WALKERS, rng), rng)))
    return people


def _drawn(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _crossing_path(
    town: Town, line: np.ndarray, across_m: float, rng: np.random.Generator
) -> tuple[Path, tuple[float, float]]:
    """Along one walkway, over the road, along the next; and the stations of the two kerbs."""
    ahead = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
    shift = across_m * np.array([-ahead[1], ahead[0]])
    before = _along_walkway(town, line[0] - 2.0 * ahead + shift, 32.0, rng)[::-1]
    after = _along_walkway(town, line[1] + 2.0 * ahead + shift, 60.0, rng)
    kerbs = line + shift
    points = np.concatenate((before, kerbs[:1], kerbs[1:], after))
    path = smooth_path(points)
    return path, (float(path.stations_m[len(before)]), float(path.stations_m[len(before) + 1]))


def _along_walkway(town: Town, point: np.ndarray, length_m: float, rng: np.random.Generator) -> np.ndarray:
    """(N, 2) points along the walkway nearest to a point, from there on in either direction."""
    nearest = [np.linalg.norm(ring - point, axis=1) for ring in town.walkways]
    which = int(np.argmin([distance.min() for distance in nearest]))
    ring, start = town.walkways[which], int(nearest[which].argmin())
    step = 1 if rng.random() < 0.5 else -1
    count = int(length_m / 2.0)
    indices = (start + step * np.arange(1, count)) % len(ring)
    return ring[indices]


def crosser_track(person: Pedestrian) -> ActorTrack:
    """The track of a person after the walk; the road lies lower than the walkways."""
    walker = person.walker
    stations = stations_at(walker.history, round(STEP_S / TRACK_STEP_S))
    kerb_in, kerb_out = walker.kerbs_m
    ramp = np.array([kerb_in - _RAMP_M, kerb_in, kerb_out, kerb_out + _RAMP_M])
    z = np.interp(stations, ramp, [KERB_HEIGHT_M, 0.0, 0.0, KERB_HEIGHT_M])
    yaw = np.unwrap(walker.path.headings(stations))
    poses = np.column_stack((walker.path.positions(stations), z, yaw))
    return ActorTrack(person.shape, Behaviour.ON_FOOT, poses, priority=40)


def draw_strollers(town: Town, seen: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> list[ActorTrack]:
    """People who walk, stand or sit along the walkways near the ego's route.

    Args:
        town: where they are.
        seen: (S, 2) points of the ego's route.
        times: (K,) times of the tracks.
        rng: source of who, where and how fast.

    Returns:
        Their tracks.
    """
    tracks = []
    for ring in town.walkways:
        for direction in (1, -1):
            turned = ring[::direction]
            # Half a round more than one, so that nobody comes to its end.
            path = smooth_path(np.concatenate((turned, turned[: len(ring) // 2])), -KEEP_TO_SIDE_M)
            around_m = float(path.stations_m[len(ring)])
            tracks += _strollers_along(path, around_m, seen, times, _PER_PERSON_M / town.bustle, rng)
    return tracks


def _strollers_along(
    path: Path, around_m: float, seen: np.ndarray, times: np.ndarray, apart_m: float, rng: np.random.Generator
) -> list[ActorTrack]:
    """People on one side of a ring of a given length, none of whom catches up with another."""
    near = np.linalg.norm(path.points[::8, None] - seen, axis=-1).min(axis=1) < _NEAR_M  # (K / 8,)
    places = np.flatnonzero(near) * 8 * SPACING_M
    places = places[places < around_m]
    duration = times[-1] - times[0]
    taken: list[tuple[float, float]] = []
    tracks = []
    for _ in range(int(rng.poisson(len(places) * 8 * SPACING_M / apart_m))):
        start = float(rng.choice(places) + rng.uniform(0, 4))
        draw = rng.random()
        pace = 0.0 if draw < 0.22 else float(np.clip(rng.normal(1.35, 0.15), 0.9, 1.8))
        # Most people of one direction go at one pace: groups, and nobody overtakes on a narrow walkway.
        if pace and taken and rng.random() < 0.6:
            pace = taken[-1][1] or pace
        if all(_keep_apart(start - other, (pace - speed) * duration, around_m) for other, speed in taken):
            taken.append((start, pace))
            tracks += _stroller(path, start, pace, times, rng)
    return tracks


def _keep_apart(lead_m: float, gained_m: float, around_m: float) -> bool:
    """Whether one who is ahead on a ring by a lead, and gains on the other, stays clear of it either way round."""
    first, last = sorted((lead_m, lead_m + gained_m))
    turn = np.floor(first / around_m) * around_m
    return bool(first - turn >= _SPACING_M and last - turn <= around_m - _SPACING_M)


def _stroller(path: Path, start: float, pace: float, times: np.ndarray, rng: np.random.Generator) -> list[ActorTrack]:
    """A person at a constant pace, with what goes before them, or one who stands or sits where it is zero."""
    if not pace:
        shape = build_shape(_drawn(_STANDING, rng), rng)
        x, y = path.positions(np.array(start)).tolist()
        facing = float(path.headings(np.array(start)) + rng.normal(0, 0.5) + np.pi / 2 * rng.integers(-1, 2))
        behaviour = Behaviour.SEATED if shape.kind == "adult_sitting" else Behaviour.ON_FOOT
        return [ActorTrack(shape, behaviour, standing(x, y, KERB_HEIGHT_M, facing), priority=20)]
    kind = "scooter_rider" if rng.random() < _RIDER_SHARE else _drawn(_WALKERS, rng)
    companion = _drawn(_COMPANIONS, rng) if kind == "adult_walking" else ""
    tracks = [_walk(kind, path, start + pace * (times - times[0]), rng)]
    if companion:
        tracks.append(_walk(companion, path, start + _AHEAD_M + pace * (times - times[0]), rng))
    return tracks


def _walk(kind: str, path: Path, stations: np.ndarray, rng: np.random.Generator) -> ActorTrack:
    """Somebody who is at given stations (K,) of a path along a walkway."""
    yaw = np.unwrap(path.headings(stations))
    poses = np.column_stack((path.positions(stations), np.full(len(stations), KERB_HEIGHT_M), yaw))
    behaviour = Behaviour.THING if kind == "dog" else Behaviour.ON_FOOT
    return ActorTrack(build_shape(kind, rng), behaviour, poses, priority=30)
