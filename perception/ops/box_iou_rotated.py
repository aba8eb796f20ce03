"""Intersection over union of boxes with a heading, every pair: of their footprints, or of the boxes in space.

Boxes that are not finite, or have no size, overlap nothing: NaN never matches. No gradient passes.
"""

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import FLOATING, check_same_device, check_tensor

_VANISHING = 1e-30  # keeps the reciprocal of an edge without extent finite


def box_iou_rotated(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Gives the intersection over union of the boxes' footprints, as seen from above.

    Computed in the wider dtype of the two, float16 and bfloat16 in float32; under autocast the result is float32.

    Args:
        boxes_a: (M, 7) or (M, 9) floating: centre, length width height, yaw, then what is not read.
        boxes_b: (N, 7) or (N, 9) floating, in the same frame.

    Returns:
        (M, N) in [0, 1], in the wider dtype of the two; 0 for boxes that are apart,
        that are not finite, or whose length or width is not positive.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes, dtypes or devices that do not fit.

    Source:
        The shared area is Green's theorem over the edges of one rectangle, clamped to the other: a continuous function
        of the boxes, where clipping polygons has to decide on which side of a line a corner lies.
    """
    return _box_iou("box_iou_rotated", boxes_a, boxes_b, volume=False)


def box_iou_3d(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Gives the intersection over union of the boxes' volumes.

    Computed in the wider dtype of the two, float16 and bfloat16 in float32; under autocast the result is float32.

    Args:
        boxes_a: (M, 7) or (M, 9) floating: centre, length width height, yaw, then what is not read.
        boxes_b: (N, 7) or (N, 9) floating, in the same frame.

    Returns:
        (M, N) in [0, 1], in the wider dtype of the two; 0 where a box is not finite or a size of it is not positive.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes, dtypes or devices that do not fit.
    """
    return _box_iou("box_iou_3d", boxes_a, boxes_b, volume=True)


def box_iou_rotated_reference(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Does what `box_iou_rotated` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        boxes_a: as in `box_iou_rotated`.
        boxes_b: as in `box_iou_rotated`.

    Returns:
        As `box_iou_rotated`.
    """
    return _reference(boxes_a, boxes_b, volume=False)


def box_iou_3d_reference(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Does what `box_iou_3d` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        boxes_a: as in `box_iou_3d`.
        boxes_b: as in `box_iou_3d`.

    Returns:
        As `box_iou_3d`.
    """
    return _reference(boxes_a, boxes_b, volume=True)


def check_boxes(argument: str, boxes: Tensor) -> None:
    """Checks boxes of any floating dtype.

    Args:
        argument: op and argument, "nms_rotated: boxes".
        boxes: the argument.

    Raises:
        TypeError: not a tensor.
        ValueError: not (M, 7) or (M, 9), or not floating.
    """
    check_tensor(argument, boxes, "M 7+", FLOATING)
    if boxes.shape[1] not in (7, 9):
        raise ValueError(f"{argument} must be (M, 7) or (M, 9), got {tuple(boxes.shape)}")


def _box_iou(function: str, boxes_a: Tensor, boxes_b: Tensor, *, volume: bool) -> Tensor:
    check_boxes(f"{function}: boxes_a", boxes_a)
    check_boxes(f"{function}: boxes_b", boxes_b)
    check_same_device(function, boxes_a=boxes_a, boxes_b=boxes_b)
    if not _library.has_kernels(boxes_a.device):
        return _reference(boxes_a, boxes_b, volume=volume)
    dtype = torch.promote_types(boxes_a.dtype, boxes_b.dtype)
    a, b = (boxes[:, :7].detach().to(dtype) for boxes in (boxes_a, boxes_b))
    return torch.ops.perception.box_iou_rotated(a, b, volume)


def _reference(boxes_a: Tensor, boxes_b: Tensor, *, volume: bool) -> Tensor:
    dtype = torch.promote_types(boxes_a.dtype, boxes_b.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    a, b = (_cleaned(boxes[:, :7].detach().to(wide), volume) for boxes in (boxes_a, boxes_b))
    a, b = a[:, None], b[None]  # (M, 1, 7), (1, N, 7)
    bottom = torch.maximum(a[..., 2] - a[..., 5] / 2, b[..., 2] - b[..., 5] / 2)
    top = torch.minimum(a[..., 2] + a[..., 5] / 2, b[..., 2] + b[..., 5] / 2)
    size_a, size_b = a[..., 3:6].prod(-1), b[..., 3:6].prod(-1)
    shared = _shared_area(a, b) * (top - bottom).clamp(min=0)  # (M, N)
    shared = torch.minimum(shared, torch.minimum(size_a, size_b))
    whole = size_a + size_b - shared
    ratio = shared / torch.where(whole > 0, whole, 1)
    iou = torch.where(ratio > 0, ratio, 0).clamp(max=1)
    return iou.to(_library.output_dtype(dtype, boxes_a.device))


def _cleaned(boxes: Tensor, volume: bool) -> Tensor:
    """Gives boxes that are not finite or have no size as zeros, and all boxes 1 high unless volumes are asked for."""
    valid = boxes.isfinite().all(1) & (boxes[:, 3 : 6 if volume else 5] > 0).all(1)
    cleaned = torch.where(valid[:, None], boxes, 0)
    if not volume:
        cleaned[:, 2], cleaned[:, 5] = 0, valid
    return cleaned


def _shared_area(a: Tensor, b: Tensor) -> Tensor:
    """Adds up the signed areas under the edges of b, clamped to rectangle a, in the axes of a."""
    half = a[..., 3:5] / 2
    center = _turned(b[..., :2] - a[..., :2], -a[..., 6])  # (M, N, 2)
    turn = b[..., 6] - a[..., 6]
    front = torch.stack((turn.cos(), turn.sin()), -1) * (b[..., 3:4] / 2)  # (M, N, 2) from the centre
    left = torch.stack((-turn.sin(), turn.cos()), -1) * (b[..., 4:5] / 2)
    rear_right = center - front - left
    area = (
        _area_under_edge(center - front + left, 2 * front, half)
        - _area_under_edge(rear_right, 2 * front, half)
        + _area_under_edge(rear_right, 2 * left, half)
        - _area_under_edge(center + front - left, 2 * left, half)
    ).clamp(min=0)
    return torch.where(_is_apart(a, b) | _is_apart(b, a), 0, area)


def _is_apart(a: Tensor, b: Tensor) -> Tensor:
    """Says whether a side of rectangle a separates it from rectangle b: exactly, where areas leave rounding behind."""
    center = _turned(b[..., :2] - a[..., :2], -a[..., 6]).abs()  # (M, N, 2)
    turn = b[..., 6] - a[..., 6]
    cos, sin = turn.cos().abs(), turn.sin().abs()
    reach = torch.stack((b[..., 3] * cos + b[..., 4] * sin, b[..., 3] * sin + b[..., 4] * cos), -1)
    return (center >= (a[..., 3:5] + reach) / 2).any(-1)


def _turned(vectors: Tensor, angle: Tensor) -> Tensor:
    x, y = vectors.unbind(-1)
    return torch.stack((x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()), -1)


def _area_under_edge(start: Tensor, step: Tensor, half: Tensor) -> Tensor:
    """Integrates y, clamped to |y| <= half, along the part of a directed edge with |x| <= half."""
    per_step = step / (step * step + _VANISHING)
    first, second = (-half - start) * per_step, (half - start) * per_step  # where each axis reaches the border
    low, high = torch.minimum(first, second), torch.maximum(first, second)  # (M, N, 2)
    begin, end = low[..., 0].clamp(0, 1), high[..., 0].clamp(0, 1)
    enter, leave = (t.clamp(begin, end) for t in (low[..., 1], high[..., 1]))
    y_enter, y_leave = ((start[..., 1] + t * step[..., 1]).clamp(-half[..., 1], half[..., 1]) for t in (enter, leave))
    middle = (enter + leave) / 2
    return step[..., 0] * (y_enter * (middle - begin) + y_leave * (end - middle))


def _fake(boxes_a: Tensor, boxes_b: Tensor, volume: bool) -> Tensor:
    return boxes_a.new_empty(boxes_a.shape[0], boxes_b.shape[0])


_library.register("box_iou_rotated", fake=_fake, autocast=True)
