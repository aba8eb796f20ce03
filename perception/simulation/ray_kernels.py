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
    """Per shape (S, 3): centre and half extents of its box in its frame, its place in the gallery; triangle ranges."""

    centers: np.ndarray
    halves: np.ndarray
    slots: np.ndarray
    ends: np.ndarray


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


@njit(cache=True, error_model="numpy")
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


@njit(cache=True, error_model="numpy")
def _into(
    rotation: np.ndarray, position: np.ndarray, ray: np.ndarray, origin: np.ndarray, direction: np.ndarray
) -> None:
    """Fills origin and direction (3,) of a ray in the frame of an actor."""
    x, y, z = ray[0] - position[0], ray[1] - position[1], ray[2] - position[2]
    for i in range(3):
        origin[i] = rotation[0, i] * x + rotation[1, i] * y + rotation[2, i] * z
        direction[i] = rotation[0, i] * ray[3] + rotation[1, i] * ray[4] + rotation[2, i] * ray[5]


@njit(cache=True, error_model="numpy")
def _entry(origin: np.ndarray, direction: np.ndarray, center: np.ndarray, half: np.ndarray) -> float:
    """Distance along a ray to a box (0 from inside), or -1 where it passes by."""
    near, far = 0.0, np.inf
    for i in range(3):
        slope = direction[i] if abs(direction[i]) > 1e-12 else 1e-12
        a = (center[i] - half[i] - _BOX_MARGIN_M - origin[i]) / slope
        b = (center[i] + half[i] + _BOX_MARGIN_M - origin[i]) / slope
        near = max(near, min(a, b))
        far = min(far, max(a, b))
    return near if near <= far else -1.0


@njit(cache=True, error_model="numpy")
def _cones(rays: np.ndarray, limits_m: np.ndarray, size: int) -> np.ndarray:
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
        cone[4:7] /= max(length, 1e-9)
        cone[3], cone[7] = np.sqrt(apart) + 1e-3, max(cosine - 1e-5, -1.0)
        cone[8] = np.sqrt(1 - cone[7] ** 2)
    return cones


@njit(cache=True, error_model="numpy")
def _passes_by(cone: np.ndarray, center: np.ndarray, reach: float) -> bool:
    """Whether no ray of a cone can come within `reach` of a centre."""
    x, y, z = center[0] - cone[0], center[1] - cone[1], center[2] - cone[2]
    distance, wide = np.sqrt(x * x + y * y + z * z), reach + cone[3]
    if distance <= wide:
        return False
    if distance - wide > cone[9]:
        return True
    if cone[7] < 0:
        return False  # wider than half of all directions
    # beyond the cone's half angle and the sphere's together; their sum stays below pi
    sine = wide / distance
    outermost = cone[7] * np.sqrt(1 - sine * sine) - cone[8] * sine
    return x * cone[4] + y * cone[5] + z * cone[6] < outermost * distance


