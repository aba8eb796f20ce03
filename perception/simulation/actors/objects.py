"""Small things that stand about: traffic cones, barriers, bicycle racks, bins and debris."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from perception.simulation.actors.cycles import build_bicycle
from perception.simulation.actors.solids import Assembly

BARRIER_STYLES = ("concrete", "fence", "boards", "water")
CONE_STYLES = ("cone", "cone", "drum", "post")


def build_cone(style: str, size_lwh_m: np.ndarray) -> Assembly:
    """A traffic cone, drum or delineator post standing on z = 0.

    Args:
        style: one of `CONE_STYLES`.
        size_lwh_m: (3,) length and width of its foot, and its height.

    Returns:
        The cone.
    """
    length, width, height = (float(value) for value in size_lwh_m)
    half = np.array([length, width]) / 2
    cone = Assembly()
    foot = 0.05
    cone.block(
        (-half[0], -half[1], 0),
        (half[0], half[1], foot),
        "cone_orange" if style == "cone" else "tyre",
        top=(0.94, 0.94),
    )
    radius = {"cone": (0.80, 0.14), "drum": (0.88, 0.74), "post": (0.34, 0.28)}[style]
    edges = np.array([0.0, 0.36, 0.56, 0.68, 0.86, 1.0])
    turn = 2 * np.pi * (np.arange(8) + 0.5) / 8
    circle = np.stack((np.cos(turn) * half[0], np.sin(turn) * half[1]), axis=1)  # (8, 2)
    rings = np.empty((6, 8, 3))
    for ring, share in enumerate(edges):
        rings[ring, :, :2] = circle * (radius[0] + share * (radius[1] - radius[0]))
        rings[ring, :, 2] = foot + share * (height - foot)
    for band in range(5):
        bright = band in (1, 3)
        caps = (None, "cone_orange" if band == 4 else None)
        cone.skin(rings[band : band + 2], "reflective_white" if bright else "cone_orange", caps)
    return cone


def build_barrier(style: str, size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A road barrier standing on z = 0; its long side runs along y, as nuScenes annotates it.

    Args:
        style: one of `BARRIER_STYLES`: a concrete profile, a mesh fence, striped boards, a water-filled wall.
        size_lwh_m: (3,) thickness along x, long side along y, height.
        rng: source of colours.

    Returns:
        The barrier.
    """
    thick, span, height = (float(value) for value in size_lwh_m)
    half_x, half_y = thick / 2, span / 2
    barrier = Assembly()
    if style in ("concrete", "water"):
        material = (
            "barrier_concrete"
            if style == "concrete"
            else str(rng.choice(("barrier_red", "reflective_white", "car_orange")))
        )
        corners = np.array([(half_x, -half_y), (half_x, half_y), (-half_x, half_y), (-half_x, -half_y)])
        rings = np.empty((4, 4, 3))
        for ring, (share, z) in enumerate(((1.0, 0.0), (1.0, 0.1), (0.55, 0.38), (0.34, 1.0))):
            rings[ring, :, :2], rings[ring, :, 2] = corners * (share, 1.0), z * height
        barrier.skin(rings, material, (material, material))
        return barrier
    for y in (-0.8 * half_y, 0.8 * half_y):
        barrier.block((-half_x, y - 0.05, 0), (half_x, y + 0.05, 0.07), "tyre" if style == "boards" else "steel")
        barrier.block((-0.025, y - 0.03, 0.07), (0.025, y + 0.03, height), "steel")
    if style == "boards":
        for low, high in ((0.30, 0.52), (0.74, 0.97)):
            faces = barrier.block((-0.05, -half_y, low * height), (0.05, half_y, high * height), "reflective_white")
            for face in faces[:2]:
                for start in np.arange(0.0, 0.99, 0.2):
                    barrier.panel(face, (start, start + 0.1), (0.0, 1.0), "barrier_red")
        return barrier
    for z in (0.13 * height, height - 0.03):
        barrier.tube((0, -half_y, z), (0, half_y, z), (0.025, 0.025), "steel", sides=4)
    for y in np.linspace(-half_y + 0.02, half_y - 0.02, 16):
        barrier.tube((0, y, 0.13 * height), (0, y, height - 0.03), (0.014, 0.014), "steel", sides=3, capped=False)
    return barrier


def build_rack(length_m: float, rng: np.random.Generator) -> Assembly:
    """A row of hoops with some bicycles between them, along x; the bicycles belong to the rack, as nuScenes has it.

    Args:
        length_m: of the row.
        rng: source of the bicycles.

    Returns:
        The rack, about 1.8 m deep.
    """
    rack = Assembly()
    half = length_m / 2
    count = max(2, round(length_m / 0.9))
    places = np.linspace(-half + 0.35, half - 0.35, count)
    rack.block((-half, -0.5, 0.0), (half, -0.44, 0.05), "steel")
    rack.block((-half, 0.44, 0.0), (half, 0.5, 0.05), "steel")
    for x in places:
        corners = [(x, -0.47, 0.03), (x, -0.4, 0.78), (x, 0.4, 0.78), (x, 0.47, 0.03)]
        for start, end in pairwise(corners):
            rack.tube(start, end, (0.03, 0.03), "steel", sides=4)
    for x in places[rng.random(count) < 0.6]:
        vertices, triangles, materials = build_bicycle(False, rng).arrays()
        turned = np.column_stack((x + 0.2 - vertices[:, 1], vertices[:, 0] + rng.uniform(-0.15, 0.15), vertices[:, 2]))
        rack.add(turned, triangles, materials)
    return rack


def build_bin(size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A wheeled waste bin standing on z = 0.

    Args:
        size_lwh_m: (3,) length, width and height.
        rng: source of its colour.

    Returns:
        The bin.
    """
    length, width, height = (float(value) for value in size_lwh_m)
    waste = Assembly()
    colour = str(rng.choice(("steel_green", "plastic_black", "car_blue", "car_brown")))
    half = np.array([length, width]) / 2
    waste.block((-0.4 * length, -0.4 * width, 0.08), (0.4 * length, 0.4 * width, 0.92 * height), colour, top=(1.2, 1.2))
    waste.block((-half[0], -half[1], 0.93 * height), (half[0], half[1], height), colour, top=(0.9, 0.8))
    for side in (-1, 1):
        waste.wheel((-0.36 * length, side * 0.42 * width, 0.1), 0.1, 0.06, "plastic_black", sides=8, open_behind=True)
    return waste


def build_debris(size_lwh_m: np.ndarray, rng: np.random.Generator) -> Assembly:
    """A heap of rubble or sacks lying on z = 0.

    Args:
        size_lwh_m: (3,) length, width and height.
        rng: source of its shape.

    Returns:
        The heap.
    """
    half = np.asarray(size_lwh_m, dtype=np.float64) / 2
    heap = Assembly()
    material = str(rng.choice(("soil", "barrier_concrete", "wood", "cloth_white")))
    for _ in range(4):
        center = rng.uniform(-0.4, 0.4, 2) * half[:2]
        heap.ball((*center, 0.0), half * (0.7, 0.7, 2.0) * rng.uniform(0.6, 1.0, 3), material, belts=(0.0, 0.5, 0.94))
    return heap
