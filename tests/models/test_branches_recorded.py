"""The branches on recorded frames: six pinholes and a front radar of one moment, four fisheyes of another car."""

import dataclasses
import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from perception.data.collate import collate
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import SampleLoader
from perception.data.sensor_settings import CameraLoading, RadarLoading
from perception.formats.classes import DETECTION_CLASSES
from perception.geometry.grid import Grid
from perception.geometry.transforms import invert_rigid, rigid, transform_points, yaw_matrix
from perception.models.branches import CameraBranch, RadarBranch
from perception.models.encoders.image import ImageEncoder
from perception.models.views.deformable import DeformableView
from perception.models.views.projection import project_columns
from perception.models.views.sampling import SamplingView
from perception.ops.view_sample import view_sample
from perception.structures import Batch, CameraImages
from tests.models.scenes import FORWARD, augmentation
from tests.models.test_radar import MOVES, bare_encoder, encoder

MAIN = Grid.square(51.2, 0.8)
NEAR = Grid.square(8.0, 0.2)
GRIDS = {"main": MAIN, "near": NEAR}
NOTHING = torch.eye(4, dtype=torch.float64)


@pytest.fixture(scope="module")
def batch(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """The keyframe with six cameras and the front radar."""
    folder = tmp_path_factory.mktemp("recorded") / "index"
    build_index(real_data / "nuscenes", "v1.0-mini", folder)
    loader = SampleLoader(
        index=Index.open(folder),
        dataroot=real_data / "nuscenes",
        class_names=DETECTION_CLASSES,
        cameras=CameraLoading(image_size_px=(192, 416)),
        radar=RadarLoading(),
    )
    return collate([loader.load(0)])


@pytest.fixture(scope="module")
def fisheyes(real_data: Path) -> CameraImages:
    """Four recorded pictures with their own lenses, on mounts that are made up."""
    names, pictures, lenses, bends = ("front", "left", "back", "right"), [], [], []
    for name in names:
        file = cv2.FileStorage(str(real_data / "fisheye" / "yaml" / f"{name}.yaml"), cv2.FILE_STORAGE_READ)
        lenses.append(torch.from_numpy(file.getNode("camera_matrix").mat()))
        bends.append(torch.from_numpy(file.getNode("dist_coeffs").mat()[:, 0].copy()))
        picture = cv2.imread(str(real_data / "fisheye" / "images" / f"{name}.png"))
        pictures.append(torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1))  # (H, W, 3) -> (3, H, W)
    down = torch.tensor(0.5)  # pitched towards the ground
    tilt = torch.tensor([[1.0, 0, 0], [0, down.cos(), down.sin()], [0, -down.sin(), down.cos()]], dtype=torch.float64)
    mounts = [(3.75, 0.0), (2.0, 1.0), (-0.9, 0.0), (2.0, -1.0)]
    mounting = [
        yaw_matrix(torch.tensor(number * math.pi / 2, dtype=torch.float64))[:3, :3] @ FORWARD @ tilt
        for number in range(4)
    ]
    places = [torch.tensor([x, y, 0.9], dtype=torch.float64) for x, y in mounts]
    return CameraImages(
        names=names,
        camera_model="kannala_brandt",
        images=torch.stack(pictures)[None],
        intrinsics=torch.stack(lenses)[None],
        distortion=torch.stack(bends)[None],
        camera2ego=torch.stack([rigid(turn, place) for turn, place in zip(mounting, places, strict=True)])[None],
        image2aug=torch.eye(3, dtype=torch.float64).repeat(1, 4, 1, 1),
        present=torch.ones(1, 4, dtype=torch.bool),
    )


def image_encoder() -> ImageEncoder:
    """16 channels: with 8, torch 2.13's convolutions write beyond their memory on pictures of this size (on a CPU)."""
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return ImageEncoder(model_type="resnet", config=sizes, out_features=["stage2", "stage3"], out_channels=12)


def test_the_middle_of_every_box_is_sampled_where_it_is_in_the_pictures(batch: Batch) -> None:
    cameras, boxes = batch.cameras["surround"], batch.boxes[0]
    ego2aug = augmentation(0.4, 1.05)
    seen = 0
    for x, y, z in boxes.boxes[:, :3].double().tolist():
        moved = (ego2aug @ torch.tensor([x, y, z, 1.0], dtype=torch.float64))[:3].tolist()
        around = Grid(
            (moved[0] - 1, moved[0] + 1), (moved[1] - 1, moved[1] + 1), (-1, 1), (2, 2, 2)
        )  # one cell about it
        _, plan = project_columns(cameras, ego2aug[None], around, (moved[2],))
        for number in range(6):
            camera2ego = cameras.camera2ego[0, number].numpy()
            point = camera2ego[:3, :3].T @ (np.array([x, y, z]) - camera2ego[:3, 3])
            pixel = cameras.image2aug[0, number].numpy() @ cameras.intrinsics[0, number].numpy() @ (point / point[2])
            inside = point[2] > 0 and -0.5 <= pixel[0] <= 415.5 and -0.5 <= pixel[1] <= 191.5
            assert bool(plan.valid[0, number, 0]) == inside
            if inside:
                np.testing.assert_allclose(plan.pixels_px[0, number, 0].numpy(), pixel[:2], atol=1e-2)
                seen += 1
    assert seen > 40


