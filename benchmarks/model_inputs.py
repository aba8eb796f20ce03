"""Batches to measure models on, made up at the sizes of nuScenes."""

from __future__ import annotations

import math

import torch

from benchmarks.ops.voxelize import spinning_lidar
from perception.data.loading import CameraLoading, LidarLoading
from perception.geometry.transforms import rigid, yaw_matrix
from perception.structures import Batch, Boxes3D, CameraImages, PointBatch

POINTS_PER_SWEEP = 24_000
_RECORDED_SIZE_PX = (900, 1600)
_FOCAL_PX = 1266.0
_YAWS_DEG = (0.0, -55.0, -110.0, 180.0, 110.0, 55.0)
_SENSOR_HEIGHT_M = 1.8
_NUM_BOXES = 35


def made_up_batch(cameras: CameraLoading | None, lidar: LidarLoading | None, batch_size: int = 1) -> Batch:
    """Makes a batch as the loader would, always the same one.

    Args:
        cameras: pictures; None makes none.
        lidar: points, `POINTS_PER_SWEEP` for the keyframe and for each sweep; None makes none.
        batch_size: samples B.

    Returns:
        The batch, with annotations.
    """
    generator = torch.Generator().manual_seed(0)
    identity = torch.eye(4, dtype=torch.float64).repeat(batch_size, 1, 1)
    return Batch(
        tokens=tuple(f"sample {number}" for number in range(batch_size)),
        scenes=("made up",) * batch_size,
        timestamps_us=torch.arange(batch_size),
        ego2global=identity,
        ego2aug=identity,
        cameras={} if cameras is None else {cameras.group: _cameras(cameras, batch_size, generator)},
        lidar=None if lidar is None else _points(lidar, batch_size),
        boxes=tuple(_boxes(generator) for _ in range(batch_size)),
    )


def _cameras(loading: CameraLoading, batch_size: int, generator: torch.Generator) -> CameraImages:
    (height, width), count = loading.image_size_px, len(loading.channels)
    recorded_height, recorded_width = _RECORDED_SIZE_PX
    scale = width / recorded_width
    top_px = recorded_height * scale - height
    image2aug = [[scale, 0.0, scale / 2 - 0.5], [0.0, scale, scale / 2 - 0.5 - top_px], [0.0, 0.0, 1.0]]
    center = ((recorded_width - 1) / 2, (recorded_height - 1) / 2)
    intrinsics = [[_FOCAL_PX, 0.0, center[0]], [0.0, _FOCAL_PX, center[1]], [0.0, 0.0, 1.0]]
    # Camera axes in the ego frame, looking forward: x right = -y, y down = -z, z forward = x.
    axes = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    yaws = torch.tensor([math.radians(_YAWS_DEG[number % len(_YAWS_DEG)]) for number in range(count)])
    camera2ego = yaw_matrix(yaws.double()) @ rigid(axes, torch.tensor([0.8, 0.0, 1.5], dtype=torch.float64))
    return CameraImages(
        names=tuple(loading.channels),
        camera_model="pinhole",
        images=torch.randint(0, 256, (batch_size, count, 3, height, width), generator=generator, dtype=torch.int32).to(
            torch.uint8
        ),
        intrinsics=torch.tensor(intrinsics, dtype=torch.float64).expand(batch_size, count, 3, 3).clone(),
        distortion=torch.zeros(batch_size, count, 4, dtype=torch.float64),
        camera2ego=camera2ego.expand(batch_size, count, 4, 4).clone(),
        image2aug=torch.tensor(image2aug, dtype=torch.float64).expand(batch_size, count, 3, 3).clone(),
        present=torch.ones(batch_size, count, dtype=torch.bool),
    )


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
