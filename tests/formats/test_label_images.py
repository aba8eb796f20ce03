"""Depth and category pictures, the near-field grid: round trips, limits, damage."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.formats.label_images import depth_png, read_depth, read_semantics, semantic_png
from perception.formats.near_field import NEAR_FIELD_GRID, NearFieldCell, near_field_bytes, read_near_field


@pytest.fixture
def depth_m() -> np.ndarray:
    depth = np.random.default_rng(0).uniform(0.5, 120, (45, 80)).astype(np.float32)
    depth[:10] = np.inf
    return depth


def test_depth_comes_back_to_half_a_step(tmp_path: Path, depth_m: np.ndarray) -> None:
    (tmp_path / "a.png").write_bytes(depth_png(depth_m))
    read = read_depth(tmp_path / "a.png")
    assert read.dtype == np.float32
    assert np.isinf(read[:10]).all()
    np.testing.assert_allclose(read[10:], depth_m[10:], atol=0.5 / 256 + 1e-5)
    raw = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    assert (raw[:10] == 0).all()


def test_depth_at_its_limits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(depth_png(np.array([[1e-4, 255.9, 300.0, np.inf]])))
    np.testing.assert_allclose(read_depth(tmp_path / "a.png"), [[1 / 256, 255.9, 65535 / 256, np.inf]], atol=0.002)
    with pytest.raises(ValueError, match=r"depth_png: depth_m must be \(H, W\) and above 0, got \(1, 2\), 0.0"):
        depth_png(np.array([[0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"depth_png: depth_m must be \(H, W\) and above 0, got \(1, 2\), nan"):
        depth_png(np.array([[np.nan, 1.0]]))


def test_categories_come_back(tmp_path: Path) -> None:
    categories = np.random.default_rng(1).integers(0, 32, (45, 80)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(semantic_png(categories))
    np.testing.assert_array_equal(read_semantics(tmp_path / "a.png"), categories)
    with pytest.raises(ValueError, match=r"semantic_png: categories must be \(H, W\) uint8 in 0..31"):
        semantic_png(categories + 1)
    cv2.imwrite(str(tmp_path / "b.png"), categories + 1)
    with pytest.raises(ValueError, match=r"read_semantics: .*b.png: values must be in 0..31, got 32"):
        read_semantics(tmp_path / "b.png")


@pytest.mark.parametrize("seed", range(5))
def test_damaged_pictures_are_named(tmp_path: Path, depth_m: np.ndarray, seed: int) -> None:
    rng, content = np.random.default_rng(seed), depth_png(depth_m)
    at = int(rng.integers(8, len(content) - 12))
    flipped = content[:at] + bytes([content[at] ^ (1 << seed)]) + content[at + 1 :]
    for name, damaged in {"cut.png": content[:at], "flipped.png": flipped, "none.png": b"", "a.png": content}.items():
        (tmp_path / name).write_bytes(damaged)
    for name in ("cut.png", "flipped.png", "none.png"):
        with pytest.raises(ValueError, match=f"read_depth: .*{name}: must be a PNG file of one channel of 16 bit: "):
            read_depth(tmp_path / name)
    with pytest.raises(ValueError, match=r"read_semantics: .*a.png: .* 8 bit: 16 bit of colour type 0"):
        read_semantics(tmp_path / "a.png")


def test_the_near_field_comes_back(tmp_path: Path) -> None:
    cells = np.random.default_rng(2).integers(0, 3, (160, 160)).astype(np.uint8)
    path = tmp_path / "a.npz"
    path.write_bytes(near_field_bytes(cells))
    np.testing.assert_array_equal(read_near_field(path), cells)
    assert NEAR_FIELD_GRID.shape == (1, 160, 160)
    assert [cell.name for cell in NearFieldCell] == ["FREE", "OCCUPIED", "UNKNOWN"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"read_near_field: .*a.npz: "):
        read_near_field(path)
    np.savez(path, cells=cells + 1)
    with pytest.raises(ValueError, match=r"read_near_field: .*a.npz: cells must be in 0..2, got 3"):
        read_near_field(path)
    with pytest.raises(ValueError, match=r"near_field_bytes: cells must be in 0..2, got 3"):
        near_field_bytes(cells + 1)
    with pytest.raises(ValueError, match=r"near_field_bytes: cells must be \(160, 160\) uint8, got \(2, 2\) uint8"):
        near_field_bytes(cells[:2, :2])
