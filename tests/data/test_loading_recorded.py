"""Samples of recorded keyframes against the devkit's transforms, drawings, boxes and counts."""

import numpy as np
import pytest
import torch
from PIL import Image
from pyquaternion import Quaternion
from scipy.spatial import cKDTree

from perception.data.images import fit_image
from perception.data.index import Annotations
from perception.data.loading import CameraLoading, LidarLoading, SampleLoader
from perception.formats.classes import CATEGORY_TO_CLASS, DETECTION_CLASSES
from perception.geometry.cameras import project
from perception.geometry.transforms import invert_rigid, transform_points
from perception.structures import Sample
from tests.data.conftest import IndexedSet

DRIVE = range(1, 6)  # the keyframes of scene-0103, half a second apart


@pytest.fixture(scope="module")
def nusc(recorded: IndexedSet):
    """The devkit's own reading of the set."""
    devkit = pytest.importorskip("nuscenes.nuscenes")
    return devkit.NuScenes("v1.0-mini", str(recorded.dataroot), verbose=False)


def load(
    recorded: IndexedSet, position: int, lidar: LidarLoading | None = None, cameras: CameraLoading | None = None
) -> Sample:
    return SampleLoader(
        index=recorded.index,
        dataroot=recorded.dataroot,
        class_names=DETECTION_CLASSES,
        lidar=lidar or LidarLoading(min_range_m=0.0),  # every stored point, in order
        cameras=cameras,
    ).load(position)


def pixels_and_depth(sample: Sample, channel: str) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) pixels of the recorded picture and (P,) depths of the sample's points, as a model would find them."""
    cameras = sample.cameras["surround"]
    row = cameras.names.index(channel)
    points = transform_points(invert_rigid(cameras.camera2ego[row]), sample.lidar.points[:, :3].to(torch.float64))
    pixels, _ = project(points, cameras.camera_model, cameras.intrinsics[row], cameras.distortion[row])
    return pixels.numpy(), points[:, 2].numpy()


