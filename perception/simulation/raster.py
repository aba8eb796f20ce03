"""What the rays through a pinhole's pixels meet first, found triangle by triangle.

A pixel's ray meets a triangle where three functions that are linear over the picture are not negative (Olano and Greer
1997, "Triangle scan conversion using 2D homogeneous coordinates"), so that the answer is that of a ray cast through the
middle of every pixel, for a fraction of the time, and the pixels that something hidden would fill are counted besides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from perception.simulation.ray_kernels import Motion, Shapes

BLOCK = 32
"""Triangles that are held against the picture's edges together."""

_NEAR_M = 0.02
_EDGE_ON = 1e-14


class Lens(NamedTuple):
    """A pinhole: focal lengths and principal point u v in pixels, the picture's size; camera looks along its z."""

    focal_u: float
    focal_v: float
    principal_u: float
    principal_v: float
    height: int
    width: int


class Seen(NamedTuple):
    """The nearest surfaces so far, per pixel (H, W), and how much of each actor (A,) any ray of the picture meets.

    `inverse_m` is 1 / depth, float32, 0 where nothing is; `triangle` int64, static ones first; `actor` int32, -1 for
    none; `stamp` int32 is the last actor that covered the pixel; `covered` int64 counts the pixels of each.
    """

    inverse_m: np.ndarray
    triangle: np.ndarray
    actor: np.ndarray
    stamp: np.ndarray
    covered: np.ndarray

    @classmethod
    def nothing(cls, height: int, width: int, num_actors: int) -> Seen:
        """A picture in which nothing has been drawn."""
        return cls(
            np.zeros((height, width), np.float32),
            np.zeros((height, width), np.int64),
            np.full((height, width), -1, np.int32),
            np.full((height, width), -1, np.int32),
            np.zeros(num_actors, np.int64),
        )


def block_spheres(corners: np.ndarray) -> np.ndarray:
    """(B, 4) float64 centre and radius around each run of `BLOCK` triangles (T, 3, 3)."""
    starts = np.arange(0, len(corners), BLOCK)
    if not len(starts):
        return np.zeros((0, 4))
    low = np.minimum.reduceat(corners.min(axis=1), starts).astype(np.float64)  # (B, 3)
    high = np.maximum.reduceat(corners.max(axis=1), starts).astype(np.float64)
    return np.column_stack(((low + high) / 2, np.linalg.norm(high - low, axis=1) / 2))


@njit(cache=True, error_model="numpy")
def draw_static(
    corners: np.ndarray, spheres: np.ndarray, rotation: np.ndarray, position: np.ndarray, lens: Lens, seen: Seen
) -> None:
    """Draws what stands still.

    Args:
        corners: (T, 3, 3) float32, scene frame.
        spheres: (B, 4) of `block_spheres`.
        rotation: (3, 3) float64, scene to camera.
        position: (3,) float64, the scene's origin in the camera frame.
        lens: of the picture.
        seen: changed in place.
    """
    for block in range(len(spheres)):
        if _may_show(spheres[block, :3], spheres[block, 3], rotation, position, lens):
            last = min((block + 1) * BLOCK, len(corners))
            _draw(corners, block * BLOCK, last, np.int64(0), np.int64(-1), rotation, position, lens, seen)


@njit(cache=True, error_model="numpy")
def draw_actors(
    corners: np.ndarray,
    shapes: Shapes,
    shape_of: np.ndarray,
    motion: Motion,
    num_static: int,
    rotation: np.ndarray,
    position: np.ndarray,
    lens: Lens,
    seen: Seen,
) -> None:
    """Draws the actors where they are at the start of their motion.

    Args:
        corners: (T, 3, 3) float32 of all shapes one after the other, each in its own frame.
        shapes: centres, extents and ranges of triangles.
        shape_of: (A,) int32.
        motion: of the A actors.
        num_static: what the triangles' numbers begin at.
        rotation: (3, 3) float64, scene to camera.
        position: (3,) float64, the scene's origin in the camera frame.
        lens: of the picture.
        seen: changed in place.
    """
    turned, moved = np.empty((3, 3)), np.empty(3)
    for actor in range(len(shape_of)):
        shape = shape_of[actor]
        for i in range(3):
            moved[i] = position[i]
            for j in range(3):
                moved[i] += rotation[i, j] * motion.position_start[actor, j]
                turned[i, j] = 0.0
                for k in range(3):
                    turned[i, j] += rotation[i, k] * motion.rotation_start[actor, k, j]
        half = shapes.halves[shape]
        radius = np.sqrt(half[0] ** 2 + half[1] ** 2 + half[2] ** 2)
        if _may_show(shapes.centers[shape], radius, turned, moved, lens):
            first, last = shapes.ends[shape], shapes.ends[shape + 1]
            _draw(corners, first, last, num_static, np.int64(actor), turned, moved, lens, seen)


@njit(cache=True, error_model="numpy", inline="always")
def _may_show(center: np.ndarray, radius: float, rotation: np.ndarray, position: np.ndarray, lens: Lens) -> bool:
    """Whether a sphere reaches into the pyramid that the picture shows."""
    x, y, z = position[0], position[1], position[2]
    for j in range(3):
        x += rotation[0, j] * center[j]
        y += rotation[1, j] * center[j]
        z += rotation[2, j] * center[j]
    if z < -radius:
        return False
    left, right = (lens.principal_u + 1) / lens.focal_u, (lens.width - lens.principal_u) / lens.focal_u
    top, bottom = (lens.principal_v + 1) / lens.focal_v, (lens.height - lens.principal_v) / lens.focal_v
    return (
        x + left * z > -radius * np.sqrt(1 + left * left)
        and right * z - x > -radius * np.sqrt(1 + right * right)
        and y + top * z > -radius * np.sqrt(1 + top * top)
        and bottom * z - y > -radius * np.sqrt(1 + bottom * bottom)
    )


