"""What surfaces of the simulated world are made of: colours, procedural patterns and answers to laser light."""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import NamedTuple

import numpy as np


class Pattern(IntEnum):
    """Procedural textures; a shader draws them from the position on the surface."""

    PLAIN = 0
    NOISE = 1
    BRICK = 2
    CONCRETE = 3
    ASPHALT = 4
    PAVING = 5
    GRASS = 6
    LEAVES = 7
    BARK = 8
    ROOF_TILES = 9
    PLANKS = 10
    CLADDING = 11
    WINDOWS = 12
    STRIPES = 13
    GRAVEL = 14


class Material(NamedTuple):
    """One surface kind.

    Attributes:
        name: what it is called.
        albedo: diffuse colour, linear RGB in 0..1.
        pattern: its procedural texture.
        scale_m: period of the texture.
        contrast: how much the texture darkens or lightens the albedo, 0..1.
        gloss: strength of mirrored light, 0..1.
        emission: light given off, in units of white paper in full sun.
        lidar_reflectivity: diffuse reflectivity at 905 nm, 0..1.
        lidar_gloss: share of a pulse returned as by a retroreflector, 0..1.
    """

    name: str
    albedo: tuple[float, float, float]
    pattern: Pattern = Pattern.PLAIN
    scale_m: float = 1.0
    contrast: float = 0.0
    gloss: float = 0.0
    emission: float = 0.0
    lidar_reflectivity: float = 0.3
    lidar_gloss: float = 0.0


def _ground() -> list[Material]:
    return [
        Material("asphalt", (0.060, 0.060, 0.064), Pattern.ASPHALT, 0.35, 0.35, 0.05, 0.0, 0.07),
        Material("asphalt_lot", (0.085, 0.084, 0.082), Pattern.ASPHALT, 0.35, 0.4, 0.03, 0.0, 0.09),
        Material("asphalt_patch", (0.035, 0.035, 0.038), Pattern.ASPHALT, 0.3, 0.3, 0.06, 0.0, 0.05),
        Material("marking_white", (0.62, 0.62, 0.60), Pattern.NOISE, 0.4, 0.25, 0.05, 0.0, 0.55, 0.15),
        Material("marking_yellow", (0.62, 0.42, 0.06), Pattern.NOISE, 0.4, 0.25, 0.05, 0.0, 0.45, 0.15),
        Material("kerb", (0.36, 0.35, 0.33), Pattern.CONCRETE, 1.0, 0.2, 0.0, 0.0, 0.3),
        Material("sidewalk", (0.27, 0.26, 0.25), Pattern.PAVING, 0.9, 0.25, 0.0, 0.0, 0.26),
        Material("plaza", (0.32, 0.27, 0.23), Pattern.PAVING, 0.45, 0.35, 0.0, 0.0, 0.26),
        Material("path", (0.34, 0.29, 0.22), Pattern.GRAVEL, 0.2, 0.35, 0.0, 0.0, 0.28),
        Material("grass", (0.085, 0.135, 0.035), Pattern.GRASS, 0.5, 0.5, 0.0, 0.0, 0.45),
        Material("meadow", (0.13, 0.15, 0.055), Pattern.GRASS, 0.9, 0.55, 0.0, 0.0, 0.42),
        Material("soil", (0.12, 0.085, 0.055), Pattern.GRAVEL, 0.3, 0.4, 0.0, 0.0, 0.2),
        Material("manhole", (0.05, 0.05, 0.05), Pattern.STRIPES, 0.08, 0.4, 0.15, 0.0, 0.2),
    ]


