"""SECOND's 2-D backbone on a bird's-eye-view map, with its feature pyramid."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.models.layers import conv_block


class SecondBackbone(nn.Module):
    """Stages of convolutions, each coarser than the last, brought back to the size of the first and concatenated.

    Args:
        in_channels: channels of the map.
        stage_channels: channels of each stage.
        stage_layers: 3x3 convolutions of each stage after its first, strided one.
        stage_strides: stride of each stage; the first is the stride of the result.
        up_channels: channels that each stage contributes to the result.

    Raises:
        ValueError: the sequences differ in length or are empty.

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
    ) -> None:
        super().__init__()
        if not len(stage_channels) == len(stage_layers) == len(stage_strides) > 0:
            raise ValueError(
                f"SecondBackbone: stage_channels, stage_layers and stage_strides must have one length above 0, "
                f"got {len(stage_channels)}, {len(stage_layers)} and {len(stage_strides)}"
            )
        self.in_channels = in_channels
        self.out_channels = up_channels * len(stage_channels)
        self.stride = stage_strides[0]
        self.total_stride = math.prod(stage_strides)
        self.stages = nn.ModuleList()
        self.ups = nn.ModuleList()
        channels, factor = in_channels, 1
        for index, (width, layers, stride) in enumerate(zip(stage_channels, stage_layers, stage_strides, strict=True)):
            blocks = [conv_block(channels, width, stride=stride), *(conv_block(width, width) for _ in range(layers))]
            self.stages.append(nn.Sequential(*blocks))
            factor *= stride if index else 1
            self.ups.append(_up_block(width, up_channels, factor))
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
        for stage, up in zip(self.stages, self.ups, strict=True):
            bev = stage(bev)
            levels.append(up(bev))  # (B, C_i, Y_i, X_i) -> (B, up_channels, Y / stride, X / stride)
        return torch.cat(levels, dim=1)


def _up_block(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, factor, stride=factor, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
