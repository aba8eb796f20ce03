"""The made-up large set that the index is measured on, in small."""

import argparse
from pathlib import Path

import pytest
from nuscenes import NuScenes

from benchmarks import data
from benchmarks.blow_up_nuscenes import CHANNELS, VERSION, Size, blow_up
from perception.data.index import Index
from perception.data.index_build import build_index
from tests.synthetic_nuscenes import VERSION as SMALL_VERSION
from tests.synthetic_nuscenes import write_synthetic_nuscenes

SIZE = Size(scenes=3, samples=31, sample_data=2400, annotations=700)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_nuscenes(tmp_path_factory.mktemp("small"))


def test_a_blown_up_set_is_whole(small: Path, tmp_path: Path) -> None:
    blow_up(small / SMALL_VERSION, tmp_path / "set", SIZE)
    devkit = NuScenes(VERSION, str(tmp_path / "set"), verbose=False)
    assert (len(devkit.scene), len(devkit.sample), len(devkit.sample_data)) == (3, 31, 2400)
    assert len(devkit.ego_pose) == 2400 and len(devkit.sample_annotation) == 700
    assert {len(sample["data"]) for sample in devkit.sample} == {len(CHANNELS)}
    for table in ("sample", "sample_data", "sample_annotation"):
        for row in getattr(devkit, table):
            assert not row["next"] or devkit.get(table, row["next"])["prev"] == row["token"]
    for row in devkit.sample_data:
        assert not row["next"] or devkit.get("sample_data", row["next"])["timestamp"] > row["timestamp"]
    build_index(tmp_path / "set", VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    for i, sample in enumerate(devkit.sample):
        record = index.record(i)
        assert {name: sensor.token for name, sensor in record.sensors.items()} == sample["data"]
        assert list(record.annotations.tokens) == sample["anns"]
        assert len(index.sweeps(i, "LIDAR_TOP", 3)) == (3 if sample["prev"] else 0)


@pytest.mark.slow
def test_the_benchmark_opens_the_same_sample_both_ways(small: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    options = ["--dataroot", str(small), "--version", SMALL_VERSION, "--scenes", "2", "--work-dir", str(tmp_path)]
    rows = {row["name"]: row for row in data.run(parser.parse_args(options))}
    assert rows["ratio"]["same_boxes"] is True
    assert rows["blow up"]["scenes"] == 2
    assert not list(tmp_path.iterdir())
