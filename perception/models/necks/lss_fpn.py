"""Feature pyramid that concatenates coarse features with finer ones, as lift-splat detectors use on image backbones."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.layers import conv_block


class LssFeaturePyramid(nn.Module):
    """Concatenates coarse features with finer ones, top down, and mixes them.

    Args:
        in_channels: channels of the stages, finest first; at least two.
        out_channels: channels of every level.
        num_levels: how many levels to give, finest first; the coarsest stage is none of its own.

    Raises:
        ValueError: as many levels as stages, or more.

    Source:
        Liu et al. 2023, "BEVFusion", published code (image neck); concatenation from Philion and Fidler 2020, "Lift,
        Splat, Shoot", published code.
    """

    def __init__(self, *, in_channels: Sequence[int], out_channels: int, num_levels: int = 1) -> None:
        super().__init__()
        if not 1 <= num_levels < len(in_channels):
            raise ValueError(f"LssFeaturePyramid: num_levels must be in [1, {len(in_channels) - 1}], got {num_levels}")
        self.out_channels = out_channels
        self.num_levels = num_levels
        coarser = (*(out_channels for _ in in_channels[2:]), in_channels[-1])
        self.mixers = nn.ModuleList(
            nn.Sequential(
                conv_block(fine + coarse, out_channels, kernel=1),
                conv_block(out_channels, out_channels),
            )
            for fine, coarse in zip(in_channels[:-1], coarser, strict=True)
        )

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Runs the pyramid.

        Args:
            stages: (K, C_i, H_i, W_i), finest first.

        Returns:
            `num_levels` maps (K, out_channels, H_i, W_i), finest first.
        """
        levels = list(stages)
        for fine in range(len(stages) - 2, -1, -1):
            size = stages[fine].shape[-2:]
            coarse = functional.interpolate(levels[fine + 1], size=size, mode="bilinear", align_corners=False)
            levels[fine] = self.mixers[fine](torch.cat((stages[fine], coarse), dim=1))
        return levels[: self.num_levels]
