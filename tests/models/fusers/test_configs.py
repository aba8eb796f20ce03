"""The fusers that come as configs: each takes the place of another in a detector, and nothing else changes."""

from pathlib import Path

import pytest
import torch

from benchmarks.model_inputs import made_up_batch
from perception.data.loading import CameraLoading, LidarLoading
from perception.models.detector import Detector
from perception.runtime.config import build_detector, load_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FUSERS = sorted((CONFIGS / "fusers").glob("*.yaml"))


def detector_with(path: Path) -> Detector:
    """The small detector with another fuser, and the losses that fusers may want."""
    config = load_config(CONFIGS / "models" / "camera_lidar_small.yaml")
    config["init_args"]["fuser"] = load_config(path)
    config["init_args"]["auxiliary_losses"] |= load_config(CONFIGS / "fusers" / "parts" / "losses.yaml")
    return build_detector(config)


def test_there_is_one_config_per_fuser() -> None:
    files = (CONFIGS.parent / "perception" / "models" / "fusers").glob("[!_]*.py")
    assert {path.stem for path in FUSERS} == {path.stem for path in files}


@pytest.mark.parametrize("path", FUSERS, ids=lambda path: path.stem)
def test_a_detector_takes_the_fuser_and_a_training_step(path: Path) -> None:
    torch.manual_seed(0)
    detector = detector_with(path)
    assert type(detector.fuser).__module__.endswith(path.stem)
    batch = made_up_batch(CameraLoading(image_size_px=(96, 192)), LidarLoading(num_sweeps=0))
    output = detector(batch)
    losses = detector.losses(output, batch)
    assert ("quality" in losses) and ("reconstruction" in losses)
    assert (losses["quality"] > 0) == (path.stem == "qmf")
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
