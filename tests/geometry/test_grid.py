"""Grid: which cell a point falls in, where its centre lies, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perception.geometry.grid import Grid

SMALL = Grid((-1.0, 3.0), (-1.0, 1.0), (0.0, 2.0), (1.0, 0.5, 2.0))


def test_shape_is_z_y_x() -> None:
    assert SMALL.shape == (1, 4, 4)
    assert (SMALL.num_z, SMALL.num_y, SMALL.num_x) == (1, 4, 4)


def test_cells_by_hand() -> None:
    points = torch.tensor(
        [[-1.0, -1.0, 0.0], [2.9, 0.9, 1.0], [3.0, 0.0, 1.0], [0.0, 0.0, 2.0], [math.nan, 0, 0], [0, -math.inf, 0]]
    )
    cells, inside = SMALL.cells(points)
    assert inside.tolist() == [True, True, False, False, False, False]
    assert cells[:2].tolist() == [[0, 0, 0], [0, 3, 3]]
    assert cells[2:].eq(0).all()


@given(st.sampled_from([SMALL, Grid.square(51.2, 0.4), Grid.square(8.0, 0.1), Grid.square(54.0, 0.075)]))
def test_centres_fall_into_their_own_cells(grid: Grid) -> None:
    cells, inside = grid.cells(grid.centers())
    assert bool(inside.all())
    z, y, x = (torch.arange(n) for n in grid.shape)
    torch.testing.assert_close(cells, torch.stack(torch.meshgrid(z, y, x, indexing="ij"), dim=-1))


def test_row_is_y_and_column_is_x() -> None:
    centers = Grid.square(8.0, 1.0).centers_xy()
    assert centers[0, 0].tolist() == [-7.5, -7.5]
    assert centers[0, 1].tolist() == [-6.5, -7.5]
    assert centers[1, 0].tolist() == [-7.5, -6.5]


def test_coarser_grid_covers_the_same_ground() -> None:
    coarse = Grid.square(51.2, 0.4).coarsen(4)
    assert coarse.shape == (1, 64, 64)
    assert (coarse.x_range_m, coarse.y_range_m) == ((-51.2, 51.2), (-51.2, 51.2))


def test_bad_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="x_range_m must be two finite rising numbers"):
        Grid((1.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="y_range_m must be two finite rising numbers"):
        Grid((0.0, 1.0), (0.0, math.inf), (0.0, 1.0), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="cell_m along z must be finite and positive, got -1"):
        Grid((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0, -1.0))
    with pytest.raises(ValueError, match=r"must hold a whole number of cells of 0\.3 m"):
        Grid.square(1.0, 0.3)
    with pytest.raises(ValueError, match=r"Grid.coarsen: stride must divide 4 rows and 4 columns, got 3"):
        SMALL.coarsen(3)
