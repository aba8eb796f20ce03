import json

import numpy as np
import pytest
import torch
import yaml

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import CameraLoading, LidarLoading, RadarLoading, SampleLoader
from perception.data.sensor_settings import SensorSuite
from perception.drives.options import RunOptions
from perception.drives.reader import NuScenesDrive
from perception.drives.runner import run_drive
from perception.drives.setup import prepare_run, sensor_settings
from perception.drives.writers import JsonLinesWriter, PictureWriter, SubmissionWriter
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.radar import RadarFilter
from perception.formats.submission import SubmissionMeta
from perception.formats.submission_reader import read_submission
from perception.geometry.boxes import transform_boxes
from perception.runtime.checkpoint import save_weights
from perception.runtime.config import build_detector
from perception.runtime.predictor import Predictor
from perception.structures import Sample
from tests.synthetic_nuscenes import VERSION, token
from tests.tiny_config import tiny_config, tiny_detector

META = SubmissionMeta(use_camera=True, use_lidar=True, use_radar=False)
TOKENS = [token("sample", "scene-0103", step) for step in range(3)]


@pytest.fixture(scope="session")
def index(dataroot, tmp_path_factory) -> Index:
    """Of the synthetic set."""
    folder = tmp_path_factory.mktemp("index") / "index"
    build_index(dataroot, VERSION, folder)
    return Index.open(folder)


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """A model with random weights, which finds 20 boxes everywhere."""
    torch.manual_seed(0)
    return Predictor(build_detector(tiny_detector()))


def make_drive(index, dataroot, **sensors) -> NuScenesDrive:
    """The three samples of scene-0103."""
    loader = SampleLoader(
        index=index, dataroot=dataroot, class_names=DETECTION_CLASSES, truths=None, on_error="skip", **sensors
    )
    return NuScenesDrive(loader, "scene-0103")


def test_a_drive_comes_in_order_of_time(index, dataroot):
    drive = make_drive(index, dataroot, lidar=LidarLoading())
    samples = list(drive)
    assert len(drive) == 3
    assert [sample.token for sample in samples] == TOKENS
    assert all(sample.boxes is None for sample in samples)
    with pytest.raises(ValueError, match=r"scene must be one of the 2 in .*, got 'scene-0001'"):
        NuScenesDrive(drive.loader, "scene-0001")


@pytest.mark.parametrize("sensors", [{"lidar"}, {"cameras"}, {"cameras", "lidar"}])
def test_all_writers_say_the_same_with_any_sensors(index, dataroot, predictor, tmp_path, sensors):
    settings = {"cameras": CameraLoading(image_size_px=(64, 96)), "lidar": LidarLoading()}
    drive = make_drive(index, dataroot, **{name: settings[name] for name in sensors})
    writers = [
        JsonLinesWriter(tmp_path / "detections.jsonl", DETECTION_CLASSES),
        SubmissionWriter(tmp_path / "results.json", DETECTION_CLASSES, META),
        PictureWriter(tmp_path / "pictures", DETECTION_CLASSES, min_score=0.0),
    ]
    report = run_drive(drive, predictor, writers)
    assert (report.num_samples, report.blind, len(report.predict_s)) == (3, (), 3)
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [line["token"] for line in lines] == TOKENS
    assert len(lines[0]["sensors"]) == ("lidar" in sensors) + 6 * ("cameras" in sensors)
    submission = read_submission(tmp_path / "results.json")
    assert submission.sample_tokens == tuple(TOKENS)
    assert report.num_boxes == len(submission.scores) == sum(len(line["detections"]) for line in lines)
    # The lines hold ego boxes and the pose, the submission global boxes.
    for number, line in enumerate(lines):
        boxes = torch.tensor([found["box"] for found in line["detections"]], dtype=torch.float64)
        moved = transform_boxes(torch.tensor(line["ego2global"], dtype=torch.float64), boxes)
        rows = slice(submission.offsets[number], submission.offsets[number + 1])
        np.testing.assert_allclose(submission.translations[rows], moved[:, :3], atol=1e-9)
        names = [DETECTION_CLASSES[label] for label in submission.labels[rows]]
        assert names == [found["class"] for found in line["detections"]]
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [f"{number:04d}_{name}.jpg" for number, name in enumerate(TOKENS)]


