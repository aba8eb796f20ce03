"""Boxes in numba, as one writes it for speed: circles first, then polygons clipped, rows shared among threads."""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


@cache
def numba_boxes() -> SimpleNamespace | None:
    """Compiles the loops.

    Returns:
        `iou(a, b)` of boxes (M, 7) and (N, 7), and `nms(boxes, threshold)` of boxes in falling order, on float32
        arrays; None where numba is not installed.
    """
    try:
        import numba
    except ImportError:
        return None
    numba.set_num_threads(min(torch.get_num_threads(), numba.get_num_threads()))
    clipped_area = _clipped_area(numba)

    @numba.njit
    def pair_iou(a: Any, b: Any) -> float:
        """Overlap of two boxes; 0 where their circles do not meet."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        reach = (np.sqrt(a[3] ** 2 + a[4] ** 2) + np.sqrt(b[3] ** 2 + b[4] ** 2)) * np.float32(0.5)
        if dx * dx + dy * dy > reach * reach:
            return np.float32(0)
        shared = clipped_area(a, b, dx, dy)
        return shared / (a[3] * a[4] + b[3] * b[4] - shared)

    @numba.njit(parallel=True)
    def iou(a: Any, b: Any) -> Any:
        """Overlap of every pair."""
        result = np.empty((len(a), len(b)), np.float32)
        for i in numba.prange(len(a)):
            for j in range(len(b)):
                result[i, j] = pair_iou(a[i], b[j])
        return result

    @numba.njit
    def nms(boxes: Any, threshold: float) -> Any:
        """Whether each box stays, scores falling."""
        kept = np.ones(len(boxes), np.bool_)
        for i in range(len(boxes)):
            if not kept[i]:
                continue
            for j in range(i + 1, len(boxes)):
                if kept[j] and pair_iou(boxes[i], boxes[j]) > threshold:
                    kept[j] = False
        return kept

    return SimpleNamespace(iou=iou, nms=nms)


def _clipped_area(numba: Any) -> Callable[..., float]:
    """Compiles Sutherland and Hodgman's clipping of box b by the sides of box a, in the axes of a."""

    @numba.njit
    def clipped_area(a: Any, b: Any, dx: float, dy: float) -> float:
        """Shared area of two boxes whose centres are (dx, dy) apart."""
        cos_a, sin_a = np.cos(a[6]), np.sin(a[6])
        cos, sin = np.cos(b[6] - a[6]), np.sin(b[6] - a[6])
        center_x, center_y = dx * cos_a + dy * sin_a, dy * cos_a - dx * sin_a
        points, clipped = np.empty((8, 2), np.float32), np.empty((8, 2), np.float32)
        count = 4
        for k in range(4):
            along = b[3] * np.float32(0.5 if k in (0, 3) else -0.5)
            across = b[4] * np.float32(0.5 if k < 2 else -0.5)
            points[k, 0] = center_x + along * cos - across * sin
            points[k, 1] = center_y + along * sin + across * cos
        for side in range(4):
            axis, sign = side // 2, np.float32(1 - 2 * (side % 2))
            half = a[3 + axis] * np.float32(0.5)
            kept = 0
            for k in range(count):
                after = k + 1 if k + 1 < count else 0
                depth, depth_after = half - sign * points[k, axis], half - sign * points[after, axis]
                if depth >= 0:
                    clipped[kept, 0], clipped[kept, 1] = points[k, 0], points[k, 1]
                    kept += 1
                if (depth >= 0) != (depth_after >= 0):
                    t = depth / (depth - depth_after)
                    clipped[kept, 0] = points[k, 0] + t * (points[after, 0] - points[k, 0])
                    clipped[kept, 1] = points[k, 1] + t * (points[after, 1] - points[k, 1])
                    kept += 1
            points, clipped, count = clipped, points, kept
        area = np.float32(0)
        for k in range(count):
            after = k + 1 if k + 1 < count else 0
            area += points[k, 0] * points[after, 1] - points[after, 0] * points[k, 1]
        return area * np.float32(0.5)

    return clipped_area
