"""Lift-splat: image features spread along their viewing rays by a depth distribution and summed in BEV cells."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.grids import refine_grid
from perception.models.layers import conv_block, scatter_samples
from perception.models.parts import View
from perception.models.views.frustum import frustum_cells
from perception.models.views.projection import check_plan
from perception.ops.bev_pool import BevPoolPlan, bev_pool, bev_pool_plan
from perception.structures import BevMap, CameraImages, CameraViews, SensorFeatures
from perception.structures.tensors import map_tensors


@dataclass(frozen=True, kw_only=True)
class LiftSplatPlan:
    """Where the frustums of a batch fall; depends on calibration, `ego2aug`, grid and feature size alone.

    Args:
        present: (B, N) bool, the cameras that it is of.
        pool: of the S samples with a camera, one map of S * Y rows, so that they may have different numbers of cameras.
        samples: (S,) int64, which samples these are.
        validity: (S, 1, Y, X) bool, cells of the level that a viewing ray passes.
    """

    present: Tensor
    pool: BevPoolPlan
    samples: Tensor
    validity: Tensor

    def to(self, device: torch.device | str) -> "LiftSplatPlan":
        """Moves the plan to another device.

        Args:
            device: where the features will be.

        Returns:
            The same plan there.
        """
        return map_tensors(self, lambda tensor: tensor.to(device))


class LiftSplat(View):
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
        splat_stride: how much finer than the level's the cells are that features are summed in; above 1, convolutions
            bring the sums to the level.

    Raises:
        ValueError: the range does not hold a whole number of bins.

    Source:
        Philion and Fidler 2020, "Lift, Splat, Shoot", sections 3.1 and 3.2; finer cells with convolutions after them
        as published with Liu et al. 2023, "BEVFusion".
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
        splat_stride: int = 1,
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
        self.splat_stride = splat_stride
        self.num_bins = num_bins
        self.register_buffer("edges_m", torch.linspace(lower, upper, num_bins + 1), persistent=False)
        self.lift = nn.Sequential(
            conv_block(in_channels, in_channels), nn.Conv2d(in_channels, num_bins + context_channels, 1)
        )
        self.refine = _refinement(context_channels, out_channels, splat_stride)

    def plan(
        self, cameras: CameraImages, feature_size: tuple[int, int], ego2aug: Tensor, grids: Mapping[str, Grid]
    ) -> LiftSplatPlan:
        """Finds where the frustums fall: the larger part of the work where there are many bins.

        Args:
            cameras: calibration of B samples; at least one camera is present.
            feature_size: rows and columns (h, w) of the image features that the view reads.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The plan for every batch with this calibration, the same present cameras and `ego2aug`.
        """
        grid = refine_grid(grids[self.level], self.splat_stride)
        samples = cameras.present.any(1).nonzero()[:, 0]  # (S,)
        centers_m = (self.edges_m[1:] + self.edges_m[:-1]) / 2
        cells = frustum_cells(cameras, ego2aug, feature_size, centers_m, grid)  # (K, D, h, w)
        pool = bev_pool_plan(cells[None], (len(samples) * grid.num_y, grid.num_x))
        passed = (pool.offsets.diff() > 0).view(len(samples), 1, grid.num_y, grid.num_x)
        validity = nn.functional.max_pool2d(passed.float(), self.splat_stride) > 0
        return LiftSplatPlan(present=cameras.present, pool=pool, samples=samples, validity=validity)

    def forward(
        self, views: CameraViews, ego2aug: Tensor, grids: Mapping[str, Grid], plan: LiftSplatPlan | None = None
    ) -> SensorFeatures:
        """Lifts and splats the features of the present cameras.

        Args:
            views: image features of B samples; at least one camera is present.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.
            plan: what `plan` gave for this calibration; None makes it.

        Returns:
            The map of one level; valid where a viewing ray passes. `aux` holds "depth_logits" (K, D, h, w) of the K
            present cameras and "depth_edges_m" (D + 1,), the bins' ends.

        Raises:
            ValueError: the plan is of other present cameras or another feature size.
        """
        cameras = views.cameras
        features = views.levels[self.view_level][cameras.present]  # (B, N, C, h, w) -> (K, C, h, w)
        if plan is None:
            plan = self.plan(cameras, (features.shape[-2], features.shape[-1]), ego2aug, grids)
        check_plan("LiftSplat", plan.present, cameras.present)
        lifted = self.lift(features)  # (K, C, h, w) -> (K, D + context, h, w)
        depth_logits, context = lifted[:, : self.num_bins], lifted[:, self.num_bins :]
        pooled = bev_pool(depth_logits.softmax(dim=1)[None], context[None], plan.pool)  # (1, C, S * Y, X)
        sums = pooled[0].unflatten(1, (len(plan.samples), -1)).transpose(0, 1)  # (C, S, Y, X) -> (S, C, Y, X)
        batch_size = len(ego2aug)
        level = BevMap(
            features=scatter_samples(self.refine(sums), plan.samples, batch_size),  # (S, C, Y, X) -> (B, C, Y, X)
            validity=scatter_samples(plan.validity, plan.samples, batch_size),
            grid=grids[self.level],
        )
        aux = {"depth_logits": depth_logits, "depth_edges_m": self.edges_m}
        return SensorFeatures(present=cameras.present.any(1), bev={self.level: level}, views=views, aux=aux)


def _refinement(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    if stride == 1:
        return conv_block(in_channels, out_channels)
    return nn.Sequential(
        conv_block(in_channels, in_channels),
        conv_block(in_channels, in_channels, stride=stride),
        conv_block(in_channels, out_channels),
    )
