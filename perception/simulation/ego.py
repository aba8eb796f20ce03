"""The ego vehicle: where it drives, how, and the pose of its rear axle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from perception.simulation.town.town import Town
from perception.simulation.traffic_flow import Driver, Vehicle
from perception.simulation.traffic_paths import SPACING_M, Path, Route, draw_lane_ids, route_along

Drive = Literal["any", "street", "junction", "parking"]
"""What a scene is about: driving along with the flow, turning at junctions, parking; or whatever comes."""

DRIVES: tuple[Drive, ...] = get_args(Drive)

EGO_SIZE_LWH_M = (4.084, 1.73, 1.562)
FRONT_TO_REAR_AXLE_M = 3.427
"""From the front bumper back to the rear axle, the origin of the ego frame."""

WHEELBASE_M = 2.588
"""From the rear axle to the front axle."""

EGO_CENTRE_M = FRONT_TO_REAR_AXLE_M - EGO_SIZE_LWH_M[0] / 2
"""From the rear axle forward to the middle of the car."""

BORDER_M = 60.0
"""Least distance of the ego from the edges of the map; map tools crop a window around it."""

EGO_DRIVER = Driver(acceleration=1.4, braking=1.6, headway_s=1.6, gap_m=3.0, pace=0.95, hardest_braking=2.8, jerk=4.0)


@dataclass(frozen=True)
class Manner:
    """What the scenes of a kind of drive have in common.

    Attributes:
        turns: how much each turn is liked.
        green: share of the traffic lights that are green when the ego arrives.
        wait_s: how long the others take to turn green then.
        free_ahead: how often nobody drives between the ego and the end of its first lane.
        crossed: shares of the crossings that people use, on the ego's way and elsewhere.
        spare_s: how much longer than the scene the traffic runs; the scene is the part of it that fits best.
        attempts: how often the traffic is drawn until the ego drives as it should.
    """

    turns: Mapping[str, float]
    green: float
    wait_s: tuple[float, float]
    free_ahead: float
    crossed: tuple[float, float]
    spare_s: float
    attempts: int


MANNERS: Mapping[Drive, Manner] = {
    "any": Manner({"straight": 1.0, "left": 0.8, "right": 0.8}, 0.75, (3.0, 8.0), 0.65, (0.4, 0.7), 0.0, 3),
    "street": Manner({"straight": 1.0, "left": 0.01, "right": 0.01}, 1.0, (3.0, 8.0), 0.65, (0.25, 0.7), 12.0, 3),
    "junction": Manner({"straight": 0.1, "left": 1.0, "right": 1.0}, 0.6, (1.0, 4.0), 0.9, (0.35, 0.8), 36.0, 4),
}

_CANDIDATES = 14


def draw_ego(town: Town, length_m: float, rng: np.random.Generator) -> Vehicle:
    """The ego at the start of its drive, on a route along which something is to be seen.

    Args:
        town: where it drives.
        length_m: how far it may come.
        rng: source of the choice.

    Returns:
        Vehicle 0.

    Raises:
        ValueError: no lane lies far enough from the edges of the map.
    """
    inside = inner_lanes(town)
    starts = [lane.id for lane in town.lanes if lane.id in inside and lane.junction is None]
    if not starts:
        raise ValueError(f"draw_ego: town must have a lane {BORDER_M:g} m inside its map, got none")
    outside = frozenset(range(len(town.lanes))) - inside
    bays = np.array([(slot.x, slot.y) for slot in town.parking_slots]).reshape(-1, 2)
    best: tuple[float, Route] | None = None
    for _ in range(_CANDIDATES):
        ids = draw_lane_ids(town.lanes, int(rng.choice(starts)), length_m, rng, MANNERS["any"].turns, outside)
        route = route_along(town.lanes, ids)
        score = _interest(town, route, bays) + float(rng.uniform(0, 5))
        if inside.issuperset(ids) and (best is None or score > best[0]):
            best = (score, route)
    if best is None:
        raise ValueError("draw_ego: town must have a route away from the edges of its map, got none")
    route = best[1]
    front = EGO_SIZE_LWH_M[0] + float(rng.uniform(1.0, 0.4 * route.starts_m[1]))
    speed = 0.7 * float(route.speeds_mps[int(2 * front)])
    return Vehicle(0, route, EGO_SIZE_LWH_M[0], EGO_SIZE_LWH_M[1], EGO_DRIVER, front, speed)


def inner_lanes(town: Town) -> set[int]:
    """Ids of the lanes and connectors that the ego may use: those away from the edges of the map."""
    size = np.array(town.size_m)
    return {
        lane.id
        for lane in town.lanes
        if lane.centerline.min() >= BORDER_M and (size - lane.centerline).min() >= BORDER_M
    }


def expected_view(route: Route) -> np.ndarray:
    """(S, 2) points 4 m apart where the ego will about be during a scene, should nothing hold it up."""
    elapsed_s = np.cumsum(SPACING_M / np.maximum(EGO_DRIVER.pace * route.speeds_mps, 1.0))
    return route.path.points[(elapsed_s > 12.0) & (elapsed_s < 30.0)][::8]


def _interest(town: Town, route: Route, bays: np.ndarray) -> float:
    """How much there is to see where the ego will be during the scene: places to park beside it, and turns."""
    seen = expected_view(route)
    beside = 0
    if len(bays):
        beside = int((np.linalg.norm(bays[:, None] - seen, axis=-1).min(axis=1) < 14).sum())
    turns = sum(town.lanes[i].turn in ("left", "right") for i in route.lanes[:5])
    return min(beside, 16) + 4.0 * min(turns, 2)


def ego_poses(path: Path, front_m: np.ndarray) -> np.ndarray:
    """Poses of the rear axle, which follows the path without slipping sideways.

    Args:
        path: where the ego drives.
        front_m: (K,) stations of its front.

    Returns:
        (K, 4) x, y, z (0: the axle is projected onto the ground) and yaw, unwrapped.
    """
    axle = front_m - FRONT_TO_REAR_AXLE_M
    return np.column_stack((path.positions(axle), np.zeros(len(axle)), np.unwrap(path.headings(axle))))


def ego_rectangles(poses: np.ndarray) -> np.ndarray:
    """(K, 3) x, y and yaw of the middle of the ego's box from its poses (K, 4)."""
    ahead = np.stack((np.cos(poses[:, 3]), np.sin(poses[:, 3])), axis=1)
    return np.column_stack((poses[:, :2] + EGO_CENTRE_M * ahead, poses[:, 3]))
