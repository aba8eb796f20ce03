"""Clouds to measure on: recorded ones where there are some, else one made up."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ops.voxelize import spinning_lidar
from perception.geometry.transforms import invert_rigid, rigid_from_quaternion, transform_points

_SCENE = "scene-0103"


def multi_sweep_cloud() -> tuple[Tensor, str]:
    """Chains the recorded keyframes of one scene into a cloud of the size of ten sweeps.

    Returns:
        (P, 3) float32 x y z in metres, in the ego frame of the last keyframe, and where it comes from.
    """
    folder = os.environ.get("PERCEPTION_REAL_DATA")
    if folder is None:
        return spinning_lidar(240_000)[:, :3].contiguous(), "made-up cloud"
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
        points = torch.from_numpy(np.fromfile(root / frame["filename"], np.float32).reshape(-1, 5)[:, :3]).double()
        sensor2ego = global2ego @ matrices[frame["ego_pose_token"]] @ matrices[frame["calibrated_sensor_token"]]
        clouds.append(transform_points(sensor2ego, points).float())
    return torch.cat(clouds), f"{len(frames)} chained keyframes"


def single_sweep() -> tuple[Tensor, str]:
    """Takes one sweep.

    Returns:
        (P, 3) float32 x y z in metres in the ego frame, and where it comes from.
    """
    points, source = multi_sweep_cloud()
    return points[-34_720:], "made-up cloud" if source == "made-up cloud" else "a recorded sweep"


def _matrix(record: dict[str, list[float]]) -> Tensor:
    translation, rotation = (torch.tensor(record[k], dtype=torch.float64) for k in ("translation", "rotation"))
    return rigid_from_quaternion(translation, rotation)
