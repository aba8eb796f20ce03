"""Farms and houses beside country roads, with their yards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from shapely.geometry import Polygon
from shapely.ops import unary_union
from shapely.prepared import prep

from perception.simulation.mesh import Mesh, cylinder, ellipsoid, merge, moved, paint, placed, quads, wall
from perception.simulation.town import curves, facades, plants
from perception.simulation.town.buildings import Style, house
from perception.simulation.town.network import GUTTER_M, LANE_WIDTH_M
from perception.simulation.town.plan import Plan
from perception.simulation.town.surfaces import PLOT_Z_M, sheet

_FRONT_M = LANE_WIDTH_M + GUTTER_M + 4.0
"""From the middle of the road to where a homestead begins."""

_CLEAR_OF_JUNCTIONS_M = 34.0
_DRIVE_Z_M = PLOT_Z_M + 0.014
_SIZES_M = {"farm": (50.0, 46.0), "house": (25.0, 28.0)}


@dataclass(frozen=True)
class Homestead:
    """A farm or a house: kind, middle of its side towards the road, heading of its x axis (the road towards -y)."""

    kind: str
    x: float
    y: float
    yaw_rad: float

    def on_map(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) points of its own frame on the map."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        return np.asarray(points, dtype=np.float64) @ np.array([[c, s], [-s, c]]) + [self.x, self.y]

    def rectangle(self, x_m: tuple[float, float], y_m: tuple[float, float]) -> Polygon:
        """A rectangle of its own frame on the map."""
        (left, right), (near, far) = x_m, y_m
        return Polygon(self.on_map(np.array([[left, near], [right, near], [right, far], [left, far]])))

    def area(self) -> Polygon:
        """Its land."""
        width, depth = _SIZES_M[self.kind]
        return self.rectangle((-width / 2, width / 2), (0.0, depth))

    def drive(self) -> Polygon:
        """Its way to the road, from the verge on."""
        return self.rectangle((-1.9, 1.9), (-3.9, 2.0))


def draw_homesteads(rng: np.random.Generator, plan: Plan) -> list[Homestead]:
    """Draws where farms and houses lie.

    Args:
        rng: where the randomness comes from.
        plan: the landscape's plan.

    Returns:
        Homesteads beside the roads that do not overlap.
    """
    land = prep(unary_union([block.plots for block in plan.blocks]).buffer(0.5))
    junctions = np.array([junction.center for junction in plan.junctions])
    lay_bys = unary_union(plan.areas["carpark_area"]).buffer(3.0)
    roads = [divider.line for divider in plan.dividers if divider.kind == "road"]
    found: list[Homestead] = []
    for kind, count in (("farm", int(rng.integers(3, 6))), ("house", int(rng.integers(4, 9)))):
        wanted = len(found) + count
        for _ in range(12 * count):
            line = roads[int(rng.integers(len(roads)))]
            station, side = rng.uniform(20.0, curves.length(line) - 20.0), int(rng.choice([1, -1]))
            x, y, heading = curves.pose_at(line, station, side * _FRONT_M)
            it = Homestead(kind, x, y, heading if side > 0 else heading + np.pi)
            whole = it.area()
            away = np.linalg.norm(junctions - (x, y), axis=1).min() > _CLEAR_OF_JUNCTIONS_M
            apart = all(whole.distance(other.area()) > 12.0 for other in found)
            clear = land.contains(whole) and not lay_bys.intersects(it.drive())
            if away and apart and clear and len(found) < wanted:
                found.append(it)
    return found


def barn(rng: np.random.Generator, style: Style, size_m: tuple[float, float]) -> Mesh:
    """A barn with a pitched roof and wide doors, its front towards -y.

    Args:
        rng: where the randomness comes from.
        style: what the buildings are like.
        size_m: extent of the footprint along x and y.

    Returns:
        Its mesh, standing on z = 0.
    """
    width, depth = size_m
    eave = float(rng.uniform(3.6, 5.2))
    boards = [name for name in style.walls if name.startswith("boards")] or ["fence_wood"]
    choice = [*boards, "fence_wood", "sign_red", "cargo_metal"]
    walls = paint(str(choice[rng.integers(len(choice))]) if rng.random() < 0.8 else str(rng.choice(style.walls)))
    roof = paint("steel" if rng.random() < 0.4 else str(rng.choice(style.roofs)))
    corners = np.array([[-width, -depth], [width, -depth], [width, depth], [-width, depth]]) / 2
    front = facades.facades_of(width, depth)[0]
    doors = np.arange(2.0, width - 5.0, 6.5)
    gates = np.column_stack([doors, 0 * doors, doors + 3.6, 0 * doors + min(3.5, eave - 0.4)])
    gate = paint("door_0" if rng.random() < 0.5 else "garage_door")
    return merge(
        [
            wall(corners, (0.0, eave), walls),
            facades.gable_roof(size_m, eave, float(rng.uniform(0.25, 0.42)) * depth, roof, walls),
            facades.panels(front, gates + np.array([-0.15, 0.0, 0.15, 0.15]), 0.03, paint("trim_dark")),
            facades.panels(front, gates, 0.05, gate),
        ]
    )


def _silo(height_m: float) -> Mesh:
    """A round silo with a domed roof."""
    metal = paint("cargo_metal")
    return merge(
        [cylinder(2.1, (0.0, height_m), metal, 10), ellipsoid((2.1, 2.1, 1.0), metal, (0, 0, height_m), 4, 10)]
    )


def _bale() -> Mesh:
    """A round bale of straw that lies on its side."""
    lying = np.array([[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0.65], [0, 0, 0, 1.0]])
    return moved(cylinder(0.65, (-0.6, 0.6), paint("cloth_khaki"), 9), lying)


class _Builder:
    """Puts things onto a homestead."""

    def __init__(self, rng: np.random.Generator, style: Style, site: Homestead) -> None:
        self.rng, self.style, self.site = rng, style, site
        self.meshes: list[Mesh] = []

    def put(self, mesh: Mesh, x: float, y: float, yaw_rad: float = 0.0, z: float = PLOT_Z_M) -> None:
        """Places a mesh of the homestead's frame."""
        ((px, py),) = self.site.on_map(np.array([[x, y]]))
        self.meshes.append(placed(mesh, (px, py, z), self.site.yaw_rad + yaw_rad))

    def lawn_and_yard(self, x_m: tuple[float, float], y_m: tuple[float, float]) -> None:
        """Grass all over, and gravel on the drive and on the yard."""
        self.meshes.append(sheet(self.site.area(), PLOT_Z_M + 0.01, paint("grass", "flat.terrain")))
        gravel = paint("path", "flat.other")
        ways = unary_union([self.site.rectangle(x_m, y_m), self.site.rectangle((-1.9, 1.9), (-2.8, y_m[0] + 1.0))])
        self.meshes.append(sheet(ways, _DRIVE_Z_M, gravel))
        ramp = self.site.on_map(np.array([[-2.6, -3.97], [2.6, -3.97], [1.9, -2.8], [-1.9, -2.8]]))
        heights = np.array([0.012, 0.012, _DRIVE_Z_M, _DRIVE_Z_M])
        self.meshes.append(quads(np.column_stack([ramp, heights])[None], gravel))

    def fence(self, points: list[tuple[float, float]], kind: str) -> None:
        """A hedge or fence along a line."""
        line = curves.resampled(self.site.on_map(np.array(points)), 9.0)
        self.meshes.append(plants.hedge(line, 1.1, PLOT_Z_M) if kind == "hedge" else plants.fence(line, kind, PLOT_Z_M))

    def tree(self, x: float, y: float, height_m: float) -> None:
        """A tree with an ample crown."""
        size = (height_m, 0.22 * height_m, 0.34 * height_m)
        self.put(plants.broadleaf(self.rng, size, int(self.rng.integers(4)), 3), x, y, float(self.rng.uniform(0, 6)))


