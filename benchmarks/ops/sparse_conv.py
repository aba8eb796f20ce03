"""sparse_conv and its plans against spconv on one thread, where spconv's results are right, and the reference.

The limit of a plan is the memory that it reads and writes, and plans reach a few percent of it: a submanifold's voxels
follow nine rows of neighbours whose keys they compare, and strided ones sort the keys of all meetings digit by digit.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops._cloud import multi_sweep_cloud
from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.sparse_conv import sparse_conv, sparse_conv_reference
from perception.ops.sparse_conv_plan import (
    SparseConvPlan,
    strided_pairs_reference,
    strided_plan,
    submanifold_pairs_reference,
    submanifold_plan,
)
from perception.ops.voxelize import voxelize_dynamic

_GRID = Grid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), (0.075, 0.075, 0.2))
_CHANNELS = 64


def run() -> list[Row]:
    """Measures plans, forward pass and backward pass of 64 to 64 channels on the voxels of several sweeps."""
    points, source = multi_sweep_cloud()
    coords = voxelize_dynamic(points, torch.zeros(len(points), dtype=torch.int64), _GRID).coords
    plan = submanifold_plan(coords, _GRID.shape)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(coords), _CHANNELS, generator=generator)
    weights = torch.randn(27, _CHANNELS, _CHANNELS, generator=generator) / 30
    spconv = _Spconv(coords) if importlib.util.find_spec("spconv") is not None else None
    case = f"{len(coords)} voxels ({source})"
    return _plan_rows(coords, plan, spconv, case) + _conv_rows(features, weights, plan, spconv, case)


def _plan_rows(coords: Tensor, plan: SparseConvPlan, spconv: "_Spconv | None", case: str) -> list[Row]:
    ones, twos, threes = (1, 1, 1), (2, 2, 2), (3, 3, 3)
    strided = strided_plan(coords, _GRID.shape)
    return [
        *compare(
            "submanifold_plan",
            f"{case}, {len(plan.sources)} pairs",
            lambda: submanifold_plan(coords, _GRID.shape),
            {
                "spconv, 1 thread": spconv and (lambda: spconv.pairs(subm=True)),
                "reference": lambda: submanifold_pairs_reference(coords, _GRID.shape, threes, ones),
            },
            num_bytes(coords, plan.sources, plan.targets),
        ),
        *compare(
            "strided_plan",
            f"{case}, {len(strided.sources)} pairs",
            lambda: strided_plan(coords, _GRID.shape),
            {
                "spconv, 1 thread": spconv and (lambda: spconv.pairs(subm=False)),
                "reference": lambda: strided_pairs_reference(coords, _GRID.shape, threes, twos, ones, ones),
            },
            num_bytes(coords, strided.coords) + 2 * num_bytes(strided.sources, strided.targets),
        ),
    ]


def _conv_rows(
    features: Tensor, weights: Tensor, plan: SparseConvPlan, spconv: "_Spconv | None", case: str
) -> list[Row]:
    flops = 2 * len(plan.sources) * _CHANNELS * _CHANNELS
    moved = 2 * num_bytes(features) + num_bytes(weights, plan.sources, plan.targets)
    gradient = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    theirs = weights.permute(2, 0, 1).reshape(_CHANNELS, 3, 3, 3, _CHANNELS).contiguous()
    if spconv is not None:  # both compute the same
        torch.testing.assert_close(
            spconv.forward(features, theirs), sparse_conv(features, weights, plan), rtol=1e-3, atol=1e-3
        )
    leaves = features.clone().requires_grad_(), weights.clone().requires_grad_()
    ours, reference = (function(*leaves, plan) for function in (sparse_conv, sparse_conv_reference))
    return [
        *compare(
            "sparse_conv",
            f"{case}, {_CHANNELS} channels",
            lambda: sparse_conv(features, weights, plan),
            {
                "spconv, 1 thread": spconv and (lambda: spconv.forward(features, theirs)),
                "reference": lambda: sparse_conv_reference(features, weights, plan),
            },
            moved,
            flops,
        ),
        *compare(
            "sparse_conv",
            f"{case}, {_CHANNELS} channels, backward alone",
            lambda: torch.autograd.grad(ours, leaves, gradient, retain_graph=True),
            {
                "spconv, 1 thread": spconv and (lambda: spconv.backward(features, theirs, gradient)),
                "reference": lambda: torch.autograd.grad(reference, leaves, gradient, retain_graph=True),
            },
            2 * moved,
            2 * flops,
        ),
    ]


class _Spconv:
    """spconv's own functions, on one thread and without the CUDA stream that its backward pass asks for.

    On two threads its rows race, and some are wrong in most runs. Its loops run on torch's OpenMP: torch's number of
    threads holds for them.
    """

    def __init__(self, coords: Tensor) -> None:
        from spconv.core import ConvAlgo
        from spconv.pytorch import cppcore, ops

        cppcore.get_current_stream = lambda: 0
        ops.get_current_stream = lambda: 0
        self._ops, self._algorithm, self._coords = ops, ConvAlgo.Native, coords.int()
        _, self._pairs, self._counts = self.pairs(subm=True)

    def pairs(self, *, subm: bool) -> Any:
        """Finds the pairs of a kernel of 3, submanifold or with stride 2."""
        one, three, stride = [1] * 3, [3] * 3, [1] * 3 if subm else [2] * 3
        with _one_thread():
            return self._ops.get_indice_pairs(
                self._coords, 1, list(_GRID.shape), self._algorithm, three, stride, one, one, [0] * 3, subm=subm
            )

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Convolves with weights (C_out, 3, 3, 3, C_in)."""
        with _one_thread():
            return self._ops.indice_conv(features, weights, self._pairs, self._counts, len(features), subm=True)

    def backward(self, features: Tensor, weights: Tensor, gradient: Tensor) -> Any:
        """Gives both gradients."""
        with _one_thread():
            return self._ops.indice_conv_backward(features, weights, gradient, self._pairs, self._counts, subm=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
