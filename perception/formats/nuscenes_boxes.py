"""Boxes and poses at the border: nuScenes' translation, size w-l-h, quaternion <-> (M, 9) boxes and 4x4 matrices."""

from __future__ import annotations

import numpy as np

from perception.geometry.headings import headings

MAX_GAP_S = 1.5
"""Longest time between two annotations of a track from which a velocity is taken; twice that around a middle one."""


def rotation_matrices(rotations_wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrices of quaternions, which need not be normalised.

    Args:
        rotations_wxyz: (..., 4) quaternions; a zero quaternion counts as no rotation.

    Returns:
        (..., 3, 3) float64.
    """
    q = np.asarray(rotations_wxyz, dtype=np.float64)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    q = np.where(norm == 0, [1.0, 0.0, 0.0, 0.0], q / np.where(norm == 0, 1.0, norm))
    w, x, y, z = np.moveaxis(q, -1, 0)
    matrices = np.empty((*q.shape[:-1], 3, 3))
    matrices[..., 0, 0], matrices[..., 0, 1] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z)
    matrices[..., 0, 2], matrices[..., 1, 0] = 2 * (x * z + w * y), 2 * (x * y + w * z)
    matrices[..., 1, 1], matrices[..., 1, 2] = 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    matrices[..., 2, 0], matrices[..., 2, 1] = 2 * (x * z - w * y), 2 * (y * z + w * x)
    matrices[..., 2, 2] = 1 - 2 * (x * x + y * y)
    return matrices


def pose_matrices(translations: np.ndarray, rotations_wxyz: np.ndarray) -> np.ndarray:
    """Rigid transforms of poses.

    Args:
        translations: (..., 3) in metres.
        rotations_wxyz: (..., 4) quaternions.

    Returns:
        (..., 4, 4) float64, child to parent.
    """
    rotation = rotation_matrices(rotations_wxyz)
    pose = np.zeros((*rotation.shape[:-2], 4, 4))
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = translations
    pose[..., 3, 3] = 1.0
    return pose


def yaw_of_rotations(rotations_wxyz: np.ndarray) -> np.ndarray:
    """Heading of the rotated x axis in the x-y plane.

    Args:
        rotations_wxyz: (..., 4) quaternions.

    Returns:
        (...,) radians in [-pi, pi).
    """
    rotation = rotation_matrices(rotations_wxyz)
    yaw = headings(rotation[..., :2, 0])
    return np.where(yaw >= np.pi, -np.pi, yaw)


def boxes_from_nuscenes(
    translations: np.ndarray, sizes_wlh: np.ndarray, rotations_wxyz: np.ndarray, velocities: np.ndarray | None = None
) -> np.ndarray:
    """Boxes (M, 9) of nuScenes' values, in the same frame.

    Args:
        translations: (M, 3) centres in metres.
        sizes_wlh: (M, 3) width, length, height in metres.
        rotations_wxyz: (M, 4) quaternions, of which the yaw is kept.
        velocities: (M, 2) in m/s; None means unknown.

    Returns:
        (M, 9) float64: x y z l w h yaw vx vy.
    """
    boxes = np.full((len(translations), 9), np.nan)
    boxes[:, :3] = np.reshape(translations, (-1, 3))
    boxes[:, 3:6] = np.reshape(sizes_wlh, (-1, 3))[:, [1, 0, 2]]
    boxes[:, 6] = yaw_of_rotations(np.reshape(rotations_wxyz, (-1, 4)))
    if velocities is not None:
        boxes[:, 7:] = np.reshape(velocities, (-1, 2))
    return boxes


def boxes_to_nuscenes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values as in nuScenes' tables of boxes (M, 9), in the same frame.

    Args:
        boxes: (M, 9) x y z l w h yaw vx vy.

    Returns:
        translations (M, 3), sizes width-length-height (M, 3), rotations w-x-y-z (M, 4), velocities (M, 2); float64.

    Raises:
        ValueError: `boxes` is not (M, 9).
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 9:
        raise ValueError(f"boxes_to_nuscenes: boxes must be (M, 9), got {boxes.shape}")
    half_yaw = boxes[:, 6] / 2
    rotations = np.zeros((len(boxes), 4))
    rotations[:, 0], rotations[:, 3] = np.cos(half_yaw), np.sin(half_yaw)
    return boxes[:, :3].copy(), boxes[:, [4, 3, 5]], rotations, boxes[:, 7:9].copy()


def box_velocities(
    translations: np.ndarray, timestamps_us: np.ndarray, previous: np.ndarray, following: np.ndarray
) -> np.ndarray:
    """Velocities from the neighbours in a track, bit by bit as the devkit's `box_velocity` computes them.

    The difference is taken between the previous and the following annotation, or from or to the box itself at the
    ends of a track. Timestamps are scaled to seconds before they are subtracted, as in the devkit.

    Args:
        translations: (M, 3) centres in the global frame, in metres.
        timestamps_us: (M,) time of each annotation's sample in microseconds.
        previous: (M,) row of the previous annotation of the same object, or -1.
        following: (M,) row of the following one, or -1.

    Returns:
        (M, 3) in m/s; NaN without a neighbour, or where the gap is longer than `MAX_GAP_S` (twice that in the middle).
    """
    rows = np.arange(len(translations))
    first = np.where(previous >= 0, previous, rows)
    last = np.where(following >= 0, following, rows)
    times_s = 1e-6 * np.asarray(timestamps_us)
    gap_s = times_s[last] - times_s[first]
    allowed_s = np.where((previous >= 0) & (following >= 0), 2 * MAX_GAP_S, MAX_GAP_S)
    with np.errstate(divide="ignore", invalid="ignore"):
        velocities = (translations[last] - translations[first]) / gap_s[:, None]  # (M, 3)
    velocities[(first == last) | (gap_s > allowed_s)] = np.nan
    return velocities
