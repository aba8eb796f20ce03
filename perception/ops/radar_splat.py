"""Radar returns onto the BEV: features spread over where each return may be, and how what a cell holds moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.ops import _library
from perception.ops._checks import (
    FLOATING,
    FULL_PRECISION,
    INT64,
    check_count,
    check_grid,
    check_same_device,
    check_tensor,
)

_SIGMAS = 3.0
_MAX_CELLS = 64.0  # a footprint reaches no further from its centre
_MAX_VARIANCE = 1e12  # in cells
_FOOTPRINT_BYTES = 80


@dataclass(frozen=True, kw_only=True)
class RadarReturns:
    """Returns of any number of radars and sweeps, in the grid's frame.

    Args:
        positions_m: (P, 2) x y.
        covariances_m2: (P, 2, 2) of the positions; `radar_covariances` makes them.
        velocities_mps: (P, 2) over ground along the line of sight, along x and y; NaN where unknown.
        batch_index: (P,) int64, the sample of each return, or -1 to leave it out.
    """

    positions_m: Tensor
    covariances_m2: Tensor
    velocities_mps: Tensor
    batch_index: Tensor


@dataclass(frozen=True)
class RadarBev:
    """What the radars say about each cell.

    Args:
        features: (B, C, Y, X), channels last in memory.
        density: (B, 1, Y, X), how many returns lie in the cell; a return that lies in several adds its share to each.
        velocity_mps: (B, 2, Y, X) mean of the returns in the cell, x and y; 0 where none has a velocity.
        spread_mps: (B, 1, Y, X) root mean square distance of their velocities from that mean.
    """

    features: Tensor
    density: Tensor
    velocity_mps: Tensor
    spread_mps: Tensor


def radar_covariances(
    positions_m: Tensor, rms_m: Tensor, radar2bev: Tensor, *, range_sigma_m: float, azimuth_sigma_rad: float
) -> Tensor:
    """Says how well the position of each return is known: the radar's resolution plus the scatter that it reports.

    Args:
        positions_m: (P, 2+) x y in the radar's frame.
        rms_m: (P, 2) standard deviations along the radar's x and y, such as a nuScenes file's `x_rms` and `y_rms` in
            metres; NaN where unknown, which counts as 0.
        radar2bev: (2, 2) or (P, 2, 2), turns and scales the radar's x and y to those of the grid.
        range_sigma_m: standard deviation along the line of sight.
        azimuth_sigma_rad: standard deviation across it.

    Returns:
        (P, 2, 2) float64 covariances in the grid's frame, square metres.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit.
    """
    check_tensor("radar_covariances: positions_m", positions_m, "P 2+", FULL_PRECISION)
    check_tensor("radar_covariances: rms_m", rms_m, f"{len(positions_m)} 2", FULL_PRECISION)
    layout = f"{len(positions_m)} 2 2" if isinstance(radar2bev, Tensor) and radar2bev.ndim == 3 else "2 2"
    check_tensor("radar_covariances: radar2bev", radar2bev, layout, FULL_PRECISION)
    check_same_device("radar_covariances", positions_m=positions_m, rms_m=rms_m, radar2bev=radar2bev)
    x, y = positions_m[:, :2].double().unbind(1)
    across = torch.stack((-y, x), -1) * azimuth_sigma_rad  # (P, 2), as long as the arc
    distance = torch.hypot(x, y).clamp(min=1e-9)
    along = torch.stack((x, y), -1) / distance[:, None] * range_sigma_m
    scatter = torch.diag_embed(rms_m.double().nan_to_num(0.0).square())  # (P, 2, 2)
    covariance = along[:, :, None] * along[:, None] + across[:, :, None] * across[:, None] + scatter
    turn = radar2bev.double()
    return turn @ covariance @ turn.mT


def radar_splat(features: Tensor, returns: RadarReturns, batch_size: int, grid: Grid) -> RadarBev:
    """Spreads each return's features over the cells where it may be; its weights add up to one.

    A weight is the Gaussian of the return's covariance at the cell's centre, 0 beyond three sigma or 64 cells along an
    axis. The variance of a cell's own width is added, so that every return reaches a cell; what falls beyond the
    grid is lost. A return leaves nothing where its position or covariance is NaN, infinite, not positive
    semidefinite or above 1e12 squared cells. Geometry is computed in float64, half-precision features are added up in
    float32, under autocast the result is float32. The same bits on every run. Differentiable once, in the features.

    Args:
        features: (P, C) floating, such as a point encoder's, or radar cross-section and age as they are.
        returns: where they are, how well that is known and how they move.
        batch_size: number of samples B.
        grid: its x and y.

    Returns:
        Features, density and motion per cell, in the dtype of `features`.

    Raises:
        TypeError: an argument that must be a tensor or a grid is none.
        ValueError: shapes, dtypes or devices that do not fit, or (on the CPU) a batch index out of range; on CUDA such
            a return is left out.
    """
    _check(features, returns, batch_size, grid)
    if not _library.has_kernels(features.device):
        return radar_splat_reference(features, returns, batch_size, grid)
    bev, motion, _ = torch.ops.perception.radar_splat(
        features,
        returns.positions_m.double(),
        returns.covariances_m2.double(),
        returns.velocities_mps.double(),
        returns.batch_index,
        grid.origin_m[:2],
        grid.cell_m[:2],
        [batch_size, grid.num_y, grid.num_x],
    )  # (B, Y, X, C) and (B, Y, X, 4)
    return _radar_bev(bev, motion)


def radar_splat_reference(features: Tensor, returns: RadarReturns, batch_size: int, grid: Grid) -> RadarBev:
    """Does what `radar_splat` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        features: as in `radar_splat`.
        returns: as in `radar_splat`.
        batch_size: as in `radar_splat`.
        grid: as in `radar_splat`.

    Returns:
        As `radar_splat`.

    Raises:
        ValueError: a batch index out of range (on the CPU).
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    dtype = _library.output_dtype(features.dtype, features.device)
    used, cells, weights = _footprints(returns, batch_size, grid)  # (M,) return, cell and weight of each pair
    num_cells = batch_size * grid.num_y * grid.num_x
    shape = batch_size, grid.num_y, grid.num_x

    rows = features[used].to(wide) * weights.to(wide)[:, None]  # (M, C)
    bev = rows.new_zeros(num_cells, features.shape[1]).index_add(0, cells, rows)  # (B * Y * X, C)

    velocities = returns.velocities_mps.detach().double()[used]  # (M, 2)
    known = velocities.isfinite().all(1)
    known_weights, known_cells = weights[known, None], cells[known]
    zeros = weights.new_zeros(num_cells, 1)
    sums = zeros.index_add(0, known_cells, known_weights)
    totals = torch.where(sums > 0, sums, 1)
    mean = zeros.expand(-1, 2).index_add(0, known_cells, known_weights * velocities[known]) / totals
    squares = (velocities[known] - mean[known_cells]).square().sum(1, keepdim=True)
    spread = (zeros.index_add(0, known_cells, known_weights * squares) / totals).sqrt()
    motion = torch.cat((zeros.index_add(0, cells, weights[:, None]), mean, spread), 1)  # (B * Y * X, 4)
    return _radar_bev(bev.view(*shape, features.shape[1]).to(dtype), motion.view(*shape, 4).to(dtype))


