"""Concatenation and convolution: the plain fuser for any subset of sensors."""

from collections.abc import Mapping

import torch
from torch import nn

from perception.models.fusers._common import absence_vectors, check_levels, level_inputs, read_level
from perception.models.layers import conv_block
from perception.models.parts import Fuser
from perception.structures import BevMap, FusedFeatures, SensorFeatures


class ConcatConvFuser(Fuser):
    """Concatenates the sensors' maps level by level and mixes them with one convolution.

    A sensor that a sample does not have is replaced by a learned vector, the same in every cell: what lies in the rows
    of absent samples is never read, and "absent" differs from "saw nothing".

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.

    Raises:
        ValueError: the two do not name the same levels, or a level has no sensor.
    """

    def __init__(self, *, in_channels: dict[str, dict[str, int]], out_channels: dict[str, int]) -> None:
        super().__init__()
        check_levels("ConcatConvFuser", in_channels, out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.levels = nn.ModuleDict(
            {level: _LevelFuser(sensors, out_channels[level]) for level, sensors in in_channels.items()}
        )

    def forward(self, features: Mapping[str, SensorFeatures]) -> FusedFeatures:
        """Fuses the features.

        Args:
            features: sensor name -> features of B samples; a sensor may be missing altogether.

        Returns:
            One map per level, valid where any present sensor has said anything.

        Raises:
            ValueError: the maps of a level lie on different grids, or there is none.
        """
        return FusedFeatures(bev={level: fuser(level, features) for level, fuser in self.levels.items()})


class _LevelFuser(nn.Module):
    def __init__(self, in_channels: Mapping[str, int], out_channels: int) -> None:
        super().__init__()
        self.absence = absence_vectors(in_channels)
        self.mix = conv_block(sum(in_channels.values()), out_channels)

    def forward(self, level: str, features: Mapping[str, SensorFeatures]) -> BevMap:
        """Fuses one level."""
        sensors = tuple(self.absence)
        maps, present, grid = read_level("ConcatConvFuser", level, sensors, features)
        everyone = torch.arange(len(present), device=present.device)
        inputs = level_inputs(sensors, maps, present, everyone)
        mixed = inputs.convolved(self.mix.get_parameter("0.weight"), self.absence)
        valid = [part.validity & present[:, number, None, None, None] for number, part in maps.items()]
        return BevMap(
            features=self.mix[1:](mixed),  # (B, C, Y, X)
            validity=torch.stack(valid).any(0),  # (sensors, B, 1, Y, X) -> (B, 1, Y, X)
            grid=grid,
        )
