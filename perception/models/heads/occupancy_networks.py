"""Networks that turn a map into a volume: heights in the channels of the map, or convolutions in three dimensions."""

import itertools
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from perception.formats.occupancy import OCCUPANCY_CLASSES, OCCUPANCY_GRID
from perception.geometry.grid import Grid
from perception.models.layers import conv_block
from perception.structures import BevMap


class OccupancyNetwork(nn.Module, ABC):
    """Turns the map of a level into a logit of every class for every voxel.

    Attributes:
        in_channels: channels of the map.
        num_classes: K; the last class is free space.
        grid: where the voxels lie, in the augmented ego frame.
    """

    in_channels: int
    num_classes: int
    grid: Grid

    @abstractmethod
    def forward(self, level: BevMap) -> Tensor:
        """Runs the network.

        Args:
            level: the map, of any cells.

        Returns:
            (B, K, Z, Y, X).
        """


class ChannelToHeight(OccupancyNetwork):
    """Works on the map alone; its last channels are the layers of the volume.

    The first convolutions run on the cells of the level, where they are few, the last on those of the voxels.

    Args:
        in_channels: channels of the map.
        channels: channels of the convolutions.
        coarse_layers: convolutions on the cells of the level.
        fine_layers: convolutions on the cells of the voxels.
        num_classes: K; the last class is free space.
        grid: where the voxels lie; default those of Occ3D.

    Raises:
        ValueError: there is no convolution on the cells of the level, or less than none on those of the voxels.

    Source:
        Yu et al. 2023, "FlashOcc: Fast and Memory-Efficient Occupancy Prediction via Channel-to-Height Plugin",
        section 3; the convolutions are this project's own.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int = 64,
        coarse_layers: int = 1,
        fine_layers: int = 1,
        num_classes: int = len(OCCUPANCY_CLASSES),
        grid: Grid = OCCUPANCY_GRID,
    ) -> None:
        super().__init__()
        if coarse_layers < 1 or fine_layers < 0:
            raise ValueError(
                "ChannelToHeight: coarse_layers must be at least 1 and fine_layers at least 0, "
                f"got {coarse_layers} and {fine_layers}"
            )
        self.in_channels, self.num_classes, self.grid = in_channels, num_classes, grid
        widths = [in_channels] + [channels] * coarse_layers
        self.coarse = nn.Sequential(*(conv_block(a, b) for a, b in itertools.pairwise(widths)))
        self.fine = nn.Sequential(*(conv_block(channels, channels) for _ in range(fine_layers)))
        self.logits = nn.Conv2d(channels, num_classes * grid.num_z, 1)

    def forward(self, level: BevMap) -> Tensor:
        """Runs the network.

        Args:
            level: the map, of any cells.

        Returns:
            (B, K, Z, Y, X).
        """
        coarse = self.coarse(level.features)
        fine = self.fine(resample(coarse, level.grid, self.grid))  # (B, C, Y', X') -> (B, C, Y, X)
        return self.logits(fine).unflatten(1, (self.num_classes, self.grid.num_z))  # -> (B, K, Z, Y, X)


class VoxelDecoder(OccupancyNetwork):
    """Lifts the map to a coarse volume with few channels, works in three dimensions and refines it.

    Args:
        in_channels: channels of the map.
        channels: channels of the map before it is lifted.
        volume_channels: channels of the coarse volume; on a CPU a multiple of 32 is several times as fast as others.
        fine_channels: channels of the fine volume.
        layers: convolutions in the coarse volume.
        stride: voxels, along each axis, that become one of the coarse volume; it divides their numbers.
        num_classes: K; the last class is free space.
        grid: where the voxels lie; default those of Occ3D.

    Raises:
        ValueError: `stride` does not divide the numbers of voxels, or there are less than no layers.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int = 64,
        volume_channels: int = 32,
        fine_channels: int = 16,
        layers: int = 2,
        stride: int = 2,
        num_classes: int = len(OCCUPANCY_CLASSES),
        grid: Grid = OCCUPANCY_GRID,
    ) -> None:
        super().__init__()
        if stride < 1 or any(count % stride for count in grid.shape) or layers < 0:
            raise ValueError(
                f"VoxelDecoder: stride must divide the grid's {grid.shape} and layers be at least 0, "
                f"got {stride} and {layers}"
            )
        self.in_channels, self.num_classes, self.grid = in_channels, num_classes, grid
        self.coarse_grid = grid.coarsen(stride)
        self.stride, self.num_layers = stride, grid.num_z // stride
        self.narrow = conv_block(in_channels, channels)
        self.lift = nn.Sequential(
            nn.Conv2d(channels, volume_channels * self.num_layers, 1, bias=False),
            nn.BatchNorm2d(volume_channels * self.num_layers),
            nn.ReLU(inplace=True),
        )
        self.volume = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(volume_channels, volume_channels, 3, padding=1, bias=False),
                nn.BatchNorm3d(volume_channels),
                nn.ReLU(inplace=True),
            )
            for _ in range(layers)
        )
        # A transposed convolution whose kernel is its stride, as a product per voxel: several times as fast on a CPU.
        self.refine = nn.Conv3d(volume_channels, fine_channels * stride**3, 1, bias=False)
        self.normalize = nn.Sequential(nn.BatchNorm3d(fine_channels), nn.ReLU(inplace=True))
        self.logits = nn.Conv3d(fine_channels, num_classes, 1)

    def forward(self, level: BevMap) -> Tensor:
        """Runs the network.

        Args:
            level: the map, of any cells.

        Returns:
            (B, K, Z, Y, X).
        """
        coarse = resample(self.narrow(level.features), level.grid, self.coarse_grid)  # (B, C, Y / S, X / S)
        volume = self.lift(coarse).unflatten(1, (-1, self.num_layers))  # (B, V, Z / S, Y / S, X / S)
        for layer in self.volume:
            volume = volume + layer(volume)
        return self.logits(self.normalize(_spread(self.refine(volume), self.stride)))  # (B, K, Z, Y, X)


