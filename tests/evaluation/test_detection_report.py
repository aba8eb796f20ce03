"""Our detection metrics against the devkit's, on predictions that touch every rule, and their slices and intervals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.blow_up_nuscenes import VERSION, Size, blow_up
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.bootstrap import SCORES, bootstrap, paired_bootstrap
from perception.evaluation.detection_metrics import ERRORS, curves
from perception.evaluation.detection_report import DetectionReport, details, evaluate_submission, write_metrics
from perception.evaluation.eval_boxes import BicycleRacks, EvalBoxes, filter_boxes
from perception.evaluation.official import NothingToScoreError, evaluate_official
from perception.evaluation.slices import slice_report, standard_slices
from perception.formats.classes import ATTRIBUTES, DETECTION_CLASSES
from tests.synthetic_nuscenes import VERSION as SMALL_VERSION
from tests.synthetic_nuscenes import write_synthetic_nuscenes

SIZE = Size(scenes=4, samples=24, sample_data=24 * 12, annotations=24 * 30)
META = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> tuple[Path, Index]:
    """A set of four train scenes whose annotations lie around the vehicle, and its index."""
    folder = tmp_path_factory.mktemp("set")
    small = write_synthetic_nuscenes(folder / "small")
    blow_up(small / SMALL_VERSION, folder / "set", SIZE)
    (folder / "set" / VERSION / "splits.json").write_text(json.dumps({"two": ["scene-0002", "scene-0001"]}))
    build_index(folder / "set", VERSION, folder / "index")
    return folder / "set", Index.open(folder / "index")


def box(token: str, center, **changes) -> dict:
    """A prediction as the file has it."""
    return {
        "sample_token": token,
        "translation": [float(value) for value in center],
        "size": [1.9, 4.6, 1.7],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        "detection_name": "car",
        "detection_score": 0.5,
        "attribute_name": "",
    } | changes


def random_results(index: Index, seed: int, per_sample: int = 40) -> dict:
    """Boxes near annotations and elsewhere, with equal scores, unknown velocities, wrong inner tokens and score 0."""
    rng = np.random.default_rng(seed)
    results = {}
    for position in rng.permutation(len(index)):
        record = index.record(int(position))
        boxes = record.annotations.boxes_global
        rows = []
        for number in rng.integers(len(boxes), size=per_sample):
            label = int(record.annotations.labels[number]) if rng.random() < 0.8 else int(rng.integers(10))
            shift = np.round(rng.normal(size=2) * rng.choice([0.0, 0.3, 1.5, 20.0]), 2)
            turn = record.annotations.rotations[number] + rng.normal(size=4) * 0.1
            rows.append(
                box(
                    record.token if rng.random() > 0.02 else "unknown",
                    [*(boxes[number, :2] + shift), boxes[number, 2]],
                    size=(boxes[number, [4, 3, 5]] * rng.uniform(0.7, 1.4, 3)).tolist(),
                    rotation=(turn / np.linalg.norm(turn)).tolist(),
                    velocity=rng.choice([0.0, 1.5, np.nan], 2).tolist(),
                    detection_name=DETECTION_CLASSES[label if label >= 0 else DETECTION_CLASSES.index("bicycle")],
                    detection_score=float(np.round(rng.random(), 1)),
                    attribute_name=str(rng.choice(["", *ATTRIBUTES])),
                    **({"num_pts": 0} if rng.random() < 0.02 else {}),
                )
            )
        results[record.token] = rows
    return results


def write_results(path: Path, results: dict) -> Path:
    path.write_text(json.dumps({"meta": META, "results": results}))
    return path


def worst_difference(ours, theirs, name: str = "") -> float:
    """Largest difference between two JSON contents of the same form, the time apart."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), name
        pairs = [(key, ours[key], theirs[key]) for key in ours if key != "eval_time"]
        return max((worst_difference(one, other, f"{name}/{key}") for key, one, other in pairs), default=0.0)
    if isinstance(ours, list):
        return max((worst_difference(*pair, name) for pair in zip(ours, theirs, strict=True)), default=0.0)
    if isinstance(ours, float | int) and not isinstance(ours, bool):
        return 0.0 if np.isnan(ours) and np.isnan(theirs) else float(np.nan_to_num(abs(ours - theirs), nan=np.inf))
    assert ours == theirs, name
    return 0.0


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
    with pytest.raises(ValueError, match=rf"1 samples of the split are missing, such as {token}"):
        evaluate_submission(path, index, "train")
    with pytest.raises(ValueError, match=r"split 'val' has none|'val' has none"):
        evaluate_submission(path, index, "val")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("largest", [1.0, 3.0, 1e300])
def test_scores_beyond_1_are_only_an_order_and_too_large_ones_are_named(largest):
    hit, errors = np.ones(3, dtype=bool), {name: np.zeros(3) for name in ERRORS}
    found = curves(np.array([largest, 0.5, 0.25]), hit, errors, 3)
    assert found.average_precision == pytest.approx(1) and found.confidence[0] == largest
    with pytest.raises(ValueError, match=r"not too large to interpolate, got 0.25 to 1.7e\+308"):
        curves(np.array([1.7e308, 0.5, 0.25]), hit, errors, 3)


