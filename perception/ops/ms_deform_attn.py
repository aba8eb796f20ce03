"""Multi-scale deformable attention: each query reads a few interpolated places of every level, weighted."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from perception.ops import _library
from perception.ops._checks import FLOATING, check_count, check_same_device, check_tensor

_MAX_LEVELS = 16


def ms_deform_attn(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Adds up, for each query and head, the values at its places, interpolated between the four pixels around each.

    Pixels outside a level count as 0, and so does a place with a NaN or infinite location, which receives no gradient.
    Half-precision inputs are added up in float32; under autocast the result is float32. On the CPU the same bits on
    every run; on CUDA the gradient of `value` is not, unless `torch.use_deterministic_algorithms` asks for it, which
    then takes the reference. Differentiable once.

    Args:
        value: (B, S, H, C) floating, the pixels of all levels one after another, row by row; H heads of C channels.
        spatial_shapes: rows and columns of each of the L levels; their products add up to S. At most 16 levels.
        locations: (B, Q, H, L, P, 2) floating, x and y in [0, 1] from edge to edge of the level: (0, 0) is the top left
            corner of the top left pixel.
        weights: (B, Q, H, L, P) floating.

    Returns:
        (B, Q, H * C) in the widest dtype of the inputs.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit.

    Source:
        Zhu et al., "Deformable DETR", ICLR 2021, section 4.1, equation 3.
    """
    _check(value, spatial_shapes, locations, weights)
    unordered = value.is_cuda and torch.are_deterministic_algorithms_enabled()
    if unordered or not _library.has_kernels(value.device):
        return ms_deform_attn_reference(value, spatial_shapes, locations, weights)
    dtype = _widest(value, locations, weights)
    shapes = [int(size) for shape in spatial_shapes for size in shape]
    inputs = (tensor.to(dtype) for tensor in (value, locations, weights))
    return torch.ops.perception.ms_deform_attn(*inputs, shapes).flatten(2)  # (B, Q, H, C) -> (B, Q, H * C)


def ms_deform_attn_reference(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Does what `ms_deform_attn` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        value: as in `ms_deform_attn`.
        spatial_shapes: as in `ms_deform_attn`.
        locations: as in `ms_deform_attn`.
        weights: as in `ms_deform_attn`.

    Returns:
        As `ms_deform_attn`.
    """
    dtype = _widest(value, locations, weights)
    wide = torch.promote_types(dtype, torch.float32)
    batch_queries = weights.shape[:2]
    value, locations, weights = value.to(wide), locations.to(wide), weights.to(wide)
    output = value.new_zeros(*batch_queries, *value.shape[2:])  # (B, Q, H, C)
    first = 0
    for level, (rows, columns) in enumerate(spatial_shapes):
        pixels = value[:, first : first + rows * columns].transpose(1, 2)  # (B, H, rows * columns, C)
        first += rows * columns
        sampled = _sample(pixels, rows, columns, locations[:, :, :, level].transpose(1, 2))  # (B, H, Q, P, C)
        output = output + (sampled * weights[:, :, :, level].transpose(1, 2)[..., None]).sum(3).transpose(1, 2)
    return output.flatten(2).to(_library.output_dtype(dtype, value.device))  # (B, Q, H, C) -> (B, Q, H * C)


def _sample(pixels: Tensor, rows: int, columns: int, locations: Tensor) -> Tensor:
    """Interpolates between the pixels (B, H, rows * columns, C) at locations (B, H, Q, P, 2): (B, H, Q, P, C)."""
    samples, heads, queries, points, _ = locations.shape
    channels = pixels.shape[3]
    if samples * heads * queries * points * channels == 0:  # grid_sample wants no empty inputs
        return pixels.new_zeros(samples, heads, queries, points, channels) * (pixels.sum() + locations.sum())
    grid = 2 * locations - 1
    somewhere = (grid.abs() < 4).all(-1, keepdim=True)  # not NaN, not infinite, not too large to be a whole number
    grid = torch.where(somewhere, grid, torch.full_like(grid, -4)).flatten(0, 1)  # (B * H, Q, P, 2)
    maps = pixels.flatten(0, 1).transpose(1, 2).unflatten(2, (rows, columns))  # (B * H, C, rows, columns)
    sampled = grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # (B * H, C, Q, P)
    return sampled.unflatten(0, (samples, heads)).permute(0, 1, 3, 4, 2)


def _check(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    check_tensor("ms_deform_attn: value", value, "B S H C", FLOATING)
    num_levels = len(spatial_shapes)
    if num_levels > _MAX_LEVELS:
        raise ValueError(f"ms_deform_attn: spatial_shapes must have at most {_MAX_LEVELS} levels, got {num_levels}")
    for shape in spatial_shapes:
        if len(shape) != 2:
            raise ValueError(f"ms_deform_attn: spatial_shapes must be pairs of rows and columns, got {shape}")
        for size in shape:
            check_count("ms_deform_attn: spatial_shapes", size, 1)
    total = sum(math.prod(shape) for shape in spatial_shapes)
    samples, num_values, heads, _ = value.shape
    if num_values != total:
        raise ValueError(
            f"ms_deform_attn: value must have {total} rows, as spatial_shapes say, got {tuple(value.shape)}"
        )
    check_tensor("ms_deform_attn: weights", weights, f"{samples} Q {heads} {num_levels} P", FLOATING)
    queries, points = weights.shape[1], weights.shape[4]
    check_tensor(
        "ms_deform_attn: locations", locations, f"{samples} {queries} {heads} {num_levels} {points} 2", FLOATING
    )
    check_same_device("ms_deform_attn", value=value, locations=locations, weights=weights)


def _widest(value: Tensor, locations: Tensor, weights: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(value.dtype, locations.dtype), weights.dtype)


def _fake(value: Tensor, locations: Tensor, weights: Tensor, spatial_shapes: Sequence[int]) -> Tensor:
    return value.new_empty(value.shape[0], weights.shape[1], *value.shape[2:])


def _fake_backward(
    gradient: Tensor, value: Tensor, locations: Tensor, weights: Tensor, spatial_shapes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.spatial_shapes = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    op = torch.ops.perception.ms_deform_attn_backward
    return *op(gradient, *ctx.saved_tensors, ctx.spatial_shapes), None


_library.register("ms_deform_attn", fake=_fake, backward=_backward, setup_context=_setup_context, autocast=True)
_library.register("ms_deform_attn_backward", fake=_fake_backward)
