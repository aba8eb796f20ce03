"""A sample built by hand: a car straight ahead of the front camera, points on the ground and on the car."""

import math

import pytest
import torch
from torch import Tensor

from perception.geometry.transforms import yaw_matrix
from perception.structures import Boxes3D, CameraImages, PointCloud, Sample

CLASSES = ("car", "pedestrian")
IMAGE_SIZE_PX = (90, 160)
CAMERA_HEIGHT_M = 1.5
GREY = 90

_CAMERA_AXES = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)


def camera2ego(yaw_rad: float) -> Tensor:
    """A camera at the origin, `CAMERA_HEIGHT_M` up, that looks along the yaw."""
    transform = yaw_matrix(torch.tensor(yaw_rad, dtype=torch.float64)) @ _CAMERA_AXES
    transform[2, 3] = CAMERA_HEIGHT_M
    return transform


def make_cameras(yaw_by_name: dict[str, float], camera_model: str = "pinhole") -> CameraImages:
    """Grey pictures of cameras with 90 degrees across (pinhole)."""
    count, (height, width) = len(yaw_by_name), IMAGE_SIZE_PX
    intrinsics = torch.tensor([[80.0, 0, (width - 1) / 2], [0, 80.0, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64)
    return CameraImages(
        names=tuple(yaw_by_name),
        camera_model=camera_model,
        images=torch.full((count, 3, height, width), GREY, dtype=torch.uint8),
        intrinsics=intrinsics.repeat(count, 1, 1),
        distortion=torch.zeros(count, 4, dtype=torch.float64),
        camera2ego=torch.stack([camera2ego(yaw) for yaw in yaw_by_name.values()]),
        image2aug=torch.eye(3, dtype=torch.float64).repeat(count, 1, 1),
        present=torch.ones(count, dtype=torch.bool),
    )


def make_boxes(rows: list[list[float]], labels: list[int] | None = None) -> Boxes3D:
    """Boxes with 5 LiDAR points each."""
    return Boxes3D(
        boxes=torch.tensor(rows, dtype=torch.float32).reshape(-1, 9),
        labels=torch.tensor(labels or [0] * len(rows), dtype=torch.int64),
        num_lidar_points=torch.full((len(rows),), 5),
        tokens=tuple(f"box{i}" for i in range(len(rows))),
    )


@pytest.fixture
def sample() -> Sample:
    """Front and back camera, LiDAR, two boxes."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand((500, 4), generator=generator) * torch.tensor([40.0, 40.0, 2.0, 255.0]) - torch.tensor(
        [20.0, 20.0, 0.0, 0.0]
    )
    return Sample(
        token="sample0",
        scene="scene-0001",
        timestamp_us=1_500_000_000_000_000,
        ego2global=torch.eye(4, dtype=torch.float64),
        cameras={"surround": make_cameras({"CAM_FRONT": 0.0, "CAM_BACK": math.pi})},
        lidar=PointCloud(points=points, fields=("intensity",), sensor2ego=torch.eye(4, dtype=torch.float64)),
        boxes=make_boxes(
            [[10, 0, 1.5, 4, 2, 2, 0, 5, 0], [6, 6, 1, 0.8, 0.8, 1.8, 1, math.nan, math.nan]], labels=[0, 1]
        ),
    )
