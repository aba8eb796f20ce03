"""SECOND's 2-D backbone on a bird's-eye-view map, with its feature pyramid."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.models.layers import conv_block


class SecondBackbone(nn.Module):
    """Stages of convolutions, each coarser than the last, brought to the size of one of them and concatenated.

    Args:
        in_channels: channels of the map.
        stage_channels: channels of each stage.
        stage_layers: 3x3 convolutions of each stage after its first, strided one.
        stage_strides: stride of each stage.
        up_channels: channels that each stage contributes to the result.
        result_stage: the stage whose size the result has, 0 the first.

    Raises:
        ValueError: the sequences differ in length or are empty, or there is no such stage.

    Source:
        Yan et al. 2018, "SECOND", section 3.2.3; Lang et al. 2019, "PointPillars", section 2.2.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        stage_channels: Sequence[int],
        stage_layers: Sequence[int],
        stage_strides: Sequence[int],
        up_channels: int,
        result_stage: int = 0,
    ) -> None:
        super().__init__()
        if not len(stage_channels) == len(stage_layers) == len(stage_strides) > 0:
            raise ValueError(
                f"SecondBackbone: stage_channels, stage_layers and stage_strides must have one length above 0, "
                f"got {len(stage_channels)}, {len(stage_layers)} and {len(stage_strides)}"
            )
        if not 0 <= result_stage < len(stage_channels):
            raise ValueError(f"SecondBackbone: result_stage must be in [0, {len(stage_channels)}), got {result_stage}")
        self.in_channels = in_channels
        self.out_channels = up_channels * len(stage_channels)
        strides = [math.prod(stage_strides[: index + 1]) for index in range(len(stage_strides))]
        self.stride = strides[result_stage]
        self.total_stride = strides[-1]
        self.stages = nn.ModuleList()
        self.resizers = nn.ModuleList()
        channels = in_channels
        for width, layers, step, stride in zip(stage_channels, stage_layers, stage_strides, strides, strict=True):
            blocks = [conv_block(channels, width, stride=step), *(conv_block(width, width) for _ in range(layers))]
            self.stages.append(nn.Sequential(*blocks))
            self.resizers.append(_resizer(width, up_channels, stride, self.stride))
            channels = width

    def forward(self, bev: Tensor) -> Tensor:
        """Runs the stages.

        Args:
            bev: (B, in_channels, Y, X), Y and X multiples of `total_stride`.

        Returns:
            (B, out_channels, Y / stride, X / stride).

        Raises:
            ValueError: Y or X is no multiple of the total stride.
        """
        if bev.shape[-2] % self.total_stride or bev.shape[-1] % self.total_stride:
            raise ValueError(
                f"SecondBackbone: bev must have rows and columns in multiples of {self.total_stride}, "
                f"got {tuple(bev.shape)}"
            )
        levels = []
        for stage, resize in zip(self.stages, self.resizers, strict=True):
            bev = stage(bev)
            levels.append(resize(bev))  # (B, C_i, Y_i, X_i) -> (B, up_channels, Y / stride, X / stride)
        return torch.cat(levels, dim=1)


def _resizer(in_channels: int, out_channels: int, stride: int, wanted: int) -> nn.Sequential:
    """From maps of one stride to those of another, of which one divides the other; kernels as large as the step."""
    up, down = max(stride // wanted, 1), max(wanted // stride, 1)
    layer = nn.ConvTranspose2d if stride >= wanted else nn.Conv2d
    return nn.Sequential(
        layer(in_channels, out_channels, up * down, stride=up * down, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
