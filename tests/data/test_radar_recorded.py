"""The radar of a recorded keyframe: where the devkit puts its returns, and how the vehicles under them drive."""

import numpy as np
import pytest
import torch
from pyquaternion import Quaternion

from benchmarks.radar_velocities import velocity_pairs
from perception.data.loading import RadarLoading, SampleLoader
from perception.formats.classes import DETECTION_CLASSES
from perception.structures import RADAR_FIELDS, Boxes3D, Sample
from tests.data.conftest import IndexedSet


@pytest.fixture(scope="module")
def sample(recorded: IndexedSet) -> Sample:
    loader = SampleLoader(
        index=recorded.index, dataroot=recorded.dataroot, class_names=DETECTION_CLASSES, radar=RadarLoading()
    )
    return loader.load(0)


def test_returns_lie_where_the_devkit_puts_them(recorded: IndexedSet, sample: Sample) -> None:
    devkit = pytest.importorskip("nuscenes.nuscenes").NuScenes("v1.0-mini", str(recorded.dataroot), verbose=False)
    clouds = pytest.importorskip("nuscenes.utils.data_classes").RadarPointCloud
    row = devkit.get("sample", sample.token)
    lidar = devkit.get("sample_data", row["data"]["LIDAR_TOP"])
    mounted = devkit.get("calibrated_sensor", lidar["calibrated_sensor_token"])
    cloud, lags_s = clouds.from_file_multisweep(devkit, row, "RADAR_FRONT", "LIDAR_TOP", nsweeps=1, min_distance=0)
    expected = Quaternion(mounted["rotation"]).rotation_matrix @ cloud.points[:3]
    expected += np.array(mounted["translation"])[:, None]
    points = sample.radar.points
    lag_s = points[:, 3 + RADAR_FIELDS.index("time_lag_s")]
    np.testing.assert_allclose(lag_s, lags_s[0], atol=1e-6)
    still = points[:, 4:6].norm(dim=1) < 0.5
    assert len(points) == 74 and still.sum() >= 60
    np.testing.assert_allclose(points[still, :3], expected.T[still], atol=2e-4)
    # What moves was moved back to the time of the LiDAR, which is 16 ms before the radar's.
    moved = points[~still, :2].numpy() - expected.T[~still, :2]
    assert (np.abs(moved) <= points[~still, 4:6].abs().numpy() * 0.017 + 1e-3).all()
    assert np.abs(moved).max() > 0.15


def on_box(sample: Sample, boxes: Boxes3D, row: int, margin_m: float = 1.0) -> torch.Tensor:
    """(P,) which returns lie on a box, seen from above."""
    x, y, _, length, width, _, yaw = boxes.boxes[row, :7].tolist()
    offset = sample.radar.points[:, :2] - torch.tensor([x, y])
    turn = torch.tensor([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]], dtype=torch.float32)
    limit = torch.tensor([length, width]) / 2 + margin_m
    return ((offset @ turn).abs() <= limit).all(1)


def test_vehicles_drive_the_way_they_point_at_one_speed_each(sample: Sample) -> None:
    """The keyframe has no box velocities; headings say which way, and returns on one truck must agree on its speed."""
    points, boxes = sample.radar.points, sample.boxes
    radar = torch.tensor([3.41, 0.0])
    line = torch.nn.functional.normalize(points[:, :2] - radar, dim=1)
    speeds: dict[str, list[float]] = {}
    for row, label in enumerate(boxes.labels.tolist()):
        heading = torch.stack((boxes.boxes[row, 6].cos(), boxes.boxes[row, 6].sin()))
        moving = on_box(sample, boxes, row) & (points[:, 4:6].norm(dim=1) > 1.5)
        along = (points[moving, 4:6] * line[moving]).sum(1) / (line[moving] @ heading)
        if moving.any():
            speeds.setdefault(DETECTION_CLASSES[label], []).append(float(along.mean()))
            torch.testing.assert_close(along, along.mean().expand(len(along)), atol=5e-3, rtol=0)
            assert DETECTION_CLASSES[label] != "truck" or moving.sum() == 3
    assert {name: sorted(values) for name, values in speeds.items()} == {
        "car": pytest.approx([4.897, 11.128], abs=2e-3),
        "truck": pytest.approx([2.383], abs=2e-3),
    }


def test_the_comparison_takes_boxes_without_a_velocity(recorded: IndexedSet) -> None:
    pairs = velocity_pairs(recorded.dataroot, recorded.index)
    assert sorted((it.name, it.count) for it in pairs) == [("car", 1), ("car", 1), ("truck", 3)]
    assert all(np.isnan(it.speed_mps) and it.spread_mps < 0.01 and it.ahead_mps > 1.5 for it in pairs)


def test_what_stands_has_next_to_no_speed_over_ground(sample: Sample) -> None:
    speed = sample.radar.points[:, 4:6].norm(dim=1)
    assert (speed < 1).sum() == 65
    assert speed[speed < 1].median() < 0.2
