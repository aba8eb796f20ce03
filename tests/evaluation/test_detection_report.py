"""Our detection metrics against the devkit's, on predictions that touch every rule."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pyquaternion import Quaternion

from benchmarks.blow_up_nuscenes import VERSION
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.bootstrap import bootstrap
from perception.evaluation.detection_metrics import ERRORS, curves
from perception.evaluation.detection_report import DetectionReport, evaluate_submission, write_metrics
from perception.evaluation.eval_boxes import BicycleRacks, EvalBoxes, filter_boxes
from perception.evaluation.official import NothingToScoreError, evaluate_official
from perception.evaluation.slices import standard_slices
from perception.formats.classes import DETECTION_CLASSES
from tests.detection_results import (
    META,
    box,
    random_results,
    small_dataset,
    truth_results,
    worst_difference,
    write_results,
)
from tests.synthetic_nuscenes import VERSION as SMALL_VERSION
from tests.synthetic_nuscenes import write_synthetic_nuscenes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> tuple[Path, Index]:
    return small_dataset(tmp_path_factory.mktemp("set"))


def assert_equal_to_devkit(dataset, results: dict, folder: Path, split: str = "train") -> DetectionReport:
    """Scores results both ways and compares every number of both files."""
    path = write_results(folder / "results.json", results)
    report = evaluate_submission(path, dataset[1], split)
    write_metrics(report, folder / "ours")
    evaluate_official(dataset[0], VERSION, split, path, folder / "official")
    for name in ("metrics_summary.json", "metrics_details.json"):
        ours, theirs = (json.loads((folder / kind / name).read_text()) for kind in ("ours", "official"))
        assert worst_difference(ours, theirs) <= 1e-12
    return report


def test_every_number_equals_the_devkits(dataset, tmp_path):
    report = assert_equal_to_devkit(dataset, random_results(dataset[1], 0), tmp_path)
    assert 0.01 < report.summary["mean_ap"] < 0.9
    assert report.summary["mean_dist_aps"]["bicycle"] == 0  # none is annotated: the class counts all the same


@pytest.mark.parametrize("turn", [[0.5**0.5, 0, 0.5**0.5, 0], [0.5**0.5, 0, -(0.5**0.5), 0], [0.6, 0.1, 0.77, -0.2]])
def test_boxes_that_stand_upright_have_the_devkits_heading(dataset, tmp_path, turn):
    """An x axis that points up has no heading; what rounding leaves of it decides, and every box has other rounding."""
    rng, results = np.random.default_rng(5), random_results(dataset[1], 5)
    for rows in results.values():
        for row in rows:
            about_z = Quaternion(axis=[0, 0, 1], radians=rng.uniform(-np.pi, np.pi))
            row["rotation"] = (about_z * Quaternion(turn).normalised).elements.tolist()
    report = assert_equal_to_devkit(dataset, results, tmp_path)
    assert report.summary["tp_errors"]["orient_err"] > 0.1


def test_a_split_of_the_sets_own_takes_its_samples_out_of_a_larger_file(dataset, tmp_path):
    results = random_results(dataset[1], 2)
    report = assert_equal_to_devkit(dataset, results, tmp_path, "two")
    assert report.scenes == ("scene-0001", "scene-0002")
    assert len(report.sample_scenes) < len(results)


def test_a_box_that_names_another_sample_is_told_and_matched_in_that_one(dataset, tmp_path, caplog):
    results = random_results(dataset[1], 10, per_sample=5)
    for rows, token in zip(results.values(), results, strict=True):
        for row in rows:
            row["sample_token"] = token
    (first, second), (_, other) = list(results)[:2], list(results.values())[:2]
    other[3]["sample_token"], other[4]["sample_token"] = first, "elsewhere"
    path = write_results(tmp_path / "results.json", results)
    report = evaluate_submission(path, dataset[1], "train")
    assert "2 boxes name another sample than the one they stand under" in caplog.text
    assert f"the first: sample '{second}', box 3, field sample_token: '{first}'" in caplog.text
    assert (report.predictions.samples == -1).sum() <= 1
    assert_equal_to_devkit(dataset, results, tmp_path)


def test_samples_that_the_set_does_not_have_are_refused_in_a_split_of_its_own(dataset, tmp_path):
    results = random_results(dataset[1], 11, per_sample=2) | {"elsewhere": []}
    path = write_results(tmp_path / "results.json", results)
    with pytest.raises(ValueError, match="results must be of the set's samples, 1 are not, such as 'elsewhere'"):
        evaluate_submission(path, dataset[1], "two")


def test_scores_by_hand(tmp_path):
    """Two cars with a hit, a false alarm and a hit; one truck that is found; nothing else, in one sample."""
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0103": 1}, cameras=False)
    build_index(root, SMALL_VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    record = index.record(0)
    boxes, kinds = record.annotations.boxes_global, record.annotations.labels
    first, second = np.flatnonzero(kinds == DETECTION_CLASSES.index("car"))
    (truck,) = np.flatnonzero(kinds == DETECTION_CLASSES.index("truck"))

    def found(row: int, score: float, **changes) -> dict:
        length, width, height = boxes[row, 3:6]
        same = {
            "size": [width, length, height],
            "rotation": record.annotations.rotations[row].tolist(),
            "detection_name": DETECTION_CLASSES[kinds[row]],
            "attribute_name": record.annotations.attributes[row],
        }
        return box(record.token, boxes[row, :3], detection_score=score, **(same | changes))

    half = boxes[second, [4, 3, 5]] * np.array([0.5, 1.0, 1.0])  # half as wide
    turned = boxes[second, 6] + 0.25
    wrong = {
        "translation": (boxes[second, :3] + [0.9, 1.2, 5.0]).tolist(),  # a metre and a half, whatever the height
        "size": half.tolist(),
        "rotation": [np.cos(turned / 2), 0.0, 0.0, np.sin(turned / 2)],
        "attribute_name": "vehicle.moving",  # it is parked
    }
    alarm = found(first, 0.6, translation=[*(boxes[first, :2] + 9), 0.0])
    rows = [found(first, 0.9), alarm, found(second, 0.3, **wrong), found(truck, 0.8)]
    report = evaluate_submission(write_results(tmp_path / "a.json", {record.token: rows}), index, "mini_val")
    # At 2 and 4 m: precision 1 up to recall 0.5, then it goes from 1/2 at recall 0.5 to 2/3 at recall 1; at the
    # smaller distances the second car is missed, and recall ends at 0.5.
    recalls = np.arange(11, 101) / 100
    far = np.where(recalls < 0.5, 1.0, 1 / 2 + (recalls - 0.5) / 0.5 * (2 / 3 - 1 / 2))
    near = np.where(recalls < 0.5, 1.0, np.where(recalls == 0.5, 1 / 3, 0.0))
    cars = report.summary["label_aps"]["car"]
    assert cars[2.0] == cars[4.0] == pytest.approx(np.mean(far - 0.1) / 0.9, abs=1e-12)
    assert cars[0.5] == cars[1.0] == pytest.approx(np.mean(np.maximum(near - 0.1, 0)) / 0.9, abs=1e-12)
    assert report.summary["mean_dist_aps"]["truck"] == pytest.approx(1)
    mean_ap = (sum(cars.values()) / 4 + 1) / 10
    assert report.summary["mean_ap"] == pytest.approx(mean_ap, abs=1e-12)
    # Errors: 0 down to the score 0.9, then the mean of 0 and that of the second hit, in between by the score. Scores
    # over recall: 0.9 up to a half, from there straight from 0.6 (the false alarm stands at recall 0.5) to 0.3.
    score = np.where(recalls < 0.5, 0.9, 0.6 - (recalls - 0.5) / 0.5 * 0.3)
    share = np.mean((0.9 - score) / (0.9 - 0.3) / 2)
    of_cars = report.summary["label_tp_errors"]["car"]
    expected = {"trans_err": 1.5, "scale_err": 0.5, "orient_err": 0.25, "attr_err": 1.0}
    for name, error in expected.items():
        assert of_cars[name] == pytest.approx(share * error, abs=1e-9), name
    # Eight classes are not there or not found: their errors are 1, but for those that a class does not have.
    assert report.summary["tp_errors"]["trans_err"] == pytest.approx((1.5 * share + 0 + 8) / 10, abs=1e-9)
    assert report.summary["tp_errors"]["orient_err"] == pytest.approx((0.25 * share + 0 + 7) / 9, abs=1e-9)
    assert report.summary["tp_errors"]["attr_err"] == pytest.approx((share + 0 + 6) / 8, abs=1e-9)
    scores = sum(1 - error for error in report.summary["tp_errors"].values())
    assert report.summary["nd_score"] == pytest.approx((5 * mean_ap + scores) / 10, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "range_m"), [("car", 50), ("pedestrian", 40), ("bicycle", 40), ("traffic_cone", 30), ("barrier", 30)]
)
def test_the_range_of_a_class_ends_before_its_bound(name, range_m):
    nothing = np.zeros(0, dtype=np.int64)
    racks = BicycleRacks(nothing, np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)))
    distances_m = np.array([0.0, np.nextafter(range_m, 0), range_m, np.nextafter(range_m, 99), np.inf])
    count = len(distances_m)
    whole = np.zeros(count, dtype=np.int64)
    boxes = EvalBoxes(
        samples=whole,
        ego_distances_m=distances_m,
        translations=np.zeros((count, 3)),
        sizes_wlh=np.ones((count, 3)),
        rotations_wxyz=np.tile([1.0, 0, 0, 0], (count, 1)),
        velocities=np.zeros((count, 2)),
        labels=whole + DETECTION_CLASSES.index(name),
        attributes=whole,
        num_pts=whole - 1,
        num_lidar_pts=whole - 1,
        scores=np.ones(count),
        visibility=whole,
    )
    assert filter_boxes(boxes, whole, racks).ego_distances_m.tolist() == distances_m[:2].tolist()


def test_the_range_is_measured_as_the_devkit_measures_it(dataset, tmp_path):
    """Predictions on the bound of their class, a hair inside and a hair outside, in four directions."""
    results = {}
    for position in range(len(dataset[1])):
        record = dataset[1].record(position)
        ego_xy = record.ego2global[:2, 3]
        results[record.token] = [
            box(record.token, [*(ego_xy + direction * reach), 0.0], detection_name=name)
            for name, range_m in (("car", 50.0), ("pedestrian", 40.0), ("barrier", 30.0))
            for reach in (range_m - 1e-9, range_m, range_m + 1e-9)
            for direction in np.array([[1.0, 0.0], [0.0, -1.0], [0.6, 0.8], [-0.8, 0.6]])
        ]
    report = assert_equal_to_devkit(dataset, results, tmp_path)
    assert 12 * len(results) <= len(report.predictions) < 24 * len(results)


def test_rounding_decides_between_mirrored_offsets_as_in_the_devkit(dataset, tmp_path):
    """Predictions in the middle between annotations, to the last bit, and at the limits of distance."""
    index = dataset[1]
    rng = np.random.default_rng(0)
    results = {}
    for position in range(len(index)):
        record = index.record(position)
        cars = np.flatnonzero(record.annotations.labels == 0)
        centers = record.annotations.boxes_global[cars, :3]
        middles = [(one + other) / 2 for one in centers for other in centers]
        limits = [center + np.append(rng.permutation([0.3, 0.4]), 0) for center in centers]
        limits += [center + np.append(rng.permutation([0.0, 2.0]), 0) for center in centers]
        results[record.token] = [box(record.token, center) for center in [*middles, *limits]][:500]
    assert_equal_to_devkit(dataset, results, tmp_path)


def test_cycles_in_a_rack_are_left_out(dataset, tmp_path):
    """Bicycles in the middle of a rack, on its face as exactly as numbers allow, and just outside."""
    index, results = dataset[1], {}
    for position in range(len(index)):
        record = index.record(position)
        rack = record.annotations.categories.index("static_object.bicycle_rack")
        center, half = record.annotations.boxes_global[rack, :3], record.annotations.boxes_global[rack, 5] / 2
        heights = [0, half, -half, half + 1e-6, np.nextafter(half, 9), np.nextafter(half, 0)]
        results[record.token] = [
            box(record.token, center + np.array([0, 0, height]), detection_name="bicycle") for height in heights
        ]
    report = assert_equal_to_devkit(dataset, results, tmp_path)
    near = report.predictions.ego_distances_m < 40
    assert len(index) <= near.sum() < 5 * len(index)


def test_nothing_found_is_zero_with_a_warning(dataset, tmp_path, caplog):
    results = {token: [] for token in dataset[1].tokens_of(np.arange(len(dataset[1])))}
    report = evaluate_submission(write_results(tmp_path / "results.json", results), dataset[1], "train")
    assert report.summary["mean_ap"] == 0
    assert report.summary["nd_score"] == 0
    assert "there is not one prediction in the split train" in caplog.text


def test_nothing_left_by_the_filters_is_zero_with_a_warning(tmp_path, caplog):
    """Predictions a kilometre off, and annotations without a point."""
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0103": 1}, cameras=False)
    path = root / SMALL_VERSION / "sample_annotation.json"
    path.write_text(json.dumps([row | {"num_lidar_pts": 0} for row in json.loads(path.read_text())]))
    build_index(root, SMALL_VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    (token,) = index.tokens_of(np.arange(1))
    results = write_results(tmp_path / "results.json", {token: [box(token, [9e3, 9e3, 0])]})
    assert evaluate_submission(results, index, "mini_val").summary["mean_ap"] == 0
    for kind in ("prediction", "annotation of a detection class"):
        assert f"there is not one {kind} that the filters leave in the split mini_val" in caplog.text


def test_nothing_annotated_is_zero_with_a_warning(dataset, tmp_path, caplog):
    """A split of which no annotation has a detection class; the devkit gives up on it."""
    tables = tmp_path / "set" / VERSION
    shutil.copytree(dataset[0] / VERSION, tables)
    for name in dataset[0].iterdir():
        if name.name != VERSION:
            (tmp_path / "set" / name.name).symlink_to(name)
    rows = json.loads((tables / "category.json").read_text())
    for row in rows:
        row["name"] = "static_object.bicycle_rack"
    (tables / "category.json").write_text(json.dumps(rows))
    build_index(tmp_path / "set", VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    path = write_results(tmp_path / "results.json", random_results(dataset[1], 8, per_sample=5))
    report = evaluate_submission(path, index, "train")
    assert report.summary["mean_ap"] == report.summary["nd_score"] == 0
    assert "there is not one annotation of a detection class in the split train" in caplog.text
    assert len(standard_slices(report)) > 5 and bootstrap(report, draws=2)["mAP"].value == 0
    with pytest.raises(NothingToScoreError, match="the split has no annotation of a detection class to compare with"):
        evaluate_official(tmp_path / "set", VERSION, "train", path, tmp_path / "official")
    assert not list((tmp_path / "official").iterdir())


def test_the_last_of_duplicate_keys_wins_as_in_the_devkit(dataset, tmp_path):
    """A sample that stands in the file twice, and a field that stands in a box twice."""
    results = random_results(dataset[1], 9, per_sample=10)
    token = next(iter(results))
    first = json.dumps({token: [box(token, [0, 0, 0])]})[1:-1]
    text = json.dumps({"meta": META, "results": results})
    text = text.replace('"results": {', f'"results": {{{first}, ').replace(
        '"detection_score"', '"detection_score": 0.99, "detection_score"'
    )
    (tmp_path / "results.json").write_text(text)
    report = evaluate_submission(tmp_path / "results.json", dataset[1], "train")
    write_metrics(report, tmp_path / "ours")
    evaluate_official(dataset[0], VERSION, "train", tmp_path / "results.json", tmp_path / "official")
    ours, theirs = (json.loads((tmp_path / kind / "metrics_details.json").read_text()) for kind in ("ours", "official"))
    assert worst_difference(ours, theirs) <= 1e-12
    assert (
        report.summary["mean_ap"]
        == evaluate_submission(write_results(tmp_path / "plain.json", results), dataset[1], "train").summary["mean_ap"]
    )


def test_what_cannot_be_scored_is_an_error(dataset, tmp_path):
    index = dataset[1]
    results = random_results(index, 3, per_sample=5)
    token = next(iter(results))
    for score in (-0.5, -1e-300, float("inf")):
        results[token][3]["detection_score"] = score
        path = write_results(tmp_path / "wrong.json", results)
        place = rf"wrong.json: sample '{token}': box 3, field detection_score"
        with pytest.raises(ValueError, match=rf"{place}: must be finite and >= 0, got {score}"):
            evaluate_submission(path, index, "train")
    del results[token][3]["detection_score"]
    with pytest.raises(ValueError, match=rf"{place}: must be finite and >= 0, got -1.0"):
        evaluate_submission(write_results(path, results), index, "train")
    path = write_results(tmp_path / "short.json", {key: rows for key, rows in results.items() if key != token})
    with pytest.raises(ValueError, match=rf"1 samples of the split are missing, such as '{token}'"):
        evaluate_submission(path, index, "train")
    with pytest.raises(ValueError, match=r"split 'val' has none|'val' has none"):
        evaluate_submission(path, index, "val")
    token = index.tokens_of(index.samples_of("two"))[2]
    path = write_results(tmp_path / "short.json", {key: rows for key, rows in results.items() if key != token})
    with pytest.raises(ValueError, match=rf"short.json: results must hold every .* 1 are missing, such as '{token}'"):
        evaluate_submission(path, index, "two")
    results = truth_results(index)
    token = next(token for token, rows in results.items() if rows)
    for row in results[token]:
        row["detection_score"] = 1.79e308
    path = write_results(tmp_path / "large.json", results)
    place = rf"large.json: sample '{token}': box 0, field detection_score"
    with pytest.raises(ValueError, match=rf"{place}: curves: scores must be >= 0 and not too large to interpolate"):
        evaluate_submission(path, index, "train")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("largest", [1.0, 3.0, 1e300])
def test_scores_beyond_1_are_only_an_order_and_too_large_ones_are_named(largest):
    hit, errors = np.ones(3, dtype=bool), {name: np.zeros(3) for name in ERRORS}
    found = curves(np.array([largest, 0.5, 0.25]), hit, errors, 3)
    assert found.average_precision == pytest.approx(1) and found.confidence[0] == largest
    with pytest.raises(ValueError, match=r"not too large to interpolate, got 0.25 to 1.7e\+308"):
        curves(np.array([1.7e308, 0.5, 0.25]), hit, errors, 3)
