"""box_iou_rotated against numba, shapely and mmcv, on boxes over a street and on boxes that all overlap."""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops._measure import Row, compare, num_bytes
from benchmarks.ops._numba_boxes import numba_boxes
from perception.geometry.boxes import box_corners
from perception.ops.box_iou_rotated import box_iou_rotated, box_iou_rotated_reference

_FLOPS_PER_PAIR = 150  # of the branch-free formula


def run() -> list[Row]:
    """Measures 1000 x 1000 cars."""
    rows = []
    for half_m, name in ((51.2, "over 102.4 m"), (2.0, "all in one place")):
        a, b = (random_cars(1000, half_m, seed) for seed in (0, 1))
        iou = box_iou_rotated(a, b)
        overlapping = int((iou > 0).sum())
        numba = numba_boxes()
        peers: dict[str, Callable[[], Any] | None] = {
            "reference": lambda a=a, b=b: box_iou_rotated_reference(a, b),
            "numba": numba and (lambda a=a, b=b, numba=numba: numba.iou(a.numpy(), b.numpy())),
            "shapely": _shapely(a, b) if half_m > 10 else None,
            "mmcv": _mmcv(a, b),
        }
        rows += compare(
            "box_iou_rotated",
            f"1000 x 1000 cars {name}, {overlapping} pairs overlap",
            lambda a=a, b=b: box_iou_rotated(a, b),
            {name: peer for name, peer in peers.items() if half_m > 10 or name != "shapely"},
            num_bytes(a, b, iou),
            _FLOPS_PER_PAIR * overlapping,
        )
    return rows


def random_cars(count: int, half_m: float, seed: int) -> Tensor:
    """Makes boxes of the size of cars at any heading.

    Args:
        count: how many.
        half_m: they lie from -half_m to half_m.
        seed: of the random numbers.

    Returns:
        (count, 7) float32.
    """
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 7, generator=generator)
    boxes[:, :2] = (2 * boxes[:, :2] - 1) * half_m
    boxes[:, 3:6] = boxes.new_tensor([4.0, 1.8, 1.5]) + 0.4 * boxes[:, 3:6]
    boxes[:, 6] = (2 * boxes[:, 6] - 1) * math.pi
    return boxes


def _shapely(a: Tensor, b: Tensor) -> Callable[[], Any] | None:
    if importlib.util.find_spec("shapely") is None:
        return None
    import shapely

    def overlap() -> Any:
        """Exact polygons, pairs found by a tree."""
        first, second = (shapely.polygons(box_corners(boxes)[:, :4, :2].double().numpy()) for boxes in (a, b))
        i, j = shapely.STRtree(second).query(first, predicate="intersects")
        shared = shapely.area(shapely.intersection(first[i], second[j]))
        iou = torch.zeros(len(a), len(b), dtype=torch.float64)
        iou[i, j] = torch.from_numpy(shared / (shapely.area(first[i]) + shapely.area(second[j]) - shared))
        return iou

    return overlap


def _mmcv(a: Tensor, b: Tensor) -> Callable[[], Any] | None:
    if importlib.util.find_spec("mmcv") is None:
        return None
    from mmcv.ops import box_iou_rotated as mmcv_iou

    columns = [0, 1, 3, 4, 6]
    return lambda: mmcv_iou(a[:, columns].contiguous(), b[:, columns].contiguous())
