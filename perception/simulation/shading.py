"""The colour of what rays hit: sun and shadow, sky light, procedural textures, mirrored sky, haze."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from perception.simulation.lamp_light import LampLight
from perception.simulation.light import Light, sky_colour
from perception.simulation.rays import Hits
from perception.simulation.textures import ASPHALT, LEAVES, PAVING, WINDOWS, cell_hash, smooth_noise, texture


class Appearance(NamedTuple):
    """The table of materials, column by column (see `materials.Material`)."""

    albedo: np.ndarray
    pattern: np.ndarray
    scale_m: np.ndarray
    contrast: np.ndarray
    gloss: np.ndarray
    emission: np.ndarray
    lidar_gloss: np.ndarray

    @classmethod
    def of(cls, materials: np.ndarray) -> Appearance:
        """The columns of a table of `materials.MATERIAL_DTYPE`."""
        return cls(*(np.ascontiguousarray(materials[name]) for name in cls._fields))


@njit(cache=True, error_model="numpy", inline="always")
def _surface(mesh_normal: np.ndarray, position: np.ndarray) -> tuple[float, float]:
    """Level and upward coordinate of a place on its surface."""
    if abs(mesh_normal[2]) > 0.7:
        return position[0], position[1]
    length = np.sqrt(mesh_normal[0] ** 2 + mesh_normal[1] ** 2)
    return (position[1] * mesh_normal[0] - position[0] * mesh_normal[1]) / length, position[2]


@njit(cache=True, error_model="numpy")
def mirrored(directions: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Turns rays (N, 3) round at surfaces with unit normals (N, 3)."""
    result = np.empty_like(directions)
    for n in range(len(directions)):
        along = np.float32(0.0)
        for i in range(3):
            along += directions[n, i] * normals[n, i]
        for i in range(3):
            result[n, i] = directions[n, i] - 2 * along * normals[n, i]
    return result


@njit(cache=True, error_model="numpy", inline="always")
def _guessed_reflection(ray: np.ndarray, normal: np.ndarray, light: Light, rgb: np.ndarray) -> None:
    """Fills `rgb` with what a mirror is likely to show: sky above, something dim below."""
    cosine = -(ray[0] * normal[0] + ray[1] * normal[1] + ray[2] * normal[2])
    z = ray[2] + 2 * cosine * normal[2]
    sky_colour(ray[0] + 2 * cosine * normal[0], ray[1] + 2 * cosine * normal[1], z, light, rgb)
    open_share = min(max((z - 0.06) * 4, 0.0), 1.0)
    for i in range(3):
        ground = 0.18 * (light.sun[i] * max(light.to_sun[2], 0.1) + light.zenith[i])
        rgb[i] = min(ground + open_share * (rgb[i] - ground), 2.0)


@njit(cache=True, error_model="numpy", inline="always")
def _ruffled(position: np.ndarray, normal: np.ndarray, mesh_normal: np.ndarray, scale_m: float) -> tuple[float, float]:
    """Shade of a spot of foliage in the sun and under the sky: leaves face every way."""
    u, v = _surface(mesh_normal, position)
    lean = smooth_noise(5 * u / scale_m, 5 * v / scale_m, 22)
    depth = smooth_noise(1.6 * u / scale_m + 0.5 * position[2], 1.6 * v / scale_m, 23)
    return 0.35 + 0.65 * min(max(0.5 + 0.6 * lean, 0.0), 1.0), 0.65 + 0.35 * depth + 0.1 * normal[2]


@njit(cache=True, error_model="numpy", inline="always")
def _albedo_factor(pattern: int, contrast: float, shade: float) -> float:
    """What a texture's shade does to the albedo; frames of curtain walls are far lighter than the glass."""
    if pattern == WINDOWS and shade > 1.0:
        return 1.0 + 1.2 * (shade - 1.0)
    return max(1.0 + contrast * shade, 0.12)


@njit(cache=True, error_model="numpy", inline="always")
def _share_of_light(
    hits: Hits, n: int, pattern: int, scale_m: float, lit: bool, clear: float, light: Light
) -> tuple[float, float]:
    """How much of the sun (with what the street throws back) and of the sky falls on hit `n`."""
    normal = hits.normal[n]
    sunward = normal[0] * light.to_sun[0] + normal[1] * light.to_sun[1] + normal[2] * light.to_sun[2]
    direct = max(sunward, 0.0) if lit else 0.0
    ambient = (0.55 + 0.45 * normal[2]) * (0.15 + 0.85 * clear)
    if pattern == LEAVES:
        leaf_sun, leaf_sky = _ruffled(hits.position[n], normal, hits.mesh_normal[n], scale_m)
        direct = (0.25 + 0.75 * leaf_sun) * direct + (0.12 * leaf_sun if lit else 0.0)
        ambient *= leaf_sky
    bounce = 0.15 * (1.0 - 0.75 * normal[2]) * clear * max(light.to_sun[2], 0.1)
    return direct + bounce, ambient


