"""Batches to measure models on, made up at the sizes of nuScenes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.model_inputs_ranging import made_up_echoes, made_up_radar
from benchmarks.ops.voxelize import spinning_lidar
from perception.data.sensor_settings import FISHEYE_CAMERAS, CameraLoading, LidarLoading, SensorSuite
from perception.geometry.transforms import rigid, yaw_matrix
from perception.structures import Batch, Boxes3D, CameraImages, PointBatch

POINTS_PER_SWEEP = 24_000
_RECORDED_SIZE_PX = (900, 1600)
_FOCAL_PX = 1266.0
_RECORDED_FISHEYE_PX = (320, 480)
_FOCAL_FISHEYE_PX = 125.0
_FISHEYE_PLACES_M = ((3.75, 0.0, 0.7), (2.0, 1.0, 1.0), (-0.9, 0.0, 0.7), (2.0, -1.0, 1.0))  # bumpers and mirrors
_THETA_MAX_RAD = math.radians(95.0)
# Camera axes in the ego frame, looking forward: x right = -y, y down = -z, z forward = x.
_AXES = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
_YAWS_DEG = (0.0, -55.0, -110.0, 180.0, 110.0, 55.0)
_SENSOR_HEIGHT_M = 1.8
_NUM_BOXES = 35


def made_up_batch(cameras: CameraLoading | None, lidar: LidarLoading | None, batch_size: int = 1) -> Batch:
    """Makes a batch of one group of cameras and a LiDAR as the loader would, always the same one.

    Args:
        cameras: pictures; None makes none.
        lidar: points, `POINTS_PER_SWEEP` for the keyframe and for each sweep; None makes none.
        batch_size: samples B.

    Returns:
        The batch, with annotations.
    """
    return made_up_suite(SensorSuite(cameras=() if cameras is None else (cameras,), lidar=lidar), batch_size)


def made_up_suite(sensors: SensorSuite, batch_size: int = 1) -> Batch:
    """Makes a batch of any sensors as the loader would, always the same one.

    Args:
        sensors: which sensors, how large the pictures, how many sweeps. A group of channels that are fisheyes of the
            simulated suite has Kannala-Brandt lenses, any other pinholes.
        batch_size: samples B.

    Returns:
        The batch, with annotations.
    """
    generator = torch.Generator().manual_seed(0)
    identity = torch.eye(4, dtype=torch.float64).repeat(batch_size, 1, 1)
    ranging = sensors.ranging
    return Batch(
        tokens=tuple(f"sample {number}" for number in range(batch_size)),
        scenes=("made up",) * batch_size,
        timestamps_us=torch.arange(batch_size),
        ego2global=identity,
        ego2aug=identity,
        cameras={group.group: _cameras(group, batch_size, generator) for group in sensors.cameras},
        lidar=None if sensors.lidar is None else _points(sensors.lidar, batch_size),
        boxes=tuple(_boxes(generator) for _ in range(batch_size)),
        radar=None if ranging.radar is None else made_up_radar(ranging.radar, batch_size, generator),
        radar4d=None if ranging.radar4d is None else made_up_radar(ranging.radar4d, batch_size, generator),
        ultrasonic=None if ranging.ultrasonic is None else made_up_echoes(ranging.ultrasonic, batch_size, generator),
    )


def _cameras(loading: CameraLoading, batch_size: int, generator: torch.Generator) -> CameraImages:
    height, width = loading.image_size_px
    fisheye = set(loading.channels) <= set(FISHEYE_CAMERAS)
    intrinsics, image2aug, camera2ego = (_fisheyes if fisheye else _pinholes)(loading)
    images = torch.randint(
        0, 256, (batch_size, len(loading.channels), 3, height, width), generator=generator, dtype=torch.int32
    )
    shape = (batch_size, len(loading.channels))
    return CameraImages(
        names=tuple(loading.channels),
        camera_model="kannala_brandt" if fisheye else "pinhole",
        images=images.to(torch.uint8),
        intrinsics=intrinsics.expand(*shape, 3, 3).clone(),
        distortion=torch.zeros(*shape, 4, dtype=torch.float64),
        camera2ego=camera2ego.expand(*shape, 4, 4).clone(),
        image2aug=image2aug.expand(*shape, 3, 3).clone(),
        present=torch.ones(shape, dtype=torch.bool),
        theta_max_rad=torch.full(shape, _THETA_MAX_RAD, dtype=torch.float64) if fisheye else None,
    )


def _pinholes(loading: CameraLoading) -> tuple[Tensor, Tensor, Tensor]:
    """Intrinsics (3, 3), `image2aug` (3, 3) and `camera2ego` (N, 4, 4) of cameras on the roof; the sky is cut off."""
    height, width = loading.image_size_px
    scale = width / _RECORDED_SIZE_PX[1]
    top_px = _RECORDED_SIZE_PX[0] * scale - height
    yaws = torch.tensor([math.radians(_YAWS_DEG[number % len(_YAWS_DEG)]) for number in range(len(loading.channels))])
    mount = rigid(torch.tensor(_AXES, dtype=torch.float64), torch.tensor([0.8, 0.0, 1.5], dtype=torch.float64))
    return _lens(_FOCAL_PX, _RECORDED_SIZE_PX), _resize((scale, scale), top_px), yaw_matrix(yaws.double()) @ mount


def _fisheyes(loading: CameraLoading) -> tuple[Tensor, Tensor, Tensor]:
    """The same of four cameras on the bumpers and the mirrors; the whole picture is scaled."""
    scale = tuple(size / recorded for size, recorded in zip(loading.image_size_px, _RECORDED_FISHEYE_PX, strict=True))
    numbers = [FISHEYE_CAMERAS.index(channel) for channel in loading.channels]
    turns = yaw_matrix(torch.tensor(numbers, dtype=torch.float64) * math.pi / 2)[:, :3, :3]
    places = torch.tensor(_FISHEYE_PLACES_M, dtype=torch.float64)[numbers]
    mounts = rigid(turns @ torch.tensor(_AXES, dtype=torch.float64), places)
    return _lens(_FOCAL_FISHEYE_PX, _RECORDED_FISHEYE_PX), _resize((scale[1], scale[0]), 0.0), mounts


def _lens(focal_px: float, size_px: tuple[int, int]) -> Tensor:
    height, width = size_px
    lens = [[focal_px, 0.0, (width - 1) / 2], [0.0, focal_px, (height - 1) / 2], [0.0, 0.0, 1.0]]
    return torch.tensor(lens, dtype=torch.float64)


def _resize(scale: tuple[float, float], top_px: float) -> Tensor:
    """Scales x and y about the corner of the picture and takes away rows at the top."""
    x, y = scale
    matrix = [[x, 0.0, x / 2 - 0.5], [0.0, y, y / 2 - 0.5 - top_px], [0.0, 0.0, 1.0]]
    return torch.tensor(matrix, dtype=torch.float64)


def _points(loading: LidarLoading, batch_size: int) -> PointBatch:
    num_points = POINTS_PER_SWEEP * (loading.num_sweeps + 1)
    cloud = spinning_lidar(num_points)  # (P, 5) around the sensor
    cloud[:, 2] += _SENSOR_HEIGHT_M
    cloud[:, 4] = torch.arange(num_points) // POINTS_PER_SWEEP * 0.05
    return PointBatch(
        points=cloud.repeat(batch_size, 1),
        batch_index=torch.arange(batch_size).repeat_interleave(num_points),
        present=torch.ones(batch_size, dtype=torch.bool),
        sensor2ego=torch.eye(4, dtype=torch.float64).repeat(batch_size, 1, 1),
        fields=("intensity", "time_lag_s"),
    )


def _boxes(generator: torch.Generator) -> Boxes3D:
    place = (torch.rand(_NUM_BOXES, 2, generator=generator) - 0.5) * 90
    sizes = torch.tensor([[4.6, 1.9, 1.7]]).expand(_NUM_BOXES, 3)
    rest = torch.rand(_NUM_BOXES, 4, generator=generator)
    boxes = torch.cat((place, rest[:, :1], sizes, (rest[:, 1:2] - 0.5) * 2 * math.pi, rest[:, 2:]), dim=1)  # (M, 9)
    return Boxes3D(
        boxes=boxes,
        labels=torch.randint(0, 10, (_NUM_BOXES,), generator=generator),
        num_lidar_points=torch.full((_NUM_BOXES,), 10),
        tokens=tuple(f"box {number}" for number in range(_NUM_BOXES)),
    )
