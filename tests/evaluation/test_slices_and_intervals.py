"""Slices of a submission's figures, and how sure they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.bootstrap import PRESENT, SCORES, bootstrap, paired_bootstrap
from perception.evaluation.detection_report import details, evaluate_submission
from perception.evaluation.slices import slice_report, standard_slices
from tests.detection_results import random_results, small_dataset, truth_results, worst_difference, write_results
from tests.synthetic_nuscenes import VERSION as SMALL_VERSION
from tests.synthetic_nuscenes import write_synthetic_nuscenes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> tuple[Path, Index]:
    return small_dataset(tmp_path_factory.mktemp("set"))


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


def test_a_slice_of_a_split_without_annotations_is_sliced_again(dataset, tmp_path):
    report = evaluate_submission(
        write_results(tmp_path / "results.json", random_results(dataset[1], 5)), dataset[1], "two"
    )
    nothing = slice_report(report, np.zeros(len(report.truth), dtype=bool))
    bare = replace(nothing, truth=report.truth.select(np.zeros(len(report.truth), dtype=bool)))
    again = slice_report(bare, np.zeros(0, dtype=bool))
    assert again.summary["mean_ap"] == 0 and all(not (one.hits >= 0).any() for one in again.matches.values())


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
    """Beside a scene without anything, one scene has the score of itself, drawn once or twice, or none."""
    results = random_results(dataset[1], 6)
    alone = evaluate_submission(write_results(tmp_path / "results.json", results), dataset[1], "two")
    beside = replace(alone, scenes=("all", "empty"), sample_scenes=np.zeros_like(alone.sample_scenes))
    found = bootstrap(beside, draws=50)
    assert (found["mAP"].low, found["mAP"].high) == (0, pytest.approx(alone.summary["mean_ap"], rel=1e-3))


def test_one_scene_has_no_range(dataset, tmp_path):
    results = write_results(tmp_path / "results.json", random_results(dataset[1], 6))
    alone = evaluate_submission(results, dataset[1], "two")
    one_scene = replace(alone, scenes=("all",), sample_scenes=np.zeros_like(alone.sample_scenes))
    found, same = bootstrap(one_scene, draws=5), paired_bootstrap(one_scene, one_scene, draws=5)
    assert found["mAP"].value == alone.summary["mean_ap"]
    assert not any(one.has_range for one in (*found.values(), *same.values()))


def test_a_draw_without_a_class_says_nothing_of_it(dataset, tmp_path):
    """Everything is found, so that whatever can be said is 1, with any scenes."""
    path = write_results(tmp_path / "results.json", truth_results(dataset[1]))
    report = evaluate_submission(path, dataset[1], "two")
    elsewhere = np.zeros(len(report.truth), dtype=bool)
    elsewhere[report.matches["car"].truth] = True
    elsewhere &= report.sample_scenes[report.truth.samples] == 1
    found = bootstrap(slice_report(report, ~elsewhere), draws=50)
    assert elsewhere.any() and report.summary["mean_dist_aps"]["car"] == pytest.approx(1)
    assert found["car"].value == pytest.approx(1) and not found["car"].has_range
    for name in ("pedestrian", PRESENT):
        assert (found[name].low, found[name].high) == (pytest.approx(1), pytest.approx(1)), name
    assert found["mAP"].low == pytest.approx(found["mAP"].value - 0.1)  # as the devkit counts what is absent


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
