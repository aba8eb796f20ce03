"""Concatenation and convolution: the plain fuser for any subset of sensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from perception.geometry.grid import Grid
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
        if set(in_channels) != set(out_channels) or not all(in_channels.values()) or not in_channels:
            raise ValueError(
                f"ConcatConvFuser: in_channels and out_channels must name the same levels, each with a sensor, "
                f"got {in_channels} and {out_channels}"
            )
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
        self.absence = nn.ParameterDict(
            {sensor: nn.Parameter(torch.zeros(channels, 1, 1)) for sensor, channels in in_channels.items()}
        )
        self.mix = conv_block(sum(in_channels.values()), out_channels)

    def forward(self, level: str, features: Mapping[str, SensorFeatures]) -> BevMap:
        """Fuses one level."""
        known = {sensor: features[sensor] for sensor in self.absence if sensor in features}
        grid = _common_grid(level, [part.bev[level] for part in known.values()])
        present = {sensor: part.present[:, None, None, None] for sensor, part in known.items()}  # (B, 1, 1, 1)
        valid = [part.bev[level].validity & present[sensor] for sensor, part in known.items()]
        maps = []
        for sensor, vector in self.absence.items():
            absent = vector.expand(len(valid[0]), -1, grid.num_y, grid.num_x)  # (C, 1, 1) -> (B, C, Y, X)
            seen = sensor in known
            maps.append(torch.where(present[sensor], known[sensor].bev[level].features, absent) if seen else absent)
        return BevMap(
            features=self.mix(torch.cat(maps, dim=1)),
            validity=torch.stack(valid).any(0),  # (sensors, B, 1, Y, X) -> (B, 1, Y, X)
            grid=grid,
        )


def _common_grid(level: str, maps: Sequence[BevMap]) -> Grid:
    grids = [part.grid for part in maps]
    if not grids or any(grid != grids[0] for grid in grids):
        raise ValueError(f"ConcatConvFuser: features must hold maps of level {level!r} on one grid, got {grids}")
    return grids[0]
