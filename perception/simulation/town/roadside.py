"""What stands on the verges of country roads: delineator posts, signs, guard rails, poles of a power line."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from shapely import contains_xy, prepare
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from perception.geometry.headings import headings
from perception.simulation.mesh import Mesh, cuboid, cylinder, merge, paint, placed, quads, tube, wall
from perception.simulation.town import curves, furniture
from perception.simulation.town.approaches import CROSSING_M
from perception.simulation.town.network import GUTTER_M, LANE_WIDTH_M
from perception.simulation.town.plan import Plan
from perception.simulation.town.surfaces import PLOT_Z_M
from perception.simulation.town.town import KERB_HEIGHT_M

_EDGE_M = LANE_WIDTH_M + GUTTER_M
_POST_M = 0.75
"""Distance of posts, rails and signs from the edge of the road."""

_POSTS_APART_M = 33.0
_SHARP_M = 90.0
"""Bends tighter than this have a guard rail outside and a sign before them."""

_POLES_APART_M = 37.0
_VERGE_Z_M = KERB_HEIGHT_M - 0.05


def _delineator() -> Mesh:
    """A white post with a dark band and a reflector towards -x."""
    body, band = cuboid((0.1, 0.13, 1.04), paint("trim_light"), (0, 0, 0.52)), paint("plastic_black")
    sleeve = wall(np.array([[-0.055, -0.07], [0.055, -0.07], [0.055, 0.07], [-0.055, 0.07]]), (0.72, 0.93), band)
    corners = np.array([[[-0.06, y, z] for y, z in ((0.03, 0.75), (-0.03, 0.75), (-0.03, 0.9), (0.03, 0.9))]])
    return merge([body, sleeve, quads(corners, paint("reflective_white"))])


def _pole() -> Mesh:
    """A wooden pole with its cross-arm along x and three insulators."""
    wood = paint("bark")
    arm = cuboid((2.2, 0.1, 0.12), paint("wood"), (0, 0.12, 8.1))
    knobs = [cylinder(0.05, (8.16, 8.34), paint("trim_light"), 5) for _ in range(3)]
    places = [placed(knob, (x, 0.12, 0.0)) for knob, x in zip(knobs, (-1.0, 0.35, 1.0), strict=True)]
    return merge([tube((0, 0, 0), (0, 0, 8.9), (0.15, 0.1), wood, 6), arm, *places])


def _guard_rail(line: np.ndarray) -> Mesh:
    """A steel rail on posts along a line, its ends lowered."""
    steel = paint("steel")
    points = curves.resampled(line, 4.0)
    heights = np.full(len(points), 0.62)
    heights[[0, -1]] = 0.12
    meshes = []
    for (start, low), (end, high) in pairwise(zip(points, heights, strict=True)):
        meshes.append(tube((*start, _VERGE_Z_M + low), (*end, _VERGE_Z_M + high), (0.16, 0.16), steel, 4))
    posts = [placed(cuboid((0.1, 0.1, 0.75), steel), (x, y, _VERGE_Z_M + 0.3)) for x, y in points[1:-1]]
    return merge(meshes + posts)


def _bends(line: np.ndarray) -> list[tuple[float, float, int]]:
    """Where a road bends sharply: first and last station, and 1 where it turns left, -1 where it turns right."""
    heading = np.unwrap(headings(curves.directions(line)))
    stations = curves.stations(line)
    bend = np.convolve(np.gradient(heading, stations), np.full(9, 1 / 9), mode="same")
    found = []
    for turn in (1, -1):
        sharp = np.flatnonzero(turn * bend > 1 / _SHARP_M)
        runs = np.split(sharp, np.flatnonzero(np.diff(sharp) > 8) + 1) if len(sharp) else []
        found += [(float(stations[run[0]]), float(stations[run[-1]]), turn) for run in runs if len(run) > 8]
    return found


class _Verge:
    """Puts things beside a road where nothing is in the way."""

    def __init__(self, line: np.ndarray, keep_out: BaseGeometry) -> None:
        self.line, self.meshes = line, list[Mesh]()
        self._keep_out = keep_out

    def free(self, station_m: float, offset_m: float) -> bool:
        """Whether a place `offset_m` left of the road's middle may be used."""
        x, y, _ = curves.pose_at(self.line, station_m, offset_m)
        return not contains_xy(self._keep_out, x, y)

    def put(self, mesh: Mesh, station_m: float, offset_m: float, yaw_rad: float, z_m: float = _VERGE_Z_M) -> None:
        """Places a mesh, turned against the road's direction, if the place is free."""
        x, y, heading = curves.pose_at(self.line, station_m, offset_m)
        if not contains_xy(self._keep_out, x, y):
            self.meshes.append(placed(mesh, (x, y, z_m), heading + yaw_rad))


