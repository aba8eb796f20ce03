"""What the CenterPoint network gives, and which channel of it means what."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.flips import Flip

# Channels of `CenterPointOutput.regression`, in order.
REGRESSION_CHANNELS = {"offset": 2, "height": 1, "size": 3, "yaw": 2, "velocity": 2}
NUM_REGRESSION_CHANNELS = sum(REGRESSION_CHANNELS.values())


@dataclass(frozen=True, kw_only=True)
class ClassGroups:
    """Classes that share the regression of one box per cell.

    Args:
        names: K class names, group after group.
        group_of_class: group of each class.
    """

    names: tuple[str, ...]
    group_of_class: tuple[int, ...]

    @property
    def num_groups(self) -> int:
        """Number of groups G."""
        return max(self.group_of_class) + 1


@dataclass(frozen=True, kw_only=True)
class CenterPointOutput:
    """Maps over the cells of one level, in the augmented ego frame.

    Args:
        heatmap: (B, K, Y, X) logits, one channel per class, in the order of `groups`.
        regression: (B, G, 10, Y, X), one box per cell and group: offset of the centre from the cell's lower corner in
            cells (x, y), height of the centre in metres, logarithm of length, width and height in metres, sine and
            cosine of the yaw, velocity x y in m/s.
        grid: where the cells lie.
        groups: the classes.
        overlap: (B, G, Y, X) guess of how well the box of a cell fits its object: 2 IoU - 1, from -1 to 1; None where
            the head does not guess.
    """

    heatmap: Tensor
    regression: Tensor
    grid: Grid
    groups: ClassGroups
    overlap: Tensor | None = None


def mirror_regression(regression: Tensor, flip: Flip, span_cells: tuple[float, float]) -> Tensor:
    """Mirrors what is said of boxes.

    Args:
        regression: (..., 10), in the order of `REGRESSION_CHANNELS`.
        flip: the mirrored axes.
        span_cells: x y, the length along which an offset counts: 1 within its cell, or the number of cells.

    Returns:
        (..., 10), the same of the mirrored boxes; offsets count from the lower end again.
    """
    offset, height, size, yaw, velocity = regression.split(list(REGRESSION_CHANNELS.values()), dim=-1)
    # Along each mirrored axis an offset counts from the other end, and a direction changes its sign. Of a yaw (sine,
    # cosine), the sine is the direction along y and the cosine that along x.
    sign = offset.new_tensor([-1.0 if axis in flip else 1.0 for axis in "xy"])
    offset = torch.where(sign < 0, offset.new_tensor(span_cells) - offset, offset)
    return torch.cat((offset, height, size, yaw * sign.flip(0), velocity * sign), dim=-1)
