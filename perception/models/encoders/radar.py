"""Radar returns -> a bird's-eye-view map, each return spread over where it may be."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.encoders.height_attention import HeightAttention
from perception.models.encoders.points import MOST, PointReader, named_columns
from perception.models.grids import grid_reach_m, refine_grid
from perception.models.layers import RowNorm
from perception.models.necks.second import SecondBackbone
from perception.models.parts import PointEncoder
from perception.ops.radar_splat import RadarReturns, radar_splat
from perception.structures import BevMap, PointBatch

_TURNED = ("vx_mps", "vy_mps", "cov_xx_m2", "cov_xy_m2", "cov_yy_m2")
_GEOMETRY_CHANNELS = 3 + 2 + 2 + 1 + 2 + 1  # position, place in the cell, velocity, known, deviations, correlation
_MAP_CHANNELS = 1 + 2 + 1  # density, mean velocity, spread of the velocities
_VELOCITY_MPS = 10.0  # brings velocities to about 1
_MIN_DEVIATION_M = 1e-3


@dataclass(frozen=True, kw_only=True)
class _Returns:
    """Returns inside the grid's x and y, in the augmented ego frame.

    `points` (P, 3), `fields` (P, F) scaled, `velocities` (P, 2), `covariances` (P, 2, 2), `batch_index` (P,).
    """

    points: Tensor
    fields: Tensor
    velocities: Tensor
    covariances: Tensor
    batch_index: Tensor


class RadarEncoder(PointEncoder):
    """Describes each return, spreads it by its covariance over the cells, and runs a 2-D backbone on the sums.

    Beside the sums, the backbone reads how many returns a cell holds, their mean velocity and its spread. Positions,
    velocities and covariances turn, scale and mirror with `ego2aug`. Returns beyond the level, whose place is not
    finite or whose covariance is not that of anything, do not count; any other field that is not finite reads as 0. A
    velocity above 100 m/s is unknown.

    Args:
        fields: extra columns of the returns to read, such as cross-section, age and quality -> factor that brings the
            column to about 1. Velocity and covariance are always read.
        point_channels: widths of the layers that each return passes.
        backbone: runs on the map of returns; its `in_channels` is the last of `point_channels` and 4 more. Its stride
            is how much finer the map is than the level.
        heights: attention along the height of each column, for radars that measure height; None where they do not.
        level: the grid level to fill.

    Raises:
        ValueError: the parts do not fit each other, or `fields` names a column that is read anyway.
    """

    def __init__(
        self,
        *,
        fields: dict[str, float],
        point_channels: Sequence[int],
        backbone: SecondBackbone,
        heights: HeightAttention | None = None,
        level: str = "main",
    ) -> None:
        super().__init__()
        if not point_channels or backbone.in_channels != point_channels[-1] + _MAP_CHANNELS:
            raise ValueError(
                f"RadarEncoder: backbone must read {_MAP_CHANNELS} channels more than the last of point_channels "
                f"{list(point_channels)}, got {backbone.in_channels}"
            )
        if heights is not None and heights.channels != point_channels[-1]:
            raise ValueError(
                f"RadarEncoder: heights must have {point_channels[-1]} channels as the points, got {heights.channels}"
            )
        if not set(fields).isdisjoint(_TURNED):
            raise ValueError(f"RadarEncoder: fields must not name any of {', '.join(_TURNED)}, got {list(fields)}")
        self.reader = PointReader(fields=fields)
        widths = (_GEOMETRY_CHANNELS + len(fields), *point_channels)
        self.point_layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(narrow, wide, bias=False), RowNorm(wide), nn.ReLU(inplace=True))
                for narrow, wide in itertools.pairwise(widths)
            )
        )
        self.heights = heights
        self.backbone = backbone
        self.level = level
        self.out_channels = {level: backbone.out_channels}

    def forward(self, points: PointBatch, ego2aug: Tensor, grids: Mapping[str, Grid]) -> BevMap:
        """Encodes the returns.

        Args:
            points: returns of S samples in their ego frames, all present; any sample may have none.
            ego2aug: (S, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The map of one level; valid where a return may lie in the cell.

        Raises:
            ValueError: the returns lack a field, or the grid does not suit the backbone's strides.
        """
        grid = grids[self.level]
        fine = refine_grid(grid, self.backbone.stride)
        returns = self._read(points, ego2aug, fine)
        described = self.point_layers(_describe(returns, fine))  # (P, C)
        if self.heights is not None:
            described = self.heights(described, returns.points, returns.batch_index, fine)
        spread = radar_splat(
            described,
            RadarReturns(
                positions_m=returns.points[:, :2].contiguous(),
                covariances_m2=returns.covariances,
                velocities_mps=returns.velocities,
                batch_index=returns.batch_index,
            ),
            len(points.present),
            fine,
        )
        motion = torch.cat((spread.velocity_mps, spread.spread_mps), dim=1) / _VELOCITY_MPS
        canvas = torch.cat((spread.features, spread.density.log1p(), motion), dim=1)  # (S, C + 4, Y, X)
        occupied = (spread.density > 0).float()
        return BevMap(
            features=self.backbone(canvas.contiguous(memory_format=torch.channels_last)),
            validity=nn.functional.max_pool2d(occupied, self.backbone.stride) > 0,
            grid=grid,
        )

    def _read(self, points: PointBatch, ego2aug: Tensor, grid: Grid) -> _Returns:
        turned = named_columns(points, _TURNED).double()  # (P, 5)
        place, fields = self.reader(points, ego2aug).split((3, len(self.reader.fields)), dim=1)
        turn = ego2aug[points.batch_index, :2, :2].double()  # (P, 2, 2)
        covariances = turn @ turned[:, [2, 3, 3, 4]].unflatten(1, (2, 2)) @ turn.mT
        lower, upper = (place.new_tensor(bounds) for bounds in zip(grid.x_range_m, grid.y_range_m, strict=True))
        counts = ((place[:, :2] >= lower) & (place[:, :2] < upper)).all(1)
        counts &= place.isfinite().all(1) & covariances.isfinite().flatten(1).all(1)
        variances = covariances.diagonal(dim1=1, dim2=2)  # (P, 2)
        counts &= (variances >= 0).all(1) & (variances.prod(1) >= covariances[:, 0, 1].square())
        return _Returns(
            points=place[counts],
            fields=fields[counts],
            velocities=(turn @ _believable(turned[:, :2])[..., None])[counts, :, 0],
            covariances=covariances[counts],
            batch_index=points.batch_index[counts],
        )


def _believable(velocities: Tensor) -> Tensor:
    """Velocities (P, 2) m/s, unknown where no vehicle moves so fast."""
    return velocities.masked_fill(~(velocities.abs() <= MOST * _VELOCITY_MPS).all(1, keepdim=True), torch.nan)


def _describe(returns: _Returns, grid: Grid) -> Tensor:
    """What the network reads of each return, (P, 11 + F)."""
    points = returns.points
    place = (points[:, :2] - points.new_tensor(grid.origin_m[:2])) / points.new_tensor(grid.cell_m[:2])
    known = returns.velocities.isfinite().all(1, keepdim=True)
    velocities = torch.where(known, returns.velocities, 0) / _VELOCITY_MPS
    deviations = returns.covariances.diagonal(dim1=1, dim2=2).clamp(min=_MIN_DEVIATION_M**2).sqrt()  # (P, 2)
    correlation = returns.covariances[:, 0, 1:] / deviations.prod(1, keepdim=True)  # (P, 1)
    parts = (
        (points / points.new_tensor(grid_reach_m(grid))).clamp(-MOST, MOST),  # no bound holds z
        place - place.floor() - 0.5,
        velocities,
        known,
        deviations.clamp(max=10.0),
        correlation,
        returns.fields,
    )
    return torch.cat([part.to(points.dtype) for part in parts], dim=1)
