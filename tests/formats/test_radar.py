"""Radar scans."""

import struct
from pathlib import Path

import numpy as np
import pytest
from nuscenes.utils.data_classes import RadarPointCloud

from perception.formats.radar import RADAR_FIELDS, RadarFilter, radar_bytes, read_radar, write_radar


@pytest.fixture
def points() -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 18)).astype(np.float32)
    for name in ("dyn_prop", "ambig_state", "invalid_state"):
        points[:, RADAR_FIELDS.index(name)] = rng.integers(0, 8, 60)
    for name in ("id", "is_quality_valid", "x_rms", "y_rms", "pdh0", "vx_rms", "vy_rms"):
        points[:, RADAR_FIELDS.index(name)] = rng.integers(-100, 100, 60)
    return points


@pytest.fixture
def scan(tmp_path: Path, points: np.ndarray) -> Path:
    write_radar(tmp_path / "scan.pcd", points)
    return tmp_path / "scan.pcd"


def real_scans(real_data: Path) -> list[Path]:
    return [*(real_data / "radar").glob("*.pcd"), *(real_data / "nuscenes/samples/RADAR_FRONT").glob("*.pcd")]


def test_real_scans_are_read_as_the_devkit_reads_them(real_data: Path) -> None:
    counts = []
    for file in real_scans(real_data):
        kept, theirs = read_radar(file, RadarFilter()), RadarPointCloud.from_file(str(file)).points.T
        np.testing.assert_array_equal(kept, theirs)
        counts.append((len(read_radar(file)), len(kept)))
    assert sorted(counts) == [(74, 74), (125, 70)]


def test_a_written_scan_is_the_original_byte_by_byte(real_data: Path, tmp_path: Path) -> None:
    for file in real_scans(real_data):
        write_radar(tmp_path / "again.pcd", read_radar(file))
        written = (tmp_path / "again.pcd").read_bytes()[:-1]  # without our padding
        assert file.read_bytes()[: len(written)] == written


def test_round_trip_and_the_devkit(scan: Path, points: np.ndarray) -> None:
    np.testing.assert_array_equal(read_radar(scan), points)
    assert scan.read_bytes() == radar_bytes(points)
    np.testing.assert_array_equal(read_radar(scan, RadarFilter()), RadarPointCloud.from_file(str(scan)).points.T)
    moving = RadarPointCloud.from_file(str(scan), dynprop_states=[0, 2, 6], ambig_states=range(8)).points.T
    ours = RadarFilter(dyn_props=(0, 2, 6), ambig_states=range(8))
    np.testing.assert_array_equal(read_radar(scan, ours), moving)


def test_a_scan_without_returns(tmp_path: Path) -> None:
    write_radar(tmp_path / "empty.pcd", np.zeros((0, 18)))
    assert read_radar(tmp_path / "empty.pcd", RadarFilter()).shape == (0, 18)
    assert RadarPointCloud.from_file(str(tmp_path / "empty.pcd")).points.shape == (18, 0)


def test_a_file_of_no_returns_is_a_radar_that_saw_nothing(scan: Path) -> None:
    content = scan.read_bytes()
    header = content[: len(content) - 1 - 60 * 43].replace(b"WIDTH 60", b"WIDTH 0").replace(b"POINTS 60", b"POINTS 0")
    for end in (b"", b"\n"):
        scan.write_bytes(header + end)
        assert read_radar(scan).shape == (0, 18)


def test_returns_that_are_not_finite(scan: Path) -> None:
    content = bytearray(scan.read_bytes())
    start = len(content) - 1 - 60 * 43
    struct.pack_into("<f", content, start + 5 * 43, float("inf"))
    scan.write_bytes(content)
    with pytest.raises(ValueError, match=r"scan.pcd: 1 of 60 points are not finite, the first is number 5"):
        read_radar(scan)
    assert len(read_radar(scan, non_finite="drop")) == 59


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"POINTS 60", b"POINTS 999999999", r"must be one row of POINTS = WIDTH returns"),
        (b"POINTS 60", b"POINTS 99999999999999999999", r"must be counts"),
        (b"POINTS 60", b"POINTS -60", r"must be counts"),
        (b"WIDTH 60", b"WIDTH 0", r"must be one row"),
        (b"HEIGHT 1", b"HEIGHT 2", r"must be one row"),
        (b"HEIGHT 1\n", b"", r"header lacks HEIGHT"),
        (b"DATA binary", b"DATA ascii", r"DATA must be binary, got 'ascii'"),
        (b"DATA binary", b"DOTA binary", r"must begin with a PCD header that ends in a DATA line"),
        (b"# .PCD", b"PLY", r"must begin with a PCD header"),
        (b" rcs", b" rcz", r"FIELDS lacks rcs"),
        (b" rcs", b" rcs rcs", r"must have one entry per field"),
        (b"COUNT 1", b"COUNT 2", r"COUNT must be 1"),
        (b"SIZE 4", b"SIZE 3", r"TYPE and SIZE must name number types"),
        (b"TYPE F", b"TYPE X", r"TYPE and SIZE must name number types"),
    ],
)
def test_hostile_headers(scan: Path, old: bytes, new: bytes, message: str) -> None:
    content = scan.read_bytes()
    assert content.count(old) == 1
    scan.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match=rf"read_radar: .*scan.pcd: .*{message}"):
        read_radar(scan)


def test_absurd_counts_cost_no_memory(scan: Path) -> None:
    content = scan.read_bytes().replace(b"WIDTH 60", b"WIDTH 999999999").replace(b"POINTS 60", b"POINTS 999999999")
    scan.write_bytes(content)
    with pytest.raises(ValueError, match=r"999999999 returns need 42999999957 bytes, got 2581: cut off"):
        read_radar(scan)


@pytest.mark.parametrize("size", [0, 10, 300, 500])
def test_files_cut_off(scan: Path, size: int) -> None:
    scan.write_bytes(scan.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"scan.pcd: (60 returns need|must begin with)"):
        read_radar(scan)


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (0.5, "pdh0", r"pdh0 must be whole numbers in -128..127"),
        (300, "pdh0", r"pdh0 must be whole numbers in -128..127"),
        (40_000, "id", r"id must be whole numbers in -32768..32767"),
        (np.nan, "vx", r"points must be finite"),
    ],
)
def test_writing_rejects_values(tmp_path: Path, points: np.ndarray, value: float, field: str, message: str) -> None:
    points[7, RADAR_FIELDS.index(field)] = value
    with pytest.raises(ValueError, match=rf"write_radar: {message}"):
        write_radar(tmp_path / "a.pcd", points)
    with pytest.raises(ValueError, match=r"write_radar: points must be \(P, 18\), got \(60, 17\)"):
        write_radar(tmp_path / "a.pcd", points[:, :17])
    with pytest.raises(ValueError, match=rf"radar_bytes: {message}"):
        radar_bytes(points)
    assert not list(tmp_path.iterdir())
