"""Slow driving, forward and back: straights and turns of a car that does not slip sideways, and its speed along them.

A way is a list of moves. Turns ease in and out with a curvature that changes evenly, except where the car stands and
may steer before it rolls. Two straights of a way may be left open; they follow from where it is to end. Where the
gear changes or a rest is asked for, the car stops; in between it drives as fast as its gear, bends and steering allow,
with speeds smoothed in time so that acceleration and jerk are.

Source: Rajamani 2012, "Vehicle Dynamics and Control", section 2.2 (bicycle model); Fraichard and Scheuer 2004, "From
Reeds and Shepp's to continuous-curvature paths" (turns of two clothoids and an arc).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from perception.simulation.ego import WHEELBASE_M
from perception.simulation.traffic_actors import TRACK_STEP_S

STEERING_RAD = float(np.radians(32.0))
"""How far the front wheels turn at most."""

STEERING_RAD_S = 0.38
"""How fast they do."""

TIGHTEST_PER_M = float(np.tan(STEERING_RAD)) / WHEELBASE_M

_SHARPNESS_PER_M2 = 0.14
_ACROSS_M_S2 = 0.7
_ALONG_M_S2 = 0.6
_SMOOTHING_S = 0.9
_LEAST_REST_S = 0.25
_STEP_M, _FINE_S = 0.01, 0.01
_OVERSHOOT = 0.85  # smoothing blurs where the speed is low, so that it is chosen lower


@dataclass(frozen=True)
class Straight:
    """A way straight on, or back: `gear` is 1 or -1; a length of None is to be found by `solved`."""

    gear: int
    length_m: float | None = None


@dataclass(frozen=True)
class Turn:
    """A turn.

    Attributes:
        gear: 1 forward, -1 back.
        angle_rad: change of the heading, to the left.
        curvature_per_m: of its tightest part, above 0.
        eased: whether the wheels are straight where it begins, and where it ends.
    """

    gear: int
    angle_rad: float
    curvature_per_m: float = 0.97 * TIGHTEST_PER_M
    eased: tuple[bool, bool] = (True, True)


@dataclass(frozen=True)
class Rest:
    """A stop for some time; `parked` where the car stands in its place then."""

    seconds: float
    parked: bool = True


Move = Straight | Turn | Rest


class Leg(NamedTuple):
    """A way between two stops; rows are `_STEP_M` apart or a little less.

    Attributes:
        gear: 1 forward, -1 back.
        stations_m: (K,) way travelled since its start.
        poses: (K, 3) x, y and heading of the rear axle.
        steering_rad: (K,) turn of the front wheels to the left.
    """

    gear: int
    stations_m: np.ndarray
    poses: np.ndarray
    steering_rad: np.ndarray


class Timeline(NamedTuple):
    """Where a car is at multiples of `TRACK_STEP_S`.

    Attributes:
        poses: (K, 3) x, y and heading of the rear axle.
        parked: (N, 2) seconds at which it comes to rest in each of its places, and at which it leaves it.
    """

    poses: np.ndarray
    parked: np.ndarray


def _pieces(move: Straight | Turn) -> np.ndarray:
    """(N, 3) length, and curvature (positive where the wheels are turned to the left) at start and end of each part."""
    if isinstance(move, Straight):
        assert move.length_m is not None, "open straights are solved first"
        return np.array([[move.length_m, 0.0, 0.0]])
    eases = sum(move.eased)
    angle, peak = abs(move.angle_rad), move.curvature_per_m
    if eases:
        peak = min(peak, float(np.sqrt(2 * angle * _SHARPNESS_PER_M2 / eases)))  # without an arc where it is slight
    ramp_m = peak / _SHARPNESS_PER_M2
    arc_m = angle / peak - eases * ramp_m / 2
    wheel = peak * move.gear * np.sign(move.angle_rad)
    before, after = move.eased
    rows = [[ramp_m, 0.0, wheel]] * before + [[arc_m, wheel, wheel]] + [[ramp_m, wheel, 0.0]] * after
    return np.array(rows)


def _leg(start: np.ndarray, moves: Sequence[Straight | Turn]) -> Leg:
    """The way along moves of one gear from a pose (3,)."""
    gear = moves[0].gear
    pieces = np.concatenate([_pieces(move) for move in moves])
    pieces = pieces[pieces[:, 0] > 1e-9]
    if not len(pieces):
        return Leg(gear, np.zeros(1), start[None], np.zeros(1))
    ends = np.cumsum(pieces[:, 0])
    stations = np.linspace(0, ends[-1], int(np.ceil(ends[-1] / _STEP_M)) + 1)  # (K,)
    of_piece = np.minimum(np.searchsorted(ends, stations), len(pieces) - 1)
    length, first, last = pieces[of_piece].T
    share = 1 - (ends[of_piece] - stations) / length
    curvature = first + share * (last - first)  # (K,)
    step = np.diff(stations)
    turned = gear * np.append(0.0, np.cumsum((curvature[:-1] + curvature[1:]) / 2 * step))
    heading = start[2] + turned
    middle = (heading[:-1] + heading[1:]) / 2
    along = gear * np.stack((np.cos(middle), np.sin(middle)), axis=1) * step[:, None]
    places = start[:2] + np.concatenate((np.zeros((1, 2)), np.cumsum(along, axis=0)))  # (K, 2)
    return Leg(gear, stations, np.column_stack((places, heading)), np.arctan(WHEELBASE_M * curvature))


def solved(start: np.ndarray, moves: Sequence[Move], goal: Sequence[float]) -> list[Move] | None:
    """Finds the open straights of a way.

    Args:
        start: (3,) pose that it begins at.
        moves: the way, with as many open straights as `goal` has numbers.
        goal: x and y where it ends; NaN for what does not matter.

    Returns:
        The way with all lengths, or None where one would be negative or does not exist.
    """
    place, heading = np.array(start[:2], dtype=np.float64), float(start[2])
    columns = []
    for move in moves:
        if isinstance(move, Rest):
            continue
        if isinstance(move, Straight) and move.length_m is None:
            columns.append(move.gear * np.array([np.cos(heading), np.sin(heading)]))
            continue
        end = _leg(np.append(place, heading), [move]).poses[-1]
        place, heading = end[:2], float(end[2])
    wanted = np.asarray(goal, dtype=np.float64)
    rows = ~np.isnan(wanted)
    matrix = np.stack(columns, axis=1)[rows]
    if matrix.shape[0] != matrix.shape[1] or abs(np.linalg.det(matrix)) < 1e-6:
        return None
    lengths = np.linalg.solve(matrix, (wanted - place)[rows])
    if lengths.min() < 0:
        return None
    found = iter(lengths.tolist())
    return [
        replace(move, length_m=next(found)) if isinstance(move, Straight) and move.length_m is None else move
        for move in moves
    ]


def legs_along(start: np.ndarray, moves: Sequence[Move]) -> list[Leg | Rest]:
    """The ways between stops.

    Args:
        start: (3,) pose of the rear axle.
        moves: what it does; no straight is open.

    Returns:
        Legs with a rest between any two.
    """
    legs: list[Leg | Rest] = []
    pose = np.asarray(start, dtype=np.float64)
    run: list[Straight | Turn] = []
    for move in [*moves, Rest(0.0, False)]:
        ends = isinstance(move, Rest) or (run and move.gear != run[0].gear)
        if ends and run:
            leg = _leg(pose, run)
            if leg.stations_m[-1] > 0.02:
                legs.append(leg)
                pose = leg.poses[-1]
            run = []
        if isinstance(move, Rest):
            if (legs and isinstance(legs[-1], Leg)) or move.seconds > 0:
                legs.append(move)
            continue
        if ends and legs and isinstance(legs[-1], Leg):
            legs.append(Rest(0.0, False))
        run.append(move)
    return legs


def swept(legs: Sequence[Leg | Rest], spacing_m: float = 0.15) -> np.ndarray:
    """(K, 3) poses along legs, so far apart."""
    step = max(1, round(spacing_m / _STEP_M))
    poses = [leg.poses[np.r_[: len(leg.poses) : step, len(leg.poses) - 1]] for leg in legs if isinstance(leg, Leg)]
    return np.concatenate(poses)


def timed(legs: Sequence[Leg | Rest], forward_mps: float, back_mps: float) -> Timeline:
    """A drive along legs in time, from rest to rest.

    Args:
        legs: as `legs_along` gives them.
        forward_mps: what the speed forward does not exceed.
        back_mps: what the speed back does not exceed.

    Returns:
        Where the car is when. Between legs it rests for at least as long as its wheels take to turn.
    """
    poses: list[np.ndarray] = []
    parked = []
    count = 0
    for index, leg in enumerate(legs):
        if isinstance(leg, Leg):
            stations = _stations(leg, forward_mps if leg.gear > 0 else back_mps)
            new = np.stack([np.interp(stations, leg.stations_m, column) for column in leg.poses.T], axis=1)
        else:
            before = [other for other in legs[:index] if isinstance(other, Leg)][-1:]
            after = [other for other in legs[index:] if isinstance(other, Leg)][:1]
            turns = [abs(float(b.steering_rad[0] - a.steering_rad[-1])) for a, b in zip(before, after, strict=False)]
            seconds = max(leg.seconds, _LEAST_REST_S, *(turn / STEERING_RAD_S for turn in turns))
            still = before[0].poses[-1] if before else after[0].poses[0]
            new = np.tile(still, (int(np.ceil(seconds / TRACK_STEP_S)), 1))
            if leg.parked:
                parked.append((count * TRACK_STEP_S, (count + len(new)) * TRACK_STEP_S))
        poses.append(new)
        count += len(new)
    return Timeline(np.concatenate(poses), np.array(parked).reshape(-1, 2))


def _stations(leg: Leg, top_mps: float) -> np.ndarray:
    """(K,) way travelled at multiples of `TRACK_STEP_S`, from rest to rest."""
    s = leg.stations_m
    bend = np.abs(np.tan(leg.steering_rad)) / WHEELBASE_M
    steers = np.abs(np.gradient(leg.steering_rad, s))
    limit = np.minimum(top_mps, np.sqrt(_ACROSS_M_S2 / np.maximum(bend, 1e-3)))
    limit = np.minimum(limit, _OVERSHOOT * STEERING_RAD_S / np.maximum(steers, 1e-3))
    squared = limit**2
    squared[[0, -1]] = 0.0
    slope = 2 * _ALONG_M_S2 * s  # at even acceleration the squared speed changes evenly
    squared = np.minimum.accumulate(squared - slope) + slope
    squared = np.minimum.accumulate((squared + slope)[::-1])[::-1] - slope
    speed = np.sqrt(np.maximum(squared, 0))
    at = np.append(0.0, np.cumsum(2 * np.diff(s) / np.maximum(speed[:-1] + speed[1:], 1e-6)))
    reach = int(_SMOOTHING_S / _FINE_S / 2)
    fine = np.interp(np.arange(0, at[-1] + _FINE_S, _FINE_S), at, speed, right=0.0)
    kernel = np.hanning(2 * reach + 3)[1:-1]
    smooth = np.convolve(fine, kernel / kernel.sum())  # rests before and after
    way = np.append(0.0, np.cumsum((smooth[:-1] + smooth[1:]) / 2))
    every = round(TRACK_STEP_S / _FINE_S)
    way = np.append(way, np.full(-len(way) % every + 1, way[-1]))
    return way[::every] * (s[-1] / way[-1])
