"""Compiled loops around ray casting: which rays meet which actors' boxes, the nearest hits, and what was hit.

The scene frame is the world less the scene's origin. Actors move evenly between two poses; a ray's fraction says when.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from perception.simulation.textures import smooth_noise

NO_TRIANGLE = 0xFFFFFFFF
"""What Open3D answers for a ray that meets nothing."""

_BOX_MARGIN_M = 1e-3
_FINE, _COARSE = 32, 2048
"""Numbers of rays that are first held against an actor together."""


class Motion(NamedTuple):
    """Two poses per actor: rotations (A, 3, 3) and positions (A, 3), float64, scene frame."""

    rotation_start: np.ndarray
    rotation_end: np.ndarray
    position_start: np.ndarray
    position_end: np.ndarray


class Shapes(NamedTuple):
    """Per shape (S, 3): centre and half extents of its box in its frame, its place in the gallery; triangle ranges.

    `reach_m` (S,) is the distance from a shape's origin that no part of it exceeds.
    """

    centers: np.ndarray
    halves: np.ndarray
    slots: np.ndarray
    ends: np.ndarray
    reach_m: np.ndarray


class Surfaces(NamedTuple):
    """Per triangle, the static ones first: material, point category and unit normal in the frame of its mesh."""

    materials: np.ndarray
    semantics: np.ndarray
    normals: np.ndarray


class Meetings(NamedTuple):
    """Rays that enter an actor's box: which, whose, how far to it, and the rest of the ray (C, 6) in the gallery."""

    ray: np.ndarray
    actor: np.ndarray
    entry_m: np.ndarray
    local: np.ndarray


class Nearest(NamedTuple):
    """The nearest hit so far: distance (N,) float32, triangle (N,) int64 (static ones first), actor (N,) int32."""

    distance_m: np.ndarray
    triangle: np.ndarray
    actor: np.ndarray
    num_static: int


@njit(cache=True, error_model="numpy", inline="always")
def _pose(motion: Motion, actor: int, fraction: float, rotation: np.ndarray, position: np.ndarray) -> None:
    """Fills rotation (3, 3) and position (3,) of one actor at one time."""
    for i in range(3):
        position[i] = motion.position_start[actor, i] + fraction * (
            motion.position_end[actor, i] - motion.position_start[actor, i]
        )
        for j in range(3):
            rotation[i, j] = motion.rotation_start[actor, i, j] + fraction * (
                motion.rotation_end[actor, i, j] - motion.rotation_start[actor, i, j]
            )


@njit(cache=True, error_model="numpy", inline="always")
def _into(
    rotation: np.ndarray, position: np.ndarray, rays: np.ndarray, n: int, origin: np.ndarray, direction: np.ndarray
) -> None:
    """Fills origin and direction (3,) of ray `n` in the frame of an actor."""
    x, y, z = rays[n, 0] - position[0], rays[n, 1] - position[1], rays[n, 2] - position[2]
    for i in range(3):
        origin[i] = rotation[0, i] * x + rotation[1, i] * y + rotation[2, i] * z
        direction[i] = rotation[0, i] * rays[n, 3] + rotation[1, i] * rays[n, 4] + rotation[2, i] * rays[n, 5]


@njit(cache=True, error_model="numpy", inline="always")
def _entry(origin: np.ndarray, direction: np.ndarray, centers: np.ndarray, halves: np.ndarray, shape: int) -> float:
    """Distance along a ray to a shape's box (0 from inside), or -1 where it passes by."""
    near, far = 0.0, np.inf
    for i in range(3):
        slope = direction[i] if abs(direction[i]) > 1e-12 else 1e-12
        a = (centers[shape, i] - halves[shape, i] - _BOX_MARGIN_M - origin[i]) / slope
        b = (centers[shape, i] + halves[shape, i] + _BOX_MARGIN_M - origin[i]) / slope
        near = max(near, min(a, b))
        far = min(far, max(a, b))
    return near if near <= far else -1.0


