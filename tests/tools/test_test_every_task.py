"""A model with several heads, from the set to the page."""

import json
import re

import numpy as np
import torch

from perception.formats.map_predictions import map_path, read_map_prediction
from perception.formats.occupancy import FREE
from perception.formats.occupancy_predictions import occupancy_prediction_path, read_occupancy_prediction
from perception.runtime.checkpoint import save_weights
from perception.runtime.config import build_detector
from tests.synthetic_nuscenes import token, write_synthetic_nuscenes
from tests.tiny_config import tiny_config, write_config
from tests.tools.conftest import load_tool

HEADS = "perception.models.heads"


def test_every_head_is_written_and_scored_where_its_truth_is_there(tmp_path, capsys):
    """Vehicles of the map are drawn from the boxes; the set has no occupancy. One sample is without points."""
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0061": 1, "scene-0103": 3})
    seen, blind, _ = (token("sample", "scene-0103", step) for step in range(3))
    rows = json.loads((root / "v1.0-mini" / "sample_data.json").read_text())
    (lost,) = (row["filename"] for row in rows if row["sample_token"] == blind and "LIDAR_TOP" in row["filename"])
    (root / lost).unlink()
    config = tiny_config(root, cameras=False)
    sizes = {"in_channels": 8, "channels": 8}
    network = {"class_path": f"{HEADS}.occupancy_networks.ChannelToHeight", "init_args": sizes}
    config["model"]["init_args"]["detector"]["init_args"]["heads"] |= {
        "map": {"class_path": f"{HEADS}.map.MapHead", "init_args": sizes | {"map_classes": ["vehicle"]}},
        "occupancy": {"class_path": f"{HEADS}.occupancy.OccupancyHead", "init_args": {"network": network}},
    }
    torch.manual_seed(0)
    save_weights(build_detector(config), tmp_path / "weights.safetensors")
    path, out = write_config(tmp_path / "config.yaml", config), tmp_path / "out"
    options = ["--version", "v1.0-mini", "--on-error", "skip", "--draws", "5", "--out-dir", str(out)]
    assert load_tool("test").main([str(path), str(tmp_path / "weights.safetensors"), *options]) == 0
    said = capsys.readouterr().out
    assert re.search(r"map vehicle/vehicle +\d\.\d{4} \[", said)
    assert re.search(r"occupancy is not scored: .*labels\.npz", said)
    assert set(json.loads((out / "map.json").read_text())) == {"vehicle/vehicle"}
    assert not (out / "occupancy.json").exists()
    maps = [read_map_prediction(map_path(out / "map", "scene-0103", name)).probabilities for name in (seen, blind)]
    assert [bool(np.isnan(values).all()) for values in maps] == [False, True]
    volume = read_occupancy_prediction(occupancy_prediction_path(out / "occupancy", "scene-0103", blind))
    assert (volume == FREE).all()
    page = (out / "report.html").read_text()
    for title in ("Boxes", "Map", "Occupancy"):
        assert f"<h2>{title}" in page
    assert page.count("Not scored: ") == 1
