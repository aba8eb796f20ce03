"""Towns built from their seeds."""

from __future__ import annotations

import numpy as np
from shapely.geometry import Polygon

from perception.simulation.materials import town_materials
from perception.simulation.mesh import Mesh, merge
from perception.simulation.town.buildings import draw_buildings, draw_style
from perception.simulation.town.countryside import build_countryside
from perception.simulation.town.districts import DISTRICT_M, LOCATIONS, district_origin
from perception.simulation.town.furnish import furnish
from perception.simulation.town.plan import Plan, draw_plan
from perception.simulation.town.surfaces import ground, markings, patches
from perception.simulation.town.town import LANDSCAPES, Landscape, SignalHead, Town

_OWN_SEEDS = {"train": (2, 0), "val": (4, 1), "test": (4, 3)}
"""By split, what a town's seed is multiplied with and raised by: towns of two splits have nothing in common."""


def build_town(
    seed: int,
    split: str = "train",
    location: str = "boston-seaport",
    district: int = 0,
    landscape: Landscape = "town",
) -> Town:
    """Builds a town; the same arguments give the same town.

    Args:
        seed: what its layout and its looks are drawn from.
        split: "train", "val" or "test": towns of these differ in colours and textures, and in layout at equal seeds.
        location: the nuScenes map name it goes by, which also decides the side of traffic.
        district: where on the map of that location it lies, which changes nothing else.
        landscape: "town", or "rural" for country roads through fields.

    Returns:
        The town.

    Raises:
        ValueError: a negative seed, or an unknown split, location, district or landscape.
    """
    if seed < 0:
        raise ValueError(f"build_town: seed must be at least 0, got {seed}")
    if split not in _OWN_SEEDS:
        raise ValueError(f"build_town: split must be one of {', '.join(_OWN_SEEDS)}, got {split!r}")
    if location not in LOCATIONS:
        raise ValueError(f"build_town: location must be one of {LOCATIONS}, got {location!r}")
    if landscape not in LANDSCAPES:
        raise ValueError(f"build_town: landscape must be one of {', '.join(LANDSCAPES)}, got {landscape!r}")
    origin_m = district_origin(location, district)
    factor, summand = _OWN_SEEDS[split]
    own_seed = factor * seed + summand
    plan = draw_plan(own_seed, location.startswith("boston"), landscape)
    assert max(plan.size_m) <= DISTRICT_M, "towns fit their districts by the spacing of their roads"
    if landscape == "rural":
        mesh, signal_heads = build_countryside(own_seed, split, plan), list[SignalHead]()
    else:
        mesh, signal_heads = _build_streets(own_seed, split, plan)
    return Town(
        name=f"{split}-{seed}",
        seed=seed,
        split=split,
        location=location,
        origin_m=origin_m,
        size_m=plan.size_m,
        mesh=mesh,
        materials=town_materials(own_seed, split),
        lanes=plan.lanes,
        areas=plan.areas,
        dividers=plan.dividers,
        stop_lines=plan.stop_lines,
        crossings=plan.crossings,
        junctions=plan.junctions,
        parking_slots=plan.parking_slots,
        walkways=plan.walkways,
        signal_heads=tuple(signal_heads),
        landscape=landscape,
    )


def _build_streets(seed: int, split: str, plan: Plan) -> tuple[Mesh, list[SignalHead]]:
    """The static world of a town, and the faces of its traffic lights."""
    style_rng, building_rng, furniture_rng, patch_rng = (np.random.default_rng([seed, k]) for k in (2, 3, 4, 5))
    taken: list[Polygon] = []
    buildings, sites = draw_buildings(building_rng, draw_style(style_rng, split), plan, taken)
    furniture, signal_heads = furnish(furniture_rng, plan, sites, taken)
    return merge([ground(plan), markings(plan), patches(patch_rng, plan), buildings, furniture]), signal_heads
