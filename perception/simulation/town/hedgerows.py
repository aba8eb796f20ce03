"""Trees, hedges and fences of a rural landscape: along roads, between fields, in woods and alone on meadows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from shapely import contains_xy, prepare
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from perception.simulation.mesh import Mesh, cuboid, merge, moved, paint, placed, ribbon
from perception.simulation.town import curves, plants
from perception.simulation.town.blocks import Block, polygons
from perception.simulation.town.fields import Field, wooded
from perception.simulation.town.plan import Plan
from perception.simulation.town.surfaces import PLOT_Z_M

_ROADSIDE_M = 1.5
"""Distance of what grows along a road from the edge of the land behind its verge."""

_CLEAR_OF_JUNCTIONS_M = 30.0
_NEAR_M = 75.0
"""Farther than this from the roads there are belts of trees instead of single ones."""

# Height, height below which there are no leaves, reach of the crown, and balls that make it.
_HABITS = {
    "avenue": ((9.0, 3.6, 2.2), 2),
    "oak": ((10.0, 1.9, 3.5), 3),
    "poplar": ((14.5, 1.6, 1.5), 1),
    "row": ((8.0, 1.0, 2.3), 1),
    "edge": ((9.5, 0.4, 2.9), 1),
}
_VARIANTS = 3
_PLANT = "static.vegetation"
_BELT = ((-1.0, 0.0), (0.0, 1.0), (1.0, 0.0))  # corners of its cross section: to the left, up
_BELT_STEP_M = 2.3


class Nursery:
    """Trees that are drawn once and planted many times, in other sizes and turned."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        kinds = rng.permutation(4)
        self._stock = {
            habit: [plants.broadleaf(rng, size, int(kinds[k % 4]), balls) for k in range(_VARIANTS)]
            for habit, (size, balls) in _HABITS.items()
        }
        self._stock["conifer"] = [plants.conifer(rng, 10.0) for _ in range(_VARIANTS)]
        self._stock["bush"] = [_shrub(rng, int(kinds[k % 4])) for k in range(2 * _VARIANTS)]

    def tree(self, habit: str, x: float, y: float, variant: int | None = None) -> Mesh:
        """A tree or bush on the ground at a place; one of a given kind where a number is given."""
        stock = self._stock[habit]
        number = int(self._rng.integers(len(stock))) if variant is None else variant % len(stock)
        size, yaw = self._rng.uniform(0.8, 1.2), self._rng.uniform(0, 2 * np.pi)
        a2b = np.eye(4)
        c, s = np.cos(yaw), np.sin(yaw)
        a2b[:2, :2] = size * np.array([[c, -s], [s, c]])
        a2b[2, 2], a2b[:3, 3] = size * self._rng.uniform(0.9, 1.1), (x, y, PLOT_Z_M)
        return moved(stock[number], a2b)


def _shrub(rng: np.random.Generator, leaves: int) -> Mesh:
    """A wild bush standing on the origin."""
    width, height = rng.uniform(0.6, 1.2), rng.uniform(0.6, 1.3)
    return placed(plants.crown(rng, (width, width, height), paint(f"leaves_{leaves}", _PLANT)), (0, 0, 0.7 * height))


def belt(rng: np.random.Generator, line: np.ndarray, height_m: float) -> Mesh:
    """A belt of trees and bushes along a line, as it is seen from afar.

    Args:
        rng: where the randomness comes from.
        line: (N, 2) its middle.
        height_m: about how high it is.

    Returns:
        Its two sides, crown beside crown.
    """
    points = curves.resampled(line, _BELT_STEP_M)
    crowns = np.arange(len(points)) // 3 + rng.integers(2)
    tall = (height_m * rng.uniform(0.68, 1.12, crowns[-1] + 1))[crowns]
    tops = tall * np.array([0.87, 1.0, 0.94])[np.arange(len(points)) % 3]
    tops[[0, -1]] *= 0.4
    half = 0.16 * tall + 0.5
    sides = [np.column_stack([curves.shifted(points, left * half), PLOT_Z_M + up * tops]) for left, up in _BELT]
    leaves = paint(f"leaves_{rng.integers(4)}", _PLANT)
    return merge([ribbon(sides[1], sides[0], leaves), ribbon(sides[2], sides[1], leaves)])