def _walls() -> list[Material]:
    render = [(0.55, 0.50, 0.42), (0.60, 0.57, 0.52), (0.52, 0.40, 0.28), (0.42, 0.44, 0.46), (0.50, 0.33, 0.26)]
    brick = [(0.29, 0.12, 0.08), (0.36, 0.20, 0.13), (0.20, 0.11, 0.09), (0.42, 0.32, 0.22)]
    slabs = [(0.36, 0.35, 0.33), (0.24, 0.24, 0.25), (0.46, 0.43, 0.38)]
    boards = [(0.50, 0.51, 0.50), (0.30, 0.37, 0.43), (0.46, 0.42, 0.26), (0.34, 0.40, 0.30)]
    materials = [Material(f"render_{i}", c, Pattern.NOISE, 2.5, 0.15, 0.0, 0.0, 0.4) for i, c in enumerate(render)]
    materials += [Material(f"brick_{i}", c, Pattern.BRICK, 0.25, 0.35, 0.0, 0.0, 0.3) for i, c in enumerate(brick)]
    materials += [Material(f"slab_{i}", c, Pattern.CONCRETE, 1.6, 0.2, 0.02, 0.0, 0.33) for i, c in enumerate(slabs)]
    materials += [Material(f"boards_{i}", c, Pattern.CLADDING, 0.2, 0.3, 0.0, 0.0, 0.4) for i, c in enumerate(boards)]
    return materials


def _building_parts() -> list[Material]:
    roofs = [(0.24, 0.09, 0.055), (0.13, 0.11, 0.10), (0.30, 0.15, 0.09), (0.17, 0.18, 0.19)]
    signs = [(0.50, 0.04, 0.05), (0.03, 0.14, 0.40), (0.03, 0.28, 0.11), (0.62, 0.42, 0.04), (0.07, 0.07, 0.08)]
    signs += [(0.36, 0.10, 0.32), (0.66, 0.64, 0.60)]
    materials = [Material(f"tiles_{i}", c, Pattern.ROOF_TILES, 0.3, 0.35, 0.0, 0.0, 0.25) for i, c in enumerate(roofs)]
    materials += [Material(f"shop_sign_{i}", c, Pattern.PLAIN, 1.0, 0.0, 0.1, 0.0, 0.4) for i, c in enumerate(signs)]
    materials += [Material(f"awning_{i}", c, Pattern.STRIPES, 0.5, 0.45, 0.0, 0.0, 0.4) for i, c in enumerate(signs)]
    materials += [
        Material("flat_roof", (0.22, 0.21, 0.20), Pattern.GRAVEL, 0.4, 0.25, 0.0, 0.0, 0.25),
        Material("trim_light", (0.60, 0.58, 0.54), Pattern.NOISE, 1.0, 0.08, 0.0, 0.0, 0.45),
        Material("trim_dark", (0.09, 0.09, 0.10), Pattern.NOISE, 1.0, 0.1, 0.05, 0.0, 0.15),
        Material("window", (0.045, 0.060, 0.075), Pattern.PLAIN, 1.0, 0.0, 0.75, 0.0, 0.04),
        Material("window_blind", (0.34, 0.32, 0.28), Pattern.STRIPES, 0.12, 0.25, 0.45, 0.0, 0.12),
        Material("window_lit", (0.35, 0.27, 0.15), Pattern.PLAIN, 1.0, 0.0, 0.35, 0.22, 0.06),
        Material("glass_front", (0.06, 0.08, 0.085), Pattern.PLAIN, 1.0, 0.0, 0.8, 0.03, 0.05),
        Material("curtain_wall", (0.075, 0.12, 0.155), Pattern.WINDOWS, 1.5, 0.35, 0.8, 0.0, 0.06),
        Material("door_0", (0.19, 0.09, 0.05), Pattern.PLANKS, 0.2, 0.25, 0.1, 0.0, 0.25),
        Material("door_1", (0.05, 0.09, 0.14), Pattern.PLAIN, 1.0, 0.0, 0.15, 0.0, 0.2),
        Material("garage_door", (0.42, 0.42, 0.40), Pattern.CLADDING, 0.3, 0.25, 0.05, 0.0, 0.4),
    ]
    return materials


