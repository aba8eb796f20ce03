"""From the maps of the near-field network to obstacles in the true ego frame."""

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.grid import Grid
from perception.models.heads.near_field_output import NearFieldOutput
from perception.models.heads.near_field_targets import map_positions
from perception.structures import NearFieldPrediction
from perception.structures.tensors import check_numbers


@torch.no_grad()
def decode_near_field(output: NearFieldOutput, ego2aug: Tensor) -> tuple[NearFieldPrediction, ...]:
    """Undoes the augmentation of every sample.

    Args:
        output: what the network gave for B samples.
        ego2aug: (B, 4, 4).

    Returns:
        B predictions on the output's grid in the true ego frame; NaN where the augmented map did not reach, and in all
        of a sample of which the level knows nothing.

    Raises:
        ValueError: the network gave NaN, which would pass for a place that it was not asked about.
    """
    occupied = output.logits.float().sigmoid()
    check_numbers("decode_near_field: logits", occupied)
    occupied = occupied.masked_fill(~output.known[:, None, None], torch.nan)  # (B, Y, X)
    return tuple(
        NearFieldPrediction(occupied=_unaugmented(one, pose, output.grid), grid=output.grid)
        for one, pose in zip(occupied, ego2aug, strict=True)
    )


def _unaugmented(values: Tensor, ego2aug: Tensor, grid: Grid) -> Tensor:
    """(Y, X) values in the true ego frame, between the cells' centres by bilinear interpolation."""
    if torch.equal(ego2aug, torch.eye(4, dtype=ego2aug.dtype, device=ego2aug.device)):
        return values
    counts = torch.tensor((grid.num_x, grid.num_y), device=values.device)
    position = map_positions(ego2aug, grid, grid)  # (Y, X, 2)
    inside = ((position >= 0) & (position < counts)).all(-1)  # (Y, X)
    places = (2 * position / counts - 1).to(values.dtype)  # -1 and 1 are the outer edges of the map
    moved = functional.grid_sample(values[None, None], places[None], padding_mode="border", align_corners=False)
    return torch.where(inside, moved[0, 0], torch.nan)
