"""Where queries start: the best peaks of class heatmaps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_BELOW = 100.0  # logits: further down than any peak lies
_STEP = 1e-13  # between cells: nothing beside a difference of scores, yet float64 tells -100 from -100 - 1e-13


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Q peaks of each sample, the highest first.

    Args:
        channels: (B, Q) int64 class.
        cells: (B, Q) int64, row * X + column.
    """

    channels: Tensor
    cells: Tensor


@dataclass(frozen=True, kw_only=True)
class QueryProposals:
    """How peaks are chosen.

    Args:
        num_queries: peaks per sample, of all classes together.
        peak_size_cells: odd; a peak is the largest of a square of this many cells.
        single_cell_classes: classes of objects so small that every cell may be a peak.

    Raises:
        ValueError: a number out of its range.

    Source:
        Bai et al. 2022, "TransFusion", section 3.1 (input-dependent initialisation); the exception for small classes
        (pedestrians and cones) from its published code.
    """

    num_queries: int = 200
    peak_size_cells: int = 3
    single_cell_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_queries < 1 or self.peak_size_cells < 1 or self.peak_size_cells % 2 == 0:
            raise ValueError(
                f"QueryProposals: num_queries must be at least 1 and peak_size_cells odd, "
                f"got {self.num_queries} and {self.peak_size_cells}"
            )

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Refuses small classes that the head does not know.

        Args:
            class_names: the head's.

        Raises:
            ValueError: a class is unknown.
        """
        unknown = [name for name in self.single_cell_classes if name not in class_names]
        if unknown:
            raise ValueError(
                f"QueryProposals: single_cell_classes must be among {', '.join(class_names)}, got {', '.join(unknown)}"
            )

    @torch.no_grad()
    def find(self, heatmap: Tensor, class_names: Sequence[str]) -> Proposals:
        """Finds the peaks.

        Args:
            heatmap: (B, K, Y, X) logits.
            class_names: the K classes.

        Returns:
            `num_queries` peaks, at most all cells of all classes; where there are fewer peaks, the best other cells
            come behind them. Of equal ones the first goes first, in any batch and on any device.
        """
        logits = heatmap.double()
        around = functional.max_pool2d(logits, self.peak_size_cells, stride=1, padding=self.peak_size_cells // 2)
        single = torch.tensor([name in self.single_cell_classes for name in class_names], device=logits.device)
        is_peak = (logits == around) | single[:, None, None]
        ranked = torch.where(is_peak, logits, logits - _BELOW).flatten(1)  # (B, K, Y, X) -> (B, K Y X)
        ranked = ranked - _STEP * torch.arange(ranked.shape[1], device=logits.device)
        places = ranked.topk(min(self.num_queries, ranked.shape[1])).indices  # (B, Q)
        num_cells = heatmap.shape[2] * heatmap.shape[3]
        return Proposals(channels=places // num_cells, cells=places % num_cells)
