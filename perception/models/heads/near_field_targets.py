"""What the near-field network should say: the truth, moved into the augmented ego frame."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from perception.formats.near_field import NearFieldCell
from perception.geometry.grid import Grid
from perception.structures import Batch, NearField


@dataclass(frozen=True, kw_only=True)
class NearFieldTargets:
    """Targets of one batch, in the augmented ego frame; what is neither free nor occupied does not count.

    Args:
        cells: (B, Y, X) uint8 `NearFieldCell`.
        coarse_cells: (B, Y / S, X / S) uint8 likewise.
    """

    cells: Tensor
    coarse_cells: Tensor


@torch.no_grad()
def near_field_targets(batch: Batch, grid: Grid, coarse_stride: int, known: Tensor) -> NearFieldTargets:
    """Makes the targets of a batch.

    Args:
        batch: B samples; all of one without truth is unknown.
        grid: cells of the network's map in the augmented ego frame.
        coarse_stride: cells of it, along x and along y, that become one of the coarse map.
        known: (B,) bool; the others count no more than those without truth.

    Returns:
        The targets.
    """
    unknown = torch.full((grid.num_y, grid.num_x), NearFieldCell.UNKNOWN, dtype=torch.uint8, device=batch.device)
    rows = [
        augmented_cells(truth, batch.ego2aug[index], grid) if truth is not None and asked else unknown
        for index, (truth, asked) in enumerate(zip(batch.near_field, known.tolist(), strict=True))
    ]
    cells = torch.stack(rows)  # B x (Y, X) -> (B, Y, X)
    return NearFieldTargets(cells=cells, coarse_cells=coarse_cells(cells, coarse_stride))


def augmented_cells(truth: NearField, ego2aug: Tensor, grid: Grid) -> Tensor:
    """Moves a truth into the augmented ego frame; every cell takes the truth at its centre.

    Args:
        truth: in the true ego frame.
        ego2aug: (4, 4).
        grid: cells in the augmented ego frame.

    Returns:
        (Y, X) uint8 `NearFieldCell`; unknown where the truth does not reach.
    """
    position = map_positions(torch.linalg.inv(ego2aug), grid, truth.grid)  # (Y, X, 2)
    counts = position.new_tensor((truth.grid.num_x, truth.grid.num_y))
    inside = ((position >= 0) & (position < counts)).all(-1)  # (Y, X)
    column, row = torch.where(inside[..., None], position, torch.zeros_like(position)).floor().long().unbind(-1)
    return torch.where(inside, truth.cells[row, column], NearFieldCell.UNKNOWN)


def map_positions(a2b: Tensor, grid_a: Grid, grid_b: Grid) -> Tensor:
    """Finds where the centres of one grid's columns lie on another.

    Args:
        a2b: (4, 4) from the first grid's frame to the other's; it turns about z alone.
        grid_a: the grid of the centres.
        grid_b: the grid that they are looked up on.

    Returns:
        (Y, X, 2) float64, x y in cells of `grid_b` from its lower corner.
    """
    a2b = a2b.to(torch.float64)
    points = grid_a.centers_xy().to(a2b.device) @ a2b[:2, :2].T + a2b[:2, 3]  # (Y, X, 2)
    return (points - points.new_tensor(grid_b.origin_m[:2])) / points.new_tensor(grid_b.cell_m[:2])


def coarse_cells(cells: Tensor, stride: int) -> Tensor:
    """Says of squares of cells whether anything is in them.

    Args:
        cells: (B, Y, X) uint8 `NearFieldCell`.
        stride: side of a square; it divides Y and X.

    Returns:
        (B, Y / S, X / S) uint8: occupied where a cell is, else free where a cell is, else unknown.
    """
    # Pooled in the order of what decides: occupied before free before unknown.
    rank = torch.where(cells == NearFieldCell.OCCUPIED, 2.0, torch.where(cells == NearFieldCell.FREE, 1.0, 0.0))
    most = functional.max_pool2d(rank[:, None], stride)[:, 0].long()  # (B, Y, X) -> (B, Y / S, X / S)
    kinds = (NearFieldCell.UNKNOWN, NearFieldCell.FREE, NearFieldCell.OCCUPIED)
    return torch.tensor(kinds, dtype=torch.uint8, device=cells.device)[most]
