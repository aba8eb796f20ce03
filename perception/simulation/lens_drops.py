"""Drops on the glass before a camera: a few, which grow, stay a while and run down; each is a small wide lens.

What is seen through a drop is the whole picture, small, upside down and out of focus, darker towards its rim, where
light is thrown back inside. Which drops there are depends on the seed, the channel and the time alone.

Source: You et al. 2016, "Adherent raindrop modeling, detection and removal in video", section 3.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import cv2
import numpy as np

_STAY_S = (5.0, 16.0)
_GROWN = 0.12  # share of its time over which a drop grows, and over which it runs down
_RADII = (0.012, 0.055)
_SHRINK = 8
_VIEW = 0.95
_RIM = 0.2


class LensDrop(NamedTuple):
    """A drop on the glass: middle u v, half width and half height in pixels, and opacity 0..1."""

    u: float
    v: float
    half_width_px: float
    half_height_px: float
    opacity: float


def lens_drops(
    seed: int, channel: str, t_us: int, rain_mm_h: float, image_size_px: tuple[int, int]
) -> tuple[LensDrop, ...]:
    """The drops on a camera's glass.

    Args:
        seed: of the scene.
        channel: of the camera.
        t_us: time.
        rain_mm_h: how hard it rains.
        image_size_px: height and width of the picture.

    Returns:
        More of them the harder it rains, more on cameras that look back or aside.
    """
    height, width = image_size_px
    sheltered = "FRONT" in channel and "LEFT" not in channel and "RIGHT" not in channel
    rng = np.random.default_rng([seed, 35, zlib.crc32(channel.encode())])
    count = rng.poisson((1.2 if sheltered else 3.2) * min(rain_mm_h / 8.0, 2.2) ** 0.5)
    drops = []
    for place in range(count):
        stay_us, start = round(rng.uniform(*_STAY_S) * 1e6), rng.uniform()
        turn, share = divmod((t_us / stay_us + start), 1.0)
        own = np.random.default_rng([seed, 36, zlib.crc32(channel.encode()), place, int(turn) + 1000])
        u, v, size, tall, slow = own.uniform(size=5)
        radius = width * (_RADII[0] + (_RADII[1] - _RADII[0]) * size**2.2) * min(0.4 + share / _GROWN, 1.0)
        gone = max(share - (1 - _GROWN), 0.0) / _GROWN
        middle = v * height + gone**2 * (0.25 + 0.5 * slow) * height
        drops.append(LensDrop(u * width, middle, radius, radius * (1 + 0.45 * tall), min((1 - gone) * 3, 1.0)))
    return tuple(drops)


def look_through(picture: np.ndarray, drops: tuple[LensDrop, ...]) -> np.ndarray:
    """The picture as seen through drops on the glass.

    Args:
        picture: (H, W, 3) float32 light.
        drops: on the glass.

    Returns:
        (H, W, 3) float32; a copy if there are drops.
    """
    if not drops:
        return picture
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(width // _SHRINK, 2), max(height // _SHRINK, 2)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 0.8)[::-1, ::-1]  # upside down
    result = picture.copy()
    for drop in drops:
        reach = 1.25
        left, right = (int(drop.u + sign * reach * drop.half_width_px) for sign in (-1, 1))
        top, bottom = (int(drop.v + sign * reach * drop.half_height_px) for sign in (-1, 1))
        left, top, right, bottom = max(left, 0), max(top, 0), min(right + 1, width), min(bottom + 1, height)
        if left >= right or top >= bottom:
            continue
        x = ((np.arange(left, right) - drop.u) / drop.half_width_px)[None, :].astype(np.float32)
        y = ((np.arange(top, bottom) - drop.v) / drop.half_height_px)[:, None].astype(np.float32)
        radius = np.sqrt(x**2 + y**2)  # (h, w)
        bulge = _VIEW / 2 * (0.55 + 0.45 * np.minimum(radius, 1.0) ** 2)
        column = np.broadcast_to((0.5 + x * bulge) * small.shape[1] - 0.5, radius.shape).astype(np.float32)
        row = np.broadcast_to((0.5 + y * bulge) * small.shape[0] - 0.5, radius.shape).astype(np.float32)
        inside = cv2.remap(small, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = inside * (1.04 - 0.5 * np.clip(radius, 0, 1) ** 5)[..., None]
        cover = np.float32(0.93 * drop.opacity) * _soft((1.06 - radius) / (2 * _RIM))[..., None]
        target = result[top:bottom, left:right]
        target += cover * (inside - target)
    return result


def _soft(share: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)
