"""The sensor set of the simulated car: where LiDAR and cameras sit, and what else is mounted where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from perception.simulation.sensors.base import Sensor
from perception.simulation.sensors.camera import Camera
from perception.simulation.sensors.fisheye import fisheye_cameras
from perception.simulation.sensors.lidar import Lidar
from perception.simulation.sensors.radar import surround_radars
from perception.simulation.sensors.radar4d import surround_radars4d
from perception.simulation.sensors.ultrasonic import bumper_sensors
from perception.simulation.settings import Settings

_FULL_SIZE_PX = (900, 1600)

_OPTICAL2BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""From a camera's x right, y down, z forward to x forward, y left, z up."""


class _Mount(NamedTuple):
    """Position in the ego frame, angles (yaw left, pitch down, roll) and, at 1600x900, the lens of a camera."""

    position_m: tuple[float, float, float]
    angles_deg: tuple[float, float, float]
    focal_px: float
    principal_px: tuple[float, float]
    delay_us: int


_CAMERAS = {
    "CAM_FRONT": _Mount((1.71, 0.01, 1.51), (0.2, 0.3, 0.1), 1264.0, (812.0, 488.0), -36_000),
    "CAM_FRONT_RIGHT": _Mount((1.56, -0.49, 1.50), (-55.8, 0.4, -0.3), 1259.0, (806.0, 493.0), -28_000),
    "CAM_BACK_RIGHT": _Mount((1.02, -0.48, 1.57), (-110.4, 0.5, 0.2), 1261.0, (809.0, 498.0), -20_000),
    "CAM_BACK": _Mount((0.03, 0.0, 1.57), (179.7, 0.9, 0.2), 808.0, (826.0, 483.0), -10_000),
    "CAM_BACK_LEFT": _Mount((1.03, 0.48, 1.58), (108.9, 0.6, -0.4), 1258.0, (795.0, 494.0), -500),
    "CAM_FRONT_LEFT": _Mount((1.53, 0.49, 1.51), (54.7, 0.3, 0.2), 1270.0, (823.0, 482.0), -43_000),
}


def body_rotation(yaw_rad: float, pitch_rad: float, roll_rad: float) -> np.ndarray:
    """Rotation (3, 3) from a mounted body's axes (x forward, y left, z up) to the ego frame's.

    Args:
        yaw_rad: turn to the left.
        pitch_rad: nose down.
        roll_rad: left side up.

    Returns:
        Yaw after pitch after roll.
    """
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw_rad, pitch_rad, roll_rad))
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return yaw @ pitch @ roll


def scaled_intrinsics(focal_px: float, principal_px: tuple[float, float], image_size_px: tuple[int, int]) -> np.ndarray:
    """Intrinsics (3, 3) of a lens given for 1600x900 pixels at another picture size.

    Args:
        focal_px: focal length at full size.
        principal_px: principal point u v at full size.
        image_size_px: height and width wanted.

    Returns:
        The intrinsics; pixel (0, 0) is the middle of the top left pixel at both sizes.
    """
    scale = np.array([image_size_px[1] / _FULL_SIZE_PX[1], image_size_px[0] / _FULL_SIZE_PX[0]])  # u v
    u, v = scale * (np.array(principal_px) + 0.5) - 0.5
    return np.array([[focal_px * scale[0], 0, u], [0, focal_px * scale[1], v], [0, 0, 1]])


def surround_cameras(image_size_px: tuple[int, int] = (225, 400)) -> tuple[Camera, ...]:
    """The six cameras around the car, in the order in which they fire after the front.

    Args:
        image_size_px: height and width.

    Returns:
        Front, front right, back right, back, back left, front left.

    Raises:
        ValueError: a side is not positive.
    """
    if min(image_size_px) < 1:
        raise ValueError(f"surround_cameras: image_size_px must be positive, got {image_size_px}")
    return tuple(
        Camera(
            channel=channel,
            sensor2ego=_mounted(mount.position_m, body_rotation(*np.radians(mount.angles_deg)) @ _OPTICAL2BODY),
            intrinsics=scaled_intrinsics(mount.focal_px, mount.principal_px, image_size_px),
            image_size_px=image_size_px,
            delay_us=mount.delay_us,
        )
        for channel, mount in _CAMERAS.items()
    )


def roof_lidar() -> Lidar:
    """The LiDAR on the roof: x right, y forward, z up, tilted by a fraction of a degree."""
    rotation = body_rotation(*np.radians((-89.9, 0.4, 0.6)))
    return Lidar(channel="LIDAR_TOP", sensor2ego=_mounted((0.95, 0.0, 1.84), rotation))


def surround_rig(image_size_px: tuple[int, int] = (225, 400)) -> tuple[Sensor, ...]:
    """The sensors of every set: the LiDAR, which times the samples, and six cameras.

    Args:
        image_size_px: height and width of the pictures.

    Returns:
        The sensors, the LiDAR first.
    """
    return (roof_lidar(), *surround_cameras(image_size_px))


def sensor_rig(settings: Settings) -> tuple[Sensor, ...]:
    """The sensors that a set asks for.

    Args:
        settings: kinds of sensors, and sizes of pictures.

    Returns:
        The sensors, the LiDAR, which times the samples, first and the cameras next.
    """
    others: dict[str, Callable[[], Sequence[Sensor]]] = {
        "radar": surround_radars,
        "radar4d": surround_radars4d,
        "ultrasonic": bumper_sensors,
        "fisheye": lambda: fisheye_cameras(settings.fisheye_size_px),
    }
    wanted = (make() for kind, make in others.items() if kind in settings.sensors)
    return (*surround_rig(settings.image_size_px), *(sensor for sensors in wanted for sensor in sensors))


def _mounted(position_m: tuple[float, float, float], rotation: np.ndarray) -> np.ndarray:
    sensor2ego = np.eye(4)
    sensor2ego[:3, :3], sensor2ego[:3, 3] = rotation, position_m
    return sensor2ego
