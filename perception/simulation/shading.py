"""The colour of what rays hit: sun and shadow, sky light, procedural textures, mirrored sky, haze."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from perception.simulation.light import Light, sky_colour
from perception.simulation.rays import ActorPoses, Hits, RayScene
from perception.simulation.textures import LEAVES, WINDOWS, smooth_noise, texture

AMBIENT_REACH_M = 2.5
"""How far away a surface still keeps sky light off another."""

_SHADOW_GAP_M = 2e-3


class Appearance(NamedTuple):
    """The table of materials, column by column (see `materials.Material`)."""

    albedo: np.ndarray
    pattern: np.ndarray
    scale_m: np.ndarray
    contrast: np.ndarray
    gloss: np.ndarray
    emission: np.ndarray

    @classmethod
    def of(cls, materials: np.ndarray) -> Appearance:
        """The columns of a table of `materials.MATERIAL_DTYPE`."""
        return cls(*(np.ascontiguousarray(materials[name]) for name in cls._fields))


def sunlit(
    scene: RayScene, hits: Hits, origin_m: np.ndarray, directions: np.ndarray, light: Light, actors: ActorPoses
) -> np.ndarray:
    """Finds which hits the sun reaches.

    Args:
        scene: what casts shadows.
        hits: (N,) what was hit.
        origin_m: (3,) where the rays came from, world.
        directions: (N, 3) where they went.
        light: the sun.
        actors: what moves and casts shadows too.

    Returns:
        (N,) bool; False where nothing was hit or the surface faces away.
    """
    lit = hits.found & (hits.normal @ light.to_sun > 0)  # (N,)
    chosen = np.nonzero(lit)[0]  # (K,)
    to_sun = np.broadcast_to(light.to_sun, (len(chosen), 3))
    endless = np.full(len(chosen), np.inf, np.float32)
    lit[chosen] = ~scene.occluded(_lifted(hits, origin_m, directions, chosen), to_sun, endless, actors)
    return lit


@njit(cache=True, error_model="numpy")
def _lifted(hits: Hits, origin_m: np.ndarray, directions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(K, 3) world positions of the hits `chosen` (K,), lifted off their surface so that it does not shade itself."""
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

    Every pixel sends one ray; the sixteen directions repeat every 4x4 pixels and neighbours on one surface share them.

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
    chosen = np.nonzero(hits.found)[0]  # (K,)
    around = hemisphere_directions(hits.normal[chosen], chosen // width_px, chosen % width_px)
    reach = np.full(len(chosen), AMBIENT_REACH_M, np.float32)
    clear = np.ones(len(hits.distance_m), np.float32)
    clear[chosen] = ~scene.occluded(_lifted(hits, origin_m, directions, chosen), around, reach, actors)
    height = len(clear) // width_px
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
    """Means over 4x4 pixels (H, W) that lie on one surface."""
    height, width = clear.shape
    result = np.ones_like(clear)
    for r in range(height):
        for c in range(width):
            here = distance[r, c]
            if not here < np.inf:
                continue
            total, weight = 0.0, 0.0
            for i in range(max(r - 2, 0), min(r + 2, height)):
                for j in range(max(c - 2, 0), min(c + 2, width)):
                    same = normal[r, c, 0] * normal[i, j, 0] + normal[r, c, 1] * normal[i, j, 1]
                    same += normal[r, c, 2] * normal[i, j, 2]
                    if same > 0.8 and abs(distance[i, j] - here) < 0.1 * here:
                        total += clear[i, j]
                        weight += 1.0
            result[r, c] = total / weight if weight > 0 else clear[r, c]
    return result


@njit(cache=True, error_model="numpy")
def edges(hits: Hits, width_px: int) -> np.ndarray:
    """Finds the pixels that show more than one surface.

    Args:
        hits: (H * W,) one per pixel, row by row.
        width_px: of the picture.

    Returns:
        (H * W,) bool.
    """
    count = len(hits.distance_m)
    result = np.zeros(count, np.bool_)
    for n in range(count):
        for m in (n + 1 if (n + 1) % width_px else count, n + width_px):
            if m >= count:
                continue
            here, there = hits.distance_m[n], hits.distance_m[m]
            if not here < np.inf and not there < np.inf:
                continue
            differ = hits.material[n] != hits.material[m] or hits.actor[n] != hits.actor[m]
            if not differ and here < np.inf and there < np.inf:
                same = 0.0
                for i in range(3):
                    same += hits.normal[n, i] * hits.normal[m, i]
                differ = same < 0.95 or (abs(here - there) > 0.1 * here and hits.normal[n, 2] < 0.9)
            if differ or (here < np.inf) != (there < np.inf):
                result[n], result[m] = True, True
    return result


@njit(cache=True, error_model="numpy")
def _surface(mesh_normal: np.ndarray, position: np.ndarray) -> tuple[float, float]:
    """Level and upward coordinate of a place on its surface."""
    if abs(mesh_normal[2]) > 0.7:
        return position[0], position[1]
    length = np.sqrt(mesh_normal[0] ** 2 + mesh_normal[1] ** 2)
    return (position[1] * mesh_normal[0] - position[0] * mesh_normal[1]) / length, position[2]


@njit(cache=True, error_model="numpy")
def _reflection(ray: np.ndarray, normal: np.ndarray, light: Light, roughness: float, rgb: np.ndarray) -> float:
    """Fills `rgb` with what a mirror would show (sky, skyline, road) and returns the cosine of incidence."""
    cosine = -(ray[0] * normal[0] + ray[1] * normal[1] + ray[2] * normal[2])
    x, y, z = ray[0] + 2 * cosine * normal[0], ray[1] + 2 * cosine * normal[1], ray[2] + 2 * cosine * normal[2]
    z += roughness
    sky_colour(x, y, z, light, rgb)
    open_share = min(max((z - 0.06) * 4, 0.0), 1.0)
    for i in range(3):
        ground = 0.18 * (light.sun[i] * max(light.to_sun[2], 0.1) + light.zenith[i])
        rgb[i] = min(ground + open_share * (rgb[i] - ground), 2.0)
    return cosine


@njit(cache=True, error_model="numpy")
def _ruffled(position: np.ndarray, normal: np.ndarray, mesh_normal: np.ndarray, scale_m: float) -> tuple[float, float]:
    """Shade of a spot of foliage in the sun and under the sky: leaves face every way."""
    u, v = _surface(mesh_normal, position)
    lean = smooth_noise(5 * u / scale_m, 5 * v / scale_m, 22)
    depth = smooth_noise(1.6 * u / scale_m + 0.5 * position[2], 1.6 * v / scale_m, 23)
    return 0.35 + 0.65 * min(max(0.5 + 0.6 * lean, 0.0), 1.0), 0.65 + 0.35 * depth + 0.1 * normal[2]


@njit(cache=True, error_model="numpy")
def _albedo_factor(pattern: int, contrast: float, shade: float) -> float:
    """What a texture's shade does to the albedo; frames of curtain walls are far lighter than the glass."""
    if pattern == WINDOWS and shade > 1.0:
        return 1.0 + 1.2 * (shade - 1.0)
    return max(1.0 + contrast * shade, 0.12)


@njit(cache=True, error_model="numpy")
def radiance(
    directions: np.ndarray,
    hits: Hits,
    lit: np.ndarray,
    clear: np.ndarray,
    looks: Appearance,
    light: Light,
    pixel_rad: float,
) -> np.ndarray:
    """Computes the light that comes back along each ray.

    Args:
        directions: (N, 3) float32 unit vectors, world axes.
        hits: (N,) what they hit.
        lit: (N,) bool, whether the sun reaches it.
        clear: (N,) float32, how much of the sky is open around it.
        looks: the table of materials.
        light: sun and sky.
        pixel_rad: angle that one pixel covers.

    Returns:
        (N, 3) float32 linear RGB; 1 is white paper in full sun.
    """
    count = len(directions)
    result = np.empty((count, 3), np.float32)
    mirrored = np.empty(3, np.float32)
    for n in range(count):
        ray, distance = directions[n], hits.distance_m[n]
        if not distance < np.inf:
            sky_colour(ray[0], ray[1], ray[2], light, result[n])
            continue
        material, normal, place = hits.material[n], hits.normal[n], hits.position[n]
        pattern, gloss = looks.pattern[material], looks.gloss[material]
        facing = max(-(ray[0] * normal[0] + ray[1] * normal[1] + ray[2] * normal[2]), 0.05)
        footprint = distance * pixel_rad / np.sqrt(facing)
        u, v = _surface(hits.mesh_normal[n], place)
        shade = texture(pattern, u, v, looks.scale_m[material], footprint)
        factor = _albedo_factor(pattern, looks.contrast[material], shade)
        if hits.actor[n] < 0:
            factor *= 1.0 + 0.10 * smooth_noise(0.11 * place[0] + 0.07 * place[2], 0.11 * place[1], 24)  # wear
        sunward = normal[0] * light.to_sun[0] + normal[1] * light.to_sun[1] + normal[2] * light.to_sun[2]
        direct = max(sunward, 0.0) if lit[n] else 0.0
        ambient = (0.62 + 0.38 * normal[2]) * (0.25 + 0.75 * clear[n])
        bounce = 0.16 * (1.0 - 0.75 * normal[2]) * clear[n] * max(light.to_sun[2], 0.1)
        if pattern == LEAVES:
            leaf_sun, leaf_sky = _ruffled(place, normal, hits.mesh_normal[n], looks.scale_m[material])
            direct = 0.25 * direct + 0.75 * leaf_sun * direct + (0.12 * leaf_sun if lit[n] else 0.0)
            ambient *= leaf_sky
        share = 0.0
        if gloss > 0:
            cosine = _reflection(ray, normal, light, 0.0, mirrored)
            share = gloss * (0.10 + 0.85 * (1 - cosine) ** 4)
        kept = np.exp(-light.haze_per_m * distance)
        emission = looks.emission[material]
        for i in range(3):
            sky_light = 0.5 * (light.zenith[i] + light.horizon[i])
            colour = looks.albedo[material, i] * factor
            value = colour * (light.sun[i] * (direct + bounce) + sky_light * ambient)
            value += share * mirrored[i] + emission * colour
            result[n, i] = value * kept + light.horizon[i] * 0.85 * (1 - kept)
    return result
