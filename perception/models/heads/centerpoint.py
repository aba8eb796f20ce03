"""CenterPoint: objects as peaks of class heatmaps, with everything else about a box read at its peak."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.models.heads.centerpoint_decoding import CenterPointDecoding
from perception.models.heads.centerpoint_output import NUM_REGRESSION_CHANNELS, CenterPointOutput, ClassGroups
from perception.models.heads.centerpoint_targets import CenterPointTargets
from perception.models.layers import conv_block
from perception.models.losses.centerpoint import CenterPointLoss
from perception.models.parts import Head
from perception.structures import Batch, Detections, FusedFeatures

# Peaks are rare: starting at a score of 0.1 keeps the first focal losses small.
_HEATMAP_BIAS = math.log(0.1 / 0.9)


class CenterPointHead(Head):
    """Finds boxes as peaks of class heatmaps.

    Args:
        in_channels: channels of the map.
        groups: class names by group; the classes of a group share one box per cell.
        shared_channels: channels of the convolution that all groups share.
        group_channels: channels inside each group's heatmap and box network.
        level: the grid level to read.
        targets: how boxes become targets.
        loss: weights of the losses.
        decoding: how peaks become boxes.

    Raises:
        ValueError: a group is empty, a class is named twice, or the suppression radii do not fit the groups.

    Source:
        Yin et al. 2021, "Center-based 3D Object Detection and Tracking", section 4 (first stage).
    """

    predicts = "detections"

    def __init__(
        self,
        *,
        in_channels: int,
        groups: list[list[str]],
        shared_channels: int = 64,
        group_channels: int = 64,
        level: str = "main",
        targets: CenterPointTargets = CenterPointTargets(),  # noqa: B008 (frozen)
        loss: CenterPointLoss = CenterPointLoss(),  # noqa: B008 (frozen)
        decoding: CenterPointDecoding = CenterPointDecoding(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.groups = _class_groups(groups)
        decoding.radii_m(len(groups))
        self.class_names = self.groups.names
        self.in_channels = {level: in_channels}
        self.level = level
        self.targets, self.loss, self.decoding = targets, loss, decoding
        self.shared = conv_block(in_channels, shared_channels)
        self.heatmaps = nn.ModuleList(
            _branch(shared_channels, group_channels, len(names), _HEATMAP_BIAS) for names in groups
        )
        self.regressions = nn.ModuleList(
            _branch(shared_channels, group_channels, NUM_REGRESSION_CHANNELS) for _ in groups
        )

    def forward(self, fused: FusedFeatures) -> CenterPointOutput:
        """Runs the network.

        Args:
            fused: what the neck gave.

        Returns:
            Heatmap logits and boxes for every cell of the level.
        """
        level = fused.bev[self.level]
        shared = self.shared(level.features)
        return CenterPointOutput(
            heatmap=torch.cat(
                [heatmap(shared) for heatmap in self.heatmaps], dim=1
            ),  # G x (B, K_g, Y, X) -> (B, K, Y, X)
            regression=torch.stack([regression(shared) for regression in self.regressions], dim=1),  # (B, G, 10, Y, X)
            grid=level.grid,
            groups=self.groups,
        )

    def losses(self, output: CenterPointOutput, batch: Batch, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Compares an output with the annotations, in the augmented ego frame.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples; those without annotations do not count.
            class_names: the detector's classes, which the labels index.

        Returns:
            Weighted scalars "heatmap", "offset", "height", "size", "yaw" and "velocity".
        """
        return self.loss(output, self.targets.assign(batch, class_names, self.groups, output.grid))

    def predict(self, output: CenterPointOutput, batch: Batch, class_names: Sequence[str]) -> tuple[Detections, ...]:
        """Decodes an output.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples.
            class_names: the detector's classes, which the labels index.

        Returns:
            Boxes of each sample in the true ego frame.
        """
        return self.decoding.decode(output, batch.ego2aug, class_names)


def _class_groups(groups: Sequence[Sequence[str]]) -> ClassGroups:
    names = tuple(name for group in groups for name in group)
    if not names or not all(groups) or len(set(names)) != len(names):
        raise ValueError(f"CenterPointHead: groups must be non-empty lists of distinct class names, got {groups}")
    return ClassGroups(names=names, group_of_class=tuple(number for number, group in enumerate(groups) for _ in group))


def _branch(in_channels: int, channels: int, out_channels: int, bias: float = 0.0) -> nn.Sequential:
    last = nn.Conv2d(channels, out_channels, 3, padding=1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(conv_block(in_channels, channels), last)
