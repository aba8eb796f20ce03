import json
from pathlib import Path

import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.detection import annotations_as_detections
from perception.formats.submission import SubmissionMeta, write_submission
from perception.formats.tracking_submission import read_tracks
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes
from tools import track

META = SubmissionMeta(use_camera=True, use_lidar=False, use_radar=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A set, its index, and its annotations as detections of mini_val."""
    root = tmp_path_factory.mktemp("track")
    write_synthetic_nuscenes(root / "set", cameras=False)
    build_index(root / "set", VERSION, root / "index")
    index = Index.open(root / "index")
    records = [index.record(int(position)) for position in index.samples_of("mini_val")]
    found = [(record.token, annotations_as_detections(record.annotations)) for record in records]
    write_submission(root / "truth.json", found, META)
    return root


def run(folder: Path, out_dir: Path, *options: str, results: str = "truth.json") -> int:
    set_options = ["--dataroot", str(folder / "set"), "--version", VERSION, "--split", "mini_val"]
    return track.main([str(folder / results), *set_options, "--out-dir", str(out_dir), *options])


def test_tracks_are_written_and_evaluated(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "out", "--index", str(folder / "index"), "--evaluate") == 0
    printed = capsys.readouterr().out.splitlines()
    figures = {line.split()[0]: line.split()[1:] for line in printed[2:]}
    assert printed[0].endswith("12 boxes in 3 samples")
    assert printed[1].split() == ["amota", "amotp", "recall", "mota", "ids", "frag"]
    assert figures["all"][0] == figures["car"][0] == "1.0000"
    assert figures["bus"][0] == "nan"
    assert json.loads((tmp_path / "out" / "metrics_summary.json").read_text())["ids"] == 0


@pytest.mark.parametrize("options", [("--tracker", "greedy"), ("--association", "hungarian")])
def test_both_trackers_find_the_same_objects(folder, tmp_path, options):
    assert run(folder, tmp_path, *options) == 0
    tracks = read_tracks(tmp_path / "tracks.json")
    assert len(set(tracks.tracking_ids)) == 4
    assert tracks.meta["use_camera"] is True
    assert tracks.meta["use_lidar"] is False


def test_what_is_wrong_is_said(folder, tmp_path, capsys):
    assert run(folder, tmp_path, results="none.json") == 1
    assert capsys.readouterr().err.startswith("track: ")
    assert run(folder, tmp_path, "--tracker", "greedy", "--association", "hungarian") == 1
    assert capsys.readouterr().err == "track: --association is for --tracker kalman\n"
    index = ["--index", str(folder / "index")]
    assert run(folder, tmp_path, *index, "--version", "v1.0-trainval") == 1
    assert f"--index must be of version v1.0-trainval, {folder / 'index'} is of {VERSION}" in capsys.readouterr().err
    assert run(folder, tmp_path, *index, "--dataroot", str(folder / "nowhere")) == 1
    assert f"--dataroot must be a folder, got {folder / 'nowhere'}" in capsys.readouterr().err
    content = json.loads((folder / "truth.json").read_text())
    token = next(iter(content["results"]))
    assert run(folder, tmp_path, *index, "--min-score", "nan") == 1
    assert "min_score and birth_score must be finite, got nan" in capsys.readouterr().err
    for field, value in (("velocity", [1e308, 0.0]), ("velocity", [0.0, float("inf")]), ("translation", [0, 1e9, 0])):
        box = content["results"][token][1]
        (tmp_path / "fast.json").write_text(
            json.dumps(content | {"results": content["results"] | {token: [box, box | {field: value}]}})
        )
        assert run(folder, tmp_path, *index, results=str(tmp_path / "fast.json")) == 1
        said = capsys.readouterr().err
        assert (
            f"sample '{token}': box 1: " in said and f"must be within 1e+07, got {[float(it) for it in value]}" in said
        )
    del box["detection_score"]
    (tmp_path / "unsure.json").write_text(json.dumps(content | {"results": content["results"] | {token: [box]}}))
    assert run(folder, tmp_path, *index, results=str(tmp_path / "unsure.json")) == 1
    assert f"sample '{token}': box 0, field detection_score: must be finite and >= 0, got" in capsys.readouterr().err
    assert run(folder, folder / "set" / VERSION, *index) == 1
    assert "--out-dir must not be where the set's own files lie" in capsys.readouterr().err
    assert run(folder, tmp_path, *index, results="set") == 1
    assert f"read_submission: {folder / 'set'}: must be a file, got a folder" in capsys.readouterr().err
    del content["results"][token]
    (tmp_path / "short.json").write_text(json.dumps(content))
    assert run(folder, tmp_path, results=str(tmp_path / "short.json")) == 1
    said = capsys.readouterr().err
    assert f"1 samples of the split are missing, such as '{token}'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "tracks.json").exists()
