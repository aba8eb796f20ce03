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
    low, high = _rectangles(corners, intrinsics, image_size_px)  # (A, 2) each
    pixels, rows, areas = [np.zeros((0, 2))], [np.zeros(0, np.int32)], np.zeros(len(actors))
    for row in np.nonzero((high >= low).all(axis=1))[0]:
        lattice, areas[row] = _lattice(low[row], high[row])
        pixels.append(lattice)
        rows.append(np.full(len(lattice), row, np.int32))
    uv, owner = np.concatenate(pixels), np.concatenate(rows)  # (N, 2), (N,)
    plane = np.linalg.solve(intrinsics, np.column_stack([uv, np.ones(len(uv))]).T).T  # (N, 3)
    directions = (plane / np.linalg.norm(plane, axis=1, keepdims=True)) @ camera2global[:3, :3].T
    met = rays.meets(actors, owner, camera2global[:3, 3], directions)
    return np.rint(np.bincount(owner, weights=met, minlength=len(actors)) * areas).astype(np.int64)


def _rectangles(
    corners: np.ndarray, intrinsics: np.ndarray, image_size_px: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """First and last pixels (A, 2) u v that boxes (A, 8, 3) in the camera frame may touch; last < first for none."""
    last_px = np.array(image_size_px[::-1]) - 1.0  # u v
    depth = corners[..., 2:]  # (A, 8, 1)
    projected = (corners[..., :2] / np.maximum(depth, _NEAR_M)) @ intrinsics[:2, :2].T + intrinsics[:2, 2]  # (A, 8, 2)
    low = np.maximum(np.ceil(projected.min(axis=1)), 0.0)
    high = np.minimum(np.floor(projected.max(axis=1)), last_px)
    front = depth[..., 0] > _NEAR_M  # (A, 8)
    across = front.any(axis=1) & ~front.all(axis=1)  # its corners behind the camera project anywhere
    low[across], high[across] = 0.0, last_px
    high[~front.any(axis=1)] = -1.0
    return low, high


def _lattice(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, float]:
    """Places (N, 2) u v spread over a rectangle of pixels, and the number of pixels that each stands for."""
    sizes = high - low + 1  # (2,)
    counts = np.minimum(sizes, _MAX_SIDE).astype(int)
    steps = sizes / counts
    u, v = (low[i] - 0.5 + (np.arange(counts[i]) + 0.5) * steps[i] for i in range(2))
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2), float(steps.prod())
