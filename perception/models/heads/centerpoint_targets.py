"""What the CenterPoint network should say: heatmaps with a Gaussian at each box, and the box at each centre."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry.boxes import transform_boxes
from perception.geometry.grid import Grid
from perception.models.heads.centerpoint_output import ClassGroups
from perception.structures import Batch


@dataclass(frozen=True, kw_only=True)
class TrueBoxes:
    """The M annotated boxes of a batch whose centre lies on a grid and whose class is asked for.

    Args:
        boxes: (M, 9) in the augmented ego frame; sizes are positive.
        sample: (M,) int64.
        channel: (M,) int64, which of the asked classes.
        position: (M, 2) x y of the centre in cells, counted from the grid's lower corner.
    """

    boxes: Tensor
    sample: Tensor
    channel: Tensor
    position: Tensor


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Targets of one batch; the M boxes are those whose centre lies on the grid.

    Args:
        heatmap: (B, K, Y, X) in [0, 1], exactly 1 at the centres.
        annotated: (B,) bool, samples that have annotations.
        cells: (M, 4) int64 sample, group, row, column of each box.
        regression: (M, 10), in the order of `REGRESSION_CHANNELS`; NaN where unknown.
    """

    heatmap: Tensor
    annotated: Tensor
    cells: Tensor
    regression: Tensor


@dataclass(frozen=True, kw_only=True)
class CenterPointTargets:
    """How boxes become targets.

    Args:
        min_overlap: a box shifted by the Gaussian's radius keeps at least this overlap with itself.
        min_radius_cells: the radius is at least this.

    Raises:
        ValueError: the overlap is not between 0 and 1, or the radius is negative.

    Source:
        Yin et al. 2021, "Center-based 3D Object Detection and Tracking", section 4; the radius from Law and Deng 2018,
        "CornerNet", section 3.2.
    """

    min_overlap: float = 0.1
    min_radius_cells: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.min_overlap < 1 or self.min_radius_cells < 0:
            raise ValueError(
                f"CenterPointTargets: min_overlap must be in (0, 1) and min_radius_cells at least 0, "
                f"got {self.min_overlap} and {self.min_radius_cells}"
            )

    @torch.no_grad()
    def assign(self, batch: Batch, class_names: Sequence[str], groups: ClassGroups, grid: Grid) -> Targets:
        """Makes the targets of a batch in the augmented ego frame.

        Args:
            batch: B samples; one without annotations gets none.
            class_names: classes that the labels index; those that are in no group do not count.
            groups: classes of the heatmap.
            grid: where the cells lie.

        Returns:
            The targets.
        """
        truth = boxes_on_grid(batch, class_names, groups.names, grid)
        cells = truth.position.floor().long()  # (M, 2) x y
        group = torch.tensor(groups.group_of_class, device=batch.device)[truth.channel]
        return Targets(
            heatmap=self.heatmap(truth, len(batch), len(groups.names), grid),
            annotated=annotated_samples(batch),
            cells=torch.stack((truth.sample, group, cells[:, 1], cells[:, 0]), dim=1),  # (M,) x 4 -> (M, 4)
            regression=encode_boxes(truth.boxes, truth.position - cells),
        )

    @torch.no_grad()
    def heatmap(self, truth: TrueBoxes, batch_size: int, num_classes: int, grid: Grid) -> Tensor:
        """Draws a Gaussian at each box.

        Args:
            truth: M boxes.
            batch_size: B.
            num_classes: K.
            grid: where the cells lie.

        Returns:
            (B, K, Y, X) in [0, 1], exactly 1 at the centres.
        """
        heatmap = truth.boxes.new_zeros(batch_size, num_classes, grid.num_y, grid.num_x)
        size = truth.boxes[:, 3:5] / truth.boxes.new_tensor(grid.cell_m[:2])
        radius = gaussian_radius(size, self.min_overlap).floor().long()
        radius = radius.clamp(min=self.min_radius_cells).clamp(max=max(grid.num_y, grid.num_x))  # more shows no more
        draw_gaussians(heatmap, truth.sample, truth.channel, truth.position.floor().long(), radius)
        return heatmap


@torch.no_grad()
def boxes_on_grid(batch: Batch, class_names: Sequence[str], wanted: Sequence[str], grid: Grid) -> TrueBoxes:
    """Finds the annotated boxes that a head can learn from, in the augmented ego frame.

    Args:
        batch: B samples; one without annotations gives none.
        class_names: classes that the labels index.
        wanted: classes that the head knows; boxes of others do not count.
        grid: where the cells lie.

    Returns:
        The boxes, sample after sample.
    """
    boxes, sample, labels = _augmented_boxes(batch)
    channel_of_label = [wanted.index(name) if name in wanted else -1 for name in class_names]
    channel = torch.tensor(channel_of_label, device=batch.device)[labels]  # (M,)
    extent = boxes.new_tensor(grid.cell_m[:2])
    position = (boxes[:, :2] - extent.new_tensor(grid.origin_m[:2])) / extent  # (M, 2) x y in cells
    counts = extent.new_tensor((grid.num_x, grid.num_y))
    kept = ((position >= 0) & (position < counts)).all(1) & (channel >= 0) & (boxes[:, 3:6] > 0).all(1)
    return TrueBoxes(boxes=boxes[kept], sample=sample[kept], channel=channel[kept], position=position[kept])


