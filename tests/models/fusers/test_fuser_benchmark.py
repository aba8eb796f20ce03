"""What the benchmark of the fusers builds and counts."""

import argparse

import torch

from benchmarks.fusers import build_fuser, made_up_features, run
from perception.models.fusers.gmu import GmuFuser
from perception.models.fusers.reconstruction import ReconstructingFuser
from tests.models.fusers.features import BUILDERS


def test_a_config_is_built_for_other_sensors() -> None:
    inner = {"class_path": "perception.models.fusers.gmu.GmuFuser", "init_args": {"in_channels": {}, "kernel": 3}}
    outer = {
        "class_path": "perception.models.fusers.reconstruction.ReconstructingFuser",
        "init_args": {"fuser": inner, "width": 4},
    }
    fuser = build_fuser(outer, {"main": {"a": 2}}, {"main": 3})
    assert isinstance(fuser, ReconstructingFuser)
    assert isinstance(fuser.fuser, GmuFuser)
    assert fuser.in_channels == {"main": {"a": 2}}
    assert fuser.fuser.levels["main"].values["a"][0].kernel_size == (3, 3)


def test_every_fuser_is_measured() -> None:
    rows = run(argparse.Namespace(only=None, cells=16, repeats=1, threads=1, training=False))
    assert [row["fuser"] for row in rows] == sorted(BUILDERS)
    assert all(row["gmac"] > 0 and row["kparams"] > 0 for row in rows)


def test_a_fuser_is_measured() -> None:
    threads = torch.get_num_threads()
    options = argparse.Namespace(only=["gmu"], cells=8, repeats=1, threads=1, training=True)
    (row,) = run(options)
    assert torch.get_num_threads() == threads
    assert row["fuser"] == "gmu"
    # Four linear maps of 64 to 64 channels, and gates of 256 to 256, over 64 cells.
    assert row["gmac"] * 1e9 == 64 * (4 * 64 * 64 + 256 * 256)
    assert row["kparams"] * 1e3 == 4 * (64 * 64 + 64) + 256 * 256 + 256 + 4 * 64
    assert min(row["ms"], row["cpu_ms"], row["lidar_ms"], row["training_cpu_ms"]) > 0
    present = {
        name: part.present.tolist() for name, part in made_up_features(8, (("lidar",), ("radar", "lidar"))).items()
    }
    assert present == {
        "camera": [False, False],
        "lidar": [True, True],
        "radar": [False, True],
        "ultrasonic": [False, False],
    }
