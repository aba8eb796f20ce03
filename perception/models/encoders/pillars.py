"""Points -> a bird's-eye-view map by way of pillars."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.encoders.points import PointReader
from perception.models.grids import grid_reach_m, refine_grid
from perception.models.layers import RowNorm
from perception.models.necks.second import SecondBackbone
from perception.models.parts import PointEncoder
from perception.ops.scatter_reduce import scatter_reduce
from perception.structures import BevMap, PointBatch

_GEOMETRY_CHANNELS = 3 + 3 + 2  # position, offset from the pillar's mean, offset from its centre


class PillarEncoder(PointEncoder):
    """Describes each point, keeps the maximum over each pillar, and runs a 2-D backbone on the map of pillars.

    Every point counts: there is no limit per pillar and no limit of pillars.

    Args:
        fields: extra columns of the points to read -> factor that brings the column to about 1.
        point_channels: widths of the layers that each point passes.
        backbone: runs on the map of pillars; its `in_channels` is the last of `point_channels`. Its stride is how much
            finer the pillars are than the cells of the level.
        level: the grid level to fill.

    Raises:
        ValueError: the backbone does not fit the points' layers.

    Source:
        Lang et al. 2019, "PointPillars", section 2.1, without its limits on points and pillars.
    """

    def __init__(
        self, *, fields: dict[str, float], point_channels: Sequence[int], backbone: SecondBackbone, level: str = "main"
    ) -> None:
        super().__init__()
        if not point_channels or backbone.in_channels != point_channels[-1]:
            raise ValueError(
                f"PillarEncoder: backbone must read the last of point_channels {list(point_channels)}, "
                f"got {backbone.in_channels} channels"
            )
        self.reader = PointReader(fields=fields)
        widths = (_GEOMETRY_CHANNELS + len(fields), *point_channels)
        self.point_layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(narrow, wide, bias=False), RowNorm(wide), nn.ReLU(inplace=True))
                for narrow, wide in itertools.pairwise(widths)
            )
        )
        self.backbone = backbone
        self.level = level
        self.out_channels = {level: backbone.out_channels}

    def forward(self, points: PointBatch, ego2aug: Tensor, grids: Mapping[str, Grid]) -> BevMap:
        """Encodes the points.

        Args:
            points: points of S samples in their ego frames, all present; any sample may have none.
            ego2aug: (S, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The map of one level; valid where a point lies in the cell. Points outside the grid do not count.

        Raises:
            ValueError: the points lack a field, or the grid does not suit the backbone's strides.
        """
        grid = grids[self.level]
        pillars = refine_grid(grid, self.backbone.stride)
        features = self.reader(points, ego2aug)  # (P, 3 + F)
        canvas_shape = (len(points.present), pillars.num_y, pillars.num_x)
        cells, inside = pillars.cells(features)
        features, cells, sample = features[inside], cells[inside], points.batch_index[inside]
        index = (sample * pillars.num_y + cells[:, 1]) * pillars.num_x + cells[:, 2]  # pillar of each point
        num_pillars = canvas_shape[0] * canvas_shape[1] * canvas_shape[2]
        described = self.point_layers(_decorate(features, cells, index, num_pillars, pillars))  # (P, C)
        canvas = scatter_reduce(described, index, num_pillars, "max").unflatten(0, canvas_shape)  # (B, Y, X, C)
        occupied = (
            torch.zeros(num_pillars, device=index.device).index_fill(0, index, 1.0).view(-1, 1, *canvas_shape[1:])
        )
        return BevMap(
            features=self.backbone(canvas.permute(0, 3, 1, 2)),  # (B, Y, X, C) -> (B, C', Y, X), channels_last
            validity=nn.functional.max_pool2d(occupied, self.backbone.stride) > 0,
            grid=grid,
        )


def _decorate(points: Tensor, cells: Tensor, index: Tensor, num_pillars: int, grid: Grid) -> Tensor:
    """(P, 3 + F) points -> (P, 8 + F): position over the grid's reach, offsets in cells, fields."""
    position, fields = points[:, :3], points[:, 3:]
    cell = points.new_tensor(grid.cell_m)
    origin = points.new_tensor(grid.origin_m)
    mean = scatter_reduce(position, index, num_pillars, "mean")[index]
    center = origin + (cells.flip(-1) + 0.5) * cell
    offset = (position - center)[:, :2] / cell[:2]
    return torch.cat(
        (position / points.new_tensor(grid_reach_m(grid)), (position - mean) / cell, offset, fields), dim=1
    )
