"""Where light reaches: shadows of the sun, and how much sky is open."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from perception.simulation.edges import differ
from perception.simulation.light import Light
from perception.simulation.rays import ActorPoses, Hits, RayScene

AMBIENT_REACH_M = 2.5
"""How far away a surface still keeps sky light off another."""

_SHADOW_GAP_M = 2e-3
_LAMP_GAP_M = 0.45  # over which a lamp's own glass and housing throw no shadow


def sunlit(
    scene: RayScene,
    hits: Hits,
    origin_m: np.ndarray,
    directions: np.ndarray,
    light: Light,
    actors: ActorPoses,
    width_px: int = 0,
) -> np.ndarray:
    """Finds which hits the sun reaches.

    Args:
        scene: what casts shadows.
        hits: (N,) what was hit.
        origin_m: (3,) where the rays came from, world.
        directions: (N, 3) where they went.
        light: the sun.
        actors: what moves and casts shadows too.
        width_px: of the picture if the hits are its pixels, row by row: then every other pixel asks its neighbours
            first, and only where they disagree or lie on another surface sends a ray of its own.

    Returns:
        (N,) bool; False where nothing was hit or the surface faces away.
    """
    lit = hits.found & (hits.normal @ light.to_sun > 0)  # (N,)

    def ask(chosen: np.ndarray) -> None:
        """Sends rays from hits (K,) to the sun."""
        to_sun = np.broadcast_to(light.to_sun, (len(chosen), 3))
        endless = np.full(len(chosen), np.inf, np.float32)
        lit[chosen] = ~scene.occluded(lifted(hits, origin_m, directions, chosen), to_sun, endless, actors)

    _ask_around(ask, hits, lit, width_px)
    return lit


def lamplit(
    scene: RayScene,
    hits: Hits,
    origin_m: np.ndarray,
    directions: np.ndarray,
    to_lamp: np.ndarray,
    actors: ActorPoses,
    width_px: int = 0,
) -> np.ndarray:
    """Finds which hits a lamp reaches.

    Args:
        scene: what casts shadows.
        hits: (N,) what was hit.
        origin_m: (3,) where the rays came from, world.
        directions: (N, 3) where they went.
        to_lamp: (N, 3) float32 ways from the hits to their lamps; NaN for those that have none.
        actors: what moves and casts shadows too.
        width_px: as in `sunlit`.

    Returns:
        (N,) bool; False where there is no lamp.
    """
    lit = hits.found & ~np.isnan(to_lamp[:, 0])  # (N,)

    def ask(chosen: np.ndarray) -> None:
        """Sends rays from hits (K,) to their lamps, which end a little before them."""
        way = to_lamp[chosen]
        length = np.linalg.norm(way, axis=1)  # (K,)
        limit = np.maximum(length - _LAMP_GAP_M, 0).astype(np.float32)
        towards = way / np.maximum(length, np.float32(1e-6))[:, None]
        lit[chosen] = ~scene.occluded(lifted(hits, origin_m, directions, chosen), towards, limit, actors)

    _ask_around(ask, hits, lit, width_px)
    return lit


def _ask_around(ask: Callable[[np.ndarray], None], hits: Hits, lit: np.ndarray, width_px: int) -> None:
    """Asks for every hit that may be lit; in a picture every other pixel asks its neighbours first."""
    if not width_px:
        ask(np.nonzero(lit)[0])
        return
    index, facing = np.arange(len(lit)), lit.copy()
    even = (index // width_px + index % width_px) % 2 == 0  # a chequerboard
    ask(np.nonzero(facing & even)[0])
    ask(_unsettled(hits, facing, lit, width_px))


@njit(cache=True, error_model="numpy")
def _unsettled(hits: Hits, facing: np.ndarray, lit: np.ndarray, width_px: int) -> np.ndarray:
    """Settles the odd pixels of a chequerboard in `lit` whose neighbours are of one mind; returns the others (K,)."""
    height, count = len(lit) // width_px, 0
    left = np.empty(len(lit), np.int64)
    for r in range(height):
        for c in range((r + 1) % 2, width_px, 2):
            n = r * width_px + c
            if not facing[n]:
                continue
            first = n - 1 if c > 0 else n - width_px
            settled = True
            for side in range(4):
                i, j = r + (side == 2) - (side == 3), c + (side == 0) - (side == 1)
                m = i * width_px + j
                if settled and 0 <= i < height and 0 <= j < width_px:
                    settled = facing[m] and lit[m] == lit[first] and not differ(hits, n, hits, m)
            if settled:
                lit[n] = lit[first]
            else:
                left[count] = n
                count += 1
    return left[:count]


@njit(cache=True, error_model="numpy")
def lifted(hits: Hits, origin_m: np.ndarray, directions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Places hits a little off their surface, so that it does not shade itself.

    Args:
        hits: (N,) what was hit.
        origin_m: (3,) where the rays came from, world.
        directions: (N, 3) where they went.
        chosen: (K,) indices of hits.

    Returns:
        (K, 3) float64 world positions.
    """
    result = np.empty((len(chosen), 3))
    for k in range(len(chosen)):
        n = chosen[k]
        distance = hits.distance_m[n]
        for i in range(3):
            lift = (_SHADOW_GAP_M + 2e-5 * distance) * hits.normal[n, i]
            result[k, i] = origin_m[i] + directions[n, i] * distance + lift
    return result


