"""Fields of a rural landscape: how the land is divided, and what grows on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import split, unary_union

from perception.simulation.mesh import Mesh, Paint, merge, paint, prism, quads
from perception.simulation.town import curves
from perception.simulation.town.blocks import polygons
from perception.simulation.town.plan import Plan
from perception.simulation.town.surfaces import PLOT_Z_M, rings, sheet

_LARGEST_M2 = (13_000.0, 34_000.0)
_GROUND_Z_M = PLOT_Z_M + 0.008
_HEADLAND_M = 2.5
"""Width of the strip along a field's edge on which nothing is sown."""

_KINDS = {"meadow": 0.2, "pasture": 0.22, "ploughed": 0.13, "rows": 0.18, "grain": 0.16, "maize": 0.05, "wood": 0.06}


@dataclass(frozen=True, eq=False)
class Field:
    """A piece of land of one use: "meadow", "pasture", "ploughed", "rows", "grain", "maize" or "wood"."""

    area: Polygon
    kind: str


def draw_fields(rng: np.random.Generator, plan: Plan, taken: BaseGeometry) -> tuple[list[Field], list[np.ndarray]]:
    """Divides the land between the roads into fields.

    Args:
        rng: where the randomness comes from.
        plan: the landscape's plan.
        taken: farms and gardens.

    Returns:
        The fields, and the lines (N, 2) between them.
    """
    fields, borders = [], []
    for block in plan.blocks:
        pieces, cuts = _divided(rng, block.plots, float(rng.uniform(*_LARGEST_M2)))
        borders += [np.array(line.coords) for cut in cuts for line in _lines(cut.difference(taken.buffer(3.0)))]
        kinds = rng.choice(list(_KINDS), len(pieces), p=list(_KINDS.values()))
        for piece, kind in zip(pieces, kinds, strict=True):
            fields += [Field(area, str(kind)) for area in polygons(piece.difference(taken), 60.0)]
    return fields, borders


def _lines(shape: BaseGeometry) -> list[LineString]:
    parts = getattr(shape, "geoms", [shape])
    return [part for part in parts if isinstance(part, LineString) and part.length > 8.0]


def _divided(
    rng: np.random.Generator, land: BaseGeometry, largest_m2: float
) -> tuple[list[Polygon], list[BaseGeometry]]:
    """Pieces of land that are small enough, and the cuts between them, each across the longer side."""
    done: list[Polygon] = []
    cuts: list[BaseGeometry] = []
    pending = polygons(land)
    while pending:
        piece = pending.pop()
        if piece.area < largest_m2 and not piece.interiors:
            done.append(piece)
            continue
        corners = np.array(piece.minimum_rotated_rectangle.exterior.coords)[:4]
        sides = np.diff(corners[:3], axis=0)
        if np.linalg.norm(sides[0]) < np.linalg.norm(sides[1]):
            corners, sides = corners[[1, 2, 3, 0]], np.stack([sides[1], -sides[0]])
        start, end = (corners[0] + sides[0] * rng.uniform(0.36, 0.64) + 1.02 * k * sides[1] for k in (0, 1))
        cut = LineString([start - 0.02 * sides[1], end])
        parts = polygons(split(piece, cut))
        if len(parts) < 2:
            done.append(piece)
            continue
        cuts.append(cut.intersection(piece))
        pending += parts
    return done, cuts


def _furrows(area: Polygon, spacing_m: float) -> np.ndarray:
    """(R, 2, 2) ends of parallel lines over a field, along its longest side."""
    inner = area.buffer(-_HEADLAND_M)
    ring = np.array(area.exterior.coords)
    sides = np.diff(ring, axis=0)
    x, y = sides[np.linalg.norm(sides, axis=1).argmax()]
    along = curves.unit(np.array([x, y]))
    across = curves.left_of(along)
    middle, reach = np.array(area.centroid.coords[0]), 0.5 * np.hypot(*(np.ptp(ring, axis=0)))
    offsets = np.arange(-reach, reach, spacing_m)
    whole = [LineString([middle + o * across - reach * along, middle + o * across + reach * along]) for o in offsets]
    found = [line for one in whole for line in _lines(one.intersection(inner))]
    return np.array([line.coords for line in found]).reshape(-1, 2, 2)


