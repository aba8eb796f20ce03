"""`make demo` in small, and what it refuses before it begins."""

import csv
import json
from pathlib import Path

import av
import pytest
import yaml
from PIL import Image

from perception.runtime.checkpoint import checksum_path, save_weights
from perception.runtime.config import build_detector
from perception.simulation.manifest import LOCATIONS
from perception.simulation.manifest_file import read_manifest
from tests.tiny_config import tiny_config, write_config
from tests.tools.conftest import load_tool

CONFIGS = Path(__file__).parents[1] / "configs"
DEMO = load_tool("demo")
KEYFRAMES = 4


def small_demo(folder: Path) -> list[str]:
    """Two drives of 2 s, an untrained model, a training without end; the arguments of a demo with them."""
    drives = {
        "settings": {"seconds": KEYFRAMES / 2, "image_size_px": [36, 64]},
        "scenes": [{"split": split, "seed": seed} for split, seed in (("train", 1), ("val", 2))],
    }
    config = tiny_config(folder)
    config["model"]["init_args"].pop("schedule")
    config["data"]["init_args"] |= {"val": None, "loader": {"batch_size": 2, "repeats": 1000}}
    config["trainer"].pop("max_epochs")
    files = {
        "--drives": write_config(folder / "drives.yaml", drives),
        "--config": write_config(folder / "model.yaml", tiny_config(folder)),
        "--train-config": write_config(folder / "training.yaml", config),
        "--weights": folder / "weights.safetensors",
        "--out-dir": folder / "demo",
    }
    save_weights(build_detector(config), files["--weights"])
    return [str(word) for pair in files.items() for word in pair]


@pytest.mark.slow
def test_a_small_demo_leaves_all_that_it_names_and_a_second_one_takes_its_drives(tmp_path, capsys):
    arguments = [*small_demo(tmp_path), "--workers", "1"]
    out = tmp_path / "demo"
    status = DEMO.main([*arguments, "--train-seconds", "10"])
    said = capsys.readouterr()
    assert status == 0, said.err
    for place in (out, out / "training" / "own_drive", out / "training" / "other_drives"):
        summary = json.loads((place / "metrics_summary.json").read_text())
        assert 0 <= summary["mean_ap"] <= 1
        assert 0 <= summary["nd_score"] <= 1
        assert f"{summary['mean_ap']:>7.3f}{summary['nd_score']:>8.3f}" in said.out
    first, last = DEMO.first_and_last(DEMO.read_losses(out / "training" / "metrics.csv"))
    assert last < first
    assert f"{first:.2f} -> {last:.2f}" in said.out
    assert checksum_path(out / "training" / "weights.safetensors").is_file()
    pictures = sorted((out / "drive" / "scene-0103").glob("*.png"))
    with av.open(str(out / "drive" / "scene-0103.mp4")) as video:
        sizes = [(frame.width, frame.height) for frame in video.decode(video=0)]
    assert sizes == [Image.open(path).size for path in pictures]
    assert len(sizes) == KEYFRAMES
    listed = [Path(line.split()[-1]) for line in said.out.splitlines() if line.split()[-1:] and str(out) in line]
    assert len(listed) == 7
    assert all(path.exists() for path in listed)

    (tmp_path / "weights.safetensors").write_bytes(b"damaged")
    assert DEMO.main(arguments) == 1
    said = capsys.readouterr()
    assert "takes the 2 drives of 2 s that are there" in said.out
    assert "tools/test.py" in said.err
    assert "must have the sha256 in" in said.err
    assert not (out / "metrics_summary.json").exists()


