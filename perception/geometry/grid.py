"""The metric grid that every sensor is projected onto."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A regular grid in a metric frame: row = y cell, column = x cell, layer = z cell; cell 0 lies at the lower bound.

    Args:
        x_range_m: lower and upper bound along x, metres.
        y_range_m: the same along y.
        z_range_m: the same along z.
        cell_m: cell size along x, y, z, metres; each range must hold a whole number of cells.

    Raises:
        ValueError: a range is empty or not finite, a cell is not positive, or the cells do not fill a range.
    """

    x_range_m: tuple[float, float]
    y_range_m: tuple[float, float]
    z_range_m: tuple[float, float]
    cell_m: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.cell_m) != 3:
            raise ValueError(f"Grid: cell_m must be three sizes (x, y, z), got {self.cell_m}")
        for axis, bounds, cell in zip("xyz", self._ranges, self.cell_m, strict=True):
            if len(bounds) != 2 or not all(math.isfinite(v) for v in bounds) or bounds[0] >= bounds[1]:
                raise ValueError(f"Grid: {axis}_range_m must be two finite rising numbers, got {bounds}")
            if not math.isfinite(cell) or cell <= 0:
                raise ValueError(f"Grid: cell_m along {axis} must be finite and positive, got {cell}")
            count = (bounds[1] - bounds[0]) / cell
            if round(count) < 1 or abs(count - round(count)) > 1e-3:
                raise ValueError(f"Grid: {axis}_range_m {bounds} must hold a whole number of cells of {cell} m")

    @classmethod
    def square(cls, half_m: float, cell_m: float, z_range_m: tuple[float, float] = (-5.0, 3.0)) -> "Grid":
        """Builds a flat grid around the ego vehicle: one z cell.

        Args:
            half_m: the grid reaches from -half_m to half_m in x and y.
            cell_m: cell size in x and y.
            z_range_m: lower and upper bound along z, metres in the ego frame.

        Returns:
            The grid.

        Raises:
            ValueError: as the constructor.
        """
        bounds = (-half_m, half_m)
        return cls(bounds, bounds, z_range_m, (cell_m, cell_m, z_range_m[1] - z_range_m[0]))

    @property
    def _ranges(self) -> tuple[tuple[float, float], ...]:
        return self.x_range_m, self.y_range_m, self.z_range_m

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of cells (Z, Y, X)."""
        x, y, z = (round((hi - lo) / cell) for (lo, hi), cell in zip(self._ranges, self.cell_m, strict=True))
        return z, y, x

    @property
    def num_z(self) -> int:
        """Number of layers."""
        return self.shape[0]

    @property
    def num_y(self) -> int:
        """Number of rows."""
        return self.shape[1]

    @property
    def num_x(self) -> int:
        """Number of columns."""
        return self.shape[2]

    @property
    def origin_m(self) -> tuple[float, float, float]:
        """The lower corner (x, y, z), metres."""
        return self.x_range_m[0], self.y_range_m[0], self.z_range_m[0]

    def cells(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the cell of each point; a cell holds its lower faces and not its upper ones.

        Args:
            points: (..., 3 + C), metres in the grid's frame; NaN and infinity are outside.

        Returns:
            Cells (..., 3) int64 in z, y, x order (0 where outside) and whether each point lies inside (...) bool.
        """
        origin = points.new_tensor(self.origin_m)
        scaled = (points[..., :3] - origin) / points.new_tensor(self.cell_m)  # (..., 3) x y z
        counts = points.new_tensor(self.shape[::-1])
        inside = ((scaled >= 0) & (scaled < counts)).all(-1)
        floor = torch.where(inside[..., None], scaled, torch.zeros_like(scaled)).floor().long()
        return floor.flip(-1), inside

    def centers(self) -> Tensor:
        """Gives the centre of every cell.

        Returns:
            (Z, Y, X, 3) float64 x y z, metres.
        """
        z, y, x = (
            lo + (torch.arange(count, dtype=torch.float64) + 0.5) * cell
            for lo, count, cell in zip(self.origin_m[::-1], self.shape, self.cell_m[::-1], strict=True)
        )
        return torch.stack(torch.meshgrid(z, y, x, indexing="ij"), dim=-1).flip(-1)

    def centers_xy(self) -> Tensor:
        """Gives the centre of every column of cells.

        Returns:
            (Y, X, 2) float64 x y, metres.
        """
        return self.centers()[0, :, :, :2]

    def coarsen(self, stride: int) -> "Grid":
        """Gives the grid of a feature map `stride` times coarser in x and y.

        Args:
            stride: whole number of cells that become one.

        Returns:
            The coarser grid over the same ranges.

        Raises:
            ValueError: stride is below 1 or does not divide the number of rows and columns.
        """
        if stride < 1 or self.num_x % stride or self.num_y % stride:
            raise ValueError(
                f"Grid.coarsen: stride must divide {self.num_y} rows and {self.num_x} columns, got {stride}"
            )
        x, y, z = self.cell_m
        return Grid(self.x_range_m, self.y_range_m, self.z_range_m, (x * stride, y * stride, z))
