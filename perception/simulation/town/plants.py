"""Trees, bushes, hedges and fences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from perception.simulation.mesh import Mesh, Paint, cone, cuboid, ellipsoid, loft, merge, paint, placed, tube
from perception.simulation.town import curves

_PLANT = "static.vegetation"


def crown(rng: np.random.Generator, radii_m: tuple[float, float, float], covering: Paint) -> Mesh:
    """A ball of leaves with an uneven outline around the origin.

    Args:
        rng: where the randomness comes from.
        radii_m: its half extents.
        covering: its paint.

    Returns:
        A closed mesh.
    """
    ball = ellipsoid(radii_m, covering, rings=4, segments=6)
    unique, owner = np.unique(np.round(ball.vertices, 4), axis=0, return_inverse=True)
    scale = rng.uniform(0.78, 1.15, len(unique))[owner.ravel()]  # one factor for vertices that coincide
    vertices = (ball.vertices * scale[:, None]).astype(np.float32)
    return Mesh(vertices, ball.triangles, ball.materials, ball.semantics)


def broadleaf(rng: np.random.Generator, size_m: tuple[float, float, float], leaves: int, balls: int = 3) -> Mesh:
    """A broad-leaved tree standing on the origin.

    Args:
        rng: where the randomness comes from.
        size_m: its height, the height below which there are no leaves, and the reach of its crown.
        leaves: which kind of leaves, 0..3.
        balls: how many balls make the crown, 1..3.

    Returns:
        Trunk and crown.
    """
    covering = paint(f"leaves_{leaves}", _PLANT)
    bark = paint("bark_light" if leaves == 3 else "bark", _PLANT)
    height_m, clear_m, spread_m = size_m
    body = height_m - clear_m
    lean = rng.uniform(-0.02, 0.02, 2) * height_m
    thick = 0.014 * height_m + 0.05
    meshes = [tube((0, 0, 0), (*lean, clear_m + 0.5 * body), (thick, 0.45 * thick), bark, 5)]
    for k in range(balls):
        angle = 2.1 * k + rng.uniform(-0.5, 0.5)
        offset = (0.42 if balls > 1 else 0.0) * spread_m * np.array([np.cos(angle), np.sin(angle)])
        size = spread_m * rng.uniform(0.52, 0.72) * (1.35 if balls == 1 else 1.0)
        tall = body * rng.uniform(0.34, 0.44)
        z = min(clear_m + body * (0.58, 0.42, 0.5)[k], height_m - tall)
        meshes.append(placed(crown(rng, (size, size, tall), covering), (*(lean + offset), max(z, clear_m + tall))))
    return merge(meshes)


def conifer(rng: np.random.Generator, height_m: float) -> Mesh:
    """A conifer standing on the origin.

    Args:
        rng: where the randomness comes from.
        height_m: its height.

    Returns:
        Trunk and three tiers.
    """
    needles = paint("needles", _PLANT)
    meshes = [tube((0, 0, 0), (0, 0, 0.3 * height_m), (0.03 * height_m, 0.02 * height_m), paint("bark", _PLANT), 5)]
    for low, high, radius in ((0.16, 0.62, 0.21), (0.38, 0.82, 0.16), (0.6, 1.0, 0.11)):
        tier = cone(radius * height_m * rng.uniform(0.85, 1.1), (low * height_m, high * height_m), needles, 7)
        meshes.append(placed(tier, (0, 0, 0), rng.uniform(0, 2)))
    return merge(meshes)


def bush(rng: np.random.Generator) -> Mesh:
    """A bush standing on the origin.

    Args:
        rng: where the randomness comes from.

    Returns:
        One ball of leaves, now and then of flowers.
    """
    covering = paint("flowers" if rng.random() < 0.15 else f"leaves_{rng.integers(4)}", _PLANT)
    size = float(rng.uniform(0.5, 0.95))
    return placed(crown(rng, (size, size, 0.8 * size), covering), (0, 0, 0.6 * size))


def hedge(line: np.ndarray, height_m: float, base_m: float) -> Mesh:
    """A clipped hedge along a line.

    Args:
        line: (N, 2) its middle.
        height_m: its height.
        base_m: height of the ground.

    Returns:
        A closed mesh, 0.7 m wide.
    """
    left, right = curves.shifted(line, 0.35), curves.shifted(line, -0.35)
    corners = [(right, 0.0), (left, 0.0), (left, height_m), (right, height_m)]
    rings = [np.column_stack([side, np.full(len(side), base_m + z)]) for side, z in corners]
    return loft(np.stack(rings, axis=1), paint("hedge", _PLANT))  # (N, 4, 3)


def fence(line: np.ndarray, material: str, base_m: float) -> Mesh:
    """A board fence, or a low wall of stone, along a line.

    Args:
        line: (N, 2) its middle.
        material: "fence_wood", "fence_white" or "stone_wall".
        base_m: height of the ground.

    Returns:
        Its boards and posts.
    """
    height = {"fence_wood": 1.6, "fence_white": 1.0, "stone_wall": 0.8}[material]
    thick = 0.3 if material == "stone_wall" else 0.05
    covering = paint(material)
    meshes = []
    for start, end in pairwise(line):
        size = float(np.linalg.norm(end - start))
        yaw = float(np.arctan2(*(end - start)[::-1]))
        parts = [cuboid((size, thick, height - 0.1), covering, (size / 2, 0, (height - 0.1) / 2))]
        if material != "stone_wall":
            parts.append(cuboid((0.1, 0.1, height), covering, (0, 0, height / 2)))
        meshes.append(placed(merge(parts), (*start, base_m), yaw))
    return merge(meshes)
