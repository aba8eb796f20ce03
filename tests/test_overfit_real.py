"""The whole way on recorded data: train on a few keyframes alone, run the drive, find what was annotated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perception.data.index import Index
from perception.evaluation.detection import score_submission
from perception.evaluation.matching import MatchCounts

ROOT = Path(__file__).resolve().parents[1]


def run_tool(name: str, *arguments: object) -> None:
    """Runs a tool as a user does."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "scene", "num_samples"), [("keyframe", "scene-0061", 1), ("lidar_scene", "scene-0103", 5)]
)
def test_a_model_learns_recorded_keyframes_by_heart(real_data, tmp_path, config, scene, num_samples):
    dataroot, run, drive = real_data / "nuscenes", tmp_path / "run", tmp_path / "drive"
    run_tool(
        "train",
        "--config",
        ROOT / "configs" / "overfit" / f"{config}.yaml",
        "--data.dataroot",
        dataroot,
        "--out-dir",
        run,
    )
    run_tool(
        "run_drive", run / "config.yaml", run / "weights.safetensors", scene, "--dataroot", dataroot, "--out-dir", drive
    )
    counts = score_submission(drive / "results.json", Index.open(drive / "index-v1.0-mini"))
    total = sum(counts.values(), MatchCounts())
    assert len(counts) == num_samples
    assert total.recall >= 0.8
    assert total.precision >= 0.7
    assert len(list((drive / "pictures").iterdir())) == num_samples
    assert json.loads((drive / "drive.json").read_text())["skipped"] == {}