@njit(cache=True, error_model="numpy")
def _cones(rays: np.ndarray, limits_m: np.ndarray, size: int | np.int64) -> np.ndarray:
    """Cones around runs of `size` rays (B, 10): middle of the origins, their radius, axis, cosine and sine, longest."""
    num_runs = (len(rays) + size - 1) // size
    cones = np.zeros((num_runs, 10))
    for b in range(num_runs):
        first, last = b * size, min((b + 1) * size, len(rays))
        cone = cones[b]
        for n in range(first, last):
            for i in range(3):
                cone[i] += rays[n, i] / (last - first)
                cone[4 + i] += rays[n, 3 + i]
            cone[9] = max(cone[9], limits_m[n])
        length = np.sqrt(cone[4] ** 2 + cone[5] ** 2 + cone[6] ** 2)
        cosine, apart = 1.0, 0.0
        for n in range(first, last):
            along, away = 0.0, 0.0
            for i in range(3):
                along += rays[n, 3 + i] * cone[4 + i] / max(length, 1e-9)
                away += (rays[n, i] - cone[i]) ** 2
            cosine, apart = min(cosine, along), max(apart, away)
        for i in range(3):
            cone[4 + i] /= max(length, 1e-9)
        cone[3], cone[7] = np.sqrt(apart) + 1e-3, max(cosine - 1e-5, -1.0)
        cone[8] = np.sqrt(1 - cone[7] ** 2)
    return cones


@njit(cache=True, error_model="numpy", inline="always")
def _passes_by(cones: np.ndarray, b: int, spheres: np.ndarray, actor: int) -> bool:
    """Whether no ray of a cone can come into an actor's sphere."""
    x, y, z = spheres[actor, 0] - cones[b, 0], spheres[actor, 1] - cones[b, 1], spheres[actor, 2] - cones[b, 2]
    distance, wide = np.sqrt(x * x + y * y + z * z), spheres[actor, 3] + cones[b, 3]
    if distance <= wide:
        return False
    if distance - wide > cones[b, 9]:
        return True
    if cones[b, 7] < 0:
        return False  # wider than half of all directions
    # beyond the cone's half angle and the sphere's together; their sum stays below pi
    sine = wide / distance
    outermost = cones[b, 7] * np.sqrt(1 - sine * sine) - cones[b, 8] * sine
    return x * cones[b, 4] + y * cones[b, 5] + z * cones[b, 6] < outermost * distance


@njit(cache=True, error_model="numpy")
def _spheres(motion: Motion, shape_of: np.ndarray, shapes: Shapes) -> np.ndarray:
    """(A, 4) middle and radius of a sphere around all that each actor touches on its way."""
    spheres = np.empty((len(shape_of), 4))
    for actor in range(len(shape_of)):
        way = 0.0
        for i in range(3):
            step = motion.position_end[actor, i] - motion.position_start[actor, i]
            spheres[actor, i] = motion.position_start[actor, i] + step / 2
            way += step * step
        spheres[actor, 3] = shapes.reach_m[shape_of[actor]] + np.sqrt(way) / 2
    return spheres


