"""LiDAR files."""

import logging
from pathlib import Path

import numpy as np
import pytest
from nuscenes.utils.data_classes import LidarPointCloud

from perception.formats.lidar import read_lidar, write_lidar


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)


def test_real_files_are_read_as_the_devkit_reads_them(real_data: Path) -> None:
    files = sorted((real_data / "nuscenes/samples/LIDAR_TOP").glob("*.bin"))
    assert len(files) == 6
    for file in files:
        points = read_lidar(file)
        assert points.dtype == np.float32
        np.testing.assert_array_equal(points[:, :4].T, LidarPointCloud.from_file(str(file)).points)
        assert set(np.unique(points[:, 4])) == set(range(32))


def test_round_trip(tmp_path: Path, points: np.ndarray) -> None:
    write_lidar(tmp_path / "a.pcd.bin", points)
    read = read_lidar(tmp_path / "a.pcd.bin", num_points=100)
    np.testing.assert_array_equal(read, points)
    assert read.flags.writeable
    assert [file.name for file in tmp_path.iterdir()] == ["a.pcd.bin"]


def test_damaged_files_are_named(tmp_path: Path, points: np.ndarray) -> None:
    file = tmp_path / "cut.pcd.bin"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"read_lidar: .*cut.pcd.bin: file is empty"):
        read_lidar(file)
    file.write_bytes(points.tobytes()[:-3])
    with pytest.raises(ValueError, match=r"cut.pcd.bin: size must be a multiple of 20 bytes, got 1997"):
        read_lidar(file)
    file.write_bytes(points.tobytes()[:-20])
    with pytest.raises(ValueError, match=r"cut.pcd.bin: must have 100 points, got 99"):
        read_lidar(file, num_points=100)
    with pytest.raises(FileNotFoundError, match=r"absent.pcd.bin"):
        read_lidar(tmp_path / "absent.pcd.bin")


def test_points_that_are_not_finite(tmp_path: Path, points: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    points[[3, 50], [0, 3]] = np.nan, np.inf
    write_lidar(tmp_path / "a.pcd.bin", points)
    with pytest.raises(ValueError, match=r"a.pcd.bin: 2 of 100 points are not finite, the first is number 3"):
        read_lidar(tmp_path / "a.pcd.bin")
    with caplog.at_level(logging.WARNING):
        kept = read_lidar(tmp_path / "a.pcd.bin", non_finite="drop")
    np.testing.assert_array_equal(kept, np.delete(points, [3, 50], axis=0))
    assert "2 of 100 points" in caplog.text
    with pytest.raises(ValueError, match=r"non_finite must be 'raise' or 'drop', got 'ignore'"):
        read_lidar(tmp_path / "a.pcd.bin", non_finite="ignore")


def test_writing_rejects_other_shapes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"write_lidar: points must be \(P, 5\) with P > 0, got \(7, 4\)"):
        write_lidar(tmp_path / "a.bin", np.zeros((7, 4)))
