"""Grids that parts derive from the levels of a detector."""

from perception.geometry.grid import Grid


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
