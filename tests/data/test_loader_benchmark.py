"""The loading benchmark runs through on a small set."""

import argparse

import pytest

from benchmarks.loader import add_arguments, run
from tests.data.conftest import IndexedSet


def test_every_case_has_a_peer_and_a_ratio(synthetic: IndexedSet) -> None:
    pytest.importorskip("nuscenes.nuscenes")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    rows = run(parser.parse_args(["--dataroot", str(synthetic.dataroot), "--repeats", "1"]))
    assert [row["op"] for row in rows] == ["load pictures", "load pictures", "load sweeps"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
