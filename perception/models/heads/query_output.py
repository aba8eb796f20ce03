"""What the query network gives, and how it looks in a mirrored frame."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.flips import Flip
from perception.models.heads.centerpoint_decoding import decode_boxes
from perception.models.heads.centerpoint_output import mirror_regression


@dataclass(frozen=True, kw_only=True)
class QueryOutput:
    """Q queries per sample after each of L layers, in the augmented ego frame.

    Args:
        heatmap: (B, K, Y, X) logits, one channel per class, in the order of `class_names`.
        channels: (B, Q) int64, the class of the peak that each query started from.
        peak_scores: (B, Q) float32, the heatmap's probability at that peak; 0 for a query that is out of the race.
        logits: (L, B, Q, K) float32, class scores.
        regression: (L, B, Q, 10) float32, in the order of `REGRESSION_CHANNELS`, where the offset of the centre counts
            in cells from the grid's lower corner.
        grid: where the cells lie.
        class_names: the K classes.
        overlap: (L, B, Q) float32 guess of how well the box of a query fits its object: 2 IoU - 1, from -1 to 1; None
            where the head does not guess.
    """

    heatmap: Tensor
    channels: Tensor
    peak_scores: Tensor
    logits: Tensor
    regression: Tensor
    grid: Grid
    class_names: tuple[str, ...]
    overlap: Tensor | None = None


def query_boxes(regression: Tensor, grid: Grid) -> Tensor:
    """Reads the boxes of queries.

    Args:
        regression: (M, 10) as in `QueryOutput`.
        grid: where the cells lie.

    Returns:
        (M, 9) in the augmented ego frame.
    """
    corner = regression.new_zeros(len(regression))
    return decode_boxes(regression, row=corner, column=corner, grid=grid)


def mirror_queries(output: QueryOutput, flip: Flip) -> QueryOutput:
    """Mirrors an output, cells and what queries say.

    Args:
        output: of one frame; the grid is symmetric along the mirrored axes.
        flip: the mirrored axes.

    Returns:
        The same of the mirrored frame; twice gives the output back.
    """
    span = (output.grid.num_x, output.grid.num_y)
    axes = [-1] * ("x" in flip) + [-2] * ("y" in flip)
    return dataclasses.replace(
        output, heatmap=output.heatmap.flip(axes), regression=mirror_regression(output.regression, flip, span)
    )


def join_queries(outputs: list[QueryOutput]) -> QueryOutput:
    """Puts the queries of several looks at one frame side by side.

    Args:
        outputs: at least one, of the same batch and frame.

    Returns:
        All queries, those of the first look first, and its heatmap.
    """
    overlaps = [output.overlap for output in outputs if output.overlap is not None]
    return dataclasses.replace(
        outputs[0],
        channels=torch.cat([output.channels for output in outputs], dim=1),  # F x (B, Q) -> (B, F Q)
        peak_scores=torch.cat([output.peak_scores for output in outputs], dim=1),
        logits=torch.cat([output.logits for output in outputs], dim=2),  # F x (L, B, Q, K) -> (L, B, F Q, K)
        regression=torch.cat([output.regression for output in outputs], dim=2),
        overlap=torch.cat(overlaps, dim=2) if overlaps else None,
    )
