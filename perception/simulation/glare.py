"""Light that goes astray in a lens: the veil around a sun that shines into it, and the glow around lamps.

Sources: CIE 146:2002, "CIE equations for disability glare", the general equation without the terms for age and
pigment, 10 / theta^3 + 5 / theta^2 with theta in degrees (Stiles and Holladay, with Vos' steep part near the source);
Narasimhan and Nayar 2003, "Shedding light on the weather", section 3, for the wider glow in fog.
"""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit

_NEAREST_DEG = 0.6
_GLOW = ((0.10, 0.10), (0.35, 0.045), (1.1, 0.022), (3.2, 0.010))
"""Width in degrees and share of the light of each part of a lens's glow."""

_IN_FOG = ((1.6, 0.10), (4.5, 0.12))
"""Width in degrees and share, per thickness of fog over `_FOG_M`, of what fog adds to it."""

_FOG_M = 25.0
_BRIGHTEST = 60.0


@njit(cache=True, error_model="numpy")
def veil(directions: np.ndarray, to_sun: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """Computes the veil that the sun draws over a picture.

    Args:
        directions: (N, 3) float32 unit vectors through the pixels.
        to_sun: (3,) unit vector, same axes.
        sun: (3,) float32 RGB of white paper that faces it.

    Returns:
        (N, 3) float32 light to add.
    """
    result = np.empty((len(directions), 3), np.float32)
    for n in range(len(directions)):
        cosine = directions[n, 0] * to_sun[0] + directions[n, 1] * to_sun[1] + directions[n, 2] * to_sun[2]
        theta = max(np.degrees(np.arccos(min(max(cosine, -1.0), 1.0))), _NEAREST_DEG)
        share = np.pi * (10.0 / theta**3 + 5.0 / theta**2)
        for i in range(3):
            result[n, i] = share * sun[i]
    return result


def glow(picture: np.ndarray, exposure: float, pixel_rad: float, extinction_per_m: float = 0.0) -> np.ndarray:
    """Computes the light around what is too bright for a picture.

    Args:
        picture: (H, W, 3) float32 light.
        exposure: factor on it; what is above 1 then glows.
        pixel_rad: angle that one pixel covers.
        extinction_per_m: of the air; fog widens the glow.

    Returns:
        (H, W, 3) float32 light to add.
    """
    over = np.clip(picture - 1 / exposure, 0, _BRIGHTEST / exposure)
    if not over.any():
        return np.zeros_like(picture)
    thickness = 1 - np.exp(-extinction_per_m * _FOG_M)
    result = np.zeros_like(picture)
    for degrees, share in (*_GLOW, *((width, part * thickness) for width, part in _IN_FOG if thickness > 0.1)):
        result += np.float32(share) * _blurred(over, np.radians(degrees) / pixel_rad)
    return result


def _blurred(picture: np.ndarray, deviation_px: float) -> np.ndarray:
    """A picture (H, W, 3) smoothed by a bell; wide ones on a coarser lattice."""
    step = max(int(deviation_px / 2.5), 1)
    height, width = picture.shape[:2]
    coarse = picture
    if step > 1:
        size = (max(width // step, 1), max(height // step, 1))
        coarse = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    deviation = deviation_px / step
    smooth = cv2.GaussianBlur(coarse, (0, 0), deviation, borderType=cv2.BORDER_CONSTANT)
    return smooth if step == 1 else cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
