"""Predicted obstacle grids near the vehicle: `<folder>/<scene>/<sample token>.npz`, key `occupied`.

They lie as the truth of `perception.formats.near_field` does: the same grid and frame, rows are y, columns x.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.formats.files import scene_folder
from perception.formats.near_field import NEAR_FIELD_GRID
from perception.formats.npz import npz_bytes, read_npz

_SHAPE = NEAR_FIELD_GRID.shape[1:]


def near_field_path(folder: str | Path, scene: str, token: str) -> Path:
    """Where the file of a sample lies, of predictions and truth alike.

    Args:
        folder: of all scenes.
        scene: name of the sample's scene.
        token: the sample's token.

    Returns:
        The path.

    Raises:
        ValueError: a name would lead out of the folder.
    """
    return scene_folder("near_field_path", folder, scene, token) / f"{token}.npz"


def near_field_prediction_bytes(occupied: np.ndarray) -> bytes:
    """The content of a prediction's file; probabilities are rounded to half precision.

    Args:
        occupied: (160, 160) floating probability in [0, 1], NaN where nothing was predicted.

    Returns:
        The file.

    Raises:
        ValueError: it is no such array.
    """
    if occupied.shape != _SHAPE or not np.issubdtype(occupied.dtype, np.floating):
        raise ValueError(
            f"near_field_prediction_bytes: occupied must be {_SHAPE} floating, got {occupied.shape} {occupied.dtype}"
        )
    _check_range("near_field_prediction_bytes", occupied)
    return npz_bytes({"occupied": occupied.astype(np.float16)})


def read_near_field_prediction(path: str | Path) -> np.ndarray:
    """The predicted obstacle grid of a sample.

    Args:
        path: the file.

    Returns:
        (160, 160) float16 probability of occupied in [0, 1], NaN where nothing was predicted.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, the array is missing or has another shape or dtype, a value is not allowed.
    """
    name = "read_near_field_prediction"
    arrays = read_npz(name, Path(path), {"occupied": _SHAPE}, np.float16, 2 * int(np.prod(_SHAPE)))
    _check_range(f"{name}: {path}", arrays["occupied"])
    return arrays["occupied"]


def _check_range(where: str, occupied: np.ndarray) -> None:
    wrong = (occupied < 0) | (occupied > 1)
    if wrong.any():
        raise ValueError(f"{where}: occupied must be in [0, 1] or NaN, got {occupied[wrong][0]}")
