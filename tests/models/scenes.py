"""Small synthetic batches and detectors for the tests of models and runtime."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.geometry.transforms import rigid, yaw_matrix
from perception.models.branches import CameraBranch, LidarBranch
from perception.models.detector import Detector
from perception.models.encoders.image import ImageEncoder
from perception.models.encoders.pillars import PillarEncoder
from perception.models.fusers.concat_conv import ConcatConvFuser
from perception.models.heads.centerpoint import CenterPointHead
from perception.models.losses.depth import DepthLoss
from perception.models.necks.bev import BevNeck
from perception.models.necks.second import SecondBackbone
from perception.models.parts import Branch
from perception.models.views.lift_splat import LiftSplat
from perception.structures import Batch, Boxes3D, CameraImages, PointBatch

CLASSES = ("car", "truck", "pedestrian")
GRID = Grid((-16.0, 16.0), (-12.8, 12.8), (-5.0, 3.0), (0.8, 0.8, 8.0))  # 32 rows of 40 cells
IMAGE_SIZE_PX = (32, 64)
# Camera axes in the ego frame, looking forward: x right = -y, y down = -z, z forward = x.
FORWARD = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)


def make_cameras(present: Sequence[Sequence[bool]], camera_model: str = "pinhole") -> CameraImages:
    """Cameras around the vehicle at a height of 1.5 m with random pictures; (B, N) of them are present."""
    mask = torch.tensor(present)
    batch_size, number = mask.shape
    height, width = IMAGE_SIZE_PX
    focal = width / 2 if camera_model == "pinhole" else width / math.pi  # 90 and 180 degrees
    intrinsics = torch.tensor(
        [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64
    )
    yaws = torch.arange(number, dtype=torch.float64) * (2 * math.pi / number)
    camera2ego = yaw_matrix(yaws) @ rigid(FORWARD, torch.tensor([0.5, 0.0, 1.5], dtype=torch.float64))
    distortion = torch.zeros(4, dtype=torch.float64)
    return CameraImages(
        names=tuple(f"camera_{index}" for index in range(number)),
        camera_model=camera_model,  # type: ignore[arg-type]
        images=torch.randint(0, 256, (batch_size, number, 3, height, width), dtype=torch.uint8),
        intrinsics=intrinsics.expand(batch_size, number, 3, 3).clone(),
        distortion=distortion.expand(batch_size, number, 4).clone(),
        camera2ego=camera2ego.expand(batch_size, number, 4, 4).clone(),
        image2aug=torch.eye(3, dtype=torch.float64).expand(batch_size, number, 3, 3).clone(),
        present=mask,
    )


def make_lidar(counts: Sequence[int | None]) -> PointBatch:
    """Random points; None is an absent sensor, 0 one that saw nothing."""
    numbers = [count or 0 for count in counts]
    total = sum(numbers)
    points = torch.rand(total, 5) * torch.tensor([24.0, 24.0, 4.0, 255.0, 0.5]) - torch.tensor([12.0, 12.0, 2.0, 0, 0])
    return PointBatch(
        points=points,
        batch_index=torch.arange(len(counts)).repeat_interleave(torch.tensor(numbers)),
        present=torch.tensor([count is not None for count in counts]),
        sensor2ego=torch.eye(4, dtype=torch.float64).repeat(len(counts), 1, 1),
        fields=("intensity", "time_lag_s"),
    )


def make_boxes(boxes: Tensor, labels: Sequence[int]) -> Boxes3D:
    """Annotations from (M, 9) boxes."""
    return Boxes3D(
        boxes=boxes.float(),
        labels=torch.tensor(labels, dtype=torch.long),
        num_lidar_points=torch.full((len(boxes),), -1),
        tokens=tuple(f"box_{index}" for index in range(len(boxes))),
    )


def two_boxes() -> Boxes3D:
    """A car whose velocity is unknown and a pedestrian."""
    boxes = torch.tensor(
        [
            [6.3, -3.1, 0.5, 4.6, 1.9, 1.6, 0.4, float("nan"), float("nan")],
            [-5.2, 7.7, 0.8, 0.7, 0.6, 1.7, -2.0, 0.3, -1.0],
        ]
    )
    return make_boxes(boxes, [0, 2])


def make_batch(
    cameras: CameraImages | None,
    lidar: PointBatch | None,
    boxes: Sequence[Boxes3D | None],
    ego2aug: Tensor | None = None,
) -> Batch:
    """A batch of as many samples as there are entries in `boxes`."""
    size = len(boxes)
    identity = torch.eye(4, dtype=torch.float64).repeat(size, 1, 1)
    return Batch(
        tokens=tuple(f"sample_{index}" for index in range(size)),
        scenes=("scene",) * size,
        timestamps_us=torch.arange(size),
        ego2global=identity,
        ego2aug=identity if ego2aug is None else ego2aug.expand(size, 4, 4).clone(),
        cameras={} if cameras is None else {"surround": cameras},
        lidar=lidar,
        boxes=tuple(boxes),
    )


def augmentation(yaw_rad: float = 0.5, scale: float = 1.1, flip_y: bool = True) -> Tensor:
    """(4, 4) `ego2aug`: mirror, turn, scale and shift."""
    mirror = torch.diag(torch.tensor([1.0, -1.0 if flip_y else 1.0, 1.0, 1.0], dtype=torch.float64))
    size = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = torch.tensor([0.3, -0.4, 0.2])
    return shift @ size @ yaw_matrix(torch.tensor(yaw_rad, dtype=torch.float64)) @ mirror


def second(in_channels: int, stride: int = 1, width: int = 8) -> SecondBackbone:
    """Two stages of two convolutions; gives 2 * width channels."""
    return SecondBackbone(
        in_channels=in_channels,
        stage_channels=[width, width],
        stage_layers=[1, 1],
        stage_strides=[stride, 2],
        up_channels=width,
    )


BACKBONES: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"},
    "swin": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4},
}


def image_encoder(model_type: str = "resnet", weights: str | None = None) -> ImageEncoder:
    """A backbone of four stages whose last two feed the pyramid."""
    return ImageEncoder(
        model_type=model_type,
        config=BACKBONES[model_type],
        out_features=["stage2", "stage3"],
        out_channels=12,
        weights=weights,  # type: ignore[arg-type]
    )


def make_branches() -> dict[str, Branch]:
    """A camera and a LiDAR branch."""
    view = LiftSplat(
        in_channels=12, context_channels=8, out_channels=10, distance_range_m=(1.0, 13.0), distance_step_m=1.0
    )
    fields = {"intensity": 1 / 255, "time_lag_s": 1.0}
    return {
        "camera": CameraBranch(encoder=image_encoder(), view=view),
        "lidar": LidarBranch(encoder=PillarEncoder(fields=fields, point_channels=[8], backbone=second(8, stride=2))),
    }


def make_detector(sensors: Sequence[str] = ("camera", "lidar")) -> Detector:
    """A detector over some of the sensors, tiny in every part."""
    branches = {name: branch for name, branch in make_branches().items() if name in sensors}
    channels = {name: branch.out_channels["main"] for name, branch in branches.items()}
    neck = BevNeck(levels={"main": second(16)})
    head = CenterPointHead(
        in_channels=16, groups=[["car", "truck"], ["pedestrian"]], shared_channels=16, group_channels=16
    )
    return Detector(
        grids={"main": GRID},
        class_names=list(CLASSES),
        branches=branches,
        fuser=ConcatConvFuser(in_channels={"main": channels}, out_channels={"main": 16}),
        neck=neck,
        heads={"boxes": head},
        auxiliary_losses={"depth": DepthLoss()} if "camera" in sensors else None,
    )


def without_cameras(batch: Batch) -> Batch:
    """The same batch as if no camera had ever been there."""
    return dataclasses.replace(batch, cameras={})


@torch.no_grad()
def settled(detector: Detector, batch: Batch) -> Detector:
    """The detector in evaluation, with the statistics of a batch: without, an untrained one says the same of all."""
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    detector.train()(batch)
    return detector.eval()
