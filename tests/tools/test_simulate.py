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
        (["--scenes", "2", "--preset", "night"], "--preset must be one of default, quick, sweeps, full, got 'night'"),
        (["--scenes", "0"], "num_scenes must be at least 1, got 0"),
        (["--scenes", "900"], "num_scenes must be at most 831, the official names there are, got 900"),
        (["--scenes", "2", "--image-size", "400"], "--image-size must be WxH, as 400x225, got '400'"),
        (["--scenes", "2", "--image-size", "9x9"], "image_size_px must be two sides in 32..4096, got (9, 9)"),
        (["--scenes", "2", "--seconds", "0"], "seconds must be in 1..60, got 0"),
        (["--scenes", "2", "--sweeps", "-1"], "sweeps must be in 0..10, got -1"),
        (["--scenes", "2", "--workers", "0"], "workers must be at least 1, got 0"),
        (["--manifest", "none.yaml"], "No such file or directory: 'none.yaml'"),
        (["--manifest", "none.yaml", "--seed", "1"], "--seed goes with --scenes"),
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


@pytest.mark.slow
def test_a_manifest_written_by_a_run_makes_the_same_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate = load_tool("simulate").main
    first, again = tmp_path / "first", tmp_path / "again"
    options = ["--workers", "1", "--quiet"]
    size = ["--preset", "quick", "--seconds", "1", "--image-size", "64x36"]
    assert simulate(["--out", str(first), "--scenes", "1", "--seed", "4", *size, *options]) == 0
    assert capsys.readouterr().out == f"{first}: v1.0-mini, 1 scenes, 2 keyframes\n"
    assert simulate(["--out", str(again), "--manifest", str(first / "manifest.yaml"), *options]) == 0
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in files)
