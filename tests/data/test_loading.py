"""Samples of a made-up drive: what they hold, and what happens to files that cannot be used."""

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.data.index import Index
from perception.data.loading import NUSCENES_CAMERAS, CameraLoading, LidarLoading, SampleLoader
from perception.data.points import thin_points
from perception.data.problems import SensorFileError, leaves_folder
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.lidar import read_lidar, write_lidar
from tests.data.conftest import IndexedSet
from tests.synthetic_nuscenes import EGO_SPEED_M_S, LIDAR_HEIGHT_M, OBJECTS

CAMERAS = CameraLoading(image_size_px=(45, 80))


def loader_of(made_up: IndexedSet, **options: object) -> SampleLoader:
    options = {"cameras": CAMERAS, "lidar": LidarLoading(), "class_names": DETECTION_CLASSES, **options}
    return SampleLoader(index=made_up.index, dataroot=made_up.dataroot, **options)


def path_of(made_up: IndexedSet, position: int, channel: str) -> Path:
    return made_up.dataroot / made_up.index.record(position).sensors[channel].path


def test_a_sample_holds_what_the_drive_was_made_of(synthetic: IndexedSet) -> None:
    sample = loader_of(synthetic).load(1)
    record = synthetic.index.record(1)
    assert (sample.token, sample.scene, sample.timestamp_us) == (record.token, record.scene, record.timestamp_us)
    assert sample.problems == ()
    assert torch.equal(sample.ego2global, torch.from_numpy(record.ego2global))
    assert torch.equal(sample.ego2aug, torch.eye(4, dtype=torch.float64))
    assert sample.lidar.fields == ("intensity", "time_lag_s")
    torch.testing.assert_close(sample.lidar.sensor2ego[:3, 3].tolist(), [0.9, 0.0, LIDAR_HEIGHT_M])
    assert (sample.lidar.points[:, 3:] == torch.tensor([30.0, 0.0])).all()
    # The first object is a car that starts at (12, 3.5) and drives 1 m/s faster than the vehicle.
    torch.testing.assert_close(
        sample.boxes.boxes[0],
        torch.tensor([12.5, 3.5, 0.85, 4.6, 1.9, 1.7, 0.0, 5.0, 0.0]),
        atol=2e-5,
        rtol=0,
    )
    assert sample.boxes.num_lidar_points[0] == 12


def test_cameras_carry_the_ego_motion_since_their_own_time(synthetic: IndexedSet) -> None:
    cameras = loader_of(synthetic).load(0).cameras["surround"]
    assert cameras.names == NUSCENES_CAMERAS
    assert cameras.images.shape == (6, 3, 45, 80)
    record = synthetic.index.record(0)
    for row, name in enumerate(cameras.names):
        later_s = (record.sensors[name].timestamp_us - record.timestamp_us) * 1e-6
        expected = torch.tensor([1.0 + EGO_SPEED_M_S * later_s, 0.0, 1.5], dtype=torch.float64)
        torch.testing.assert_close(cameras.camera2ego[row, :3, 3], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        cameras.image2aug[0], torch.tensor([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]], dtype=torch.float64)
    )


def test_sweeps_carry_the_ego_motion_and_their_age(synthetic: IndexedSet) -> None:
    """The drive goes straight on, so points of an earlier sweep lie as far behind as the vehicle has driven."""
    loader = loader_of(synthetic, lidar=LidarLoading(num_sweeps=2))
    position = len(synthetic.index) - 1
    points = loader.load(position).lidar.points
    assert points[:, 4].unique().tolist() == pytest.approx([0.0, 0.5, 1.0])
    for age in (1, 2):
        alone = loader.load(position - age).lidar.points
        alone = alone[alone[:, 4] == 0]
        moved = points[(points[:, 4] - age * 0.5).abs() < 1e-6]
        shift = torch.tensor([-EGO_SPEED_M_S * 0.5 * age, 0.0, 0.0])
        torch.testing.assert_close(moved[:, :3], alone[:, :3] + shift, atol=1e-4, rtol=0)
    first_of_scene = loader.load(0).lidar.points
    assert (first_of_scene[:, 4] == 0).all()


