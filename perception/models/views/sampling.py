"""Backward sampling: each cell of a level takes the image features where cameras see the column above it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.layers import conv_block, scatter_samples
from perception.models.parts import View
from perception.models.views.projection import check_plan, project_columns, read_levels
from perception.ops.view_sample import ViewSamplePlan, view_sample
from perception.structures import BevMap, CameraImages, CameraViews, SensorFeatures


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """Where the columns of cells lie in the pictures; depends on calibration, `ego2aug` and grids alone.

    Args:
        present: (B, N) bool, the cameras that it is of.
        samples: (S,) int64, the samples with a camera.
        levels: level name -> plan of its points (Z, Y, X) in the cameras of these samples.
    """

    present: Tensor
    samples: Tensor
    levels: Mapping[str, ViewSamplePlan]

    def to(self, device: torch.device | str) -> "SamplingPlan":
        """Moves the plan to another device.

        Args:
            device: where the features will be.

        Returns:
            The same plan there.
        """
        levels = {name: level.to(device) for name, level in self.levels.items()}
        return SamplingPlan(present=self.present.to(device), samples=self.samples.to(device), levels=levels)


class SamplingView(View):
    """Fills any number of levels from the pixels where cameras see the columns of their cells.

    Each point of a column takes the mean over the cameras that see it; the column takes the mean over its points that
    are seen, weighted by what was learnt for each height and channel. No depth is estimated, so a feature appears along
    its whole ray, and the convolution after it has to tell where it belongs. Cameras of every model are read as they
    are; a level near the vehicle and one far reached need but one view.

    Args:
        in_channels: channels of the image features.
        context_channels: channels that are sampled.
        out_channels: level name -> channels of its map.
        heights_m: heights of the points of each column, metres in the (augmented) ego frame.
        view_level: the first level of the image features to read, 0 the finest.
        num_view_levels: how many to read, from that one on; their features are averaged.

    Raises:
        ValueError: no level or no height.

    Source:
        Harley et al., "Simple-BEV", ICRA 2023, section 3.1; weights per height are this project's own.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        context_channels: int,
        out_channels: dict[str, int],
        heights_m: Sequence[float] = (0.0, 0.7, 1.4, 2.4),
        view_level: int = 0,
        num_view_levels: int = 1,
    ) -> None:
        super().__init__()
        if not out_channels or not heights_m:
            raise ValueError(
                f"SamplingView: out_channels and heights_m must not be empty, got {out_channels} and {heights_m}"
            )
        self.in_channels = in_channels
        self.out_channels = dict(out_channels)
        self.view_level = view_level
        self.heights_m = tuple(heights_m)
        self.reduce = nn.ModuleList(conv_block(in_channels, context_channels, kernel=1) for _ in range(num_view_levels))
        self.height_logits = nn.ParameterDict(
            {level: nn.Parameter(torch.zeros(context_channels, len(self.heights_m))) for level in out_channels}
        )
        self.refine = nn.ModuleDict({level: conv_block(context_channels, own) for level, own in out_channels.items()})

    def plan(
        self, cameras: CameraImages, feature_size: tuple[int, int], ego2aug: Tensor, grids: Mapping[str, Grid]
    ) -> SamplingPlan:
        """Finds where the columns lie in the pictures.

        Args:
            cameras: calibration of B samples; at least one camera is present.
            feature_size: not needed.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The plan for every batch with this calibration, the same present cameras and `ego2aug`.
        """
        samples, levels = cameras.present.any(1).nonzero()[:, 0], {}
        for level in self.out_channels:
            _, levels[level] = project_columns(cameras, ego2aug, grids[level], self.heights_m)
        return SamplingPlan(present=cameras.present, samples=samples, levels=levels)

    def forward(
        self, views: CameraViews, ego2aug: Tensor, grids: Mapping[str, Grid], plan: SamplingPlan | None = None
    ) -> SensorFeatures:
        """Samples the features of the present cameras.

        Args:
            views: image features of B samples; at least one camera is present.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.
            plan: what `plan` gave for this calibration; None makes it.

        Returns:
            A map per level, valid where a camera sees the column of the cell.

        Raises:
            ValueError: the plan is of other present cameras.
        """
        cameras = views.cameras
        if plan is None:
            plan = self.plan(cameras, cameras.image_size_px, ego2aug, grids)
        check_plan("SamplingView", plan.present, cameras.present)
        present = cameras.present[plan.samples]  # (S, N)
        reduced = read_levels(views, self.view_level, self.reduce)  # (K, C, h, w) per level
        spread = [level.new_zeros(*present.shape, *level.shape[1:]).index_put((present,), level) for level in reduced]
        bev = {}
        for name, points in plan.levels.items():
            columns = self._collapse(name, view_sample(spread, points), points.seen)  # (S, C, Y, X)
            bev[name] = BevMap(
                features=scatter_samples(self.refine[name](columns), plan.samples, len(ego2aug)),
                validity=scatter_samples(points.seen.any(1, keepdim=True), plan.samples, len(ego2aug)),
                grid=grids[name],
            )
        return SensorFeatures(present=cameras.present.any(1), bev=bev, views=views)

    def _collapse(self, level: str, sampled: Tensor, seen: Tensor) -> Tensor:
        """Weighted mean (S, C, Y, X) of the points (S, C, Z, Y, X) that are seen (S, Z, Y, X); 0 where none is."""
        # Height by height, channels last as they are sampled: a product over all heights would copy them twice.
        weights = self.height_logits[level].softmax(1).to(sampled.dtype).unbind(1)  # Z x (C,)
        heights = sampled.movedim(1, 4).unbind(1)  # (S, C, Z, Y, X) -> Z x (S, Y, X, C)
        known = seen.to(sampled.dtype)[..., None].unbind(1)  # (S, Z, Y, X) -> Z x (S, Y, X, 1)
        mean, total = heights[0] * weights[0], known[0] * weights[0]
        for values, there, weight in zip(heights[1:], known[1:], weights[1:], strict=True):
            mean, total = torch.addcmul(mean, values, weight), torch.addcmul(total, there, weight)
        return (mean / total.clamp(min=torch.finfo(total.dtype).tiny)).movedim(3, 1)
