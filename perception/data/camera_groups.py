"""Pictures of a group of cameras -> tensors with calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from perception.data.images import load_image
from perception.data.index import SensorRecord
from perception.data.sample_files import SampleFiles
from perception.data.sensor_settings import CameraLoading
from perception.geometry.cameras import CameraModel, kannala_brandt_theta_max
from perception.structures import CameraImages


def load_cameras(files: SampleFiles, wanted: CameraLoading) -> CameraImages | None:
    """Loads the pictures of a group.

    Args:
        files: of the sample.
        wanted: what to load.

    Returns:
        The group, or None where it has no picture at all.

    Raises:
        SensorFileError: a file cannot be used and problems are to raise.
        ValueError: the cameras have different camera models or no calibration.
    """
    num_cameras, (height, width) = len(wanted.channels), wanted.image_size_px
    images = torch.zeros((num_cameras, 3, height, width), dtype=torch.uint8)
    intrinsics, image2aug = (torch.eye(3, dtype=torch.float64).repeat(num_cameras, 1, 1) for _ in range(2))
    distortion = torch.zeros((num_cameras, 4), dtype=torch.float64)
    camera2ego = torch.eye(4, dtype=torch.float64).repeat(num_cameras, 1, 1)
    present = torch.zeros(num_cameras, dtype=torch.bool)
    sensors = [files.recording(channel) for channel in wanted.channels]
    model = _camera_model(files, wanted, [sensor for sensor in sensors if sensor is not None])
    for row, sensor in enumerate(sensors):
        loaded = None if sensor is None else files.read(sensor.channel, sensor.path, _image_reader(sensor, wanted))
        if sensor is None or loaded is None:
            continue
        present[row] = True
        images[row] = torch.from_numpy(loaded[0]).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
        image2aug[row] = torch.from_numpy(loaded[1])
        intrinsics[row] = torch.from_numpy(sensor.intrinsics)
        camera2ego[row] = files.sensor2ego(sensor)
        if sensor.distortion is not None:
            distortion[row] = torch.from_numpy(sensor.distortion)
    if not present.any():
        return None
    return CameraImages(
        names=wanted.channels,
        camera_model=cast(CameraModel, model),
        images=images,
        intrinsics=intrinsics,
        distortion=distortion,
        camera2ego=camera2ego,
        image2aug=image2aug,
        present=present,
        theta_max_rad=_theta_max(sensors, distortion) if model == "kannala_brandt" else None,
    )


def _theta_max(sensors: list[SensorRecord | None], distortion: Tensor) -> Tensor:
    """(N,) float64 as the set says, or else as far as the distortion does not turn back."""
    theta_max_rad = kannala_brandt_theta_max(distortion)
    for row, sensor in enumerate(sensors):
        if sensor is not None and sensor.theta_max_rad is not None:
            theta_max_rad[row] = theta_max_rad[row].clamp(max=sensor.theta_max_rad)
    return theta_max_rad


def _image_reader(sensor: SensorRecord, wanted: CameraLoading) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    recorded = (sensor.height, sensor.width) if sensor.height and sensor.width else None
    return lambda path: load_image(path, wanted.image_size_px, recorded)


def _camera_model(files: SampleFiles, wanted: CameraLoading, sensors: list[SensorRecord]) -> str | None:
    """The model that all cameras of the group share; None where there is no camera."""
    token = files.record.token
    for sensor in sensors:
        if sensor.camera_model is None or sensor.intrinsics is None:
            raise ValueError(
                f"SampleLoader: sample {token}, {sensor.channel}: must be a camera with intrinsics, got none"
            )
    models = sorted({str(sensor.camera_model) for sensor in sensors})
    if len(models) > 1:
        raise ValueError(
            f"SampleLoader: cameras of group {wanted.group!r} must share one camera model, got {models} "
            f"in sample {token}"
        )
    return models[0] if models else None