@njit(cache=True, error_model="numpy", inline="always")
def _at_home(normal: np.ndarray, u: float, v: float, pattern: int, scale_m: float) -> float:
    """Light behind a window at night: some flats have theirs on, and some panes of an office."""
    wide, high, share = (scale_m, 1.2 * scale_m, 0.13) if pattern == WINDOWS else (6.0, 3.1, 0.24)
    i, j = int(np.floor(u / wide)), int(np.floor(v / high))
    side = 3 * int(np.rint(3 * normal[0])) + int(np.rint(3 * normal[1]))
    chance = cell_hash(i, j, 40 + side)
    return (0.10 + 0.16 * cell_hash(i, j, 80 + side)) if chance < share else 0.0


@njit(cache=True, error_model="numpy", inline="always")
def _puddles(place: np.ndarray) -> float:
    """How smooth the water on wet ground is: it stands in hollows, elsewhere it fills what is between the stones."""
    hollow = 0.7 * smooth_noise(0.23 * place[0], 0.23 * place[1], 28)
    hollow += 0.4 * smooth_noise(0.9 * place[0], 0.9 * place[1], 29)
    share = min(max(2.2 * hollow + 0.25, 0.0), 1.0)
    return 0.45 + 0.65 * share


@njit(cache=True, error_model="numpy")
def radiance(
    directions: np.ndarray,
    hits: Hits,
    lit: np.ndarray,
    clear: np.ndarray,
    mirrors: tuple[np.ndarray, np.ndarray],
    looks: Appearance,
    light: Light,
    pixel_rad: float,
    lamps: LampLight,
) -> np.ndarray:
    """Computes the light that comes back along each ray.

    Args:
        directions: (N, 3) float32 unit vectors, world axes.
        hits: (N,) what they hit.
        lit: (N,) bool, whether the sun reaches it.
        clear: (N,) float32, how much of the sky is open around it.
        mirrors: per ray the row of its reflection (N,) int32, -1 where it is guessed; the reflections (K, 3) float32.
        looks: the table of materials.
        light: sun and sky.
        pixel_rad: angle that one pixel covers.
        lamps: what lamps throw on the hits, and what the hits give off; empty where they do nothing.

    Returns:
        (N, 3) float32 linear RGB; 1 is white paper in full sun.
    """
    result, reflection = np.empty((len(directions), 3), np.float32), np.empty(3, np.float32)
    rows, reflections = mirrors
    lamplit, shining = len(lamps.irradiance) > 0, len(lamps.emission) > 0
    for n in range(len(directions)):
        ray, distance = directions[n], hits.distance_m[n]
        if not distance < np.inf:
            sky_colour(ray[0], ray[1], ray[2], light, result[n])
            continue
        material, normal, place = hits.material[n], hits.normal[n], hits.position[n]
        pattern, gloss, scale_m = looks.pattern[material], looks.gloss[material], looks.scale_m[material]
        facing = max(-(ray[0] * normal[0] + ray[1] * normal[1] + ray[2] * normal[2]), 0.02)
        u, v = _surface(hits.mesh_normal[n], place)
        shade = texture(pattern, u, v, scale_m, distance * pixel_rad / np.sqrt(facing))
        factor = _albedo_factor(pattern, looks.contrast[material], shade)
        if hits.actor[n] < 0:
            factor *= 1.0 + 0.10 * smooth_noise(0.11 * place[0] + 0.07 * place[2], 0.11 * place[1], 24)  # wear
        direct, ambient = _share_of_light(hits, n, pattern, scale_m, lit[n], clear[n], light)
        share = 0.0
        if gloss > 0:
            share = gloss * (0.1 * gloss + 0.85 * (1 - facing) ** 5)
            if gloss > 0.3 and pattern in (ASPHALT, PAVING):  # as they are only when wet
                share *= _puddles(place)
            if rows[n] >= 0:
                reflection[:] = reflections[rows[n]]
            else:
                _guessed_reflection(ray, normal, light, reflection)
        kept = np.exp(-light.haze_per_m * distance)
        albedo = looks.albedo[material]
        glow = lamps.emission[n] if shining else light.lamps * looks.emission[material]
        if lamplit and gloss >= 0.45 and hits.actor[n] < 0 and abs(normal[2]) < 0.3:
            glow = max(glow, light.lamps * _at_home(hits.mesh_normal[n], u, v, pattern, scale_m))
        room = glow > 0 and gloss > 0.3 and pattern in (0, WINDOWS) and hits.actor[n] < 0  # light behind a window
        if room:
            glow *= 0.75 + 0.6 * smooth_noise(1.7 * u, 1.3 * v, 27)
        for i in range(3):
            sky_light = 0.5 * (light.zenith[i] + light.horizon[i])
            hue = 1.0 - 0.22 * i if room else albedo[i] / max(albedo[0], albedo[1], albedo[2])
            received = light.sun[i] * direct + sky_light * ambient
            if lamplit:
                received += lamps.irradiance[n, i]
            value = albedo[i] * factor * received + glow * hue
            value = value * (1 - share) + share * reflection[i] if gloss > 0 else value
            result[n, i] = value * kept + light.horizon[i] * light.airlight * (1 - kept)
    return result
