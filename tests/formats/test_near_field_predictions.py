"""Files of near-field predictions: round trips, limits, damage."""

from pathlib import Path

import numpy as np
import pytest

from perception.formats.near_field_predictions import (
    near_field_path,
    near_field_prediction_bytes,
    read_near_field_prediction,
)


@pytest.fixture
def occupied() -> np.ndarray:
    values = np.random.default_rng(0).uniform(0, 1, (160, 160)).astype(np.float32)
    values[0, :5] = [0, 1, 0.5, np.nan, 0.25]
    return values


def test_a_prediction_comes_back_in_half_precision(tmp_path: Path, occupied: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(near_field_prediction_bytes(occupied))
    read = read_near_field_prediction(path)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, occupied.astype(np.float16))
    np.testing.assert_allclose(read, occupied, atol=2.0**-12)
    assert near_field_prediction_bytes(occupied) == path.read_bytes()


def test_what_is_no_prediction_is_not_written(occupied: np.ndarray) -> None:
    name = "near_field_prediction_bytes: occupied must be"
    with pytest.raises(ValueError, match=rf"{name} \(160, 160\) floating, got \(160, 159\) float32"):
        near_field_prediction_bytes(occupied[:, :159])
    with pytest.raises(ValueError, match=rf"{name} \(160, 160\) floating, got \(160, 160\) uint8"):
        near_field_prediction_bytes(np.zeros((160, 160), np.uint8))
    for wrong in (-0.25, 1.5, np.inf):
        occupied[3, 4] = wrong
        with pytest.raises(ValueError, match=rf"{name} in \[0, 1\] or NaN, got {wrong}"):
            near_field_prediction_bytes(occupied)


def test_what_is_no_prediction_is_not_read(tmp_path: Path, occupied: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        read_near_field_prediction(path)
    half = occupied.astype(np.float16)
    for arrays, reason in (
        ({"occupied": occupied}, r"occupied must take at most 51200 bytes, got 102528"),
        ({"occupied": half[:5]}, r"occupied must be \(160, 160\), got \(5, 160\)"),
        ({"occupied": half.view(np.int16)}, r"occupied must be float16, got int16"),
        ({"occupied": half + 1}, r"occupied must be in \[0, 1\] or NaN, got "),
        ({"cells": half}, r"must hold occupied"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=rf"read_near_field_prediction: .*a\.npz: {reason}"):
            read_near_field_prediction(path)
    content = bytearray(near_field_prediction_bytes(occupied))
    content[len(content) // 2] ^= 0xFF
    for damaged in (bytes(content), bytes(content[:-40]), b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"read_near_field_prediction: .*a\.npz: "):
            read_near_field_prediction(path)


def test_files_lie_by_scene_and_nowhere_else(tmp_path: Path) -> None:
    assert near_field_path(tmp_path, "scene-0001", "abc") == tmp_path / "scene-0001" / "abc.npz"
    for scene, token in (("..", "abc"), ("scene", "../abc"), ("/etc", "abc"), ("", "abc"), ("scene", "a\0b")):
        with pytest.raises(ValueError, match="near_field_path: scene and token must be names of files"):
            near_field_path(tmp_path, scene, token)
