"""Occupancy: what fills each voxel around the vehicle."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from perception.models.flips import Flip, check_mirrored
from perception.models.heads.occupancy_decoding import decode_occupancy
from perception.models.heads.occupancy_networks import OccupancyNetwork
from perception.models.heads.occupancy_output import OccupancyOutput
from perception.models.heads.occupancy_targets import Mask, check_mask, occupancy_targets
from perception.models.losses.occupancy import OccupancyLoss
from perception.models.parts import Head
from perception.structures import Batch, FusedFeatures, OccupancyPrediction

_LEAST_SHARE = 1e-6


class OccupancyHead(Head):
    """Names the class of every voxel, free space among them.

    In training the voxels count that the LiDAR observed in the course of the scene, or a camera: the most of which
    the label is known. What nothing observed is labelled free in the files, the inside of every house among it, and
    would teach that what is hidden is empty. With the camera's voxels alone, on which the official score is counted,
    nothing tells the network what lies behind the first surface; it fills that up, which the score does not see, and
    rays through the volume that start elsewhere do. So the default serves a score with any mask and scores by ray.

    Args:
        network: turns the map into logits of voxels.
        level: the grid level to read.
        loss: weights of the losses.
        mask: which voxels count in full in training; the others count as `loss.beyond_mask` says.

    Raises:
        ValueError: the mask is unknown.
    """

    predicts = "occupancy"
    class_names = ()

    def __init__(
        self,
        *,
        network: OccupancyNetwork,
        level: str = "main",
        loss: OccupancyLoss = OccupancyLoss(),  # noqa: B008 (frozen)
        mask: Mask = "lidar",
    ) -> None:
        super().__init__()
        check_mask("OccupancyHead", mask)
        self.in_channels = {level: network.in_channels}
        self.network = network
        self.level = level
        self.loss = loss
        self.mask = mask

    def forward(self, fused: FusedFeatures) -> OccupancyOutput:
        """Runs the network.

        Args:
            fused: what the neck gave.

        Returns:
            Logits of every voxel.
        """
        return OccupancyOutput(logits=self.network(fused.bev[self.level]), grid=self.network.grid)

    def losses(self, output: OccupancyOutput, batch: Batch, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Compares an output with the truth, in the augmented ego frame.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples; those without truth do not count.
            class_names: the detector's classes, of which there are none here.

        Returns:
            Weighted scalars as `OccupancyLoss` names them.
        """
        return self.loss(output, occupancy_targets(batch, output.grid, self.mask))

    def predict(
        self, output: OccupancyOutput, batch: Batch, class_names: Sequence[str]
    ) -> tuple[OccupancyPrediction, ...]:
        """Decodes an output.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.
            class_names: the detector's classes, of which there are none here.

        Returns:
            The class of every voxel in the true ego frame.
        """
        return decode_occupancy(output, batch.ego2aug)

    def merge_flips(self, outputs: Mapping[Flip, OccupancyOutput]) -> OccupancyOutput:
        """Turns mirrored outputs back and takes their mean, as probabilities.

        Args:
            outputs: how the frame was mirrored -> what the network gave there.

        Returns:
            Logits as of the frame that was not mirrored.

        Raises:
            ValueError: the grid is not symmetric along a mirrored axis.
        """
        check_mirrored("OccupancyHead: grid", outputs, self.network.grid)
        turned = [
            output.logits.float().softmax(1).flip([-1] * ("x" in flip) + [-2] * ("y" in flip))
            for flip, output in outputs.items()
        ]
        mean = torch.stack(turned).mean(0).clamp(min=_LEAST_SHARE)
        return OccupancyOutput(logits=mean.log(), grid=next(iter(outputs.values())).grid)
