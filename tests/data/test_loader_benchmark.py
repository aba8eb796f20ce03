"""The loading benchmark runs through on a small set."""

import argparse
from typing import Any

import numpy as np
import pytest

from benchmarks.loader import add_arguments, run
from benchmarks.map_truth import map_rows
from perception.formats.nuscenes_map import VectorMapBuilder, write_maps
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


def test_maps_are_drawn_beside_the_devkit(own_synthetic: IndexedSet) -> None:
    pytest.importorskip("nuscenes.nuscenes")
    assert map_rows(own_synthetic.index, own_synthetic.dataroot, 1) == []
    builder = VectorMapBuilder((2000.0, 2000.0), "street")
    builder.add_drivable_area([np.array([[450.3, 980.1], [560.2, 990.7], [540.9, 1030.4]])])
    locations = {own_synthetic.index.scene(name).location for name in own_synthetic.index.scenes}
    write_maps(own_synthetic.dataroot, dict.fromkeys(locations, builder.build()))
    rows = map_rows(own_synthetic.index, own_synthetic.dataroot, 1)
    assert [row["case"] for row in rows] == ["six classes, +-50 m, 0.5 m", "six classes, +-80 m, 0.5 m"]