@njit(cache=True, error_model="numpy")
def meetings(
    rays: np.ndarray,
    limits_m: np.ndarray,
    fractions: np.ndarray,
    motion: Motion,
    shape_of: np.ndarray,
    shapes: Shapes,
) -> Meetings:
    """Lists the rays that enter the boxes of actors before they end.

    Args:
        rays: (N, 6) float32 origin and unit direction, scene frame.
        limits_m: (N,) float32 length of each ray.
        fractions: (N,) float32 time of each ray between the two poses of the motion.
        motion: `Motion` of A actors.
        shape_of: (A,) int32.
        shapes: `Shapes`.

    Returns:
        `Meetings`, in any order.
    """
    count, ratio = 0, _COARSE // _FINE
    met = Meetings(np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.float32), _rows(1024))
    rotation, position = np.empty((3, 3)), np.empty(3)
    origin, direction = np.empty(3), np.empty(3)
    spheres = _spheres(motion, shape_of, shapes)
    coarse, fine = _cones(rays, limits_m, np.int64(_COARSE)), _cones(rays, limits_m, np.int64(_FINE))
    for actor in range(len(shape_of)):
        shape = shape_of[actor]
        reach = np.float32(shapes.reach_m[shape])
        for c in range(len(coarse)):
            if _passes_by(coarse, c, spheres, actor):
                continue
            for b in range(c * ratio, min((c + 1) * ratio, len(fine))):
                if _passes_by(fine, b, spheres, actor):
                    continue
                for n in range(b * _FINE, min((b + 1) * _FINE, len(rays))):
                    if not _comes_near(rays, n, limits_m[n], fractions[n], motion, actor, reach):
                        continue
                    _pose(motion, actor, fractions[n], rotation, position)
                    _into(rotation, position, rays, n, origin, direction)
                    entry = _entry(origin, direction, shapes.centers, shapes.halves, shape)
                    if entry < 0 or entry > limits_m[n]:
                        continue
                    if count == len(met.ray):
                        met = _grown(met)
                    met.ray[count], met.actor[count], met.entry_m[count] = n, actor, entry
                    for i in range(3):
                        met.local[count, i] = origin[i] + entry * direction[i] + shapes.slots[shape, i]
                        met.local[count, 3 + i] = direction[i]
                    count += 1
    return Meetings(met.ray[:count], met.actor[:count], met.entry_m[:count], met.local[:count])


@njit(cache=True, error_model="numpy", inline="always")
def _comes_near(
    rays: np.ndarray, n: int, limit_m: float, fraction: float, motion: Motion, actor: int, reach: float | np.float32
) -> bool | np.bool_:
    """Whether a ray comes as close to an actor's origin as its shape reaches before it ends; in float32."""
    along, away = np.float32(0), np.float32(0)
    for i in range(3):
        start = motion.position_start[actor, i]
        offset = np.float32(start + fraction * (motion.position_end[actor, i] - start) - rays[n, i])
        along += offset * rays[n, 3 + i]
        away += offset * offset
    return away - along * along <= reach * reach and -reach <= along <= limit_m + reach


@njit(cache=True)
def _rows(count: int) -> np.ndarray:
    return np.empty((count, 6), np.float32)


@njit(cache=True)
def _grown(met: Meetings) -> Meetings:
    """The same with twice the room."""
    count = len(met.ray)
    larger = Meetings(
        np.empty(2 * count, np.int32), np.empty(2 * count, np.int32), np.empty(2 * count, np.float32), _rows(2 * count)
    )
    for n in range(count):
        larger.ray[n], larger.actor[n], larger.entry_m[n] = met.ray[n], met.actor[n], met.entry_m[n]
        for i in range(6):
            larger.local[n, i] = met.local[n, i]
    return larger


@njit(cache=True)
def keep_nearest(
    met: Meetings,
    hit_m: np.ndarray,
    hit_triangle: np.ndarray,
    shape_of: np.ndarray,
    ends: np.ndarray,
    nearest: Nearest,
) -> None:
    """Writes the hits on actors that are nearer than what is known into `nearest`.

    Args:
        met: `Meetings`.
        hit_m: (C,) float32 distance from the box to the hit.
        hit_triangle: (C,) uint32 triangle of the gallery, or `NO_TRIANGLE`.
        shape_of: (A,) int32.
        ends: (S + 1,) int64, where each shape's triangles begin in the gallery.
        nearest: changed in place.
    """
    for c in range(len(hit_m)):
        shape = shape_of[met.actor[c]]
        if not ends[shape] <= hit_triangle[c] < ends[shape + 1]:
            continue  # missed, or ran on into a neighbour in the gallery
        ray, total = met.ray[c], met.entry_m[c] + hit_m[c]
        if total < nearest.distance_m[ray]:
            nearest.distance_m[ray] = total
            nearest.triangle[ray] = nearest.num_static + hit_triangle[c]
            nearest.actor[ray] = met.actor[c]


