import json
import runpy
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.detection import annotations_as_detections
from perception.formats.nuscenes_tables import Tables, write_tables
from perception.formats.submission import SubmissionMeta, write_submission
from perception.visualization.colors import SURFACE
from tests.data.suite import FISHEYES, write_suite
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

SMALL = ("--camera-width-px", "160", "--quiet")


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_nuscenes(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def index(dataroot: Path) -> Index:
    build_index(dataroot, VERSION, dataroot / "index")
    return Index.open(dataroot / "index")


@pytest.fixture(scope="module")
def results(dataroot: Path, index: Index) -> Path:
    path = dataroot / "results.json"
    records = (index.record(i) for i in range(len(index)))
    found = ((r.token, annotations_as_detections(r.annotations)) for r in records if r.annotations is not None)
    write_submission(path, found, SubmissionMeta(False, True, False))
    return path


@pytest.fixture
def run(dataroot: Path, tmp_path: Path) -> Callable[..., int]:
    main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "visualize.py"))["main"]
    fixed = ("--dataroot", str(dataroot), "--version", VERSION, "--out-dir", str(tmp_path / "out"), *SMALL)
    return lambda *arguments: main([*fixed, *map(str, arguments)])


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_picture_per_sample_and_a_video_per_scene(
    run: Callable[..., int], index: Index, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("--video") == 0  # without --index
    assert "out: 5 pictures" in capsys.readouterr().out
    for scene, count in (("scene-0061", 2), ("scene-0103", 3)):
        pictures = sorted((tmp_path / "out" / scene).iterdir())
        frames = decode(tmp_path / "out" / f"{scene}.mp4")
        assert len(pictures) == len(frames) == count
        shapes = {decode(picture)[0].shape for picture in pictures}
        assert shapes == {frames[0].shape} and frames[0].shape[1] > 3 * 160
    tokens = {path.stem.split("_")[1] for path in (tmp_path / "out").rglob("*.png")}
    assert tokens == {index.record(i).token for i in range(len(index))}


def test_results_are_drawn_over_the_annotations(
    run: Callable[..., int], index: Index, results: Path, tmp_path: Path
) -> None:
    token = index.record(0).token
    chosen = ("--index", index.folder, "--sample", token)
    assert run(*chosen) == 0
    (path,) = (tmp_path / "out").rglob("*.png")
    without = decode(path)[0].astype(int)
    assert run(*chosen, "--results", results, "--score-threshold", -2) == 0
    drawn = decode(path)[0].astype(int)
    assert run(*chosen, "--results", results, "--score-threshold", 2) == 0
    hollow = decode(path)[0].astype(int)
    bev = np.s_[60:-60, 3 * 166 :]
    white = [int((picture[bev].min(axis=-1) > 230).sum()) for picture in (without, hollow, drawn)]
    assert white[1] > white[0]  # alone, annotations have the colours of classes; beside results they are white
    amber = [int((np.abs(picture[bev] - (255, 184, 48)).sum(axis=-1) < 60).sum()) for picture in (hollow, drawn)]
    assert amber[1] > amber[0] + 20  # predicted cars


def test_scenes_and_splits_are_chosen(run: Callable[..., int], index: Index, tmp_path: Path) -> None:
    assert run("--index", index.folder, "--split", "mini_val") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene-0103"]
    assert run("--index", index.folder, "--scene", "scene-0061") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scene-0061", "scene-0103"]


def test_a_missing_picture_stops_or_is_skipped_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0061": 1})
    victim = next((root / "samples" / "CAM_FRONT").iterdir())
    victim.unlink()
    main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "visualize.py"))["main"]
    arguments = ["--dataroot", str(root), "--version", VERSION, "--out-dir", str(tmp_path / "out"), *SMALL]
    assert main(arguments) == 1
    assert victim.name in capsys.readouterr().err
    assert main([*arguments, "--on-error", "skip"]) == 0
    captured = capsys.readouterr()
    assert "1 pictures" in captured.out and "1 x missing_file was skipped" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sample", "nope"), "--sample must be tokens of samples in v1.0-mini, got 'nope'"),
        (("--scene", "scene-9999"), "scene must be one of"),
        (("--split", "test"), "split must have samples"),
        (("--index", "no/such/index"), "no/such/index"),
        (("--results", "no_such.json"), "no_such.json"),
        (("--range-m", "0"), "--range-m must be in 1..10000, got 0.0"),
        (("--range-m", "nan"), "--range-m must be in 1..10000, got nan"),
        (("--camera-width-px", "20"), "--camera-width-px must be in 160..4096, got 20"),
        (("--fps", "inf"), "--fps must be in 0.01..1000, got inf"),
        (("--score-threshold", "nan"), "--score-threshold must be in"),
    ],
)
def test_errors_are_one_sentence(
    run: Callable[..., int], capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("visualize: ") and message in error and "Traceback" not in error


def test_results_of_other_samples_are_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"meta": {}, "results": {"stranger": []}}))
    assert run("--results", path) == 1
    assert "must hold samples that are drawn, got none of the 5" in capsys.readouterr().err


