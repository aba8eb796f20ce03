"""From light to the picture that a camera writes: shutter, lens, exposure, noise, tone curve."""

from __future__ import annotations

import numpy as np
from numba import njit

from perception.simulation.light import Light

_TAPS = 5


@njit(cache=True, error_model="numpy")
def pixel_ways(
    rays: np.ndarray, distance_m: np.ndarray, owner: np.ndarray, ways: np.ndarray, intrinsics: np.ndarray
) -> np.ndarray:
    """Computes how far points move in the picture while the shutter is open.

    Args:
        rays: (N, 3) float32 unit vectors to the points in the middle of the exposure, camera frame.
        distance_m: (N,) float32 along them; what is beyond 10 km counts as that far away.
        owner: (N,) what each point lies on: a row of `ways`, -1 for the last one.
        ways: (A + 1, 2, 4, 4) from the camera frame in the middle of the exposure to that at its beginning and end.
        intrinsics: (3, 3).

    Returns:
        (N, 2) float32 pixels, u v, at most 40 either way.
    """
    result = np.zeros((len(rays), 2), np.float32)
    places = np.empty((2, 3))
    for n in range(len(rays)):
        distance = min(distance_m[n], np.float32(1e4))
        for moment in range(2):
            for i in range(3):
                places[moment, i] = ways[owner[n], moment, i, 3]
                for j in range(3):
                    places[moment, i] += ways[owner[n], moment, i, j] * distance * rays[n, j]
        if places[0, 2] > 0.1 and places[1, 2] > 0.1:
            for i in range(2):
                shift = places[1, i] / places[1, 2] - places[0, i] / places[0, 2]
                result[n, i] = min(max(intrinsics[i, i] * shift, -40.0), 40.0)
    return result


@njit(cache=True, error_model="numpy")
def smear(picture: np.ndarray, motion_px: np.ndarray) -> np.ndarray:
    """Averages each pixel along its way while the shutter is open.

    Args:
        picture: (H, W, 3) float32.
        motion_px: (H, W, 2) float32, how far the surface moves, u v.

    Returns:
        (H, W, 3) float32.
    """
    height, width = picture.shape[:2]
    result = picture.copy()
    for r in range(height):
        for c in range(width):
            du, dv = motion_px[r, c, 0], motion_px[r, c, 1]
            if du * du + dv * dv < 0.36:
                continue
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            for tap in range(_TAPS):
                step = (tap + 0.5) / _TAPS - 0.5
                j = min(max(int(np.rint(c + step * du)), 0), width - 1)
                i = min(max(int(np.rint(r + step * dv)), 0), height - 1)
                red, green, blue = red + picture[i, j, 0], green + picture[i, j, 1], blue + picture[i, j, 2]
            result[r, c, 0], result[r, c, 1], result[r, c, 2] = red / _TAPS, green / _TAPS, blue / _TAPS
    return result


def expose(picture: np.ndarray, light: Light) -> float:
    """Chooses the factor that brings a picture to a usual brightness.

    Args:
        picture: (H, W, 3) linear RGB.
        light: says what is usual, and how far a camera may brighten.

    Returns:
        The factor.
    """
    luminance = picture[::4, ::4] @ np.array([0.21, 0.72, 0.07], np.float32)  # (H / 4, W / 4)
    middle = float(np.exp(np.mean(np.log(luminance + 0.01))))
    return float(np.clip(light.brightness / middle, 0.35, light.gain))


def _tone_table() -> np.ndarray:
    """8-bit values before rounding (T,) float32, over the root of the light in steps of 1 / 1024, up to 2."""
    light = (np.arange(2 * 1024 + 1) / 1024) ** 2
    shouldered = light * (1 + 0.16 * light) / (0.86 + 0.55 * light)
    return np.clip(255 * (1.2 * np.minimum(shouldered, 1) ** 0.4545 - 0.10) + 0.5, 0, 255).astype(np.float32)


_TONES = _tone_table()


def develop(picture: np.ndarray, exposure: float, noise: np.ndarray) -> np.ndarray:
    """Turns light into 8-bit values.

    Args:
        picture: (H, W, 3) float32 linear RGB.
        exposure: factor on the light.
        noise: (H, W, 3) float32 standard normal.

    Returns:
        (H, W, 3) uint8 RGB, darker towards the corners.
    """
    return _develop(picture, exposure, noise, _TONES)


@njit(cache=True, error_model="numpy")
def _develop(picture: np.ndarray, exposure: float, noise: np.ndarray, tones: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    result = np.empty((height, width, 3), np.uint8)
    for r in range(height):
        y = np.float32((2 * r + 1 - height) / width)
        for c in range(width):
            x = np.float32((2 * c + 1 - width) / width)
            scale = np.float32(exposure) * (np.float32(1) - np.float32(0.16) * (x * x + y * y))
            for i in range(3):
                value = max(picture[r, c, i] * scale, np.float32(0))
                value += noise[r, c, i] * np.sqrt(np.float32(2.5e-5) + np.float32(2.5e-4) * value)
                root = np.sqrt(min(max(value, np.float32(0)), np.float32(3.99)))
                result[r, c, i] = np.uint8(tones[int(root * np.float32(1024))])
    return result
