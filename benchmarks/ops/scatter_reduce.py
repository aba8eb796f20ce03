"""scatter_reduce, forward and with backward, against torch's scatter and index_add, and against numba."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ops._cloud import multi_sweep_cloud
from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.scatter_reduce import Reduction, scatter_reduce, scatter_reduce_reference
from perception.ops.voxelize import voxelize_dynamic

_CHANNELS = 64
_REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean", "max")

Reducer = Callable[[Tensor], Tensor]


def run() -> list[Row]:
    """Measures points into pillars of 0.2 m, as a pillar encoder does; the limit is the memory bus."""
    points, source = multi_sweep_cloud()
    coords, index = voxelize_dynamic(points, torch.zeros(len(points), dtype=torch.int64), Grid.square(51.2, 0.2))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(points), _CHANNELS, generator=generator)
    upstream = torch.randn(len(coords), _CHANNELS, generator=generator)
    least_bytes = num_bytes(features, index, upstream)
    rows = []
    for reduce in _REDUCTIONS:
        case = f"{reduce} of {len(points)} points ({source}) x {_CHANNELS} in {len(coords)} pillars"
        reducers: dict[str, Reducer] = {
            "ours": _reducer(scatter_reduce, index, len(coords), reduce),
            "reference": _reducer(scatter_reduce_reference, index, len(coords), reduce),
            **_torch(index, len(coords), reduce),
        }
        forward = {name: _forward(reducer, features) for name, reducer in reducers.items()}
        both = {name: _with_backward(reducer, features, upstream) for name, reducer in reducers.items()}
        numba_forward, numba_both = _numba(features, index, upstream, reduce)
        rows += compare("scatter_reduce", case, forward.pop("ours"), {**forward, "numba": numba_forward}, least_bytes)
        rows += compare(
            "scatter_reduce",
            f"{case}, with backward",
            both.pop("ours"),
            {**both, "numba": numba_both},
            2 * least_bytes,
        )
    return rows


def _reducer(function: Callable[..., Tensor], index: Tensor, num_pillars: int, reduce: Reduction) -> Reducer:
    return lambda features: function(features, index, num_pillars, reduce)


def _forward(reducer: Reducer, features: Tensor) -> Callable[[], Any]:
    return lambda: reducer(features)


def _with_backward(reducer: Reducer, features: Tensor, upstream: Tensor) -> Callable[[], Any]:
    return lambda: reducer(features.detach().requires_grad_()).backward(upstream)


def _torch(index: Tensor, num_pillars: int, reduce: Reduction) -> dict[str, Reducer]:
    """Gives what torch has; points without a pillar go to one more, which is cut off."""
    padded = torch.where(index < 0, num_pillars, index)  # (P,)
    per_element = padded[:, None].expand(-1, _CHANNELS)  # (P, C)
    counts = torch.bincount(padded, minlength=num_pillars + 1).clamp(min=1)[:, None]  # (num_pillars + 1, 1)
    name = "amax" if reduce == "max" else reduce

    def scatter(features: Tensor) -> Tensor:
        """Reduces with one index per element."""
        zeros = features.new_zeros(num_pillars + 1, _CHANNELS)
        return zeros.scatter_reduce(0, per_element, features, name, include_self=False)[:num_pillars]

    def add(features: Tensor) -> Tensor:
        """Adds up rows, and divides for the mean by counts that are known."""
        sums = features.new_zeros(num_pillars + 1, _CHANNELS).index_add(0, padded, features)
        return (sums / counts if reduce == "mean" else sums)[:num_pillars]

    reducers: dict[str, Reducer] = {"torch.scatter_reduce": scatter}
    return reducers if reduce == "max" else {**reducers, "torch.index_add": add}


def _numba(
    features: Tensor, index: Tensor, upstream: Tensor, reduce: Reduction
) -> tuple[Callable[[], Any] | None, Callable[[], Any] | None]:
    """Compiles a counting sort, then pillars and rows shared among threads; maxima remember their rows."""
    try:
        import numba
    except ImportError:
        return None, None
    numba.set_num_threads(min(torch.get_num_threads(), numba.get_num_threads()))
    is_max, is_mean = reduce == "max", reduce == "mean"

    @numba.njit
    def sort(index: Any, count: int) -> Any:
        """Rows in the order of their pillars, and where each pillar starts."""
        starts = np.zeros(count + 1, np.int64)
        for pillar in index:
            if pillar >= 0:
                starts[pillar + 1] += 1
        starts = np.cumsum(starts)
        order, at = np.empty(starts[-1], np.int64), starts.copy()
        for row in range(len(index)):
            if index[row] >= 0:
                order[at[index[row]]] = row
                at[index[row]] += 1
        return order, starts

    @numba.njit(parallel=True)
    def forward(features: Any, order: Any, starts: Any) -> Any:
        """Reduced rows, and the rows of maxima."""
        reduced = np.zeros((len(starts) - 1, features.shape[1]), np.float32)
        largest = np.zeros((len(starts) - 1, features.shape[1]), np.int64) if is_max else np.zeros((0, 0), np.int64)
        for pillar in numba.prange(len(starts) - 1):
            first, last = starts[pillar], starts[pillar + 1]
            for i in range(first, last):
                row = order[i]
                for c in range(features.shape[1]):
                    value = features[row, c]
                    if not is_max:
                        reduced[pillar, c] += value
                    elif i == first or value > reduced[pillar, c]:
                        reduced[pillar, c], largest[pillar, c] = value, row
            if is_mean:
                reduced[pillar] /= np.float32(max(last - first, 1))
        return reduced, largest

    @numba.njit(parallel=True)
    def backward(upstream: Any, index: Any, starts: Any, largest: Any) -> Any:
        """Gradient of every row."""
        gradient = np.empty((len(index), upstream.shape[1]), np.float32)
        for row in numba.prange(len(index)):
            pillar = index[row]
            if pillar < 0:
                gradient[row] = 0
                continue
            scale = np.float32(1 / (starts[pillar + 1] - starts[pillar])) if is_mean else np.float32(1)
            for c in range(upstream.shape[1]):
                receives = not is_max or largest[pillar, c] == row
                gradient[row, c] = upstream[pillar, c] * scale if receives else 0
        return gradient

    rows, pillars, gradients = features.numpy(), index.numpy(), upstream.numpy()

    def both() -> Any:
        """Forward, then backward."""
        order, starts = sort(pillars, len(gradients))
        reduced, largest = forward(rows, order, starts)
        return reduced, backward(gradients, pillars, starts, largest)

    return lambda: forward(rows, *sort(pillars, len(gradients))), both