def _radar_bev(bev: Tensor, motion: Tensor) -> RadarBev:
    motion = motion.permute(0, 3, 1, 2)  # (B, Y, X, 4) -> (B, 4, Y, X)
    return RadarBev(bev.permute(0, 3, 1, 2), motion[:, :1], motion[:, 1:3], motion[:, 3:])


def _footprints(returns: RadarReturns, batch_size: int, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Finds all pairs of a return and a cell of the flat BEV in its footprint, with their weights, by return."""
    index = returns.batch_index
    left_out = (index < 0) | (index >= batch_size)  # (P,)
    wrong = (left_out & (index != -1)).nonzero()
    if index.device.type == "cpu" and len(wrong):
        first = int(wrong[0])
        raise ValueError(f"radar_splat: index must be in [-1, {batch_size}), got {int(index[first])} at row {first}")
    cell = torch.tensor(grid.cell_m[:2], dtype=torch.float64, device=index.device)
    covariance = returns.covariances_m2.detach().double() / (cell[:, None] * cell)  # (P, 2, 2), squared cells
    variance = covariance.diagonal(dim1=1, dim2=2)  # (P, 2)
    valid = (variance >= 0).all(1) & (variance < _MAX_VARIANCE).all(1) & ~left_out
    valid &= variance.prod(1) >= covariance[:, 0, 1].square()

    lower = cell.new_tensor(grid.origin_m[:2])
    center = (returns.positions_m.detach().double() - lower) / cell - 0.5  # (P, 2), whole numbers are centres of cells
    reach = (_SIGMAS * (variance + 1 / 12).sqrt()).clamp(max=_MAX_CELLS)
    last_cell = cell.new_tensor((grid.num_x - 1, grid.num_y - 1))
    valid &= ((center + reach >= 0) & (center - reach <= last_cell)).all(1)
    used = valid.nonzero()[:, 0]  # (V,)
    center, reach, variance = center[used], reach[used], variance[used] + 1 / 12
    xy = covariance[used, 0, 1]
    determinant = variance.prod(1) - xy.square()

    width = int((2 * reach).max()) + 2 if len(used) else 0
    steps = torch.arange(width, device=index.device)
    column = (center - reach).ceil()[:, :1] + steps  # (V, W)
    row = (center - reach).ceil()[:, 1:] + steps
    x, y = (column - center[:, :1])[:, None], (row - center[:, 1:])[:, :, None]  # (V, 1, W) and (V, W, 1)
    xx, xy, yy = (term[:, None, None] / determinant[:, None, None] for term in (variance[:, 1], -xy, variance[:, 0]))
    squared = xx * x.square() + 2 * xy * x * y + yy * y.square()  # (V, W, W)
    inside = (squared <= _SIGMAS**2) & (x <= reach[:, :1, None]) & (y <= reach[:, 1:, None])
    weights = torch.where(inside, torch.exp(-squared / 2), 0)
    weights = weights / weights.sum((1, 2), keepdim=True)
    on_grid = ((row >= 0) & (row < grid.num_y))[:, :, None] & ((column >= 0) & (column < grid.num_x))[:, None]
    pair, in_row, in_column = (inside & on_grid).nonzero().unbind(1)  # (M,) each
    cells = (index[used[pair]] * grid.num_y + row[pair, in_row].long()) * grid.num_x + column[pair, in_column].long()
    return used[pair], cells, weights[pair, in_row, in_column]


def _check(features: Tensor, returns: RadarReturns, batch_size: int, grid: Grid) -> None:
    check_tensor("radar_splat: features", features, "P C", FLOATING)
    count = len(features)
    check_tensor("radar_splat: positions_m", returns.positions_m, f"{count} 2", FULL_PRECISION)
    check_tensor("radar_splat: covariances_m2", returns.covariances_m2, f"{count} 2 2", FULL_PRECISION)
    check_tensor("radar_splat: velocities_mps", returns.velocities_mps, f"{count} 2", FULL_PRECISION)
    check_tensor("radar_splat: batch_index", returns.batch_index, f"{count}", INT64)
    check_count("radar_splat: batch_size", batch_size)
    check_grid("radar_splat", grid)
    check_same_device(
        "radar_splat",
        features=features,
        positions_m=returns.positions_m,
        covariances_m2=returns.covariances_m2,
        velocities_mps=returns.velocities_mps,
        batch_index=returns.batch_index,
    )


def _fake(
    features: Tensor,
    positions: Tensor,
    covariances: Tensor,
    velocities: Tensor,
    batch_index: Tensor,
    lower_m: Sequence[float],
    cell_m: Sequence[float],
    shape: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    bev = features.new_empty(*shape, features.shape[1])
    footprints = features.new_empty(features.shape[0] * _FOOTPRINT_BYTES, dtype=torch.uint8)
    return bev, features.new_empty(*shape, 4), footprints


def _fake_backward(
    gradient: Tensor,
    footprints: Tensor,
    batch_index: Tensor,
    lower_m: Sequence[float],
    cell_m: Sequence[float],
    shape: Sequence[int],
) -> Tensor:
    return gradient.new_empty(batch_index.shape[0], gradient.shape[3])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, _, _, batch_index, *ctx.grid = inputs
    _, motion, footprints = output
    ctx.mark_non_differentiable(motion, footprints)
    ctx.save_for_backward(footprints, batch_index)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    features_gradient = torch.ops.perception.radar_splat_backward(gradient, *ctx.saved_tensors, *ctx.grid)
    return features_gradient, *(None,) * 7


_library.register("radar_splat", fake=_fake, backward=_backward, setup_context=_setup_context, autocast=True)
_library.register("radar_splat_backward", fake=_fake_backward)
