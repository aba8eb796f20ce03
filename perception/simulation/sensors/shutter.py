"""What pinhole and fisheye cameras share: how things move while the shutter is open, and the file."""

from __future__ import annotations

import cv2
import numpy as np

from perception.simulation.lamp_light import LampField
from perception.simulation.rendering import Instant
from perception.simulation.sensors.base import Surroundings
from perception.simulation.shading import Appearance


def instant_of(surroundings: Surroundings, eye_m: np.ndarray, t_us: int) -> Instant:
    """What there is to see from a place.

    Args:
        surroundings: all of it.
        eye_m: (3,) the camera, world.
        t_us: time.

    Returns:
        The world at that time, with the lamps around the camera.
    """
    light, lamps, field = surroundings.light, surroundings.lamps, None
    if lamps is not None:
        motion = surroundings.motion
        beams = lamps.beams(motion.ego2global(t_us), motion.actor2global(t_us), eye_m)
        field = LampField.around(lamps, beams, light.white_lux, light.dark)
    casters, looks = surroundings.casting_shadows(t_us), Appearance.of(surroundings.materials)
    return Instant(surroundings.rays, surroundings.actors(t_us), casters, light, looks, field)


def grain(surroundings: Surroundings, channel: str, t_us: int, image_size_px: tuple[int, int]) -> np.ndarray:
    """The noise (H, W, 3) float32 of a picture, normal; wider the less light there is."""
    noise = surroundings.rng(channel, t_us).standard_normal((*image_size_px, 3), dtype=np.float32)
    return noise if surroundings.light.grain == 1 else noise * np.float32(surroundings.light.grain)


def shutter_ways(surroundings: Surroundings, sensor2ego: np.ndarray, t_us: int) -> np.ndarray:
    """How objects move past a camera while its shutter is open.

    Args:
        surroundings: what there is to see.
        sensor2ego: (4, 4) mounting pose of the camera.
        t_us: the middle of the exposure.

    Returns:
        (A + 1, 2, 4, 4) of each actor, and last of what stands still: from the camera frame in the middle of the
        exposure to that at its beginning and end.
    """
    half_us = round(surroundings.light.exposure_s * 5e5)
    motion, identity = surroundings.motion, np.eye(4)[None]
    camera2global = motion.ego2global(t_us) @ sensor2ego
    at_rest = _inverse(np.concatenate([motion.actor2global(t_us), identity]))  # (A + 1, 4, 4)
    ways = []
    for moment_us in (t_us - half_us, t_us + half_us):
        global2camera = np.linalg.inv(motion.ego2global(moment_us) @ sensor2ego)
        objects = np.concatenate([motion.actor2global(moment_us), identity])
        ways.append(global2camera @ objects @ at_rest @ camera2global)
    return np.stack(ways, axis=1)  # 2 x (A + 1, 4, 4) -> (A + 1, 2, 4, 4)


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """The JPEG file of a picture (H, W, 3) uint8 RGB, of a quality in 1..100."""
    written, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert written, "OpenCV must be able to write JPEG"
    return data.tobytes()


def _inverse(a2b: np.ndarray) -> np.ndarray:
    """(N, 4, 4) inverses of rigid transforms (N, 4, 4)."""
    b2a = np.tile(np.eye(4), (len(a2b), 1, 1))
    b2a[:, :3, :3] = a2b[:, :3, :3].transpose(0, 2, 1)
    b2a[:, :3, 3:] = -b2a[:, :3, :3] @ a2b[:, :3, 3:]
    return b2a
