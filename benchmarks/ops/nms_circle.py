"""nms_circle against the plain-torch reference and numba."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ops._measure import Row, compare, num_bytes
from perception.ops.nms_circle import nms_circle, nms_circle_reference

_RADIUS_M = 2.0


def run() -> list[Row]:
    """Measures centres over 102.4 m; the limit is the memory bus.

    Both are far from it: they take microseconds, of which half are the sort and the calls themselves, and what a centre
    is compared with depends on what was kept before.
    """
    rows = []
    for count in (500, 1000, 5000):
        generator = torch.Generator().manual_seed(0)
        centers = 102.4 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
        scores = torch.rand(count, generator=generator)
        kept = nms_circle(centers, scores, _RADIUS_M)
        ordered = centers[torch.argsort(scores, descending=True)]
        rows += compare(
            "nms_circle",
            f"{count} centres, {len(kept)} stay",
            lambda centers=centers, scores=scores: nms_circle(centers, scores, _RADIUS_M),
            {
                "reference": lambda ordered=ordered: nms_circle_reference(ordered, _RADIUS_M),
                "numba": _numba(centers, scores),
            },
            num_bytes(centers, scores, kept),
        )
    return rows


def _numba(centers: Tensor, scores: Tensor) -> Callable[[], Any] | None:
    try:
        import numba
    except ImportError:
        return None

    @numba.njit
    def nms(places: Any, radius_m: float) -> Any:
        """Whether each centre stays, scores falling."""
        kept = np.ones(len(places), np.bool_)
        for i in range(len(places)):
            if not kept[i]:
                continue
            for j in range(i + 1, len(places)):
                dx, dy = places[j, 0] - places[i, 0], places[j, 1] - places[i, 1]
                if dx * dx + dy * dy <= radius_m * radius_m:
                    kept[j] = False
        return kept

    def suppress() -> Tensor:
        """Sorts, then suppresses."""
        order = torch.argsort(scores, descending=True, stable=True)
        return order[torch.from_numpy(nms(centers[order].numpy(), _RADIUS_M))]

    return suppress
