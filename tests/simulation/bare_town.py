"""Towns without buildings and ground, for what asks a town for its plan alone."""

import numpy as np

from perception.simulation.materials import town_materials
from perception.simulation.mesh import merge
from perception.simulation.town.plan import draw_plan
from perception.simulation.town.town import Town


def bare_town(seed: int, drives_on_the_right: bool = True) -> Town:
    """The plan of `build_town(seed)` with an empty mesh, at a tenth of the cost."""
    plan = draw_plan(2 * seed, drives_on_the_right)
    return Town(
        name=f"train-{seed}",
        seed=seed,
        split="train",
        location="boston-seaport" if drives_on_the_right else "singapore-onenorth",
        origin_m=(0.0, 0.0),
        size_m=plan.size_m,
        mesh=merge([]),
        materials=town_materials(seed),
        lanes=plan.lanes,
        areas=plan.areas,
        dividers=plan.dividers,
        stop_lines=plan.stop_lines,
        crossings=plan.crossings,
        junctions=plan.junctions,
        parking_slots=plan.parking_slots,
        walkways=tuple(np.asarray(ring) for ring in plan.walkways),
        signal_heads=(),
    )