def test_a_sample_without_any_sensor_is_named_and_has_no_boxes(index, dataroot, predictor, tmp_path):
    samples = list(make_drive(index, dataroot, lidar=LidarLoading()))
    blind = Sample(token="blind", scene="scene-0103", timestamp_us=0, ego2global=torch.eye(4, dtype=torch.float64))
    writer = JsonLinesWriter(tmp_path / "detections.jsonl", DETECTION_CLASSES)
    report = run_drive([samples[0], blind], predictor, [writer])
    assert (report.num_samples, report.blind) == (1, ("blind",))
    last = json.loads((tmp_path / "detections.jsonl").read_text().splitlines()[-1])
    assert (last["token"], last["sensors"], last["detections"]) == ("blind", [], [])


def test_a_drive_that_breaks_off_leaves_whole_lines_and_no_submission(index, dataroot, predictor, tmp_path):
    def broken():
        yield next(iter(make_drive(index, dataroot, lidar=LidarLoading())))
        raise OSError("the disk is gone")

    writers = [
        JsonLinesWriter(tmp_path / "detections.jsonl", DETECTION_CLASSES),
        SubmissionWriter(tmp_path / "results.json", DETECTION_CLASSES, META),
    ]
    with pytest.raises(OSError, match="the disk is gone"):
        run_drive(broken(), predictor, writers)
    assert json.loads((tmp_path / "detections.jsonl").read_text())["token"] == TOKENS[0]
    assert not (tmp_path / "results.json").exists()


def test_a_sensor_that_only_taught_is_neither_loaded_nor_declared(dataroot, tmp_path):
    config = tiny_config(dataroot)  # with cameras in its data, and here a model of LiDAR alone
    config["model"]["init_args"]["detector"] = tiny_detector(cameras=False)
    config["data"]["init_args"]["version"] = VERSION
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    save_weights(build_detector(tiny_detector(cameras=False)), tmp_path / "weights.safetensors", {})
    options = RunOptions(
        config=tmp_path / "config.yaml",
        checkpoint=tmp_path / "weights.safetensors",
        dataroot=None,
        version=None,
        index=None,
        out_dir=tmp_path / "out",
        sensors=None,
        on_error="raise",
        device="cpu",
        allowed_packages=(),
    )
    run = prepare_run(options)
    assert run.meta == SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
    assert run.loader.load(0).cameras == {}


def test_a_branch_reads_what_it_reads_whatever_its_name():
    tree = tiny_detector()
    branches = tree["init_args"]["branches"]
    branches["pinholes"] = branches.pop("camera")
    channels = tree["init_args"]["fuser"]["init_args"]["in_channels"]["main"]
    channels["pinholes"] = channels.pop("camera")
    assert set(build_detector(tree).sensors) == {"camera", "lidar"}


def test_sensors_are_loaded_as_in_training(dataroot):
    config = tiny_config(dataroot)
    cameras, lidar = CameraLoading(image_size_px=(64, 96)), LidarLoading(max_points=2000)
    assert sensor_settings(config) == SensorSuite(cameras=(cameras,), lidar=lidar)
    assert sensor_settings(config, ["lidar"]) == SensorSuite(lidar=lidar)
    with pytest.raises(ValueError, match="sensors must be of those in the config, lidar, got camera"):
        sensor_settings(tiny_config(dataroot, cameras=False), ["camera"])
    with pytest.raises(ValueError, match=r"config must have data\.init_args, got only model"):
        sensor_settings({"model": {}})
    groups = [{"image_size_px": [64, 96]}, {"channels": ["FISHEYE_FRONT"], "group": "fisheye"}]
    ranging = {"radar": {"num_sweeps": 2, "radar_filter": {"ambig_states": [1, 3]}}, "radar4d": None, "ultrasonic": {}}
    config["data"]["init_args"] |= {"cameras": groups, "ranging": ranging}
    every = sensor_settings(config)
    assert every.names == ("camera", "fisheye", "lidar", "radar", "ultrasonic")
    assert every.ranging.radar == RadarLoading(num_sweeps=2, radar_filter=RadarFilter(ambig_states=(1, 3)))
    assert sensor_settings(config, ["fisheye", "radar"]).names == ("fisheye", "radar")
    config["data"]["init_args"]["lidar"] = {"nm_sweeps": 3}
    with pytest.raises(ValueError, match=r"LidarLoading has no 'nm_sweeps' .did you mean 'num_sweeps'"):
        sensor_settings(config)
