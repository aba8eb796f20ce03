"""The occupancy heads that come as config parts: built into a detector, run at their full size."""

from pathlib import Path

import pytest
import torch
import yaml

from perception.formats.occupancy import OCCUPANCY_GRID
from perception.geometry.grid import Grid
from perception.models.heads.occupancy import OccupancyHead
from perception.runtime.config import build_detector
from perception.structures import BevMap, FusedFeatures

MODELS = Path(__file__).resolve().parents[2] / "configs" / "models"


@pytest.mark.parametrize("part", ["head_occupancy", "head_occupancy_voxels"])
def test_a_part_is_built_into_a_small_detector_and_fills_the_voxels(part: str, tmp_path: Path) -> None:
    config = yaml.safe_load((MODELS / "lidar_voxels_small.yaml").read_text())
    arguments = config["init_args"]
    for name in ("class_names", "neck"):
        arguments[name] = str(MODELS / arguments[name])
    arguments["branches"] = {"lidar": str(MODELS / arguments["branches"]["lidar"])}
    arguments["heads"] = {"occupancy": str(MODELS / "parts" / f"{part}.yaml")}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    head = build_detector(tmp_path / "model.yaml").eval().heads["occupancy"]
    assert isinstance(head, OccupancyHead) and head.mask == "lidar"
    counts = head.loss.class_counts
    assert counts is not None and len(counts) == 18 and max(counts) == counts[17]
    assert sum(parameter.numel() for parameter in head.parameters()) < 0.2e6
    level = Grid.square(51.2, 0.8)
    features = BevMap(
        features=torch.randn(1, 144, 128, 128), validity=torch.ones(1, 1, 128, 128, dtype=torch.bool), grid=level
    )
    with torch.no_grad():
        output = head(FusedFeatures(bev={"main": features}))
    assert output.logits.shape == (1, 18, *OCCUPANCY_GRID.shape) and output.logits.isfinite().all()