def test_an_index_of_another_version_is_refused(
    run: Callable[..., int], index: Index, capsys: pytest.CaptureFixture
) -> None:
    assert run("--index", index.folder, "--version", "v1.0-trainval") == 1
    assert "--index must be of version v1.0-trainval" in capsys.readouterr().err


def test_a_result_that_cannot_be_drawn_is_named(
    run: Callable[..., int], results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = json.loads(results.read_text())
    token, boxes = next((token, boxes) for token, boxes in content["results"].items() if boxes)
    boxes[0]["translation"][0] = float("inf")
    (tmp_path / "far.json").write_text(json.dumps(content))
    assert run("--results", tmp_path / "far.json") == 1
    error = capsys.readouterr().err
    assert f"far.json: sample {token}: BoxLayer: boxes must have a finite place" in error


def test_a_set_without_samples_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_tables(tmp_path / VERSION, Tables())
    main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "visualize.py"))["main"]
    assert main(["--dataroot", str(tmp_path), "--version", VERSION, "--out-dir", str(tmp_path / "out")]) == 1
    assert "--dataroot must hold samples to draw, v1.0-mini in" in capsys.readouterr().err


def test_cameras_beside_the_six_are_drawn_too(tmp_path: Path) -> None:
    write_synthetic_nuscenes(tmp_path, {"scene-0061": 1})
    sensors = tmp_path / VERSION / "sensor.json"
    sensors.write_text(sensors.read_text().replace("CAM_FRONT_LEFT", "CAM_ROOF"))
    main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "visualize.py"))["main"]
    assert main(["--dataroot", str(tmp_path), "--version", VERSION, "--out-dir", str(tmp_path / "out"), *SMALL]) == 0
    (picture,) = (decode(path)[0] for path in (tmp_path / "out").rglob("*.png"))
    roof = picture[28 + 2 * 96 : 28 + 2 * 96 + 90, :160]  # a row of its own under the surround cameras
    assert (roof == SURFACE).all(axis=-1).mean() < 0.2


def test_fisheyes_are_drawn_beside_the_six(tmp_path: Path) -> None:
    write_suite(tmp_path)
    main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "visualize.py"))["main"]
    chosen = ("--scene", "scene-0061", "--out-dir", str(tmp_path / "out"))
    assert main(["--dataroot", str(tmp_path), "--version", VERSION, *chosen, *SMALL]) == 0
    picture = decode(next((tmp_path / "out").rglob("*.png")))[0]
    for column in range(len(FISHEYES)):  # a row of their own under the surround cameras
        tile = picture[28 + 2 * 96 : 28 + 2 * 96 + 90, column * 166 : column * 166 + 160]
        assert (tile == SURFACE).all(axis=-1).mean() < 0.5


def test_a_window_without_a_display_is_an_error(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert run("--scene", "scene-0061", "--show") == 1
    assert "needs a display" in capsys.readouterr().err


def test_a_recorded_keyframe_shows_six_cameras_and_a_drive_without_any(real_data: Path, tmp_path: Path) -> None:
    main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "visualize.py"))["main"]
    dataroot = real_data / "nuscenes"
    fixed = ("--dataroot", str(dataroot), "--version", VERSION, "--out-dir", str(tmp_path), "--camera-width-px", "320")
    assert main([*fixed, "--quiet"]) == 0
    (keyframe,) = (decode(path)[0] for path in (tmp_path / "scene-0061").iterdir())
    tiles = [keyframe[28 + r * 186 : 28 + r * 186 + 180, c * 326 : c * 326 + 320] for r in (0, 1) for c in (0, 1, 2)]
    assert all((tile == SURFACE).all(axis=-1).mean() < 0.01 for tile in tiles)
    assert {decode(path)[0].shape[1] for path in (tmp_path / "scene-0103").iterdir()} == {1400}
