"""Which vehicles drive through the town, where they start and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perception.simulation.actors.catalogue import ActorShape, build_shape
from perception.simulation.town.town import Lane, Town
from perception.simulation.traffic_actors import TRACK_STEP_S, ActorTrack, Behaviour, axle_poses
from perception.simulation.traffic_flow import STEP_S, Driver, Vehicle, stations_at
from perception.simulation.traffic_paths import Route, draw_lane_ids, route_along

COUPLING_M = 1.05
"""Gap between a lorry and its trailer, so that their boxes stay apart when they turn."""

EDGE_M = 1.52
"""How far from the middle of a lane cyclists ride."""

_SHARES = {
    "car": 0.675, "truck": 0.075, "bus": 0.11, "road_train": 0.055, "motorcyclist": 0.07, "police_car": 0.008,
    "ambulance": 0.007,
}  # fmt: skip
_WANTED_NEAR = (
    "bus", "road_train", "truck", "motorcyclist", "cyclist", "motorcyclist", "bus", "cyclist", "cyclist",
    "motorcyclist", "cyclist",
)  # fmt: skip
_WANTED_ON_COUNTRY_ROADS = ("truck", "motorcyclist", "road_train", "cyclist")
_HEAVY: Mapping[str, float] = {"straight": 1.0, "left": 0.15, "right": 0.05}
_LIGHT: Mapping[str, float] = {"straight": 1.0, "left": 0.4, "right": 0.5}
_CYCLE: Mapping[str, float] = {"straight": 1.0, "left": 0.02, "right": 0.02}
_NEAR_M = 52.0
_FAR_M = 150.0


@dataclass(frozen=True, eq=False)
class Train:
    """A vehicle with the shapes it is made of, from front to rear (a lorry and its trailer, or one alone)."""

    vehicle: Vehicle
    shapes: tuple[ActorShape, ...]


class _Placing:
    """Vehicles put onto lanes one by one, with room between them."""

    def __init__(self, town: Town, length_m: float, closed: frozenset[int], rng: np.random.Generator) -> None:
        self.town, self.rng = town, rng
        self.trains: list[Train] = []
        self._length_m = length_m
        self._closed = closed
        self._taken: dict[tuple[int, bool], list[tuple[float, float]]] = {}
        self._near_side = "right" if town.drives_on_the_right else "left"

    def occupy(self, vehicle: Vehicle, free_ahead: float) -> None:
        """Keeps others away from a vehicle placed before, and as often as given from the lane ahead of it too."""
        rear, first = vehicle.front_m - vehicle.length_m, vehicle.route.lanes[0]
        front = vehicle.route.starts_m[1] if self.rng.random() < free_ahead else vehicle.front_m + 10.0
        self._taken.setdefault((first, False), []).append((rear, float(front)))

    def put(self, kind: str, lane: Lane, share: float) -> bool:
        """Puts a vehicle of a kind on a lane, at a share of its length; False where there is no room."""
        length = _lane_length(lane)
        edge = kind == "cyclist"
        if edge and (lane.right if self._near_side == "right" else lane.left) is not None:
            return False
        taken = self._taken.setdefault((lane.id, edge), [])
        if any(low - 7.0 < share * length < high + 7.0 for low, high in taken):
            return False
        kinds = ("truck", "drawbar_trailer") if kind == "road_train" else (kind,)
        shapes = tuple(build_shape(part, self.rng) for part in kinds)
        total = sum(float(shape.size_lwh_m[0]) for shape in shapes) + COUPLING_M * (len(shapes) - 1)
        front = total + 1.0 + share * (length - total - 6.0)
        if length < total + 8.0 or any(front > low - 7.0 and front - total < high + 7.0 for low, high in taken):
            return False
        width = max(float(shape.size_lwh_m[1]) for shape in shapes)
        route = self._route(kind, lane, width)
        if self._closed.intersection(route.lanes):
            return False
        taken.append((front - total, front))
        speed = 0.7 * float(route.speeds_mps[int(2 * front)])
        vehicle = Vehicle(len(self.trains) + 1, route, total, width, self._driver(kind), front, speed, edge)
        self.trains.append(Train(vehicle, shapes))
        return True

    def _route(self, kind: str, lane: Lane, width: float) -> Route:
        turns = _CYCLE if kind == "cyclist" else _HEAVY if width > 2.3 else _LIGHT
        ids = draw_lane_ids(self.town.lanes, lane.id, self._length_m, self.rng, turns, self._closed)
        if kind != "cyclist":
            return route_along(self.town.lanes, ids)
        side = -EDGE_M if self._near_side == "right" else EDGE_M
        return route_along(self.town.lanes, ids, side, float(self.rng.uniform(4.0, 6.5)))

    def _driver(self, kind: str) -> Driver:
        pace = float(np.clip(self.rng.normal(0.97, 0.07), 0.8, 1.1))
        if kind in ("truck", "bus", "road_train"):
            return Driver(acceleration=0.9, braking=1.5, headway_s=1.7, gap_m=2.8, pace=min(pace, 0.98))
        return Driver(headway_s=float(self.rng.uniform(1.0, 1.6)), pace=pace)


def draw_vehicles(
    town: Town,
    seen: np.ndarray,
    ego: tuple[Vehicle, float] | None,
    length_m: float,
    closed: frozenset[int],
    rng: np.random.Generator,
) -> list[Train]:
    """Vehicles on the lanes around the ego's way, dense near it.

    Args:
        town: where they drive.
        seen: (S, 2) points of the ego's way.
        ego: vehicle 0, which stands on its first lane, and how often the lane ahead of it is free; None where it does
            not drive with the others.
        length_m: how far each may come.
        closed: lanes shut by road works, or by the ego.
        rng: source of kinds, places and routes.

    Returns:
        Vehicles with ids from 1.
    """
    placing = _Placing(town, length_m, closed, rng)
    if ego is not None:
        placing.occupy(*ego)
    lanes = [lane for lane in town.lanes if lane.junction is None]
    distance = np.array([np.linalg.norm(lane.centerline[:, None] - seen, axis=-1).min() for lane in lanes])
    near = [lane for lane, away in zip(lanes, distance, strict=True) if away < _NEAR_M]
    wanted = _WANTED_NEAR if town.landscape == "town" else _WANTED_ON_COUNTRY_ROADS
    for kind in wanted if near else ():
        any(placing.put(kind, near[int(rng.integers(len(near)))], float(rng.random())) for _ in range(8))
    for lane, away in zip(lanes, distance, strict=True):
        if away > _FAR_M:
            continue
        spacing = (12.0 if away < _NEAR_M else 36.0) / town.bustle
        for _ in range(int(rng.poisson(_lane_length(lane) / spacing))):
            placing.put(str(rng.choice(list(_SHARES), p=list(_SHARES.values()))), lane, float(rng.random()))
        if rng.random() < 0.35 * town.bustle:
            placing.put("cyclist", lane, float(rng.random()))
    return placing.trains


def train_tracks(train: Train) -> list[ActorTrack]:
    """The tracks of a vehicle's parts after its drive.

    Args:
        train: a vehicle whose history covers the times of tracks.

    Returns:
        One track per shape.
    """
    front = stations_at(train.vehicle.history, round(STEP_S / TRACK_STEP_S))
    ridden = train.shapes[0].category in ("vehicle.bicycle", "vehicle.motorcycle")
    tracks = []
    for shape in train.shapes:
        length = float(shape.size_lwh_m[0])
        poses = axle_poses(train.vehicle.route.path, front, length)
        tracks.append(ActorTrack(shape, Behaviour.RIDDEN if ridden else Behaviour.DRIVEN, poses, priority=50))
        front = front - length - COUPLING_M
    return tracks


def _lane_length(lane: Lane) -> float:
    return float(np.linalg.norm(np.diff(lane.centerline, axis=0), axis=1).sum())
