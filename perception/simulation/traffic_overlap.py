"""Whether boxes overlap on the ground, exactly, and which actors have to go so that none ever do."""

from __future__ import annotations

import numpy as np


def rectangle_corners(rectangles: np.ndarray) -> np.ndarray:
    """Corners of rectangles.

    Args:
        rectangles: (..., 5) centre x y, length along the heading, width, heading in radians.

    Returns:
        (..., 4, 2) counter-clockwise from the front left.
    """
    cos, sin = np.cos(rectangles[..., 4]), np.sin(rectangles[..., 4])
    forward = np.stack((cos, sin), axis=-1) * rectangles[..., 2, None] / 2
    left = np.stack((-sin, cos), axis=-1) * rectangles[..., 3, None] / 2
    offsets = np.stack((forward + left, left - forward, -forward - left, forward - left), axis=-2)
    return rectangles[..., None, :2] + offsets  # (..., 4, 2)


def rectangles_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether pairs of rectangles share more than an edge, by the separating axis theorem.

    Args:
        first: (..., 5) centre x y, length, width, heading.
        second: (..., 5).

    Returns:
        (...) bool.
    """
    a, b = rectangle_corners(first), rectangle_corners(second)
    apart = np.zeros(np.broadcast_shapes(first.shape, second.shape)[:-1], dtype=bool)
    for heading in (first[..., 4], first[..., 4] + np.pi / 2, second[..., 4], second[..., 4] + np.pi / 2):
        axis = np.stack((np.cos(heading), np.sin(heading)), axis=-1)[..., None, :]  # (..., 1, 2)
        along_a, along_b = (a * axis).sum(axis=-1), (b * axis).sum(axis=-1)  # (..., 4)
        apart |= (along_a.max(axis=-1) <= along_b.min(axis=-1)) | (along_b.max(axis=-1) <= along_a.min(axis=-1))
    return ~apart


def colliding_pairs(tracks: np.ndarray, sizes_lw: np.ndarray, margin_m: float) -> np.ndarray:
    """Pairs of actors whose boxes come closer than a margin at any time.

    Args:
        tracks: (A, K, 3) x, y, yaw at common times.
        sizes_lw: (A, 2) length and width.
        margin_m: the boxes are grown by half of it on every side.

    Returns:
        (N, 2) pairs a < b, sorted.
    """
    moving = np.flatnonzero(np.ptp(tracks, axis=1).max(axis=1) > 1e-6)
    still = np.ones(len(tracks), dtype=bool)
    still[moving] = False
    grown = sizes_lw + margin_m
    reach = np.linalg.norm(grown, axis=1) / 2
    pairs: set[tuple[int, int]] = set()
    for step in range(tracks.shape[1]):
        # What stands still meets what stands still once; a pair of moving actors is tested in one order.
        rows = np.arange(len(tracks)) if step == 0 else moving
        apart = tracks[rows, None, step, :2] - tracks[None, :, step, :2]  # (R, A, 2)
        near = (apart * apart).sum(axis=-1) < (reach[rows, None] + reach) ** 2  # (R, A)
        row, other = np.nonzero(near)
        first = rows[row]
        once = (first < other) | (still[other] & (first != other) & (step > 0))
        first, other = first[once], other[once]
        boxes = [np.concatenate((tracks[i, step, :2], grown[i], tracks[i, step, 2:]), axis=1) for i in (first, other)]
        hit = rectangles_overlap(boxes[0], boxes[1])
        low, high = np.minimum(first, other)[hit], np.maximum(first, other)[hit]
        pairs.update(zip(low.tolist(), high.tolist(), strict=True))
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def survivors(pairs: np.ndarray, priorities: np.ndarray) -> np.ndarray:
    """Actors to keep so that no colliding pair is left.

    Args:
        pairs: (N, 2) actors that collide.
        priorities: (A,) the lower one of a pair goes; of equals, the later one.

    Returns:
        (A,) bool, true for those that stay.
    """
    keep = np.ones(len(priorities), dtype=bool)
    order = sorted(range(len(priorities)), key=lambda actor: (-priorities[actor], actor))
    rivals: dict[int, list[int]] = {}
    for a, b in pairs.tolist():
        rivals.setdefault(a, []).append(b)
        rivals.setdefault(b, []).append(a)
    settled = np.zeros(len(priorities), dtype=bool)
    for actor in order:
        keep[actor] = not any(settled[rival] and keep[rival] for rival in rivals.get(actor, ()))
        settled[actor] = True
    return keep
