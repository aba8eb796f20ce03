"""lidarseg and panoptic files: as the devkit reads them, and damage."""

from pathlib import Path

import numpy as np
import pytest

from perception.formats.point_labels import lidarseg_bytes, panoptic_bytes, read_lidarseg, read_panoptic

CATEGORIES = np.array([0, 1, 17, 17, 23, 24, 30, 31], np.uint8)
LABELS = np.array([0, 1001, 17002, 0, 23999, 24000, 30000, 31000], np.uint16)


def test_the_devkit_reads_them(tmp_path: Path) -> None:
    io_utils = pytest.importorskip("nuscenes.utils.data_io", reason="the devkit is the oracle")
    (tmp_path / "a_lidarseg.bin").write_bytes(lidarseg_bytes(CATEGORIES))
    (tmp_path / "a_panoptic.npz").write_bytes(panoptic_bytes(LABELS))
    np.testing.assert_array_equal(io_utils.load_bin_file(str(tmp_path / "a_lidarseg.bin"), "lidarseg"), CATEGORIES)
    np.testing.assert_array_equal(io_utils.load_bin_file(str(tmp_path / "a_panoptic.npz"), "panoptic"), LABELS)
    assert read_lidarseg(tmp_path / "a_lidarseg.bin", num_points=8).tolist() == CATEGORIES.tolist()
    assert read_panoptic(tmp_path / "a_panoptic.npz", num_points=8).tolist() == LABELS.tolist()


def test_files_of_the_devkit_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", data=LABELS)
    assert read_panoptic(tmp_path / "a.npz", num_points=8).tolist() == LABELS.tolist()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    seg, pan = tmp_path / "a.bin", tmp_path / "a.npz"
    seg.write_bytes(lidarseg_bytes(CATEGORIES)[:-1])
    with pytest.raises(ValueError, match=r"read_lidarseg: .*a.bin: must have 8 labels, got 7"):
        read_lidarseg(seg, num_points=8)
    seg.write_bytes(b"\x20")
    with pytest.raises(ValueError, match=r"read_lidarseg: .*a.bin: labels must be in 0..31, got 32"):
        read_lidarseg(seg, num_points=1)
    pan.write_bytes(panoptic_bytes(LABELS)[:-30])
    with pytest.raises(ValueError, match=r"read_panoptic: .*a.npz: "):
        read_panoptic(pan, num_points=8)
    pan.write_bytes(panoptic_bytes(LABELS))
    with pytest.raises(ValueError, match=r"read_panoptic: .*a.npz: must have 9 labels, got 8"):
        read_panoptic(pan, num_points=9)
    for label, message in {
        32000: "must have categories in 0..31, got 32",
        17000: "must have an instance where and only where a thing is, got 17000",
        24001: "must have an instance where and only where a thing is, got 24001",
        5: "must have an instance where and only where a thing is, got 5",
    }.items():
        np.savez(pan, data=np.array([label], np.uint16))
        with pytest.raises(ValueError, match=f"read_panoptic: .*a.npz: labels {message}"):
            read_panoptic(pan, num_points=1)


def test_writing_refuses_other_arrays() -> None:
    with pytest.raises(ValueError, match=r"lidarseg_bytes: categories must be \(P,\) uint8, got \(8,\) int64"):
        lidarseg_bytes(CATEGORIES.astype(np.int64))
    with pytest.raises(ValueError, match=r"lidarseg_bytes: categories must be in 0..31, got 40"):
        lidarseg_bytes(np.array([40], np.uint8))
    with pytest.raises(ValueError, match=r"panoptic_bytes: labels must be \(P,\) uint16, got \(8, 1\) uint16"):
        panoptic_bytes(LABELS[:, None])
    with pytest.raises(ValueError, match=r"panoptic_bytes: labels must have an instance where"):
        panoptic_bytes(np.array([1000], np.uint16))


def test_no_points_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(lidarseg_bytes(CATEGORIES[:0]))
    (tmp_path / "a.npz").write_bytes(panoptic_bytes(LABELS[:0]))
    assert read_lidarseg(tmp_path / "a.bin", num_points=0).shape == (0,)
    assert read_panoptic(tmp_path / "a.npz", num_points=0).shape == (0,)
