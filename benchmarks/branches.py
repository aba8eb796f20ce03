"""Branches of single sensors at batch size 1: planned for their calibration, worked out anew, and a training pass."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from benchmarks.model import Clock
from benchmarks.model_inputs import made_up_batch
from perception.data.sensor_settings import FISHEYE_CAMERAS, CameraLoading, LidarLoading
from perception.formats.ultrasonic import EchoState
from perception.geometry.grid import Grid
from perception.geometry.transforms import rigid, yaw_matrix
from perception.models.branches import CameraBranch
from perception.models.parts import Branch, View
from perception.ops.echo_splat import EchoKind
from perception.runtime.yaml_files import load_yaml
from perception.structures import RADAR4D_FIELDS, RADAR_FIELDS, Batch, CameraImages, EchoBatch, PointBatch

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
_NUM_RETURNS = 2100  # five radars, seven scans of 60
_NUM_RETURNS_4D = 6144  # two radars, three scans of 1,024
_NUM_REPORTS = 48  # twelve sensors, three that listen to each, and a few second echoes


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
    generator = torch.Generator().manual_seed(0)
    batch = made_up_batch(CameraLoading(image_size_px=(192, 400)), LidarLoading(num_sweeps=4))
    fisheye = made_up_batch(CameraLoading(FISHEYE_CAMERAS, (320, 480), "fisheye"), None).cameras["fisheye"]
    return replace(
        batch,
        cameras={**batch.cameras, "fisheye": _as_fisheye(fisheye)},
        radar=_returns(_NUM_RETURNS, RADAR_FIELDS, generator),
        radar4d=_returns(_NUM_RETURNS_4D, RADAR4D_FIELDS, generator),
        ultrasonic=_echoes(generator),
    )


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


def _as_fisheye(cameras: CameraImages) -> CameraImages:
    """The same pictures of 190 degrees from the bumpers and the mirrors."""
    height, width = cameras.image_size_px
    focal = 193.0 * width / 640  # equidistant, 190 degrees across the width
    lens = [[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]]
    axes = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    places = torch.tensor([[3.75, 0, 0.7], [2.0, 1.0, 1.0], [-0.9, 0, 0.7], [2.0, -1.0, 1.0]], dtype=torch.float64)
    yaws = torch.arange(4, dtype=torch.float64) * math.pi / 2
    return replace(
        cameras,
        camera_model="kannala_brandt",
        intrinsics=torch.tensor(lens, dtype=torch.float64).expand(1, 4, 3, 3).clone(),
        camera2ego=rigid(yaw_matrix(yaws)[:, :3, :3] @ axes, places)[None],
        image2aug=torch.eye(3, dtype=torch.float64).repeat(1, 4, 1, 1),
        theta_max_rad=torch.full((1, 4), math.radians(95.0), dtype=torch.float64),
    )


def _returns(count: int, fields: tuple[str, ...], generator: torch.Generator) -> PointBatch:
    points = torch.rand(count, 3 + len(fields), generator=generator)
    points[:, :2] = (points[:, :2] - 0.5) * 100
    points[:, 2] = points[:, 2] * 4 - 1
    points[:, 7:10] = torch.tensor([0.5, 0.0, 0.5])  # standard deviations of 0.7 m
    return PointBatch(
        points=points,
        batch_index=torch.zeros(count, dtype=torch.long),
        present=torch.tensor([True]),
        sensor2ego=torch.eye(4, dtype=torch.float64)[None],
        fields=fields,
    )


def _echoes(generator: torch.Generator) -> EchoBatch:
    number = torch.arange(_NUM_REPORTS) % 12
    yaw = number * (math.pi / 6)
    poses = torch.stack((1.4 + 2.2 * yaw.cos(), 0.9 * yaw.sin(), yaw), dim=1)  # (E, 3)
    heard = number % 3 > 0
    return EchoBatch(
        sender=poses,
        receiver=poses.roll(1, 0),
        distance_m=0.5 + 4 * torch.rand(_NUM_REPORTS, generator=generator),
        beam_rad=torch.full((_NUM_REPORTS,), 0.7),
        sigma_m=torch.full((_NUM_REPORTS,), 0.02),
        level=torch.where(heard, 0.5, 0.0),
        age_s=torch.rand(_NUM_REPORTS, generator=generator) * 0.1,
        kind=torch.where(heard, int(EchoKind.FIRST), int(EchoKind.NONE)),
        state=torch.where(heard, int(EchoState.OBJECT), int(EchoState.NO_OBJECT)),
        sensor=number + 1,
        batch_index=torch.zeros(_NUM_REPORTS, dtype=torch.long),
        present=torch.tensor([True]),
    )
