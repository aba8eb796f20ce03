"""What the occupancy networks give."""

from dataclasses import dataclass

from torch import Tensor

from perception.geometry.grid import Grid


@dataclass(frozen=True, kw_only=True)
class OccupancyOutput:
    """What fills each voxel, in the augmented ego frame.

    Args:
        logits: (B, K, Z, Y, X), one per class, the last of which is free space.
        grid: where the voxels lie.
    """

    logits: Tensor
    grid: Grid
