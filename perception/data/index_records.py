"""What an index says of one recording, one sample, one scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SensorRecord:
    """One recording of one sensor.

    Attributes:
        token: of the `sample_data` row.
        channel: such as `CAM_FRONT`.
        modality: `camera`, `lidar`, `radar`, or the set's own (`ultrasonic`, `fisheye`, `radar4d`).
        path: of the file, relative to the dataroot.
        timestamp_us: when it was recorded, microseconds.
        sensor2ego: (4, 4) float64, mounting; no ego motion in it.
        ego2global: (4, 4) float64, at `timestamp_us`.
        intrinsics: (3, 3) float64 in pixels of the recorded picture; None for what is no camera.
        distortion: (4,) float64, Kannala-Brandt coefficients; None without.
        camera_model: `pinhole`, `kannala_brandt` or None.
        width: of the picture in pixels, 0 for what is no camera.
        height: of the picture in pixels, 0 for what is no camera.
        is_key_frame: whether it belongs to the annotated moment.
        theta_max_rad: largest angle from the axis that a fisheye sees; None where the set does not say.
    """

    token: str
    channel: str
    modality: str
    path: str
    timestamp_us: int
    sensor2ego: np.ndarray
    ego2global: np.ndarray
    intrinsics: np.ndarray | None
    distortion: np.ndarray | None
    camera_model: str | None
    width: int
    height: int
    is_key_frame: bool
    theta_max_rad: float | None = None


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotated objects of one sample, in the order of the annotation table.

    Attributes:
        boxes_global: (M, 9) float64 x y z l w h yaw vx vy in the global frame; velocity by the devkit's rule, NaN
            where unknown.
        rotations: (M, 4) float64 full orientation w x y z in the global frame.
        categories: M category names.
        labels: (M,) int64 index into the detection classes, -1 for a category without class.
        num_lidar_pts: (M,) int64.
        num_radar_pts: (M,) int64.
        visibility: (M,) int64, 1 (up to 40 % visible) to 4 (over 80 %), 0 unknown.
        attributes: M attribute names, '' for none.
        tokens: M tokens of `sample_annotation` rows.
        instance_tokens: M tokens of tracks.
    """

    boxes_global: np.ndarray
    rotations: np.ndarray
    categories: tuple[str, ...]
    labels: np.ndarray
    num_lidar_pts: np.ndarray
    num_radar_pts: np.ndarray
    visibility: np.ndarray
    attributes: tuple[str, ...]
    tokens: tuple[str, ...]
    instance_tokens: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SampleRecord:
    """One annotated moment.

    Attributes:
        token: of the `sample` row.
        scene: its scene's name.
        timestamp_us: microseconds.
        ego2global: (4, 4) float64, of the reference sensor's keyframe; of the first sensor where there is no LIDAR_TOP.
        sensors: the keyframe of every channel that has one.
        annotations: None in a set without annotations.
    """

    token: str
    scene: str
    timestamp_us: int
    ego2global: np.ndarray
    sensors: dict[str, SensorRecord]
    annotations: Annotations | None


@dataclass(frozen=True)
class SceneRecord:
    """One scene: its name, and what is known of the place and the drive."""

    token: str
    name: str
    description: str
    location: str
    logfile: str
    vehicle: str
