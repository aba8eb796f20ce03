"""The configs that come with the project."""

from pathlib import Path

import pytest

from perception.drives.setup import sensor_settings
from perception.runtime.class_paths import check_config
from perception.runtime.config import build_detector, load_config
from perception.runtime.yaml_files import load_yaml

FOLDER = Path(__file__).resolve().parents[2] / "configs"
RUNS = sorted(path for path in FOLDER.rglob("*.yaml") if "model" in load_yaml(path))


def test_there_are_configs_of_runs():
    assert {path.name for path in RUNS} >= {"keyframe.yaml", "lidar_scene.yaml"}


PARTS = sorted(path for folder in ("data", "temporal", "training") for path in (FOLDER / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_a_part_of_a_run_names_what_exists(path):
    check_config(load_yaml(path), where=path.stem)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_run_names_what_exists_and_its_sensors_are_those_of_the_model(path):
    config = load_config(path)
    for name in ("model", "data", "trainer"):
        check_config(config[name], where=name)
    detector = build_detector(config)
    sensors = set(sensor_settings(config).names)
    teachers = {"lidar"} if "depth" in detector.auxiliary_losses else set()
    assert sensors == set(detector.branches) | teachers
