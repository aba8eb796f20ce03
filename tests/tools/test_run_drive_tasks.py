"""A model of every task over a drive, and its pictures drawn again from what was kept."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from perception.formats.near_field import near_field_bytes
from perception.formats.near_field_predictions import near_field_path, read_near_field_prediction
from perception.runtime.checkpoint import save_weights
from perception.runtime.config import build_detector
from perception.visualization.colors import SURFACE
from tests.synthetic_nuscenes import VERSION, token, write_synthetic_nuscenes
from tests.tiny_config import tiny_config, write_config
from tests.tools.conftest import load_tool

HEADS = "perception.models.heads"
SCENE = "scene-0103"
TOKENS = [token("sample", SCENE, step) for step in range(3)]
TASKS = ("map", "occupancy", "near_field")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outcome of the tool in `out`: a drive with a truth of the near field, and one sample without points."""
    folder = tmp_path_factory.mktemp("every_task")
    root = write_synthetic_nuscenes(folder / "set", {SCENE: 3}, cameras=False)
    rows = json.loads((root / VERSION / "sample_data.json").read_text())
    (lost,) = (row["filename"] for row in rows if row["sample_token"] == TOKENS[0] and "LIDAR_TOP" in row["filename"])
    (root / lost).unlink()
    for name in TOKENS:
        path = near_field_path(root / "near_field", SCENE, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(near_field_bytes(np.zeros((160, 160), np.uint8)))
    config = tiny_config(root, cameras=False)
    sizes = {"in_channels": 8, "channels": 8}
    network = {"class_path": f"{HEADS}.occupancy_networks.ChannelToHeight", "init_args": sizes}
    detector = config["model"]["init_args"]["detector"]["init_args"]
    near = {"x_range_m": [-8, 8], "y_range_m": [-8, 8], "z_range_m": [-5, 3], "cell_m": [0.1, 0.1, 8]}
    detector["grids"] = {"main": near}
    detector["heads"] |= {
        "map": {"class_path": f"{HEADS}.map.MapHead", "init_args": sizes | {"map_classes": ["vehicle"]}},
        "occupancy": {"class_path": f"{HEADS}.occupancy.OccupancyHead", "init_args": {"network": network}},
        "near_field": {
            "class_path": f"{HEADS}.near_field.NearFieldHead",
            "init_args": sizes | {"coarse_channels": 8, "level": "main"},
        },
    }
    torch.manual_seed(0)
    save_weights(build_detector(config), folder / "weights.safetensors")
    files = [str(write_config(folder / "config.yaml", config)), str(folder / "weights.safetensors"), SCENE]
    options = ["--version", VERSION, "--out-dir", str(folder / "out"), "--min-score", "2"]
    assert load_tool("run_drive").main([*files, *options]) == 0
    return folder


def draw(folder: Path, out_dir: Path, *more: str) -> int:
    """Runs tools/visualize.py over the set."""
    options = ["--dataroot", str(folder / "set"), "--version", VERSION, "--on-error", "skip", "--quiet"]
    index = ["--index", str(folder / "out" / f"index-{VERSION}")]
    return load_tool("visualize").main([*options, *index, "--out-dir", str(out_dir), *more])


def kept(folder: Path) -> list[str]:
    """The options that name what the drive left."""
    return [word for task in TASKS for word in (f"--{task.replace('_', '-')}", str(folder / "out" / task))]


def shapes(folder: Path) -> set[tuple[int, int]]:
    return {Image.open(path).size for path in folder.iterdir()}


def test_a_drive_keeps_and_draws_every_task(drive: Path) -> None:
    out = drive / "out"
    report = json.loads((out / "drive.json").read_text())
    assert report["blind_samples"] == TOKENS[:1] and report["num_samples"] == 2
    assert report["skipped"] == {"missing_file": 1}
    for task in TASKS:
        assert sorted(path.stem for path in (out / task / SCENE).iterdir()) == sorted(TOKENS)
    said = [read_near_field_prediction(near_field_path(out / "near_field", SCENE, name)) for name in TOKENS]
    assert np.isnan(said[0]).all() and not np.isnan(said[1]).any()
    assert len(list((out / "pictures").iterdir())) == 3
    ((width, height),) = shapes(out / "pictures")  # the view and, beside it, five tiles: occupancy has no truth
    assert 1400 + 800 < width < 2600 and height > 1400


def test_what_was_kept_is_drawn_again_beside_the_truth(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert draw(drive, tmp_path, *kept(drive), "--video") == 0
    assert shapes(tmp_path / SCENE) == shapes(drive / "out" / "pictures")
    with av.open(str(tmp_path / f"{SCENE}.mp4")) as container:
        assert len(list(container.decode(video=0))) == 3
    assert "not in it" not in capsys.readouterr().err


def test_a_sample_without_a_prediction_has_an_empty_tile(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "near_field"
    path = near_field_path(folder, SCENE, TOKENS[1])
    path.parent.mkdir(parents=True)
    path.write_bytes(near_field_path(drive / "out" / "near_field", SCENE, TOKENS[1]).read_bytes())
    assert draw(drive, tmp_path / "out", "--near-field", str(folder)) == 0
    assert f"{folder}: 2 of 3 samples are not in it" in capsys.readouterr().err
    pictures = {path.stem.split("_")[1]: np.asarray(Image.open(path)) for path in (tmp_path / "out" / SCENE).iterdir()}
    assert len({picture.shape for picture in pictures.values()}) == 1
    upper = {name: picture[40:640, 1420:1980] for name, picture in pictures.items()}  # the truth lies below it
    empty = {name: (tile == SURFACE).all(-1).mean() > 0.5 for name, tile in upper.items()}
    assert [empty[name] for name in TOKENS] == [True, False, True]
    path.write_bytes(path.read_bytes()[:100])
    assert draw(drive, tmp_path / "out", "--near-field", str(folder)) == 1
    assert f"near_field/{SCENE}/{TOKENS[1]}.npz" in capsys.readouterr().err


def test_truths_are_drawn_alone_where_they_are_asked_for(drive: Path, tmp_path: Path) -> None:
    assert draw(drive, tmp_path / "bare", "--sample", TOKENS[1]) == 0
    ((width, _),) = shapes(tmp_path / "bare" / SCENE)
    assert width == 1400
    assert draw(drive, tmp_path / "known", "--sample", TOKENS[1], "--truths") == 0
    ((width, _),) = shapes(tmp_path / "known" / SCENE)
    assert width > 2000


@pytest.mark.parametrize("task", TASKS)
def test_folders_of_something_else_are_one_sentence(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture, task: str
) -> None:
    option = f"--{task.replace('_', '-')}"
    assert draw(drive, tmp_path, option, str(tmp_path / "nowhere")) == 1
    assert f"{task} must be a folder, got {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert draw(drive, tmp_path, option, str(tmp_path)) == 1
    assert f"{tmp_path}: must hold samples that are drawn, got none of the 3" in capsys.readouterr().err
