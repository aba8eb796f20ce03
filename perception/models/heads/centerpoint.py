"""CenterPoint: objects as peaks of class heatmaps, with everything else about a box read at its peak."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from perception.models.flips import Flip
from perception.models.heads.centerpoint_decoding import CenterPointDecoding
from perception.models.heads.centerpoint_output import (
    NUM_REGRESSION_CHANNELS,
    CenterPointOutput,
    ClassGroups,
    mirror_regression,
)
from perception.models.heads.centerpoint_targets import CenterPointTargets
from perception.models.layers import conv_block
from perception.models.losses.centerpoint import CenterPointLoss
from perception.models.parts import Head
from perception.structures import Batch, Detections, FusedFeatures

# Objects are rare: starting at a score of 0.1 keeps the first focal losses small.
RARE_BIAS = math.log(0.1 / 0.9)


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
        overlap: whether to guess how well each box fits its object, for `decoding.overlap_power`.

    Raises:
        ValueError: a group is empty, a class is named twice, settings per group do not fit the groups, or the decoding
            asks for a guess that the head does not make.

    Source:
        Yin et al. 2021, "Center-based 3D Object Detection and Tracking", section 4 (first stage); the guess from Hu et
        al. 2022, "AFDetV2", section 3.2 (IoU-aware confidence).
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
        overlap: bool = False,
    ) -> None:
        super().__init__()
        self.groups = _class_groups(groups)
        decoding.check_groups(len(groups))
        if decoding.rescores and not overlap:
            raise ValueError("CenterPointHead: overlap must be True where decoding.overlap_power is above 0, got False")
        self.class_names = self.groups.names
        self.in_channels = {level: in_channels}
        self.level = level
        self.targets, self.loss, self.decoding = targets, loss, decoding
        self.shared = conv_block(in_channels, shared_channels)
        self.heatmaps = nn.ModuleList(
            map_branch(shared_channels, group_channels, len(names), RARE_BIAS) for names in groups
        )
        self.regressions = nn.ModuleList(
            map_branch(shared_channels, group_channels, NUM_REGRESSION_CHANNELS) for _ in groups
        )
        self.overlaps = nn.ModuleList(map_branch(shared_channels, group_channels, 1) for _ in groups if overlap)

    def forward(self, fused: FusedFeatures) -> CenterPointOutput:
        """Runs the network.

        Args:
            fused: what the neck gave.

        Returns:
            Heatmap logits, boxes and, where asked for, overlaps for every cell of the level.
        """
        level = fused.bev[self.level]
        shared = self.shared(level.features)
        heatmaps, regressions, overlaps = (
            [branch(shared) for branch in branches] for branches in (self.heatmaps, self.regressions, self.overlaps)
        )
        return CenterPointOutput(
            heatmap=torch.cat(heatmaps, dim=1),  # G x (B, K_g, Y, X) -> (B, K, Y, X)
            regression=torch.stack(regressions, dim=1),  # G x (B, 10, Y, X) -> (B, G, 10, Y, X)
            grid=level.grid,
            groups=self.groups,
            overlap=torch.cat(overlaps, dim=1) if overlaps else None,  # G x (B, 1, Y, X) -> (B, G, Y, X)
        )

    def losses(self, output: CenterPointOutput, batch: Batch, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Compares an output with the annotations, in the augmented ego frame.

        Args:
            output: what `forward` gave for this batch.
            batch: B samples; those without annotations do not count.
            class_names: the detector's classes, which the labels index.

        Returns:
            Weighted scalars "heatmap", "offset", "height", "size", "yaw", "velocity" and, where guessed, "overlap".
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

    def merge_flips(self, outputs: Mapping[Flip, CenterPointOutput]) -> CenterPointOutput:
        """Turns mirrored outputs back and takes their mean, of scores as probabilities.

        Args:
            outputs: how the frame was mirrored -> what the network gave there.

        Returns:
            Maps as of the frame that was not mirrored.

        Source:
            Yin et al. 2021, published code (double-flip testing), where boxes are averaged in the same way.
        """
        turned = [unflip_output(output, flip) for flip, output in outputs.items()]
        heatmap = torch.stack([output.heatmap.float().sigmoid() for output in turned]).mean(0)
        overlaps = [output.overlap for output in turned if output.overlap is not None]
        return dataclasses.replace(
            turned[0],
            heatmap=heatmap.logit(eps=1e-6),
            regression=torch.stack([output.regression for output in turned]).mean(0),
            overlap=torch.stack(overlaps).mean(0) if overlaps else None,
        )


def unflip_output(output: CenterPointOutput, flip: Flip) -> CenterPointOutput:
    """Mirrors an output back, cells and what they say.

    Args:
        output: maps over a mirrored frame; the grid is symmetric along the mirrored axes.
        flip: how it was mirrored.

    Returns:
        Maps over the frame that was not mirrored.
    """
    regression = mirror_regression(output.regression.movedim(2, -1), flip, (1, 1))  # (B, G, Y, X, 10)
    axes = [-1] * ("x" in flip) + [-2] * ("y" in flip)
    return dataclasses.replace(
        output,
        heatmap=output.heatmap.flip(axes),
        regression=regression.movedim(-1, 2).flip(axes),
        overlap=None if output.overlap is None else output.overlap.flip(axes),
    )


def _class_groups(groups: Sequence[Sequence[str]]) -> ClassGroups:
    names = tuple(name for group in groups for name in group)
    if not names or not all(groups) or len(set(names)) != len(names):
        raise ValueError(f"CenterPointHead: groups must be non-empty lists of distinct class names, got {groups}")
    return ClassGroups(names=names, group_of_class=tuple(number for number, group in enumerate(groups) for _ in group))


def map_branch(in_channels: int, channels: int, out_channels: int, bias: float = 0.0) -> nn.Sequential:
    """Builds two convolutions that read one thing from a map.

    Args:
        in_channels: channels of the map.
        channels: channels between the two.
        out_channels: channels of what is read.
        bias: what is read at first, about.

    Returns:
        The network.
    """
    last = nn.Conv2d(channels, out_channels, 3, padding=1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(conv_block(in_channels, channels), last)
