"""Where the columns of cells of a level lie in the pictures: what the views that look back from the cells share."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from perception.geometry.cameras import within_lens
from perception.geometry.grid import Grid
from perception.geometry.transforms import invert_rigid, transform_points
from perception.ops.view_sample import ViewSamplePlan, view_sample_plan
from perception.structures import CameraImages, CameraViews
from perception.structures.tensors import map_tensors


def project_columns(
    cameras: CameraImages, ego2aug: Tensor, grid: Grid, heights_m: Sequence[float]
) -> tuple[Tensor, ViewSamplePlan]:
    """Projects the centres of the cells, at several heights, into the cameras of the samples that have one.

    Nothing is undistorted: a fisheye is asked with its own model, up to the largest angle that it sees.

    Args:
        cameras: batched; S of the B samples have a camera.
        ego2aug: (B, 4, 4).
        grid: in the augmented ego frame.
        heights_m: Z heights in the augmented ego frame.

    Returns:
        (S,) int64, which samples have a camera, and the plan of the points (Z, Y, X) in all their N cameras; absent
        cameras see nothing, whatever their calibration says.
    """
    samples = cameras.present.any(1).nonzero()[:, 0]  # (S,)
    chosen = map_tensors(cameras, lambda tensor: tensor[samples])
    present = chosen.present
    place = grid.centers_xy().to(ego2aug.device)  # (Y, X, 2)
    points = torch.stack([nn.functional.pad(place, (0, 1), value=height) for height in heights_m])  # (Z, Y, X, 3)
    aug2ego = torch.linalg.inv(ego2aug[samples])[:, None]  # (S, 1, 4, 4)
    aug2camera = invert_rigid(chosen.camera2ego) @ aug2ego  # (S, N, 4, 4)
    fisheye = chosen.camera_model == "kannala_brandt"
    plan = view_sample_plan(
        points,
        aug2camera,
        camera_model=chosen.camera_model,
        intrinsics=chosen.intrinsics,
        image_size_px=chosen.image_size_px,
        distortion=torch.where(present[..., None], chosen.distortion, 0) if fisheye else None,
        image2aug=chosen.image2aug,
        present=present,
    )
    if chosen.theta_max_rad is None:
        return samples, plan
    in_camera = transform_points(aug2camera, points.flatten(0, 2).expand(*present.shape, -1, 3))  # (S, N, K, 3)
    valid = plan.valid & within_lens(in_camera, chosen.theta_max_rad[..., None])
    return samples, replace(plan, valid=valid, counts=valid.sum(1))


def read_levels(views: CameraViews, view_level: int, layers: nn.ModuleList) -> list[Tensor]:
    """Runs one layer per level on the features of the present cameras.

    Args:
        views: image features of B samples.
        view_level: the first level to read; the following ones go to the following layers.
        layers: (K, C, h, w) -> (K, C', h, w) each; K cameras are present.

    Returns:
        (K, C', h, w) per layer.
    """
    present = views.cameras.present
    levels = views.levels[view_level : view_level + len(layers)]
    return [layer(level[present]) for layer, level in zip(layers, levels, strict=True)]


def check_plan(view: str, planned: Tensor, present: Tensor) -> None:
    """Refuses a plan of other cameras, whose places would be read in the wrong pictures.

    Args:
        view: name of the view, for the message.
        planned: (B, N) bool, the cameras that the plan is of.
        present: (B, N) bool, the cameras that are there.

    Raises:
        ValueError: they are not the same.
    """
    if planned.shape != present.shape or not torch.equal(planned, present):
        raise ValueError(
            f"{view}: plan must be of the cameras that are present, {present.tolist()}, it is of {planned.tolist()}"
        )
