"""Mirrored frames: the ways in which a detector may look at a batch again when it is tested."""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from perception.geometry.grid import Grid

Flip = Literal["", "x", "y", "xy"]
"""The axes along which the frame is mirrored: x swaps front and rear, y left and right."""


def flip_matrix(flip: Flip) -> Tensor:
    """Gives the transform into the mirrored frame.

    Args:
        flip: the mirrored axes.

    Returns:
        (4, 4) float64, its own inverse.
    """
    signs = [-1.0 if axis in flip else 1.0 for axis in "xy"]
    return torch.diag(torch.tensor([*signs, 1.0, 1.0], dtype=torch.float64))


def check_flips(flips: tuple[str, ...], grids: dict[str, Grid]) -> None:
    """Refuses ways of mirroring that are unknown, repeated, or turn a grid into another one.

    Args:
        flips: the mirrored axes of each look.
        grids: level name -> grid.

    Raises:
        ValueError: a flip is unknown or repeated, or a grid is not symmetric along a mirrored axis.
    """
    known = get_args(Flip)[1:]
    if len(set(flips)) != len(flips) or not set(flips) <= set(known):
        raise ValueError(f"Detector: test_flips must be different ones of {', '.join(known)}, got {list(flips)}")
    for level, grid in grids.items():
        check_mirrored(f"Detector: grid {level!r}", flips, grid)


def check_mirrored(name: str, flips: Iterable[str], grid: Grid) -> None:
    """Refuses to mirror a grid into another one.

    Args:
        name: of the grid and its owner, for the error.
        flips: the mirrored axes of each look.
        grid: the grid.

    Raises:
        ValueError: the grid is not symmetric along a mirrored axis.
    """
    axes = set("".join(flips))
    for axis, (lower, upper) in zip("xy", (grid.x_range_m, grid.y_range_m), strict=True):
        if axis in axes and abs(lower + upper) > 1e-6:
            raise ValueError(f"{name} must be symmetric along {axis} to be mirrored, got {(lower, upper)} m")
