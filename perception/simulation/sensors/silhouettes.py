"""How many pixels of a picture an actor would fill if nothing stood before it."""

from __future__ import annotations

import numpy as np

from perception.simulation.rays import ActorPoses, RayScene

_MAX_SIDE = 24
"""Rays along each side of an actor's rectangle at most; larger rectangles are sampled on a coarser lattice."""

_NEAR_M = 0.05


def count_unoccluded(
    rays: RayScene,
    actors: ActorPoses,
    camera2global: np.ndarray,
    intrinsics: np.ndarray,
    image_size_px: tuple[int, int],
) -> np.ndarray:
    """Counts the pixels inside the picture that each actor would fill by itself.

    Args:
        rays: holds the actors' shapes.
        actors: where they are.
        camera2global: (4, 4) pose of a pinhole camera.
        intrinsics: (3, 3).
        image_size_px: height and width.

    Returns:
        (A,) int64; exact for actors up to 24 pixels wide and high, within a few percent beyond.
    """
    global2camera = np.linalg.inv(camera2global)
    corners = rays.corners(actors) @ global2camera[:3, :3].T + global2camera[:3, 3]  # (A, 8, 3)
    pixels, rows, areas = [np.zeros((0, 2))], [np.zeros(0, np.int32)], np.zeros(len(actors))
    for row in np.nonzero((corners[..., 2] > _NEAR_M).any(axis=1))[0]:
        lattice, area = _lattice(corners[row], intrinsics, image_size_px)
        pixels.append(lattice)
        rows.append(np.full(len(lattice), row, np.int32))
        areas[row] = area
    uv, owner = np.concatenate(pixels), np.concatenate(rows)  # (N, 2), (N,)
    plane = np.linalg.solve(intrinsics, np.column_stack([uv, np.ones(len(uv))]).T).T  # (N, 3)
    directions = (plane / np.linalg.norm(plane, axis=1, keepdims=True)) @ camera2global[:3, :3].T
    met = rays.meets(actors, owner, camera2global[:3, 3], directions)
    return np.rint(np.bincount(owner, weights=met, minlength=len(actors)) * areas).astype(np.int64)


def _lattice(corners: np.ndarray, intrinsics: np.ndarray, image_size_px: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Middles of pixels (N, 2) spread over a box's rectangle in the picture, and the pixels that each stands for."""
    low, high = np.zeros(2), np.array(image_size_px[::-1]) - 1.0  # u v
    if (corners[:, 2] > _NEAR_M).all():
        projected = (corners[:, :2] / corners[:, 2:]) @ intrinsics[:2, :2].T + intrinsics[:2, 2]  # (8, 2)
        low = np.maximum(low, np.ceil(projected.min(axis=0)))
        high = np.minimum(high, np.floor(projected.max(axis=0)))
    if (high < low).any():
        return np.zeros((0, 2)), 0.0
    sizes = high - low + 1  # (2,)
    counts = np.minimum(sizes, _MAX_SIDE).astype(int)
    steps = sizes / counts
    u, v = (low[i] - 0.5 + (np.arange(counts[i]) + 0.5) * steps[i] for i in range(2))
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2), float(steps.prod())
