import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.bootstrap import Interval
from perception.evaluation.detection import annotations_as_detections
from perception.evaluation.tasks import TaskScores
from perception.formats.near_field import NEAR_FIELD_GRID, near_field_bytes
from perception.formats.near_field_predictions import near_field_path, near_field_prediction_bytes
from perception.formats.submission import SubmissionMeta, write_submission
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes
from tools import evaluate

META = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A set, its index, and its annotations as results of mini_val: all of them, and cars left out."""
    root = tmp_path_factory.mktemp("evaluate")
    write_synthetic_nuscenes(root / "set", cameras=False)
    build_index(root / "set", VERSION, root / "index")
    index = Index.open(root / "index")
    records = [index.record(int(position)) for position in index.samples_of("mini_val")]
    found = [(record.token, annotations_as_detections(record.annotations)) for record in records]
    write_submission(root / "all.json", found, META)
    content = json.loads((root / "all.json").read_text())
    for boxes in content["results"].values():
        boxes[:] = [box for box in boxes if box["detection_name"] != "car"]
    (root / "no_cars.json").write_text(json.dumps(content))
    return root


def run(folder: Path, results: str, *options: str) -> int:
    set_options = ["--dataroot", str(folder / "set"), "--version", VERSION, "--split", "mini_val"]
    return evaluate.main([str(folder / results), *set_options, *options])


def test_the_figures_are_printed_and_written_as_the_devkit_has_them(folder, tmp_path, capsys):
    assert run(folder, "no_cars.json", "--index", str(folder / "index"), "--out-dir", str(tmp_path / "ours")) == 0
    ours = capsys.readouterr().out
    assert run(folder, "no_cars.json", "--official", "--out-dir", str(tmp_path / "official")) == 0
    theirs = capsys.readouterr().out
    summary = json.loads((tmp_path / "ours" / "metrics_summary.json").read_text())
    official = json.loads((tmp_path / "official" / "metrics_summary.json").read_text())
    assert summary["nd_score"] == pytest.approx(official["nd_score"], abs=1e-12)
    assert f"{official['nd_score']:.4f}" in ours and f"NDS {official['nd_score']:.4f}" in theirs
    assert "points <= 5" in ours and "visibility 4" in ours and "expected calibration error" in ours
    page = (tmp_path / "ours" / "report.html").read_text()
    # Four of the five classes that are there, and no more, are found: the terminal and the page have the same mean.
    assert re.search(r"  0-20 m +0\.8000, ", ours)
    assert re.search(r">0-20 m</t[dh]><td[^>]*>\d+</td><td[^>]*>0\.800</td>", page)
    assert f"{official['nd_score']:.3f}" in page and "3 samples" in page


def test_two_submissions_are_compared(folder, capsys):
    assert run(folder, "all.json", "--against", str(folder / "no_cars.json"), "--draws", "5") == 0
    compared = capsys.readouterr().out.partition("better than")[2]
    lines = [line.split() for line in compared.splitlines()]
    gains = {line[0]: float(line[1]) for line in lines if len(line) > 3 and line[1][0] in "+-"}
    assert gains["car"] == 1.0
    assert gains["truck"] == 0.0
    assert re.search(r"slices, mean AP over .*:\n  0-20 m +\+0\.2000 ", compared)  # one class of five


def test_what_is_wrong_is_said(folder, tmp_path, capsys):
    assert run(folder, "none.json") == 1
    assert "none.json" in capsys.readouterr().err
    assert run(folder, "all.json", "--official", "--against", str(folder / "no_cars.json")) == 1
    assert "--against is not for --official" in capsys.readouterr().err
    assert run(folder, "all.json", "--draws", "-1") == 1
    assert "--draws must be at least 0, got -1" in capsys.readouterr().err
    assert run(folder, "all.json", "--map", str(folder / "maps")) == 1
    assert f"there is no such folder of predictions: {folder / 'maps'}" in capsys.readouterr().err
    index = ["--index", str(folder / "index")]
    assert run(folder, "all.json", *index, "--version", "v1.0-trainval") == 1
    assert f"--index must be of version v1.0-trainval, {folder / 'index'} is of {VERSION}" in capsys.readouterr().err
    assert run(folder, "all.json", *index, "--dataroot", str(folder / "all.json")) == 1
    assert f"--dataroot must be a folder, got {folder / 'all.json'}" in capsys.readouterr().err
    content = json.loads((folder / "all.json").read_text())
    token = next(iter(content["results"]))
    content["results"][token][0]["size"][1] = -1.0
    (tmp_path / "bad.json").write_text(json.dumps(content))
    assert run(folder, str(tmp_path / "bad.json")) == 1
    assert f"sample '{token}': box 0, field size: must be > 0" in capsys.readouterr().err


def test_a_task_without_truth_is_told_and_the_others_go_on(folder, tmp_path, capsys):
    """The synthetic set has neither near fields nor occupancy; its boxes are scored all the same."""
    (tmp_path / "found").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "occupancy.json").write_text("of an earlier run")
    options = [word for name in ("near-field", "occupancy") for word in (f"--{name}", str(tmp_path / "found"))]
    options += ["--draws", "0", "--out-dir", str(tmp_path / "out")]
    assert run(folder, "all.json", *options) == 0
    said = capsys.readouterr()
    for title in ("near field", "occupancy"):
        assert re.search(rf"{title} is not scored: .*{folder / 'set'}", said.out)
    assert "mAP" in said.out and (tmp_path / "out" / "metrics_summary.json").exists()
    assert not (tmp_path / "out" / "occupancy.json").exists()
    assert (tmp_path / "out" / "report.html").read_text().count("Not scored: ") == 2
    assert run(folder, "all.json", "--map", str(tmp_path / "found"), *options) == 1  # predictions are not the set's
    assert re.search(rf"map is not scored: there is no prediction {tmp_path / 'found'}/scene-", capsys.readouterr().err)


def test_nothing_is_lost_by_what_goes_wrong(folder, tmp_path, capsys):
    """A broken file to compare with, tracks of a sample whose token no terminal can show, a folder of the set's."""
    index = ["--index", str(folder / "index"), "--draws", "0"]
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "tracks.json").write_text('{"meta": {}, "results": {"\\ud800": [], "": []}}')
    more = ["--against", str(tmp_path / "broken.json"), "--tracks", str(tmp_path / "tracks.json")]
    (tmp_path / "out" / "tracking").mkdir(parents=True)
    (tmp_path / "out" / "tracking" / "metrics_summary.json").write_text("of an earlier run")
    assert run(folder, "all.json", *index, *more, "--out-dir", str(tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert f"read_submission: {tmp_path / 'broken.json'}: not JSON" in said
    assert "2 samples are not in the split, such as '', '\\ud800'" in said
    assert (tmp_path / "out" / "metrics_summary.json").exists() and (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "tracking" / "metrics_summary.json").exists()
    for own in (folder / "set", folder / "set" / VERSION):
        before = sorted(own.iterdir())
        assert run(folder, "all.json", *index, "--out-dir", str(own)) == 1
        assert "--out-dir must not be where the set's own files lie" in capsys.readouterr().err
        assert sorted(own.iterdir()) == before


def test_a_split_without_samples_is_told(folder, tmp_path, capsys):
    root = shutil.copytree(folder / "set", tmp_path / "set")
    (root / VERSION / "splits.json").write_text('{"empty": []}')
    for draws in ("0", "5"):
        options = ["--dataroot", str(root), "--split", "empty", "--draws", draws]
        assert run(folder, "all.json", *options) == 1
        assert "'empty' has none" in capsys.readouterr().err


def test_the_devkits_unnamed_failure_over_scores_is_named(folder, tmp_path, capsys):
    content = json.loads((folder / "all.json").read_text())
    token = next(iter(content["results"]))
    for boxes in content["results"].values():
        del boxes[0]  # confidence rises to 0 where the recall ends
        for box in boxes:
            box["detection_score"] = -0.5
    (tmp_path / "negative.json").write_text(json.dumps(content))
    assert run(folder, str(tmp_path / "negative.json"), "--official") == 1
    said = capsys.readouterr().err
    assert f"sample '{token}': box 0, field detection_score: must be finite and >= 0, got -0.5" in said
    assert "the devkit says AssertionError" in said


def test_near_fields_and_tracks_are_scored_beside_the_boxes(folder, tmp_path, capsys):
    """Near fields that say what the truth says, and tracks of nothing."""
    root = shutil.copytree(folder, tmp_path / "copy")
    index = Index.open(root / "index")
    cells = np.zeros(NEAR_FIELD_GRID.shape[1:], dtype=np.uint8)
    cells[100:110, 100:110] = 1  # occupied
    contents = {
        "set/near_field": near_field_bytes(cells),
        "found": near_field_prediction_bytes(cells.astype(np.float32)),
    }
    for position in index.samples_of("mini_val"):
        record = index.record(int(position))
        for kind, content in contents.items():
            path = near_field_path(root / kind, record.scene, record.token)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    tracks = {"meta": json.loads((root / "all.json").read_text())["meta"]}
    tracks["results"] = {token: [] for token in index.tokens_of(index.samples_of("mini_val"))}
    (root / "tracks.json").write_text(json.dumps(tracks))
    more = [
        "--near-field",
        str(root / "found"),
        "--tracks",
        str(root / "tracks.json"),
        "--out-dir",
        str(tmp_path / "o"),
    ]
    assert run(root, "all.json", "--draws", "5", *more) == 0
    said = capsys.readouterr().out  # of one scene, so that there is no range
    assert re.search(r"near field iou +1\.0000$", said, re.MULTILINE)
    assert "AMOTA 0.0000, AMOTP 2.0000" in said
    page = (tmp_path / "o" / "report.html").read_text()
    assert "AMOTA" in page and "Near field" in page
    written = json.loads((tmp_path / "o" / "near_field.json").read_text())
    assert written["figures"]["iou"]["value"] == 1 and written["tables"] == {}
    assert run(root, "all.json", "--draws", "0", *more[:2]) == 0
    assert re.search(r"near field iou +1\.0000$", capsys.readouterr().out, re.MULTILINE)


def test_scores_of_a_task_stand_in_one_column_with_their_ranges():
    scores = TaskScores("map", {"mean": Interval(0.5, 0.4, 0.625), "road": Interval(1, math.nan, math.nan)})
    assert scores.lines() == ["  map mean 0.5000  (0.4000 to 0.6250)", "  map road 1.0000"]


def test_near_fields_of_a_set_without_annotations_are_scored(folder, tmp_path, capsys):
    root = shutil.copytree(folder, tmp_path / "copy")
    (root / "set" / VERSION / "sample_annotation.json").write_text("[]")
    index = Index.open(root / "index")
    cells = np.zeros(NEAR_FIELD_GRID.shape[1:], dtype=np.uint8)
    for position in index.samples_of("mini_val"):
        record = index.record(int(position))
        path = near_field_path(root / "set" / "near_field", record.scene, record.token)
        found = near_field_path(root / "found", record.scene, record.token)
        for one, content in (
            (path, near_field_bytes(cells)),
            (found, near_field_prediction_bytes(cells.astype(np.float32))),
        ):
            one.parent.mkdir(parents=True, exist_ok=True)
            one.write_bytes(content)
    assert run(root, "all.json", "--near-field", str(root / "found"), "--out-dir", str(tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert said.err == "evaluate: the set has no annotations, boxes are not scored\n"
    assert "near field iou" in said.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not scored, the set has no annotations" in page and "<h2>Near field" in page and "3 samples" in page


def test_damage_in_one_file_leaves_the_rest_scored(folder, tmp_path, capsys):
    """A truth of the near field that is none, a folder of occupancy that is a file, tracks cut off in the middle."""
    root = shutil.copytree(folder, tmp_path / "copy")
    index = Index.open(root / "index")
    record = index.record(int(index.samples_of("mini_val")[0]))
    damaged = near_field_path(root / "set" / "near_field", record.scene, record.token)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"PK\x03\x04 and no more")
    (root / "set" / "gts").write_text("a file")
    (root / "found").mkdir()
    (root / "tracks.json").write_text('{"meta": {}, "results": {"a": [')
    more = [word for name in ("near-field", "occupancy") for word in (f"--{name}", str(root / "found"))]
    more += ["--tracks", str(root / "tracks.json"), "--out-dir", str(tmp_path / "out")]
    assert run(root, "all.json", "--draws", "0", *more) == 1
    said = capsys.readouterr()
    for reason in (f"near field is not scored: read_near_field: {damaged}: ", "occupancy is not scored: ",
                   f"tracking is not scored: read_tracks: {root / 'tracks.json'}: not JSON"):  # fmt: skip
        assert reason in said.out and reason in said.err
    assert (tmp_path / "out" / "metrics_summary.json").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("Not scored: ") == 3 and "<h2>Tracking" in page and "<h2>Boxes" in page


@pytest.mark.slow
def test_the_benchmark_finds_equal_figures(folder, tmp_path):
    command = [sys.executable, "tools/benchmark.py", "evaluation", "--dataroot", str(folder / "set")]
    command += ["--samples", "20", "--boxes", "10", "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 2
    assert all(row["max_abs_diff"] <= 1e-9 for row in rows)
