"""The index, held against the devkit on recorded and on made-up sets."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from pyquaternion import Quaternion

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.lidar import read_lidar
from perception.formats.nuscenes_boxes import rotation_matrices
from perception.formats.nuscenes_rows import CalibratedSensorRow, EgoPoseRow, SampleDataRow, SensorRow
from perception.formats.nuscenes_tables import Tables, read_tables, write_tables
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes


def index_of(tables: Tables, folder: Path) -> Index:
    write_tables(folder / VERSION, tables)
    build_index(folder, VERSION, folder / "index")
    return Index.open(folder / "index")


def changed(rows: list, number: int, **values: object) -> None:
    """Replaces some fields of one row."""
    rows[number] = msgspec.structs.replace(rows[number], **values)


def pose(translation: list[float], rotation: list[float]) -> np.ndarray:
    matrix = Quaternion(rotation).transformation_matrix
    matrix[:3, 3] = translation
    return matrix


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_nuscenes(tmp_path_factory.mktemp("set"))


@pytest.fixture
def tables(source: Path) -> Tables:
    return read_tables(source / VERSION)


@pytest.fixture
def index(tables: Tables, tmp_path: Path) -> Index:
    return index_of(tables, tmp_path)


@pytest.fixture(scope="module")
def real_index(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("real") / "index"
    build_index(real_data / "nuscenes", "v1.0-mini", folder)
    return Index.open(folder)


@pytest.fixture(scope="module")
def devkit(real_data: Path) -> NuScenes:
    return NuScenes("v1.0-mini", str(real_data / "nuscenes"), verbose=False)


def test_samples_are_the_devkits(real_index: Index, devkit: NuScenes) -> None:
    assert len(real_index) == len(devkit.sample) == 6
    assert real_index.scenes == ("scene-0061", "scene-0103")
    assert real_index.version == "v1.0-mini"
    assert real_index.classes == DETECTION_CLASSES
    for i, sample in enumerate(devkit.sample):
        record = real_index.record(i)
        lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = devkit.get("ego_pose", lidar["ego_pose_token"])
        assert (record.token, record.timestamp_us) == (sample["token"], sample["timestamp"])
        assert record.timestamp_us == lidar["timestamp"]
        assert record.scene == devkit.get("scene", sample["scene_token"])["name"]
        np.testing.assert_allclose(record.ego2global, pose(ego["translation"], ego["rotation"]), rtol=0, atol=1e-12)
        assert real_index.by_token(sample["token"]) == i


def test_sensors_are_the_devkits(real_index: Index, devkit: NuScenes) -> None:
    for i, sample in enumerate(devkit.sample):
        sensors = real_index.record(i).sensors
        assert list(sensors) == list(sample["data"])
        for channel, token in sample["data"].items():
            ours, theirs = sensors[channel], devkit.get("sample_data", token)
            calibration = devkit.get("calibrated_sensor", theirs["calibrated_sensor_token"])
            ego = devkit.get("ego_pose", theirs["ego_pose_token"])
            assert (ours.token, ours.channel, ours.path) == (token, channel, theirs["filename"])
            assert (ours.timestamp_us, ours.is_key_frame) == (theirs["timestamp"], True)
            assert (ours.modality, ours.width, ours.height) == (
                theirs["sensor_modality"],
                theirs["width"] or 0,
                theirs["height"] or 0,
            )
            mounting = pose(calibration["translation"], calibration["rotation"])
            np.testing.assert_allclose(ours.sensor2ego, mounting, rtol=0, atol=1e-12)
            np.testing.assert_allclose(ours.ego2global, pose(ego["translation"], ego["rotation"]), rtol=0, atol=1e-12)
            if ours.modality == "camera":
                np.testing.assert_array_equal(ours.intrinsics, calibration["camera_intrinsic"])
                assert (ours.camera_model, ours.distortion) == ("pinhole", None)
            else:
                assert (ours.camera_model, ours.intrinsics) == (None, None)
    assert set(real_index.record(0).sensors) > {"CAM_FRONT", "RADAR_FRONT"}
    assert set(real_index.record(1).sensors) == {"LIDAR_TOP"}


def test_annotations_are_the_devkits(real_index: Index, devkit: NuScenes) -> None:
    for i, sample in enumerate(devkit.sample):
        ours = real_index.record(i).annotations
        rows = [devkit.get("sample_annotation", token) for token in sample["anns"]]
        boxes = [devkit.get_box(token) for token in sample["anns"]]
        assert ours.tokens == tuple(sample["anns"])
        assert ours.instance_tokens == tuple(row["instance_token"] for row in rows)
        assert ours.categories == tuple(row["category_name"] for row in rows)
        names = [DETECTION_CLASSES[label] if label >= 0 else None for label in ours.labels]
        assert names == [category_to_detection_name(name) for name in ours.categories]
        np.testing.assert_array_equal(ours.boxes_global[:, :3], [box.center for box in boxes])
        np.testing.assert_array_equal(ours.boxes_global[:, [4, 3, 5]], [box.wlh for box in boxes])
        np.testing.assert_array_equal(ours.rotations, [row["rotation"] for row in rows])
        yaws = [box.orientation.yaw_pitch_roll[0] for box in boxes]
        np.testing.assert_allclose(np.sin(ours.boxes_global[:, 6] - yaws), 0, atol=1e-12)
        velocities = [devkit.box_velocity(token)[:2] for token in sample["anns"]]
        np.testing.assert_array_equal(ours.boxes_global[:, 7:], velocities)
        assert ours.num_lidar_pts.tolist() == [row["num_lidar_pts"] for row in rows]
        assert ours.num_radar_pts.tolist() == [row["num_radar_pts"] for row in rows]
        assert ours.visibility.tolist() == [int(row["visibility_token"]) for row in rows]


def test_points_inside_every_box_are_as_many_as_stored(real_index: Index, real_data: Path) -> None:
    num_boxes = 0
    for i in range(len(real_index)):
        record = real_index.record(i)
        lidar, annotations = record.sensors["LIDAR_TOP"], record.annotations
        points = read_lidar(real_data / "nuscenes" / lidar.path)[:, :3].astype(np.float64)
        lidar2global = lidar.ego2global @ lidar.sensor2ego
        points = points @ lidar2global[:3, :3].T + lidar2global[:3, 3]
        offsets = points - annotations.boxes_global[:, None, :3]  # (M, P, 3)
        local = offsets @ rotation_matrices(annotations.rotations)  # (M, P, 3) in the box's own axes
        inside = (np.abs(local) <= annotations.boxes_global[:, None, 3:6] / 2).all(axis=2)
        np.testing.assert_array_equal(inside.sum(axis=1), annotations.num_lidar_pts)
        num_boxes += len(inside)
    assert num_boxes == 230


def test_sweeps_walk_back_within_the_scene(real_index: Index) -> None:
    newest = real_index.sweeps(5, "LIDAR_TOP", 10)
    keyframes = [real_index.record(i).sensors["LIDAR_TOP"].token for i in (4, 3, 2, 1)]
    assert [sweep.token for sweep in newest] == keyframes
    assert [sweep.token for sweep in real_index.sweeps(5, "LIDAR_TOP", 2)] == keyframes[:2]
    assert real_index.sweeps(1, "LIDAR_TOP", 5) == []
    assert real_index.sweeps(5, "LIDAR_TOP", 0) == []
    assert real_index.sweeps(5, "CAM_FRONT", 3) == []
    with pytest.raises(ValueError, match=r"sweeps: count must be >= 0, got -1"):
        real_index.sweeps(5, "LIDAR_TOP", -1)


def test_a_link_into_another_scene_ends_the_chain(tables: Tables, tmp_path: Path) -> None:
    lidar = [i for i, row in enumerate(tables.sample_data) if "LIDAR_TOP" in row.filename]
    changed(tables.sample_data, lidar[2], prev=tables.sample_data[lidar[1]].token)  # first of the second scene
    index = index_of(tables, tmp_path)
    assert [len(index.sweeps(i, "LIDAR_TOP", 9)) for i in range(5)] == [0, 1, 0, 1, 2]


def test_order_of_rows_in_the_files_does_not_matter(tables: Tables, tmp_path: Path) -> None:
    index = index_of(tables, tmp_path / "a")
    shuffled = copy.copy(tables)
    rng = np.random.default_rng(1)
    for name in ("sample_data", "ego_pose", "calibrated_sensor", "sensor", "instance", "scene", "attribute"):
        rows = getattr(tables, name)
        setattr(shuffled, name, [rows[i] for i in rng.permutation(len(rows))])
    other = index_of(shuffled, tmp_path / "b")
    for i in range(len(index)):
        ours, theirs = index.record(i), other.record(i)
        assert ours.scene == theirs.scene and ours.sensors.keys() == theirs.sensors.keys()
        np.testing.assert_array_equal(ours.ego2global, theirs.ego2global)
        np.testing.assert_array_equal(ours.annotations.boxes_global, theirs.annotations.boxes_global)
        assert ours.annotations.attributes == theirs.annotations.attributes
        for channel in ours.sensors:
            ours_back, theirs_back = index.sweeps(i, channel, 9), other.sweeps(i, channel, 9)
            assert [sweep.token for sweep in ours_back] == [sweep.token for sweep in theirs_back]


def test_samples_of_a_drive_follow_one_another_in_time_whatever_the_order_of_rows(
    tables: Tables, index: Index, tmp_path: Path
) -> None:
    rows = tables.sample
    other = index_of(replace(tables, sample=rows[::-2] + rows[-2::-2]), tmp_path / "reordered")
    assert [other.record(i).token for i in range(len(other))] == [index.record(i).token for i in range(len(index))]
    assert [other.record(i).scene for i in range(5)] == sorted(other.record(i).scene for i in range(5))
    for i in range(1, 5):
        before, after = other.record(i - 1), other.record(i)
        assert before.scene != after.scene or before.timestamp_us < after.timestamp_us


def test_annotations_in_any_order_come_to_their_samples(tables: Tables, index: Index, tmp_path: Path) -> None:
    rows = tables.sample_annotation
    rng = np.random.default_rng(2)
    shuffled = replace(tables, sample_annotation=[rows[i] for i in rng.permutation(len(rows))])
    other = index_of(shuffled, tmp_path / "shuffled")
    for i in range(len(index)):
        expected = [row.token for row in shuffled.sample_annotation if row.sample_token == index.record(i).token]
        ours, theirs = other.record(i).annotations, index.record(i).annotations
        assert ours.tokens == tuple(expected)
        boxes = dict(zip(theirs.tokens, theirs.boxes_global, strict=True))
        np.testing.assert_array_equal(ours.boxes_global, [boxes[token] for token in ours.tokens])


def test_records_are_copies(index: Index) -> None:
    index.record(0).annotations.boxes_global[:] = 0
    index.record(0).sensors["CAM_FRONT"].intrinsics[:] = 0
    assert index.record(0).annotations.boxes_global.any() and index.record(0).sensors["CAM_FRONT"].intrinsics.any()


def test_an_index_travels_as_its_path(index: Index) -> None:
    assert len(pickle.dumps(index)) < 500
    assert pickle.loads(pickle.dumps(index)).record(3).token == index.record(3).token


def test_unknown_positions_tokens_and_scenes(index: Index) -> None:
    for i in (-1, len(index)):
        with pytest.raises(IndexError, match=rf"record: i must be in 0..4, got {i}"):
            index.record(i)
    for token in ("", "0" * 32, "zzz"):
        with pytest.raises(KeyError, match=r"by_token: token must be of a sample in"):
            index.by_token(token)
    with pytest.raises(ValueError, match=r"scene: scene must be one of the 2 in .*, got 'scene-0001'"):
        index.scene("scene-0001")
    assert index.scene("scene-0103").location == "singapore-onenorth"


def test_splits(tables: Tables, tmp_path: Path) -> None:
    (tmp_path / VERSION).mkdir()
    splits = {"mine": ["scene-0103"], "train": ["scene-0103"], "elsewhere": ["scene-0999"]}
    (tmp_path / VERSION / "splits.json").write_text(json.dumps(splits))
    index = index_of(tables, tmp_path)
    assert index.samples_of("mini_train").tolist() == [0, 1]
    assert index.samples_of("mini_val").tolist() == index.samples_of("mine").tolist() == [2, 3, 4]
    assert index.samples_of("train").tolist() == [0, 1]  # an official name means the official split
    assert index.samples_of(["scene-0103", "scene-0061"]).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"split must be one of train, .*, mine, .*, got 'validation'"):
        index.samples_of("validation")
    with pytest.raises(ValueError, match=r"split must have samples in .*v1.0-mini\), 'test' has none"):
        index.samples_of("test")
    with pytest.raises(ValueError, match=r"samples_of: scene must be one of .*, got 'scene-0999'"):
        index.samples_of("elsewhere")


def test_a_set_without_annotations(tables: Tables, tmp_path: Path) -> None:
    tables.sample_annotation, tables.instance = [], []
    index = index_of(tables, tmp_path)
    assert not index.has_annotations
    assert index.record(0).annotations is None


def test_a_sample_without_boxes_in_an_annotated_set(tables: Tables, tmp_path: Path) -> None:
    last = tables.sample[-1].token
    tables.sample_annotation = [
        msgspec.structs.replace(row, next="", prev="") for row in tables.sample_annotation if row.sample_token != last
    ]
    annotations = index_of(tables, tmp_path).record(4).annotations
    assert annotations.boxes_global.shape == (0, 9) and annotations.tokens == ()


def test_a_sample_without_lidar_takes_the_first_sensors_pose(tables: Tables, tmp_path: Path) -> None:
    tables.sample_data = [
        msgspec.structs.replace(row, prev="", next="") for row in tables.sample_data if "LIDAR_TOP" not in row.filename
    ]
    record = index_of(tables, tmp_path).record(2)
    first = next(iter(record.sensors.values()))
    assert first.channel == "CAM_FRONT" and len(record.sensors) == 6
    np.testing.assert_array_equal(record.ego2global, first.ego2global)


def add_fisheye(tables: Tables, sample: int, number: int) -> None:
    """A fisheye picture that is no keyframe, 100 ms times `number` before its sample."""
    name, time_us = f"fisheye-{sample}-{number}", tables.sample[sample].timestamp - 100_000 * number
    tables.ego_pose.append(
        EgoPoseRow(token=name, timestamp=time_us, rotation=(1.0, 0.0, 0.0, 0.0), translation=(float(number), 0.0, 0.0))
    )
    tables.sample_data.append(
        SampleDataRow(
            token=name,
            sample_token=tables.sample[sample].token,
            ego_pose_token=name,
            calibrated_sensor_token="fisheye",
            timestamp=time_us,
            is_key_frame=False,
            filename=f"fisheye/{name}.jpg",
            prev="",
            next="",
            width=640,
            height=480,
        )
    )


def test_extra_sensors(tables: Tables, tmp_path: Path) -> None:
    tables.sensor.append(SensorRow(token="fisheye", channel="FISHEYE_REAR", modality="fisheye"))
    tables.calibrated_sensor.append(
        CalibratedSensorRow(
            token="fisheye",
            sensor_token="fisheye",
            translation=(0.0, 0.0, 1.0),
            rotation=(1.0, 0.0, 0.0, 0.0),
            camera_intrinsic=((166.0, 0.0, 320.0), (0.0, 166.0, 240.0), (0.0, 0.0, 1.0)),
            camera_model="kannala_brandt",
            camera_distortion=(0.01, 0.05, -0.02, 0.0),
            camera_theta_max_rad=1.6,
        )
    )
    for number in (0, 2, 1):
        add_fisheye(tables, 3, number)
    index = index_of(tables, tmp_path)
    assert index.extra_sensors(2) == {}
    (channel, records), *others = index.extra_sensors(3).items()
    assert channel == "FISHEYE_REAR" and not others
    assert [record.token for record in records] == ["fisheye-3-2", "fisheye-3-1", "fisheye-3-0"]
    assert (records[0].camera_model, records[0].width, records[0].is_key_frame) == ("kannala_brandt", 640, False)
    np.testing.assert_array_equal(records[0].distortion, [0.01, 0.05, -0.02, 0.0])
    assert records[0].theta_max_rad == 1.6
    assert "FISHEYE_REAR" not in index.record(3).sensors


def test_sweeps_that_are_no_keyframes(tables: Tables, tmp_path: Path) -> None:
    lidar = [i for i, row in enumerate(tables.sample_data) if "scene-0103__LIDAR_TOP" in row.filename]
    keyframe = tables.sample_data[lidar[1]]
    between = msgspec.structs.replace(
        keyframe, token="sweep", is_key_frame=False, timestamp=keyframe.timestamp - 50_000, next=keyframe.token
    )
    tables.sample_data.append(between)
    changed(tables.sample_data, lidar[1], prev="sweep")
    index = index_of(tables, tmp_path)
    first = tables.sample_data[lidar[0]].token
    assert [sweep.token for sweep in index.sweeps(3, "LIDAR_TOP", 5)] == ["sweep", first]
    assert [sweep.is_key_frame for sweep in index.sweeps(3, "LIDAR_TOP", 5)] == [False, True]
    assert index.extra_sensors(3) == {}


@pytest.mark.parametrize(
    ("table", "number", "values", "message"),
    [
        ("sample", 1, {"scene_token": "x"}, r"sample.json: token '\w+', field `scene_token`: must name a row of scene"),
        ("sample_data", 9, {"sample_token": ""}, r"sample_data.json: .*`sample_token`: must name a row of sample.json"),
        ("sample_data", 9, {"ego_pose_token": "x"}, r"`ego_pose_token`: must name a row of ego_pose.json, got 'x'"),
        ("sample_data", 9, {"prev": "x"}, r"sample_data.json: .*`prev`: must name a row of sample_data.json, got 'x'"),
        ("sample_annotation", 4, {"instance_token": "x"}, r"`instance_token`: must name a row of instance.json"),
        ("sample_annotation", 4, {"next": "x"}, r"`next`: must name a row of sample_annotation.json"),
        ("sample_annotation", 4, {"attribute_tokens": ("x",)}, r"`attribute_tokens`: must name a row of attribute"),
        ("sample_annotation", 4, {"attribute_tokens": ("a", "b")}, r"`attribute_tokens`: must be at most one"),
        ("sample_annotation", 4, {"size": (1.0, float("nan"), 1.0)}, r"`size`: must be finite, got \[1.0, nan, 1.0\]"),
        ("ego_pose", 3, {"translation": (float("inf"), 0.0, 0.0)}, r"ego_pose.json: .*`translation`: must be finite"),
        ("ego_pose", 3, {"rotation": (0.0, 0.0, 0.0, 0.0)}, r"`rotation`: must be a unit quaternion, got \[0.0, 0.0"),
        ("calibrated_sensor", 3, {"rotation": (1e300, 0.0, 0.0, 0.0)}, r"`rotation`: must be a unit quaternion"),
        ("sample_annotation", 4, {"rotation": (1e-9, 0.0, 0.0, 0.0)}, r"`rotation`: must be a unit quaternion"),
        ("calibrated_sensor", 1, {"camera_intrinsic": ((1.0, 0.0, 0.0),)}, r"`camera_intrinsic`: must have 3 rows or"),
        (
            "calibrated_sensor",
            1,
            {"camera_intrinsic": ((0.0, 0.0, 8.0), (0.0, 9.0, 8.0), (0.0, 0.0, 1.0))},
            r"`camera_intrinsic`: must have focal lengths > 0 and end in 0 0 1, got \[\[0.0",
        ),
        ("calibrated_sensor", 1, {"camera_model": "fish"}, r"`camera_model`: must be one of pinhole, kannala_brandt"),
        ("calibrated_sensor", 1, {"camera_model": "kannala_brandt"}, r"`camera_distortion`: must be four numbers"),
        ("calibrated_sensor", 1, {"camera_theta_max_rad": 4.0}, r"`camera_theta_max_rad`: must be in \(0, pi\]"),
        ("scene", 1, {"name": "scene-0061"}, r"scene.json: field `name`: 'scene-0061' occurs more than once"),
        (
            "scene",
            1,
            {"name": "../../home"},
            r"scene.json: .*`name`: must be usable as the name of a file",
        ),
        ("scene", 1, {"name": ""}, r"scene.json: .*`name`: must be usable as the name of a file, got ''"),
        ("scene", 1, {"name": "a\nb"}, r"scene.json: .*`name`: must be usable as the name of a file"),
        ("sample", 1, {"token": "/etc/passwd"}, r"sample.json: .*`token`: must be usable as the name of a file"),
        ("sample", 1, {"token": "same"}, r"sample_data.json: .*`sample_token`"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(
    tables: Tables, tmp_path: Path, table: str, number: int, values: dict, message: str
) -> None:
    changed(getattr(tables, table), number, **values)
    with pytest.raises(ValueError, match=rf"build_index: .*{message}"):
        index_of(tables, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [VERSION]


@pytest.mark.parametrize("table", ["sample_data", "sample_annotation"])
def test_chains_that_run_in_circles_are_named(tables: Tables, tmp_path: Path, table: str) -> None:
    rows = getattr(tables, table)
    follower = next(i for i, row in enumerate(rows) if row.prev)
    leader = next(i for i, row in enumerate(rows) if row.token == rows[follower].prev)
    changed(rows, leader, prev=rows[follower].token)
    with pytest.raises(
        ValueError, match=rf"{table}.json: token '{rows[leader].token}', field `prev`: .*an earlier row"
    ):
        index_of(tables, tmp_path)
    changed(rows, leader, prev=rows[leader].token)
    with pytest.raises(ValueError, match=r"field `prev`: must name an earlier row"):
        index_of(tables, tmp_path)


def test_an_annotation_is_followed_by_a_later_one(tables: Tables, tmp_path: Path) -> None:
    follower = next(i for i, row in enumerate(tables.sample_annotation) if row.prev)
    changed(tables.sample_annotation, follower, next=tables.sample_annotation[follower].prev)
    with pytest.raises(ValueError, match=r"sample_annotation.json: .*field `next`: must name a later row, got '\w+'"):
        index_of(tables, tmp_path)


def test_names_in_any_script_with_spaces_and_dots_are_fine(tables: Tables, tmp_path: Path) -> None:
    changed(tables.scene, 0, name="Überführung 3.b 東京")
    assert index_of(tables, tmp_path).scenes == ("Überführung 3.b 東京", "scene-0103")


def test_half_a_character_is_no_text(tables: Tables, tmp_path: Path) -> None:
    write_tables(tmp_path / VERSION, tables)
    scenes = tmp_path / VERSION / "scene.json"
    scenes.write_text(scenes.read_text().replace("scene-0061", "\\ud800"))
    with pytest.raises(ValueError, match=r"scene.json: field `name`: no text: .*surrogates not allowed"):
        build_index(tmp_path, VERSION, tmp_path / "index")


def test_a_version_is_the_name_of_a_folder(source: Path, tmp_path: Path) -> None:
    for version in ("", ".", "..", f"{VERSION}/", f"../{source.name}/{VERSION}", str(source / VERSION)):
        with pytest.raises(ValueError, match=r"build_index: version must be the name of a folder in .*, got '"):
            build_index(source, version, tmp_path / "index")


def test_tokens_are_unique_and_samples_have_recordings(tables: Tables, tmp_path: Path) -> None:
    twice = replace(tables, sample=[*tables.sample, tables.sample[2]])
    with pytest.raises(ValueError, match=r"sample.json: field `token`: '\w+' occurs more than once"):
        index_of(twice, tmp_path)
    alone = replace(tables, sample=[*tables.sample, msgspec.structs.replace(tables.sample[2], token="alone")])
    with pytest.raises(ValueError, match=r"sample.json: token 'alone', .*must have a recording in sample_data.json"):
        index_of(alone, tmp_path)
    again = msgspec.structs.replace(tables.sample_data[3], token="again", prev="", next="")
    with pytest.raises(ValueError, match=r"token 'again', field `is_key_frame`: .*the second of CAM_BACK_LEFT"):
        index_of(replace(tables, sample_data=[*tables.sample_data, again]), tmp_path)
