"""The plan of a town: every area and line of its map in two dimensions, before anything is built on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from shapely import affinity
from shapely.geometry import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import polygonize, unary_union

from perception.simulation.town import curves
from perception.simulation.town.approaches import (
    CORNER_RADIUS_M,
    Approach,
    draw_approaches,
    draw_country_approaches,
    road_middles,
)
from perception.simulation.town.blocks import SIDEWALK_M, Block, country_blocks, polygons, town_blocks, without_holes
from perception.simulation.town.country_network import draw_country_network
from perception.simulation.town.lanes import LaneGraph, lane_graph, slow_at_junctions
from perception.simulation.town.network import LANE_WIDTH_M, Network, draw_network
from perception.simulation.town.parking import Bays, CarPark, draw_bays, draw_car_park, draw_lay_bys, mouth_line
from perception.simulation.town.town import Crossing, Divider, Junction, Landscape, Lane, ParkingSlot, StopLine

WALKING_LINE_M = 2.0
"""Distance of the line along which people walk from the kerb."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that a town has in two dimensions; attributes as in `Town`, and what building needs besides.

    Attributes:
        landscape: "town" or "rural".
        side: 1 where traffic keeps to the right, -1 where it keeps to the left.
        approaches: how the roads meet; in the same order as the ends of the roads.
        blocks: the land between and around the roads.
        car_parks: car parks inside blocks.
    """

    landscape: Landscape
    size_m: tuple[float, float]
    side: int
    lanes: tuple[Lane, ...]
    areas: dict[str, list[Polygon]]
    dividers: tuple[Divider, ...]
    stop_lines: tuple[StopLine, ...]
    crossings: tuple[Crossing, ...]
    junctions: tuple[Junction, ...]
    parking_slots: tuple[ParkingSlot, ...]
    walkways: tuple[np.ndarray, ...]
    approaches: tuple[Approach, ...]
    blocks: tuple[Block, ...]
    car_parks: tuple[CarPark, ...]


def _road_surface(network: Network) -> Polygon:
    """The area between kerbs, corners rounded, bays and driveways left out."""
    strips = [curves.strip(road.line, road.half_width_m, -road.half_width_m) for road in network.roads]
    joined = unary_union([strip.buffer(0.02, join_style="mitre") for strip in strips]).buffer(-0.02, join_style="mitre")
    widened = joined.buffer(CORNER_RADIUS_M, join_style="mitre")
    return widened.buffer(-CORNER_RADIUS_M, quad_segs=6).simplify(0.01)


def _faces(
    drivable: Polygon, network: Network, middles: Sequence[np.ndarray], car_parks: Sequence[CarPark]
) -> list[Polygon]:
    """The drivable area cut into roads, junctions and car parks, none of which has a hole.

    The cuts across roads have a corner wherever a lane ends, so that areas which meet there share their nodes.
    """
    cuts = [mouth_line(park) for park in car_parks]
    for road, middle in zip(network.roads, middles, strict=True):
        edges = LANE_WIDTH_M * np.arange(-road.lanes, road.lanes + 1)
        offsets = [-road.half_width_m - 2.0, *edges, road.half_width_m + 2.0]
        sides = np.array([curves.shifted(middle, offset) for offset in offsets])  # (offsets, N, 2)
        cuts += [LineString(sides[:, end]) for end in (0, -1)]
    faces = polygonize(unary_union([drivable.boundary, *cuts]))
    return [face for face in faces if drivable.contains(face.representative_point())]


def _stop_lines_and_crossings(
    approaches: Sequence[Approach], graph: LaneGraph
) -> tuple[list[StopLine], list[Crossing], dict[int, int]]:
    """Stop lines, crossings, and the stop line at the end of each lane."""
    stops: list[StopLine] = []
    crossings: list[Crossing] = []
    stop_of = {}
    for i, approach in enumerate(approaches):
        if approach.crossing:
            line, area = approach.crossing_line(), approach.crossing_polygon()
            crossings.append(Crossing(area, line, approach.junction, approach.phase))
        if approach.control:
            lanes = tuple(graph.arriving[i])
            stop_of.update(dict.fromkeys(lanes, len(stops)))
            stops.append(StopLine(approach.stop_polygon(), lanes, approach.control, approach.junction, approach.phase))
    return stops, crossings, stop_of


def _dividers(network: Network, middles: Sequence[np.ndarray]) -> list[Divider]:
    """Lines between lanes, from stop line to stop line."""
    dividers = []
    for road, middle in zip(network.roads, middles, strict=True):
        dividers.append(Divider(middle, "road"))
        if road.lanes > 1:
            dividers += [Divider(curves.shifted(middle, sign * LANE_WIDTH_M), "lane") for sign in (1, -1)]
    return dividers


def _lane_areas(network: Network, lanes: Sequence[Lane], middles: Sequence[np.ndarray]) -> dict[str, list[Polygon]]:
    """Polygons of the lanes in their order, of the connectors, and of the two directions of each road."""
    half, step = LANE_WIDTH_M / 2, LANE_WIDTH_M
    areas: dict[str, list[Polygon]] = {"lane": [], "road_block": []}
    for road, middle in zip(network.roads, middles, strict=True):
        areas["lane"] += [curves.strip(middle, -k * step, -(k + 1) * step) for k in range(road.lanes)]
        areas["lane"] += [curves.strip(middle, (k + 1) * step, k * step) for k in range(road.lanes)]
        width = road.lanes * step
        areas["road_block"] += [curves.strip(middle, 0.0, -width), curves.strip(middle, width, 0.0)]
    connectors = [lane.centerline for lane in lanes if lane.junction is not None]
    return areas | {"lane_connector": [curves.strip(line, half, -half) for line in connectors]}


def _rings(surface: Polygon) -> list[np.ndarray]:
    """Closed lines along which people walk."""
    lines = [Polygon(ring).buffer(-WALKING_LINE_M).exterior for ring in surface.interiors]
    lines.append(Polygon(surface.exterior).buffer(WALKING_LINE_M).exterior)
    return [curves.resampled(np.array(line.simplify(0.05).coords), 2.0)[:-1] for line in lines]


def _walkways(blocks: Sequence[Block]) -> list[Polygon]:
    """Walkways without holes, cut where lines through the middle of their block meet them."""
    walkways = [block.walkway for block in blocks if not block.walkway.is_empty]
    parts = [without_holes(walkway, np.array(walkway.envelope.centroid.coords[0])) for walkway in walkways]
    return [part for of_block in parts for part in of_block] + [p for block in blocks for p in polygons(block.paths)]


def _junctions(
    network: Network, approaches: Sequence[Approach], faces: Sequence[Polygon], graph: LaneGraph
) -> list[Junction]:
    """The junctions with the face of the drivable area that each lies on."""
    junctions = []
    for index, center in enumerate(network.centers):
        (face,) = (face for face in faces if face.contains(Point(center)))
        signals = any(a.control == "TRAFFIC_LIGHT" for a in approaches if a.junction == index)
        connectors = tuple(lane.id for lane in graph.lanes if lane.junction == index)
        junctions.append(Junction(center, face, signals, connectors))
    return junctions


def _roads(seed: int, landscape: Landscape) -> tuple[np.random.Generator, Network, list[Approach], list[Bays]]:
    """The roads of a landscape, and where the randomness of the rest comes from."""
    if landscape == "rural":
        rng = np.random.default_rng([seed, 6])
        network = draw_country_network(rng)
        approaches = draw_country_approaches(rng, network)
        return rng, network, approaches, draw_lay_bys(rng, network, approaches)
    rng = np.random.default_rng([seed, 1])
    network = draw_network(rng)
    approaches = draw_approaches(rng, network)
    return rng, network, approaches, draw_bays(rng, network, approaches)


def draw_plan(seed: int, drives_on_the_right: bool = True, landscape: Landscape = "town") -> Plan:
    """Draws the plan of a town.

    Args:
        seed: the town's seed.
        drives_on_the_right: the side of traffic; the other side is the mirror image.
        landscape: "town", or "rural" for country roads through fields.

    Returns:
        The plan.
    """
    rural = landscape == "rural"
    rng, network, approaches, bays = _roads(seed, landscape)
    graph = lane_graph(network, approaches)
    if rural:
        slow_at_junctions(graph, approaches)
    surface = unary_union([_road_surface(network), *(row.polygon for row in bays)]).simplify(0.012)
    inner = sorted((Polygon(ring).buffer(-SIDEWALK_M) for ring in surface.interiors), key=lambda land: -land.area)
    drawn = [draw_car_park(rng, network, approaches, land, bays) for land in inner[: 1 if rural else 3]]
    car_parks = [park for park in drawn if park is not None]
    drivable = unary_union([surface, *(shape for park in car_parks for shape in (park.polygon, park.driveway))])
    middles = road_middles(network, approaches)
    faces = _faces(drivable, network, middles, car_parks)
    stops, crossings, stop_of = _stop_lines_and_crossings(approaches, graph)
    dividers = _dividers(network, middles)
    if rural:
        blocks = country_blocks(surface, car_parks, [crossing.centerline for crossing in crossings], network.size_m)
        dividers += [Divider(row.kerb[1:-1], "lane") for row in bays]
    else:
        blocks = town_blocks(rng, surface, car_parks, network.size_m)
    areas = _lane_areas(network, graph.lanes, middles) | {
        "drivable_area": faces,
        "road_segment": [face for face in faces if not any(park.polygon.intersects(face) for park in car_parks)],
        "walkway": _walkways(blocks),
        "ped_crossing": [crossing.polygon for crossing in crossings],
        "stop_line": [stop.polygon for stop in stops],
        "carpark_area": [row.polygon for row in bays] + [park.polygon for park in car_parks],
    }
    places = [row.slots for row in bays] + [park.slots for park in car_parks]
    plan = Plan(
        landscape=landscape,
        size_m=network.size_m,
        side=1,
        lanes=tuple(replace(lane, stop_line=stop_of.get(lane.id)) for lane in graph.lanes),
        areas=areas,
        dividers=tuple(dividers),
        stop_lines=tuple(stops),
        crossings=tuple(crossings),
        junctions=tuple(_junctions(network, approaches, faces, graph)),
        parking_slots=tuple(slot for slots in places for slot in slots),
        walkways=tuple(_rings(surface)),
        approaches=tuple(approaches),
        blocks=tuple(blocks),
        car_parks=tuple(car_parks),
    )
    return plan if drives_on_the_right else mirrored(plan)


def mirrored(plan: Plan) -> Plan:
    """The plan as a mirror along the y axis shows it: traffic on the other side.

    Args:
        plan: a plan.

    Returns:
        Its mirror image, on a map of the same size.
    """
    width = plan.size_m[0]

    def line(points: np.ndarray) -> np.ndarray:
        """Mirrored points."""
        return np.array([width, 0.0]) + points * [-1.0, 1.0]

    def area(shape: BaseGeometry) -> BaseGeometry:
        """A mirrored shape."""
        return affinity.affine_transform(shape, [-1, 0, 0, 1, width, 0])

    def slot(place: ParkingSlot) -> ParkingSlot:
        """A mirrored place."""
        return replace(place, x=width - place.x, yaw_rad=np.pi - place.yaw_rad)

    def park(it: CarPark) -> CarPark:
        """A mirrored car park."""
        # The frame's y axis must still point away from the road, so x turns round.
        frame = (width - it.frame[0], it.frame[1], -it.frame[2])
        slots = tuple(slot(place) for place in it.slots)
        return CarPark(area(it.polygon), area(it.driveway), line(it.mouth), slots, frame, it.size_m)

    turns = {"left": "right", "right": "left"}
    return Plan(
        landscape=plan.landscape,
        size_m=plan.size_m,
        side=-plan.side,
        lanes=tuple(
            replace(
                lane,
                centerline=line(lane.centerline),
                left=lane.right,
                right=lane.left,
                turn=turns.get(lane.turn, lane.turn),
            )
            for lane in plan.lanes
        ),
        areas={layer: [area(shape) for shape in shapes] for layer, shapes in plan.areas.items()},
        dividers=tuple(replace(divider, line=line(divider.line)) for divider in plan.dividers),
        stop_lines=tuple(replace(stop, polygon=area(stop.polygon)) for stop in plan.stop_lines),
        crossings=tuple(replace(it, polygon=area(it.polygon), centerline=line(it.centerline)) for it in plan.crossings),
        junctions=tuple(replace(it, polygon=area(it.polygon), center=line(it.center)) for it in plan.junctions),
        parking_slots=tuple(slot(place) for place in plan.parking_slots),
        walkways=tuple(line(ring) for ring in plan.walkways),
        approaches=tuple(replace(approach, line=line(approach.line)) for approach in plan.approaches),
        blocks=tuple(
            Block(area(it.land), area(it.walkway), area(it.plots), it.kind, area(it.paths)) for it in plan.blocks
        ),
        car_parks=tuple(park(it) for it in plan.car_parks),
    )