def test_neighbouring_cameras_see_one_ground(batch: Batch) -> None:
    # Where two recorded pictures overlap, the columns 0 m high show the same road: darker here and brighter there.
    cameras = batch.cameras["surround"]
    _, plan = project_columns(cameras, NOTHING[None], Grid.square(30.0, 0.25), (0.0,))
    single, shades = [], []
    for number in range(6):
        only = torch.arange(6) == number
        one = dataclasses.replace(cameras, present=only[None])
        _, own = project_columns(one, NOTHING[None], Grid.square(30.0, 0.25), (0.0,))
        shades.append(view_sample([cameras.images.float()], own)[0].mean(0).flatten())
        single.append(own.seen.flatten())
    assert torch.equal(torch.stack(single).sum(0), plan.counts[0])
    agreed = []
    for a, b in itertools.combinations(range(6), 2):
        both = single[a] & single[b]
        if both.sum() > 200:
            agreed.append(torch.corrcoef(torch.stack((shades[a][both], shades[b][both])))[0, 1].item())
    assert len(agreed) >= 5
    assert np.median(agreed) > 0.5


def test_the_ground_around_is_seen(batch: Batch) -> None:
    _, plan = project_columns(batch.cameras["surround"], NOTHING[None], MAIN, (0.0, 1.5))
    ring = (MAIN.centers_xy().norm(dim=-1) > 12) & (MAIN.centers_xy().norm(dim=-1) < 50)
    assert plan.seen[0].any(0)[ring].float().mean() > 0.97


@pytest.mark.parametrize("name", ["mirrored", "front and rear"])
def test_recorded_returns_are_mirrored_with_the_frame(batch: Batch, name: str) -> None:
    still = bare_encoder()(batch.radar, NOTHING[None], {"main": MAIN}).features[0, 6:]
    mirrored = bare_encoder()(batch.radar, MOVES[name][None], {"main": MAIN}).features[0, 6:]
    axis, component = (1, 2) if name == "mirrored" else (2, 1)
    expected = still.flip(axis)
    expected[component] *= -1
    torch.testing.assert_close(mirrored, expected, rtol=1e-3, atol=1e-3)
    inside = (batch.radar.points[:, :2].abs() < 51.2).all(1).sum().item()
    assert still[0].expm1().sum().item() == pytest.approx(inside, rel=0.05)  # what lies at the border is cut
    assert (still[1:3].norm(dim=0) * 10)[still[0] > 0.02].median() < 1.0  # most of the world stands still


def moved_batch(batch: Batch, ego2aug: Tensor) -> Batch:
    return dataclasses.replace(batch, ego2aug=ego2aug[None])


@pytest.mark.parametrize("kind", ["sampling", "deformable"])
@pytest.mark.parametrize("missing", [[], [1], [0, 2, 3, 4, 5]])
def test_recorded_pictures_train_a_camera_branch(batch: Batch, kind: str, missing: list[int]) -> None:
    cameras = batch.cameras["surround"]
    present = torch.tensor([[number not in missing for number in range(6)]])
    given = dataclasses.replace(moved_batch(batch, augmentation()), cameras={
        "surround": dataclasses.replace(cameras, present=present)
    })  # fmt: skip
    view = (
        SamplingView(in_channels=12, context_channels=8, out_channels={"main": 8})
        if kind == "sampling"
        else DeformableView(in_channels=12, out_channels=8, channels=8, num_heads=2)
    )
    branch = CameraBranch(encoder=image_encoder(), view=view)
    level = branch(given, GRIDS).bev["main"]
    assert level.features.isfinite().all()
    assert (level.validity.float().mean() > 0.93) == (len(missing) == 0)
    level.features.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in branch.parameters())


def test_recorded_returns_train_a_radar_branch(batch: Batch) -> None:
    branch = RadarBranch(encoder=encoder())
    result = branch(moved_batch(batch, augmentation()), GRIDS)
    assert result.present.tolist() == [True]
    result.bev["main"].features.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in branch.parameters())


def test_recorded_fisheyes_are_read_without_undistortion(batch: Batch, fisheyes: CameraImages) -> None:
    samples, plan = project_columns(fisheyes, NOTHING[None], NEAR, (0.0, 1.0))
    assert samples.tolist() == [0]
    centers = torch.nn.functional.pad(NEAR.centers_xy(), (0, 1)).flatten(0, 1)
    checked = 0
    for number in range(4):
        in_camera = transform_points(invert_rigid(fisheyes.camera2ego[0, number]), centers)
        ahead = in_camera[:, 2] > 0.1  # OpenCV gives pixels of what lies behind, too
        lens, bend = fisheyes.intrinsics[0, number].numpy(), fisheyes.distortion[0, number].numpy()
        expected, _ = cv2.fisheye.projectPoints(in_camera[ahead].numpy()[:, None], np.zeros(3), np.zeros(3), lens, bend)
        seen = plan.valid[0, number, : len(centers)][ahead].numpy()
        found = plan.pixels_px[0, number, : len(centers)][ahead].numpy()
        np.testing.assert_allclose(found[seen], expected[seen, 0], atol=2e-2)
        checked += seen.sum()
    assert checked > 3000
    view = SamplingView(in_channels=12, context_channels=8, out_channels={"main": 8, "near": 6})
    branch = CameraBranch(encoder=image_encoder(), view=view, group="fisheye")
    result = branch(dataclasses.replace(batch, cameras={"fisheye": fisheyes}), GRIDS)
    assert result.bev["near"].validity.float().mean() > 0.7
    assert all(level.features.isfinite().all() for level in result.bev.values())
