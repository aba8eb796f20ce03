"""Every sensor of a simulated set through training, testing and scoring, by the tools as users run them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run_tool(name: str, *arguments: str) -> str:
    """What a tool prints."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def trained(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps with sensors that fail."""
    folder = tmp_path_factory.mktemp("every_sensor")
    settings = {
        "--data.dataroot": str(simulated),
        "--data.version": "v1.0-mini",
        "--data.train": "mini_train",
        "--data.loader.num_workers": "0",
        "--trainer.max_steps": "4",
    }
    overrides = [f"{name}={value}" for name, value in settings.items()]
    config = str(ROOT / "configs" / "sim_v2" / "every_sensor.yaml")
    run_tool("train", "--config", config, "--out-dir", str(folder / "run"), *overrides)
    return folder / "run"


@pytest.mark.parametrize("sensors", ["all", "ultrasonic", "fisheye,radar", "lidar"])
def test_any_subset_is_predicted_and_scored(simulated: Path, trained: Path, tmp_path: Path, sensors: str) -> None:
    chosen = [] if sensors == "all" else ["--sensors", sensors]
    files = [str(trained / "config.yaml"), str(trained / "weights.safetensors")]
    said = run_tool("test", *files, "--dataroot", str(simulated), "--out-dir", str(tmp_path / "out"), *chosen)
    metrics = json.loads((tmp_path / "out" / "metrics_summary.json").read_text())
    assert np.isfinite(metrics["nd_score"])
    near = json.loads((tmp_path / "out" / "near_field.json").read_text())["figures"]
    assert set(near) >= {"iou", "precision", "recall", "distance_error_m"}
    assert 0 <= near["iou"]["low"] <= near["iou"]["value"] <= near["iou"]["high"] <= 1
    assert re.search(rf"near field iou +{near['iou']['value']:.4f}  \(", said)