@njit(cache=True, error_model="numpy")
def _near(coarse: np.ndarray, fine: np.ndarray, center: np.ndarray, reach: float) -> list[int]:
    """First rays of the runs of `_FINE` rays that may come within `reach` of a centre."""
    ratio, found = _COARSE // _FINE, [0][:0]
    for c in range(len(coarse)):
        if not _passes_by(coarse[c], center, reach):
            for b in range(c * ratio, min((c + 1) * ratio, len(fine))):
                if not _passes_by(fine[b], center, reach):
                    found.append(b * _FINE)
    return found


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
        `Meetings`, actor by actor.
    """
    count = 0
    ray_index, actor_index = np.empty(1024, np.int32), np.empty(1024, np.int32)
    entries, local = np.empty(1024, np.float32), np.empty((1024, 6), np.float32)
    rotation, position = np.empty((3, 3)), np.empty(3)
    origin, direction = np.empty(3), np.empty(3)
    coarse, fine = _cones(rays, limits_m, _COARSE), _cones(rays, limits_m, _FINE)
    for actor in range(len(shape_of)):
        shape = shape_of[actor]
        center, half = shapes.centers[shape], shapes.halves[shape]
        reach = np.float32(np.sqrt(np.sum(center**2)) + np.sqrt(np.sum(half**2)) + 0.01)
        start = motion.position_start[actor].astype(np.float32)
        step = (motion.position_end[actor] - motion.position_start[actor]).astype(np.float32)
        middle, sweep = start + step / 2, reach + np.sqrt(np.sum(step**2)) / 2
        still = np.all(motion.rotation_start[actor] == motion.rotation_end[actor]) and not np.any(step)
        _pose(motion, actor, 0.0, rotation, position)
        for first in _near(coarse, fine, middle, sweep):
            for n in range(first, min(first + _FINE, len(rays))):
                fraction = fractions[n]
                x = start[0] + fraction * step[0] - rays[n, 0]
                y = start[1] + fraction * step[1] - rays[n, 1]
                z = start[2] + fraction * step[2] - rays[n, 2]
                along = x * rays[n, 3] + y * rays[n, 4] + z * rays[n, 5]
                aside = x * x + y * y + z * z - along * along
                if aside > reach * reach or along < -reach or along - reach > limits_m[n]:
                    continue
                if not still:
                    _pose(motion, actor, fraction, rotation, position)
                _into(rotation, position, rays[n], origin, direction)
                entry = _entry(origin, direction, center, half)
                if entry < 0 or entry > limits_m[n]:
                    continue
                if count == len(ray_index):
                    ray_index, actor_index = _grown(ray_index), _grown(actor_index)
                    entries, local = _grown(entries), _grown_rows(local)
                ray_index[count], actor_index[count], entries[count] = n, actor, entry
                for i in range(3):
                    local[count, i] = origin[i] + entry * direction[i] + shapes.slots[shape, i]
                    local[count, 3 + i] = direction[i]
                count += 1
    return Meetings(ray_index[:count], actor_index[:count], entries[:count], local[:count])


@njit(cache=True, error_model="numpy")
def own_meetings(
    rays: np.ndarray, actors: np.ndarray, motion: Motion, shape_of: np.ndarray, shapes: Shapes
) -> Meetings:
    """Lists the rays that enter the box of the one actor that each is meant for; arguments as in `meetings`.

    Args:
        rays: (N, 6) float32.
        actors: (N,) int32.
        motion: of the A actors, at its start.
        shape_of: (A,) int32.
        shapes: `Shapes`.

    Returns:
        `Meetings` in the order of the rays.
    """
    count = 0
    ray_index, actor_index = np.empty(len(rays), np.int32), np.empty(len(rays), np.int32)
    entries, local = np.empty(len(rays), np.float32), np.empty((len(rays), 6), np.float32)
    origin, direction = np.empty(3), np.empty(3)
    for n in range(len(rays)):
        actor = actors[n]
        shape = shape_of[actor]
        _into(motion.rotation_start[actor], motion.position_start[actor], rays[n], origin, direction)
        entry = _entry(origin, direction, shapes.centers[shape], shapes.halves[shape])
        if entry < 0:
            continue
        ray_index[count], actor_index[count], entries[count] = n, actor, entry
        for i in range(3):
            local[count, i] = origin[i] + entry * direction[i] + shapes.slots[shape, i]
            local[count, 3 + i] = direction[i]
        count += 1
    return Meetings(ray_index[:count], actor_index[:count], entries[:count], local[:count])


@njit(cache=True)
def _grown(values: np.ndarray) -> np.ndarray:
    larger = np.empty(2 * len(values), values.dtype)
    larger[: len(values)] = values
    return larger


@njit(cache=True)
def _grown_rows(rows: np.ndarray) -> np.ndarray:
    larger = np.empty((2 * len(rows), rows.shape[1]), rows.dtype)
    larger[: len(rows)] = rows
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
            place[n], normal[n] = world, flat
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
