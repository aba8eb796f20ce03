"""Rain before a camera: every drop near enough to be seen is a streak, as long as it moves while the shutter is open.

A drop is round and transparent; by day it shows the bright sky, upside down, whatever stands behind it, at night the
lamps that shine on it. While the shutter is open it covers each place of its streak for a moment only, so that streaks
are faint: their opacity, summed over the picture, is the area of the drop.

Sources: Garg and Nayar 2007, "Vision and rain", sections 3 and 4 (streaks), 2.2 (brightness); Atlas, Srivastava and
Sekhon 1973 for the speed at which drops fall. How many there are of which size is in `drops.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from perception.simulation.drops import drops_per_m3, size_slope_per_m

_SIZES_M = np.array([0.9e-3, 5e-3])
"""Diameters of the smallest and the largest drops that are seen one by one."""

_NEAREST_M = 0.25
_FAINTEST_PX = 0.12
_MOST = 6000


class Drops(NamedTuple):
    """Drops in the air.

    Attributes:
        position_m: (N, 3) float64, relative to the camera, world axes.
        diameter_m: (N,).
        velocity_m_s: (N, 3) over ground.
    """

    position_m: np.ndarray
    diameter_m: np.ndarray
    velocity_m_s: np.ndarray


def fall_speed_m_s(diameter_m: np.ndarray) -> np.ndarray:
    """Speed (N,) at which drops of diameters (N,) fall through still air."""
    return np.maximum(9.65 - 10.3 * np.exp(-600.0 * diameter_m), 0.1)


def draw_drops(
    rng: np.random.Generator, rain_mm_h: float, directions: np.ndarray, pixel_rad: float, wind_m_s: np.ndarray
) -> Drops:
    """The drops before a camera, drawn at random.

    Args:
        rng: source of all of them.
        rain_mm_h: how hard it rains.
        directions: (H, W, 3) unit vectors through the pixels, world axes.
        pixel_rad: angle that one pixel covers in the middle.
        wind_m_s: (3,) what carries the drops along.

    Returns:
        Drops as far away as the smallest of them are wide enough to leave a trace, evenly spread over the solid angle.
    """
    above, beyond = drops_per_m3(rain_mm_h, _SIZES_M)
    up_to = np.cumsum(_solid_angles(directions), dtype=np.float64)  # (H * W,)
    per_m3, solid = float(above - beyond), float(up_to[-1])
    farthest = 0.002 / (_FAINTEST_PX * pixel_rad)
    farthest = min(farthest, (_NEAREST_M**3 + 3 * _MOST / (per_m3 * solid)) ** (1 / 3))
    count = rng.poisson(max(per_m3 * solid * (farthest**3 - _NEAREST_M**3) / 3, 0.0))
    reach = np.cbrt(rng.uniform(_NEAREST_M**3, max(farthest, _NEAREST_M) ** 3, count))  # (N,)
    pixel = np.searchsorted(up_to, rng.uniform(0, solid, count), side="right")  # (N,)
    towards = directions.reshape(-1, 3)[pixel].astype(np.float64)
    slope = size_slope_per_m(rain_mm_h)
    low, high = np.exp(-slope * _SIZES_M)
    diameter = -np.log(rng.uniform(high, low, count)) / slope
    velocity = np.tile(wind_m_s, (count, 1))
    velocity[:, 2] -= fall_speed_m_s(diameter)
    return Drops(reach[:, None] * towards, diameter, velocity)


def _solid_angles(directions: np.ndarray) -> np.ndarray:
    """(H, W) solid angle of each pixel of a picture (H, W, 3) of directions; 0 where they do not change."""
    across, down = np.gradient(directions, axis=1), np.gradient(directions, axis=0)
    return np.linalg.norm(np.cross(across, down), axis=2)


def streaks(
    drops: Drops,
    own_velocity_m_s: np.ndarray,
    exposure_s: float,
    project: Callable[[np.ndarray], np.ndarray],
    pixel_rad: float,
) -> np.ndarray:
    """Where drops leave their streaks.

    Args:
        drops: in the air in the middle of the exposure.
        own_velocity_m_s: (3,) of the camera.
        exposure_s: how long the shutter is open.
        project: gives pixels (N, 2) of places (N, 3) relative to the camera, NaN for what it does not see.
        pixel_rad: angle that one pixel covers.

    Returns:
        (N, 6) u v of one end, u v of the other, width in pixels, and the drop's area in square pixels; NaN for those
        that are not seen.
    """
    half = (drops.velocity_m_s - own_velocity_m_s) * exposure_s / 2  # (N, 3)
    wide = drops.diameter_m / (np.linalg.norm(drops.position_m, axis=1) * pixel_rad)  # (N,)
    ends = [project(drops.position_m - half), project(drops.position_m + half)]
    return np.column_stack((*ends, wide, np.pi / 4 * wide**2))  # (N, 6)


@njit(cache=True, error_model="numpy")
def paint_streaks(picture: np.ndarray, lines: np.ndarray, light: np.ndarray) -> None:
    """Lays streaks over a picture.

    Args:
        picture: (H, W, 3) float32, changed.
        lines: (N, 6) see `streaks`.
        light: (N, 3) float32, what each drop shows.
    """
    height, width = picture.shape[:2]
    for n in range(len(lines)):
        u, v, du, dv = lines[n, 0], lines[n, 1], lines[n, 2] - lines[n, 0], lines[n, 3] - lines[n, 1]
        length = np.sqrt(du * du + dv * dv)
        if not length < 4 * width:  # NaN as well
            continue
        half = max(lines[n, 4], 1.0) / 2
        opacity = min(lines[n, 5] / ((length + 2 * half) * 2 * half), 1.0)
        along_u, along_v = (du / length, dv / length) if length > 1e-6 else (0.0, 1.0)
        left, right = min(u, u + du) - half - 1, max(u, u + du) + half + 1
        top, bottom = min(v, v + dv) - half - 1, max(v, v + dv) + half + 1
        for r in range(max(int(top), 0), min(int(bottom) + 2, height)):
            for c in range(max(int(left), 0), min(int(right) + 2, width)):
                along = (c - u) * along_u + (r - v) * along_v
                across = abs((c - u) * along_v - (r - v) * along_u)
                beyond = max(-along, along - length, 0.0)
                share = min(max(half + 0.5 - across, 0.0), 1.0) * min(max(half + 0.5 - beyond, 0.0), 1.0)
                if share > 0:
                    for i in range(3):
                        picture[r, c, i] += np.float32(opacity * share) * (light[n, i] - picture[r, c, i])
