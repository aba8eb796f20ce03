"""Surfaces in the rain: darker, glossier where water stands or runs, dull for laser light.

Sources: Lekner and Dorf 1988, "Why some things are darker when wet" (water passes light back into the surface, so that
porous ground keeps about half of its albedo); Lambert 1992 and Shin et al. 2019 on 905 nm and wet asphalt (a third to a
half of the reflectivity is left).
"""

from __future__ import annotations

import numpy as np

from perception.simulation.materials import MATERIALS
from perception.simulation.weather import Weather

_SOAKED = {
    # name's beginning: albedo left, gloss of the film of water, reflectivity for laser light left
    "asphalt": (0.50, 0.62, 0.40),
    "marking": (0.80, 0.50, 0.55),
    "manhole": (0.60, 0.60, 0.50),
    "kerb": (0.62, 0.40, 0.55),
    "sidewalk": (0.60, 0.46, 0.55),
    "plaza": (0.60, 0.52, 0.55),
    "path": (0.55, 0.20, 0.55),
    "soil": (0.55, 0.20, 0.50),
    "grass": (0.80, 0.06, 0.75),
    "meadow": (0.80, 0.06, 0.75),
    "tiles": (0.70, 0.30, 0.60),
    "flat_roof": (0.60, 0.30, 0.55),
    "barrier_concrete": (0.65, 0.15, 0.60),
    "bark": (0.65, 0.05, 0.70),
    "wood": (0.65, 0.12, 0.65),
    "fence_wood": (0.65, 0.10, 0.65),
    "stone_wall": (0.75, 0.10, 0.70),
    "cloth": (0.75, 0.03, 0.75),
}

FLAT = np.array([m.name.startswith(("asphalt", "marking", "manhole", "sidewalk", "plaza", "kerb")) for m in MATERIALS])
"""(M,) bool: rough ground that mirrors once it is wet; what it mirrors is drawn out upward."""


def in_weather(materials: np.ndarray, weather: Weather) -> np.ndarray:
    """The materials of a town as weather leaves them.

    Args:
        materials: (M,) table of `materials.MATERIAL_DTYPE`, dry.
        weather: of the scene.

    Returns:
        The table, which is the same one unless it rains; else a copy.
    """
    if weather.kind != "rain":
        return materials
    wet = materials.copy()
    film = min(0.6 + 0.4 * weather.rain_mm_h / 10.0, 1.0)  # how much of the water there can be stands there
    for row, material in enumerate(MATERIALS):
        soaked = next((values for name, values in _SOAKED.items() if material.name.startswith(name)), None)
        if soaked is not None:
            albedo, gloss, reflectivity = soaked
            wet["albedo"][row] *= 1 - (1 - albedo) * film
            wet["gloss"][row] = max(wet["gloss"][row], gloss * film)
            wet["lidar_reflectivity"][row] *= 1 - (1 - reflectivity) * film
            wet["lidar_gloss"][row] *= 1 - 0.6 * film  # glass beads under water return little
    return wet