def _row(rng: np.random.Generator, nursery: Nursery, line: np.ndarray, habit: str, step_m: float) -> list[Mesh]:
    """Trees of one kind along a line, a few of them missing."""
    variant, total = int(rng.integers(_VARIANTS)), curves.length(line)
    stations = np.arange(0.4 * step_m, total, step_m)
    places = curves.at(line, stations + rng.uniform(-0.12, 0.12, len(stations)) * step_m)
    return [nursery.tree(habit, x, y, variant) for x, y in places if rng.random() < 0.9]


def rail_fence(line: np.ndarray, base_m: float) -> Mesh:
    """Posts with two rails, as around pastures.

    Args:
        line: (N, 2) its middle.
        base_m: height of the ground.

    Returns:
        Its mesh.
    """
    wood = paint("fence_wood")
    meshes = [placed(cuboid((0.12, 0.12, 1.25), wood), (x, y, base_m + 0.6)) for x, y in curves.resampled(line, 3.2)]
    for start, end in pairwise(curves.resampled(line, 9.6)):
        x, y = (start + end) / 2
        size, yaw = float(np.linalg.norm(end - start)), float(np.arctan2(*(end - start)[::-1]))
        meshes += [placed(cuboid((size, 0.05, 0.12), wood), (x, y, base_m + z), yaw) for z in (0.6, 1.08)]
    return merge(meshes)


def _hedgerow(rng: np.random.Generator, nursery: Nursery, line: np.ndarray) -> list[Mesh]:
    """A hedge of uneven height, with some trees in it."""
    meshes, position, total = [], 0.0, curves.length(line)
    while position < total - 4.0:
        end = min(position + rng.uniform(9.0, 26.0), total)
        meshes.append(plants.hedge(curves.cut(line, position, end, 8.0), float(rng.uniform(1.1, 2.0)), PLOT_Z_M))
        if rng.random() < 0.35:
            x, y = curves.at(line, end)
            meshes.append(nursery.tree("row", float(x), float(y)))
        position = end + (rng.uniform(3.0, 7.0) if rng.random() < 0.15 else -0.1)
    return meshes


def _bushes(nursery: Nursery, rng: np.random.Generator, line: np.ndarray) -> list[Mesh]:
    """Bushes and a tree here and there along a line."""
    stations = rng.uniform(0, curves.length(line), int(curves.length(line) / 9))
    return [nursery.tree("row" if rng.random() < 0.1 else "bush", x, y) for x, y in curves.at(line, stations)]


def _parts(line: np.ndarray, keep_out: BaseGeometry) -> list[np.ndarray]:
    """The pieces of a line that are long enough outside an area."""
    rest = LineString(line).difference(keep_out)
    return [np.array(part.coords) for part in getattr(rest, "geoms", [rest]) if part.length > 8.0]


def _beside_roads(block: Block, around: bool) -> list[np.ndarray]:
    """Closed lines a little behind the verges of a block."""
    rings = [
        ring
        for part in polygons(block.plots.buffer(-_ROADSIDE_M), 400.0)
        for ring in (part.interiors if around else [part.exterior])
    ]
    return [curves.resampled(np.array(ring.simplify(0.1).coords), 4.0) for ring in rings]


def _along_roads(rng: np.random.Generator, nursery: Nursery, plan: Plan, keep_out: BaseGeometry) -> list[Mesh]:
    """What stands beside the roads: in turn trees, hedges, fences, bushes, or nothing."""
    meshes: list[Mesh] = []
    step_m = float(rng.uniform(10.0, 15.0))
    for block in plan.blocks:
        for ring in _beside_roads(block, around=block is plan.blocks[-1]):
            position, total = 0.0, curves.length(ring)
            while position < total - 10.0:
                end = min(position + rng.uniform(45.0, 130.0), total)
                kind = rng.choice(["trees", "hedge", "fence", "bushes", ""], p=[0.27, 0.14, 0.16, 0.15, 0.28])
                for part in _parts(curves.cut(ring, position, end, 4.0), keep_out):
                    meshes += _grown_along(rng, nursery, part, str(kind), "avenue", step_m)
                position = end
    return meshes


def _grown_along(
    rng: np.random.Generator, nursery: Nursery, line: np.ndarray, kind: str, habit: str, step_m: float
) -> list[Mesh]:
    """Trees, a hedge, a fence or bushes along a line."""
    if kind == "trees":
        return _row(rng, nursery, line, habit, step_m)
    if kind == "hedge":
        return _hedgerow(rng, nursery, line)
    if kind == "fence":
        return [rail_fence(line, PLOT_Z_M)]
    return _bushes(nursery, rng, line) if kind == "bushes" else []