def _furniture() -> list[Material]:
    return [
        Material("steel", (0.30, 0.31, 0.32), Pattern.NOISE, 0.5, 0.1, 0.35, 0.0, 0.35),
        Material("steel_dark", (0.055, 0.06, 0.06), Pattern.PLAIN, 1.0, 0.0, 0.25, 0.0, 0.12),
        Material("steel_green", (0.03, 0.10, 0.06), Pattern.PLAIN, 1.0, 0.0, 0.25, 0.0, 0.15),
        Material("lamp", (0.8, 0.75, 0.6), Pattern.PLAIN, 1.0, 0.0, 0.2, 0.6, 0.4),
        Material("signal_housing", (0.03, 0.03, 0.028), Pattern.PLAIN, 1.0, 0.0, 0.15, 0.0, 0.08),
        Material("signal_dark", (0.05, 0.04, 0.035), Pattern.PLAIN, 1.0, 0.0, 0.4, 0.0, 0.1),
        Material("signal_red", (0.9, 0.05, 0.03), Pattern.PLAIN, 1.0, 0.0, 0.1, 1.2, 0.3),
        Material("signal_amber", (0.9, 0.45, 0.03), Pattern.PLAIN, 1.0, 0.0, 0.1, 1.2, 0.3),
        Material("signal_green", (0.05, 0.85, 0.35), Pattern.PLAIN, 1.0, 0.0, 0.1, 1.2, 0.3),
        Material("sign_red", (0.52, 0.03, 0.04), Pattern.PLAIN, 1.0, 0.0, 0.1, 0.0, 0.6, 0.9),
        Material("sign_blue", (0.02, 0.10, 0.42), Pattern.PLAIN, 1.0, 0.0, 0.1, 0.0, 0.6, 0.8),
        Material("sign_yellow", (0.72, 0.50, 0.03), Pattern.PLAIN, 1.0, 0.0, 0.1, 0.0, 0.6, 0.9),
        Material("sign_white", (0.70, 0.70, 0.68), Pattern.PLAIN, 1.0, 0.0, 0.1, 0.0, 0.6, 0.9),
        Material("sign_green", (0.02, 0.22, 0.11), Pattern.PLAIN, 1.0, 0.0, 0.1, 0.0, 0.6, 0.8),
        Material("wood", (0.22, 0.14, 0.08), Pattern.PLANKS, 0.14, 0.3, 0.0, 0.0, 0.35),
        Material("fence_wood", (0.28, 0.20, 0.13), Pattern.PLANKS, 0.15, 0.35, 0.0, 0.0, 0.38),
        Material("fence_white", (0.60, 0.60, 0.58), Pattern.PLANKS, 0.15, 0.2, 0.0, 0.0, 0.5),
        Material("stone_wall", (0.28, 0.26, 0.23), Pattern.BRICK, 0.45, 0.35, 0.0, 0.0, 0.3),
        Material("hydrant", (0.50, 0.06, 0.03), Pattern.PLAIN, 1.0, 0.0, 0.25, 0.0, 0.4),
        Material("post_box", (0.04, 0.10, 0.34), Pattern.PLAIN, 1.0, 0.0, 0.3, 0.0, 0.3),
        Material("bin", (0.05, 0.13, 0.07), Pattern.PLAIN, 1.0, 0.0, 0.1, 0.0, 0.2),
    ]


def _plants() -> list[Material]:
    leaves = [(0.055, 0.105, 0.028), (0.085, 0.13, 0.035), (0.045, 0.085, 0.035), (0.12, 0.135, 0.035)]
    materials = [Material(f"leaves_{i}", c, Pattern.LEAVES, 0.45, 0.6, 0.0, 0.0, 0.5) for i, c in enumerate(leaves)]
    materials += [
        Material("needles", (0.035, 0.070, 0.035), Pattern.LEAVES, 0.3, 0.6, 0.0, 0.0, 0.42),
        Material("hedge", (0.050, 0.090, 0.028), Pattern.LEAVES, 0.25, 0.6, 0.0, 0.0, 0.5),
        Material("flowers", (0.40, 0.12, 0.16), Pattern.LEAVES, 0.15, 0.7, 0.0, 0.0, 0.5),
        Material("bark", (0.12, 0.085, 0.06), Pattern.BARK, 0.15, 0.4, 0.0, 0.0, 0.3),
        Material("bark_light", (0.28, 0.26, 0.22), Pattern.BARK, 0.3, 0.5, 0.0, 0.0, 0.4),
    ]
    return materials


