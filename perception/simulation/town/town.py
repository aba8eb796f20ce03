"""A town: its static mesh, its lanes, and the areas and lines of its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from shapely.geometry import Polygon

from perception.simulation.mesh import Mesh

Landscape = Literal["town", "rural"]
LANDSCAPES: tuple[Landscape, ...] = get_args(Landscape)

KERB_HEIGHT_M = 0.13
"""Height of walkways and plots above the road, which lies at z = 0."""


@dataclass(frozen=True, eq=False)
class Lane:
    """A directed lane, or a lane connector inside a junction; its id is its index in `Town.lanes`.

    Attributes:
        id: index in `Town.lanes`.
        centerline: (N, 2) points about 2 m apart, in driving direction.
        width_m: lane width.
        left: id of the neighbour lane of the same direction to the left, or None.
        right: id of the neighbour lane of the same direction to the right, or None.
        successors: ids of the lanes that begin where this one ends.
        predecessors: ids of the lanes that end where this one begins.
        speed_limit_mps: speed limit in m/s.
        stop_line: id of the stop line at its end, an index into `Town.stop_lines`, or None.
        junction: id of the junction that a connector crosses, an index into `Town.junctions`; None for a lane.
        turn: "straight", "left" or "right" for a connector; "" for a lane.
    """

    id: int
    centerline: np.ndarray
    width_m: float
    left: int | None
    right: int | None
    successors: tuple[int, ...]
    predecessors: tuple[int, ...]
    speed_limit_mps: float
    stop_line: int | None = None
    junction: int | None = None
    turn: str = ""


@dataclass(frozen=True, eq=False)
class StopLine:
    """Where the lanes of one approach stop.

    Attributes:
        polygon: the area of the map, which holds the painted line.
        lanes: ids of the lanes that end at it.
        kind: "TRAFFIC_LIGHT", "STOP_SIGN" or "YIELD".
        junction: index into `Town.junctions`.
        phase: 0 or 1: approaches of one phase are green together.
    """

    polygon: Polygon
    lanes: tuple[int, ...]
    kind: str
    junction: int
    phase: int


@dataclass(frozen=True, eq=False)
class Crossing:
    """A pedestrian crossing.

    Attributes:
        polygon: the painted area.
        centerline: (2, 2) from kerb to kerb.
        junction: index into `Town.junctions`.
        phase: the phase of the approach that it crosses (people walk while that one is red).
    """

    polygon: Polygon
    centerline: np.ndarray
    junction: int
    phase: int


@dataclass(frozen=True, eq=False)
class Junction:
    """Where three or four roads meet.

    Attributes:
        center: (2,) its middle.
        polygon: its area, out to the ends of the lanes.
        signals: whether traffic lights stand there.
        connectors: ids of its lane connectors.
    """

    center: np.ndarray
    polygon: Polygon
    signals: bool
    connectors: tuple[int, ...]


@dataclass(frozen=True)
class ParkingSlot:
    """A place for one car: centre and heading of the parked car, and the size of the place."""

    x: float
    y: float
    yaw_rad: float
    length_m: float
    width_m: float


@dataclass(frozen=True)
class SignalHead:
    """A traffic light's face: centre of its middle lamp, direction it faces, and the stop line it rules."""

    position_m: tuple[float, float, float]
    yaw_rad: float
    stop_line: int


@dataclass(frozen=True, eq=False)
class Divider:
    """A painted line between lanes: (N, 2) points; `kind` is "road" (opposing traffic) or "lane"."""

    line: np.ndarray
    kind: str


@dataclass(frozen=True, eq=False)
class Town:
    """A town drawn from a seed. All is in its own frame: origin at its bottom left corner, z up, roads at z = 0.

    Attributes:
        name: what it is called.
        seed: what it was drawn from.
        split: "train", "val" or "test": the range of styles it was drawn from.
        location: nuScenes map name; Boston drives on the right, Singapore on the left.
        origin_m: where its bottom left corner lies on the map of that location, which is the global frame.
        size_m: its width and height.
        mesh: the static world.
        materials: (len(MATERIALS),) table of `materials.MATERIAL_DTYPE`.
        lanes: lanes and lane connectors.
        areas: polygons by map layer: drivable_area, road_segment, road_block, walkway, carpark_area, ...
        dividers: painted lines between lanes.
        stop_lines: where approaches stop.
        crossings: pedestrian crossings.
        junctions: where roads meet.
        parking_slots: bays along roads and places of car parks.
        walkways: closed rings (N, 2) along which people walk, one around each block; no furniture stands within 0.7 m.
        signal_heads: faces of the traffic lights (unlit in the mesh).
        landscape: "town", or "rural" for country roads through fields.
    """

    name: str
    seed: int
    split: str
    location: str
    origin_m: tuple[float, float]
    size_m: tuple[float, float]
    mesh: Mesh
    materials: np.ndarray
    lanes: tuple[Lane, ...]
    areas: dict[str, list[Polygon]]
    dividers: tuple[Divider, ...]
    stop_lines: tuple[StopLine, ...]
    crossings: tuple[Crossing, ...]
    junctions: tuple[Junction, ...]
    parking_slots: tuple[ParkingSlot, ...]
    walkways: tuple[np.ndarray, ...]
    signal_heads: tuple[SignalHead, ...]
    landscape: Landscape = "town"

    @property
    def bustle(self) -> float:
        """How much traffic there is, and how many people walk, against a town's streets."""
        return {"town": 1.0, "rural": 0.15}[self.landscape]

    @property
    def drives_on_the_right(self) -> bool:
        """On which side of the road traffic keeps."""
        return self.location.startswith("boston")

    @property
    def town2global(self) -> np.ndarray:
        """(4, 4) float64 from the town's own frame into that of its location's map."""
        matrix = np.eye(4)
        matrix[:2, 3] = self.origin_m
        return matrix
