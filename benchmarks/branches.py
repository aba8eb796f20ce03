"""Branches of single sensors at batch size 1: planned for their calibration, worked out anew, and a training pass."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from benchmarks.model import Clock
from benchmarks.model_inputs import made_up_suite
from perception.data.sensor_settings import (
    FISHEYE_CAMERAS,
    CameraLoading,
    LidarLoading,
    Radar4dLoading,
    RadarLoading,
    RangingLoading,
    SensorSuite,
    UltrasonicLoading,
)
from perception.geometry.grid import Grid
from perception.models.branches import CameraBranch
from perception.models.parts import Branch, View
from perception.runtime.yaml_files import load_yaml
from perception.structures import Batch

_PARTS = Path(__file__).resolve().parents[1] / "configs" / "models" / "parts"
_BRANCHES = (
    "camera_resnet_small",
    "fisheye_small",
    "lidar_voxels_small",
    "radar_small",
    "radar4d_small",
    "ultrasonic_small",
)
_VIEWS = ("view_sampling_small", "view_deformable_small")
_GRIDS = {
    "main": Grid.square(51.2, 0.8),
    "near": Grid.square(8.0, 0.1, (-1.0, 3.0)),
}
_SUITE = SensorSuite(
    cameras=(CameraLoading(image_size_px=(192, 400)), CameraLoading(FISHEYE_CAMERAS, (320, 480), "fisheye")),
    lidar=LidarLoading(num_sweeps=4),
    ranging=RangingLoading(
        radar=RadarLoading(num_sweeps=6), radar4d=Radar4dLoading(num_sweeps=2), ultrasonic=UltrasonicLoading()
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options.

    Args:
        parser: the parser to add to.
    """
    parser.add_argument("--repeats", type=int, default=15, help="timed runs; medians are given")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times the small branches on a made-up batch.

    Args:
        options: see `add_arguments`.

    Returns:
        Rows of branch, ms (median, the plan given), cpu_ms (of all threads), plan_ms (of the plan alone) and
        training_ms (forward and backward, the plan given).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        batch = every_sensor_batch()
        return [_row(name, branch, batch, options.repeats) for name, branch in small_branches().items()]
    finally:
        torch.set_num_threads(threads)


def small_branches() -> dict[str, Branch]:
    """Builds the branches of the small configs, the camera branch once with every view.

    Returns:
        Name -> branch.
    """
    branches = {name: _build(Branch, load_yaml(_PARTS / f"{name}.yaml")) for name in _BRANCHES}
    for name in _VIEWS:
        encoder = _build(Branch, load_yaml(_PARTS / "camera_resnet_small.yaml")).encoder
        view = _build(View, load_yaml(_PARTS / f"{name}.yaml"))
        branches[f"camera_resnet_small, {name}"] = CameraBranch(encoder=encoder, view=view)
    return branches


def every_sensor_batch() -> Batch:
    """Makes a batch of one sample with every sensor, about what the simulated suite gives.

    Returns:
        The batch.
    """
    return made_up_suite(_SUITE)


def _row(name: str, branch: Branch, batch: Batch, repeats: int) -> dict[str, Any]:
    forward, planning, training = Clock(), Clock(), Clock()
    branch.eval()
    plan = branch.plan(batch, _GRIDS)
    with torch.no_grad():
        for _ in range(repeats + 1):
            with planning.running():
                branch.plan(batch, _GRIDS)
            with forward.running():
                branch(batch, _GRIDS, plan)
    branch.train()
    for _ in range(max(repeats // 3, 2)):
        with training.running():
            maps = branch(batch, _GRIDS, plan).bev.values()
            torch.stack([level.features.square().mean() for level in maps]).sum().backward()
    return {
        "branch": name,
        "ms": forward.ms(skip=1),
        "cpu_ms": forward.cpu_ms(skip=1),
        "plan_ms": planning.ms(skip=1),
        "training_ms": training.ms(skip=1),
    }


def _build(kind: type, config: Mapping[str, Any]) -> Any:
    parser = ArgumentParser()
    parser.add_argument("--part", type=kind)
    return parser.instantiate(parser.parse_object({"part": dict(config)})).part
