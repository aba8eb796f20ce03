import json
import shutil

import pytest
import torch

from perception.formats.submission_reader import validate_submission
from perception.runtime.checkpoint import load_weights, save_weights
from perception.runtime.config import build_detector, load_config
from tests.synthetic_nuscenes import token, write_synthetic_nuscenes
from tests.tools.conftest import load_tool

VAL_TOKENS = [token("sample", "scene-0103", step) for step in range(3)]


def arguments(trained, dataroot, out_dir, *more: str) -> list[str]:
    """Of the tool."""
    weights = str(trained / "weights.safetensors")
    return [str(trained / "config.yaml"), weights, "--dataroot", str(dataroot), "--out-dir", str(out_dir), *more]


@pytest.mark.parametrize("more", [(), ("--sensors", "lidar"), ("--sensors", "camera", "--batch-size", "2")])
def test_a_split_is_predicted_and_scored(trained, dataroot, tmp_path, capsys, more):
    assert load_tool("test").main(arguments(trained, dataroot, tmp_path, *more)) == 0
    submission = validate_submission(tmp_path / "results.json", VAL_TOKENS)
    assert submission.meta["use_camera"] == ("lidar" not in more)
    assert submission.meta["use_lidar"] == ("camera" not in more)
    summary = json.loads((tmp_path / "metrics_summary.json").read_text())
    assert set(summary) >= {"nd_score", "mean_ap", "tp_errors"}
    counts = json.loads((tmp_path / "hits.json").read_text())
    # Five of the six objects of a detection class have five points or more and are in range, in each sample.
    assert counts["num_truth"] == 18
    assert f"NDS {summary['nd_score']:.4f}" in capsys.readouterr().out
    assert f"{summary['nd_score']:.3f}" in (tmp_path / "report.html").read_text()


def test_a_model_that_finds_nothing_is_scored_nevertheless(trained, dataroot, tmp_path, capsys):
    detector = build_detector(load_config(trained / "config.yaml"))
    load_weights(detector, trained / "weights.safetensors")
    for heatmap in detector.heads["boxes"].heatmaps:
        torch.nn.init.constant_(heatmap[-1].bias, -100.0)
    save_weights(detector, tmp_path / "weights.safetensors", {})
    files = [str(trained / "config.yaml"), str(tmp_path / "weights.safetensors")]
    assert load_tool("test").main([*files, "--dataroot", str(dataroot), "--out-dir", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "metrics_summary.json").read_text())
    assert summary["mean_ap"] == 0 and set(summary["tp_errors"].values()) == {1.0}
    assert "it holds no prediction at all, which the devkit cannot evaluate" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").exists()


def test_a_set_without_annotations_of_a_detection_class_is_scored_nevertheless(trained, tmp_path, capsys):
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0103": 1}, cameras=False)
    path = root / "v1.0-mini" / "category.json"
    rows = [row | {"name": "static_object.bicycle_rack"} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    assert load_tool("test").main(arguments(trained, root, tmp_path / "out", "--sensors", "lidar")) == 0
    assert "the split has no annotation of a detection class to compare with" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "metrics_summary.json").read_text())["mean_ap"] == 0
    assert (tmp_path / "out" / "report.html").exists() and not (tmp_path / "out" / "plots").exists()


def test_a_set_without_annotations_is_predicted_and_says_so(trained, tmp_path, capsys):
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0103": 1}, annotations=False)
    assert load_tool("test").main(arguments(trained, root, tmp_path / "out", "--sensors", "lidar")) == 0
    assert validate_submission(tmp_path / "out" / "results.json", VAL_TOKENS[:1]).scores.size > 0
    assert not (tmp_path / "out" / "metrics_summary.json").exists()
    assert "the set has no annotations, boxes are not scored" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not scored, the set has no annotations" in page and "1 samples" in page and "<h2>Boxes" not in page


def test_a_sample_without_any_sensor_has_no_boxes_and_counts(trained, tmp_path, capsys):
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0061": 1, "scene-0103": 3})
    rows = json.loads((root / "v1.0-mini" / "sample_data.json").read_text())
    (lost,) = (
        row["filename"] for row in rows if row["sample_token"] == VAL_TOKENS[1] and "LIDAR_TOP" in row["filename"]
    )
    (root / lost).unlink()
    more = ("--sensors", "lidar", "--on-error", "skip", "--batch-size", "2")
    assert load_tool("test").main(arguments(trained, root, tmp_path / "out", *more)) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [bool(results[name]) for name in VAL_TOKENS] == [True, False, True]
    assert json.loads((tmp_path / "out" / "hits.json").read_text())["num_truth"] == 18
    assert "1 samples have none of the sensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sensors", "radar"), "sensors must be of those in the config, camera, lidar, got radar"),
        (("--split", "val"), "NuScenes version v1.0-mini"),
        (("--split", "test"), "samples_of: split must have samples in"),
        (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--draws", "-1"), "--draws must be at least 0, got -1"),
        (("--version", "v1.0-trainval"), "there is no such version folder"),
    ],
)
def test_wrong_arguments_are_one_sentence(trained, dataroot, tmp_path, capsys, more, message):
    assert load_tool("test").main(arguments(trained, dataroot, tmp_path, *more)) == 1
    said = capsys.readouterr().err
    assert message in said


def test_set_and_version_are_those_of_the_config_unless_named(trained, tmp_path, capsys):
    files = [str(trained / "config.yaml"), str(trained / "weights.safetensors")]
    assert load_tool("test").main([*files, "--out-dir", str(tmp_path / "out")]) == 0
    assert "boxes in 3 samples" in capsys.readouterr().out
    nameless = tmp_path / "nameless.yaml"
    lines = (trained / "config.yaml").read_text().splitlines()
    nameless.write_text("\n".join(line for line in lines if not line.strip().startswith("dataroot:")))
    assert load_tool("test").main([str(nameless), files[1], "--out-dir", str(tmp_path / "other")]) == 1
    assert "--dataroot must be given where the config does not name it, got None" in capsys.readouterr().err


def test_damaged_weights_are_refused(trained, dataroot, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    data = bytearray((run / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "weights.safetensors").write_bytes(data)
    assert load_tool("test").main(arguments(run, dataroot, tmp_path / "out")) == 1
    assert "must have the sha256 in" in capsys.readouterr().err