def devkit_chain(nusc, sample_token: str, channel: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and depths by the steps of `map_pointcloud_to_image`, in float64."""
    records = [
        nusc.get("sample_data", nusc.get("sample", sample_token)["data"][name]) for name in ("LIDAR_TOP", channel)
    ]
    points = (
        np.fromfile(f"{nusc.dataroot}/{records[0]['filename']}", np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
    )
    for table, key in (("calibrated_sensor", "calibrated_sensor_token"), ("ego_pose", "ego_pose_token")):
        row = nusc.get(table, records[0][key])
        points = points @ Quaternion(row["rotation"]).rotation_matrix.T + row["translation"]
    for table, key in (("ego_pose", "ego_pose_token"), ("calibrated_sensor", "calibrated_sensor_token")):
        row = nusc.get(table, records[1][key])
        points = (points - row["translation"]) @ Quaternion(row["rotation"]).rotation_matrix
    image = points @ np.array(row["camera_intrinsic"]).T
    return image[:, :2] / image[:, 2:], points[:, 2]


def inside(pixels: np.ndarray, depth: np.ndarray, border: float = 1.0) -> np.ndarray:
    low, high = pixels.min(1), pixels - (1600, 900)
    return (depth > 1) & (low > border) & (high.max(1) < -border)


@pytest.mark.parametrize("channel", ["CAM_FRONT", "CAM_BACK_LEFT", "CAM_BACK"])
def test_points_land_on_pictures_as_by_the_devkits_transforms(recorded: IndexedSet, nusc, channel: str) -> None:
    sample = load(recorded, 0, cameras=CameraLoading())
    pixels, depth = pixels_and_depth(sample, channel)
    expected, expected_depth = devkit_chain(nusc, sample.token, channel)
    seen = inside(expected, expected_depth)
    assert seen.sum() > 1500
    assert np.abs(pixels - expected)[seen].max() < 1e-3
    assert np.abs(depth - expected_depth).max() < 2e-5


def test_points_land_on_the_front_picture_as_the_devkit_draws_them(recorded: IndexedSet, nusc) -> None:
    sample = load(recorded, 0, cameras=CameraLoading())
    data = nusc.get("sample", sample.token)["data"]
    drawn, drawn_depth, _ = nusc.explorer.map_pointcloud_to_image(data["LIDAR_TOP"], data["CAM_FRONT"])
    pixels, depth = pixels_and_depth(sample, "CAM_FRONT")
    near = inside(pixels, depth, border=0.5)
    distance, match = cKDTree(np.c_[pixels, depth][near]).query(np.c_[drawn[:2].T, drawn_depth])
    assert distance.max() < 0.05  # the devkit computes in float32 at coordinates of a thousand metres
    assert len(np.unique(match)) == len(match)
    assert abs(len(match) - inside(pixels, depth).sum()) <= 3


def test_boxes_equal_the_devkits_in_the_ego_frame(recorded: IndexedSet, nusc) -> None:
    for position in range(len(recorded.index)):
        sample = load(recorded, position)
        lidar = nusc.get("sample_data", nusc.get("sample", sample.token)["data"]["LIDAR_TOP"])
        pose = nusc.get("ego_pose", lidar["ego_pose_token"])
        boxes = [box for box in nusc.get_boxes(lidar["token"]) if box.name in CATEGORY_TO_CLASS]
        assert sample.boxes.tokens == tuple(box.token for box in boxes)
        assert [DETECTION_CLASSES[label] for label in sample.boxes.labels] == [CATEGORY_TO_CLASS[b.name] for b in boxes]
        for box, ours in zip(boxes, sample.boxes.boxes.numpy(), strict=True):
            box.velocity = np.array([*nusc.box_velocity(box.token)[:2], 0.0])
            box.translate(-np.array(pose["translation"]))
            box.rotate(Quaternion(pose["rotation"]).inverse)
            heading = box.rotation_matrix[:, 0]
            np.testing.assert_allclose(ours[:3], box.center, atol=1e-5)
            np.testing.assert_allclose(ours[3:6], box.wlh[[1, 0, 2]], atol=1e-6)
            np.testing.assert_allclose(np.exp(1j * ours[6]), np.exp(1j * np.arctan2(heading[1], heading[0])), atol=1e-6)
            np.testing.assert_allclose(ours[7:], box.velocity[:2], atol=1e-5)
    assert load(recorded, 0).boxes.boxes[:, 7:].isnan().all()  # one keyframe alone knows no velocity


def test_every_box_holds_the_points_that_its_annotators_counted(recorded: IndexedSet) -> None:
    for position in range(len(recorded.index)):
        sample, annotations = load(recorded, position), recorded.index.record(position).annotations
        points = transform_points(sample.ego2global, sample.lidar.points[:, :3].to(torch.float64)).numpy()
        for box, rotation, stored in zip(
            annotations.boxes_global, annotations.rotations, annotations.num_lidar_pts, strict=True
        ):
            local = (points - box[:3]) @ Quaternion(rotation).rotation_matrix
            assert (np.abs(local) <= box[3:6] / 2).all(1).sum() == stored
    assert position == 5


def test_pictures_equal_pillows_full_decoding(recorded: IndexedSet) -> None:
    cameras = load(recorded, 0, cameras=CameraLoading()).cameras["surround"]
    assert cameras.present.all()
    fit = fit_image((900, 1600), (256, 704))
    for name, image in zip(cameras.names, cameras.images, strict=True):
        (path,) = (recorded.dataroot / "samples" / name).iterdir()
        with Image.open(path) as full:
            scaled = full.resize(fit.scaled_size_px[::-1], Image.Resampling.BILINEAR)
        difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(scaled)[fit.top_px :].astype(int))
        assert difference.mean() < 1.0  # measured 0.6: halved in the frequency domain, then bilinear
        assert np.percentile(difference, 99) <= 5


def is_static(points: torch.Tensor, annotations: Annotations, ego2global: torch.Tensor) -> np.ndarray:
    """(P,) bool: which points (P, 3) in the ego frame lie above the road and outside all boxes of their moment."""
    in_global = transform_points(ego2global, points).numpy()
    static = ((points[:, 2] > 0.3) & (points[:, :2].norm(dim=1) < 50)).numpy()
    for box, rotation in zip(annotations.boxes_global, annotations.rotations, strict=True):
        local = (in_global - box[:3]) @ Quaternion(rotation).rotation_matrix
        static &= ~(np.abs(local) <= box[3:6] / 2 + 0.5).all(1)
    return static


def wall_planes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (K, 3) on walls and their normals (K, 3): flat upright neighbourhoods."""
    _, neighbours = cKDTree(points).query(points, k=12)
    spread = points[neighbours] - points[neighbours].mean(1, keepdims=True)  # (P, 12, 3)
    values, vectors = np.linalg.eigh(spread.transpose(0, 2, 1) @ spread / 12)
    normals = vectors[:, :, 0]
    wall = (values[:, 0] < 0.03**2) & (values[:, 1] > 0.15**2) & (np.abs(normals[:, 2]) < 0.2)
    return points[wall], normals[wall]


def distance_to_walls(walls: tuple[np.ndarray, np.ndarray], points: np.ndarray) -> float:
    """Median distance of points to the plane of the nearest wall point, of those that have one within 1.5 m."""
    distance, nearest = cKDTree(walls[0]).query(points)
    near = distance < 1.5
    assert near.sum() > 200
    offset = points[near] - walls[0][nearest[near]]
    return float(np.median(np.abs((offset * walls[1][nearest[near]]).sum(1))))


def test_walls_of_chained_keyframes_lie_on_one_another(recorded: IndexedSet) -> None:
    """Four earlier keyframes, up to 2 s and 17 m of driving before the last, moved into its frame as sweeps.

    What stands still (outside all boxes) must lie on the walls of the last keyframe; without the ego motion it does
    not. The recording's own flatness and the angle between the poses set the limit.
    """
    sample = load(recorded, DRIVE[-1], LidarLoading(num_sweeps=4))
    points, lags_s = sample.lidar.points[:, :3].to(torch.float64), sample.lidar.points[:, 4]
    annotations = recorded.index.record(DRIVE[-1]).annotations
    now = points[lags_s == 0]
    walls = wall_planes(now.numpy()[is_static(now, annotations, sample.ego2global)])
    for steps_back, lag_s in enumerate(lags_s.unique()[1:].tolist(), start=1):
        record = recorded.index.record(DRIVE[-1] - steps_back)
        assert lag_s == pytest.approx((sample.timestamp_us - record.timestamp_us) * 1e-6)
        earlier2global = torch.from_numpy(record.ego2global)
        moved = points[lags_s == lag_s]
        unmoved = transform_points(invert_rigid(earlier2global) @ sample.ego2global, moved)
        static = is_static(unmoved, record.annotations, earlier2global)
        aligned, apart = (distance_to_walls(walls, cloud.numpy()[static]) for cloud in (moved, unmoved))
        assert aligned < 0.1 < 3 * aligned < apart