def test_points_near_the_sensor_are_removed(own_synthetic: IndexedSet) -> None:
    path = path_of(own_synthetic, 0, "LIDAR_TOP")
    rows = np.array([[0, 0, 0, 1, 0], [0.99, 0, 0, 2, 0], [0, 1, 0, 3, 0], [0.8, 0.8, 0.8, 4, 31]], np.float32)
    write_lidar(path, rows)
    kept = loader_of(own_synthetic).load(0).lidar.points[:, 3]
    assert kept.tolist() == [3, 4]
    everything = loader_of(own_synthetic, lidar=LidarLoading(min_range_m=0.0)).load(0).lidar.points[:, 3]
    assert everything.tolist() == [1, 2, 3, 4]


@pytest.mark.filterwarnings("error")
def test_points_absurdly_far_are_kept_without_a_word(own_synthetic: IndexedSet) -> None:
    write_lidar(path_of(own_synthetic, 0, "LIDAR_TOP"), np.full((1, 5), 1e30, np.float32))
    assert loader_of(own_synthetic).load(0).lidar.points[0, :3].abs().max() > 1e29


def test_a_cloud_without_any_return_is_present_and_empty(own_synthetic: IndexedSet) -> None:
    write_lidar(path_of(own_synthetic, 0, "LIDAR_TOP"), np.zeros((8, 5), np.float32))
    assert loader_of(own_synthetic).load(0).lidar.points.shape == (0, 5)


def test_thinned_points_are_a_fixed_subset_in_order(synthetic: IndexedSet) -> None:
    points = torch.arange(50.0)[:, None].expand(-1, 5)
    thin = thin_points(points, 20, seed=3)
    assert thin.shape == (20, 5)
    assert (thin[1:, 0] > thin[:-1, 0]).all()
    assert torch.equal(thin, thin_points(points, 20, seed=3))
    assert not torch.equal(thin, thin_points(points, 20, seed=4))
    assert thin_points(points, 50, seed=3) is points
    assert len(loader_of(synthetic, lidar=LidarLoading(max_points=100)).load(0).lidar.points) == 100


def test_boxes_of_other_classes_are_left_out(synthetic: IndexedSet) -> None:
    boxes = loader_of(synthetic, class_names=["pedestrian", "car"]).load(0).boxes
    assert boxes.labels.tolist() == [1, 1, 0]
    everything = loader_of(synthetic).load(0).boxes
    assert len(everything) == len(OBJECTS) - 1  # a bicycle rack is no detection class
    assert set(boxes.tokens) < set(everything.tokens)


def test_what_is_not_asked_for_is_not_loaded(synthetic: IndexedSet) -> None:
    bare = loader_of(synthetic, cameras=None, lidar=None, truths=None).load(0)
    assert (bare.cameras, bare.lidar, bare.boxes, bare.problems) == ({}, None, None, ())


