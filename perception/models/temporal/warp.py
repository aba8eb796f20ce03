"""Maps of an earlier moment, moved to where the vehicle is now."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from perception.geometry.grid import Grid


def warp_maps(maps: Tensor, target2source: Tensor, grid: Grid, *, nearest: bool = False) -> tuple[Tensor, Tensor]:
    """Reads maps at the places where the cells of another frame lie.

    Args:
        maps: (R, C, Y, X) floating, on the grid in their own (source) frames.
        target2source: (R, 4, 4), from the frames asked for; heights are taken as 0.
        grid: of both frames.
        nearest: whether to take the nearest cell instead of interpolating between four.

    Returns:
        (R, C, Y, X) on the grid in the target frames, 0 outside the map, float32 at least, and whether each cell's
        centre lies on the map (R, 1, Y, X) bool.
    """
    places = pad(grid.centers_xy().to(target2source.device), (0, 2))  # (Y, X, 4)
    places[..., 3] = 1.0
    moved = torch.einsum("rij,yxj->ryxi", target2source.double(), places)[..., :2]  # (R, Y, X, 2)
    lower, upper = (moved.new_tensor(bounds) for bounds in zip(grid.x_range_m, grid.y_range_m, strict=True))
    scaled = 2 * (moved - lower) / (upper - lower) - 1  # -1 to 1 from edge to edge
    dtype = torch.promote_types(maps.dtype, torch.float32)  # half precision cannot tell the places of cells apart
    mode = "nearest" if nearest else "bilinear"
    warped = grid_sample(maps.to(dtype), scaled.to(dtype), mode=mode, padding_mode="zeros", align_corners=False)
    return warped, (scaled.abs() <= 1).all(-1)[:, None]
