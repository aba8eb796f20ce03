"""The detectors that come as configs: built, run once, of the sizes that they promise."""

from pathlib import Path

import pytest
import torch

from benchmarks.model_inputs import made_up_suite
from perception.data.sensor_settings import (
    FISHEYE_CAMERAS,
    CameraLoading,
    LidarLoading,
    Radar4dLoading,
    RadarLoading,
    RangingLoading,
    SensorSuite,
    UltrasonicLoading,
)
from perception.formats.classes import DETECTION_CLASSES
from perception.models.detector import Detector
from perception.runtime.config import build_detector
from perception.structures import Batch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = sorted((CONFIGS / "models").glob("*.yaml"))
FULL = sorted((CONFIGS / "nuscenes" / "models").glob("*.yaml"))

# Millions of parameters, from and to: ResNet-50 has 23.5, Swin-T 27.5, CenterPoint's voxel network 9 in all.
PARAMETERS = {
    "camera_r50": (29, 34),
    "camera_swin_t": (33, 38),
    "lidar_pillars": (5, 7),
    "lidar_voxel0075": (8, 10),
    "camera_lidar_r50": (32, 37),
    "camera_lidar_swin_t": (36, 42),
}


def batch_for(detector: Detector, image_size_px: tuple[int, int], num_sweeps: int) -> Batch:
    """Every sensor that the detector reads."""
    cameras = {
        "camera": CameraLoading(image_size_px=image_size_px),
        "fisheye": CameraLoading(channels=FISHEYE_CAMERAS, image_size_px=(96, 144), group="fisheye"),
    }
    ranging = {"radar": RadarLoading(), "radar4d": Radar4dLoading(), "ultrasonic": UltrasonicLoading()}
    suite = SensorSuite(
        cameras=tuple(cameras.values()), lidar=LidarLoading(num_sweeps=num_sweeps), ranging=RangingLoading(**ranging)
    )
    return made_up_suite(suite.only(detector.branches))


def check_forward(detector: Detector, batch: Batch) -> None:
    """Runs a detector from a batch to boxes, or to what else its heads say."""
    assert detector.class_names == DETECTION_CLASSES
    detector.eval()
    with torch.no_grad():
        output = detector(batch)
        (found,) = detector.predict(output, batch)
    assert {head.predicts for head in detector.heads.values()} == {
        name for name, value in vars(found).items() if name != "token" and value is not None
    }
    if "boxes" in detector.heads:
        maps, grid = output.heads["boxes"], detector.grids["main"]
        assert maps.heatmap.shape == (1, 10, grid.num_y, grid.num_x)
        assert maps.heatmap.isfinite().all()
        assert maps.regression.isfinite().all()
        assert found.detections.boxes.isfinite().all()
    if found.near_field is not None:
        assert found.near_field.occupied.isfinite().all()


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_small_model_runs_and_fits_into_ten_megabytes(path: Path) -> None:
    detector = build_detector(path)
    assert 2 * sum(value.numel() for value in detector.state_dict().values()) <= 10e6  # float16
    check_forward(detector, batch_for(detector, (192, 400), 0))


@pytest.mark.slow
@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_a_full_size_model_runs_and_has_its_published_size(path: Path) -> None:
    detector = build_detector(path)
    low, high = PARAMETERS[path.stem]
    assert low <= sum(parameter.numel() for parameter in detector.parameters()) / 1e6 <= high
    check_forward(detector, batch_for(detector, (256, 704), 9))
    if "camera" in detector.branches:
        strides = detector.branches["camera"].encoder.strides
        assert strides == ((8,) if "swin" in path.stem else (16,))