def _spread(volume: Tensor, stride: int) -> Tensor:
    """(B, C * S * S * S, Z, Y, X) -> (B, C, Z * S, Y * S, X * S): every group of channels becomes a cube of voxels."""
    cubes = volume.unflatten(1, (-1, stride, stride, stride))  # (B, C, S, S, S, Z, Y, X)
    spread = cubes.permute(0, 1, 5, 2, 6, 3, 7, 4)  # (B, C, Z, S, Y, S, X, S)
    return spread.flatten(6).flatten(4, 5).flatten(2, 3)


def resample(features: Tensor, grid: Grid, to_grid: Grid) -> Tensor:
    """Reads a map at the centres of other cells, by bilinear interpolation; beyond it there are zeros.

    Two products of matrices, so that the gradient is summed in the same order in every run.

    Args:
        features: (B, C, Y, X).
        grid: where its cells lie.
        to_grid: where those of the result lie, in the same frame.

    Returns:
        (B, C, Y', X').
    """
    along_x, along_y = (_weights(grid, to_grid, axis).to(features) for axis in (0, 1))
    return along_y @ (features @ along_x.T)  # (B, C, Y, X) -> (B, C, Y, X') -> (B, C, Y', X')


def _weights(grid: Grid, to_grid: Grid, axis: int) -> Tensor:
    """(N', N) how much each of N cells counts for each of N' others along an axis."""
    count, to_count = (one.shape[2 - axis] for one in (grid, to_grid))
    centers_m = to_grid.origin_m[axis] + (torch.arange(to_count, dtype=torch.float64) + 0.5) * to_grid.cell_m[axis]
    place = (centers_m - grid.origin_m[axis]) / grid.cell_m[axis]  # in cells from the lower bound
    inside = (place >= 0) & (place <= count)
    away = ((place - 0.5).clamp(0, count - 1)[:, None] - torch.arange(count)).abs()
    return (1 - away).clamp(min=0) * inside[:, None]
