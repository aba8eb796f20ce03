"""The command line of the simulator: what it refuses, in one sentence, and what it makes of its options."""

from pathlib import Path

import pytest

from tests.tools.conftest import load_tool


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert load_tool("simulate").main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("simulate: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--scenes", "2", "--preset", "snow"],
            "--preset must be of default, quick, sweeps, full, suite, street, junction, parking, rural, night, "
            "low_sun, rain, fog, mix, got 'snow'",
        ),
        (["--scenes", "2", "--preset", "quick,suite"], "--preset must have one of default, quick, sweeps, full, suite"),
        (["--manifest", "none.yaml", "--preset", "night"], "--preset night goes with --scenes"),
        (["--scenes", "0"], "num_scenes must be at least 1, got 0"),
        (["--scenes", "900"], "num_scenes must be at most 831, the official names there are, got 900"),
        (["--scenes", "2", "--image-size", "400"], "--image-size must be WxH, as 400x225, got '400'"),
        (["--scenes", "2", "--image-size", "9x9"], "image_size_px must be two sides in 32..4096, got (9, 9)"),
        (["--scenes", "2", "--seconds", "0"], "seconds must be in 1..60, got 0"),
        (["--scenes", "2", "--sweeps", "-1"], "sweeps must be in 0..10, got -1"),
        (["--scenes", "2", "--fisheye-size", "48"], "--fisheye-size must be WxH, as 400x225, got '48'"),
        (["--scenes", "2", "--radar-sweeps", "9"], "radar_sweeps must be in 0..6, got 9"),
        (["--scenes", "2", "--sensors", "camera,lidar,sonar"], "sensors must be of camera, lidar, radar, radar4d"),
        (["--scenes", "2", "--sensors", "radar"], "sensors must have camera and lidar, which annotations come from"),
        (["--scenes", "2", "--truths", "flow"], "truths must be of lidarseg, panoptic, occupancy, near_field, depth"),
        (["--scenes", "2", "--workers", "0"], "workers must be at least 1, got 0"),
        (["--manifest", "none.yaml"], "No such file or directory: 'none.yaml'"),
        (["--manifest", "none.yaml", "--seed", "1"], "--seed goes with --scenes"),
        (["--scenes", "2,1"], "--scenes must be a number, or three as 60,20,10 for train, val and test, got '2,1'"),
        (["--scenes", "ten"], "--scenes must be a number, or three"),
        (["--scenes", "1,1,200"], "num_scenes of test must be in 0..144, the official names there are, got 200"),
        ([], "one of --scenes and --manifest must be given"),
        (["--plan"], "one of --scenes and --manifest must be given"),
        (["--scenes", "2", "--check", "none.json"], "No such file or directory: 'none.json'"),
        (["--fingerprint", "out.json"], "must have a folder v1.0-mini, v1.0-trainval, v1.0-test, got none"),
    ],
)
def test_impossible_wishes_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in _error(["--out", str(tmp_path / "set"), "--quiet", *options], capsys)
    assert not (tmp_path / "set").exists()


def test_a_folder_with_other_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert "got one with other files" in _error(["--out", str(tmp_path), "--scenes", "2", "--quiet"], capsys)


def test_a_place_where_one_must_not_write_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "/proc/set" in _error(["--out", "/proc/set", "--scenes", "2", "--quiet"], capsys)


def test_a_set_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--out must be given" in _error(["--scenes", "2"], capsys)


def test_a_plan_is_a_manifest_that_makes_the_same_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate = load_tool("simulate").main
    assert simulate(["--scenes", "3,2,1", "--seed", "5", "--seconds", "10", "--plan"]) == 0
    planned = capsys.readouterr().out
    assert planned.count("\n- {name: scene-") == 6
    path = tmp_path / "manifest.yaml"
    path.write_text(planned)
    assert simulate(["--manifest", str(path), "--plan"]) == 0
    assert capsys.readouterr().out == planned


def test_sensors_and_truths_are_named_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    simulate = load_tool("simulate").main

    def planned(*options: str) -> str:
        assert simulate(["--scenes", "1", "--plan", *options]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("settings"))

    some = planned("--sensors", "lidar,camera,radar", "--radar-sweeps", "2", "--truths", "depth", "--can-bus")
    assert some.endswith("sensors: [camera, lidar, radar], radar_sweeps: 2, truths: [depth], can_bus: true}")
    every = planned("--sensors", "all", "--truths", "all", "--fisheye-size", "96x64")
    assert "sensors: [camera, lidar, radar, radar4d, ultrasonic, fisheye], fisheye_size_px: [64, 96]" in every
    assert every.endswith("truths: [lidarseg, panoptic, occupancy, near_field, depth, semantics]}")
    assert "truths" not in planned("--preset", "suite", "--truths", "none")


def test_a_manifest_of_another_generator_is_taken_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text("generator: 1\nscenes: [{split: val, seed: 1}]\n")
    assert "generator must be 2, this version, got 1" in _error(["--manifest", str(path), "--plan"], capsys)
    assert load_tool("simulate").main(["--manifest", str(path), "--plan", "--any-generator"]) == 0


@pytest.mark.slow
def test_a_manifest_written_by_a_run_makes_the_same_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate = load_tool("simulate").main
    first, again = tmp_path / "first", tmp_path / "again"
    options = ["--workers", "1", "--quiet"]
    size = ["--preset", "quick", "--seconds", "1", "--image-size", "64x36"]
    assert simulate(["--out", str(first), "--scenes", "1", "--seed", "4", *size, *options]) == 0
    assert capsys.readouterr().out == f"{first}: v1.0-mini, 1 scenes, 2 keyframes\n"
    figures = tmp_path / "figures.json"
    assert simulate(["--out", str(first), "--fingerprint", str(figures)]) == 0
    options += ["--check", str(figures)]
    assert simulate(["--out", str(again), "--manifest", str(first / "manifest.yaml"), *options]) == 0
    assert capsys.readouterr().out.endswith(f"{again}: all figures within the tolerances of {figures}\n")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in files)
    figures.write_text(figures.read_text().replace('"keyframes": 2', '"keyframes": 3'))
    said = _error(["--out", str(again), "--check", str(figures)], capsys)
    assert said == f"simulate: {again} differs from {figures}: mini_train/keyframes: expected 3 within 0, got 2\n"