def _actors() -> list[Material]:
    paints = {
        "white": (0.68, 0.68, 0.67), "silver": (0.40, 0.41, 0.42), "grey": (0.15, 0.155, 0.16),
        "black": (0.014, 0.014, 0.016), "red": (0.38, 0.022, 0.024), "blue": (0.02, 0.06, 0.24),
        "navy": (0.012, 0.022, 0.065), "green": (0.02, 0.10, 0.055), "yellow": (0.66, 0.40, 0.02),
        "orange": (0.60, 0.17, 0.015), "brown": (0.10, 0.055, 0.032), "beige": (0.43, 0.37, 0.27),
        "teal": (0.02, 0.20, 0.22), "maroon": (0.13, 0.012, 0.022),
    }  # fmt: skip
    cloths = {
        "black": (0.02, 0.02, 0.022), "white": (0.62, 0.62, 0.60), "grey": (0.17, 0.17, 0.18),
        "navy": (0.02, 0.03, 0.085), "denim": (0.06, 0.10, 0.20), "red": (0.42, 0.03, 0.035),
        "green": (0.045, 0.14, 0.05), "khaki": (0.28, 0.23, 0.14), "yellow": (0.60, 0.44, 0.05),
        "pink": (0.55, 0.20, 0.27), "purple": (0.15, 0.05, 0.22), "blue": (0.05, 0.16, 0.42),
        "brown": (0.14, 0.08, 0.045),
    }  # fmt: skip
    skins = [(0.50, 0.30, 0.22), (0.34, 0.19, 0.12), (0.16, 0.085, 0.05), (0.60, 0.40, 0.30)]
    materials = [
        Material(f"car_{name}", c, gloss=0.6, lidar_reflectivity=min(0.08 + 0.6 * max(c), 0.6), lidar_gloss=0.02)
        for name, c in paints.items()
    ]
    materials += [
        Material(f"cloth_{name}", c, Pattern.NOISE, 0.2, 0.15, 0.0, 0.0, min(0.12 + 0.6 * max(c), 0.55))
        for name, c in cloths.items()
    ]
    return (
        materials + [Material(f"skin_{i}", c, lidar_reflectivity=0.4) for i, c in enumerate(skins)] + _vehicle_parts()
    )


def _vehicle_parts() -> list[Material]:
    return [
        Material("hair_dark", (0.02, 0.015, 0.012), lidar_reflectivity=0.15),
        Material("hair_light", (0.24, 0.15, 0.07), lidar_reflectivity=0.3),
        Material("car_glass", (0.022, 0.028, 0.032), gloss=0.85, lidar_reflectivity=0.03),
        Material("tyre", (0.022, 0.022, 0.024), lidar_reflectivity=0.06),
        Material("rim", (0.36, 0.36, 0.37), gloss=0.5, lidar_reflectivity=0.35),
        Material("plastic_black", (0.025, 0.025, 0.027), gloss=0.1, lidar_reflectivity=0.08),
        Material("chrome", (0.50, 0.50, 0.52), gloss=0.8, lidar_reflectivity=0.4),
        Material("headlamp", (0.75, 0.76, 0.74), gloss=0.7, emission=0.15, lidar_reflectivity=0.4, lidar_gloss=0.4),
        Material("tail_lamp", (0.45, 0.02, 0.02), gloss=0.6, emission=0.12, lidar_reflectivity=0.4, lidar_gloss=0.7),
        Material("brake_lamp", (0.85, 0.05, 0.03), gloss=0.4, emission=0.9, lidar_reflectivity=0.4, lidar_gloss=0.7),
        Material("number_plate", (0.70, 0.70, 0.66), lidar_reflectivity=0.6, lidar_gloss=0.9),
        Material("chassis", (0.035, 0.035, 0.036), lidar_reflectivity=0.1),
        Material("tarpaulin", (0.38, 0.40, 0.43), Pattern.NOISE, 0.8, 0.12, 0.0, 0.0, 0.4),
        Material("cargo_metal", (0.52, 0.53, 0.54), Pattern.CLADDING, 0.4, 0.15, 0.2, 0.0, 0.45),
        Material("machine_yellow", (0.62, 0.36, 0.015), Pattern.NOISE, 0.6, 0.15, 0.2, 0.0, 0.45),
        Material("hi_vis", (0.60, 0.80, 0.05), lidar_reflectivity=0.6, lidar_gloss=0.6),
        Material("hi_vis_orange", (0.90, 0.26, 0.02), lidar_reflectivity=0.6, lidar_gloss=0.6),
        Material("cone_orange", (0.80, 0.17, 0.015), lidar_reflectivity=0.5),
        Material("reflective_white", (0.72, 0.72, 0.70), lidar_reflectivity=0.6, lidar_gloss=0.9),
        Material("barrier_red", (0.58, 0.05, 0.03), lidar_reflectivity=0.5, lidar_gloss=0.5),
        Material("barrier_concrete", (0.40, 0.39, 0.36), Pattern.CONCRETE, 1.0, 0.25, 0.0, 0.0, 0.35),
        Material("leather", (0.06, 0.04, 0.03), lidar_reflectivity=0.12),
    ]


