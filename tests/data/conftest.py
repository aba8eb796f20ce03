"""Indexed sets that the tests of this room read."""

from pathlib import Path
from typing import NamedTuple

import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from tests.data.suite import write_suite
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes


class IndexedSet(NamedTuple):
    """Where a set lies, and its index."""

    dataroot: Path
    index: Index


def index_set(dataroot: Path, folder: Path) -> IndexedSet:
    """Builds and opens the index of a set."""
    build_index(dataroot, VERSION, folder)
    return IndexedSet(dataroot, Index.open(folder))


@pytest.fixture(scope="session")
def recorded(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> IndexedSet:
    """The recorded keyframes: position 0 with six cameras, 1-5 a drive with LiDAR alone."""
    return index_set(real_data / "nuscenes", tmp_path_factory.mktemp("recorded") / "index")


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> IndexedSet:
    """Made-up drives with all sensors; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("synthetic")
    return index_set(write_synthetic_nuscenes(folder / "set"), folder / "index")


@pytest.fixture
def own_synthetic(tmp_path: Path) -> IndexedSet:
    """The made-up drives in a folder that the test may damage."""
    return index_set(write_synthetic_nuscenes(tmp_path / "set"), tmp_path / "index")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> IndexedSet:
    """The made-up drives with every kind of sensor; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("suite")
    return index_set(write_suite(folder / "set"), folder / "index")


@pytest.fixture
def own_suite(tmp_path: Path) -> IndexedSet:
    """The made-up drives with every kind of sensor in a folder that the test may damage."""
    return index_set(write_suite(tmp_path / "set"), tmp_path / "index")
