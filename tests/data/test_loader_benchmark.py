"""The loading benchmark runs through on a small set."""

import argparse
from typing import Any

import pytest

from benchmarks.loader import add_arguments, run
from tests.data.conftest import IndexedSet


def rows_of(data: IndexedSet) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(["--dataroot", str(data.dataroot), "--repeats", "1"]))


def test_every_case_has_a_peer_and_a_ratio(synthetic: IndexedSet, suite: IndexedSet) -> None:
    pytest.importorskip("nuscenes.nuscenes")
    rows = rows_of(synthetic)
    assert [row["op"] for row in rows] == ["load pictures", "load pictures", "load sweeps"]
    more = rows_of(suite)
    assert [row["op"] for row in more[3:]] == ["load radars", "load every sensor"]
    assert more[3]["case"] == "3 radars, 4 sweeps each"
    assert more[4]["case"] == "16 channels: 1 lidar, 6 cam, 3 radar, 1 radar4d, 3 ultrasonic, 2 fisheye"
    for row in rows + more:
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
