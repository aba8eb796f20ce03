"""The fusers that come as configs: each takes the place of another in a detector, and nothing else changes."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.fusion.arms import FUSERS as STUDIED
from perception.models.detector import Detector
from perception.runtime.config import build_detector, load_config
from perception.structures import Batch
from tests.models.fusers.features import BUILDERS
from tests.models.near_scenes import every_sensor, make_echoes, make_fisheyes
from tests.models.scenes import make_cameras, make_lidar, two_boxes

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FUSERS = sorted((CONFIGS / "fusers").glob("*.yaml"))


def detector_with(path: Path) -> Detector:
    """The small detector of every sensor with another fuser, on smaller grids."""
    config = load_config(CONFIGS / "models" / "every_sensor_small.yaml")
    given = config["init_args"]
    given["fuser"] = load_config(path)
    given["grids"]["main"] |= {"x_range_m": [-12.8, 12.8], "y_range_m": [-12.8, 12.8]}
    given["grids"]["near"] |= {"x_range_m": [-3.2, 3.2], "y_range_m": [-3.2, 3.2]}
    return build_detector(config)


def mixed_batch() -> Batch:
    """A sample with everything, one with the LiDAR alone, and one with a fisheye and some ultrasonic sensors."""
    batch = every_sensor(3)
    return dataclasses.replace(
        batch,
        cameras={
            "surround": make_cameras([[True] * 3, [False] * 3, [False] * 3]),
            "fisheye": make_fisheyes([[True] * 4, [False] * 4, [False, True, False, False]]),
        },
        lidar=make_lidar([200, 100, None]),
        radar=dataclasses.replace(batch.radar, present=torch.tensor([True, False, False])),
        radar4d=None,
        ultrasonic=make_echoes([range(12), None, (0, 3, 7)]),
        boxes=(two_boxes(), None, two_boxes()),
    )


def test_there_is_one_config_per_fuser() -> None:
    files = (CONFIGS.parent / "perception" / "models" / "fusers").glob("[!_]*.py")
    assert {path.stem for path in FUSERS} == {path.stem for path in files}
    assert set(BUILDERS) == set(STUDIED) == {path.stem for path in FUSERS}


def test_every_classifier_of_a_sensors_quality_is_taught() -> None:
    torch.manual_seed(0)
    detector = detector_with(CONFIGS / "fusers" / "qmf.yaml")
    batch = mixed_batch()
    losses = detector.losses(detector(batch), batch)
    sum(loss for name, loss in losses.items() if name.startswith("quality")).backward()
    for name, parameter in detector.fuser.named_parameters():
        if ".classifiers." in name:
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("path", FUSERS, ids=lambda path: path.stem)
def test_a_detector_takes_the_fuser_and_a_training_step(path: Path) -> None:
    torch.manual_seed(0)
    detector = detector_with(path)
    assert type(detector.fuser).__module__.endswith(path.stem)
    batch = mixed_batch()
    output = detector(batch)
    losses = detector.losses(output, batch)
    assert ("quality" in losses) == (path.stem == "qmf")
    assert ("reconstruction" in losses) == (path.stem == "reconstruction")
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
