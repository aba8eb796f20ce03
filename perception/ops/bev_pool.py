"""Lift and splat in one step: image features, weighted by depth probabilities, added up per BEV cell."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import FLOATING, INT64, check_count, check_same_device, check_tensor
from perception.ops.group_rows import group_rows


@dataclass(frozen=True)
class BevPoolPlan:
    """What pooling needs to know of calibration and grid; `bev_pool_plan` makes it, for as many frames as share them.

    Args:
        cells: (B, N, D, H, W) int64, the row of the flat BEV (B * Y * X) that each frustum point is in, -1 for none.
        points: (K,) int64, the frustum points inside, numbered as `cells` is laid out, sorted by cell.
        pixels: (K,) int64, the pixel of each of them, numbered over (B, N, H, W).
        offsets: (B * Y * X + 1,) int64, where each cell starts in `points`.
        shape: rows and columns (Y, X) of the BEV.
    """

    cells: Tensor
    points: Tensor
    pixels: Tensor
    offsets: Tensor
    shape: tuple[int, int]

    def to(self, device: torch.device | str) -> "BevPoolPlan":
        """Moves the plan to another device.

        Args:
            device: where the features will be.

        Returns:
            The same plan there.
        """
        cells, points, pixels, offsets = (t.to(device) for t in (self.cells, self.points, self.pixels, self.offsets))
        return BevPoolPlan(cells, points, pixels, offsets, self.shape)


def bev_pool_plan(cells: Tensor, shape: tuple[int, int]) -> BevPoolPlan:
    """Sorts the frustum points of all cameras by the BEV cell that they fall into.

    Args:
        cells: (B, N, D, H, W) int64, for each sample, camera, depth bin and pixel the cell y * X + x of its sample's
            BEV, or -1 outside.
        shape: rows and columns (Y, X) of the BEV.

    Returns:
        The plan, on the device of `cells`.

    Raises:
        TypeError: `cells` is not a tensor.
        ValueError: `cells` is not (B, N, D, H, W) int64 or holds a cell out of range, or `shape` is not positive.

    Source:
        The sorted form is BEVPoolv2's (Huang and Huang, "BEVPoolv2", 2022, section 3), with the cells' starts instead
        of intervals, so that empty cells need no pass of their own.
    """
    check_tensor("bev_pool_plan: cells", cells, "B N D H W", INT64)
    for size in shape:
        check_count("bev_pool_plan: shape", size, 1)
    num_cells = shape[0] * shape[1]
    if cells.numel() and (cells.min() < -1 or cells.max() >= num_cells):
        bounds = f"{int(cells.min())} to {int(cells.max())}"
        raise ValueError(f"bev_pool_plan: cells must be in [-1, {num_cells}), got {bounds}")
    samples, _, bins, rows, columns = cells.shape
    first_cell = num_cells * torch.arange(samples, device=cells.device).view(-1, 1, 1, 1, 1)
    flat_cells = torch.where(cells < 0, -1, cells + first_cell)  # (B, N, D, H, W)
    order, offsets = group_rows(flat_cells.flatten(), samples * num_cells)
    points = order[: int(offsets[-1])].clone()  # (K,)
    per_view = rows * columns
    pixels = points // (bins * per_view) * per_view + points % per_view if len(points) else points.clone()
    return BevPoolPlan(flat_cells, points, pixels, offsets, (shape[0], shape[1]))


def bev_pool(depth: Tensor, features: Tensor, plan: BevPoolPlan) -> Tensor:
    """Adds the features of each pixel to the BEV cells on its ray, weighted by its depth probabilities.

    The frustum of weighted features is never stored. Inside, channels are the last axis: features and gradients that
    are `torch.channels_last` in memory are read as they are, others are copied once. float16 and bfloat16 are added up
    in float32; under autocast the result is float32. The same bits on every run. Differentiable once.

    Args:
        depth: (B, N, D, H, W) floating, probability of each depth bin.
        features: (B, N, C, H, W) floating.
        plan: for these B, N, D, H, W, on the same device.

    Returns:
        (B, C, Y, X), channels_last in memory, in the wider dtype of `depth` and `features`.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit.

    Source:
        Lift-splat: Philion and Fidler, "Lift, Splat, Shoot", ECCV 2020, sections 3.1 and 3.2.
    """
    check_tensor("bev_pool: depth", depth, " ".join(map(str, plan.cells.shape)), FLOATING)
    samples, cameras, _, rows, columns = plan.cells.shape
    check_tensor("bev_pool: features", features, f"{samples} {cameras} C {rows} {columns}", FLOATING)
    check_same_device("bev_pool", depth=depth, features=features, plan=plan.cells)
    if not _library.has_kernels(depth.device):
        return bev_pool_reference(depth, features, plan)
    dtype = torch.promote_types(depth.dtype, features.dtype)
    bev = torch.ops.perception.bev_pool(
        depth.to(dtype),
        features.permute(0, 1, 3, 4, 2).to(dtype),  # (B, N, H, W, C)
        plan.cells,
        plan.points,
        plan.pixels,
        plan.offsets,
    )  # (B * Y * X, C)
    return bev.view(samples, *plan.shape, features.shape[2]).permute(0, 3, 1, 2)


def bev_pool_reference(depth: Tensor, features: Tensor, plan: BevPoolPlan) -> Tensor:
    """Does what `bev_pool` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        depth: as in `bev_pool`.
        features: as in `bev_pool`.
        plan: as in `bev_pool`.

    Returns:
        As `bev_pool`.
    """
    dtype = torch.promote_types(depth.dtype, features.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    dtype = _library.output_dtype(dtype, depth.device)
    samples, channels = features.shape[0], features.shape[2]
    frustum = depth[..., None].to(wide) * features.permute(0, 1, 3, 4, 2)[:, :, None].to(wide)  # (B, N, D, H, W, C)
    inside = plan.cells >= 0
    bev = frustum.new_zeros(samples * plan.shape[0] * plan.shape[1], channels)
    bev = bev.index_add(0, plan.cells[inside], frustum[inside])  # (B * Y * X, C)
    return bev.view(samples, *plan.shape, channels).permute(0, 3, 1, 2).to(dtype)


def _fake(depth: Tensor, features: Tensor, cells: Tensor, points: Tensor, pixels: Tensor, offsets: Tensor) -> Tensor:
    return depth.new_empty(offsets.shape[0] - 1, features.shape[4])


def _fake_backward(gradient: Tensor, depth: Tensor, features: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    return depth.new_empty(depth.shape), features.new_empty(features.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    depth, features, cells, *_ = inputs
    ctx.save_for_backward(depth, features, cells)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    depth_gradient, features_gradient = torch.ops.perception.bev_pool_backward(gradient, *ctx.saved_tensors)
    return depth_gradient, features_gradient, None, None, None, None


_library.register("bev_pool", fake=_fake, backward=_backward, setup_context=_setup_context, autocast=True)
_library.register("bev_pool_backward", fake=_fake_backward)
