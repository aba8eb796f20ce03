"""nms_rotated against numba and mmcv, where no box overlaps another (the worst case) and where most do."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops._measure import Row, compare, num_bytes
from benchmarks.ops._numba_boxes import numba_boxes
from benchmarks.ops.box_iou_rotated import random_cars
from perception.ops.nms_rotated import nms_rotated

_THRESHOLD = 0.2


def run() -> list[Row]:
    """Measures suppression; the limit is the memory bus, though every pair of kept boxes has to be looked at."""
    rows = []
    crowd = random_cars(2000, 20.0, 0)
    for boxes in (_apart(1000), _apart(4000), crowd):
        scores = torch.rand(len(boxes), generator=torch.Generator().manual_seed(1))
        kept = nms_rotated(boxes, scores, _THRESHOLD)
        numba = numba_boxes()
        rows += compare(
            "nms_rotated",
            f"{len(boxes)} boxes, {len(kept)} stay",
            lambda boxes=boxes, scores=scores: nms_rotated(boxes, scores, _THRESHOLD),
            {"numba": numba and _numba(numba.nms, boxes, scores), "mmcv": _mmcv(boxes, scores)},
            num_bytes(boxes, scores, kept),
        )
    return rows


def _apart(count: int) -> Tensor:
    """Lays cars out on a square so that none touches another."""
    boxes = random_cars(count, 1.0, 0)
    side = round(count**0.5) + 1
    number = torch.arange(count)
    boxes[:, 0], boxes[:, 1] = 5.0 * (number % side), 5.0 * (number // side)
    return boxes


def _numba(nms: Callable[..., Any], boxes: Tensor, scores: Tensor) -> Callable[[], Any]:
    def suppress() -> Tensor:
        """Sorts, then suppresses."""
        order = torch.argsort(scores, descending=True, stable=True)
        return order[torch.from_numpy(nms(boxes[order].numpy(), _THRESHOLD))]

    return suppress


def _mmcv(boxes: Tensor, scores: Tensor) -> Callable[[], Any] | None:
    if importlib.util.find_spec("mmcv") is None:
        return None
    from mmcv.ops import nms_rotated as mmcv_nms

    columns = [0, 1, 3, 4, 6]
    return lambda: mmcv_nms(boxes[:, columns].contiguous(), scores, _THRESHOLD)
