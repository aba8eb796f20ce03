"""Points -> a bird's-eye-view map by way of sparse voxels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.encoders.points import PointReader
from perception.models.encoders.sparse import SparseBackbone, VoxelFeatures
from perception.models.grids import grid_reach_m, refine_grid
from perception.models.parts import PointEncoder
from perception.ops.scatter_reduce import scatter_reduce
from perception.ops.voxelize import voxelize_dynamic
from perception.structures import BevMap, PointBatch

_GEOMETRY_CHANNELS = 3 + 3  # position, offset from the voxel's centre


class VoxelEncoder(PointEncoder):
    """Describes each voxel by the mean of its points, runs sparse convolutions, and stacks the layers that remain.

    Every point counts: there is no limit per voxel and no limit of voxels.

    Args:
        fields: extra columns of the points to read -> factor that brings the column to about 1.
        backbone: runs on the voxels; reads 6 channels and one per field. Its stride is how much finer the voxels are
            than the cells of the level.
        num_layers: how many layers of voxels the level's range along z is cut into.
        level: the grid level to fill.

    Raises:
        ValueError: the backbone does not fit the fields or the number of layers.

    Source:
        Yan et al. 2018, "SECOND", section 3.1, with the mean of all points for the voxel's features.
    """

    def __init__(
        self, *, fields: dict[str, float], backbone: SparseBackbone, num_layers: int = 40, level: str = "main"
    ) -> None:
        super().__init__()
        channels, out_layers = _GEOMETRY_CHANNELS + len(fields), backbone.out_layers(num_layers)
        if backbone.in_channels != channels:
            raise ValueError(
                f"VoxelEncoder: backbone must read {channels} channels ({_GEOMETRY_CHANNELS} and one per field), "
                f"got {backbone.in_channels}"
            )
        self.reader = PointReader(fields=fields)
        self.backbone = backbone
        self.num_layers = num_layers
        self.level = level
        self.out_channels = {level: out_layers * backbone.out_channels}

    def forward(self, points: PointBatch, ego2aug: Tensor, grids: Mapping[str, Grid]) -> BevMap:
        """Encodes the points.

        Args:
            points: points of S samples in their ego frames, all present; any sample may have none.
            ego2aug: (S, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The map of one level; valid where a point lies in the cell. Points outside the grid do not count.

        Raises:
            ValueError: the points lack a field.
        """
        grid = grids[self.level]
        fine = refine_grid(grid, self.backbone.stride, self.num_layers)
        columns = self.reader(points, ego2aug)  # (P, 3 + F)
        coords, point2voxel = voxelize_dynamic(columns, points.batch_index, fine)
        mean = scatter_reduce(columns, point2voxel, len(coords), "mean")  # (P, 3 + F) -> (V, 3 + F)
        voxels = VoxelFeatures(features=_describe(mean, coords, fine), coords=coords, shape=fine.shape)
        shape = (len(points.present), grid.num_y, grid.num_x)
        return BevMap(
            features=_stack_layers(self.backbone(voxels), len(points.present)),
            validity=_occupied(coords, self.backbone.stride, shape),
            grid=grid,
        )


def _describe(mean: Tensor, coords: Tensor, grid: Grid) -> Tensor:
    """(V, 3 + F) means -> (V, 6 + F): position over the grid's reach, offset from the centre in voxels, fields."""
    position, fields = mean[:, :3], mean[:, 3:]
    cell, origin = mean.new_tensor(grid.cell_m), mean.new_tensor(grid.origin_m)
    offset = (position - origin) / cell - (coords[:, 1:].flip(-1) + 0.5)
    return torch.cat((position / mean.new_tensor(grid_reach_m(grid)), offset, fields), dim=1)


def _stack_layers(voxels: VoxelFeatures, batch_size: int) -> Tensor:
    """(V, C) -> (B, Z * C, Y, X), channels_last in memory, zeros where there is no voxel."""
    (num_z, num_y, num_x), channels = voxels.shape, voxels.features.shape[1]
    sample, z, y, x = voxels.coords.unbind(1)
    index = ((sample * num_y + y) * num_x + x) * num_z + z
    canvas = voxels.features.new_zeros(batch_size * num_y * num_x * num_z, channels)
    stacked = canvas.index_copy(0, index, voxels.features)
    return stacked.view(batch_size, num_y, num_x, num_z * channels).permute(0, 3, 1, 2)


def _occupied(coords: Tensor, stride: int, shape: tuple[int, int, int]) -> Tensor:
    """Cells of the level that hold a voxel, (B, 1, Y, X) bool."""
    batch_size, num_y, num_x = shape
    sample, _, y, x = coords.unbind(1)
    index = (sample * num_y + y // stride) * num_x + x // stride
    occupied = torch.zeros(batch_size * num_y * num_x, dtype=torch.bool, device=coords.device)
    return occupied.index_fill(0, index, True).view(batch_size, 1, num_y, num_x)
