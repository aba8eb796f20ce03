"""Depth and places of what a picture shows; its categories and actors are in the recording as they are."""

from __future__ import annotations

import numpy as np

from perception.simulation.sensors.camera import Camera, CameraRecording


def picture_depth(camera: Camera, shot: CameraRecording) -> np.ndarray:
    """The depth of what the middle of each pixel shows.

    Args:
        camera: the pinhole that took the picture.
        shot: the picture.

    Returns:
        (H, W) float32 metres along the optical axis; infinite in the sky.
    """
    return (shot.distance_m / np.sqrt((_slopes(camera, 1) ** 2).sum(axis=-1))).astype(np.float32)


def picture_points(camera: Camera, shot: CameraRecording, step_px: int = 1) -> np.ndarray:
    """Where the surfaces are that a picture shows.

    Args:
        camera: the pinhole that took the picture.
        shot: the picture.
        step_px: takes every so many rows and columns.

    Returns:
        (P, 3) float64 camera frame, row by row; nothing of the sky.
    """
    slopes = _slopes(camera, step_px)  # (H', W', 3)
    distance_m = shot.distance_m[::step_px, ::step_px]
    found = np.isfinite(distance_m)
    slopes = slopes[found]  # (P, 3)
    return slopes * (distance_m[found] / np.linalg.norm(slopes, axis=1))[:, None]


def _slopes(camera: Camera, step_px: int) -> np.ndarray:
    """(H', W', 3) directions through the middles of pixels at depth 1."""
    height, width = camera.image_size_px
    v, u = np.mgrid[:height:step_px, :width:step_px]
    (focal_u, _, u0), (_, focal_v, v0), _ = camera.intrinsics.tolist()
    return np.stack([(u - u0) / focal_u, (v - v0) / focal_v, np.ones(u.shape)], axis=-1)
