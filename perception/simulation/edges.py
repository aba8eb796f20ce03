"""Pixels that show more than one surface, and what light more rays through them bring."""

from __future__ import annotations

import numpy as np
from numba import njit

from perception.simulation.rays import Hits


@njit(cache=True, error_model="numpy", inline="always")
def differ(these: Hits, n: int, those: Hits, m: int) -> bool:
    """Whether hit `n` of some and hit `m` of others lie on different surfaces."""
    here, there = these.distance_m[n], those.distance_m[m]
    if not here < np.inf or not there < np.inf:
        return (here < np.inf) != (there < np.inf)
    if these.material[n] != those.material[m] or these.actor[n] != those.actor[m]:
        return True
    same = 0.0
    for i in range(3):
        same += these.normal[n, i] * those.normal[m, i]
    return same < 0.95 or (abs(here - there) > 0.1 * here and these.normal[n, 2] < 0.9)


@njit(cache=True, error_model="numpy")
def edges(hits: Hits, picture: np.ndarray, width_px: int, step: float) -> np.ndarray:
    """Finds the pixels that show more than one surface and a step in brightness.

    Args:
        hits: (H * W,) one per pixel, row by row.
        picture: (H * W, 3) light.
        width_px: of the picture.
        step: how much neighbours must differ, as a share of their sum.

    Returns:
        (H * W,) bool.
    """
    count = len(picture)
    result = np.zeros(count, np.bool_)
    for n in range(count):
        for m in (n + 1 if (n + 1) % width_px else count, n + width_px):
            if m >= count or (result[n] and result[m]):
                continue
            gap, total = 0.0, 0.02
            for i in range(3):
                gap = max(gap, abs(picture[n, i] - picture[m, i]))
                total = max(total, picture[n, i] + picture[m, i])
            if gap > step * total and differ(hits, n, hits, m):
                result[n], result[m] = True, True
    return result


@njit(cache=True, error_model="numpy")
def borrow(
    found: Hits, pixels: np.ndarray, hits: Hits, picture: np.ndarray, width_px: int, light: np.ndarray
) -> np.ndarray:
    """Takes the light of more rays through some pixels from pixels around that show the same surface.

    Args:
        found: (E,) what the rays met.
        pixels: (E,) int64, the pixel that each goes through.
        hits: (H * W,) what the pixels' middles show, row by row.
        picture: (H * W, 3) their light.
        width_px: of the picture.
        light: (E, 3) filled where there is such a pixel; the pixel itself is asked first, then its neighbours.

    Returns:
        (K,) int64 rays for which there is none.
    """
    height, count = len(picture) // width_px, 0
    left = np.empty(len(pixels), np.int64)
    for e in range(len(pixels)):
        r, c = pixels[e] // width_px, pixels[e] % width_px
        near = -1
        for dr, dc in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (1, 1), (-1, 1), (1, -1)):
            if near < 0 and 0 <= r + dr < height and 0 <= c + dc < width_px:
                m = pixels[e] + dr * width_px + dc
                if not differ(found, e, hits, m):
                    near = m
        if near < 0:
            left[count] = e
            count += 1
            continue
        for i in range(3):
            light[e, i] = picture[near, i]
    return left[:count]
