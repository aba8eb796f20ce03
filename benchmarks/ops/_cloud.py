"""Clouds to measure on: recorded ones where there are some, else one made up."""

import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception.geometry.transforms import invert_rigid, rigid_from_quaternion, transform_points

_SCENE = "scene-0103"


def multi_sweep_cloud(columns: int = 3) -> tuple[Tensor, str]:
    """Chains the recorded keyframes of one scene into a cloud of the size of several sweeps.

    Args:
        columns: how many of x y z intensity ring.

    Returns:
        (P, columns) float32, metres, in the ego frame of the last keyframe, and where it comes from.
    """
    folder = os.environ.get("PERCEPTION_REAL_DATA")
    if folder is None:
        return spinning_lidar(240_000)[:, :columns].contiguous(), "made-up cloud"
    root = Path(folder, "nuscenes")
    names = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor")
    scenes, samples, frames, poses, sensors = (
        json.loads((root / "v1.0-mini" / f"{name}.json").read_text()) for name in names
    )
    matrices = {record["token"]: _matrix(record) for record in (*poses, *sensors)}
    scene = next(record["token"] for record in scenes if record["name"] == _SCENE)
    tokens = {record["token"] for record in samples if record["scene_token"] == scene}
    frames = [f for f in frames if f["sample_token"] in tokens and "LIDAR_TOP" in f["filename"]]
    frames.sort(key=lambda frame: frame["timestamp"])
    global2ego = invert_rigid(matrices[frames[-1]["ego_pose_token"]])
    clouds = []
    for frame in frames:
        points = np.fromfile(root / frame["filename"], np.float32).reshape(-1, 5)[:, :columns]
        sensor2ego = global2ego @ matrices[frame["ego_pose_token"]] @ matrices[frame["calibrated_sensor_token"]]
        clouds.append(transform_points(sensor2ego, torch.from_numpy(points).double()).float())
    return torch.cat(clouds), f"{len(frames)} chained keyframes"


def single_sweep() -> tuple[Tensor, str]:
    """Takes one sweep.

    Returns:
        (P, 3) float32 x y z in metres in the ego frame, and where it comes from.
    """
    points, source = multi_sweep_cloud()
    return points[-34_720:], "made-up cloud" if source == "made-up cloud" else "a recorded sweep"


def spinning_lidar(num_points: int) -> Tensor:
    """Makes a cloud as a spinning sensor leaves it: points in firing order, rings of 32 beams on ground and walls.

    Args:
        num_points: how many points.

    Returns:
        (num_points, 5) float32 x y z intensity time.
    """
    generator = torch.Generator().manual_seed(0)
    shot = torch.arange(num_points)
    azimuth_rad = (shot // 32) * (2 * math.pi / 1085)
    elevation_rad = torch.deg2rad(-30 + 40 * (shot % 32) / 31)
    wall_m = 15 + 25 * (3 * azimuth_rad).sin().abs()
    ground_m = 1.8 / (-elevation_rad).clamp(min=1e-3).tan()
    range_m = torch.minimum(wall_m, ground_m) * (1 + 0.01 * torch.randn(num_points, generator=generator))
    x, y = range_m * azimuth_rad.cos(), range_m * azimuth_rad.sin()
    z = range_m * elevation_rad.tan()
    return torch.stack((x, y, z, torch.rand(num_points, generator=generator), torch.zeros(num_points)), dim=1)


def _matrix(record: dict[str, list[float]]) -> Tensor:
    translation, rotation = (torch.tensor(record[k], dtype=torch.float64) for k in ("translation", "rotation"))
    return rigid_from_quaternion(translation, rotation)