def test_a_sensor_without_recordings_is_absent_and_no_problem(synthetic: IndexedSet) -> None:
    channels = ("CAM_FRONT", "CAM_ROOF")
    loader = loader_of(synthetic, cameras=replace(CAMERAS, channels=channels), lidar=LidarLoading("LIDAR_REAR"))
    sample = loader.load(0)
    assert sample.cameras["surround"].present.tolist() == [True, False]
    assert not sample.cameras["surround"].images[1].any()
    assert sample.lidar is None
    assert sample.problems == ()
    alone = loader_of(synthetic, cameras=replace(CAMERAS, channels=("CAM_ROOF",))).load(0)
    assert alone.cameras == {}


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def not_finite(path: Path) -> None:
    points = read_lidar(path)
    points[[3, 5], [0, 2]] = np.nan, np.inf
    write_lidar(path, points)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("channel", "damage", "kind", "reason"),
    [
        ("CAM_FRONT", Path.unlink, "missing_file", "file is missing"),
        ("CAM_FRONT", cut_off, "unreadable_file", "JPEG data ends early"),
        ("CAM_FRONT", empty, "unreadable_file", "file is empty"),
        ("CAM_FRONT", a_folder, "unreadable_file", "Is a directory"),
        ("LIDAR_TOP", Path.unlink, "missing_file", "file is missing"),
        ("LIDAR_TOP", cut_off, "unreadable_file", "multiple of 20 bytes"),
        ("LIDAR_TOP", empty, "unreadable_file", "file is empty"),
    ],
)
def test_a_bad_file_is_an_error_or_one_sensor_less(
    own_synthetic: IndexedSet, caplog: pytest.LogCaptureFixture, channel: str, damage, kind: str, reason: str
) -> None:
    path = path_of(own_synthetic, 0, channel)
    damage(path)
    token = own_synthetic.index.record(0).token
    sentence = rf"SampleLoader: sample {token} \(position 0\), {channel} .*{path.name}: .*{reason}"
    with pytest.raises(SensorFileError, match=sentence):
        loader_of(own_synthetic).load(0)
    loader = loader_of(own_synthetic, on_error="skip")
    with caplog.at_level(logging.WARNING):
        sample = loader.load(0)
        again = loader.load(0)
    assert len([record for record in caplog.records if "SampleLoader" in record.message]) == 1
    assert loader.skipped == {kind: 2}
    assert again.problems == sample.problems
    (problem,) = sample.problems
    assert f"{channel} " in problem
    cameras = sample.cameras["surround"]
    if channel == "LIDAR_TOP":
        assert sample.lidar is None
        assert cameras.present.all()
    else:
        assert cameras.present.tolist() == [name != channel for name in cameras.names]
        assert not cameras.images[~cameras.present].any()
        assert sample.lidar is not None
    assert loader.load(1).problems == ()


def test_points_that_are_not_finite_are_an_error_or_dropped(own_synthetic: IndexedSet) -> None:
    whole = loader_of(own_synthetic).load(0).lidar.points
    not_finite(path_of(own_synthetic, 0, "LIDAR_TOP"))
    with pytest.raises(SensorFileError, match=r"LIDAR_TOP .*2 of \d+ points are not finite"):
        loader_of(own_synthetic).load(0)
    loader = loader_of(own_synthetic, on_error="skip")
    sample = loader.load(0)
    assert torch.equal(sample.lidar.points, whole[torch.tensor([i not in (3, 5) for i in range(len(whole))])])
    assert loader.skipped == {"non_finite_points": 1}
    assert sample.problems[0].endswith("2 points are not finite")


def test_a_bad_sweep_is_left_out_alone(own_synthetic: IndexedSet) -> None:
    last = len(own_synthetic.index) - 1
    path_of(own_synthetic, last - 1, "LIDAR_TOP").unlink()
    loader = loader_of(own_synthetic, lidar=LidarLoading(num_sweeps=2), on_error="skip")
    sample = loader.load(last)
    assert sample.lidar.points[:, 4].unique().tolist() == pytest.approx([0.0, 1.0])
    assert loader.skipped == {"missing_file": 1}


def test_a_group_without_a_single_picture_is_absent(own_synthetic: IndexedSet) -> None:
    for name in NUSCENES_CAMERAS:
        path_of(own_synthetic, 0, name).unlink()
    sample = loader_of(own_synthetic, on_error="skip").load(0)
    assert sample.cameras == {}
    assert len(sample.problems) == 6


class AlteredIndex(Index):
    """An index that says something else of some sensors than its set does."""

    def __init__(self, folder: Path, changes: dict[str, dict]) -> None:
        super().__init__(folder)
        self.changes = changes

    def record(self, i: int):
        record = super().record(i)
        altered = {name: replace(record.sensors[name], **fields) for name, fields in self.changes.items()}
        return replace(record, sensors=record.sensors | altered)