def _between_fields(
    rng: np.random.Generator, nursery: Nursery, borders: Sequence[np.ndarray], roads: BaseGeometry
) -> list[Mesh]:
    """Hedges, rows of trees and fences between fields; belts of trees far from the roads."""
    meshes: list[Mesh] = []
    near, beside = roads.buffer(_NEAR_M, quad_segs=4), roads.buffer(11.0)
    for line in borders:
        kind = str(rng.choice(["trees", "hedge", "fence", "bushes", ""], p=[0.3, 0.25, 0.12, 0.12, 0.21]))
        habit, far = str(rng.choice(["poplar", "row", "row", "oak"])), rng.random() < 0.7
        step_m = {"poplar": 5.5, "oak": 12.0}.get(habit, 7.5)
        for part in _parts(line, beside):
            inside = LineString(part).intersection(near)
            for piece in getattr(inside, "geoms", [inside]):
                if piece.length > 8.0:
                    meshes += _grown_along(rng, nursery, np.array(piece.coords), kind, habit, step_m)
            if far:
                meshes += [belt(rng, piece, float(rng.uniform(4.0, 9.0))) for piece in _parts(part, near)]
    return meshes


def _woods(rng: np.random.Generator, nursery: Nursery, fields: Sequence[Field], roads: BaseGeometry) -> list[Mesh]:
    """The trees along the edges of woods, of one or two kinds in each; one belt around those that are far away."""
    meshes: list[Mesh] = []
    near = roads.buffer(_NEAR_M, quad_segs=4)
    for wood in (field.area.buffer(-2.2) for field in fields if field.kind == "wood"):
        conifers = float(rng.choice([0.0, 0.2, 0.85]))
        for part in polygons(wood, 40.0):
            line = np.array(part.exterior.coords)
            meshes += [belt(rng, piece, 10.0) for piece in _parts(line, near)]
            stations = np.arange(0.0, curves.length(line), 6.0)
            places = curves.at(line, stations + rng.uniform(-1, 1, len(stations)))
            for x, y in places[contains_xy(near, places)]:
                meshes.append(nursery.tree("conifer" if rng.random() < conifers else "edge", x, y))
    return meshes


def _alone(rng: np.random.Generator, nursery: Nursery, fields: Sequence[Field]) -> list[Mesh]:
    """Single trees and bushes on meadows and pastures."""
    meshes: list[Mesh] = []
    for field in fields:
        inside = field.area.buffer(-6.0)
        if field.kind not in ("meadow", "pasture") or inside.is_empty:
            continue
        prepare(inside)
        low, high = np.array(inside.bounds[:2]), np.array(inside.bounds[2:])
        points = rng.uniform(low, high, (int(rng.poisson(field.area.area / 4000)), 2))
        for x, y in points[contains_xy(inside, points)]:
            meshes.append(nursery.tree(str(rng.choice(["oak", "bush", "bush", "row"])), x, y))
    return meshes


def plant(
    rng: np.random.Generator,
    plan: Plan,
    fields: Sequence[Field],
    borders: Sequence[np.ndarray],
    homesteads: Sequence[Polygon],
) -> Mesh:
    """Plants a rural landscape.

    Args:
        rng: where the randomness comes from.
        plan: its plan.
        fields: what the land is used for.
        borders: (N, 2) lines between fields.
        homesteads: land of farms and houses.

    Returns:
        All plants and fences outside the homesteads.
    """
    nursery = Nursery(rng)
    roads = unary_union(plan.areas["drivable_area"])
    junctions = [junction.polygon.centroid.buffer(_CLEAR_OF_JUNCTIONS_M) for junction in plan.junctions]
    parks = [park.polygon.union(park.driveway).buffer(4.0) for park in plan.car_parks]
    around = [area.buffer(9.0, join_style="mitre") for area in homesteads]
    keep_out = unary_union([*junctions, *parks, *around, wooded(list(fields))])
    meshes = _along_roads(rng, nursery, plan, keep_out)
    meshes += _between_fields(rng, nursery, borders, roads)
    return merge(meshes + _woods(rng, nursery, fields, roads) + _alone(rng, nursery, fields))
