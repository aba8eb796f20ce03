"""What closes the view over open land: gentle hills, with woods on them."""

from __future__ import annotations

import numpy as np

from perception.simulation.materials import material_index
from perception.simulation.mesh import Mesh, merge, paint, quads
from perception.simulation.town.blocks import OUTSKIRTS_M
from perception.simulation.town.surfaces import PLOT_Z_M

_RINGS_M = (0.0, 70.0, 170.0, 300.0, 480.0, 740.0, 1100.0, 1600.0)
"""Distances from the edge of the level land at which the hills have corners."""

_SECTORS = 72
_COVERS = ("meadow", "grass", "soil", "meadow", "needles", "leaves_0", "leaves_2", "path")
_SHARES = (0.24, 0.16, 0.1, 0.12, 0.14, 0.12, 0.1, 0.02)
_WOODS = 15


def _edge_m(size_m: tuple[float, float], angles: np.ndarray) -> np.ndarray:
    """(S,) distance from the middle of the map to the edge of the level land in given directions."""
    half = np.array(size_m) / 2 + OUTSKIRTS_M
    return np.minimum(*(h / np.maximum(np.abs(f), 1e-9) for h, f in zip(half, _unit(angles).T, strict=True)))


def _unit(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _waves(rng: np.random.Generator, angles: np.ndarray, orders: tuple[int, ...]) -> np.ndarray:
    """(S,) a random function around the circle, about -1..1."""
    return sum(np.sin(k * angles + rng.uniform(0, 2 * np.pi)) / np.sqrt(len(orders)) for k in orders)


def hills(rng: np.random.Generator, size_m: tuple[float, float]) -> Mesh:
    """Land around the map that rises gently, up to some tens of metres.

    Args:
        rng: where the randomness comes from.
        size_m: width and height of the map.

    Returns:
        A ring of fields and woods that begins where the level land ends.
    """
    half = np.array(size_m) / 2 + OUTSKIRTS_M
    corners = np.arctan2(half[1], half[0])
    even = 2 * np.pi * np.arange(_SECTORS) / _SECTORS - np.pi
    angles = np.sort(np.concatenate([even, [corners, -corners, np.pi - corners, corners - np.pi]]))
    away = _edge_m(size_m, angles)
    grid = []
    for k, reach in enumerate(_RINGS_M):
        share = k / (len(_RINGS_M) - 1)
        rise = 60.0 * share**1.4 * np.clip(0.5 + 0.6 * _waves(rng, angles, (2, 3, 5)), 0.05, None)
        bumps = 4.0 * share * _waves(rng, angles, (7, 11, 13))
        z = np.where(reach > 0, np.maximum(rise + bumps, 0.0), 0.0) + PLOT_Z_M
        grid.append(np.column_stack([(away + reach)[:, None] * _unit(angles) + np.array(size_m) / 2, z]))
    points = np.array(grid)  # (R, S, 3)
    following = np.roll(points, -1, axis=1)
    faces = np.stack([points[:-1], points[1:], following[1:], following[:-1]], axis=2).reshape(-1, 4, 3)
    mesh = quads(faces, paint("meadow", "flat.terrain"))
    choice = rng.choice(len(_COVERS), len(faces), p=_SHARES)
    table = np.array([material_index(name) for name in _COVERS], np.int16)
    return Mesh(mesh.vertices, mesh.triangles, table[choice].repeat(2), mesh.semantics)


def far_woods(rng: np.random.Generator, size_m: tuple[float, float]) -> Mesh:
    """Edges of woods around the map, as walls with uneven tops.

    Args:
        rng: where the randomness comes from.
        size_m: width and height of the map.

    Returns:
        Upright bands that face the map.
    """
    meshes = []
    for k in range(_WOODS):
        start = 2 * np.pi * (k + rng.uniform(0, 0.6)) / _WOODS
        angles = np.arange(start, start + rng.uniform(0.25, 0.75), 0.011)
        reach = rng.uniform(4.0, 170.0) + 12.0 * _waves(rng, angles, (5, 9, 14))
        xy = (_edge_m(size_m, angles) + np.maximum(reach, 2.0))[:, None] * _unit(angles) + np.array(size_m) / 2
        crowns = rng.uniform(-2.2, 2.2, len(angles) // 2 + 1).repeat(2)[: len(angles)]
        tops = rng.uniform(8.0, 13.0) + crowns - 0.9 * (np.arange(len(angles)) % 2)
        tops[[0, -1]] = 0.5
        low, high = np.column_stack([xy, 0 * tops - 1.0]), np.column_stack([xy, tops])
        corners = np.stack([low[1:], low[:-1], high[:-1], high[1:]], axis=1)
        meshes.append(quads(corners, paint(str(rng.choice(["needles", "leaves_0", "leaves_2"])), "static.vegetation")))
    return merge(meshes)