def _along(rng: np.random.Generator, verge: _Verge, side: int, poles: bool) -> None:
    """Furnishes the verges of one road; `side` is that of traffic."""
    line, total, post = verge.line, curves.length(verge.line), _delineator()
    edge = _EDGE_M + _POST_M
    bends = _bends(line)
    for start, end, turn in bends:
        stations = np.arange(max(start - 6.0, 2.0), min(end + 6.0, total - 2.0), 4.0)
        clear = all(verge.free(station, -turn * edge) for station in stations)
        if clear and len(stations) > 5:
            part = curves.shifted(curves.cut(line, stations[0], stations[-1], 4.0), -turn * edge)
            verge.meshes.append(_guard_rail(part))
        for ahead, station in ((1, start - 45.0), (-1, end + 45.0)):
            if 5.0 < station < total - 5.0:
                verge.put(furniture.sign_post("crossing"), station, -ahead * side * (edge + 0.1), -ahead * np.pi / 2)
    for station in np.arange(8.0, total - 8.0, _POSTS_APART_M):
        for across in (1, -1):
            behind_rail = any(a - 8 < station < b + 8 and across == -turn for a, b, turn in bends)
            if not behind_rail:
                verge.put(post, station, across * edge, 0.0 if across * side < 0 else np.pi)
    for ahead, station in ((1, 28.0), (-1, total - 28.0)):
        if total > 100.0:
            sign = furniture.sign_post("limit" if rng.random() < 0.7 else "ban")
            verge.put(sign, station, -ahead * side * (edge + 0.1), -ahead * np.pi / 2)
    across = int(rng.choice([1, -1]))
    for station in np.arange(rng.uniform(5, 25), total - 5.0, _POLES_APART_M) if poles else ():
        verge.put(_pole(), station, across * (_EDGE_M + 3.9), np.pi / 2, PLOT_Z_M)


def _at_junctions(plan: Plan) -> list[Mesh]:
    """Signs at the ends of roads: to stop, to give way, where people cross, and where the roads lead."""
    meshes = []
    for k, approach in enumerate(plan.approaches):
        lateral = plan.side * (approach.half_width_m + 0.95)
        places = []
        if approach.control:
            kind = "crossing" if approach.crossing else "stop" if approach.control == "STOP_SIGN" else "yield"
            places.append((kind, approach.setback_m + (CROSSING_M if approach.crossing else 0.3), lateral, np.pi / 2))
        if k % 2 == 0:
            places.append(("street", approach.setback_m - 0.2, -lateral, 0.0))
        for kind, station, offset, turn in places:
            x, y, outward = curves.pose_at(approach.line, station, offset)
            meshes.append(placed(furniture.sign_post(kind), (x, y, _VERGE_Z_M), outward + turn))
    return meshes


def furnish_roads(rng: np.random.Generator, plan: Plan, drives: BaseGeometry) -> Mesh:
    """Furnishes the verges of all roads.

    Args:
        rng: where the randomness comes from.
        plan: the landscape's plan.
        drives: ways that lead to farms and houses.

    Returns:
        Posts, rails, signs and poles; nothing stands where people walk.
    """
    areas = [area.buffer(2.0) for area in plan.areas["carpark_area"]]
    areas += [park.driveway.buffer(1.5) for park in plan.car_parks]
    areas += [junction.polygon.buffer(1.0) for junction in plan.junctions]
    keep_out = unary_union([*areas, drives.buffer(1.5)])
    prepare(keep_out)
    roads = [divider.line for divider in plan.dividers if divider.kind == "road"]
    poles = rng.permutation(len(roads))[: max(1, len(roads) // 3)]
    meshes = _at_junctions(plan)
    for k, line in enumerate(roads):
        verge = _Verge(line, keep_out)
        _along(rng, verge, plan.side, k in poles)
        meshes += verge.meshes
    return merge(meshes)
