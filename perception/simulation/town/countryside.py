"""The static world of a rural landscape: ground, fields, farms, plants, roadside and horizon."""

from __future__ import annotations

import numpy as np
from shapely.geometry import Polygon
from shapely.ops import unary_union

from perception.simulation.mesh import Mesh, merge
from perception.simulation.town.buildings import draw_style
from perception.simulation.town.country_ground import country_ground, country_markings
from perception.simulation.town.farms import build_homestead, draw_homesteads
from perception.simulation.town.fields import draw_fields, grown
from perception.simulation.town.hedgerows import plant
from perception.simulation.town.horizon import far_woods, hills
from perception.simulation.town.plan import Plan
from perception.simulation.town.roadside import furnish_roads
from perception.simulation.town.surfaces import patches


def build_countryside(seed: int, split: str, plan: Plan) -> Mesh:
    """Builds the static world of a rural landscape.

    Args:
        seed: what its looks are drawn from.
        split: "train", "val" or "test", which decides the style of its buildings.
        plan: its plan.

    Returns:
        Its mesh.
    """
    style_rng, farm_rng, field_rng, plant_rng, road_rng, far_rng = (
        np.random.default_rng([seed, k]) for k in (2, 12, 13, 14, 15, 16)
    )
    style = draw_style(style_rng, split)
    homesteads = draw_homesteads(farm_rng, plan)
    lands = [site.area() for site in homesteads]
    drives = unary_union([site.drive() for site in homesteads] or [Polygon()])
    fields, borders = draw_fields(field_rng, plan, unary_union(lands or [Polygon()]))
    meshes = [country_ground(plan), country_markings(plan), patches(road_rng, plan)]
    meshes += [build_homestead(farm_rng, style, site) for site in homesteads]
    meshes += [grown(field_rng, field) for field in fields]
    meshes += [plant(plant_rng, plan, fields, borders, lands), furnish_roads(road_rng, plan, drives)]
    return merge([*meshes, hills(far_rng, plan.size_m), far_woods(far_rng, plan.size_m)])
