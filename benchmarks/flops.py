"""Counts the multiplications of a model, those of the project's own ops included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

Shape = Sequence[int]


def count_macs(model: nn.Module, function: Callable[[], Any]) -> dict[str, int]:
    """Counts the multiply-accumulates of matrix products, convolutions and pooling along rays.

    Args:
        model: what runs.
        function: runs it once.

    Returns:
        Multiply-accumulates (half of what torch counts as floating-point operations) by the name of each module that
        ran, as in `model.named_modules()`; "" is all of it.
    """
    if hasattr(torch.ops.perception, "sparse_conv"):
        _register_own_ops()
    with FlopCounterMode(display=False) as counter:
        function()
    top = type(model).__name__
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    by_name = {name.removeprefix(top).removeprefix("."): macs for name, macs in counts.items() if name != "Global"}
    return by_name | {"": counts["Global"]}


def _register_own_ops() -> None:
    """Tells torch what the compiled ops cost; done again, it does no harm."""
    ops = torch.ops.perception
    formulas: dict[Any, Callable[..., int]] = {
        ops.sparse_conv: _sparse_conv,
        ops.sparse_conv_weights_backward: _sparse_conv_weights_backward,
        ops.bev_pool: _bev_pool,
        ops.bev_pool_backward: _bev_pool_backward,
    }
    known = FlopCounterMode(display=False).flop_registry
    for op, formula in formulas.items():
        if op not in known:
            register_flop_formula(op)(formula)


def _sparse_conv(features: Shape, weights: Shape, sources: Shape, *_: Any, **__: Any) -> int:
    return 2 * sources[0] * weights[1] * weights[2]


def _sparse_conv_weights_backward(gradient: Shape, features: Shape, sources: Shape, *_: Any, **__: Any) -> int:
    return 2 * sources[0] * features[1] * gradient[1]


def _bev_pool(depth: Shape, features: Shape, cells: Shape, points: Shape, *_: Any, **__: Any) -> int:
    return 2 * points[0] * features[4]


def _bev_pool_backward(gradient: Shape, depth: Shape, features: Shape, cells: Shape, *_: Any, **__: Any) -> int:
    num_points = cells[0] * cells[1] * cells[2] * cells[3] * cells[4]
    return 2 * 2 * num_points * features[4]
