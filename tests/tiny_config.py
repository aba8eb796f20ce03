"""A training config so small that a step takes a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from perception.formats.classes import DETECTION_CLASSES

_SECOND = "perception.models.necks.second.SecondBackbone"


def tiny_config(dataroot: Path, *, cameras: bool = True) -> dict[str, Any]:
    """The content of a config file.

    Args:
        dataroot: of a set in nuScenes' format.
        cameras: with a camera branch, or LiDAR alone.

    Returns:
        Plain values.
    """
    return {
        "model": {
            "class_path": "perception.training.module.TrainingModule",
            "init_args": {
                "detector": tiny_detector(cameras=cameras),
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
                "schedule": {"class_path": "perception.training.schedules.WarmupCosine"},
            },
        },
        "data": {
            "class_path": "perception.training.data.NuScenesDataModule",
            "init_args": {
                "dataroot": str(dataroot),
                "train": "mini_train",
                "val": "mini_val",
                **({"cameras": {"image_size_px": [64, 96]}} if cameras else {}),
                "lidar": {"max_points": 2000},
                "loader": {"batch_size": 2, "repeats": 2},
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "gradient_clip_val": 10.0,
            "callbacks": [{"class_path": "perception.training.callbacks.WeightsWriter"}],
        },
    }


def tiny_detector(*, cameras: bool = True) -> dict[str, Any]:
    """The detector's part of the config.

    Args:
        cameras: with a camera branch, or LiDAR alone.

    Returns:
        `class_path` and `init_args`.
    """
    second = {"in_channels": 8, "stage_channels": [8], "stage_layers": [0], "stage_strides": [1], "up_channels": 8}
    backbone = {"class_path": _SECOND, "init_args": second}
    lidar = {"fields": {"intensity": 0.01}, "point_channels": [8], "backbone": backbone}
    branches = {"lidar": _part("branches.LidarBranch", encoder=_part("encoders.pillars.PillarEncoder", **lidar))}
    if cameras:
        resnet = {"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
        encoder = {"model_type": "resnet", "config": resnet, "out_features": ["stage3"], "out_channels": 8}
        view = {"in_channels": 8, "context_channels": 8, "out_channels": 8, "distance_range_m": [1, 25]}
        branches["camera"] = _part(
            "branches.CameraBranch",
            encoder=_part("encoders.image.ImageEncoder", **encoder),
            view=_part("views.lift_splat.LiftSplat", distance_step_m=2.0, **view),
        )
    grid = {"x_range_m": [-25.6, 25.6], "y_range_m": [-25.6, 25.6], "z_range_m": [-5, 3], "cell_m": [1.6, 1.6, 8]}
    return _part(
        "detector.Detector",
        class_names=list(DETECTION_CLASSES),
        grids={"main": grid},
        branches=branches,
        fuser=_part(
            "fusers.concat_conv.ConcatConvFuser",
            in_channels={"main": dict.fromkeys(branches, 8)},
            out_channels={"main": 8},
        ),
        neck=_part("necks.bev.BevNeck", levels={"main": backbone}),
        heads={
            "boxes": _part(
                "heads.centerpoint.CenterPointHead",
                in_channels=8,
                groups=[list(DETECTION_CLASSES[:5]), list(DETECTION_CLASSES[5:])],
                shared_channels=8,
                group_channels=8,
                decoding={"score_threshold": 0.0, "max_boxes": 20},
            )
        },
    )


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """Writes a config.

    Args:
        path: the file; its folder is made.
        config: plain values.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"perception.models.{name}", "init_args": arguments}
