"""ms_deform_attn against grid_sample per level, mmcv's form of that and a fused loop in numba.

mmcv has no kernel of it for the CPU: there it samples level by level in torch, with torch's threads.

The limit is the memory bus, with each number moved once; queries look at random places, so that a pixel's channels are
read some 35 times over, most of them from the second and third cache.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ops._measure import Row, compare, num_bytes
from perception.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference

_SHAPES = (32, 88), (16, 44), (8, 22), (4, 11)  # 256 x 704 pixels at strides 8 to 64
_CAMERAS, _QUERIES, _HEADS, _CHANNELS, _POINTS = 6, 2000, 8, 32, 4


def run() -> list[Row]:
    """Measures the forward pass, and forward with backward, for BEV queries that look into six cameras."""
    generator = torch.Generator().manual_seed(0)
    num_values = sum(rows * columns for rows, columns in _SHAPES)
    value = torch.randn(_CAMERAS, num_values, _HEADS, _CHANNELS, generator=generator)
    sizes = _CAMERAS, _QUERIES, _HEADS, len(_SHAPES), _POINTS
    locations = torch.rand(*sizes, 2, generator=generator)
    weights = torch.rand(sizes, generator=generator).flatten(3).softmax(-1).view(sizes)
    case = f"{_CAMERAS}x{_QUERIES} queries, {_HEADS} heads x {_CHANNELS}, {len(_SHAPES)} levels x {_POINTS}"
    least_bytes = num_bytes(value, locations, weights) + _CAMERAS * _QUERIES * _HEADS * _CHANNELS * 4

    mmcv = _mmcv()
    with torch.no_grad():
        peers: dict[str, Callable[[], Any] | None] = {
            "reference": lambda: ms_deform_attn_reference(value, _SHAPES, locations, weights),
            "grid_sample": lambda: _grid_sample(value, locations, weights),
            "mmcv": mmcv and (lambda: mmcv(value, locations, weights)),
            **_numba(value, locations, weights),
        }
        rows = compare(
            "ms_deform_attn", case, lambda: ms_deform_attn(value, _SHAPES, locations, weights), peers, least_bytes
        )
    leaves = value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()

    def _with_backward(function: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function().square().sum(), leaves)

    return rows + compare(
        "ms_deform_attn",
        f"{case}, with backward",
        lambda: _with_backward(lambda: ms_deform_attn(value, _SHAPES, locations, weights)),
        {
            "reference": lambda: _with_backward(lambda: ms_deform_attn_reference(value, _SHAPES, locations, weights)),
            "grid_sample": lambda: _with_backward(lambda: _grid_sample(*leaves)),
            "mmcv": mmcv and (lambda: _with_backward(lambda: mmcv(*leaves))),
        },
        3 * least_bytes,
    )


def _grid_sample(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Samples level by level with heads folded into the batch, stacks all samples, weighs and adds them up."""
    samples, queries = weights.shape[:2]
    parts = value.split([rows * columns for rows, columns in _SHAPES], dim=1)
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B * H, Q, P, 2)
    sampled = []
    for part, (rows, columns), grid in zip(parts, _SHAPES, grids, strict=True):
        maps = part.permute(0, 2, 3, 1).reshape(samples * _HEADS, _CHANNELS, rows, columns)
        sampled.append(functional.grid_sample(maps, grid, "bilinear", "zeros", align_corners=False))
    folded = weights.permute(0, 2, 1, 3, 4).reshape(samples * _HEADS, 1, queries, -1)  # (B * H, 1, Q, L * P)
    output = (torch.stack(sampled, dim=-2).flatten(-2) * folded).sum(-1)  # (B * H, C, Q)
    return output.view(samples, _HEADS * _CHANNELS, queries).transpose(1, 2).contiguous()


def _mmcv() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    if importlib.util.find_spec("mmcv") is None:
        return None
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = torch.tensor(_SHAPES)
    return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def _numba(value: Tensor, locations: Tensor, weights: Tensor) -> dict[str, Callable[[], Any]]:
    """Compiles one fused loop over queries; nothing where numba is not installed."""
    try:
        import numba
    except ImportError:
        return {}
    numba.set_num_threads(min(torch.get_num_threads(), numba.get_num_threads()))

    @numba.njit(parallel=True, fastmath=True)
    def _attend(value, shapes, starts, locations, weights):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        samples, queries, heads, levels, points = weights.shape
        channels = value.shape[3]
        output = np.zeros((samples, queries, heads, channels), np.float32)
        for item in numba.prange(samples * queries):
            b, q = item // queries, item % queries
            for h in range(heads):
                total = output[b, q, h]
                for level in range(levels):
                    rows, columns = shapes[level]
                    for p in range(points):
                        x = locations[b, q, h, level, p, 0] * columns - np.float32(0.5)
                        y = locations[b, q, h, level, p, 1] * rows - np.float32(0.5)
                        left, top = int(np.floor(x)), int(np.floor(y))
                        for row, down in ((top, top + 1 - y), (top + 1, y - top)):
                            for column, across in ((left, left + 1 - x), (left + 1, x - left)):
                                if 0 <= row < rows and 0 <= column < columns:
                                    scale = np.float32(weights[b, q, h, level, p] * down * across)
                                    pixel = value[b, starts[level] + row * columns + column, h]
                                    for c in range(channels):
                                        total[c] += scale * pixel[c]
        return output

    shapes = np.array(_SHAPES)
    starts = np.concatenate(([0], shapes.prod(1).cumsum()[:-1]))
    arrays = value.numpy(), shapes, starts, locations.numpy(), weights.numpy()
    torch.testing.assert_close(
        torch.from_numpy(_attend(*arrays)).flatten(2), ms_deform_attn(value, _SHAPES, locations, weights)
    )
    return {"numba": lambda: _attend(*arrays)}
