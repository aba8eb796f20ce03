"""Our ops beside those of mmcv, where it is installed."""

import importlib.util

import pytest
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.ops.box_iou_rotated import box_iou_rotated
from perception.ops.ms_deform_attn import ms_deform_attn
from perception.ops.nms_rotated import nms_rotated
from perception.ops.points_in_boxes import count_points_in_boxes, points_in_boxes
from perception.ops.voxelize import voxelize_hard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("mmcv") is None, reason="mmcv is not installed; `make mmdet3d` installs it"
    ),
]


def cars(count: int, half_m: float, generator: torch.Generator) -> Tensor:
    spread = torch.tensor([half_m, half_m, 1.0, 1.0, 0.4, 0.3, 3.1])
    centre = torch.tensor([0.0, 0.0, 0.0, 4.5, 1.9, 1.6, 0.0])
    return centre + spread * (2 * torch.rand(count, 7, generator=generator) - 1)


def footprints(boxes: Tensor) -> Tensor:
    """Boxes as mmcv takes them in the plane: centre, length, width, yaw."""
    return boxes[:, [0, 1, 3, 4, 6]].contiguous()


@pytest.mark.parametrize("max_voxels", [300, 100_000])
def test_voxelize_hard(generator: torch.Generator, max_voxels: int) -> None:
    from mmcv.ops import Voxelization

    grid = Grid((-16.0, 16.0), (-8.0, 8.0), (-2.0, 2.0), (0.5, 0.25, 0.5))
    points = torch.randn(20_000, 5, generator=generator) * torch.tensor([8.0, 4.0, 1.0, 1.0, 1.0])
    layer = Voxelization(list(grid.cell_m), [-16.0, -8.0, -2.0, 16.0, 8.0, 2.0], 4, max_voxels)
    voxels, coords, num_points = layer(points)
    batch_index = torch.zeros(len(points), dtype=torch.int64)
    ours = voxelize_hard(points, batch_index, grid, max_points=4, max_voxels=max_voxels)
    assert torch.equal(ours.coords[:, 1:], coords.long())
    assert torch.equal(ours.num_points, num_points.long())
    assert torch.equal(ours.voxels, voxels)


def test_box_iou_rotated(generator: torch.Generator) -> None:
    from mmcv.ops import box_iou_rotated as mmcv_iou

    a, b = cars(200, 10.0, generator), cars(150, 10.0, generator)
    ours, theirs = box_iou_rotated(a, b), mmcv_iou(footprints(a), footprints(b))
    assert (ours > 0.01).sum() > 500
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_nms_rotated(generator: torch.Generator) -> None:
    from mmcv.ops import nms_rotated as mmcv_nms

    boxes, scores = cars(500, 15.0, generator), torch.rand(500, generator=generator)
    _, theirs = mmcv_nms(footprints(boxes), scores, 0.2)
    ours = nms_rotated(boxes, scores, 0.2)
    assert 50 < len(ours) < 400
    assert torch.equal(ours, theirs)


def test_points_in_boxes(generator: torch.Generator) -> None:
    from mmcv.ops import points_in_boxes_cpu

    boxes = cars(60, 10.0, generator)
    points = torch.randn(20_000, 3, generator=generator) * torch.tensor([8.0, 8.0, 1.0])
    standing = torch.cat((boxes[:, :2], boxes[:, 2:3] - boxes[:, 5:6] / 2, boxes[:, 3:]), dim=1)
    held = points_in_boxes_cpu(points[None], standing[None])[0].bool()
    assert held.any(1).sum() > 1000
    assert torch.equal(points_in_boxes(points, boxes), torch.where(held.any(1), held.byte().argmax(1), -1))
    assert torch.equal(count_points_in_boxes(points, boxes), held.sum(0))


def test_ms_deform_attn(generator: torch.Generator) -> None:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = (12, 20), (6, 10)
    value = torch.randn(2, 300, 4, 16, generator=generator)
    locations = 1.4 * torch.rand(2, 50, 4, 2, 3, 2, generator=generator) - 0.2  # some lie outside
    weights = torch.rand(2, 50, 4, 2, 3, generator=generator)
    theirs = multi_scale_deformable_attn_pytorch(value, torch.tensor(shapes), locations, weights)
    torch.testing.assert_close(ms_deform_attn(value, shapes, locations, weights), theirs, atol=1e-5, rtol=1e-5)
