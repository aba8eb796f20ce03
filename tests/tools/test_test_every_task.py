"""A model with several heads, from the set to the page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.tasks import score_tasks
from perception.formats.map_predictions import map_path, read_map_prediction
from perception.formats.occupancy import FREE, OCCUPANCY_SHAPE, Occupancy, occupancy_bytes
from perception.formats.occupancy_predictions import occupancy_prediction_path, read_occupancy_prediction
from perception.runtime.checkpoint import save_weights
from perception.runtime.config import build_detector
from tests.synthetic_nuscenes import VERSION, token, write_synthetic_nuscenes
from tests.tiny_config import tiny_config, write_config
from tests.tools.conftest import load_tool

HEADS = "perception.models.heads"


SEEN, BLIND, LAST = (token("sample", "scene-0103", step) for step in range(3))


@pytest.fixture
def root(tmp_path) -> Path:
    """Vehicles of the map are drawn from the boxes; the set has no occupancy. One sample is without points."""
    folder = write_synthetic_nuscenes(tmp_path / "set", {"scene-0061": 1, "scene-0103": 3}, cameras=False)
    rows = json.loads((folder / VERSION / "sample_data.json").read_text())
    (lost,) = (row["filename"] for row in rows if row["sample_token"] == BLIND and "LIDAR_TOP" in row["filename"])
    (folder / lost).unlink()
    return folder


def run(root: Path, tool: str = "test", *more: str, boxes: bool = True) -> int:
    """Runs a tool with an untrained model of boxes, map and occupancy; writes to `out` beside the set."""
    config = tiny_config(root, cameras=False)
    sizes = {"in_channels": 8, "channels": 8}
    network = {"class_path": f"{HEADS}.occupancy_networks.ChannelToHeight", "init_args": sizes}
    config["model"]["init_args"]["detector"]["init_args"]["heads"] |= {
        "map": {"class_path": f"{HEADS}.map.MapHead", "init_args": sizes | {"map_classes": ["vehicle"]}},
        "occupancy": {"class_path": f"{HEADS}.occupancy.OccupancyHead", "init_args": {"network": network}},
    }
    if not boxes:
        del config["model"]["init_args"]["detector"]["init_args"]["heads"]["boxes"]
    torch.manual_seed(0)
    weights = root.parent / "weights.safetensors"
    save_weights(build_detector(config), weights)
    path = write_config(root.parent / "config.yaml", config)
    options = ["--version", VERSION, "--on-error", "skip", "--out-dir", str(root.parent / "out"), *more]
    return load_tool(tool).main([str(path), str(weights), *options])


def test_every_head_is_written_and_scored_where_its_truth_is_there(root, capsys):
    out = root.parent / "out"
    assert run(root, "test", "--draws", "5") == 0
    said = capsys.readouterr().out
    assert re.search(r"map vehicle/vehicle +\d\.\d{4}$", said, re.MULTILINE)
    assert re.search(r"occupancy is not scored: .*labels\.npz", said)
    written = json.loads((out / "map.json").read_text())
    assert set(written["figures"]) == {"vehicle/vehicle"}
    assert written["tables"]["overlap by threshold, vehicle"]["vehicle"] == {
        "0.50": written["figures"]["vehicle/vehicle"]["value"]
    }
    assert not (out / "occupancy.json").exists()
    maps = [read_map_prediction(map_path(out / "map", "scene-0103", name)).probabilities for name in (SEEN, BLIND)]
    assert [bool(np.isnan(values).all()) for values in maps] == [False, True]
    volume = read_occupancy_prediction(occupancy_prediction_path(out / "occupancy", "scene-0103", BLIND))
    assert (volume == FREE).all()
    page = (out / "report.html").read_text()
    for title in ("Boxes", "Map", "Occupancy"):
        assert f"<h2>{title}" in page
    assert page.count("Not scored: ") == 1


def test_a_model_without_boxes_is_tested_and_run(root, capsys):
    out = root.parent / "out"
    assert run(root, boxes=False) == 0
    said = capsys.readouterr().out
    assert f"{out}: 3 samples, the model has no head of boxes" in said and "map vehicle/vehicle" in said
    assert not (out / "results.json").exists() and not (out / "metrics_summary.json").exists()
    page = (out / "report.html").read_text()
    assert "<h2>Map" in page and "<h2>Boxes" not in page and "1 scenes, 3 samples" in page
    assert run(root, "run_drive", "scene-0103", "--no-pictures", boxes=False) == 0
    assert not (out / "results.json").exists()
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [line["token"] for line in lines] == [SEEN, BLIND, LAST] and not any(line["detections"] for line in lines)


def write_occupancy(root: Path) -> dict[str, Path]:
    """Everything is free; the files by token."""
    everywhere = np.ones(OCCUPANCY_SHAPE, bool)
    content = occupancy_bytes(Occupancy(np.full(OCCUPANCY_SHAPE, FREE, np.uint8), everywhere, everywhere))
    files = {name: root / "gts" / "scene-0103" / name / "labels.npz" for name in (SEEN, BLIND, LAST)}
    for path in files.values():
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return files


def test_a_damaged_truth_costs_its_own_task_alone(root, capsys):
    path, out = write_occupancy(root)[LAST], root.parent / "out"
    path.write_bytes(path.read_bytes()[:100])
    assert run(root) == 1
    assert f"test: occupancy is not scored: read_occupancy: {path}: " in capsys.readouterr().err
    for name in ("metrics_summary.json", "hits.json", "map.json"):
        assert (out / name).exists()
    page = (out / "report.html").read_text()
    assert "<h2>Boxes" in page and page.count("Not scored: ") == 1 and not (out / "occupancy.json").exists()


def test_missing_truth_below_the_folder_of_predictions_is_no_missing_prediction(root, tmp_path):
    found = root.parent
    for name in (SEEN, BLIND, LAST):
        path = occupancy_prediction_path(found, "scene-0103", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, semantics=np.full(OCCUPANCY_SHAPE, FREE, np.uint8))
    build_index(root, VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    scores = score_tasks({"occupancy": found}, root, index, "mini_val", draws=0)["occupancy"]
    assert not scores.damaged and "no prediction" not in scores.problem and str(root / "gts") in scores.problem
    path.unlink()
    write_occupancy(root)
    scores = score_tasks({"occupancy": found}, root, index, "mini_val", draws=0)["occupancy"]
    assert scores.damaged and scores.problem == f"there is no prediction {path}"


@pytest.mark.parametrize("damage", ["missing", "truncated", "folder", "file above", "prediction"])
def test_damage_is_told_from_what_is_missing(root, tmp_path, damage):
    files, found = write_occupancy(root), tmp_path / "found"
    for name in files:
        path = occupancy_prediction_path(found, "scene-0103", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, semantics=np.full(OCCUPANCY_SHAPE, FREE, np.uint8))
    build_index(root, VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    if damage == "missing":
        files[SEEN].unlink()
    elif damage == "truncated":
        files[SEEN].write_bytes(b"PK")
    elif damage == "folder":
        files[SEEN].unlink()
        files[SEEN].mkdir()
    elif damage == "file above":
        (root / "gts").rename(root / "others")
        (root / "gts").write_text("a file")
    else:
        occupancy_prediction_path(found, "scene-0103", SEEN).write_bytes(b"")
    scores = score_tasks({"occupancy": found}, root, index, "mini_val", draws=0)["occupancy"]
    assert scores.damaged == (damage != "missing") and SEEN in scores.problem
    with pytest.raises(ValueError, match="split must be one of"):
        score_tasks({}, root, index, "nowhere")
