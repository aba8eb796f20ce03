"""From the maps of CenterPoint to boxes in the true ego frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.boxes import transform_boxes
from perception.geometry.grid import Grid
from perception.models.heads.centerpoint_output import REGRESSION_CHANNELS, CenterPointOutput
from perception.ops.nms_circle import nms_circle
from perception.ops.nms_rotated import nms_rotated
from perception.structures import Detections
from perception.structures.tensors import check_numbers

_MAX_LOG_SIZE = 5.0  # 148 m: an untrained network must not give infinite boxes


@dataclass(frozen=True, kw_only=True)
class CenterPointDecoding:
    """How peaks become boxes.

    Args:
        score_threshold: peaks whose class score is below are dropped.
        max_candidates: peaks per sample that go into suppression, the best first.
        max_boxes: boxes per sample at most.
        peak_size_cells: odd; a peak is the largest of a square of this many cells.
        nms: "circle" suppresses by the distance of centres, "rotated" by the overlap of footprints.
        nms_radius_m: "circle": of two boxes of one group whose centres are no farther apart than this, the better
            stays; one radius per group, or one for all; 0 keeps everything.
        nms_iou: "rotated": of two boxes of one group whose footprints overlap (IoU) more than this, the better stays;
            one per group, or one for all; 1 keeps everything.
        overlap_power: the final score is score^(1 - power) * IoU^power with the overlap that the head guessed, one
            power per group, or one for all; 0 leaves the score.

    Raises:
        ValueError: a number out of its range.

    Source:
        Yin et al. 2021, section 4; circular suppression from its published code; the final score from Hu et al. 2022,
        "AFDetV2", section 3.2.
    """

    score_threshold: float = 0.1
    max_candidates: int = 1000
    max_boxes: int = 300
    peak_size_cells: int = 3
    nms: Literal["circle", "rotated"] = "circle"
    nms_radius_m: tuple[float, ...] | float = 0.5
    nms_iou: tuple[float, ...] | float = 0.2
    overlap_power: tuple[float, ...] | float = 0.0

    def __post_init__(self) -> None:
        fits = 0 <= self.score_threshold <= 1 and self.max_candidates > 0 and self.max_boxes > 0
        if not fits or self.peak_size_cells < 1 or self.peak_size_cells % 2 == 0:
            raise ValueError(
                f"CenterPointDecoding: score_threshold must be in [0, 1], the counts positive and peak_size_cells odd, "
                f"got {self}"
            )
        if self.nms not in ("circle", "rotated"):
            raise ValueError(f'CenterPointDecoding: nms must be "circle" or "rotated", got {self.nms!r}')
        for name, most in {"nms_radius_m": math.inf, "nms_iou": 1.0, "overlap_power": 1.0}.items():
            values = _per_group(getattr(self, name))
            if not values or not all(0 <= value <= most for value in values):
                raise ValueError(f"CenterPointDecoding: {name} must hold numbers in [0, {most}], got {values}")

    @property
    def rescores(self) -> bool:
        """Whether scores depend on guessed overlaps."""
        return any(_per_group(self.overlap_power))

    def check_groups(self, num_groups: int) -> None:
        """Refuses settings per group of another number of groups.

        Args:
            num_groups: G.

        Raises:
            ValueError: there is neither one value nor one per group.
        """
        for name in ("nms_radius_m", "nms_iou", "overlap_power"):
            values = _per_group(getattr(self, name))
            if len(values) not in (1, num_groups):
                raise ValueError(
                    f"CenterPointDecoding: {name} must be one number or one per group ({num_groups}), got {values}"
                )

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
            ValueError: the network gave NaN, which would pass for an empty street, or no overlap where it is needed.
        """
        self.check_groups(output.groups.num_groups)
        scores = output.heatmap.float().sigmoid()
        check_numbers("CenterPointDecoding: heatmap", scores)
        around = functional.max_pool2d(scores, self.peak_size_cells, stride=1, padding=self.peak_size_cells // 2)
        is_peak = (scores == around) & (scores >= self.score_threshold)
        peaks = torch.where(is_peak, self._rescore(scores, output), torch.zeros_like(scores))
        aug2ego = torch.linalg.inv(ego2aug)
        return tuple(self._decode_one(output, peaks, index, aug2ego[index], class_names) for index in range(len(peaks)))

    def _rescore(self, scores: Tensor, output: CenterPointOutput) -> Tensor:
        """(B, K, Y, X) scores, sharpened by the overlaps of their groups."""
        if not self.rescores:
            return scores
        if output.overlap is None:
            raise ValueError("CenterPointDecoding: output must hold overlaps where overlap_power is above 0, got none")
        of_class = list(output.groups.group_of_class)
        overlap = ((output.overlap.float() + 1) / 2).clamp(0, 1)[:, of_class]  # (B, G, Y, X) -> (B, K, Y, X)
        power = scores.new_tensor(_spread(self.overlap_power, output.groups.num_groups))[of_class].view(-1, 1, 1)
        return scores.pow(1 - power) * overlap.pow(power)

    def _decode_one(
        self, output: CenterPointOutput, peaks: Tensor, sample: int, aug2ego: Tensor, class_names: Sequence[str]
    ) -> Detections:
        groups, (num_y, num_x) = output.groups, peaks.shape[-2:]
        flat = peaks[sample].flatten()  # (K, Y, X) -> (K * Y * X,)
        scores, index = flat.topk(min(self.max_candidates, flat.numel()))
        scores, index = scores[scores > 0], index[scores > 0]
        channel, row, column = index // (num_y * num_x), index // num_x % num_y, index % num_x
        group = torch.tensor(groups.group_of_class, device=index.device)[channel]
        regression = output.regression[sample, group, :, row, column].float()  # (M, 10)
        boxes = transform_boxes(aug2ego, decode_boxes(regression, row, column, output.grid))
        kept = self._suppress(boxes, scores, group, groups.num_groups)
        label_of_channel = torch.tensor([class_names.index(name) for name in groups.names], device=index.device)
        return Detections(boxes=boxes[kept], scores=scores[kept], labels=label_of_channel[channel[kept]])

    def _suppress(self, boxes: Tensor, scores: Tensor, group: Tensor, num_groups: int) -> Tensor:
        """Indices of the boxes that stay, scores falling."""
        radii, overlaps = _spread(self.nms_radius_m, num_groups), _spread(self.nms_iou, num_groups)
        kept = []
        for number, (radius_m, iou) in enumerate(zip(radii, overlaps, strict=True)):
            members = (group == number).nonzero()[:, 0]
            if self.nms == "rotated" and iou < 1:
                members = members[nms_rotated(boxes[members], scores[members], iou)]
            elif self.nms == "circle" and radius_m > 0:
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


def _per_group(value: Sequence[float] | float) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _spread(value: Sequence[float] | float, num_groups: int) -> tuple[float, ...]:
    values = _per_group(value)
    return values if len(values) == num_groups else values * num_groups
