"""SECOND's middle network: convolutions on occupied voxels alone, from fine voxels to coarse ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from perception.models.layers import RowNorm
from perception.ops.sparse_conv import sparse_conv
from perception.ops.sparse_conv_plan import SparseConvPlan, Triple, strided_plan, strided_shape, submanifold_plan

# The convolution after the last stage halves the layers alone.
_FLATTEN = {"kernel": (3, 1, 1), "stride": (2, 1, 1), "padding": (0, 0, 0)}
_HALVE = {"kernel": (3, 3, 3), "stride": (2, 2, 2), "padding": (1, 1, 1)}


@dataclass(frozen=True, kw_only=True)
class VoxelFeatures:
    """Features of occupied voxels.

    Args:
        features: (V, C).
        coords: (V, 4) int64 batch z y x.
        shape: (Z, Y, X) of the grid that they are in.
    """

    features: Tensor
    coords: Tensor
    shape: Triple


class SparseConvBlock(nn.Module):
    """Sparse convolution, batch normalisation over voxels, and ReLU.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel: size along z, y, x.
        activate: whether ReLU follows.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: Triple = (3, 3, 3), activate: bool = True
    ) -> None:
        super().__init__()
        num_elements = math.prod(kernel)
        self.weight = nn.Parameter(torch.empty(num_elements, in_channels, out_channels))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (num_elements * in_channels)))
        self.norm = RowNorm(out_channels)
        self.activation = nn.ReLU(inplace=True) if activate else nn.Identity()

    def forward(self, features: Tensor, plan: SparseConvPlan) -> Tensor:
        """Convolves.

        Args:
            features: (V_in, in_channels) of the plan's input voxels.
            plan: which voxels meet.

        Returns:
            (V_out, out_channels) of its output voxels.
        """
        return self.activation(self.norm(sparse_conv(features, self.weight, plan)))


class SparseResidualBlock(nn.Module):
    """Two submanifold convolutions around a shortcut.

    Args:
        channels: channels in and out.

    Source:
        He et al. 2016, "Deep Residual Learning", figure 2, on voxels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = SparseConvBlock(channels, channels)
        self.second = SparseConvBlock(channels, channels, activate=False)

    def forward(self, features: Tensor, plan: SparseConvPlan) -> Tensor:
        """Runs the block.

        Args:
            features: (V, channels).
            plan: submanifold.

        Returns:
            (V, channels).
        """
        return (features + self.second(self.first(features, plan), plan)).relu()


class SparseStage(nn.Module):
    """One resolution: a convolution into it, then blocks that share one plan.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        num_blocks: blocks after the first convolution.
        halve: whether the first convolution halves the resolution; otherwise it is submanifold.
        residual: blocks of two convolutions with a shortcut; False: one convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int, halve: bool, residual: bool) -> None:
        super().__init__()
        self.halve = halve
        self.entry = SparseConvBlock(in_channels, out_channels)
        self.blocks = nn.ModuleList(
            SparseResidualBlock(out_channels) if residual else SparseConvBlock(out_channels, out_channels)
            for _ in range(num_blocks)
        )

    def forward(self, voxels: VoxelFeatures) -> VoxelFeatures:
        """Runs the stage.

        Args:
            voxels: features (V, in_channels).

        Returns:
            Features (V', out_channels), of coarser voxels where the stage halves.
        """
        features, coords, shape = voxels.features, voxels.coords, voxels.shape
        if self.halve:
            down = strided_plan(coords, shape, **_HALVE)
            features, coords, shape = self.entry(features, down), down.coords, down.shape
        plan = submanifold_plan(coords, shape)
        if not self.halve:
            features = self.entry(features, plan)
        for block in self.blocks:
            features = block(features, plan)
        return VoxelFeatures(features=features, coords=coords, shape=shape)


class SparseBackbone(nn.Module):
    """Stages of submanifold convolutions; each stage after the first begins by halving the resolution.

    The pairs of voxels that meet are found once per stage and shared by its convolutions.

    Args:
        in_channels: channels of the voxels.
        stage_channels: channels of each stage.
        stage_blocks: blocks of each stage.
        out_channels: channels after the last convolution, which halves the number of layers once more.
        residual: blocks of two convolutions with a shortcut, as CenterPoint and BEVFusion use; False: one convolution.

    Raises:
        ValueError: the sequences differ in length or are empty.

    Source:
        Yan et al. 2018, "SECOND", section 3.1; widths and residual blocks as published with Yin et al. 2021.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        stage_channels: Sequence[int] = (16, 32, 64, 128),
        stage_blocks: Sequence[int] = (2, 2, 2, 2),
        out_channels: int = 128,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if not len(stage_channels) == len(stage_blocks) > 0:
            raise ValueError(
                f"SparseBackbone: stage_channels and stage_blocks must have one length above 0, "
                f"got {len(stage_channels)} and {len(stage_blocks)}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = 2 ** (len(stage_channels) - 1)
        widths = (in_channels, *stage_channels)
        stages = (
            SparseStage(narrow, wide, num_blocks=num_blocks, halve=number > 0, residual=residual)
            for number, ((narrow, wide), num_blocks) in enumerate(zip(pairwise(widths), stage_blocks, strict=True))
        )
        self.stages = nn.Sequential(*stages)
        self.exit = SparseConvBlock(widths[-1], out_channels, kernel=_FLATTEN["kernel"])

    def out_layers(self, num_layers: int) -> int:
        """Tells how many layers remain.

        Args:
            num_layers: layers of the voxels.

        Returns:
            Layers of the result.

        Raises:
            ValueError: the last convolution would meet fewer than three layers, or leave the top one out.
        """
        size = num_layers
        for _ in range(len(self.stages) - 1):
            size = strided_shape((size, 1, 1), **_HALVE, dilation=(1, 1, 1))[0]
        if size < 3 or size % 2 == 0:
            raise ValueError(
                f"SparseBackbone: num_layers must leave an odd number of layers, at least 3, after "
                f"{len(self.stages)} stages, got {size} of {num_layers}"
            )
        return strided_shape((size, 1, 1), **_FLATTEN, dilation=(1, 1, 1))[0]

    def forward(self, voxels: VoxelFeatures) -> VoxelFeatures:
        """Runs the stages.

        Args:
            voxels: features (V, in_channels); V may be 0.

        Returns:
            Coarser voxels with features (V', out_channels).
        """
        voxels = self.stages(voxels)
        last = strided_plan(voxels.coords, voxels.shape, **_FLATTEN)
        return VoxelFeatures(features=self.exit(voxels.features, last), coords=last.coords, shape=last.shape)
