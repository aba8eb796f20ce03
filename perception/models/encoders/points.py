"""What the point encoders share: points in the augmented ego frame with named extra columns."""

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.geometry.transforms import transform_points
from perception.structures import PointBatch


class PointReader(nn.Module):
    """Moves points into the augmented ego frame and picks their extra columns by name.

    Args:
        fields: extra columns of the points to read -> factor that brings the column to about 1.
    """

    field_scales: Tensor

    def __init__(self, *, fields: dict[str, float]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.register_buffer("field_scales", torch.tensor(list(fields.values())), persistent=False)

    def forward(self, points: PointBatch, ego2aug: Tensor) -> Tensor:
        """Reads the points.

        Args:
            points: points of S samples in their ego frames.
            ego2aug: (S, 4, 4).

        Returns:
            (P, 3 + F) x y z in metres in the augmented ego frame, then the scaled fields.

        Raises:
            ValueError: the points lack a field.
        """
        missing = [name for name in self.fields if name not in points.fields]
        if missing:
            raise ValueError(f"PointReader: points must have the fields {missing}, got {list(points.fields)}")
        columns = [3 + points.fields.index(name) for name in self.fields]
        counts = torch.bincount(points.batch_index, minlength=len(points.present)).tolist()
        parts = points.points[:, :3].split(counts)
        moved = [transform_points(move, part) for move, part in zip(ego2aug, parts, strict=True)]
        return torch.cat((torch.cat(moved), points.points[:, columns] * self.field_scales), dim=1)


def refine_grid(grid: Grid, factor: int, num_layers: int | None = None) -> Grid:
    """Cuts the cells of a level into finer ones.

    Args:
        grid: the level.
        factor: how many finer cells take the place of one, along x and along y.
        num_layers: how many layers the range along z is cut into; None keeps those of the level.

    Returns:
        The finer grid over the same ranges.
    """
    x, y, z = grid.cell_m
    if num_layers is not None:
        z = (grid.z_range_m[1] - grid.z_range_m[0]) / num_layers
    return Grid(grid.x_range_m, grid.y_range_m, grid.z_range_m, (x / factor, y / factor, z))


def grid_reach_m(grid: Grid) -> tuple[float, float, float]:
    """Gives the largest coordinate inside a grid along each axis, which positions are divided by.

    Args:
        grid: the grid.

    Returns:
        Along x, y and z, metres.
    """
    x, y, z = (max(map(abs, bounds)) for bounds in (grid.x_range_m, grid.y_range_m, grid.z_range_m))
    return x, y, z
