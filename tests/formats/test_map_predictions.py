"""Files of predicted maps: round trips, limits, damage."""

from pathlib import Path

import numpy as np
import pytest

from perception.formats.map_predictions import map_path, map_prediction_bytes, read_map_prediction
from perception.formats.npz import npz_bytes
from perception.geometry.grid import Grid

NAMES = ("road", "line")
GRID = Grid((-2.0, 4.0), (-2.0, 2.0), (-5.0, 3.0), (0.5, 1.0, 8.0))  # 4 rows, 12 columns
BOUNDS = np.array([-2.0, 4.0, -2.0, 2.0, 0.5, 1.0])


def coded(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("latin-1"), np.uint8)


@pytest.fixture
def probabilities() -> np.ndarray:
    values = np.random.default_rng(0).uniform(0, 1, (2, 4, 12)).astype(np.float32)
    values[0, 0, :5] = [0, 1, 0.5, np.nan, 0.25]
    return values


def test_a_prediction_comes_back_in_half_precision_with_names_and_grid(
    tmp_path: Path, probabilities: np.ndarray
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(map_prediction_bytes(probabilities, NAMES, GRID))
    read = read_map_prediction(path)
    assert read.probabilities.dtype == np.float16
    np.testing.assert_array_equal(read.probabilities, probabilities.astype(np.float16))
    assert read.class_names == NAMES
    assert (read.grid.x_range_m, read.grid.y_range_m, read.grid.cell_m[:2]) == ((-2.0, 4.0), (-2.0, 2.0), (0.5, 1.0))
    assert map_prediction_bytes(probabilities, NAMES, GRID) == path.read_bytes()


def test_what_is_no_prediction_is_not_written(probabilities: np.ndarray) -> None:
    name = "map_prediction_bytes: probabilities must be"
    with pytest.raises(ValueError, match=rf"{name} \(2, 4, 12\) floating, got \(2, 4, 11\) float32"):
        map_prediction_bytes(probabilities[..., 1:], NAMES, GRID)
    with pytest.raises(ValueError, match=rf"{name} \(2, 4, 12\) floating, got \(2, 4, 12\) bool"):
        map_prediction_bytes(probabilities > 0.5, NAMES, GRID)
    for names in (("road", "road"), ("road", ""), ("road", "a\nb"), ("road", "Straße")):
        with pytest.raises(ValueError, match="class_names must be distinct and printable ASCII"):
            map_prediction_bytes(probabilities, names, GRID)
    for wrong in (-0.25, 1.5, np.inf):
        probabilities[1, 3, 4] = wrong
        with pytest.raises(ValueError, match=rf"{name} in \[0, 1\] or NaN, got {wrong}"):
            map_prediction_bytes(probabilities, NAMES, GRID)


def test_what_is_no_prediction_is_not_read(tmp_path: Path, probabilities: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        read_map_prediction(path)
    good = {"probabilities": probabilities.astype(np.float16), "class_names": coded("road\nline"), "grid": BOUNDS}
    for change, reason in (
        ({"probabilities": probabilities}, "probabilities must be float16, got float32"),
        ({"probabilities": np.zeros((9, 40, 12), np.float16)}, "probabilities must take at most 192 bytes, got 8768"),
        ({"probabilities": good["probabilities"][:1]}, r"probabilities must be \(2, 4, 12\), got \(1, 4, 12\)"),
        ({"probabilities": good["probabilities"] + 1}, r"probabilities must be in \[0, 1\] or NaN, got "),
        ({"class_names": coded("road\nroad")}, "class_names must be distinct and printable ASCII"),
        ({"class_names": coded("road\nstra\xdfe")}, "class_names must be distinct and printable ASCII"),
        ({"class_names": coded("")}, "class_names must be distinct and printable ASCII"),
        ({"grid": BOUNDS[::-1].copy()}, "Grid: x_range_m must be two finite rising numbers"),
        ({"grid": np.full(6, np.nan)}, "Grid: x_range_m must be two finite rising numbers"),
        ({"grid": BOUNDS * [1, 1, 1, 1, 1e-9, 1]}, "probabilities must be at most 33554432, got "),
        ({"grid": BOUNDS * [1, 1, 1, 1, 5e-324, 1]}, "Grid|integer|infinity"),
    ):
        path.write_bytes(npz_bytes(good | change))
        with pytest.raises(ValueError, match=rf"read_map_prediction: .*a\.npz: .*({reason})"):
            read_map_prediction(path)
    for missing in good:
        path.write_bytes(npz_bytes({key: value for key, value in good.items() if key != missing}))
        with pytest.raises(ValueError, match=f"must hold {missing}"):
            read_map_prediction(path)
    content = bytearray(map_prediction_bytes(probabilities, NAMES, GRID))
    content[60] ^= 0xFF
    for damaged in (bytes(content), bytes(content[:-40]), b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"read_map_prediction: .*a\.npz: "):
            read_map_prediction(path)


def test_files_lie_by_scene_and_nowhere_else(tmp_path: Path) -> None:
    assert map_path(tmp_path, "scene-0001", "abc") == tmp_path / "scene-0001" / "abc.npz"
    for scene, token in (("..", "abc"), ("scene", "../abc"), ("/etc", "abc"), ("", "abc"), ("scene", "a\0b")):
        with pytest.raises(ValueError, match="map_path: scene and token must be names of files"):
            map_path(tmp_path, scene, token)
