"""Box maths in the one convention: (M, 9) = centre x y z, length width height, yaw, velocity x y.

The centre is the geometric one; yaw is counter-clockwise from +x about +z. Functions take (M, 7) boxes too, without
velocity.
"""

import torch
from torch import Tensor

from perception.geometry.transforms import transform_points, wrap_angle, yaw_matrix

# Corner order: the bottom face counter-clockwise from front-left, then the top face in the same order.
_CORNERS = (
    (1, 1, -1), (-1, 1, -1), (-1, -1, -1), (1, -1, -1),
    (1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, 1),
)  # fmt: skip


def box_corners(boxes: Tensor) -> Tensor:
    """Gives the eight corners of each box.

    Args:
        boxes: (M, 7) or (M, 9), any frame.

    Returns:
        (M, 8, 3) in the same frame: bottom face front-left, rear-left, rear-right, front-right, then the top face.

    Raises:
        ValueError: boxes are not (M, 7) or (M, 9).
    """
    _check_boxes("box_corners", boxes)
    offsets = boxes.new_tensor(_CORNERS) / 2 * boxes[:, None, 3:6]  # (8, 3) x (M, 1, 3) -> (M, 8, 3)
    pose = yaw_matrix(boxes[:, 6])
    pose[:, :3, 3] = boxes[:, :3]
    return transform_points(pose, offsets)


def transform_boxes(a2b: Tensor, boxes: Tensor) -> Tensor:
    """Moves boxes into another frame; the size follows the scale, yaw and velocity follow the turn and the mirror.

    Pitch and roll of `a2b` act on the centre alone: a box stays upright, as (M, 9) cannot say otherwise.

    Args:
        a2b: (4, 4), a rotation with one scale for all axes, mirrored or not, and a shift.
        boxes: (M, 7) or (M, 9) in frame a.

    Returns:
        Boxes of the same shape and dtype in frame b, yaw in [-pi, pi).

    Raises:
        ValueError: boxes are not (M, 7) or (M, 9), `a2b` is not (4, 4), or its scale differs between axes.
    """
    _check_boxes("transform_boxes", boxes)
    if a2b.shape != (4, 4):
        raise ValueError(f"transform_boxes: a2b must be (4, 4), got {tuple(a2b.shape)}")
    matrix = a2b.to(dtype=torch.float64, device=boxes.device)
    linear = matrix[:3, :3]
    scales = linear.norm(dim=0)
    if not torch.allclose(scales, scales[:1].expand(3), rtol=1e-4):
        raise ValueError(f"transform_boxes: a2b must scale all axes alike, got scales {scales.tolist()}")
    source = boxes.to(torch.float64)
    center = transform_points(matrix, source[:, :3])
    heading = torch.stack((source[:, 6].cos(), source[:, 6].sin()), -1) @ linear[:2, :2].T  # (M, 2)
    yaw = wrap_angle(torch.atan2(heading[:, 1], heading[:, 0]))
    velocity = source[:, 7:].unflatten(1, (-1, 2)) @ linear[:2, :2].T  # (M, 0 or 1, 2)
    moved = torch.cat((center, source[:, 3:6] * scales[0], yaw[:, None], velocity.flatten(1)), dim=1)
    result = moved.to(boxes.dtype)
    result[:, 6] = wrap_angle(result[:, 6])  # rounding to a narrower dtype may reach +pi
    return result


def _check_boxes(function: str, boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] not in (7, 9):
        raise ValueError(f"{function}: boxes must be (M, 7) or (M, 9), got {tuple(boxes.shape)}")
