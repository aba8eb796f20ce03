"""Polygons with holes cut into triangles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def _cross(o: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Twice the signed area of the triangles o a b; broadcasts over (..., 2)."""
    u, v = a - o, b - o
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def signed_area(ring: np.ndarray) -> float:
    """The area of a ring in square metres, positive where it runs counter-clockwise.

    Args:
        ring: (N, 2) points, the first not repeated.

    Returns:
        The signed area.
    """
    x, y = (np.asarray(ring, dtype=np.float64) - ring[0]).T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def _blocked(a: np.ndarray, b: np.ndarray, start: np.ndarray, end: np.ndarray) -> bool:
    """Whether the segment a b properly crosses any of the segments start end (E, 2)."""
    sides = _cross(a, b, start) * _cross(a, b, end)
    others = _cross(start, end, a) * _cross(start, end, b)
    return bool(np.any((sides < 0) & (others < 0)))


def _bridge(points: np.ndarray, outer: list[int], hole: list[int]) -> list[int]:
    """The outer ring with a hole joined to it by the shortest cut that crosses nothing."""
    ring, inner = points[outer], points[hole]
    gaps = np.linalg.norm(ring[:, None] - inner[None], axis=-1)  # (outer, hole)
    start = np.concatenate([ring, inner])
    end = np.concatenate([np.roll(ring, -1, axis=0), np.roll(inner, -1, axis=0)])
    for flat_index in np.argsort(gaps, axis=None):
        i, j = divmod(int(flat_index), len(hole))
        if not _blocked(ring[i], inner[j], start, end):
            return outer[: i + 1] + hole[j:] + hole[: j + 1] + outer[i:]
    raise ValueError("triangulate: holes must lie inside the outline, got one that nothing connects to it")


def _is_ear(points: np.ndarray, ring: np.ndarray, k: int) -> bool:
    """Whether corner k of the ring is convex and its triangle holds no other corner of the ring."""
    a, b, c = points[ring[k - 1]], points[ring[k]], points[ring[(k + 1) % len(ring)]]
    if _cross(a, b, c) <= 0:
        return False
    others = points[ring]  # (N, 2)
    inside = (_cross(a, b, others) >= 0) & (_cross(b, c, others) >= 0) & (_cross(c, a, others) >= 0)
    same = ((others == a) | (others == b) | (others == c)).all(axis=1)
    return not bool(np.any(inside & ~same))


def _clip(points: np.ndarray, ring: np.ndarray) -> list[tuple[int, int, int]]:
    """Ears cut off a counter-clockwise ring until nothing is left."""
    triangles = []
    k = waited = 0
    while len(ring) > 3:
        k %= len(ring)
        if _is_ear(points, ring, k) or waited > len(ring):
            triangles.append((ring[k - 1], ring[k], ring[(k + 1) % len(ring)]))
            ring = np.delete(ring, k)
            waited = 0
        else:
            k += 1
            waited += 1
    return [*triangles, tuple(ring)]


def triangulate(outline: np.ndarray, holes: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, np.ndarray]:
    """A simple polygon cut into triangles by clipping ears.

    Args:
        outline: (N, 2) polygon, either way round, the first point not repeated.
        holes: (H, 2) polygons inside it that do not touch.

    Returns:
        Its points (P, 2) float64 and triangles (T, 3) int64, counter-clockwise.

    Raises:
        ValueError: fewer than three points, or a hole outside the outline.
    """
    rings = [np.asarray(ring, dtype=np.float64) for ring in (outline, *holes)]
    if any(ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 for ring in rings):
        raise ValueError(f"triangulate: rings must be (N >= 3, 2), got {[ring.shape for ring in rings]}")
    points = np.concatenate(rings)  # (P, 2)
    starts = np.cumsum([0] + [len(ring) for ring in rings])
    indices = [list(range(a, b)) for a, b in pairwise(starts)]
    turned = [
        index if (signed_area(ring) > 0) == (i == 0) else index[::-1]
        for i, (ring, index) in enumerate(zip(rings, indices, strict=True))
    ]
    joined = turned[0]
    for hole in turned[1:]:
        joined = _bridge(points, joined, hole)
    return points, np.array(_clip(points, np.array(joined)), dtype=np.int64).reshape(-1, 3)
