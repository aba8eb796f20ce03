"""Concatenation and convolution: the plain fuser for any subset of sensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

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
        known = [features[sensor] for sensor in self.absence if sensor in features]
        grid = known[0].bev[level].grid
        shape = (known[0].present.shape[0], grid.num_y, grid.num_x)
        maps = [_or_absent(features.get(sensor), level, vector, shape) for sensor, vector in self.absence.items()]
        return BevMap(
            features=self.mix(torch.cat(maps, dim=1)), validity=_any_valid(known, level), grid=_one(known, level)
        )


def _or_absent(part: SensorFeatures | None, level: str, vector: Tensor, shape: Sequence[int]) -> Tensor:
    batch_size, num_y, num_x = shape
    absent = vector.expand(batch_size, -1, num_y, num_x)  # (C, 1, 1) -> (B, C, Y, X)
    if part is None:
        return absent
    return torch.where(part.present[:, None, None, None], part.bev[level].features, absent)


def _any_valid(parts: Sequence[SensorFeatures], level: str) -> Tensor:
    valid = [part.bev[level].validity & part.present[:, None, None, None] for part in parts]
    return torch.stack(valid).any(0)  # (sensors, B, 1, Y, X) -> (B, 1, Y, X)


def _one(parts: Sequence[SensorFeatures], level: str) -> Grid:
    grids = [part.bev[level].grid for part in parts]
    if any(grid != grids[0] for grid in grids):
        raise ValueError(f"ConcatConvFuser: the maps of level {level!r} must share one grid, got {grids}")
    return grids[0]