def annotated_samples(batch: Batch) -> Tensor:
    """Tells which samples have annotations; no boxes are annotations too.

    Args:
        batch: B samples.

    Returns:
        (B,) bool.
    """
    return torch.tensor([boxes is not None for boxes in batch.boxes], device=batch.device)


def encode_boxes(boxes: Tensor, offset_cells: Tensor) -> Tensor:
    """Writes boxes as regression targets.

    Args:
        boxes: (M, 9) in the augmented ego frame.
        offset_cells: (M, 2) x y of the centre from the cell's lower corner, in cells.

    Returns:
        (M, 10), in the order of `REGRESSION_CHANNELS`.
    """
    yaw = boxes[:, 6:7]
    return torch.cat((offset_cells, boxes[:, 2:3], boxes[:, 3:6].log(), yaw.sin(), yaw.cos(), boxes[:, 7:9]), dim=1)


def gaussian_radius(size_cells: Tensor, min_overlap: float) -> Tensor:
    """Finds how far the corners of a box may move while its overlap (IoU) with the true box stays above a bound.

    Three cases are solved, and the smallest answer is given: both corners move inward, both outward, or both the same
    way.

    Args:
        size_cells: (M, 2) length and width.
        min_overlap: the bound on the overlap.

    Returns:
        (M,) radii in the same unit.

    Source:
        Law and Deng 2018, "CornerNet", section 3.2; derived here from the overlap of each case.
    """
    total, area = size_cells.sum(1), size_cells.prod(1)
    # Same way: (l - r)(w - r) / (2 l w - (l - r)(w - r)) = o   =>  r^2 - (l + w) r + l w (1 - o) / (1 + o) = 0
    same = _smaller_root(torch.ones_like(total), -total, area * (1 - min_overlap) / (1 + min_overlap))
    # Inward: (l - 2r)(w - 2r) / (l w) = o   =>  4 r^2 - 2 (l + w) r + (1 - o) l w = 0
    inward = _smaller_root(torch.full_like(total, 4.0), -2 * total, (1 - min_overlap) * area)
    # Outward: l w / ((l + 2r)(w + 2r)) = o   =>  4 o r^2 + 2 o (l + w) r - (1 - o) l w = 0
    a, b = 4 * min_overlap, 2 * min_overlap * total
    outward = (-b + (b.square() + 4 * a * (1 - min_overlap) * area).sqrt()) / (2 * a)
    return torch.minimum(torch.minimum(same, inward), outward)


def draw_gaussians(heatmap: Tensor, sample: Tensor, channel: Tensor, cells: Tensor, radius: Tensor) -> None:
    """Draws a Gaussian around each centre into the heatmap; where two meet, the larger value stays.

    Args:
        heatmap: (B, K, Y, X), changed in place.
        sample: (M,) int64.
        channel: (M,) int64.
        cells: (M, 2) int64 x y, inside the map.
        radius: (M,) int64 at least 0; a Gaussian ends there, its standard deviation is (2 radius + 1) / 6.
    """
    if len(cells) == 0:
        return
    reach = int(radius.max())
    steps = torch.arange(-reach, reach + 1, device=cells.device)
    sigma = (2 * radius + 1) / 6
    fall = torch.exp(-steps.square() / (2 * sigma.square()[:, None]))  # (M, 2 reach + 1)
    fall = fall * (steps.abs() <= radius[:, None])
    values = fall[:, :, None] * fall[:, None, :]  # (M, rows, columns)
    _, num_channels, num_y, num_x = heatmap.shape
    rows = (cells[:, 1, None] + steps)[:, :, None]  # (M, rows, 1)
    columns = (cells[:, 0, None] + steps)[:, None, :]  # (M, 1, columns)
    inside = (rows >= 0) & (rows < num_y) & (columns >= 0) & (columns < num_x)  # (M, rows, columns)
    plane = (sample * num_channels + channel)[:, None, None]
    index = (plane * num_y + rows) * num_x + columns
    heatmap.view(-1).scatter_reduce_(0, index[inside], values[inside], "amax")


def _smaller_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


def _augmented_boxes(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """All boxes of the batch (M, 9) in the augmented frame, their samples (M,) and labels (M,)."""
    boxes = [torch.zeros(0, 9, device=batch.device)]
    samples = [torch.zeros(0, dtype=torch.long, device=batch.device)]
    labels = [torch.zeros(0, dtype=torch.long, device=batch.device)]
    for index, annotation in enumerate(batch.boxes):
        if annotation is not None:
            boxes.append(transform_boxes(batch.ego2aug[index], annotation.boxes))
            samples.append(torch.full_like(annotation.labels, index))
            labels.append(annotation.labels)
    return torch.cat(boxes), torch.cat(samples), torch.cat(labels)
