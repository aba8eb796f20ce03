"""From the logits of the occupancy networks to labels in the true ego frame."""

import torch
from torch import Tensor

from perception.models.heads.occupancy_output import OccupancyOutput
from perception.models.heads.occupancy_targets import moved_labels
from perception.structures import OccupancyPrediction
from perception.structures.tensors import check_numbers


@torch.no_grad()
def decode_occupancy(output: OccupancyOutput, ego2aug: Tensor) -> tuple[OccupancyPrediction, ...]:
    """Takes the likeliest class of every voxel and undoes the augmentation of every sample.

    Without augmentation these are exactly the classes of the largest logits; else a voxel takes the class of the
    augmented voxel that holds its centre.

    Args:
        output: what the network gave for B samples.
        ego2aug: (B, 4, 4).

    Returns:
        B predictions on the output's grid in the true ego frame; free where the augmented grid did not reach.

    Raises:
        ValueError: the network gave NaN, of which no class is the likeliest.
    """
    check_numbers("decode_occupancy: logits", output.logits)
    labels = output.logits.argmax(1).to(torch.uint8)  # (B, K, Z, Y, X) -> (B, Z, Y, X)
    free = output.logits.shape[1] - 1
    still = torch.eye(4, dtype=ego2aug.dtype, device=ego2aug.device)
    return tuple(
        OccupancyPrediction(
            labels=one if torch.equal(pose, still) else moved_labels(one, output.grid, pose, output.grid, free),
            grid=output.grid,
        )
        for one, pose in zip(labels, ego2aug, strict=True)
    )
