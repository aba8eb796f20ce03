"""Where the ego drives when a scene is to show a street, or a junction; and whether it then did."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perception.simulation.ego import EGO_DRIVER, EGO_SIZE_LWH_M, MANNERS, Drive, ego_poses, inner_lanes
from perception.simulation.town.town import Town
from perception.simulation.traffic_actors import MARGIN_S, WARM_UP_S
from perception.simulation.traffic_flow import STEP_S, Vehicle
from perception.simulation.traffic_paths import SPACING_M, Route, draw_lane_ids, route_along

NEAR_JUNCTION_M = 30.0
"""From its middle: the stop lines, the crossings and the first cars of the queues."""

_TURNED_RAD = 1.1
_LEAST_DRIVE_M, _CRAWL_MPS, _COUNTRY_MPS = 12.0, 1.4, 6.5
_STREET_MPS, _JUNCTION_MPS = 6.0, 1.6
_WANTED: Mapping[Drive, float] = {"street": 0.6, "junction": 2.5}
_PART_STEPS = 5
_BESIDE_M = 14.0
_CANDIDATES = 48


def draw_ego_for(town: Town, drive: Drive, length_m: float, duration_s: float, rng: np.random.Generator) -> Vehicle:
    """The ego at the start of a drive along streets, or of one over junctions.

    Args:
        town: where it drives.
        drive: "street" or "junction".
        length_m: how far it may come.
        duration_s: length of the scene.
        rng: source of the choice.

    Returns:
        Vehicle 0; during the scene it will be where it should if nothing holds it up.

    Raises:
        ValueError: no lane lies far enough from the edges of the map.
    """
    inside = inner_lanes(town)
    starts = sorted(lane for lane in inside if town.lanes[lane].junction is None)
    if not starts:
        raise ValueError("draw_ego_for: town must have a lane away from the edges of its map, got none")
    outside = frozenset(range(len(town.lanes))) - inside
    bays = np.array([(slot.x, slot.y) for slot in town.parking_slots]).reshape(-1, 2)
    best: tuple[float, Vehicle] | None = None
    for _ in range(_CANDIDATES):
        ids = draw_lane_ids(town.lanes, int(rng.choice(starts)), length_m, rng, MANNERS[drive].turns, outside)
        route = route_along(town.lanes, ids)
        share, extra = float(rng.uniform(0.05, 0.8)), float(rng.uniform(0, 1.5))
        front = EGO_SIZE_LWH_M[0] + 1.0 + share * max(0.0, route.starts_m[1] - EGO_SIZE_LWH_M[0] - 4.0)
        score = extra - 100.0 * len(outside.intersection(ids))
        view = _View(town, route, front, duration_s)
        score += view.street_score(bays) if drive == "street" else view.junction_score()
        if best is None or score > best[0]:
            speed = 0.7 * float(route.speeds_mps[int(2 * front)])
            best = (score, Vehicle(0, route, EGO_SIZE_LWH_M[0], EGO_SIZE_LWH_M[1], EGO_DRIVER, front, speed))
    assert best is not None, "there are candidates"
    return best[1]


class _View:
    """Where the ego is during a scene, should nothing hold it up."""

    def __init__(self, town: Town, route: Route, front_m: float, duration_s: float) -> None:
        elapsed = np.cumsum(SPACING_M / np.maximum(EGO_DRIVER.pace * route.speeds_mps, 1.0))
        at_s = elapsed - elapsed[int(front_m / SPACING_M)] - WARM_UP_S - MARGIN_S  # (K,) since the scene's start
        self._duration_s = duration_s
        shown = np.flatnonzero((at_s > -0.5) & (at_s < duration_s + 0.5))[::4]
        self._weights = np.gradient(at_s[shown]) if len(shown) > 1 else np.ones(len(shown))
        self._points = route.path.points[shown]  # (S, 2)
        self._headings = np.unwrap(route.path.headings(shown * SPACING_M))
        starts = np.minimum((route.starts_m / SPACING_M).astype(int), len(at_s) - 1)
        turns = [k for k, lane in enumerate(route.lanes) if town.lanes[lane].turn in ("left", "right")]
        self._turns_s = [(float(at_s[starts[k]]), float(at_s[starts[k + 1]])) for k in turns]
        centers = np.array([junction.center for junction in town.junctions]).reshape(-1, 2)
        away = np.linalg.norm(self._points[:, None] - centers, axis=-1)  # (S, J)
        self._away_m = away.min(axis=1, initial=99.0)

    def street_score(self, bays: np.ndarray) -> float:
        """High where it drives on between parked cars, far from junctions."""
        if not len(self._points):
            return -50.0
        beside = 0
        if len(bays):
            beside = int((np.linalg.norm(bays[:, None] - self._points, axis=-1).min(axis=1) < _BESIDE_M).sum())
        far = float(np.average(np.minimum(self._away_m, 50.0), weights=self._weights)) / 50.0
        turned = sum(begin < self._duration_s and end > 0 for begin, end in self._turns_s)
        bent = float(np.ptp(self._headings))
        return 8.0 * far + 4.0 * min(beside / 16.0, 1.0) - 10.0 * turned - 6.0 * max(0.0, bent - 0.3)

    def junction_score(self) -> float:
        """High where it is near junctions all the time, and turns there."""
        if not len(self._points):
            return -50.0
        near = float(np.average(self._away_m < NEAR_JUNCTION_M, weights=self._weights))
        latest = 0.5 * self._duration_s + 6.0
        turned = sum(-3.0 < begin < latest for begin, _ in self._turns_s)
        return 8.0 * near + 6.0 * min(turned, 1) + 1.5 * min(turned, 3)


def best_part(town: Town, ego: Vehicle, times: np.ndarray, drive: Drive) -> tuple[float, float, int]:
    """Which part of a recorded drive shows best what it is to show.

    Args:
        town: where it was.
        ego: the ego after it has moved for at least as long as the scene lasts.
        times: (K,) times of the tracks.
        drive: any but "parking".

    Returns:
        What is wanted and what was reached, in numbers that can be compared for one kind of drive, and how many steps
        after the first record the best part begins.
    """
    stations = np.array([record[0] for record in ego.history])  # (T,)
    lasted_s = float(times[-1] - times[0])
    count = round(lasted_s / STEP_S) + 1
    if drive == "any":
        in_town = town.landscape == "town"
        least_m = min(_LEAST_DRIVE_M, _CRAWL_MPS * lasted_s) if in_town else _COUNTRY_MPS * lasted_s
        return least_m, float(stations[count - 1] - stations[0]), 0
    poses = ego_poses(ego.route.path, stations)
    centers = np.array([junction.center for junction in town.junctions]).reshape(-1, 2)
    away = np.linalg.norm(poses[:, None, :2] - centers, axis=-1).min(axis=1, initial=99.0)  # (T,)
    margin = round(MARGIN_S / STEP_S)
    reached = []
    for first in range(0, len(stations) - count + 1, _PART_STEPS):
        part = slice(first + margin, first + count - margin)
        pace_mps = float(stations[part][-1] - stations[part][0]) / (lasted_s - 2 * MARGIN_S)
        turned = float(np.ptp(poses[part, 3]))
        near = float((away[part] < NEAR_JUNCTION_M).mean())
        if drive == "street":
            reached.append(min(pace_mps / _STREET_MPS, 1.0) - 0.5 * turned - 0.5 * near)
        else:  # it waits, but not all the time
            reached.append(near + min(turned / _TURNED_RAD, 1.0) + min(pace_mps / _JUNCTION_MPS, 1.0))
    best = int(np.argmax(reached))
    return _WANTED[drive], reached[best], best * _PART_STEPS