def truth_results(index: Index) -> dict:
    """Every annotation with points, as a perfect detector finds it."""
    results = {}
    for position in range(len(index)):
        record = index.record(position)
        table = record.annotations
        results[record.token] = [
            box(
                record.token,
                table.boxes_global[row, :3],
                size=table.boxes_global[row, [4, 3, 5]].tolist(),
                rotation=table.rotations[row].tolist(),
                detection_name=DETECTION_CLASSES[table.labels[row]],
                attribute_name=table.attributes[row],
            )
            for row in np.flatnonzero(table.labels >= 0)
        ]
    return results


def test_a_slice_asks_for_its_annotations_alone(dataset, tmp_path):
    results = truth_results(dataset[1])
    report = evaluate_submission(write_results(tmp_path / "results.json", results), dataset[1], "train")
    assert report.summary["mean_dist_aps"]["car"] == pytest.approx(1)
    near = report.truth.ego_distances_m < 15
    assert near.any() and not near.all()
    # Without the far predictions, the whole split loses recall and the near slice loses nothing.
    lost = {name: match.hits.copy() for name, match in report.matches.items()}
    for name, match in report.matches.items():
        far = ~near[np.maximum(match.hits, 0)] & (match.hits >= 0)
        lost[name][far] = -1
    without = replace(report, matches={name: replace(match, hits=lost[name]) for name, match in report.matches.items()})
    sliced = slice_report(without, near, report.predictions.ego_distances_m < 15)
    classes = {name for name, match in sliced.matches.items() if len(match.truth)}
    assert classes
    for name in classes:
        assert sliced.summary["mean_dist_aps"][name] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"of_truth must be \(\d+,\) bool, got \(3,\) float64"):
        slice_report(report, np.zeros(3))


def test_slices_share_the_annotations_out(dataset, tmp_path):
    path = write_results(tmp_path / "results.json", random_results(dataset[1], 4))
    report = evaluate_submission(path, dataset[1], "train")
    sizes = {
        name: sum(len(match.truth) for match in one.matches.values()) for name, one in standard_slices(report).items()
    }
    for kind in (" m", "points", "visibility"):
        assert sum(size for name, size in sizes.items() if kind in name) == len(report.truth)
    whole = slice_report(report, np.ones(len(report.truth), dtype=bool))
    assert worst_difference(details(whole.curves), details(report.curves)) <= 1e-12


def test_slices_by_points_count_those_of_the_lidar_and_the_filter_all(tmp_path):
    root = write_synthetic_nuscenes(tmp_path / "set", {"scene-0103": 1}, cameras=False)
    path = root / SMALL_VERSION / "sample_annotation.json"
    counts = [(0, 0), (0, 60), (5, 60), (6, 0), (50, 60), (51, 0), (9, 9)]  # the last is the rack
    rows = [
        row | {"num_lidar_pts": lidar, "num_radar_pts": radar}
        for row, (lidar, radar) in zip(json.loads(path.read_text()), counts, strict=True)
    ]
    path.write_text(json.dumps(rows))
    build_index(root, SMALL_VERSION, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    results = write_results(tmp_path / "results.json", truth_results(index))
    slices = standard_slices(evaluate_submission(results, index, "mini_val"))
    sizes = {name: sum(one.num_truth.values()) for name, one in slices.items() if "points" in name}
    assert sizes == {"points <= 5": 2, "points 6-50": 2, "points > 50": 1}


def test_intervals_hold_the_value_and_shrink_for_equal_scenes(dataset, tmp_path):
    path = write_results(tmp_path / "results.json", random_results(dataset[1], 5))
    report = evaluate_submission(path, dataset[1], "train")
    found = bootstrap(report, draws=50)
    assert set(found) == set(SCORES)
    assert found["mAP"].value == report.summary["mean_ap"]
    assert found["NDS"].value == report.summary["nd_score"]
    assert found["mAP"].low < found["mAP"].value < found["mAP"].high
    small = [found[name].value for name in ("pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier")]
    assert found["mAP of small classes"].value == pytest.approx(np.mean(small))
    assert found == bootstrap(report, draws=50)
    same = paired_bootstrap(report, report, draws=10)
    assert all((one.value, one.low, one.high) == (0, 0, 0) for one in same.values())
    with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
        bootstrap(report, draws=0)


def test_drawing_a_scene_twice_counts_its_boxes_twice(dataset, tmp_path):
    """One scene drawn any number of times has the score of itself."""
    results = random_results(dataset[1], 6)
    alone = evaluate_submission(write_results(tmp_path / "results.json", results), dataset[1], "two")
    one_scene = replace(alone, scenes=("all",), sample_scenes=np.zeros_like(alone.sample_scenes))
    found = bootstrap(one_scene, draws=5)
    assert found["mAP"].low == found["mAP"].high == alone.summary["mean_ap"]


def test_a_better_submission_is_better_beyond_the_interval(dataset, tmp_path):
    worse = random_results(dataset[1], 7)
    path = write_results(tmp_path / "worse.json", worse)
    first = evaluate_submission(path, dataset[1], "train")
    second = evaluate_submission(
        write_results(tmp_path / "better.json", truth_results(dataset[1])), dataset[1], "train"
    )
    gain = paired_bootstrap(first, second, draws=50)["car"]
    assert 0 < gain.low <= gain.value <= gain.high
    assert gain.value == pytest.approx(second.summary["mean_dist_aps"]["car"] - first.summary["mean_dist_aps"]["car"])
    other = evaluate_submission(path, dataset[1], "two")
    with pytest.raises(ValueError, match="both reports must be of the same scenes"):
        paired_bootstrap(first, other)
