"""The ground of a town: carriageway, kerbs, walkways, plots, and what is painted on the road."""

from __future__ import annotations

import numpy as np
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from perception.simulation.mesh import Mesh, Paint, flat, merge, paint, quads, ribbon, wall
from perception.simulation.town import curves
from perception.simulation.town.approaches import CROSSING_M
from perception.simulation.town.blocks import Block, polygons
from perception.simulation.town.network import GUTTER_M, LANE_WIDTH_M
from perception.simulation.town.plan import Plan
from perception.simulation.town.town import KERB_HEIGHT_M

_ROAD = "flat.driveable_surface"
_MARKING_Z_M = 0.006
_PATCH_Z_M = 0.002
_KERB_TOP_M = 0.17
PLOT_Z_M = KERB_HEIGHT_M + 0.012
"""Height of the land behind the walkways."""


def rings(shape: Polygon) -> tuple[np.ndarray, list[np.ndarray]]:
    """The outline and the holes of a polygon as arrays.

    Args:
        shape: a polygon.

    Returns:
        (N, 2) outline and (H, 2) holes, the first point not repeated.
    """
    return np.array(shape.exterior.coords)[:-1], [np.array(ring.coords)[:-1] for ring in shape.interiors]


def sheet(shape: BaseGeometry, z_m: float, covering: Paint) -> Mesh:
    """A level surface in the shape of polygons.

    Args:
        shape: any geometry; only its polygons count.
        z_m: its height.
        covering: its paint.

    Returns:
        Triangles that face up.
    """
    outlines = [rings(part) for part in polygons(shape.simplify(0.03))]
    return merge([flat(outline, z_m, covering, holes) for outline, holes in outlines])


def _kerb(land: BaseGeometry) -> Mesh:
    """The kerb around land: its upright face and the stone's upper side."""
    stone = paint("kerb", "flat.sidewalk")
    meshes = []
    for part in polygons(land.simplify(0.03)):
        outline, holes = rings(part)
        turned = [(outline, part.exterior.is_ccw)] + [
            (hole, not ring.is_ccw) for hole, ring in zip(holes, part.interiors, strict=True)
        ]
        for ring, land_on_the_left in turned:
            ring = ring if land_on_the_left else ring[::-1]
            meshes.append(wall(ring, (0.0, KERB_HEIGHT_M + 0.004), stone))
            meshes.append(_kerb_top(ring, stone))
    return merge(meshes)


def _kerb_top(ring: np.ndarray, stone: Paint) -> Mesh:
    """The upper side of the kerb along a closed ring with the land on its left."""
    before, after = curves.unit(ring - np.roll(ring, 1, axis=0)), curves.unit(np.roll(ring, -1, axis=0) - ring)
    normals = curves.left_of(curves.unit(before + after))  # (N, 2)
    widen = 1 / np.clip(np.sum(normals * curves.left_of(after), axis=1, keepdims=True), 0.6, 1.0)
    inner = ring + _KERB_TOP_M * normals * widen
    outer, inner = (np.column_stack([r, np.full(len(r), KERB_HEIGHT_M + 0.004)]) for r in (ring, inner))
    return ribbon(np.vstack([inner, inner[:1]]), np.vstack([outer, outer[:1]]), stone)


def _block_ground(block: Block) -> Mesh:
    covering = {
        "downtown": paint("plaza", "flat.other"),
        "mixed": paint("plaza", "flat.other"),
        "park": paint("grass", "flat.terrain"),
        "residential": paint("grass", "flat.terrain"),
        "outskirts": paint("meadow", "flat.terrain"),
    }[block.kind]
    return merge(
        [
            _kerb(block.land),
            sheet(
                block.walkway.buffer(0.02).intersection(block.land), KERB_HEIGHT_M, paint("sidewalk", "flat.sidewalk")
            ),
            sheet(block.plots, PLOT_Z_M, covering),
            sheet(block.paths, PLOT_Z_M + 0.006, paint("path", "flat.sidewalk")),
        ]
    )


