import dataclasses
import math

import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.detection import annotations_as_detections
from perception.evaluation.detection_report import evaluate_submission
from perception.evaluation.tracking_noise import measure_noise
from perception.formats.submission import SubmissionMeta, write_submission
from perception.tracking.kalman import NOISE
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

META = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)


def test_errors_are_those_that_were_made(tmp_path):
    root = write_synthetic_nuscenes(tmp_path / "set", cameras=False)
    build_index(root, VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    found = []
    for position in index.samples_of("mini_val"):
        record = index.record(int(position))
        one = annotations_as_detections(record.annotations)
        one.boxes_global[:] += (0.3, -0.4, 0.1, 0.2, 0.2, 0.2, math.pi + 0.05, 1.2, 0.5)  # facing backwards
        found.append((record.token, one))
    write_submission(tmp_path / "results.json", found, META)
    report = evaluate_submission(tmp_path / "results.json", index, "mini_val")
    measured = measure_noise(report, min_matches=4)
    expected = {
        "position_m": 0.5 / math.sqrt(2), "velocity_m_s": 1.3 / math.sqrt(2), "height_m": 0.1, "size_m": 0.2,
        "yaw_rad": 0.05,
    }  # fmt: skip
    assert dataclasses.asdict(measured["car"]) == pytest.approx(dataclasses.asdict(NOISE["car"]) | expected)
    assert measured["truck"] == NOISE["truck"]  # three hits
    assert set(measured) == set(NOISE)
    assert np.isfinite(list(dataclasses.asdict(measured["pedestrian"]).values())).all()
