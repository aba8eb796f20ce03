"""Predicted occupancy: `<folder>/<scene>/<sample token>.npz`, key `semantics`.

Labels lie as in the truth of `perception.formats.occupancy`: the same grid, frame and classes, indexed x, y, z.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.formats.files import scene_folder
from perception.formats.npz import npz_bytes, read_npz
from perception.formats.occupancy import FREE, OCCUPANCY_SHAPE

TRUTH_FOLDER = "gts"
"""Where the truth lies in a dataroot."""


def occupancy_truth_path(dataroot: str | Path, scene: str, token: str) -> Path:
    """Where the truth of a sample lies.

    Args:
        dataroot: of the set.
        scene: name of the sample's scene.
        token: the sample's token.

    Returns:
        The path.

    Raises:
        ValueError: a name would lead out of the folder.
    """
    return scene_folder("occupancy_truth_path", Path(dataroot) / TRUTH_FOLDER, scene, token) / token / "labels.npz"


def occupancy_prediction_path(folder: str | Path, scene: str, token: str) -> Path:
    """Where the prediction for a sample lies.

    Args:
        folder: of all scenes.
        scene: name of the sample's scene.
        token: the sample's token.

    Returns:
        The path.

    Raises:
        ValueError: a name would lead out of the folder.
    """
    return scene_folder("occupancy_prediction_path", folder, scene, token) / f"{token}.npz"


def occupancy_prediction_bytes(semantics: np.ndarray) -> bytes:
    """The content of a prediction's file.

    Args:
        semantics: (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`.

    Returns:
        The file.

    Raises:
        ValueError: it is no such array.
    """
    name = "occupancy_prediction_bytes"
    if semantics.shape != OCCUPANCY_SHAPE or semantics.dtype != np.uint8:
        raise ValueError(f"{name}: semantics must be {OCCUPANCY_SHAPE} uint8, got {semantics.shape} {semantics.dtype}")
    _check_labels(name, semantics)
    return npz_bytes({"semantics": semantics})


def read_occupancy_prediction(path: str | Path) -> np.ndarray:
    """The predicted occupancy of a sample.

    Args:
        path: the file; further arrays in it are not read.

    Returns:
        (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, the array is missing or has another shape or dtype, a value is no class.
    """
    name = "read_occupancy_prediction"
    shapes = {"semantics": OCCUPANCY_SHAPE}
    semantics = read_npz(name, Path(path), shapes, np.uint8, int(np.prod(OCCUPANCY_SHAPE)))["semantics"]
    _check_labels(f"{name}: {path}", semantics)
    return semantics


def _check_labels(where: str, semantics: np.ndarray) -> None:
    if semantics.max() > FREE:
        raise ValueError(f"{where}: semantics must be in 0..{FREE}, got {semantics.max()}")
