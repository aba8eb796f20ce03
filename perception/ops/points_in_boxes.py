"""Which box holds a point, and how many points a box holds."""

from collections.abc import Iterator

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import FULL_PRECISION, check_same_device, check_tensor

_PAIRS_PER_CHUNK = 1 << 22  # points x boxes tested at once: bounds memory to some 200 MB


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Finds the first box that holds each point; faces belong to the box, as in the nuScenes devkit.

    Computed in float64 whatever the inputs. A point or box with NaN holds and is held by nothing.

    Args:
        points: (P, 3 + C) float32 or float64, x y z in metres; further columns are not read.
        boxes: (M, 7) or (M, 9) float32 or float64 in the same frame: centre, length width height, yaw.

    Returns:
        (P,) int64, the row of the first box that holds the point, -1 for none.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes, dtypes or devices that do not fit.
    """
    _check("points_in_boxes", points, boxes)
    if not _library.has_kernels(points.device):
        return points_in_boxes_reference(points, boxes)
    return torch.ops.perception.points_in_boxes(*_same_dtype(points, boxes))


def points_in_boxes_reference(points: Tensor, boxes: Tensor) -> Tensor:
    """Does what `points_in_boxes` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        points: as in `points_in_boxes`.
        boxes: as in `points_in_boxes`.

    Returns:
        As `points_in_boxes`.
    """
    if len(boxes) == 0:
        return torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    first = [torch.where(held.any(1), held.byte().argmax(1), -1) for held in _held(points, boxes)]
    return torch.cat(first) if first else torch.zeros(0, dtype=torch.int64, device=points.device)


def count_points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Counts the points in each box; a point in several boxes counts in each.

    Computed in float64 whatever the inputs. A point or box with NaN holds and is held by nothing.

    Args:
        points: (P, 3 + C) float32 or float64, x y z in metres; further columns are not read.
        boxes: (M, 7) or (M, 9) float32 or float64 in the same frame: centre, length width height, yaw.

    Returns:
        (M,) int64.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes, dtypes or devices that do not fit.
    """
    _check("count_points_in_boxes", points, boxes)
    if not _library.has_kernels(points.device):
        return count_points_in_boxes_reference(points, boxes)
    return torch.ops.perception.count_points_in_boxes(*_same_dtype(points, boxes))


def count_points_in_boxes_reference(points: Tensor, boxes: Tensor) -> Tensor:
    """Does what `count_points_in_boxes` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        points: as in `count_points_in_boxes`.
        boxes: as in `count_points_in_boxes`.

    Returns:
        As `count_points_in_boxes`.
    """
    counts = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    for held in _held(points, boxes):
        counts += held.sum(0)
    return counts


def _held(points: Tensor, boxes: Tensor) -> Iterator[Tensor]:
    """Yields (p, M) bool for one chunk of points after another."""
    half_size = boxes[:, 3:6].double() / 2
    cos, sin = boxes[:, 6].double().cos(), boxes[:, 6].double().sin()
    for chunk in points.split(max(1, _PAIRS_PER_CHUNK // max(1, len(boxes)))):
        x, y, z = (chunk[:, None, :3].double() - boxes[None, :, :3].double()).unbind(-1)  # (p, M) from the centre
        along, across = x * cos + y * sin, y * cos - x * sin
        yield (along.abs() <= half_size[:, 0]) & (across.abs() <= half_size[:, 1]) & (z.abs() <= half_size[:, 2])


def _same_dtype(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    if points.dtype == boxes.dtype:
        return points, boxes
    return points.double(), boxes.double()


def _check(function: str, points: Tensor, boxes: Tensor) -> None:
    check_tensor(f"{function}: points", points, "P 3+", FULL_PRECISION)
    check_tensor(f"{function}: boxes", boxes, "M 7+", FULL_PRECISION)
    if boxes.shape[1] not in (7, 9):
        raise ValueError(f"{function}: boxes must be (M, 7) or (M, 9), got {tuple(boxes.shape)}")
    check_same_device(function, points=points, boxes=boxes)


def _fake(points: Tensor, boxes: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int64)


def _fake_count(points: Tensor, boxes: Tensor) -> Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.int64)


_library.register("points_in_boxes", fake=_fake)
_library.register("count_points_in_boxes", fake=_fake_count)