def ground(plan: Plan) -> Mesh:
    """The ground: one level carriageway, and land with its kerbs above it.

    Args:
        plan: the town's plan.

    Returns:
        Its mesh; nothing in it lies in the plane of anything else.
    """
    low, high = -160.0, np.array(plan.size_m) + 160.0
    plane = quads(
        np.array([[[low, low, 0], [high[0], low, 0], [*high, 0], [low, high[1], 0]]]), paint("asphalt", _ROAD)
    )
    lots = [sheet(park.polygon, _PATCH_Z_M, paint("asphalt_lot", _ROAD)) for park in plan.car_parks]
    return merge([plane, *lots, *(_block_ground(block) for block in plan.blocks)])


def stroke(line: np.ndarray, width_m: float, covering: Paint, z_m: float = _MARKING_Z_M) -> Mesh:
    """A painted line.

    Args:
        line: (N, 2) its middle.
        width_m: its width.
        covering: its paint.
        z_m: its height.

    Returns:
        A strip that faces up.
    """
    if len(line) > 6:
        line = np.array(LineString(line).simplify(0.012).coords)
    sides = [curves.shifted(line, offset) for offset in (width_m / 2, -width_m / 2)]
    left, right = (np.column_stack([side, np.full(len(side), z_m)]) for side in sides)
    return ribbon(left, right, covering)


def dashes(line: np.ndarray, width_m: float, covering: Paint, dash_m: float, gap_m: float) -> Mesh:
    """A broken line.

    Args:
        line: (N, 2) its middle.
        width_m: its width.
        covering: its paint.
        dash_m: length of a dash.
        gap_m: distance between two.

    Returns:
        Strips that face up.
    """
    starts = np.arange(gap_m / 2, curves.length(line) - dash_m, dash_m + gap_m)
    return merge([stroke(curves.cut(line, s, s + dash_m, 3.0), width_m, covering) for s in starts])


