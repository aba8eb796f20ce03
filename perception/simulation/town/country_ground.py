"""The ground of a rural landscape: carriageway, verges, footpaths, and what is painted on the road."""

from __future__ import annotations

import numpy as np
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from perception.geometry.headings import headings
from perception.simulation.mesh import Mesh, merge, paint, quads, ribbon
from perception.simulation.town import curves
from perception.simulation.town.approaches import Approach
from perception.simulation.town.blocks import OUTSKIRTS_M, SIDEWALK_M, landing, polygons
from perception.simulation.town.network import GUTTER_M, LANE_WIDTH_M
from perception.simulation.town.plan import Plan
from perception.simulation.town.surfaces import PLOT_Z_M, bay_lines, dashes, rings, sheet, stroke, zebra
from perception.simulation.town.town import KERB_HEIGHT_M

_ROAD = "flat.driveable_surface"
_PATH_Z_M = KERB_HEIGHT_M + 0.029
_TIGHT_M = 110.0
"""Where bends are tighter the line in the middle is not broken."""

_CYCLE_M = 12.0

# Distance from the edge of the road and height of the lines along a verge, and what lies between each and the next.
# It ends in a low ridge that goes down through the land behind it: a sheet that overhangs throws a shadow.
_VERGE = (
    (0.0, 0.003),
    (0.4, 0.02),
    (1.05, KERB_HEIGHT_M - 0.005),
    (SIDEWALK_M + 0.05, PLOT_Z_M + 0.016),
    (SIDEWALK_M + 0.4, PLOT_Z_M - 0.015),
)
_COVERINGS = ("path", "grass", "grass", "grass")


def _inward(ring: np.ndarray) -> np.ndarray:
    """(N, 2) where each point of a ring goes when the land on its left shrinks by a metre."""
    before, after = curves.unit(ring - np.roll(ring, 1, axis=0)), curves.unit(np.roll(ring, -1, axis=0) - ring)
    normals = curves.left_of(curves.unit(before + after))
    return normals / np.clip(np.sum(normals * curves.left_of(after), axis=1, keepdims=True), 0.6, 1.0)


def _verge(ring: np.ndarray) -> Mesh:
    """Shoulder and grass along a closed ring with the land on its left."""
    step = _inward(ring)
    lines = [np.column_stack([ring + out * step, np.full(len(ring), z)]) for out, z in _VERGE]
    lines = [np.vstack([line, line[:1]]) for line in lines]
    covers = [paint(name, "flat.terrain") for name in _COVERINGS]
    return merge([ribbon(lines[k + 1], lines[k], cover) for k, cover in enumerate(covers)])


def _verges(land: BaseGeometry, around: bool) -> Mesh:
    """The verges of land between roads, or of that around them all, whose outer edge has none."""
    meshes = []
    for part in polygons(land.simplify(0.05)):
        outline, holes = rings(part)
        turned = [(hole, not ring.is_ccw) for hole, ring in zip(holes, part.interiors, strict=True)]
        turned += [] if around else [(outline, part.exterior.is_ccw)]
        meshes += [_verge(ring if land_on_the_left else ring[::-1]) for ring, land_on_the_left in turned]
    return merge(meshes)


def country_ground(plan: Plan) -> Mesh:
    """The ground: one level carriageway, verges that slope up from it, and bare land behind them.

    Args:
        plan: the landscape's plan.

    Returns:
        Its mesh; nothing in it lies in the plane of anything else.
    """
    low, high = -OUTSKIRTS_M, np.array(plan.size_m) + OUTSKIRTS_M
    corners = np.array([[[low, low, 0], [high[0], low, 0], [*high, 0], [low, high[1], 0]]])
    meshes = [quads(corners, paint("asphalt", _ROAD))]
    meshes += [sheet(park.polygon, 0.002, paint("asphalt_lot", _ROAD)) for park in plan.car_parks]
    lay_bys = plan.areas["carpark_area"][: len(plan.areas["carpark_area"]) - len(plan.car_parks)]
    meshes += [sheet(area, 0.0015, paint("path", _ROAD)) for k, area in enumerate(lay_bys) if k % 3]  # most are gravel
    ramps = _ramps(plan)
    for block in plan.blocks:
        meshes.append(_verges(block.land, around=block is plan.blocks[-1]))
        meshes.append(sheet(block.plots, PLOT_Z_M, paint("meadow", "flat.terrain")))
        paths = block.walkway.difference(unary_union([land for land, _ in ramps]))
        meshes.append(sheet(paths, _PATH_Z_M, paint("path", "flat.sidewalk")))
    return merge(meshes + [ramp for _, ramp in ramps])


