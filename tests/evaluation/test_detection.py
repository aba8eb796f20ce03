import json
import math

import numpy as np
import pytest
import torch

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loading import LidarLoading, SampleLoader
from perception.evaluation.detection import (
    annotations_as_detections,
    detections_in_global,
    score_submission,
    write_predictions,
)
from perception.evaluation.matching import MatchCounts, MatchRule
from perception.evaluation.official import evaluate_official
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SampleDetections, SubmissionMeta, write_submission
from perception.geometry.transforms import rigid, rigid_from_quaternion, transform_points
from perception.structures import Detections, Predictions
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

META = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
EMPTY = SampleDetections(np.zeros((0, 9)), np.zeros(0), np.zeros(0, dtype=np.int64))


def make_index(dataroot, folder) -> Index:
    build_index(dataroot, VERSION, folder)
    return Index.open(folder)


def write_truth(path, index: Index, split: str) -> None:
    records = [index.record(int(i)) for i in index.samples_of(split)]
    write_submission(path, [(record.token, annotations_as_detections(record.annotations)) for record in records], META)


def detections(*rows: list[float]) -> Detections:
    """Detections of rows x y z l w h yaw vx vy score label."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 11)
    return Detections(boxes=table[:, :9], scores=table[:, 9], labels=table[:, 10].to(torch.int64))


def perfect(summary: dict) -> set[str]:
    """Classes with average precision 1, but for rounding."""
    return {name for name, ap in summary["mean_dist_aps"].items() if ap == pytest.approx(1.0, abs=1e-12)}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Dataroot and index of a synthetic set without pictures."""
    root = write_synthetic_nuscenes(tmp_path_factory.mktemp("set"), cameras=False)
    (root / VERSION / "splits.json").write_text(json.dumps({"first": ["scene-0061"], "none": ["scene-0001"]}))
    return root, make_index(root, tmp_path_factory.mktemp("index") / "index")


def test_a_box_moves_with_the_vehicle():
    quarter_turn = torch.tensor([math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)], dtype=torch.float64)
    ego2global = rigid_from_quaternion(torch.tensor([1000.25, 2000.5, 1.0], dtype=torch.float64), quarter_turn)
    found = detections_in_global(
        detections([10, 2, 0.5, 4, 2, 1.5, 0.25, 3, 1, 0.75, 1]), ego2global, ["barrier", "car"]
    )
    assert found.boxes_global.dtype == np.float64
    # A quarter turn maps (x, y) to (-y, x).
    expected = [998.25, 2010.5, 1.5, 4, 2, 1.5, 0.25 + math.pi / 2, -1, 3]
    np.testing.assert_allclose(found.boxes_global, [expected], atol=1e-9)
    assert found.labels.tolist() == [DETECTION_CLASSES.index("car")]
    assert found.scores.tolist() == [0.75]


def test_positions_keep_float64_far_from_the_origin():
    ego2global = rigid(torch.eye(3, dtype=torch.float64), torch.tensor([1e6, 1e6, 0.0], dtype=torch.float64))
    boxes = detections([10.125, 2.0625, 0, 1, 1, 1, 0, 0, 0, 0.5, 0])
    found = detections_in_global(boxes, ego2global, ["car"])
    expected = transform_points(ego2global, boxes.boxes[:, :3].to(torch.float64)).numpy()
    np.testing.assert_array_equal(found.boxes_global[:, :3], expected)


def test_the_500_best_are_kept():
    rows = [[1, 0, 0, 1, 1, 1, 0, 0, 0, 1 - 0.001 * number, 0] for number in range(501)]
    found = detections_in_global(detections(*rows), torch.eye(4, dtype=torch.float64), ["car"])
    assert len(found.scores) == 500
    assert found.scores.min() > 0.5


def test_unknown_classes_and_missing_heads_are_errors(tmp_path):
    identity = torch.eye(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"class_names must be of car, .* got tram"):
        detections_in_global(detections(), identity, ["car", "tram"])
    with pytest.raises(ValueError, match="predictions must have detections, got none for t1"):
        write_predictions(tmp_path / "r.json", [(Predictions(token="t1", detections=None), identity)], ["car"], META)


def test_annotations_in_the_ego_frame_come_back_as_the_devkit_has_them(synthetic, tmp_path):
    root, index = synthetic
    loader = SampleLoader(index=index, dataroot=root, class_names=DETECTION_CLASSES, lidar=LidarLoading())
    samples = [loader.load(int(i)) for i in index.samples_of("mini_val")]
    found = [
        (
            Predictions(
                token=sample.token,
                detections=Detections(
                    boxes=sample.boxes.boxes, scores=torch.ones(len(sample.boxes)), labels=sample.boxes.labels
                ),
            ),
            sample.ego2global,
        )
        for sample in samples
    ]
    path = tmp_path / "results.json"
    assert write_predictions(path, found, DETECTION_CLASSES, META) == sum(len(sample.boxes) for sample in samples)
    summary = evaluate_official(root, VERSION, "mini_val", path, tmp_path)
    present = {DETECTION_CLASSES[label] for sample in samples for label in sample.boxes.labels.tolist()}
    assert perfect(summary) == present
    for name in present:
        for error in ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err"):
            value = summary["label_tp_errors"][name][error]
            assert np.isnan(value) or value < 1e-4
    assert json.loads((tmp_path / "metrics_summary.json").read_text())["mean_ap"] == summary["mean_ap"]
    total = sum(score_submission(path, index).values(), MatchCounts())
    assert total.recall == total.precision == 1.0