def open_sky(
    scene: RayScene, hits: Hits, origin_m: np.ndarray, directions: np.ndarray, width_px: int, actors: ActorPoses
) -> np.ndarray:
    """Estimates how much of the sky above each pixel is open within a short reach (ambient occlusion).

    Every other pixel of every other row sends one ray; the sixteen directions repeat over 4x4 of them, and the pixels
    around that lie on one surface share them.

    Args:
        scene: what keeps light off.
        hits: (H * W,) one per pixel, row by row.
        origin_m: (3,) where the rays came from, world.
        directions: (H * W, 3) where they went.
        width_px: of the picture.
        actors: what moves.

    Returns:
        (H * W,) float32, 0 closed to 1 open.
    """
    height = len(hits.distance_m) // width_px
    lattice = (np.arange(0, height, 2)[:, None] * width_px + np.arange(0, width_px, 2)).ravel()  # (H / 2 * W / 2,)
    chosen = lattice[hits.found[lattice]]  # (K,)
    around = hemisphere_directions(hits.normal[chosen], chosen // width_px // 2, chosen % width_px // 2)
    reach = np.full(len(chosen), AMBIENT_REACH_M, np.float32)
    clear = np.ones(len(hits.distance_m), np.float32)
    clear[chosen] = ~scene.occluded(lifted(hits, origin_m, directions, chosen), around, reach, actors)
    distance, normal = hits.distance_m.reshape(height, width_px), hits.normal.reshape(height, width_px, 3)
    return _shared(clear.reshape(height, width_px), distance, normal).ravel()


@njit(cache=True, error_model="numpy")
def hemisphere_directions(normals: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """One of sixteen cosine-weighted directions (N, 3) around each normal (N, 3), by pixel row and column."""
    result = np.empty_like(normals)
    for n in range(len(normals)):
        index = (rows[n] % 4) * 4 + columns[n] % 4
        radius = np.sqrt((index + 0.5) / 16)
        angle = 2.399963 * index
        a, b, c = radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius * radius)
        x, y, z = normals[n, 0], normals[n, 1], normals[n, 2]
        sign = 1.0 if z >= 0 else -1.0  # an orthonormal frame without branches (Duff et al. 2017)
        p = -1.0 / (sign + z)
        q = x * y * p
        result[n, 0] = a * (1 + sign * x * x * p) + b * q + c * x
        result[n, 1] = a * sign * q + b * (sign + y * y * p) + c * y
        result[n, 2] = -a * sign * x - b * y + c * z
    return result


@njit(cache=True, error_model="numpy")
def _shared(clear: np.ndarray, distance: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Means (H, W) over the 4x4 nearest pixels of even row and column that lie on one surface."""
    height, width = clear.shape
    result = np.ones_like(clear)
    for r in range(height):
        for c in range(width):
            here = distance[r, c]
            if not here < np.inf:
                continue
            total, weight = 0.0, 0.0
            first_row, first_column = (r + 1) // 2 * 2 - 4, (c + 1) // 2 * 2 - 4
            for i in range(max(first_row, 0), min(first_row + 8, height), 2):
                for j in range(max(first_column, 0), min(first_column + 8, width), 2):
                    same = normal[r, c, 0] * normal[i, j, 0] + normal[r, c, 1] * normal[i, j, 1]
                    same += normal[r, c, 2] * normal[i, j, 2]
                    if same > 0.8 and abs(distance[i, j] - here) < 0.1 * here:
                        total += clear[i, j]
                        weight += 1.0
            result[r, c] = total / weight if weight > 0 else 0.8
    return result
