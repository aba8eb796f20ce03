"""Tables of a small scene made by hand: chains, instances, counts and what the devkit reads from them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception.formats.nuscenes_tables import Tables, write_tables
from perception.simulation.annotations import RANGE_M, Annotations, annotate, visibility_tokens
from perception.simulation.dataset import Recorded, common_tables, merged, scene_tables, start_us
from perception.simulation.manifest import SceneOrder
from perception.simulation.rig import surround_rig
from perception.simulation.sensors.fisheye import fisheye_cameras

ORDER = SceneOrder("scene-0103", "val", 5, "singapore-queenstown", district=1, town=3, light="day")
RIG = surround_rig((90, 160))
CATEGORIES = ("vehicle.car", "movable_object.trafficcone", "human.pedestrian.adult")
NOTED = ((True, True, True), (True, False, False), (True, True, False))
"""Which of three actors are noted at each of three keyframes."""


def _pose(x_m: float, yaw_rad: float = 0.3) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw_rad), -np.sin(yaw_rad)], [np.sin(yaw_rad), np.cos(yaw_rad)]]
    pose[:3, 3] = (300 + x_m, 200, 0)
    return pose


def _boxes(keyframe: int) -> np.ndarray:
    """(3, 7): a car that drives 5 m between keyframes, a cone and a person."""
    return np.array(
        [
            [310.0 + 5 * keyframe, 204.0, 0.8, 4.5, 1.9, 1.6, 0.3],
            [305.0, 196.0, 0.5, 0.4, 0.4, 1.0, 0.0],
            [320.0, 210.0, 0.9, 0.8, 0.6, 1.8, -2.0],
        ]
    )


def _keyframe(number: int) -> Annotations:
    return Annotations(
        boxes=_boxes(number),
        attributes=("vehicle.moving", "", "pedestrian.standing"),
        visibility=("4", "1", "2"),
        num_lidar_pts=np.array([40, 3, 0]) + number,
        num_radar_pts=np.array([7, 0, 1]),
        noted=np.array(NOTED[number]),
    )


def _recorded() -> list[Recorded]:
    """Three keyframes of every sensor and, before the second and third, one LiDAR sweep; not in order."""
    files = []
    for number in (2, 0, 1):
        for sensor in RIG:
            times = [500_000 * (number + 1) + sensor.delay_us]
            if sensor.channel == "LIDAR_TOP" and number > 0:
                times.append(times[0] - 50_000)
            for t_us, is_key_frame in zip(times, (True, False), strict=False):
                folder = "samples" if is_key_frame else "sweeps"
                filename = f"{folder}/{sensor.channel}/scene-0103__{sensor.channel}__{t_us}{sensor.suffix}"
                files.append(Recorded(sensor.channel, t_us, _pose(1e-5 * t_us), filename, number, is_key_frame))
    return files


@pytest.fixture(scope="module")
def tables() -> Tables:
    keyframes = [_keyframe(number) for number in range(3)]
    scene = scene_tables(ORDER, RIG, _recorded(), CATEGORIES, keyframes)
    return merged(common_tables(RIG), [scene])


@pytest.fixture(scope="module")
def devkit(tables: Tables, tmp_path_factory: pytest.TempPathFactory):
    from nuscenes.nuscenes import NuScenes

    root: Path = tmp_path_factory.mktemp("tables")
    write_tables(root / "v1.0-mini", tables)
    (root / "maps").mkdir()
    Image.new("L", (8, 8)).save(root / tables.map[0].filename)
    return NuScenes("v1.0-mini", str(root), verbose=False)


def _walk(devkit, table: str, token: str) -> list[dict]:
    """Rows from one on along `next`; every `prev` must lead back."""
    rows, before = [], ""
    while token:
        rows.append(devkit.get(table, token))
        assert rows[-1]["prev"] == before
        before, token = token, rows[-1]["next"]
    return rows


def test_the_devkit_loads_the_tables(devkit, tables: Tables) -> None:
    assert [row["name"] for row in devkit.category if row["index"] == 17] == ["vehicle.car"]
    assert len(devkit.category) == 32
    assert devkit.get("log", devkit.scene[0]["log_token"])["location"] == "singapore-queenstown"
    assert {len(row.token) for rows in vars(tables).values() for row in rows} == {1, 32}  # 1: visibility
    for rows in vars(tables).values():
        assert len({row.token for row in rows}) == len(rows)


def test_samples_and_recordings_are_chained_in_time(devkit) -> None:
    samples = _walk(devkit, "sample", devkit.scene[0]["first_sample_token"])
    assert [row["timestamp"] - start_us("scene-0103") for row in samples] == [500_000, 1_000_000, 1_500_000]
    assert samples[-1]["token"] == devkit.scene[0]["last_sample_token"]
    assert set(samples[1]["data"]) == {sensor.channel for sensor in RIG}
    for sensor in RIG:
        rows = _walk(devkit, "sample_data", samples[0]["data"][sensor.channel])
        times = [row["timestamp"] for row in rows]
        assert times == sorted(times)
        assert len(rows) == (5 if sensor.channel == "LIDAR_TOP" else 3)
        assert all(row["channel"] == sensor.channel for row in rows)
        assert {row["fileformat"] for row in rows} == {"pcd" if sensor.modality == "lidar" else "jpg"}


def test_a_sweep_belongs_to_the_sample_that_follows_it(devkit) -> None:
    sweeps = [row for row in devkit.sample_data if not row["is_key_frame"]]
    assert len(sweeps) == 2
    for row in sweeps:
        sample = devkit.get("sample", row["sample_token"])
        assert row["timestamp"] == sample["timestamp"] - 50_000
    boxes = devkit.get_boxes(sweeps[0]["token"])  # a tenth of the way back to the sample before
    car = next(box for box in boxes if box.name == "vehicle.car")
    np.testing.assert_allclose(car.center, [310.0 + 5 * 0.9, 204.0, 0.8], atol=1e-6)


def test_poses_and_calibration_are_what_went_in(devkit) -> None:
    from nuscenes.utils.geometry_utils import transform_matrix
    from pyquaternion import Quaternion

    def matrix(row: dict) -> np.ndarray:
        return transform_matrix(row["translation"], Quaternion(row["rotation"]))

    by_channel = {sensor.channel: sensor for sensor in RIG}
    for row in devkit.sample_data:
        calibration = devkit.get("calibrated_sensor", row["calibrated_sensor_token"])
        sensor = by_channel[row["channel"]]
        np.testing.assert_allclose(matrix(calibration), sensor.sensor2ego, atol=1e-12)
        t_us = row["timestamp"] - start_us("scene-0103")
        np.testing.assert_allclose(matrix(devkit.get("ego_pose", row["ego_pose_token"])), _pose(1e-5 * t_us), atol=1e-9)
        if sensor.modality == "camera":
            np.testing.assert_array_equal(calibration["camera_intrinsic"], sensor.intrinsics)
            assert (row["height"], row["width"]) == (90, 160)


def test_a_fisheye_says_how_it_is_bent_and_where_its_picture_ends() -> None:
    fisheye = fisheye_cameras((32, 48))[2]
    names = {fisheye.channel: "sweeps/FISHEYE_LEFT/1.jpg", RIG[0].channel: "samples/LIDAR_TOP/1.pcd.bin"}
    rig = (RIG[0], fisheye)
    recorded = [Recorded(it.channel, 500_000, _pose(0), names[it.channel], 0, it is RIG[0]) for it in rig]
    tables = scene_tables(ORDER, rig, recorded, CATEGORIES, [_keyframe(0)])
    lidar, row = tables.calibrated_sensor
    assert (lidar.camera_intrinsic, lidar.camera_model, lidar.camera_theta_max_rad) == ((), None, None)
    np.testing.assert_array_equal(row.camera_intrinsic, fisheye.lens.intrinsics)
    np.testing.assert_array_equal(row.camera_distortion, fisheye.lens.distortion)
    assert row.camera_model == "kannala_brandt"
    assert row.camera_theta_max_rad == pytest.approx(np.radians(95))
    sizes = {it.fileformat: (it.is_key_frame, it.height, it.width) for it in tables.sample_data}
    assert sizes == {"pcd": (True, 0, 0), "jpg": (False, 32, 48)}


def test_an_instance_is_chained_over_keyframes_at_which_it_is_not_noted(devkit) -> None:
    expected = {"vehicle.car": [0, 1, 2], "movable_object.trafficcone": [0, 2], "human.pedestrian.adult": [0]}
    samples = _walk(devkit, "sample", devkit.scene[0]["first_sample_token"])
    for instance in devkit.instance:
        name = devkit.get("category", instance["category_token"])["name"]
        rows = _walk(devkit, "sample_annotation", instance["first_annotation_token"])
        assert [row["sample_token"] for row in rows] == [samples[number]["token"] for number in expected.pop(name)]
        assert rows[-1]["token"] == instance["last_annotation_token"]
        assert instance["nbr_annotations"] == len(rows)
    assert not expected


def test_an_annotation_says_what_the_actor_was(devkit) -> None:
    row = next(row for row in devkit.sample_annotation if row["category_name"] == "vehicle.car")
    box = devkit.get_box(row["token"])
    np.testing.assert_allclose([*box.center, *box.wlh], [310, 204, 0.8, 1.9, 4.5, 1.6])
    assert box.orientation.yaw_pitch_roll[0] == pytest.approx(0.3)
    assert [devkit.get("attribute", token)["name"] for token in row["attribute_tokens"]] == ["vehicle.moving"]
    assert (row["visibility_token"], row["num_lidar_pts"], row["num_radar_pts"]) == ("4", 40, 7)
    np.testing.assert_allclose(devkit.box_velocity(row["token"]), [10.0, 0.0, 0.0], atol=1e-3)
    cone = next(row for row in devkit.sample_annotation if row["category_name"] == "movable_object.trafficcone")
    assert cone["attribute_tokens"] == []


def test_an_actor_that_is_never_noted_leaves_no_rows() -> None:
    keyframes = [_keyframe(number) for number in range(3)]
    for it in keyframes:
        it.noted[1] = False
    tables = scene_tables(ORDER, RIG, _recorded(), CATEGORIES, keyframes)
    assert len(tables.instance) == 2


def test_tokens_depend_on_seed_and_scene() -> None:
    def tokens(order: SceneOrder) -> set[str]:
        tables = scene_tables(order, RIG, _recorded(), CATEGORIES, [_keyframe(number) for number in range(3)])
        return {row.token for rows in vars(tables).values() for row in rows}

    assert tokens(ORDER) == tokens(ORDER)
    for change in ({"seed": 6}, {"name": "scene-0916"}, {"town": 4}):
        assert not tokens(ORDER) & tokens(replace(ORDER, **change))


def _annotate(points: Sequence[Sequence[float]], visible: Sequence[int], whole: Sequence[int]) -> Annotations:
    return annotate(
        boxes=_boxes(0),
        attributes=("", "", ""),
        points=np.array(points, dtype=np.float64).reshape(-1, 3),
        ego_position_m=np.array([300.0, 200.0, 0.0]),
        visible_px=np.array(visible),
        whole_px=np.array(whole),
        num_radar_pts=np.zeros(3, np.int64),
    )


def test_points_on_a_face_count_and_points_beyond_do_not() -> None:
    points = [(305.2, 196.0, 0.5), (305.0, 196.0, 1.0), (305.201, 196.0, 0.5), (305.0, 196.0, 1.0001)]
    assert _annotate(points, (0, 0, 0), (0, 0, 0)).num_lidar_pts.tolist() == [0, 2, 0]


def test_an_actor_is_noted_where_a_point_or_enough_pixels_show_it() -> None:
    noted = _annotate([(305.0, 196.0, 0.5)], (20, 0, 21), (50, 50, 50)).noted
    assert noted.tolist() == [False, True, True]


def test_far_actors_are_not_noted() -> None:
    boxes = _boxes(0)
    boxes[:, :2] = [300.0, 200.0]
    boxes[0, 0] += RANGE_M + 0.01
    boxes[1, 1] -= RANGE_M - 0.01
    ego_m, ones, radar = np.array([300.0, 200, 0]), np.ones(3), np.array([9, 0, 0])
    found = annotate(boxes, ("", "", ""), boxes[:, :3].copy(), ego_m, ones, ones, radar)
    assert found.noted.tolist() == [False, True, True]  # radar returns note nobody
    assert found.num_lidar_pts[0] == 0


@pytest.mark.parametrize(
    ("share", "token"), [(0.0, "1"), (0.4, "1"), (0.41, "2"), (0.6, "2"), (0.7, "3"), (0.8, "3"), (0.81, "4"), (1, "4")]
)
def test_visibility_bins(share: float, token: str) -> None:
    assert visibility_tokens(np.array([share])) == [token]


def test_counts_are_those_of_the_devkit() -> None:
    from nuscenes.utils.data_classes import Box
    from nuscenes.utils.geometry_utils import points_in_box
    from pyquaternion import Quaternion

    rng = np.random.default_rng(0)
    boxes = _boxes(0)
    points = np.concatenate([box[:3] + box[3:6] * rng.uniform(-0.8, 0.8, (400, 3)) for box in boxes])
    ours = _annotate(points, (0, 0, 0), (0, 0, 0)).num_lidar_pts
    for box, count in zip(boxes, ours.tolist(), strict=True):
        x, y, z, length, width, height, yaw = box.tolist()
        theirs = Box([x, y, z], [width, length, height], Quaternion(axis=[0, 0, 1], angle=yaw))
        assert points_in_box(theirs, points.T).sum() == count > 0
