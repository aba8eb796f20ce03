"""Lift-splat: image features spread along their viewing rays by a depth distribution and summed in BEV cells."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.layers import conv_block, scatter_samples
from perception.models.views.frustum import feature_rays, frustum_points
from perception.ops.bev_pool import bev_pool, bev_pool_plan
from perception.structures import BevMap, CameraImages, CameraViews, SensorFeatures


class LiftSplat(nn.Module):
    """Moves camera features into the bird's-eye view.

    "Depth" is the distance from the camera along the viewing ray, for pinhole and fisheye alike: the depth along the
    optical axis means nothing beside and behind a fisheye.

    Args:
        in_channels: channels of the image features.
        context_channels: channels that are spread along the rays.
        out_channels: channels of the map.
        distance_range_m: lower and upper end of the bins, metres from the camera.
        distance_step_m: length of a bin, metres.
        level: the grid level to fill.
        view_level: which level of the image features to read, 0 the finest.

    Raises:
        ValueError: the range does not hold a whole number of bins.

    Source:
        Philion and Fidler 2020, "Lift, Splat, Shoot", sections 3.1 and 3.2.
    """

    edges_m: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        context_channels: int,
        out_channels: int,
        distance_range_m: tuple[float, float] = (1.0, 60.0),
        distance_step_m: float = 0.5,
        level: str = "main",
        view_level: int = 0,
    ) -> None:
        super().__init__()
        lower, upper = distance_range_m
        num_bins = round((upper - lower) / distance_step_m)
        if not 0 <= lower < upper or num_bins < 1 or abs(lower + num_bins * distance_step_m - upper) > 1e-3:
            raise ValueError(
                f"LiftSplat: distance_range_m must rise and hold a whole number of bins of {distance_step_m} m, "
                f"got {distance_range_m}"
            )
        self.level = level
        self.view_level = view_level
        self.in_channels = in_channels
        self.out_channels = {level: out_channels}
        self.num_bins = num_bins
        self.register_buffer("edges_m", torch.linspace(lower, upper, num_bins + 1), persistent=False)
        self.lift = nn.Sequential(
            conv_block(in_channels, in_channels), nn.Conv2d(in_channels, num_bins + context_channels, 1)
        )
        self.refine = conv_block(context_channels, out_channels)

    def forward(self, views: CameraViews, ego2aug: Tensor, grids: Mapping[str, Grid]) -> SensorFeatures:
        """Lifts and splats the features of the present cameras.

        Args:
            views: image features of B samples; at least one camera is present.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The map of one level; valid where a viewing ray passes. `aux` holds "depth_logits" (K, D, h, w) of the K
            present cameras and "depth_edges_m" (D + 1,), the bins' ends.
        """
        cameras, grid = views.cameras, grids[self.level]
        features = views.levels[self.view_level][cameras.present]  # (B, N, C, h, w) -> (K, C, h, w)
        lifted = self.lift(features)  # (K, C, h, w) -> (K, D + context, h, w)
        depth_logits, context = lifted[:, : self.num_bins], lifted[:, self.num_bins :]
        samples = cameras.present.any(1).nonzero()[:, 0]  # (S,)
        cells = self._cells(cameras, ego2aug, grid, (features.shape[-2], features.shape[-1]))  # (K, D, h, w)
        shape = (len(samples), grid.num_y, grid.num_x)
        bev = self.refine(_pool(depth_logits.softmax(dim=1), context, cells, shape))
        validity = _occupied(cells, shape)
        batch_size = len(ego2aug)
        level = BevMap(
            features=scatter_samples(bev, samples, batch_size),  # (S, C, Y, X) -> (B, C, Y, X)
            validity=scatter_samples(validity, samples, batch_size),
            grid=grid,
        )
        aux = {"depth_logits": depth_logits, "depth_edges_m": self.edges_m}
        return SensorFeatures(present=cameras.present.any(1), bev={self.level: level}, views=views, aux=aux)

    def _cells(self, cameras: CameraImages, ego2aug: Tensor, grid: Grid, feature_size: tuple[int, int]) -> Tensor:
        """BEV cell of each frustum point (K, D, h, w) int64, counted through the samples with a camera; -1 outside."""
        rays, valid = feature_rays(cameras, feature_size)  # (K, h, w, 3), (K, h, w)
        centers_m = (self.edges_m[1:] + self.edges_m[:-1]) / 2
        cells, inside = grid.cells(frustum_points(cameras, ego2aug, rays, centers_m))  # (K, D, h, w, 3)
        seen = cameras.present.any(1)
        row = (seen.cumsum(0) - 1)[cameras.present.nonzero()[:, 0]]  # (K,) row among the samples with a camera
        index = (row[:, None, None, None] * grid.num_y + cells[..., 1]) * grid.num_x + cells[..., 2]
        return torch.where(inside & valid[:, None], index, -1)


def _pool(depth: Tensor, context: Tensor, cells: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Sums along the rays: (K, D, h, w) and (K, C, h, w) -> (S, C, Y, X).

    The S maps are pooled as one map of S * Y rows, so that samples may have different numbers of cameras.
    """
    samples, num_y, num_x = shape
    plan = bev_pool_plan(cells[None], (samples * num_y, num_x))
    pooled = bev_pool(depth[None], context[None], plan)  # (1, C, S * Y, X)
    return pooled[0].unflatten(1, (samples, num_y)).transpose(0, 1)  # (C, S, Y, X) -> (S, C, Y, X)


def _occupied(cells: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Cells that a viewing ray passes, (S, 1, Y, X) bool."""
    batch_size, num_y, num_x = shape
    occupied = torch.zeros(batch_size * num_y * num_x, dtype=torch.bool, device=cells.device)
    return occupied.index_fill(0, cells[cells >= 0], True).view(batch_size, 1, num_y, num_x)
