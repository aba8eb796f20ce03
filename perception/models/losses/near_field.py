"""The losses of the near field: cross-entropy of free against occupied, once more at edges, and of the coarse map."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from perception.formats.near_field import NearFieldCell
from perception.models.heads.near_field_output import NearFieldOutput
from perception.models.heads.near_field_targets import NearFieldTargets


@dataclass(frozen=True, kw_only=True)
class NearFieldLoss:
    """Weights of the losses; each is a mean over the cells of which the truth is known.

    Args:
        occupancy: weight of the full resolution.
        boundary: weight of the cells near an edge, on top of `occupancy`: the distance of an obstacle is read there.
        coarse: weight of the coarse map.
        balance: how far the rarer of free and occupied counts more: each counts with its frequency to the power of
            minus this; 0 counts all cells alike, at 1 both weigh the same together.
        boundary_cells: a cell lies near an edge where a known cell of the other kind is no farther away than this,
            along x and along y.

    Raises:
        ValueError: a weight is negative, `balance` is not in [0, 1] or `boundary_cells` below 1.

    Source:
        Weights by frequency as in class-balanced cross-entropy (Eigen and Fergus 2015), tempered by a power; the other
        terms are this project's own.
    """

    occupancy: float = 1.0
    boundary: float = 0.5
    coarse: float = 0.5
    balance: float = 0.5
    boundary_cells: int = 2

    def __post_init__(self) -> None:
        if min(self.occupancy, self.boundary, self.coarse) < 0 or not 0 <= self.balance <= 1 or self.boundary_cells < 1:
            raise ValueError(
                "NearFieldLoss: weights must be at least 0, balance in [0, 1] and boundary_cells at least 1, "
                f"got {self}"
            )

    def __call__(self, output: NearFieldOutput, targets: NearFieldTargets) -> dict[str, Tensor]:
        """Compares an output with its targets.

        Args:
            output: what the network gave.
            targets: what it should have given.

        Returns:
            Weighted scalars "occupancy", "boundary" and "coarse"; zero where nothing is known.
        """
        edges = boundary_mask(targets.cells, self.boundary_cells)
        counted = torch.where(edges, targets.cells, NearFieldCell.UNKNOWN)
        terms = {
            "occupancy": (output.logits, targets.cells),
            "boundary": (output.logits, counted),
            "coarse": (output.coarse_logits, targets.coarse_cells),
        }
        return {
            name: getattr(self, name) * balanced_cross_entropy(logits, cells, self.balance)
            for name, (logits, cells) in terms.items()
        }


def balanced_cross_entropy(logits: Tensor, cells: Tensor, balance: float) -> Tensor:
    """Averages the cross-entropy of free against occupied over the known cells.

    Args:
        logits: any shape, above 0 for occupied.
        cells: the same shape, `NearFieldCell`; unknown ones do not count.
        balance: a kind counts with its frequency to the power of minus this.

    Returns:
        A scalar.
    """
    known = cells != NearFieldCell.UNKNOWN
    losses = functional.binary_cross_entropy_with_logits(
        logits[known].float(), (cells[known] == NearFieldCell.OCCUPIED).float(), reduction="none"
    )  # (K,)
    occupied = cells[known] == NearFieldCell.OCCUPIED
    share = occupied.float().mean().clamp(1e-6, 1 - 1e-6) if len(losses) else losses.new_tensor(0.5)
    weights = torch.where(occupied, share, 1 - share).pow(-balance)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def boundary_mask(cells: Tensor, reach_cells: int) -> Tensor:
    """Finds the known cells that have a known cell of the other kind near them.

    Args:
        cells: (B, Y, X) `NearFieldCell`.
        reach_cells: how near, in cells along x and along y.

    Returns:
        (B, Y, X) bool.
    """
    kinds = torch.stack([cells == NearFieldCell.FREE, cells == NearFieldCell.OCCUPIED], dim=1)  # (B, 2, Y, X)
    window = 2 * reach_cells + 1
    near = functional.max_pool2d(kinds.float(), window, stride=1, padding=reach_cells) > 0  # (B, 2, Y, X)
    return (kinds & near.flip(1)).any(1)