def _ridges(lines: np.ndarray, width_m: float, height_m: float, covering: Paint) -> Mesh:
    """Long heaps along lines (R, 2, 2): two slopes each, and an upright face at either end."""
    if not len(lines):
        return merge([])
    across = 0.5 * width_m * curves.left_of(curves.unit(lines[:, 1] - lines[:, 0]))[:, None]  # (R, 1, 2)
    sides = [(lines + shift, z) for shift, z in ((across, 0.0), (0 * across, height_m), (-across, 0.0))]
    left, top, right = (np.dstack([xy, np.full(xy.shape[:2], _GROUND_Z_M + 0.004 + z)]) for xy, z in sides)  # (R, 2, 3)
    slopes = [np.stack([a[:, 0], b[:, 0], b[:, 1], a[:, 1]], axis=1) for a, b in ((left, top), (top, right))]
    ends = ((right, left, 0), (left, right, 1))
    slopes += [np.stack([b[:, k], a[:, k], top[:, k], top[:, k]], axis=1) for a, b, k in ends]
    return quads(np.concatenate(slopes), covering)


def _standing_crop(area: Polygon, height_m: float, covering: Paint) -> Mesh:
    """A crop so dense that only its outside is seen."""
    meshes = []
    for part in polygons(area.buffer(-_HEADLAND_M).simplify(0.3), 30.0):
        outline, holes = rings(part)
        meshes.append(prism(outline, (PLOT_Z_M, PLOT_Z_M + height_m), covering, holes=holes))
    return merge(meshes)


def grown(rng: np.random.Generator, field: Field) -> Mesh:
    """What covers a field, trees left out.

    Args:
        rng: where the randomness comes from.
        field: the field.

    Returns:
        Its ground, and its crop.
    """
    soil = {"pasture": "grass", "grain": "grass", "ploughed": "soil", "rows": "soil", "wood": "soil"}
    meshes = [sheet(field.area, _GROUND_Z_M, paint(soil.get(field.kind, "meadow"), "flat.terrain"))]
    if field.kind == "ploughed":
        meshes.append(_ridges(_furrows(field.area, 1.6), 1.2, 0.18, paint("bark", "flat.terrain")))
    elif field.kind == "rows":
        height = float(rng.uniform(0.15, 0.6))  # what is low would be lost in the gaps between leaves
        plants = paint("grass" if height < 0.4 else f"leaves_{rng.integers(4)}", "static.vegetation")
        meshes.append(_ridges(_furrows(field.area, 1.5), 0.9, height, plants))
    elif field.kind == "grain":
        ripe = "cloth_khaki" if rng.random() < 0.6 else "leaves_3"
        meshes.append(_standing_crop(field.area, float(rng.uniform(0.5, 0.85)), paint(ripe, "static.vegetation")))
    elif field.kind == "maize":
        meshes.append(_standing_crop(field.area, float(rng.uniform(1.2, 2.0)), paint("hedge", "static.vegetation")))
    elif field.kind == "wood":
        thicket = paint(f"leaves_{rng.choice([0, 2])}", "static.vegetation")
        height = float(rng.uniform(4.5, 6.5))
        meshes.append(_standing_crop(field.area.buffer(-3.5), height, thicket))
        # Leaves have gaps, through which the dark inside is seen.
        meshes.append(_standing_crop(field.area.buffer(-4.5), height - 0.7, paint("bin", "static.vegetation")))
    return merge(meshes)


def wooded(fields: list[Field]) -> BaseGeometry:
    """The area of all woods.

    Args:
        fields: the fields.

    Returns:
        Their union.
    """
    return unary_union([field.area for field in fields if field.kind == "wood"])
