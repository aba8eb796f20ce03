"""From the maps of CenterPoint to boxes in the true ego frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.boxes import transform_boxes
from perception.geometry.grid import Grid
from perception.models.heads.centerpoint_output import REGRESSION_CHANNELS, CenterPointOutput
from perception.ops.nms_circle import nms_circle
from perception.structures import Detections

_MAX_LOG_SIZE = 5.0  # 148 m: an untrained network must not give infinite boxes


@dataclass(frozen=True, kw_only=True)
class CenterPointDecoding:
    """How peaks become boxes.

    Args:
        score_threshold: peaks below are dropped.
        max_candidates: peaks per sample that go into suppression, the best first.
        max_boxes: boxes per sample at most.
        peak_size_cells: odd; a peak is the largest of a square of this many cells.
        nms_radius_m: of two boxes of one group whose centres are closer than this, the better stays; one radius per
            group, or one for all; 0 keeps everything.

    Raises:
        ValueError: a number out of its range.

    Source:
        Yin et al. 2021, section 4; circular suppression from its published code.
    """

    score_threshold: float = 0.1
    max_candidates: int = 1000
    max_boxes: int = 300
    peak_size_cells: int = 3
    nms_radius_m: tuple[float, ...] | float = 0.5

    def __post_init__(self) -> None:
        fits = 0 <= self.score_threshold <= 1 and self.max_candidates > 0 and self.max_boxes > 0
        if not fits or self.peak_size_cells < 1 or self.peak_size_cells % 2 == 0 or min(self._radii, default=-1) < 0:
            raise ValueError(
                f"CenterPointDecoding: score_threshold must be in [0, 1], the counts positive, peak_size_cells odd and "
                f"nms_radius_m not negative, got {self}"
            )

    @property
    def _radii(self) -> tuple[float, ...]:
        return tuple(self.nms_radius_m) if isinstance(self.nms_radius_m, Sequence) else (self.nms_radius_m,)

    def radii_m(self, num_groups: int) -> tuple[float, ...]:
        """Gives the suppression radius of each group.

        Args:
            num_groups: G.

        Returns:
            G radii, metres.

        Raises:
            ValueError: there is neither one radius nor one per group.
        """
        radii = self._radii
        if len(radii) not in (1, num_groups):
            raise ValueError(
                f"CenterPointDecoding: nms_radius_m must be one number or one per group ({num_groups}), got {radii}"
            )
        return radii if len(radii) == num_groups else radii * num_groups

    @torch.no_grad()
    def decode(self, output: CenterPointOutput, ego2aug: Tensor, class_names: Sequence[str]) -> tuple[Detections, ...]:
        """Finds the boxes of every sample.

        Args:
            output: what the network gave for B samples.
            ego2aug: (B, 4, 4).
            class_names: classes that the labels of the result index.

        Returns:
            B sets of boxes in the true ego frame, scores falling.

        Raises:
            ValueError: the network gave NaN, which would pass for an empty street.
        """
        scores = output.heatmap.float().sigmoid()
        if bool(scores.isnan().any()):
            raise ValueError("CenterPointDecoding: heatmap must hold numbers, got NaN")
        around = functional.max_pool2d(scores, self.peak_size_cells, stride=1, padding=self.peak_size_cells // 2)
        peaks = torch.where(scores == around, scores, torch.zeros_like(scores))
        aug2ego = torch.linalg.inv(ego2aug)
        return tuple(self._decode_one(output, peaks, index, aug2ego[index], class_names) for index in range(len(peaks)))

    def _decode_one(
        self, output: CenterPointOutput, peaks: Tensor, sample: int, aug2ego: Tensor, class_names: Sequence[str]
    ) -> Detections:
        groups, (num_y, num_x) = output.groups, peaks.shape[-2:]
        flat = peaks[sample].flatten()  # (K, Y, X) -> (K * Y * X,)
        scores, index = flat.topk(min(self.max_candidates, flat.numel()))
        chosen = (scores > 0) & (scores >= self.score_threshold)
        scores, index = scores[chosen], index[chosen]
        channel, row, column = index // (num_y * num_x), index // num_x % num_y, index % num_x
        group = torch.tensor(groups.group_of_class, device=index.device)[channel]
        regression = output.regression[sample, group, :, row, column].float()  # (M, 10)
        boxes = transform_boxes(aug2ego, decode_boxes(regression, row, column, output.grid))
        kept = self._suppress(boxes, scores, group, groups.num_groups)
        label_of_channel = torch.tensor([class_names.index(name) for name in groups.names], device=index.device)
        return Detections(boxes=boxes[kept], scores=scores[kept], labels=label_of_channel[channel[kept]])

    def _suppress(self, boxes: Tensor, scores: Tensor, group: Tensor, num_groups: int) -> Tensor:
        """Indices of the boxes that stay, scores falling."""
        kept = []
        for number, radius_m in enumerate(self.radii_m(num_groups)):
            members = (group == number).nonzero()[:, 0]
            if radius_m > 0:
                members = members[nms_circle(boxes[members, :2], scores[members], radius_m)]
            kept.append(members)
        together = torch.cat(kept)
        return together[scores[together].argsort(descending=True, stable=True)[: self.max_boxes]]


def decode_boxes(regression: Tensor, row: Tensor, column: Tensor, grid: Grid) -> Tensor:
    """Reads boxes from regression values; the inverse of `encode_boxes`.

    Args:
        regression: (M, 10), in the order of `REGRESSION_CHANNELS`.
        row: (M,) row of the cell.
        column: (M,) column of the cell.
        grid: where the cells lie.

    Returns:
        (M, 9) in the augmented ego frame.
    """
    offset, height, size, yaw, velocity = regression.split(list(REGRESSION_CHANNELS.values()), dim=1)
    cell, origin = regression.new_tensor(grid.cell_m[:2]), regression.new_tensor(grid.origin_m[:2])
    center = origin + (torch.stack((column, row), dim=1) + offset) * cell  # (M, 2)
    size = size.clamp(max=_MAX_LOG_SIZE).exp()
    return torch.cat((center, height, size, torch.atan2(yaw[:, :1], yaw[:, 1:]), velocity), dim=1)