def _farm(builder: _Builder) -> None:
    """A house, a barn and a shed around a yard."""
    rng, style = builder.rng, builder.style
    turn = float(rng.choice([1, -1]))
    builder.lawn_and_yard((-10.0, 15.0) if turn > 0 else (-15.0, 10.0), (5.0, 34.0))
    builder.put(house(rng, style, (float(rng.uniform(10.5, 13)), 9.0)), -turn * 16.5, 9.5)
    builder.put(barn(rng, style, (float(rng.uniform(20, 27)), 11.0)), turn * 3.0, 39.5)
    builder.put(barn(rng, style, (float(rng.uniform(13, 18)), 8.0)), turn * 20.0, 19.0, -turn * np.pi / 2)
    for k in range(int(rng.integers(0, 3))):
        builder.put(_silo(float(rng.uniform(7, 11))), -turn * (15.5 + 4.8 * k), 37.0)
    for k in range(int(rng.integers(0, 7))):
        builder.put(_bale(), -turn * (12.0 + 1.4 * (k % 4)), 29.0 - 1.35 * (k // 4), 0.1 * float(rng.normal()))
    for x, y in ((-turn * 22, 20), (-turn * 8.5, 3.5), (-turn * 21, 27), (turn * 22, 5)):
        if rng.random() < 0.75:
            builder.tree(float(x + rng.uniform(-1, 1)), float(y + rng.uniform(-1, 1)), float(rng.uniform(7, 13)))
    kind = str(rng.choice(["fence_wood", "fence_white", "hedge", "stone_wall"]))
    for points in ([(-24.0, 0.6), (-3.5, 0.6)], [(3.5, 0.6), (24.0, 0.6)]):
        builder.fence(points, kind)


def _house(builder: _Builder) -> None:
    """A family house in its garden."""
    rng = builder.rng
    turn = float(rng.choice([1, -1]))
    builder.lawn_and_yard((-1.9, 1.9), (0.0, 13.0))
    builder.put(house(rng, builder.style, (float(rng.uniform(8.5, 9.3)), 8.5)), -turn * 6.9, 12.5)
    for x, y in ((turn * 8, 6), (turn * 7, 21), (-turn * 8, 23)):
        if rng.random() < 0.7:
            builder.tree(float(x + rng.uniform(-2, 2)), float(y + rng.uniform(-2, 2)), float(rng.uniform(5, 9)))
    for _ in range(int(rng.integers(2, 6))):
        builder.put(plants.bush(rng), float(turn * rng.uniform(3.5, 11)), float(rng.uniform(2, 25)))
    kind = str(rng.choice(["hedge", "hedge", "fence_wood", "fence_white"]))
    for points in (
        [(-12.0, 26.0), (-12.0, 0.6), (-2.8, 0.6)],
        [(2.8, 0.6), (12.0, 0.6), (12.0, 26.0)],
        [(12.0, 26.6), (-12.0, 26.6)],
    ):
        builder.fence(points, kind)


_BUILT: dict[str, Callable[[_Builder], None]] = {"farm": _farm, "house": _house}


def build_homestead(rng: np.random.Generator, style: Style, site: Homestead) -> Mesh:
    """Builds a homestead.

    Args:
        rng: where the randomness comes from.
        style: what the buildings are like.
        site: where it lies.

    Returns:
        Buildings, yard, garden and fences.
    """
    builder = _Builder(rng, style, site)
    _BUILT[site.kind](builder)
    return merge(builder.meshes)
