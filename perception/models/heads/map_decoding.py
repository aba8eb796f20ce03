"""Maps moved between grids and frames, and from the map network to probabilities in the true ego frame."""

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.grid import Grid
from perception.models.heads.map_output import MapOutput
from perception.models.heads.near_field_targets import map_positions
from perception.structures import MapPrediction
from perception.structures.tensors import check_numbers


def resample_map(values: Tensor, a2b: Tensor, grid_a: Grid, grid_b: Grid) -> Tensor:
    """Looks maps up at the centres of another grid's cells, by bilinear interpolation.

    Args:
        values: (B, C, Y, X) floating, on `grid_b`.
        a2b: (4, 4) from the frame of `grid_a` to that of `grid_b`; it turns about z alone.
        grid_a: where values are wanted.
        grid_b: where the values lie.

    Returns:
        (B, C, Y', X') at least float32 on `grid_a`; beyond the centres of the outermost cells, their values.

    Source:
        The resampling to a head's own grid before its network is that of BEVFusion (Liu et al. 2023), section III-C.
    """
    counts = torch.tensor((grid_b.num_x, grid_b.num_y), device=values.device)
    places = 2 * map_positions(a2b.to(values.device), grid_a, grid_b) / counts - 1  # -1, 1: the outer edges of the map
    precise = torch.promote_types(values.dtype, torch.float32)  # half precision would misplace cells
    where = places.to(precise).expand(len(values), -1, -1, -1)  # (Y', X', 2) -> (B, Y', X', 2)
    return functional.grid_sample(values.to(precise), where, padding_mode="border", align_corners=False)


@torch.no_grad()
def decode_map(output: MapOutput, ego2aug: Tensor) -> tuple[MapPrediction, ...]:
    """Undoes the augmentation of every sample.

    Args:
        output: what the network gave for B samples.
        ego2aug: (B, 4, 4).

    Returns:
        B predictions on the output's grid in the true ego frame; NaN where the augmented map did not reach.

    Raises:
        ValueError: the network gave NaN, which would pass for a place that it was not asked about.
    """
    probabilities = output.logits.float().sigmoid()
    check_numbers("decode_map: logits", probabilities)
    return tuple(
        MapPrediction(
            probabilities=_unaugmented(one, pose, output.grid), class_names=output.class_names, grid=output.grid
        )
        for one, pose in zip(probabilities, ego2aug, strict=True)
    )


def _unaugmented(values: Tensor, ego2aug: Tensor, grid: Grid) -> Tensor:
    """(K, Y, X) values in the true ego frame."""
    if torch.equal(ego2aug, torch.eye(4, dtype=ego2aug.dtype, device=ego2aug.device)):
        return values
    position = map_positions(ego2aug, grid, grid)  # (Y, X, 2)
    inside = ((position >= 0) & (position < position.new_tensor((grid.num_x, grid.num_y)))).all(-1)  # (Y, X)
    return torch.where(inside, resample_map(values[None], ego2aug, grid, grid)[0], torch.nan)
