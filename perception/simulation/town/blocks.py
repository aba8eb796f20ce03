"""The land between and around the roads of a town."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from shapely.geometry import LineString, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from perception.simulation.town import curves
from perception.simulation.town.parking import CarPark

SIDEWALK_M = 3.2
"""Width of the strip between the kerb and the plots."""

OUTSKIRTS_M = 160.0
"""How far the ground reaches beyond the edges of the map."""

PATH_M = (1.15, 2.85)
"""Where a footpath beside a country road begins and ends, from the edge of the road."""

_PATH_REACH_M = 95.0
_LANDING_M = 3.0

BLOCK_KINDS = ("downtown", "residential", "park", "mixed")


@dataclass(frozen=True, eq=False)
class Block:
    """Land between roads.

    Attributes:
        land: all that lies above the kerb.
        walkway: the pavement along the kerb; in the country footpaths beside the road, where there are any.
        plots: the land behind the walkways and verges, car park left out.
        kind: one of `BLOCK_KINDS`, "outskirts" for what surrounds the town, or "country".
        paths: footpaths through a park.
    """

    land: BaseGeometry
    walkway: BaseGeometry
    plots: BaseGeometry
    kind: str
    paths: BaseGeometry


def polygons(shape: BaseGeometry, least_m2: float = 0.5) -> list[Polygon]:
    """The polygons of a shape.

    Args:
        shape: any geometry.
        least_m2: smaller ones are left out.

    Returns:
        Its polygons.
    """
    parts = getattr(shape, "geoms", [shape])
    return [part for part in parts if isinstance(part, Polygon) and part.area >= least_m2]


def without_holes(shape: BaseGeometry, center: np.ndarray) -> list[Polygon]:
    """A shape cut along the lines through a point into polygons that have no holes.

    Args:
        shape: rings around the point, or polygons without holes.
        center: (2,) the point.

    Returns:
        Polygons that together make the shape.
    """
    far, (x, y) = 2000.0, center
    quarters = [box(x, y, far, far), box(-far, y, x, far), box(-far, -far, x, y), box(x, -far, far, y)]
    return [part for quarter in quarters for part in polygons(shape.intersection(quarter))]


def _block_kinds(rng: np.random.Generator, count: int) -> list[str]:
    """The kinds of the inner blocks: each kind at least once where there is room."""
    kinds = list(BLOCK_KINDS) + list(rng.choice(["downtown", "residential", "mixed", "mixed"], max(count, 4)))
    return [str(kinds[i]) for i in rng.permutation(count)]


def _paths(rng: np.random.Generator, plots: Polygon, kind: str) -> BaseGeometry:
    """Two footpaths that cross in the middle of a park; nothing in other blocks."""
    if kind != "park":
        return Polygon()
    center = np.array(plots.centroid.coords[0])
    angle = rng.uniform(0, np.pi)
    strips = []
    for turn in (angle, angle + rng.uniform(1.1, 1.9)):
        reach = 150 * np.array([np.cos(turn), np.sin(turn)])
        bend = center + rng.uniform(-4, 4, 2)
        line = LineString([center - reach, bend, center + reach])
        strips.append(line.buffer(1.3, cap_style="flat", join_style="mitre"))
    return unary_union(strips).intersection(plots.buffer(0.05))


def town_blocks(
    rng: np.random.Generator, surface: Polygon, car_parks: Sequence[CarPark], size_m: tuple[float, float]
) -> list[Block]:
    """Draws the land in the gaps of the road surface, and around it.

    Args:
        rng: where the randomness comes from.
        surface: the area between kerbs.
        car_parks: car parks inside the gaps.
        size_m: width and height of the map.

    Returns:
        The blocks; the land around the town comes last.
    """
    built = unary_union([shape for park in car_parks for shape in (park.polygon, park.driveway)])
    blocks = []
    inner = [Polygon(ring) for ring in surface.interiors]
    for whole, kind in zip(inner, _block_kinds(rng, len(inner)), strict=True):
        land, behind = whole.difference(built), whole.buffer(-SIDEWALK_M)
        plots = behind.difference(built)
        blocks.append(Block(land, land.difference(behind), plots, kind, _paths(rng, plots, kind)))
    town = Polygon(surface.exterior)
    around = town.buffer(SIDEWALK_M)
    world = box(-OUTSKIRTS_M, -OUTSKIRTS_M, size_m[0] + OUTSKIRTS_M, size_m[1] + OUTSKIRTS_M)
    outskirts = Block(world.difference(town), around.difference(town), world.difference(around), "outskirts", Polygon())
    return [*blocks, outskirts]


def landing(crossing: np.ndarray, end: int) -> Polygon:
    """Where people step from a footpath onto a crossing of a country road.

    Args:
        crossing: (2, 2) from kerb to kerb.
        end: at which of its ends.

    Returns:
        A rectangle from the edge of the road to the footpath; its second and third corner lie at the path.
    """
    outward = curves.unit(crossing[end] - crossing[1 - end])
    aside = _LANDING_M / 2 * curves.left_of(outward)
    road, path = crossing[end] - 0.1 * outward, crossing[end] + (PATH_M[0] + 0.1) * outward
    return Polygon([road - aside, path - aside, path + aside, road + aside])


def country_blocks(
    surface: Polygon, car_parks: Sequence[CarPark], crossings: Sequence[np.ndarray], size_m: tuple[float, float]
) -> list[Block]:
    """The land in the gaps between country roads, and around them, with footpaths where people cross.

    Args:
        surface: the area of the roads.
        car_parks: car parks inside the gaps.
        crossings: (2, 2) lines from kerb to kerb along which people cross.
        size_m: width and height of the map.

    Returns:
        The blocks; the land around all roads comes last.
    """
    built = unary_union([shape for park in car_parks for shape in (park.polygon, park.driveway)])
    near = unary_union([LineString(line).centroid.buffer(_PATH_REACH_M) for line in crossings])
    from_kerb = unary_union([landing(line, end) for line in crossings for end in (0, 1)])
    world = box(-OUTSKIRTS_M, -OUTSKIRTS_M, size_m[0] + OUTSKIRTS_M, size_m[1] + OUTSKIRTS_M)
    blocks = []
    for whole in [*(Polygon(ring) for ring in surface.interiors), world.difference(Polygon(surface.exterior))]:
        inside = [whole.difference(surface.buffer(distance)) for distance in (*PATH_M, SIDEWALK_M)]
        first = inside[0].union(whole.intersection(from_kerb))
        path = first.difference(inside[1]).intersection(near).difference(built)
        blocks.append(Block(whole.difference(built), path, inside[2].difference(built), "country", Polygon()))
    return blocks
