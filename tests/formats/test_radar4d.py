"""Scans of radars that measure height."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from perception.formats.radar4d import RADAR4D_FIELDS, radar4d_bytes, read_radar4d, write_radar4d


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, len(RADAR4D_FIELDS))).astype(np.float32)


@pytest.fixture
def scan(tmp_path: Path, points: np.ndarray) -> Path:
    write_radar4d(tmp_path / "scan.bin", points)
    return tmp_path / "scan.bin"


def test_round_trip(scan: Path, points: np.ndarray, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_radar4d(scan), points)
    assert scan.read_bytes() == radar4d_bytes(points)
    write_radar4d(tmp_path / "empty.bin", np.zeros((0, 7)))
    assert read_radar4d(tmp_path / "empty.bin").shape == (0, 7)


def test_the_layout_is_as_documented(scan: Path, points: np.ndarray) -> None:
    content = scan.read_bytes()
    assert content[:8] == b"RADAR4D\x01"
    assert struct.unpack("<II", content[8:16]) == (40, zlib.crc32(points.astype("<f4").tobytes()))
    assert struct.unpack("<7f", content[16:44]) == tuple(points[0].tolist())
    assert len(content) == 16 + 40 * 28


@pytest.mark.parametrize(
    ("start", "content", "message"),
    [
        (0, b"PCD", r"must begin with a header of RADAR4D, got b'PCDAR4D"),
        (7, b"\x02", r"version must be 1, got 2"),
        (8, b"\xff\xff\xff\xff", r"4294967295 points need 120259084276 bytes, got 1136"),
        (8, b"\x27", r"39 points need 1108 bytes, got 1136"),
        (12, b"abcd", r"checksum must be that of the points, got another: damaged"),
        (500, b"?", r"checksum must be that of the points, got another: damaged"),
    ],
)
def test_damaged_files(scan: Path, start: int, content: bytes, message: str) -> None:
    whole = scan.read_bytes()
    scan.write_bytes(whole[:start] + content + whole[start + len(content) :])
    with pytest.raises(ValueError, match=rf"read_radar4d: .*scan.bin: {message}"):
        read_radar4d(scan)


@pytest.mark.parametrize("size", [0, 7, 15, 16, 500])
def test_files_cut_off(scan: Path, size: int) -> None:
    scan.write_bytes(scan.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"scan.bin: (must begin with a header|40 points need 1136 bytes)"):
        read_radar4d(scan)


def test_points_that_are_not_finite(scan: Path, points: np.ndarray) -> None:
    points[3, 5] = np.inf
    rows = points.tobytes()
    scan.write_bytes(struct.pack("<8sII", b"RADAR4D\x01", 40, zlib.crc32(rows)) + rows)
    with pytest.raises(ValueError, match=r"read_radar4d: .*: 1 of 40 points are not finite, the first is number 3"):
        read_radar4d(scan)
    assert len(read_radar4d(scan, non_finite="drop")) == 39


def test_writing_rejects_values(tmp_path: Path, points: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"radar4d_bytes: points must be \(P, 7\), got \(40, 6\)"):
        write_radar4d(tmp_path / "a.bin", points[:, :6])
    points[2, 0] = np.nan
    with pytest.raises(ValueError, match=r"radar4d_bytes: points must be finite, got NaN or infinity"):
        write_radar4d(tmp_path / "a.bin", points)
    assert not list(tmp_path.iterdir())
