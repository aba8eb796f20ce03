"""AMOTA by the devkit on a synthetic set: truth, truth with exchanged ids, nothing, and files that do not fit."""

import json
import math

import numpy as np
import pytest
import torch

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import LidarLoading, SampleLoader
from perception.evaluation.detection import annotations_as_detections, write_predictions
from perception.evaluation.split_results import read_detections
from perception.evaluation.tracking import evaluate_tracks, meta_of, moment_of, moments_of
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SubmissionMeta, write_submission
from perception.formats.tracking_submission import TRACKING_CLASSES, SampleTracks, write_tracks
from perception.structures import Detections, Predictions
from perception.tracking.greedy import GreedyTracker
from perception.tracking.kalman import KalmanTracker
from perception.tracking.tracker import track_moments
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

META = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
PRESENT = {"car", "pedestrian", "truck"}
CAR = DETECTION_CLASSES.index("car")
NOTHING = SampleTracks(
    *(np.zeros(shape, dtype=kind) for shape, kind in (((0, 9), float), (0, float), (0, int), (0, int)))
)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Dataroot, index, and the annotations of mini_val as detections."""
    root = write_synthetic_nuscenes(tmp_path_factory.mktemp("set"), cameras=False)
    (root / VERSION / "splits.json").write_text(json.dumps({"second": ["scene-0103"]}))
    folder = tmp_path_factory.mktemp("index")
    build_index(root, VERSION, folder / "index")
    index = Index.open(folder / "index")
    records = [index.record(int(i)) for i in index.samples_of("mini_val")]
    truth = [(record.token, annotations_as_detections(record.annotations)) for record in records]
    write_submission(folder / "truth.json", truth, META)
    return root, index, folder / "truth.json"


def tracked(synthetic, tracker) -> list[tuple[str, SampleTracks]]:
    _, index, results = synthetic
    return list(track_moments(moments_of(read_detections(results, index, "mini_val"), index), tracker))


def evaluate(synthetic, tracks, folder, split="mini_val"):
    root, index, _ = synthetic
    write_tracks(folder / "tracks.json", tracks, META)
    return evaluate_tracks(folder / "tracks.json", index, split, root, folder / "metrics")


@pytest.mark.parametrize("tracker", [GreedyTracker(), KalmanTracker()], ids=["greedy", "kalman"])
def test_truth_is_tracked_without_a_fault(synthetic, tmp_path, tracker, capfd):
    summary = evaluate(synthetic, tracked(synthetic, tracker), tmp_path)
    for name in TRACKING_CLASSES:
        value = summary["label_metrics"]["amota"][name]
        assert value == pytest.approx(1.0) if name in PRESENT else math.isnan(value)
    assert summary["amota"] == pytest.approx(1.0)
    assert summary["ids"] == summary["fp"] == summary["fn"] == 0
    assert summary["amotp"] < 0.05
    written = json.loads((tmp_path / "metrics" / "metrics_summary.json").read_text())
    assert written["amota"] == summary["amota"]
    assert not (tmp_path / "metrics" / "plots").exists()
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_exchanged_ids_are_switches(synthetic, tmp_path):
    tracks = tracked(synthetic, GreedyTracker())
    one = tracks[1][1]
    a, b = np.flatnonzero(one.labels == CAR)
    one.ids[[a, b]] = one.ids[[b, a]]  # two cars, exchanged in the second of three samples and back in the third
    summary = evaluate(synthetic, tracks, tmp_path, split="second")
    assert summary["label_metrics"]["ids"]["car"] == 4
    assert summary["label_metrics"]["mota"]["car"] == pytest.approx(1 - 4 / 6)
    assert summary["label_metrics"]["amota"]["pedestrian"] == pytest.approx(1.0)


def test_without_any_track_every_class_with_truth_is_zero(synthetic, tmp_path, caplog):
    tracks = [(token, NOTHING) for token, _ in tracked(synthetic, GreedyTracker())]
    summary = evaluate(synthetic, tracks, tmp_path)
    assert "there is not one track in the split mini_val; every AMOTA is 0" in caplog.text
    assert summary["amota"] == summary["mota"] == 0
    assert summary["amotp"] == 2.0
    amota = summary["label_metrics"]["amota"]
    assert {name for name, value in amota.items() if not math.isnan(value)} == PRESENT
    assert summary["meta"]["use_lidar"] is True


def test_predictions_are_tracked_while_a_drive_runs(synthetic, tmp_path):
    root, index, _ = synthetic
    loader = SampleLoader(index=index, dataroot=root, class_names=DETECTION_CLASSES, lidar=LidarLoading())
    samples = [loader.load(int(i)) for i in index.samples_of("mini_val")]
    found = [
        Predictions(
            token=sample.token,
            detections=Detections(
                boxes=sample.boxes.boxes, scores=torch.ones(len(sample.boxes)), labels=sample.boxes.labels
            ),
        )
        for sample in samples
    ]
    moments = [moment_of(one, sample, DETECTION_CLASSES) for one, sample in zip(found, samples, strict=True)]
    live = list(track_moments(moments, GreedyTracker()))
    poses = [(one, sample.ego2global) for one, sample in zip(found, samples, strict=True)]
    write_predictions(tmp_path / "results.json", poses, DETECTION_CLASSES, META)
    submission = read_detections(tmp_path / "results.json", index, "mini_val")
    later = list(track_moments(moments_of(submission, index), GreedyTracker()))
    for (token, one), (other_token, other) in zip(live, later, strict=True):
        assert token == other_token
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_allclose(one.boxes_global, other.boxes_global, atol=1e-9)
    assert meta_of(submission) == META
    with pytest.raises(ValueError, match="moment_of: predictions must have detections, got none for"):
        moment_of(Predictions(token="t", detections=None), samples[0], DETECTION_CLASSES)


def test_scenes_are_tracked_one_after_the_other_in_order_of_time(synthetic):
    _, index, results = synthetic
    submission = read_detections(results, index, "mini_val")
    backwards = submission.of_samples(submission.sample_tokens[::-1])
    moments = list(moments_of(backwards, index))
    assert [moment.token for moment in moments] == list(submission.sample_tokens)
    assert len({moment.scene for moment in moments}) == 1


def test_files_that_do_not_fit_are_named(synthetic, tmp_path):
    root, index, results = synthetic
    tracks = tracked(synthetic, GreedyTracker())
    with pytest.raises(ValueError, match=r"1 samples of the split are missing, such as"):
        evaluate(synthetic, tracks[:2], tmp_path)
    with pytest.raises(ValueError, match=r"validate_submission: .* 3 samples are not in the split"):
        read_detections(results, index, "mini_train")
    with pytest.raises(FileNotFoundError):
        evaluate_tracks(tmp_path / "none.json", index, "mini_val", root, tmp_path)
    write_tracks(tmp_path / "more.json", [*tracks, ("elsewhere", NOTHING)], META)
    with pytest.raises(ValueError, match="results must be of the set's samples, 1 are not, such as 'elsewhere'"):
        evaluate_tracks(tmp_path / "more.json", index, "second", root, tmp_path)
    last = tracks[-1][1]
    last.labels[last.labels == CAR] = DETECTION_CLASSES.index("truck")
    with pytest.raises(
        ValueError, match=rf"sample '{tracks[-1][0]}': track '\d' must have one class, got car and truck"
    ):
        evaluate(synthetic, tracks, tmp_path)


def test_a_set_without_annotations_or_without_tracked_ones(tmp_path):
    for name, options in (("none", {"annotations": False}), ("some", {})):
        root = write_synthetic_nuscenes(tmp_path / name, {"scene-0103": 2}, cameras=False, **options)
        if name == "some":  # only barriers, cones and racks are left
            categories = {
                row["token"]: row["name"] for row in json.loads((root / VERSION / "category.json").read_text())
            }
            kept = ("movable", "static")
            path = root / VERSION / "instance.json"
            instances = json.loads(path.read_text())
            other = next(
                token for token, category in categories.items() if category.startswith("movable_object.barrier")
            )
            for row in instances:
                if not categories[row["category_token"]].startswith(kept):
                    row["category_token"] = other
            path.write_text(json.dumps(instances))
        build_index(root, VERSION, tmp_path / f"{name}_index")
        index = Index.open(tmp_path / f"{name}_index")
        write_tracks(tmp_path / "tracks.json", [(index.record(i).token, NOTHING) for i in range(2)], META)
        message = {"none": "the set must have annotations", "some": "split must have annotations of tracked classes"}[
            name
        ]
        with pytest.raises(ValueError, match=f"evaluate_tracks: {message}"):
            evaluate_tracks(tmp_path / "tracks.json", index, "mini_val", root, tmp_path)
