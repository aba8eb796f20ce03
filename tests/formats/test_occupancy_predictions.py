"""Files of occupancy predictions: round trips, limits, damage."""

from pathlib import Path

import numpy as np
import pytest

from perception.formats.occupancy import FREE, OCCUPANCY_SHAPE
from perception.formats.occupancy_predictions import (
    occupancy_prediction_bytes,
    occupancy_prediction_path,
    occupancy_truth_path,
    read_occupancy_prediction,
)


@pytest.fixture
def semantics() -> np.ndarray:
    return np.random.default_rng(0).integers(0, FREE + 1, OCCUPANCY_SHAPE).astype(np.uint8)


def test_a_prediction_comes_back(tmp_path: Path, semantics: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(occupancy_prediction_bytes(semantics))
    np.testing.assert_array_equal(read_occupancy_prediction(path), semantics)
    with np.load(path) as file:
        np.testing.assert_array_equal(file["semantics"], semantics)
    assert occupancy_prediction_bytes(semantics) == path.read_bytes()
    np.savez_compressed(path, semantics=np.asfortranarray(semantics), further=np.zeros(3))
    np.testing.assert_array_equal(read_occupancy_prediction(path), semantics)


def test_what_is_no_prediction_is_not_written(semantics: np.ndarray) -> None:
    name = "occupancy_prediction_bytes: semantics must be"
    with pytest.raises(ValueError, match=rf"{name} \(200, 200, 16\) uint8, got \(16, 200, 200\) uint8"):
        occupancy_prediction_bytes(semantics.T)
    with pytest.raises(ValueError, match=rf"{name} \(200, 200, 16\) uint8, got \(200, 200, 16\) int64"):
        occupancy_prediction_bytes(semantics.astype(np.int64))
    semantics[3, 4, 5] = 18
    with pytest.raises(ValueError, match=rf"{name} in 0\.\.17, got 18"):
        occupancy_prediction_bytes(semantics)


def test_what_is_no_prediction_is_not_read(tmp_path: Path, semantics: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        read_occupancy_prediction(path)
    for arrays, reason in (
        ({"semantics": semantics.astype(np.int64)}, r"semantics must take at most 640000 bytes, got 5120128"),
        ({"semantics": semantics[:5]}, r"semantics must be \(200, 200, 16\), got \(5, 200, 16\)"),
        ({"semantics": semantics.view(np.int8)}, r"semantics must be uint8, got int8"),
        ({"semantics": semantics + np.uint8(1)}, r"semantics must be in 0\.\.17, got 18"),
        ({"labels": semantics}, r"must hold semantics"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=rf"read_occupancy_prediction: .*a\.npz: {reason}"):
            read_occupancy_prediction(path)
    content = bytearray(occupancy_prediction_bytes(semantics))
    content[len(content) // 2] ^= 0xFF
    for damaged in (bytes(content), bytes(content[:-40]), b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"read_occupancy_prediction: .*a\.npz: "):
            read_occupancy_prediction(path)


def test_files_lie_by_scene_and_nowhere_else(tmp_path: Path) -> None:
    assert occupancy_prediction_path(tmp_path, "scene-0001", "abc") == tmp_path / "scene-0001" / "abc.npz"
    assert occupancy_truth_path(tmp_path, "scene-0001", "abc") == tmp_path / "gts" / "scene-0001" / "abc" / "labels.npz"
    for scene, token in (("..", "abc"), ("scene", "../abc"), ("/etc", "abc"), ("", "abc"), ("scene", "a\0b")):
        with pytest.raises(ValueError, match="occupancy_prediction_path: scene and token must be names of files"):
            occupancy_prediction_path(tmp_path, scene, token)
        with pytest.raises(ValueError, match="occupancy_truth_path: scene and token must be names of files"):
            occupancy_truth_path(tmp_path, scene, token)