def altered(made_up: IndexedSet, **changes: dict) -> IndexedSet:
    return IndexedSet(made_up.dataroot, AlteredIndex(made_up.index.folder, changes))


@pytest.mark.parametrize("path", ["../secret.bin", "samples/../../secret.bin", "/etc/passwd", "a\\..\\..\\b", "C:\\x"])
def test_paths_out_of_the_dataroot_are_not_opened(own_synthetic: IndexedSet, path: str) -> None:
    write_lidar(own_synthetic.dataroot.parent / "secret.bin", np.ones((4, 5), np.float32))
    escaping = altered(own_synthetic, LIDAR_TOP={"path": path})
    with pytest.raises(SensorFileError, match="path must stay inside the dataroot"):
        loader_of(escaping).load(0)
    loader = loader_of(escaping, on_error="skip")
    assert loader.load(0).lidar is None
    assert loader.skipped == {"unsafe_path": 1}


def test_fisheye_cameras_keep_their_distortion_in_a_group_of_their_own(synthetic: IndexedSet) -> None:
    distortion = np.array([0.0141, 0.0484, -0.0187, 0.0025])
    bent = altered(synthetic, CAM_FRONT={"camera_model": "kannala_brandt", "distortion": distortion})
    near = CameraLoading(("CAM_FRONT",), image_size_px=(45, 80), group="near")
    cameras = loader_of(bent, cameras=near).load(0).cameras["near"]
    assert cameras.camera_model == "kannala_brandt"
    assert torch.equal(cameras.distortion[0], torch.from_numpy(distortion))
    with pytest.raises(
        ValueError, match=r"group 'surround' must share one camera model, got \['kannala_brandt', 'pinhole'\]"
    ):
        loader_of(bent).load(0)


def test_a_picture_of_another_size_than_calibrated_is_refused(synthetic: IndexedSet) -> None:
    larger = altered(synthetic, CAM_BACK={"width": 320, "height": 180})
    with pytest.raises(SensorFileError, match=r"CAM_BACK .* must be 320 x 180 pixels as calibrated, got 160 x 90"):
        loader_of(larger).load(0)


def test_usual_paths_stay_inside() -> None:
    assert not any(leaves_folder(path) for path in ("samples/LIDAR_TOP/a..b.bin", "a+b__c.jpg", "./x", "..."))


def test_a_loader_survives_pickling(synthetic: IndexedSet) -> None:
    loader = loader_of(synthetic)
    copy = pickle.loads(pickle.dumps(loader))
    assert torch.equal(copy.load(2).cameras["surround"].images, loader.load(2).cameras["surround"].images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["car", "tank"]}, "class_names must be different names of car, .*got .*tank"),
        ({"class_names": ["car", "car"]}, "class_names must be different names"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip', got 'ignore'"),
        ({"cameras": CameraLoading(image_size_px=(0, 80))}, "positive image_size_px"),
        ({"cameras": CameraLoading(channels=())}, "cameras must have channels"),
        ({"lidar": LidarLoading(num_sweeps=-1)}, "num_sweeps, min_range_m >= 0"),
        ({"lidar": LidarLoading(max_points=0)}, "max_points >= 1"),
    ],
)
def test_wrong_settings_are_refused(synthetic: IndexedSet, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader_of(synthetic, **options)


def test_what_cannot_be_loaded_as_asked_is_refused(synthetic: IndexedSet, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataroot must be a folder"):
        SampleLoader(index=synthetic.index, dataroot=tmp_path / "none", class_names=["car"])
    with pytest.raises(ValueError, match="LIDAR_TOP: must be a camera with intrinsics"):
        loader_of(synthetic, cameras=replace(CAMERAS, channels=("CAM_FRONT", "LIDAR_TOP"))).load(0)
