"""points_in_boxes against numba, the nuScenes devkit and mmcv.

mmcv finds one box per point with CUDA alone; its kernel for the CPU marks every pair of a point and a box, on one
thread: both its rows show that, and where points are counted the marks are added up.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ops._cloud import single_sweep
from benchmarks.ops._measure import Row, compare, num_bytes
from benchmarks.ops.box_iou_rotated import random_cars
from perception.ops.points_in_boxes import (
    count_points_in_boxes,
    count_points_in_boxes_reference,
    points_in_boxes,
    points_in_boxes_reference,
)

_CLEARANCE_M = 6.0


def run() -> list[Row]:
    """Measures one sweep and 100 cars that stand where points are: beside the vehicle, and most of them on it.

    The limit is the memory bus, each number moved once. Each point looks up the boxes near it and stops at the first
    that holds it: branches that differ from point to point, which take longer than the bytes.
    """
    points, source = single_sweep()
    beside = points[points[:, :2].norm(dim=1) > _CLEARANCE_M]
    return [*_rows(points, beside, f"{source}, boxes apart"), *_rows(points, points, f"{source}, boxes on one another")]


def _rows(points: Tensor, places: Tensor, source: str) -> list[Row]:
    boxes = random_cars(100, 1.0, 0)
    chosen = torch.randint(len(places), (100,), generator=torch.Generator().manual_seed(0))
    boxes[:, :3] = places[chosen]
    first = points_in_boxes(points, boxes)
    mmcv = _mmcv(points, boxes)
    case = f"{len(points)} points ({source}) x 100 boxes, {int((first >= 0).sum())} inside"
    return [
        *compare(
            "points_in_boxes",
            case,
            lambda: points_in_boxes(points, boxes),
            {
                "reference": lambda: points_in_boxes_reference(points, boxes),
                "numba": _numba(points, boxes),
                "mmcv": mmcv,
            },
            num_bytes(points, boxes, first),
        ),
        *compare(
            "count_points_in_boxes",
            case,
            lambda: count_points_in_boxes(points, boxes),
            {
                "reference": lambda: count_points_in_boxes_reference(points, boxes),
                "devkit": _devkit(points, boxes),
                "mmcv": mmcv and (lambda: mmcv().sum(1)),
            },
            num_bytes(points, boxes) + 8 * len(boxes),
        ),
    ]


def _numba(points: Tensor, boxes: Tensor) -> Callable[[], Any] | None:
    """Compiles a loop that stops at the first box, looks at circles first and shares points among threads."""
    try:
        import numba
    except ImportError:
        return None
    numba.set_num_threads(min(torch.get_num_threads(), numba.get_num_threads()))

    @numba.njit(parallel=True)
    def find(points: Any, boxes: Any) -> Any:
        """First box that holds each point."""
        cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
        half = boxes[:, 3:6] / 2
        reach = half[:, 0] ** 2 + half[:, 1] ** 2
        first = np.full(len(points), -1, np.int64)
        for i in numba.prange(len(points)):
            for m in range(len(boxes)):
                x, y = points[i, 0] - boxes[m, 0], points[i, 1] - boxes[m, 1]
                if x * x + y * y > reach[m] or abs(points[i, 2] - boxes[m, 2]) > half[m, 2]:
                    continue
                along, across = x * cos[m] + y * sin[m], y * cos[m] - x * sin[m]
                if abs(along) <= half[m, 0] and abs(across) <= half[m, 1]:
                    first[i] = m
                    break
        return first

    arrays = points.numpy(), boxes.numpy()
    return lambda: find(*arrays)


def _devkit(points: Tensor, boxes: Tensor) -> Callable[[], Any] | None:
    if importlib.util.find_spec("nuscenes") is None:
        return None
    from nuscenes.utils.data_classes import Box
    from nuscenes.utils.geometry_utils import points_in_box
    from pyquaternion import Quaternion

    cloud = points.double().numpy().T
    solids = [
        Box(box[:3], box[[4, 3, 5]], Quaternion(axis=[0, 0, 1], radians=box[6])) for box in boxes.double().numpy()
    ]
    return lambda: [points_in_box(solid, cloud).sum() for solid in solids]


def _mmcv(points: Tensor, boxes: Tensor) -> Callable[[], Any] | None:
    if importlib.util.find_spec("mmcv") is None:
        return None
    from mmcv.ops import points_in_boxes_cpu

    bottom = boxes.clone()
    bottom[:, 2] -= bottom[:, 5] / 2
    return lambda: points_in_boxes_cpu(points[None], bottom[None])