def test_a_custom_split_and_a_partly_present_one(synthetic, tmp_path):
    root, index = synthetic
    for split in ("first", "mini_train"):
        write_truth(tmp_path / "results.json", index, split)
        summary = evaluate_official(root, VERSION, split, tmp_path / "results.json", tmp_path)
        assert "car" in perfect(summary)


@pytest.mark.parametrize(
    ("split", "content", "message"),
    [
        ("mini_val", "nothing predicted", r"holds no prediction at all.*Invalid box type: None"),
        ("mini_val", "other split", "3 of 3 samples of the split are missing, such as"),
        ("mini_val", "too much", "2 samples do not belong to the split, such as"),
        ("mini_val", "no json", r"read_submission: .*results.json: not JSON"),
        ("none", "other split", "split must have scenes in .*, 'none' has none of scene-0061, scene-0103"),
        ("fourth", "other split", "fourth"),
        ("val", "other split", "Requested split val which is not compatible with NuScenes version v1.0-mini"),
        ("test", "other split", "split must have scenes in .*, 'test' has none"),
    ],
)
def test_what_the_devkit_refuses_is_explained(synthetic, tmp_path, split, content, message):
    root, index = synthetic
    path = tmp_path / "results.json"
    val, train = (
        [(index.record(int(i)).token, EMPTY) for i in index.samples_of(name)] for name in ("mini_val", "mini_train")
    )
    if content == "no json":
        path.write_text("{")
    else:
        write_submission(path, {"nothing predicted": val, "other split": train, "too much": val + train}[content], META)
    with pytest.raises(ValueError, match=message):
        evaluate_official(root, VERSION, split, path, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rotation", [1.002, 0, 0, 0], "must have norm 1 within 0.001"),
        ("rotation", [0, 0, 0, 0], "must have norm 1 within 0.001"),
        ("rotation", [float("inf"), 0, 0, 0], "must have norm 1 within 0.001"),
        ("translation", [True, 0, 0], "Expected `float`, got `bool`"),
        ("detection_score", "0.5", "Expected `float`, got `str`"),
        ("detection_name", "dog", "must be one of car, "),
        ("size", [1, float("nan"), 1], "must be > 0"),
        ("size", [1, -1, 1], "must be > 0"),
    ],
)
def test_what_breaks_a_rule_is_named_before_the_devkit_begins(synthetic, tmp_path, capsys, field, value, message):
    root, index = synthetic
    path = tmp_path / "results.json"
    write_truth(path, index, "mini_val")
    content = json.loads(path.read_text())
    token = next(iter(content["results"]))
    content["results"][token][1][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"read_submission: .*sample '{token}': box 1, field {field}.*: {message}"):
        evaluate_official(root, VERSION, "mini_val", path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not capsys.readouterr().err


def test_the_devkit_is_silent(synthetic, tmp_path, capfd):
    root, index = synthetic
    write_truth(tmp_path / "results.json", index, "mini_val")
    evaluate_official(root, VERSION, "mini_val", tmp_path / "results.json", tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_set_that_does_not_load_and_a_missing_file_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such results file"):
        evaluate_official(tmp_path, VERSION, "mini_val", tmp_path / "results.json", tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="the devkit cannot load it: Database version not found"):
        evaluate_official(tmp_path, VERSION, "mini_val", tmp_path / "results.json", tmp_path)


@pytest.mark.parametrize("split", ["mini_train", "mini_val"])
def test_recorded_truth_scores_one_for_every_class_that_is_left(real_data, tmp_path, split):
    index = make_index(real_data / "nuscenes", tmp_path / "index")
    path = tmp_path / "results.json"
    write_truth(path, index, split)
    summary = evaluate_official(real_data / "nuscenes", VERSION, split, path, tmp_path)
    counts = score_submission(path, index, MatchRule(min_lidar_points=1))
    total = sum(counts.values(), MatchCounts())
    assert total.recall == total.precision == 1.0
    present = {DETECTION_CLASSES[label] for label in _labels_after_filters(real_data, index, split)}
    assert perfect(summary) == present


def _labels_after_filters(real_data, index: Index, split: str) -> set[int]:
    """Labels of the annotations that the devkit's range, point and bicycle rack filters leave."""
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt
    from nuscenes.eval.detection.data_classes import DetectionBox

    tables = NuScenes(VERSION, str(real_data / "nuscenes"), verbose=False)
    truth = add_center_dist(tables, load_gt(tables, split, DetectionBox))
    left = filter_eval_boxes(tables, truth, config_factory("detection_cvpr_2019").class_range)
    return {DETECTION_CLASSES.index(box.detection_name) for box in left.all}
