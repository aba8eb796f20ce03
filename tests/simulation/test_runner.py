"""Whole runs: the same bytes whatever the workers, going on after a kill, and nothing that looks whole before it is."""

import hashlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.detection import annotations_as_detections
from perception.evaluation.official import evaluate_official
from perception.formats.nuscenes_tables import read_tables
from perception.formats.submission import SubmissionMeta, write_submission
from perception.simulation.manifest import Manifest, SceneOrder, plan_manifest, plan_splits
from perception.simulation.runner import PARTS, SimulationError, _Pending, simulate
from perception.simulation.settings import PRESETS, Settings

TOOL = Path(__file__).resolve().parents[2] / "tools" / "simulate.py"
SETTINGS = replace(PRESETS["suite"], seconds=1.0, image_size_px=(36, 64), fisheye_size_px=(32, 48), raw_lidar=True)


@pytest.fixture(scope="module")
def pair() -> Manifest:
    return plan_manifest(2, 3, SETTINGS)


@pytest.fixture(scope="module")
def finished(pair: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set with every sensor and truth, made by two workers at once."""
    out = tmp_path_factory.mktemp("finished") / "set"
    simulate(pair, out, workers=2)
    return out


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _looks_whole(out: Path) -> bool:
    return any(path.name.startswith("v1.0") for path in out.iterdir())


@pytest.mark.slow
def test_one_worker_writes_the_same_bytes_as_two(pair: Manifest, finished: Path, tmp_path: Path) -> None:
    simulate(pair, tmp_path / "set", workers=1)
    digests = _digests(finished)
    assert _digests(tmp_path / "set") == digests
    assert sum(name.startswith("samples/") for name in digests) == 2 * 2 * (7 + 5)
    assert sum(name.startswith("sweeps/LIDAR_TOP") for name in digests) == 2
    assert sum(name.startswith("lidar_raw/LIDAR_TOP") for name in digests) == 2 * 3
    assert not any(PARTS in name for name in digests)


@pytest.mark.slow
def test_a_killed_worker_is_named_and_the_next_call_goes_on(pair: Manifest, finished: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "set", []

    def _kill_at_the_third_keyframe(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(SimulationError, match=r"scene-0103: its worker was killed by signal 9 \(Killed\)"):
        simulate(pair, out, workers=1, progress=_kill_at_the_third_keyframe)
    assert not multiprocessing.active_children()
    assert not _looks_whole(out)
    (out / "can_bus" / ".scene-0103_pose.json.7.tmp").write_text("[")  # as a worker leaves it that is killed there
    seen.clear()
    simulate(pair, out, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (2, 4)  # the first scene was kept
    assert seen[-1] == (4, 4)
    assert _digests(out) == _digests(finished)


@pytest.mark.slow
def test_other_sensors_and_truths_change_nothing_of_cameras_lidar_and_boxes(finished: Path, tmp_path: Path) -> None:
    plain = tmp_path / "set"
    simulate(plan_manifest(1, 3, replace(Settings(), seconds=1.0, image_size_px=(36, 64), sweeps=1)), plain)
    ours, theirs = _digests(plain), _digests(finished)
    files = [name for name in ours if name.startswith(("samples/", "sweeps/"))]
    assert len(files) == 2 * 7 + 1
    assert all(ours[name] == theirs[name] for name in files)
    assert {path.name for path in plain.iterdir()} == {"samples", "sweeps", "maps", "manifest.yaml", "v1.0-mini"}
    without, with_all = (read_tables(root / "v1.0-mini") for root in (plain, finished))
    boxes = {row.token: row for row in with_all.sample_annotation}
    for row in without.sample_annotation:
        other = boxes[row.token]
        assert row.num_radar_pts == 0
        assert all(getattr(row, it) == getattr(other, it) for it in row.__struct_fields__ if it != "num_radar_pts")
    rows = {row.token: row for row in with_all.sample_data}
    assert all(rows[row.token] == row for row in without.sample_data)


@pytest.mark.slow
def test_a_file_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    # A limit on the size of files stands for a disk that is full: writing stops half way with an OSError.
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    out = tmp_path / "set"
    options = ["--out", str(out), "--scenes", "1", "--seconds", "1", "--preset", "quick", "--quiet", "--workers", "1"]
    result = subprocess.run([sys.executable, "-c", limited, str(TOOL), *options], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"simulate: scene-0061: \[Errno 27\] File too large.*\n", result.stderr)
    assert not _looks_whole(out)


@pytest.mark.slow
def test_an_interrupted_run_ends_cleanly(tmp_path: Path) -> None:
    out = tmp_path / "set"
    options = ["--out", str(out), "--scenes", "1", "--preset", "quick", "--workers", "1", "--seconds", "30"]
    process = subprocess.Popen(
        [sys.executable, str(TOOL), *options],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    while not list(out.glob("samples/CAM_BACK/*")) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.decode().splitlines()[-1] == "simulate: interrupted; the same command goes on with what is finished"
    assert "Traceback" not in said.decode()
    assert not _looks_whole(out)


@pytest.mark.slow
def test_a_complete_set_is_not_touched(pair: Manifest, finished: Path) -> None:
    before = _digests(finished)
    with pytest.raises(ValueError, match=r"must be a new folder, got one with a complete set v1\.0-mini"):
        simulate(pair, finished)
    assert _digests(finished) == before


@pytest.fixture(scope="module")
def benchmark() -> Manifest:
    """Three scenes for training, of which two lie in one location, and one for testing."""
    return plan_splits({"train": 3, "test": 1}, 3, Settings(seconds=1.0, image_size_px=(36, 64)))


@pytest.fixture(scope="module")
def benchmark_set(benchmark: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmark") / "set"
    simulate(benchmark, out, workers=2)
    return out


@pytest.mark.slow
def test_test_scenes_are_a_version_of_their_own_and_districts_share_a_map(
    benchmark: Manifest, benchmark_set: Path
) -> None:
    from nuscenes.map_expansion.map_api import NuScenesMap
    from nuscenes.map_expansion.utils import get_egoposes_on_drivable_ratio
    from nuscenes.nuscenes import NuScenes

    out, manifest = benchmark_set, benchmark
    assert [order.place for order in manifest.scenes] == [
        ("boston-seaport", 0),
        ("singapore-hollandvillage", 0),
        ("boston-seaport", 1),
        ("singapore-onenorth", 0),
    ]
    assert sorted(path.name for path in out.glob("v1.0*")) == ["v1.0-test", "v1.0-trainval"]
    for version, orders in manifest.versions.items():
        tables = read_tables(out / version)
        assert [row.name for row in tables.scene] == [order.name for order in orders]
        assert tables.sample_annotation
        devkit = NuScenes(version, str(out), verbose=False)
        for scene, order in zip(devkit.scene, orders, strict=True):
            location = devkit.get("log", scene["log_token"])["location"]
            assert location == order.location
            assert get_egoposes_on_drivable_ratio(devkit, NuScenesMap(str(out), location), scene["token"]) == 1.0
            (mask,) = (row["mask"] for row in devkit.map if scene["log_token"] in row["log_tokens"])
            data = devkit.get("sample", scene["first_sample_token"])["data"]["LIDAR_TOP"]
            x, y, _ = devkit.get("ego_pose", devkit.get("sample_data", data)["ego_pose_token"])["translation"]
            assert mask.is_on_mask(x, y)
            assert (y > 740) == (order.district == 1)


@pytest.mark.slow
def test_the_devkit_scores_the_test_split(benchmark_set: Path, tmp_path: Path) -> None:
    build_index(benchmark_set, "v1.0-test", tmp_path / "index")
    index = Index.open(tmp_path / "index")
    records = [index.record(int(number)) for number in index.samples_of("test")]
    results = tmp_path / "results.json"
    meta = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
    write_submission(results, [(it.token, annotations_as_detections(it.annotations)) for it in records], meta)
    summary = evaluate_official(benchmark_set, "v1.0-test", "test", results, tmp_path)
    found = [ap for ap in summary["mean_dist_aps"].values() if ap > 0]  # a class that the scene does not have has none
    assert len(records) == 2 and len(found) >= 4
    assert found == pytest.approx([1.0] * len(found))


@pytest.mark.slow
def test_a_run_killed_between_two_versions_is_finished_by_the_next(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "set"
    manifest = plan_splits({"val": 1, "test": 1}, 3, Settings(seconds=1.0, image_size_px=(36, 64)))
    rename = Path.rename

    def _fail_at_the_second_version(path: Path, target: Path) -> Path:
        if target == out / "v1.0-test":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", _fail_at_the_second_version)
        simulate(manifest, out)
    assert (out / "v1.0-trainval").is_dir() and (out / PARTS).is_dir() and not (out / "v1.0-test").exists()
    simulate(manifest, out)
    assert (out / "v1.0-test").is_dir() and not (out / PARTS).exists()


def test_a_worker_stays_in_the_town_that_it_has_built() -> None:
    orders = plan_splits({"train": 48}, 0, SETTINGS).scenes
    left = _Pending(orders)
    last: dict[int, SceneOrder] = {}
    built: list[tuple[str, int]] = []
    made = []
    while left:
        for worker in range(2):
            order = left.pop(last.get(worker))
            if worker not in last or last[worker].place != order.place:
                built.append(order.place)
            last[worker] = order
            made.append(order)
    assert sorted(order.name for order in made) == sorted(order.name for order in orders)
    assert len(built) == len(set(built)) == 12


def _begun(out: Path, text: str) -> None:
    (out / PARTS).mkdir(parents=True)
    (out / PARTS / "manifest.yaml").write_text(text)


def test_an_unfinished_set_with_other_settings_is_refused(pair: Manifest, tmp_path: Path) -> None:
    _begun(tmp_path / "set", "scenes: []\n")
    with pytest.raises(ValueError, match="must have been begun with the same scenes and settings"):
        simulate(pair, tmp_path / "set")


def test_a_folder_with_other_files_is_refused(pair: Manifest, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a new or empty folder, got one with other files"):
        simulate(pair, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_in_place_of_the_folder_is_refused(pair: Manifest, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("")
    with pytest.raises(ValueError, match="must be a folder, got a file"):
        simulate(pair, tmp_path / "set")


def test_a_folder_where_one_must_not_write_is_refused(pair: Manifest) -> None:
    with pytest.raises(OSError, match="/proc/set"):
        simulate(pair, "/proc/set")


def test_two_writers_of_one_folder_are_refused(pair: Manifest, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / PARTS).mkdir()
    with (tmp_path / PARTS / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="must have one writer, got another"):
            simulate(pair, tmp_path)


def test_no_worker_is_refused(pair: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        simulate(pair, tmp_path / "set", workers=0)
    assert not (tmp_path / "set").exists()
