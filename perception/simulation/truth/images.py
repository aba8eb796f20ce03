"""Dense depth of a picture; its categories and actors are in the recording as they are."""

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
    height, width = camera.image_size_px
    (focal_u, _, u0), (_, focal_v, v0), _ = camera.intrinsics.tolist()
    across = (np.arange(width) - u0) / focal_u  # (W,)
    down = (np.arange(height)[:, None] - v0) / focal_v  # (H, 1)
    return (shot.distance_m / np.sqrt(1 + across**2 + down**2)).astype(np.float32)
