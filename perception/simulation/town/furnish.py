"""Where furniture and plants stand: along kerbs, at junctions, in parks, gardens and car parks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from shapely import contains_xy, line_merge, prepare
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from perception.simulation.mesh import Mesh, merge, paint, placed, quads
from perception.simulation.town import curves, furniture, plants
from perception.simulation.town.approaches import CROSSING_M
from perception.simulation.town.blocks import Block, polygons
from perception.simulation.town.buildings import Site
from perception.simulation.town.network import LANE_WIDTH_M
from perception.simulation.town.plan import WALKING_LINE_M, Plan
from perception.simulation.town.surfaces import PLOT_Z_M, sheet
from perception.simulation.town.town import KERB_HEIGHT_M, SignalHead

_KERB_LINE_M = 0.6
"""Distance of posts and street trees from the kerb."""


@dataclass
class Furnishing:
    """What has been placed so far: meshes, the spots they take, and the faces of the traffic lights."""

    meshes: list[Mesh] = field(default_factory=list)
    spots: list[tuple[float, float]] = field(default_factory=list)
    heads: list[SignalHead] = field(default_factory=list)

    def free(self, x: float, y: float, distance_m: float) -> bool:
        """Whether nothing stands within a distance."""
        return not self.spots or bool(np.min(np.hypot(*(np.array(self.spots) - [x, y]).T)) >= distance_m)

    def put(self, mesh: Mesh, x: float, y: float, z: float, yaw_rad: float) -> None:
        """Places a mesh."""
        self.meshes.append(placed(mesh, (x, y, z), yaw_rad))
        self.spots.append((x, y))


def _kerb_lines(plan: Plan) -> list[np.ndarray]:
    """Closed lines beside the kerb, on the walkway, with the road on their right (towards -y of what follows them)."""
    lines = []
    for k, ring in enumerate(plan.walkways):
        outermost = k == len(plan.walkways) - 1
        gap = WALKING_LINE_M - _KERB_LINE_M
        line = Polygon(ring).buffer(-gap if outermost else gap).exterior
        points = np.array(line.simplify(0.05).coords)
        lines.append(curves.resampled(points[::-1] if line.is_ccw == outermost else points, 1.5))
    return lines


def place_signals(rng: np.random.Generator, plan: Plan, done: Furnishing) -> None:
    """Places traffic lights and stop or crossing signs at the approaches.

    Args:
        rng: where the randomness comes from.
        plan: the town's plan.
        done: what has been placed; grows.
    """
    stop = -1
    for approach in plan.approaches:
        stop += approach.control != ""
        lateral = plan.side * (approach.half_width_m + 0.75)
        station = approach.mouth_m + (0.05 if approach.control == "TRAFFIC_LIGHT" else CROSSING_M + 1.0)
        x, y, outward = curves.pose_at(approach.line, station, lateral)
        if approach.control == "TRAFFIC_LIGHT":
            _place_signal(plan, approach.lanes, stop, (x, y, outward), done)
        elif approach.control:
            kind = "stop" if approach.control == "STOP_SIGN" else "crossing"
            done.put(furniture.sign_post(kind), x, y, KERB_HEIGHT_M, outward + np.pi / 2)
        if approach.crossing and rng.random() < 0.6:
            x, y, outward = curves.pose_at(approach.line, approach.mouth_m - 1.2, -lateral)
            done.put(furniture.sign_post("street"), x, y, KERB_HEIGHT_M, outward)


def _place_signal(plan: Plan, lanes: int, stop: int, pose: tuple[float, float, float], done: Furnishing) -> None:
    """One pole with its faces: at eye level, and over the lanes of wide roads."""
    x, y, outward = pose
    into_road = outward - plan.side * np.pi / 2
    reach = 1.5 + (lanes - 0.5) * LANE_WIDTH_M if lanes > 1 else 0.0
    done.put(furniture.signal_pole(reach), x, y, KERB_HEIGHT_M, into_road + np.pi / 2)
    ahead, aside = (np.array([np.cos(a), np.sin(a)]) for a in (outward, into_road))
    places = [(0.0, 2.75)] + [(1.1 + (k + 0.5) * LANE_WIDTH_M, 5.75) for k in range(lanes) if reach]
    for distance, height in places:
        px, py = np.array([x, y]) + distance * aside + 0.28 * ahead
        done.meshes.append(placed(furniture.signal_face(), (px, py, height + KERB_HEIGHT_M), outward + np.pi / 2))
        done.heads.append(SignalHead((float(px), float(py), height + KERB_HEIGHT_M), float(outward), stop))


def _keep_out(plan: Plan, margin_m: float) -> BaseGeometry:
    """Where nothing may stand at the kerb: crossings, junction mouths and driveways."""
    areas = [crossing.polygon.buffer(margin_m, cap_style="square", join_style="mitre") for crossing in plan.crossings]
    merged = unary_union([*areas, *(park.driveway.buffer(margin_m) for park in plan.car_parks)])
    prepare(merged)
    return merged


def place_along_kerbs(rng: np.random.Generator, plan: Plan, done: Furnishing) -> None:
    """Places lamps, trees, signs and small pieces along every kerb.

    Args:
        rng: where the randomness comes from.
        plan: the town's plan.
        done: what has been placed; grows.
    """
    near, far = _keep_out(plan, 1.6), _keep_out(plan, 6.5)
    lamp_style = (
        float(rng.uniform(5.5, 8.0)),
        float(rng.uniform(1.2, 2.0)),
        str(rng.choice(["steel", "steel_dark", "steel_green"])),
    )
    leaves = rng.permutation(4)[:2]
    tree_step = float(rng.uniform(13.5, 17.5))
    for line in _kerb_lines(plan):
        total = curves.length(line)
        for station in np.arange(rng.uniform(3, 12), total - 6, 29.0):
            x, y, heading = curves.pose_at(line, station)
            if not contains_xy(near, x, y) and done.free(x, y, 2.5):
                done.put(furniture.lamp_post(*lamp_style), x, y, KERB_HEIGHT_M, heading)
        _place_small_pieces(rng, line, near, done)
        for station in np.arange(rng.uniform(2, 8), total - 4, tree_step):
            x, y, _ = curves.pose_at(line, station + rng.uniform(-1, 1))
            if not contains_xy(far, x, y) and done.free(x, y, 2.8) and rng.random() < 0.8:
                height = float(rng.uniform(6.2, 9.0))
                tree = plants.broadleaf(
                    rng, (height, 3.3, rng.uniform(1.7, 2.4)), int(rng.choice(leaves)), int(rng.integers(2, 4))
                )
                done.put(tree, x, y, KERB_HEIGHT_M, rng.uniform(0, 6))
                pit = 0.55 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
                corners = np.column_stack([pit + np.array([x, y]), np.full(4, KERB_HEIGHT_M + 0.006)])
                done.meshes.append(quads(corners[None], paint("soil", "flat.terrain")))


def _place_small_pieces(rng: np.random.Generator, line: np.ndarray, keep_out: BaseGeometry, done: Furnishing) -> None:
    """Signs, hydrants, bins and the like, about one in 16 m."""
    signs, pieces = ("limit", "parking", "ban"), ("hydrant", "bin", "post_box", "cabinet", "bin")
    total = curves.length(line)
    for station in rng.uniform(0, total, int(total / 16)):
        x, y, heading = curves.pose_at(line, station)
        if contains_xy(keep_out, x, y) or not done.free(x, y, 2.2):
            continue
        if rng.random() < 0.5:
            facing = heading if rng.random() < 0.5 else heading + np.pi
            done.put(furniture.sign_post(str(rng.choice(signs))), x, y, KERB_HEIGHT_M, facing + np.pi / 2)
        else:
            done.put(furniture.small_piece(str(rng.choice(pieces))), x, y, KERB_HEIGHT_M, heading)


def _scatter(rng: np.random.Generator, area: BaseGeometry, count: int, done: Furnishing, gap_m: float) -> np.ndarray:
    """(N, 2) up to `count` points in an area, apart from one another and from what stands."""
    if area.is_empty:
        return np.zeros((0, 2))
    prepare(area)
    low, high = np.array(area.bounds[:2]), np.array(area.bounds[2:])
    candidates = rng.uniform(low, high, (count * 6, 2))
    found: list[np.ndarray] = []
    for x, y in candidates[contains_xy(area, candidates)]:
        if len(found) < count and done.free(x, y, gap_m):
            done.spots.append((x, y))
            found.append(np.array([x, y]))
    return np.array(found).reshape(-1, 2)


def _grow(rng: np.random.Generator, points: np.ndarray, conifers: float, balls: int, done: Furnishing) -> None:
    """Trees at given points."""
    for x, y in points:
        height = float(rng.uniform(5, 11))
        if rng.random() < conifers:
            tree = plants.conifer(rng, height)
        else:
            tree = plants.broadleaf(rng, (height, 0.22 * height, 0.32 * height), int(rng.integers(4)), balls)
        done.meshes.append(placed(tree, (x, y, PLOT_Z_M), rng.uniform(0, 6)))


def place_on_plots(rng: np.random.Generator, plan: Plan, taken: Sequence[Polygon], done: Furnishing) -> None:
    """Plants the land behind the walkways and furnishes parks and car parks.

    Args:
        rng: where the randomness comes from.
        plan: the town's plan.
        taken: footprints of the buildings.
        done: what has been placed; grows.
    """
    built = unary_union([area.buffer(2.2) for area in taken])
    counts = {"park": 420.0, "residential": 420.0, "mixed": 900.0, "downtown": 1400.0}
    for block in plan.blocks[:-1]:
        free = block.plots.buffer(-1.5).difference(built).difference(block.paths.buffer(2.0))
        _grow(rng, _scatter(rng, free, int(free.area / counts[block.kind]), done, 4.0), 0.2, 2, done)
        for x, y in _scatter(rng, free, int(free.area / 480), done, 1.5):
            done.meshes.append(placed(plants.bush(rng), (x, y, PLOT_Z_M)))
        if block.kind == "park":
            _furnish_park(rng, block, done)
    edge = Polygon(polygons(plan.blocks[-1].plots, 400.0)[0].interiors[0])
    for reach, count, balls in ((22.0, 45, 2), (110.0, 60, 1)):
        belt = edge.buffer(reach).difference(edge.buffer(3.0)).difference(built)
        _grow(rng, _scatter(rng, belt, count, done, 4.0), 0.35, balls, done)
    for park in plan.car_parks:
        _furnish_car_park(park.frame, park.size_m, done)


def _furnish_park(rng: np.random.Generator, block: Block, done: Furnishing) -> None:
    """Benches along the paths, and a low hedge or fence behind the walkway with gaps."""
    for outline in polygons(block.paths.buffer(0.7)):
        line = np.array(outline.exterior.coords)
        for station in rng.uniform(0, curves.length(line), 8):
            x, y, heading = curves.pose_at(line, station)
            yaw = heading + (0.0 if outline.exterior.is_ccw else np.pi)
            inside = block.plots.buffer(-2).contains(LineString([(x, y), (x + 0.1, y)]))
            if inside and done.free(x, y, 1.6):
                done.put(furniture.bench(), x, y, PLOT_Z_M, yaw + np.pi)
    gaps = block.paths.buffer(2.5)
    for outline in polygons(block.plots.buffer(-0.7)):
        beside_the_walkway = line_merge(outline.exterior.intersection(block.walkway.buffer(1.0)).difference(gaps))
        for piece in getattr(beside_the_walkway, "geoms", [beside_the_walkway]):
            line = curves.resampled(np.array(piece.simplify(0.1).coords), 6.0)
            if curves.length(line) > 6:
                done.meshes.append(plants.hedge(line, 0.8, PLOT_Z_M))


def _furnish_car_park(frame: tuple[float, float, float], size_m: tuple[float, float], done: Furnishing) -> None:
    """A hedge on three sides and lamps at the far corners."""
    c, s = np.cos(frame[2]), np.sin(frame[2])
    width, depth = size_m[0] / 2 + 0.75, size_m[1] + 0.75
    local = np.array([[-width, 0.0], [-width, depth], [width, depth], [width, 0.0]])
    corners = local @ np.array([[c, s], [-s, c]]) + frame[:2]
    for start, end in pairwise(corners):
        inset = 0.6 * curves.unit(end - start)
        done.meshes.append(plants.hedge(np.stack([start + inset, end - inset]), 0.9, PLOT_Z_M))
    for k in (1, 2):
        x, y = corners[k]
        done.put(furniture.lamp_post(6.0, 1.4, "steel_dark"), float(x), float(y), PLOT_Z_M, frame[2])


def place_gardens(rng: np.random.Generator, plan: Plan, sites: Sequence[tuple[str, Site]], done: Furnishing) -> None:
    """Front gardens of houses: a path to the door, and hedges or fences towards the walkway.

    Args:
        rng: where the randomness comes from.
        plan: the town's plan.
        sites: kind of block and place of each building.
        done: what has been placed; grows.
    """
    land = unary_union([block.plots for block in plan.blocks if block.kind == "residential"])
    choice = ("hedge", "fence_wood", "fence_white", "stone_wall")
    for kind, site in sites:
        if kind != "residential":
            continue
        c, s = np.cos(site.yaw_rad), np.sin(site.yaw_rad)
        turn, half = np.array([[c, s], [-s, c]]), site.width_m / 2
        front = -site.depth_m / 2 - site.setback_m
        style = str(choice[rng.integers(len(choice))])
        for left, right in ((-half - 1.0, -0.25 * site.width_m), (1.2 + 0.02 * site.width_m, half - 3.6)):
            line = np.array([[left, front + 0.5], [right, front + 0.5]]) @ turn + [site.x, site.y]
            if right - left > 0.8 and land.buffer(-0.2).contains(LineString(line)):
                shape = plants.hedge(line, 1.0, PLOT_Z_M) if style == "hedge" else plants.fence(line, style, PLOT_Z_M)
                done.meshes.append(shape)
        ways = ((-0.14 * site.width_m, 1.1, "path"), (half - 3.3, 2.8, "kerb"))
        for left, width, material in ways:
            right, wall = left + width, -site.depth_m / 2
            ring = np.array([[left, front - 0.5], [right, front - 0.5], [right, wall], [left, wall]])
            way = Polygon(ring @ turn + [site.x, site.y]).intersection(land)
            done.meshes.append(sheet(way, PLOT_Z_M + 0.006, paint(material, "flat.other")))


def furnish(
    rng: np.random.Generator, plan: Plan, sites: Sequence[tuple[str, Site]], taken: Sequence[Polygon]
) -> tuple[Mesh, list[SignalHead]]:
    """Places all furniture and plants of a town.

    Args:
        rng: where the randomness comes from.
        plan: the town's plan.
        sites: kind of block and place of each building.
        taken: footprints of the buildings.

    Returns:
        Their mesh and the faces of the traffic lights.
    """
    done = Furnishing()
    place_signals(rng, plan, done)
    place_along_kerbs(rng, plan, done)
    place_gardens(rng, plan, sites, done)
    place_on_plots(rng, plan, taken, done)
    return merge(done.meshes), done.heads
