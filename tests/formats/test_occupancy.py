"""Occupancy files: layout, classes as the devkit merges them, damage."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.occupancy import (
    FREE,
    OCCUPANCY_CLASSES,
    OCCUPANCY_GRID,
    OCCUPANCY_SHAPE,
    POINT_TO_OCCUPANCY,
    Occupancy,
    occupancy_bytes,
    read_occupancy,
)


@pytest.fixture
def occupancy() -> Occupancy:
    rng = np.random.default_rng(0)
    masks = [rng.random(OCCUPANCY_SHAPE) < share for share in (0.5, 0.2)]
    return Occupancy(rng.integers(0, FREE + 1, OCCUPANCY_SHAPE).astype(np.uint8), *masks)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_layout_is_that_of_occ3d(tmp_path: Path, occupancy: Occupancy) -> None:
    assert OCCUPANCY_SHAPE == (200, 200, 16)
    assert OCCUPANCY_GRID.origin_m == (-40.0, -40.0, -1.0)
    with np.load(written(tmp_path / "labels.npz", occupancy_bytes(occupancy))) as file:
        assert set(file.files) == {"semantics", "mask_lidar", "mask_camera"}
        for name in file.files:
            assert file[name].dtype == np.uint8
            np.testing.assert_array_equal(file[name], getattr(occupancy, name))


def test_round_trip_and_files_of_numpy(tmp_path: Path, occupancy: Occupancy) -> None:
    ours = written(tmp_path / "labels.npz", occupancy_bytes(occupancy))
    theirs = tmp_path / "theirs.npz"
    arrays = {name: np.asfortranarray(array.astype(np.uint8)) for name, array in vars(occupancy).items()}
    np.savez_compressed(theirs, further=np.zeros(3), **arrays)
    for path in (ours, theirs):
        read = read_occupancy(path)
        for name, array in vars(occupancy).items():
            np.testing.assert_array_equal(getattr(read, name), array)
            assert getattr(read, name).dtype == array.dtype
            assert getattr(read, name).flags.writeable
    assert occupancy_bytes(occupancy) == ours.read_bytes()


def test_categories_are_merged_as_the_devkit_merges_them() -> None:
    utils = pytest.importorskip("nuscenes.eval.lidarseg.utils", reason="the devkit is the oracle")
    official = utils.LidarsegClassMapper.get_fine2coarse(SimpleNamespace(ignore_class={"name": "others"}))
    assert {name: OCCUPANCY_CLASSES[POINT_TO_OCCUPANCY[i]] for i, name in enumerate(POINT_CATEGORIES)} == official
    assert OCCUPANCY_CLASSES[17] == "free"
    assert FREE not in POINT_TO_OCCUPANCY


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_named(tmp_path: Path, occupancy: Occupancy, seed: int) -> None:
    content = occupancy_bytes(occupancy)
    rng = np.random.default_rng(seed)
    for name, damaged in {
        "empty.npz": b"",
        "text.npz": b"semantics",
        "cut.npz": content[: rng.integers(10, len(content) - 10)],
        "flipped.npz": _flipped(content, int(rng.integers(1000, len(content) // 2))),
    }.items():
        with pytest.raises(ValueError, match=f"read_occupancy: .*{name}: "):
            read_occupancy(written(tmp_path / name, damaged))
    with pytest.raises(FileNotFoundError, match=r"absent.npz"):
        read_occupancy(tmp_path / "absent.npz")


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


def test_other_contents_are_refused(tmp_path: Path, occupancy: Occupancy) -> None:
    good = {name: array.astype(np.uint8) for name, array in vars(occupancy).items()}
    path = tmp_path / "labels.npz"
    cases = {
        r"must hold semantics, mask_lidar, mask_camera: .*mask_camera.npy": {"mask_camera": None},
        r"semantics must be \(200, 200, 16\), got \(16, 200, 200\)": {"semantics": good["semantics"].T.copy()},
        r"semantics must be uint8, got int64": {"semantics": np.zeros((2, 2), np.int64)},
        r"semantics must be uint8, got object": {"semantics": np.array([{}], object)},
        r"semantics must take at most 640000 bytes, got 8000\d\d\d": {"semantics": np.zeros(8_000_000, np.uint8)},
        r"semantics must be in 0..17, got 18": {"semantics": np.full(OCCUPANCY_SHAPE, 18, np.uint8)},
        r"mask_lidar must be in 0..1, got 2": {"mask_lidar": np.full(OCCUPANCY_SHAPE, 2, np.uint8)},
    }
    for message, change in cases.items():
        arrays = {name: array for name, array in (good | change).items() if array is not None}
        np.savez_compressed(path, **arrays)
        with pytest.raises(ValueError, match=f"read_occupancy: .*labels.npz: {message}"):
            read_occupancy(path)


def test_a_header_that_promises_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": OCCUPANCY_SHAPE})
    path = tmp_path / "labels.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("semantics.npy", member.getvalue() + b"abc")
    with pytest.raises(ValueError, match=r"semantics must have 640000 values, got 3"):
        read_occupancy(path)


def test_writing_refuses_other_arrays(occupancy: Occupancy) -> None:
    masks = occupancy.mask_lidar, occupancy.mask_camera
    with pytest.raises(ValueError, match=r"semantics must be \(200, 200, 16\) uint8, got \(200, 200, 16\) int64"):
        occupancy_bytes(Occupancy(occupancy.semantics.astype(np.int64), *masks))
    with pytest.raises(ValueError, match=r"mask_camera must be \(200, 200, 16\) bool, got \(2,\) bool"):
        occupancy_bytes(Occupancy(occupancy.semantics, masks[0], np.zeros(2, bool)))
    with pytest.raises(ValueError, match=r"semantics must be in 0..17, got 18"):
        occupancy_bytes(Occupancy(np.full(OCCUPANCY_SHAPE, 18, np.uint8), *masks))
