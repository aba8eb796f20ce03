"""Predicted maps around the vehicle: `<folder>/<scene>/<sample token>.npz`.

Keys: `probabilities` (K, Y, X) float16, rows are y, columns x; `class_names` uint8, K names in ASCII with a line feed
between them; `grid` (6,) float64, lower and upper bound along x and along y in the ego frame and the cells' sizes along
x and y, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.formats.files import scene_folder
from perception.formats.npz import npz_bytes, read_npz
from perception.geometry.grid import Grid

_MAX_NAME_BYTES = 4096
_MAX_VALUES = 1 << 25


@dataclass(frozen=True, eq=False)
class PredictedMap:
    """What a file says.

    Attributes:
        probabilities: (K, Y, X) float16 in [0, 1], NaN where nothing was predicted.
        class_names: K names.
        grid: where the cells lie in the ego frame; one layer, of which the height says nothing.
    """

    probabilities: np.ndarray
    class_names: tuple[str, ...]
    grid: Grid


def map_path(folder: str | Path, scene: str, token: str) -> Path:
    """Where the file of a sample lies.

    Args:
        folder: of all scenes.
        scene: name of the sample's scene.
        token: the sample's token.

    Returns:
        The path.

    Raises:
        ValueError: a name would lead out of the folder.
    """
    return scene_folder("map_path", folder, scene, token) / f"{token}.npz"


def map_prediction_bytes(probabilities: np.ndarray, class_names: tuple[str, ...], grid: Grid) -> bytes:
    """The content of a prediction's file; probabilities are rounded to half precision.

    Args:
        probabilities: (K, Y, X) floating in [0, 1], NaN where nothing was predicted.
        class_names: K names.
        grid: where the cells lie in the ego frame.

    Returns:
        The file.

    Raises:
        ValueError: it is no such array, or a name is empty, repeated or not printable ASCII.
    """
    function = "map_prediction_bytes"
    shape = (len(class_names), grid.num_y, grid.num_x)
    if probabilities.shape != shape or not np.issubdtype(probabilities.dtype, np.floating):
        raise ValueError(
            f"{function}: probabilities must be {shape} floating, got {probabilities.shape} {probabilities.dtype}"
        )
    _check_names(function, class_names)
    _check_range(function, probabilities)
    names = np.frombuffer("\n".join(class_names).encode("ascii"), np.uint8)
    bounds = np.array([*grid.x_range_m, *grid.y_range_m, *grid.cell_m[:2]], np.float64)
    return npz_bytes({"probabilities": probabilities.astype(np.float16), "class_names": names, "grid": bounds})


def read_map_prediction(path: str | Path) -> PredictedMap:
    """The predicted map of a sample.

    Args:
        path: the file.

    Returns:
        What it says.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, an array is missing or has another shape or dtype, a value is not allowed.
    """
    function, path = "read_map_prediction", Path(path)
    where = f"{function}: {path}"
    coded = read_npz(function, path, {"class_names": None}, np.uint8, _MAX_NAME_BYTES)["class_names"]
    class_names = tuple(coded.tobytes().decode("ascii", errors="replace").split("\n"))
    _check_names(where, class_names)
    grid = _grid_of(where, read_npz(function, path, {"grid": (6,)}, np.float64, 48)["grid"])
    shape = (len(class_names), grid.num_y, grid.num_x)
    values = shape[0] * shape[1] * shape[2]
    if values > _MAX_VALUES:
        raise ValueError(f"{where}: probabilities must be at most {_MAX_VALUES}, got {shape}")
    arrays = read_npz(function, path, {"probabilities": shape}, np.float16, 2 * values)
    _check_range(where, arrays["probabilities"])
    return PredictedMap(probabilities=arrays["probabilities"], class_names=class_names, grid=grid)


def _grid_of(where: str, bounds: np.ndarray) -> Grid:
    x_low, x_high, y_low, y_high, cell_x, cell_y = bounds.tolist()
    try:
        return Grid((x_low, x_high), (y_low, y_high), (-1.0, 1.0), (cell_x, cell_y, 2.0))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_names(where: str, class_names: tuple[str, ...]) -> None:
    proper = all(name.isascii() and name.isprintable() and name for name in class_names)
    if not class_names or not proper or len(set(class_names)) != len(class_names):
        raise ValueError(f"{where}: class_names must be distinct and printable ASCII, got {list(class_names)}")


def _check_range(where: str, probabilities: np.ndarray) -> None:
    wrong = (probabilities < 0) | (probabilities > 1)
    if wrong.any():
        raise ValueError(f"{where}: probabilities must be in [0, 1] or NaN, got {probabilities[wrong][0]}")
