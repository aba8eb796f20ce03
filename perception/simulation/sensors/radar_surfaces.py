"""How strongly surfaces of the simulated world send radar waves of 77 GHz back.

A surface is described by its radar cross-section per square metre of the area that it covers as seen from the radar,
and by how much brighter it is where it faces the radar. So what an object's cross-section is follows from what can be
seen of it: its size, its aspect, and what stands in front of it.

The factors are set so that whole objects come out near published medians: people -9 to -4 dBsm [1, 2], cars about
10 dBsm from behind, some less from a corner and some more from the side [2, 3], lorries and buses up to 25 dBsm.
Ground follows the constant-gamma law [4]: per square metre across the line of sight, the level does not depend on the
grazing angle. Roads lie near measured levels [5]; facades, kerbs, poles and plants are brighter than their flat meshes
would be, as these have no sills, gutters, joints and bolts. The lobe about the normal is that of a rough surface in
the geometric-optics limit [6].

Sources:
    [1] Yamada, Tanaka, Nishikawa: Radar cross section for pedestrian in 76 GHz band, EuMC 2005.
    [2] Matsunami, Nakamura, Kajiwara: RCS measurements for vehicles and pedestrian at 26 and 79 GHz, ICSPCS 2012;
        Fortuny-Guasch, Chareau: Radar cross section measurements of pedestrian dummies and humans in the 24/77 GHz
        frequency bands, JRC report EUR 25762, 2013.
    [3] Silberling et al.: Radar measurements of representative small light passenger vehicles, DRI-TM-14-70-1, 2014.
    [4] Skolnik: Introduction to Radar Systems, 3rd edition, section 7.
    [5] Sarabandi, Li, Nashashibi: Modeling and measurements of scattering from road surfaces at millimeter-wave
        frequencies, IEEE Transactions on Antennas and Propagation 45(11), 1997.
    [6] Ulaby, Moore, Fung: Microwave Remote Sensing II, section 12-4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.materials import MATERIALS

_ASIDE = 0.25
"""Brightness of a surface far from facing the radar; 1 is its nominal level."""

_LOBE_TANGENT = 0.21
"""Slope of the lobe about the normal, tangent of 12 degrees."""

_CATEGORIES = {
    # prefix: nominal level, square metres per square metre, and how much brighter when faced
    "vehicle.car": (1.6, 5.0),
    "vehicle.emergency": (1.6, 5.0),
    "vehicle.truck": (2.5, 6.0),
    "vehicle.bus": (2.5, 6.0),
    "vehicle.trailer": (2.5, 6.0),
    "vehicle.construction": (3.0, 4.0),
    "vehicle.motorcycle": (1.8, 3.0),
    "vehicle.bicycle": (2.2, 2.0),
    "human.pedestrian.wheelchair": (1.2, 2.0),
    "human.pedestrian.stroller": (1.2, 2.0),
    "human.pedestrian.personal_mobility": (0.8, 1.5),
    "human.pedestrian": (0.9, 1.5),
    "animal": (0.25, 1.5),
    "movable_object.barrier": (0.5, 3.0),
    "movable_object.trafficcone": (0.3, 2.0),
    "movable_object": (0.6, 2.0),
    "static_object.bicycle_rack": (1.6, 2.0),
}

_MATERIALS = {
    # prefix: nominal level, brighter when faced, share of the power that a mirrored wave keeps
    "asphalt": (0.031, 0.0, 0.0),
    "marking": (0.04, 0.0, 0.0),
    "kerb": (3.1, 2.0, 0.0),
    "sidewalk": (0.16, 0.0, 0.0),
    "plaza": (0.16, 0.0, 0.0),
    "path": (0.24, 0.0, 0.0),
    "grass": (0.59, 0.0, 0.0),
    "meadow": (0.79, 0.0, 0.0),
    "soil": (0.48, 0.0, 0.0),
    "manhole": (16.0, 0.0, 0.0),
    "render": (1.6, 5.0, 0.06),
    "brick": (2.0, 4.0, 0.04),
    "slab": (1.8, 5.0, 0.06),
    "boards": (1.6, 4.0, 0.04),
    "tiles": (1.2, 2.0, 0.0),
    "shop_sign": (4.0, 8.0, 0.12),
    "awning": (1.2, 2.0, 0.0),
    "trim": (5.9, 4.0, 0.0),
    "window": (1.6, 8.0, 0.08),
    "glass_front": (1.6, 8.0, 0.10),
    "curtain_wall": (2.0, 8.0, 0.12),
    "door": (2.4, 5.0, 0.06),
    "garage_door": (4.8, 8.0, 0.20),
    "steel": (16.0, 4.0, 0.0),
    "lamp": (12.0, 3.0, 0.0),
    "signal": (9.9, 4.0, 0.0),
    "sign": (9.9, 12.0, 0.0),
    "wood": (1.6, 2.0, 0.0),
    "fence": (2.4, 3.0, 0.0),
    "stone_wall": (2.9, 3.0, 0.0),
    "hydrant": (14.0, 3.0, 0.0),
    "post_box": (14.0, 5.0, 0.0),
    "bin": (5.9, 3.0, 0.0),
    "leaves": (0.79, 0.0, 0.0),
    "needles": (0.79, 0.0, 0.0),
    "hedge": (1.4, 0.0, 0.0),
    "flowers": (0.79, 0.0, 0.0),
    "bark": (2.4, 1.5, 0.0),
}

_OTHER_CATEGORY = (0.5, 2.0)
_OTHER_MATERIAL = (0.1, 2.0, 0.0)


def _by_prefix(name: str, table: Mapping[str, tuple[float, ...]], other: tuple[float, ...]) -> tuple[float, ...]:
    """The entry with the longest prefix of a name."""
    fitting = [prefix for prefix in table if name.startswith(prefix)]
    return table[max(fitting, key=len)] if fitting else other


_BY_CATEGORY = np.array([_by_prefix(name, _CATEGORIES, _OTHER_CATEGORY) for name in POINT_CATEGORIES])  # (32, 2)
_BY_MATERIAL = np.array([_by_prefix(it.name, _MATERIALS, _OTHER_MATERIAL) for it in MATERIALS])  # (materials, 3)


def brightness(moving: np.ndarray, semantic: np.ndarray, material: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """Cross-section per square metre across the line of sight.

    Args:
        moving: (N,) bool, whether the surface belongs to an actor, whose category then counts, or to the town.
        semantic: (N,) index into `POINT_CATEGORIES`.
        material: (N,) index into `MATERIALS`.
        cosine: (N,) of the angle of incidence.

    Returns:
        (N,) square metres per square metre, without speckle.
    """
    level, faced = np.where(moving[:, None], _BY_CATEGORY[semantic], _BY_MATERIAL[material, :2]).T  # (N,) each
    tangent_squared = 1 / np.maximum(cosine, 1e-3) ** 2 - 1
    return level * (_ASIDE + faced * np.exp(-tangent_squared / _LOBE_TANGENT**2))


def mirroring(material: np.ndarray) -> np.ndarray:
    """The share of its power (N,) that a wave keeps when a surface of a material (N,) mirrors it."""
    return _BY_MATERIAL[material, 2]