@njit(cache=True)
def mark_occluded(
    met: Meetings,
    hit_m: np.ndarray,
    hit_triangle: np.ndarray,
    shape_of: np.ndarray,
    ends: np.ndarray,
    limits_m: np.ndarray,
    occluded: np.ndarray,
) -> None:
    """Marks the rays that end on an actor in `occluded` (N,) bool; arguments as in `keep_nearest`."""
    for c in range(len(hit_m)):
        shape = shape_of[met.actor[c]]
        own = ends[shape] <= hit_triangle[c] < ends[shape + 1]
        if own and met.entry_m[c] + hit_m[c] < limits_m[met.ray[c]]:
            occluded[met.ray[c]] = True


@njit(cache=True, error_model="numpy")
def describe(
    rays: np.ndarray, fractions: np.ndarray, nearest: Nearest, motion: Motion, surfaces: Surfaces
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Looks up what was hit.

    Args:
        rays: (N, 6) float32.
        fractions: (N,) float32.
        nearest: as `keep_nearest` left it.
        motion: `Motion`.
        surfaces: `Surfaces`.

    Returns:
        Material (N,) int16, category (N,) uint8, position (N, 3), world normal (N, 3) and mesh normal (N, 3) float32;
        see `rays.Hits`.
    """
    count = len(rays)
    material, semantic = np.zeros(count, np.int16), np.zeros(count, np.uint8)
    place, normal = np.zeros((count, 3), np.float32), np.zeros((count, 3), np.float32)
    mesh_normal = np.zeros((count, 3), np.float32)
    rotation, position, world = np.empty((3, 3)), np.empty(3), np.empty(3)
    for n in range(count):
        if not nearest.distance_m[n] < np.inf:
            continue
        triangle, owner = nearest.triangle[n], nearest.actor[n]
        material[n], semantic[n] = surfaces.materials[triangle], surfaces.semantics[triangle]
        flat = surfaces.normals[triangle]
        for i in range(3):
            world[i] = rays[n, i] + nearest.distance_m[n] * rays[n, 3 + i]
        if owner < 0:
            for i in range(3):
                place[n, i], normal[n, i] = world[i], flat[i]
        else:
            _pose(motion, owner, fractions[n], rotation, position)
            for i in range(3):
                for j in range(3):
                    place[n, i] += rotation[j, i] * (world[j] - position[j])
                    normal[n, i] += rotation[i, j] * flat[j]
        facing = normal[n, 0] * rays[n, 3] + normal[n, 1] * rays[n, 4] + normal[n, 2] * rays[n, 5]
        sign = np.float32(-1.0) if facing > 0 else np.float32(1.0)
        for i in range(3):
            normal[n, i] *= sign
            mesh_normal[n, i] = sign * flat[i]
    return material, semantic, place, normal, mesh_normal


@njit(cache=True, error_model="numpy")
def through_crowns(
    rays: np.ndarray,
    distance_m: np.ndarray,
    material: np.ndarray,
    place: np.ndarray,
    normal: np.ndarray,
    porous: np.ndarray,
) -> np.ndarray:
    """Finds the rays that pass between the leaves of what they hit, most often at the rim of a crown.

    Args:
        rays: (N, 6) float32.
        distance_m: (N,) float32.
        material: (N,) int16.
        place: (N, 3) float32 position of the hit in the frame of its mesh.
        normal: (N, 3) float32 world axes.
        porous: per material, whether it has holes.

    Returns:
        (K,) int64 indices of rays.
    """
    passing = np.zeros(len(rays), np.bool_)
    for n in range(len(rays)):
        if not (distance_m[n] < np.inf and porous[material[n]]):
            continue
        facing = abs(rays[n, 3] * normal[n, 0] + rays[n, 4] * normal[n, 1] + rays[n, 5] * normal[n, 2])
        u, v = place[n, 0] + 0.6 * place[n, 2], place[n, 1] - 0.7 * place[n, 2]
        gap = 0.7 * smooth_noise(3.3 * u, 3.3 * v, 25) + 0.5 * smooth_noise(9.0 * u, 9.0 * v, 26)
        passing[n] = gap > 0.75 * facing - 0.15
    return np.nonzero(passing)[0]
