"""Reliability and confusion on cases counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from perception.evaluation.confusion import confusion
from perception.evaluation.detection_matches import match_boxes
from perception.evaluation.detection_metrics import all_curves, summarize
from perception.evaluation.detection_report import DetectionReport
from perception.evaluation.eval_boxes import EvalBoxes
from perception.evaluation.reliability import reliability
from perception.evaluation.slices import condition_slices, slice_report
from perception.formats.classes import DETECTION_CLASSES

CAR, TRUCK, PEDESTRIAN = (DETECTION_CLASSES.index(name) for name in ("car", "truck", "pedestrian"))


def boxes(*rows: tuple[int, float, int, float]) -> EvalBoxes:
    """Boxes of rows sample, x, label, score."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    count = len(table)
    return EvalBoxes(
        samples=table[:, 0].astype(np.int64),
        ego_distances_m=np.abs(table[:, 1]),
        translations=np.pad(table[:, 1:2], ((0, 0), (0, 2))),
        sizes_wlh=np.ones((count, 3)),
        rotations_wxyz=np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
        velocities=np.zeros((count, 2)),
        labels=table[:, 2].astype(np.int64),
        attributes=np.full(count, -1),
        num_pts=np.full(count, 9),
        num_lidar_pts=np.full(count, 9),
        scores=table[:, 3],
        visibility=np.zeros(count, dtype=np.int64),
    )


def report(truth: EvalBoxes, found: EvalBoxes, descriptions: tuple[str, ...] = ("", "")) -> DetectionReport:
    """Of two samples, each a scene of its own."""
    matches = match_boxes(truth, found, 2)
    curves = all_curves(truth, found, matches)
    summary = summarize(curves) | {"eval_time": 0.0, "meta": {}}
    return DetectionReport(summary, curves, matches, truth, found, np.arange(2), ("a", "b"), descriptions)


TRUTH = boxes((0, 0, CAR, -1), (0, 10, CAR, -1), (1, 0, TRUCK, -1), (1, 20, PEDESTRIAN, -1))


def test_counts_scores_and_hits_go_to_their_bins():
    found = boxes((0, 0, CAR, 0.9), (0, 10.5, CAR, 0.8), (0, 30, CAR, 1.0), (1, 0, CAR, 0.25), (0, 40, CAR, 0.2))
    one = reliability(report(TRUTH, found), bins=5)["car"]
    assert one.counts.tolist() == [0, 2, 0, 0, 3]  # 0.8 and 1 are in the last bin, 0.2 in the second
    np.testing.assert_allclose(one.confidences, [np.nan, 0.225, np.nan, np.nan, 0.9])
    np.testing.assert_allclose(one.precisions, [np.nan, 0, np.nan, np.nan, 2 / 3])
    assert one.calibration_error == pytest.approx((2 * 0.225 + 3 * (0.9 - 2 / 3)) / 5)


def test_scores_that_are_right_have_no_error():
    rows = [(0, 0, CAR, 0.5), (0, 30, CAR, 0.5), (0, 10, CAR, 0.5), (1, 30, CAR, 0.5)]
    one = reliability(report(TRUTH, boxes(*rows)))["car"]
    assert one.counts.sum() == one.counts[5] == 4
    assert one.calibration_error == 0


def test_ignored_predictions_do_not_count_and_no_prediction_has_no_error():
    whole = report(TRUTH, boxes((0, 0, CAR, 0.9), (0, 10, CAR, 0.6)))
    near = slice_report(whole, TRUTH.ego_distances_m < 5)
    assert reliability(near)["car"].counts.sum() == 1
    assert np.isnan(reliability(near)["truck"].calibration_error)
    with pytest.raises(ValueError, match="reliability: bins must be >= 1, got 0"):
        reliability(whole, bins=0)


def test_classes_are_mixed_up_as_counted_by_hand():
    found = boxes(
        (0, 0.5, CAR, 0.9),  # right
        (0, 10.5, TRUCK, 0.8),  # a car taken for a truck
        (0, 11.0, CAR, 0.7),  # comes too late: there is nothing left
        (1, 0.0, TRUCK, 0.2),  # not sure enough, so the truck is missed
        (1, 40.0, PEDESTRIAN, 0.5),  # hits nothing, and the pedestrian is missed
        (-1, 0.0, CAR, 0.9),  # of a sample that is not in the split
    )
    one = confusion(report(TRUTH, found))
    expected = np.zeros((11, 11), dtype=np.int64)
    expected[CAR, CAR] = expected[CAR, TRUCK] = 1
    expected[10, CAR] = 2
    expected[TRUCK, 10] = expected[PEDESTRIAN, 10] = expected[10, PEDESTRIAN] = 1
    np.testing.assert_array_equal(one.counts, expected)
    assert one.faults.tolist() == [2, 3]
    nothing = confusion(replace(report(TRUTH, found), truth=TRUTH.select(np.zeros(4, dtype=bool))))
    assert nothing.counts[10].sum() == 5 == nothing.counts.sum()


def test_scenes_are_sliced_by_what_their_descriptions_say():
    found = boxes((0, 0, CAR, 0.9), (1, 0, TRUCK, 0.9), (1, 30, CAR, 0.9))
    whole = report(TRUTH, found, ("Night, after RAIN", "Train station, terrain"))
    sliced = condition_slices(whole)
    assert list(sliced) == ["night", "rain", "other scenes"]
    assert [len(one.matches["car"].truth) for one in sliced.values()] == [2, 2, 0]
    assert [len(one.matches["truck"].truth) for one in sliced.values()] == [0, 0, 1]
    # The false alarm of the second scene is none of the first one's.
    assert sliced["night"].summary["mean_dist_aps"]["car"] > whole.summary["mean_dist_aps"]["car"]
    assert sliced["other scenes"].summary["mean_dist_aps"]["truck"] == pytest.approx(1)
    assert condition_slices(report(TRUTH, found)) == {}
    assert condition_slices(replace(whole, descriptions=())) == {}