@njit(cache=True, error_model="numpy")
def _draw(
    corners: np.ndarray,
    first: int,
    last: int,
    offset: int | np.int64,
    owner: int | np.int64,
    rotation: np.ndarray,
    position: np.ndarray,
    lens: Lens,
    seen: Seen,
) -> None:
    """Draws triangles first..last - 1, whose numbers begin at `offset`; `owner` is their actor, -1 for none."""
    place, edge, bounds = np.empty((3, 3)), np.empty((3, 3)), np.empty(4, np.int64)
    for t in range(first, last):
        for k in range(3):
            x, y, z = corners[t, k, 0], corners[t, k, 1], corners[t, k, 2]
            for i in range(3):
                place[k, i] = position[i] + rotation[i, 0] * x + rotation[i, 1] * y + rotation[i, 2] * z
        if _bounds(place, lens, bounds) and _edges(place, lens, edge):
            _fill(edge, bounds, offset + t, owner, seen)


@njit(cache=True, error_model="numpy", inline="always")
def _bounds(place: np.ndarray, lens: Lens, bounds: np.ndarray) -> bool:
    """Fills first and last column and row that a triangle (3 corners, xyz, camera frame) may touch; False for none."""
    low_u, high_u, low_v, high_v = np.inf, -np.inf, np.inf, -np.inf
    for k in range(3):
        z = place[k, 2]
        if z >= _NEAR_M:
            u, v = place[k, 0] / z, place[k, 1] / z
            low_u, high_u, low_v, high_v = min(low_u, u), max(high_u, u), min(low_v, v), max(high_v, v)
        other = place[(k + 1) % 3]
        if (z >= _NEAR_M) != (other[2] >= _NEAR_M):  # this side is cut where it comes too near
            share = (_NEAR_M - z) / (other[2] - z)
            u = (place[k, 0] + share * (other[0] - place[k, 0])) / _NEAR_M
            v = (place[k, 1] + share * (other[1] - place[k, 1])) / _NEAR_M
            low_u, high_u, low_v, high_v = min(low_u, u), max(high_u, u), min(low_v, v), max(high_v, v)
    if not low_u <= high_u:
        return False
    bounds[0] = max(np.ceil(low_u * lens.focal_u + lens.principal_u - 1e-6), 0.0)
    bounds[1] = min(np.floor(high_u * lens.focal_u + lens.principal_u + 1e-6), lens.width - 1.0)
    bounds[2] = max(np.ceil(low_v * lens.focal_v + lens.principal_v - 1e-6), 0.0)
    bounds[3] = min(np.floor(high_v * lens.focal_v + lens.principal_v + 1e-6), lens.height - 1.0)
    return bounds[0] <= bounds[1] and bounds[2] <= bounds[3]


@njit(cache=True, error_model="numpy", inline="always")
def _edges(place: np.ndarray, lens: Lens, edge: np.ndarray) -> bool:
    """Fills the functions a u + b v + c (3, 3) that are not negative inside and whose sum is 1 / depth."""
    for k in range(3):
        p, q = place[(k + 1) % 3], place[(k + 2) % 3]
        edge[k, 0] = p[1] * q[2] - p[2] * q[1]
        edge[k, 1] = p[2] * q[0] - p[0] * q[2]
        edge[k, 2] = p[0] * q[1] - p[1] * q[0]
    volume = place[0, 0] * edge[0, 0] + place[0, 1] * edge[0, 1] + place[0, 2] * edge[0, 2]
    if abs(volume) < _EDGE_ON:
        return False
    for k in range(3):
        edge[k, 0] /= volume * lens.focal_u
        edge[k, 1] /= volume * lens.focal_v
        edge[k, 2] = edge[k, 2] / volume - edge[k, 0] * lens.principal_u - edge[k, 1] * lens.principal_v
    return True


@njit(cache=True, error_model="numpy")
def _fill(edge: np.ndarray, bounds: np.ndarray, triangle: int | np.int64, owner: int | np.int64, seen: Seen) -> None:
    """Draws one triangle row by row."""
    slope = edge[0, 0] + edge[1, 0] + edge[2, 0]
    for v in range(bounds[2], bounds[3] + 1):
        low, high, start = float(bounds[0]), float(bounds[1]), 0.0
        for k in range(3):
            rest = edge[k, 1] * v + edge[k, 2]
            start += rest
            if edge[k, 0] > 0:
                low = max(low, -rest / edge[k, 0])
            elif edge[k, 0] < 0:
                high = min(high, -rest / edge[k, 0])
            elif rest < 0:
                high = -1.0
        if low > high:
            continue
        for u in range(int(np.ceil(low)), int(np.floor(high)) + 1):
            inverse = np.float32(start + slope * u)
            if inverse > seen.inverse_m[v, u]:
                seen.inverse_m[v, u], seen.triangle[v, u], seen.actor[v, u] = inverse, triangle, owner
            if owner >= 0 and seen.stamp[v, u] != owner:
                seen.stamp[v, u] = owner
                seen.covered[owner] += 1