def zebra(line: np.ndarray, half_width_m: float, start_m: float, white: Paint) -> Mesh:
    """Stripes along the road, from kerb to kerb, where people cross.

    Args:
        line: (N, 2) the road's middle.
        half_width_m: distance from it to the kerb.
        start_m: where the stripes begin.
        white: their paint.

    Returns:
        Strips that face up.
    """
    part = curves.cut(line, start_m, start_m + CROSSING_M, CROSSING_M)
    count = int((2 * half_width_m - 0.5) // 1.0)
    offsets = (np.arange(count) - (count - 1) / 2) * 1.0
    return merge([stroke(curves.shifted(part, offset), 0.5, white) for offset in offsets])


def _arrow(line: np.ndarray, turns: set[str], white: Paint) -> Mesh:
    """A lane's arrow, with a head for each way that it leads; `line` runs 5 m along the lane."""
    base, tip = line[0], line[-1]
    ahead = curves.unit(tip - base)
    heads = {"straight": ahead, "left": curves.left_of(ahead), "right": -curves.left_of(ahead)}
    meshes = [stroke(np.stack([base, base + 2.4 * ahead]), 0.18, white)]
    for turn in sorted(turns):
        start = base + 2.4 * ahead
        neck = start + (1.0 if turn == "straight" else 0.55) * heads[turn]
        side = 0.42 * curves.left_of(heads[turn])
        head = np.array([neck + side, neck - side, neck + 1.1 * heads[turn]])
        meshes.append(stroke(np.stack([start, neck]), 0.18, white, _MARKING_Z_M + 0.001))
        meshes.append(flat(head, _MARKING_Z_M + 0.002, white))
    return merge(meshes)


def _lane_arrows(plan: Plan, white: Paint) -> list[Mesh]:
    """Arrows on the lanes of four-lane roads before their stop lines."""
    meshes = []
    for lane in plan.lanes:
        if lane.junction is None and lane.stop_line is not None and (lane.left, lane.right) != (None, None):
            total = curves.length(lane.centerline)
            turns = {plan.lanes[following].turn for following in lane.successors}
            for back_m in (9.0, 26.0):
                if total > back_m + 12:
                    part = curves.cut(lane.centerline, total - back_m, total - back_m + 4.5)
                    meshes.append(_arrow(part, turns, white))
    return meshes


def bay_lines(plan: Plan, white: Paint) -> list[Mesh]:
    """The lines between parking places, which lay-bys have none of.

    Args:
        plan: the town's plan.
        white: their paint.

    Returns:
        Strips that face up.
    """
    meshes = []
    for slot in plan.parking_slots:
        along = np.array([np.cos(slot.yaw_rad), np.sin(slot.yaw_rad)])
        across = curves.left_of(along)
        center = np.array([slot.x, slot.y])
        if slot.length_m > 5.5 and plan.landscape == "rural":
            continue
        if slot.length_m > 5.5:  # a bay along the kerb: a line at its rear end
            end = center - slot.length_m / 2 * along
            meshes.append(stroke(np.stack([end - 1.1 * across, end + 1.1 * across]), 0.1, white))
        else:
            for side in (1, -1):
                edge = center + side * (slot.width_m / 2 - 0.04) * across
                meshes.append(stroke(np.stack([edge - 2.4 * along, edge + 2.4 * along]), 0.07, white))
    return meshes


def markings(plan: Plan) -> Mesh:
    """What is painted on the road: dividers, edge lines, stop lines, zebras, arrows and parking places.

    Args:
        plan: the town's plan.

    Returns:
        Thin sheets a few millimetres above the road.
    """
    white, yellow = paint("marking_white", _ROAD), paint("marking_yellow", _ROAD)
    middle = yellow if plan.side > 0 else white
    meshes = []
    wide = {id(d) for d, follower in zip(plan.dividers, plan.dividers[1:], strict=False) if follower.kind == "lane"}
    for divider in plan.dividers:
        if divider.kind == "lane":
            meshes.append(dashes(divider.line, 0.13, white, 3.0, 6.0))
        elif id(divider) in wide:
            meshes += [stroke(curves.shifted(divider.line, offset), 0.12, middle) for offset in (0.15, -0.15)]
        else:
            meshes.append(dashes(divider.line, 0.13, middle, 3.0, 3.0))
        if divider.kind == "road":
            half = (2 if id(divider) in wide else 1) * LANE_WIDTH_M + GUTTER_M / 4
            meshes += [stroke(curves.shifted(divider.line, side * half), 0.1, white) for side in (1, -1)]
    for approach in plan.approaches:
        if approach.crossing:
            meshes.append(zebra(approach.line, approach.half_width_m, approach.mouth_m + 0.4, white))
        if approach.control:
            part = curves.cut(approach.line, approach.setback_m + 0.15, approach.setback_m + 0.6, 0.45)
            width = approach.lanes * LANE_WIDTH_M - 0.2
            meshes.append(stroke(curves.shifted(part, plan.side * (width / 2 + 0.2)), width, white, 0.008))
    return merge(meshes + _lane_arrows(plan, white) + bay_lines(plan, white))


def patches(rng: np.random.Generator, plan: Plan) -> Mesh:
    """Repairs on the lanes, and in towns manhole covers.

    Args:
        rng: where the randomness comes from.
        plan: the town's plan.

    Returns:
        Thin sheets below the markings.
    """
    repair, cover = paint("asphalt_patch", _ROAD), paint("manhole", _ROAD)
    meshes = []
    for lane in plan.lanes:
        total = curves.length(lane.centerline)
        if lane.junction is not None or total < 30:
            continue
        for start in rng.uniform(3, total - 14, int(total / 45) + 1):
            part = curves.cut(lane.centerline, start, start + rng.uniform(2.0, 11.0), 3.0)
            line = curves.shifted(part, rng.uniform(-0.8, 0.8))
            meshes.append(stroke(line, rng.uniform(0.5, 1.7), repair, 0.003))
        for station in rng.uniform(2, total - 2, int(total / 60) + 1) if plan.landscape == "town" else ():
            x, y, _ = curves.pose_at(lane.centerline, station, rng.uniform(-1.0, 1.0))
            angles = 2 * np.pi * np.arange(8) / 8
            disc = np.array([x, y]) + 0.33 * np.column_stack([np.cos(angles), np.sin(angles)])
            meshes.append(flat(disc, 0.0045, cover))
    return merge(meshes)
