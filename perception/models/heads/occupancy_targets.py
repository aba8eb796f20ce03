"""What the occupancy networks should say: the truth, moved into the augmented ego frame, as far as it counts."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.heads.near_field_targets import map_positions
from perception.structures import Batch, OccupancyTruth

UNKNOWN = 255
"""Label of a voxel of which there is no truth."""

BEYOND_MASK = 64
"""Is added to the class of a voxel outside the mask."""

Mask = Literal["camera", "lidar", "none"]
"""Which voxels count in full: those in view of the cameras, those that the LiDAR or the cameras observed, or all."""


@dataclass(frozen=True, kw_only=True)
class OccupancyTargets:
    """Targets of one batch, in the augmented ego frame.

    Args:
        labels: (B, Z, Y, X) uint8 class, with `BEYOND_MASK` added outside the mask; `UNKNOWN` without truth.
    """

    labels: Tensor


def check_mask(function: str, mask: str) -> None:
    """Refuses a name that is no mask.

    Args:
        function: who asks, for the message.
        mask: the name.

    Raises:
        ValueError: it is none.
    """
    if mask not in get_args(Mask):
        raise ValueError(f"{function}: mask must be one of {', '.join(get_args(Mask))}, got {mask!r}")


@torch.no_grad()
def occupancy_targets(batch: Batch, grid: Grid, mask: Mask) -> OccupancyTargets:
    """Makes the targets of a batch.

    Args:
        batch: B samples; no voxel of one without truth counts.
        grid: voxels of the network in the augmented ego frame.
        mask: which voxels count in full.

    Returns:
        The targets.
    """
    unknown = torch.full(grid.shape, UNKNOWN, dtype=torch.uint8, device=batch.device)
    rows = [
        unknown
        if truth is None
        else moved_labels(_marked(truth, mask), truth.grid, torch.linalg.inv(pose), grid, UNKNOWN)
        for truth, pose in zip(batch.occupancy, batch.ego2aug, strict=True)
    ]
    return OccupancyTargets(labels=torch.stack(rows))  # B x (Z, Y, X) -> (B, Z, Y, X)


def moved_labels(labels: Tensor, grid: Grid, to_labels: Tensor, to_grid: Grid, outside: int) -> Tensor:
    """Reads labels off a grid at the centres of another one, whose frame is turned about z, scaled, moved or mirrored.

    Args:
        labels: (Z, Y, X) uint8.
        grid: where they lie.
        to_labels: (4, 4) from the frame of `to_grid` into that of `grid`.
        to_grid: where the result lies.
        outside: label of what `grid` does not reach.

    Returns:
        (Z', Y', X') uint8, the label of the voxel that holds the centre.
    """
    to_labels = to_labels.to(torch.float64)
    place = map_positions(to_labels, to_grid, grid)  # (Y', X', 2) x y
    heights_m = to_grid.centers()[:, 0, 0, 2].to(place.device) * to_labels[2, 2] + to_labels[2, 3]  # (Z',)
    layer = (heights_m - grid.origin_m[2]) / grid.cell_m[2]
    (column, row), layer = place.floor().unbind(-1), layer.floor()
    beside = (column >= 0) & (column < grid.num_x) & (row >= 0) & (row < grid.num_y)  # (Y', X')
    above = (layer >= 0) & (layer < grid.num_z)  # (Z',)
    columns = labels.flatten(1)[:, torch.where(beside, row * grid.num_x + column, 0.0).long()]  # (Z, Y', X')
    moved = columns[torch.where(above, layer, 0.0).long()]  # (Z', Y', X')
    return torch.where(above[:, None, None] & beside, moved, outside)


def _marked(truth: OccupancyTruth, mask: Mask) -> Tensor:
    if mask == "none":
        return truth.labels
    counts = truth.mask_camera if mask == "camera" else truth.mask_lidar | truth.mask_camera
    return torch.where(counts, truth.labels, truth.labels + BEYOND_MASK)
