"""The obstacle grid near the vehicle: `near_field/<scene>/<sample token>.npz`, key `cells`.

Rows are y, columns x, as in every BEV tensor; ego frame at the timestamp of the sample's LIDAR_TOP keyframe.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

import numpy as np

from perception.formats.npz import npz_bytes, read_npz
from perception.geometry.grid import Grid

NEAR_FIELD_GRID = Grid.square(8.0, 0.1, (0.0, 2.0))
"""16 m by 16 m in cells of 0.1 m; one layer, from the road to above the roof."""

_SHAPE = NEAR_FIELD_GRID.shape[1:]


class NearFieldCell(IntEnum):
    """What is known of a cell."""

    FREE = 0
    OCCUPIED = 1
    UNKNOWN = 2


def near_field_bytes(cells: np.ndarray) -> bytes:
    """The content of a near-field file.

    Args:
        cells: (160, 160) uint8, `NearFieldCell`.

    Returns:
        The file.

    Raises:
        ValueError: it is no such array.
    """
    if cells.shape != _SHAPE or cells.dtype != np.uint8:
        raise ValueError(f"near_field_bytes: cells must be {_SHAPE} uint8, got {cells.shape} {cells.dtype}")
    if cells.max() > max(NearFieldCell):
        raise ValueError(f"near_field_bytes: cells must be in 0..2, got {cells.max()}")
    return npz_bytes({"cells": cells})


def read_near_field(path: str | Path) -> np.ndarray:
    """The obstacle grid of a sample.

    Args:
        path: the file.

    Returns:
        (160, 160) uint8, `NearFieldCell`; row = y cell, column = x cell.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, the array is missing or has another shape or dtype, a value is not allowed.
    """
    cells = read_npz("read_near_field", Path(path), {"cells": _SHAPE}, np.uint8, int(np.prod(_SHAPE)))["cells"]
    if cells.max() > max(NearFieldCell):
        raise ValueError(f"read_near_field: {path}: cells must be in 0..2, got {cells.max()}")
    return cells