MATERIALS: tuple[Material, ...] = tuple(_ground() + _walls() + _building_parts() + _furniture() + _plants() + _actors())
"""Every material of the world; a mesh stores indices into this tuple."""

_VARIED = len(_ground() + _walls() + _building_parts() + _furniture() + _plants())

MATERIAL_DTYPE = np.dtype(
    [
        ("albedo", np.float32, 3),
        ("pattern", np.int32),
        ("scale_m", np.float32),
        ("contrast", np.float32),
        ("gloss", np.float32),
        ("emission", np.float32),
        ("lidar_reflectivity", np.float32),
        ("lidar_gloss", np.float32),
    ]
)
"""One row of the table that a shader reads."""


@cache
def _index_of() -> dict[str, int]:
    return {material.name: i for i, material in enumerate(MATERIALS)}


def material_index(name: str) -> int:
    """The index of a material in `MATERIALS`.

    Args:
        name: its name.

    Returns:
        The index.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        return _index_of()[name]
    except KeyError:
        raise ValueError(f"material_index: name must be a name in MATERIALS, got {name!r}") from None


_TEXTURES = {
    "train": ((0.0, 0.10), (0.85, 1.05)),
    "val": ((-0.065, -0.02), (1.10, 1.21)),
    "test": ((-0.12, -0.075), (1.24, 1.35)),
}
"""By split, the ranges of the warmth of a town's colours and of the size of its textures."""


def town_materials(seed: int, split: str = "train") -> np.ndarray:
    """The materials of one town: the same surfaces in its own colours and texture sizes.

    The splits draw from disjoint ranges of warmth and texture size, so that a test town is no town of the training set
    in another order. What moves (vehicles, people) looks the same everywhere.

    Args:
        seed: the town's seed.
        split: "train", "val" or "test".

    Returns:
        (len(MATERIALS),) structured array of `MATERIAL_DTYPE`.

    Raises:
        ValueError: another split.
    """
    if split not in _TEXTURES:
        raise ValueError(f"town_materials: split must be one of {', '.join(_TEXTURES)}, got {split!r}")
    (coldest, warmest), (finest, coarsest) = _TEXTURES[split]
    rng = np.random.default_rng([seed, 11])
    table = np.array([tuple(material)[1:] for material in MATERIALS], dtype=MATERIAL_DTYPE)
    count = _VARIED
    warmth = rng.uniform(coldest, warmest)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])  # (3,)
    brightness = rng.uniform(0.82, 1.18, (count, 1))
    hue = rng.uniform(0.93, 1.07, (count, 3))
    table["albedo"][:count] = np.clip(table["albedo"][:count] * tint * brightness * hue, 0.01, 0.85)
    table["scale_m"][:count] *= rng.uniform(finest, coarsest, count)
    table["contrast"][:count] *= rng.uniform(0.8, 1.2, count)
    table["lidar_reflectivity"][:count] *= rng.uniform(0.9, 1.1, count)
    return table