def _ramps(plan: Plan) -> list[tuple[Polygon, Mesh]]:
    """Where footpaths come down to a crossing: the area, and the surface that slopes to the road."""
    found = []
    for crossing in plan.crossings:
        for end in (0, 1):
            area = landing(crossing.centerline, end)
            heights = np.array([0.012, _PATH_Z_M, _PATH_Z_M, 0.012])
            corners = np.column_stack([np.array(area.exterior.coords)[:4], heights])
            found.append((area, quads(corners[None], paint("path", "flat.sidewalk"))))
    return found


def _middle(line: np.ndarray, plan: Plan) -> list[Mesh]:
    """The line in the middle of a road: broken, and whole in tight bends."""
    covering = paint("marking_yellow" if plan.side > 0 else "marking_white", _ROAD)
    heading = np.unwrap(headings(curves.directions(line)))
    bend = np.abs(np.gradient(heading, curves.stations(line)))
    meshes, tight = [], []
    for start in np.arange(0.0, curves.length(line) - _CYCLE_M, _CYCLE_M):
        whole = np.interp(start + _CYCLE_M / 2, curves.stations(line), bend) > 1 / _TIGHT_M
        if whole:
            tight.append(curves.cut(line, start, start + _CYCLE_M, 3.0))
        else:
            meshes.append(stroke(curves.cut(line, start + 4.0, start + 8.0, 4.0), 0.12, covering))
    return meshes + [stroke(curves.shifted(part, offset), 0.11, covering) for part in tight for offset in (0.12, -0.12)]


def _edges(line: np.ndarray, lay_bys: Polygon) -> list[Mesh]:
    """The lines along the edges of a road, which stop at lay-bys."""
    white = paint("marking_white", _ROAD)
    meshes = []
    for side in (1, -1):
        edge = LineString(curves.shifted(line, side * (LANE_WIDTH_M + GUTTER_M / 4))).difference(lay_bys)
        parts = [np.array(part.coords) for part in getattr(edge, "geoms", [edge]) if part.length > 1.0]
        meshes += [stroke(part, 0.12, white) for part in parts]
    return meshes


def _end(approach: Approach, plan: Plan) -> Mesh:
    """What is painted where a road ends: a broken line to give way, a whole one to stop."""
    white = paint("marking_white", _ROAD)
    part = curves.cut(approach.line, approach.setback_m + 0.15, approach.setback_m + 0.6, 0.45)
    if approach.control == "STOP_SIGN":
        width = LANE_WIDTH_M - 0.2
        return stroke(curves.shifted(part, plan.side * (width / 2 + 0.2)), width, white, 0.008)
    places = np.arange(0.4, LANE_WIDTH_M - 0.2, 0.72)
    return merge([stroke(curves.shifted(part, plan.side * place), 0.42, white, 0.008) for place in places])


def country_markings(plan: Plan) -> Mesh:
    """What is painted on the road: its middle and its edges, lines to stop at, a zebra, lay-bys, places of a car park.

    Args:
        plan: the landscape's plan.

    Returns:
        Thin sheets a few millimetres above the road.
    """
    white = paint("marking_white", _ROAD)
    lay_bys = unary_union([area.buffer(0.5) for area in plan.areas["carpark_area"]])
    meshes = []
    for divider in plan.dividers:
        if divider.kind == "road":
            meshes += _middle(divider.line, plan) + _edges(divider.line, lay_bys)
        else:
            meshes.append(dashes(divider.line, 0.2, white, 1.5, 1.5))
    for approach in plan.approaches:
        if approach.crossing:
            meshes.append(zebra(approach.line, approach.half_width_m, approach.mouth_m + 0.4, white))
        if approach.control:
            meshes.append(_end(approach, plan))
    return merge(meshes + bay_lines(plan, white))