@pytest.mark.parametrize(
    ("sensors", "left"),
    [
        (
            ["camera", "fisheye", "lidar", "radar"],
            {"without_cameras": ["lidar", "radar"], "without_lidar": ["camera", "fisheye", "radar"]},
        ),
        (["camera", "lidar"], {"without_cameras": ["lidar"], "without_lidar": ["camera"]}),
        (["lidar"], {}),
        (["radar", "ultrasonic"], {}),
    ],
)
def test_what_can_fail_is_measured_without(sensors, left):
    assert DEMO.sensors_left(sensors) == left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--weights", "none.safetensors"], "--weights must be a file, got none.safetensors"),
        (["--config", "none.yaml"], "--config must be a file, got none.yaml"),
        (["--train-config", "none.yaml"], "--train-config must be a file, got none.yaml"),
        (["--drives", "none.yaml"], "--drives must be a file, got none.yaml"),
        (["--train-seconds", "0"], "--train-seconds must be at least 1 and less than a day, got 0"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_one_sentence(change, message, tmp_path, capsys):
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    out = tmp_path / "out"
    assert DEMO.main(["--weights", str(weights), "--out-dir", str(out), *change]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_files_that_would_be_removed_are_refused(tmp_path, capsys):
    weights = tmp_path / "training" / "weights.safetensors"
    weights.parent.mkdir()
    weights.touch()
    (tmp_path / DEMO.LOG_NAME).touch()
    assert DEMO.main(["--weights", str(weights), "--out-dir", str(tmp_path)]) == 1
    assert "--weights must lie outside of --out-dir, which is emptied" in capsys.readouterr().err
    assert weights.exists()


def test_drives_that_nothing_can_be_measured_on_are_refused(tmp_path, capsys):
    (tmp_path / "weights.safetensors").touch()
    drives = write_config(tmp_path / "drives.yaml", {"scenes": [{"split": "train", "seed": 1}]})
    arguments = ["--weights", str(tmp_path / "weights.safetensors"), "--out-dir", str(tmp_path / "out")]
    assert DEMO.main([*arguments, "--drives", str(drives)]) == 1
    assert "must have drives of train and val, and none of test" in capsys.readouterr().err


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "weights.safetensors").touch()
    letter = tmp_path / "home" / "letter.txt"
    letter.parent.mkdir()
    letter.write_text("mine")
    arguments = ["--weights", str(tmp_path / "weights.safetensors"), "--out-dir", str(letter.parent)]
    assert DEMO.main(arguments) == 1
    assert "must be a new folder or that of an earlier demo" in capsys.readouterr().err
    assert letter.read_text() == "mine"


def test_losses_are_read_and_averaged_over_the_first_and_the_last_steps(tmp_path):
    path = tmp_path / "metrics.csv"
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, ["step", "train/loss"])
        rows.writeheader()
        rows.writerow({"step": 0})  # other figures have rows of their own
        rows.writerows({"step": step, "train/loss": 30 - step} for step in range(30))
    losses = DEMO.read_losses(path)
    assert losses == [30 - step for step in range(30)]
    assert DEMO.first_and_last(losses) == (25.5, 5.5)  # means of 30..21 and of 10..1
    assert DEMO.first_and_last([5.0, 4.0, 1.0]) == (5.0, 1.0)
    DEMO.write_loss_curve(losses, tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size == (960, 540)


def test_too_few_losses_are_told(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n0,3.5\n")
    with pytest.raises(ValueError, match=r"metrics.csv: must have the losses of two steps or more, got 1"):
        DEMO.read_losses(path)


def test_the_drives_of_the_demo_are_in_no_split_of_the_benchmark():
    demo = read_manifest(CONFIGS / "demo" / "drives.yaml")
    benchmark = read_manifest(CONFIGS / "simulation" / "sim-v1.yaml")
    for what in ("seed", "town"):
        assert {getattr(it, what) for it in demo.scenes}.isdisjoint(getattr(it, what) for it in benchmark.scenes)
    assert all(it.location in LOCATIONS[it.split] for it in demo.scenes)
    assert {it.split for it in demo.scenes} == {"train", "val"}
    assert demo.settings.image_size_px == benchmark.settings.image_size_px
    shown = yaml.safe_load((CONFIGS / "demo" / "training.yaml").read_text())["data"]["init_args"]
    assert shown["lidar"]["num_sweeps"] <= demo.settings.sweeps
