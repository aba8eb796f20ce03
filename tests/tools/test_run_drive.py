import json

import pytest
from PIL import Image

from perception.formats.submission_reader import validate_submission
from tests.synthetic_nuscenes import token, write_synthetic_nuscenes
from tests.tools.conftest import load_tool

TOKENS = [token("sample", "scene-0103", step) for step in range(3)]


def arguments(trained, dataroot, out_dir, *more: str) -> list[str]:
    """Of the tool."""
    files = [str(trained / "config.yaml"), str(trained / "weights.safetensors"), "scene-0103"]
    return [*files, "--dataroot", str(dataroot), "--out-dir", str(out_dir), *more]


def test_a_drive_becomes_lines_a_submission_and_pictures(trained, dataroot, tmp_path):
    assert load_tool("run_drive").main(arguments(trained, dataroot, tmp_path)) == 0
    lines = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [line["token"] for line in lines] == TOKENS
    submission = validate_submission(tmp_path / "results.json", TOKENS)
    report = json.loads((tmp_path / "drive.json").read_text())
    assert report["num_samples"] == 3
    assert report["num_boxes"] == len(submission.scores)
    assert report["predict_ms_p50"] > 0
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 3
    assert Image.open(pictures[0]).width > 1000


def test_a_drive_without_annotations_and_with_a_missing_file_goes_on(trained, tmp_path, capsys):
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0103": 2}, cameras=False, annotations=False)
    first = sorted((root / "samples" / "LIDAR_TOP").iterdir())[0]
    first.unlink()
    out = tmp_path / "out"
    assert load_tool("run_drive").main(arguments(trained, root, out, "--sensors", "lidar", "--no-pictures")) == 0
    report = json.loads((out / "drive.json").read_text())
    assert report["blind_samples"] == TOKENS[:1]
    assert report["skipped"] == {"missing_file": 1}
    assert not (out / "pictures").exists()
    assert "skipped 1 times: missing_file" in capsys.readouterr().out
    strict = arguments(trained, root, out, "--sensors", "lidar", "--on-error", "raise")
    assert load_tool("run_drive").main(strict) == 1
    assert first.name in capsys.readouterr().err


def test_a_drive_without_any_of_the_sensors_is_an_error(trained, tmp_path, capsys):
    root = write_synthetic_nuscenes(tmp_path / "set", annotations=False)
    for file in (root / "samples" / "LIDAR_TOP").iterdir():
        file.unlink()
    out = tmp_path / "out"
    assert load_tool("run_drive").main(arguments(trained, root, out, "--sensors", "lidar", "--no-pictures")) == 1
    assert "samples must have data of a sensor that is read, got none in all 3" in capsys.readouterr().err
    assert not (out / "results.json").exists() and not (out / "drive.json").exists()
    assert load_tool("run_drive").main(arguments(trained, root, out, "--sensors", "")) == 1
    assert "sensors must be of those in the config" in capsys.readouterr().err


def test_results_never_take_the_place_of_the_sets_own_files(trained, dataroot, tmp_path, capsys):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "near_field").symlink_to(dataroot / "near_field")
    for inside in (dataroot / "samples" / "..", dataroot / "v1.0-mini", tmp_path / "linked"):
        assert load_tool("run_drive").main(arguments(trained, dataroot, inside)) == 1
        assert f"--out-dir must not be where the set's own files lie, {inside}" in capsys.readouterr().err
        assert not (inside / "detections.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: "scene-0001"}, "scene must be one of the 2 in"),
        ({0: "none.yaml"}, "none.yaml must be a readable YAML file"),
        ({1: "none.safetensors"}, "none.safetensors.sha256 must be readable"),
    ],
)
def test_wrong_arguments_are_one_sentence(trained, dataroot, tmp_path, capsys, change, message):
    given = arguments(trained, dataroot, tmp_path)
    for position, value in change.items():
        given[position] = value
    assert load_tool("run_drive").main(given) == 1
    assert message in capsys.readouterr().err
