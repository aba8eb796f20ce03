"""Procedural textures: how much brighter or darker a surface is at a place, drawn from the place alone."""

from __future__ import annotations

import numpy as np
from numba import njit

from perception.simulation.materials import Pattern

NOISE, BRICK, CONCRETE = int(Pattern.NOISE), int(Pattern.BRICK), int(Pattern.CONCRETE)
ASPHALT, PAVING, GRASS, LEAVES = int(Pattern.ASPHALT), int(Pattern.PAVING), int(Pattern.GRASS), int(Pattern.LEAVES)
BARK, ROOF_TILES, PLANKS = int(Pattern.BARK), int(Pattern.ROOF_TILES), int(Pattern.PLANKS)
CLADDING, WINDOWS = int(Pattern.CLADDING), int(Pattern.WINDOWS)
STRIPES, GRAVEL = int(Pattern.STRIPES), int(Pattern.GRAVEL)


@njit(cache=True, inline="always")
def cell_hash(i: int, j: int, salt: int) -> float:
    """A number in [0, 1) that depends on a cell alone."""
    h = np.uint32(i) * np.uint32(374761393) + np.uint32(j) * np.uint32(668265263) + np.uint32(salt) * np.uint32(974711)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(2246822519)
    return float(np.uint32(h ^ (h >> np.uint32(15)))) / 4294967296.0


@njit("float64(float64, float64, int64)", cache=True)  # one for all types and constants
def smooth_noise(u: float, v: float, salt: int) -> float:
    """Value noise in [-1, 1] with features about one unit wide."""
    fu, fv = np.floor(u), np.floor(v)
    i, j = int(fu), int(fv)
    a, b = u - fu, v - fv
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = cell_hash(i, j, salt) * (1 - a) + cell_hash(i + 1, j, salt) * a
    high = cell_hash(i, j + 1, salt) * (1 - a) + cell_hash(i + 1, j + 1, salt) * a
    return 2 * (low * (1 - b) + high * b) - 1


@njit(cache=True)
def _masonry(u: float, v: float, aspect: float, joint: float, sharp: float) -> float:
    """Bricks in a bond, one unit long and `aspect` high; joints are light."""
    row = int(np.floor(v / aspect))
    u += 0.5 * (row & 1)
    column = int(np.floor(u))
    a, b = u - column, v - row * aspect
    if a < joint or b < joint:
        return 0.9 * sharp
    return (1.4 * cell_hash(column, row, 1) - 0.8) * (0.3 + 0.7 * sharp)


@njit(cache=True)
def _slabs(u: float, v: float, joint: float, sharp: float) -> float:
    """Square slabs one unit wide; joints are dark."""
    i, j = int(np.floor(u)), int(np.floor(v))
    if u - i < joint or v - j < joint:
        return -1.0 * sharp
    return (cell_hash(i, j, 2) - 0.45) * (0.3 + 0.7 * sharp)


@njit(cache=True)
def _ramps(v: float, sharp: float, salt: int) -> float:
    """Boards that overlap: each one unit wide, darkest at its edge."""
    j = int(np.floor(v))
    b = v - j
    edge = -1.0 if b < 0.08 else 0.5 * b - 0.1
    return (edge + 0.4 * (cell_hash(j, 0, salt) - 0.5)) * sharp


@njit(cache=True)
def _windows(u: float, v: float, sharp: float) -> float:
    """A curtain wall: panes one unit wide and 1.2 high in light frames; above 2 is frame, else the pane's own shade."""
    i, j = int(np.floor(u)), int(np.floor(v / 1.2))
    if u - i < 0.06 or v - 1.2 * j < 0.09:
        return 3.0 * sharp
    return 1.6 * cell_hash(i, j, 3) - 0.8


@njit(cache=True)
def texture(pattern: int, u: float, v: float, scale_m: float, footprint_m: float) -> float:
    """How a texture changes the brightness at a place.

    Args:
        pattern: a `materials.Pattern`.
        u: place along the surface, level, metres.
        v: place across it, metres; upward on a wall.
        scale_m: period of the texture.
        footprint_m: width that one pixel covers there; what is finer than that fades out.

    Returns:
        About -1 (dark) to 1 (light), 0 on average.
    """
    if pattern == 0:
        return 0.0
    a, b = u / scale_m, v / scale_m
    sharp = min(max(1.5 - 2.5 * footprint_m / scale_m, 0.0), 1.0)
    if pattern == BRICK:
        return _masonry(a, b, 0.33, 0.05, min(max(1.3 - 6 * footprint_m / scale_m, 0.0), 1.0))
    if pattern in (ASPHALT, GRAVEL):
        fine = min(max(1.2 - footprint_m / 0.03, 0.0), 1.0)
        grain = cell_hash(int(np.floor(u * 60)), int(np.floor(v * 60)), 4) - 0.5
        return 0.9 * fine * grain + 0.45 * sharp * smooth_noise(a, b, 5) + 0.4 * smooth_noise(0.3 * u, 0.3 * v, 6)
    if pattern == GRASS:
        blades = smooth_noise(14 * a, 14 * b, 8) * min(max(1.2 - 8 * footprint_m / scale_m, 0.0), 1.0)
        return 0.5 * blades + 0.5 * sharp * smooth_noise(2 * a, 2 * b, 7) + 0.5 * smooth_noise(0.2 * a, 0.2 * b, 9)
    if pattern == LEAVES:
        leaf = cell_hash(int(np.floor(9 * a)), int(np.floor(9 * b)), 10) - 0.5
        fine = min(max(1.3 - 6 * footprint_m / scale_m, 0.15), 1.0)
        return 1.1 * fine * leaf + 0.7 * sharp * smooth_noise(2.2 * a, 2.2 * b, 11)
    if pattern == PAVING:
        return _slabs(a, b, 0.03, sharp)
    if pattern == CONCRETE:
        joint = 0.6 * _slabs(a, b, 0.012, min(max(1.3 - 25 * footprint_m / scale_m, 0.0), 1.0))
        return joint + 0.5 * smooth_noise(1.7 * a, 1.7 * b, 12) + 0.3 * smooth_noise(0.4 * u, 0.15 * v, 13)
    if pattern == BARK:
        return sharp * smooth_noise(3 * a, 0.4 * b, 14)
    if pattern == ROOF_TILES:
        return _ramps(b, sharp, 15) + 0.5 * sharp * (cell_hash(int(np.floor(a)), int(np.floor(b)), 16) - 0.5)
    if pattern == PLANKS:
        return _ramps(a, sharp, 17) + 0.3 * sharp * smooth_noise(4 * a, 0.5 * b, 18)
    if pattern == CLADDING:
        return _ramps(b, sharp, 19)
    if pattern == WINDOWS:
        return _windows(a, b, sharp)
    if pattern == STRIPES:
        return (1.0 if a - np.floor(a) < 0.5 else -1.0) * sharp
    return 0.7 * sharp * smooth_noise(a, b, 20) + 0.5 * smooth_noise(0.25 * a, 0.25 * b, 21)
