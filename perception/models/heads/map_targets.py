"""What the map network should say: the truth, moved into the augmented ego frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.heads.near_field_targets import map_positions
from perception.structures import Batch, MapTruth


@dataclass(frozen=True, kw_only=True)
class MapTargets:
    """Targets of one batch, in the augmented ego frame.

    Args:
        cells: (B, K, Y, X) bool, whether a cell belongs to a class.
        known: (B, Y, X) bool, where the truth reaches; other cells do not count.
    """

    cells: Tensor
    known: Tensor


@torch.no_grad()
def map_targets(batch: Batch, class_names: Sequence[str], grid: Grid) -> MapTargets:
    """Makes the targets of a batch; every cell takes the truth at its centre.

    Args:
        batch: B samples; all of one without truth is unknown.
        class_names: K names of the layers, which the truth must hold in any order.
        grid: cells of the network's map in the augmented ego frame.

    Returns:
        The targets.

    Raises:
        ValueError: a truth lacks a class.
    """
    shape = (len(batch), len(class_names), grid.num_y, grid.num_x)
    cells = torch.zeros(shape, dtype=torch.bool, device=batch.device)
    known = torch.zeros(shape[0], *shape[2:], dtype=torch.bool, device=batch.device)
    for index, truth in enumerate(batch.map):
        if truth is not None:
            wanted = _layers(truth, class_names, batch.tokens[index])
            cells[index], known[index] = _augmented(wanted, truth.grid, batch.ego2aug[index], grid)
    return MapTargets(cells=cells, known=known)


def _layers(truth: MapTruth, class_names: Sequence[str], token: str) -> Tensor:
    """(K, Y, X) the wanted layers in the wanted order."""
    missing = [name for name in class_names if name not in truth.class_names]
    if missing:
        raise ValueError(
            f"map_targets: the truth of {token} must hold {', '.join(missing)}, got {', '.join(truth.class_names)}"
        )
    return truth.cells[[truth.class_names.index(name) for name in class_names]]


def _augmented(cells: Tensor, truth_grid: Grid, ego2aug: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """(K, Y, X) cells on the network's grid, False where the truth does not reach, and (Y, X) where it does."""
    position = map_positions(torch.linalg.inv(ego2aug), grid, truth_grid)  # (Y, X, 2)
    counts = position.new_tensor((truth_grid.num_x, truth_grid.num_y))
    known = ((position >= 0) & (position < counts)).all(-1)  # (Y, X)
    column, row = torch.where(known[..., None], position, torch.zeros_like(position)).floor().long().unbind(-1)
    return cells[:, row, column] & known, known
