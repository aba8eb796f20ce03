import numpy as np
import pytest

from perception.evaluation.matching import MatchCounts, MatchRule, PlacedObjects, match_detections
from perception.formats.classes import DETECTION_CLASSES

CAR, PEDESTRIAN, BARRIER = (DETECTION_CLASSES.index(name) for name in ("car", "pedestrian", "barrier"))


def objects(*rows: tuple[float, float, int, float]) -> PlacedObjects:
    """Objects of rows x, y, label, weight."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return PlacedObjects(offsets_m=table[:, :2], labels=table[:, 2].astype(np.int64), weights=table[:, 3])


def counts(detections: PlacedObjects, truth: PlacedObjects, **rule: float) -> tuple[int, int, int]:
    """num_truth, num_detections, num_matched."""
    result = match_detections(detections, truth, MatchRule(**rule))
    return result.num_truth, result.num_detections, result.num_matched


def test_class_score_and_distance_decide():
    truth = objects((10, 0, CAR, 50), (0, 10, PEDESTRIAN, 20))
    assert counts(objects((11.9, 0, CAR, 0.9), (0, 10, PEDESTRIAN, 0.3)), truth) == (2, 2, 2)
    assert counts(objects((12.1, 0, CAR, 0.9), (0, 10, PEDESTRIAN, 0.29)), truth) == (2, 1, 0)
    assert counts(objects((10, 0, PEDESTRIAN, 0.9)), truth) == (2, 1, 0)


def test_one_box_is_found_once():
    truth = objects((10, 0, CAR, 50))
    assert counts(objects((10, 0, CAR, 0.9), (10, 0.1, CAR, 0.8)), truth) == (1, 2, 1)


def test_higher_score_chooses_first_and_takes_the_nearest():
    truth = objects((10, 0, CAR, 50), (13, 0, CAR, 50))
    # The better one takes x = 10; the other one reaches only that box and is a false alarm.
    assert counts(objects((9, 0, CAR, 0.5), (11.4, 0, CAR, 0.9)), truth) == (2, 2, 1)
    assert counts(objects((9, 0, CAR, 0.9), (11.4, 0, CAR, 0.5)), truth) == (2, 2, 2)


def test_boxes_with_few_points_count_neither_way():
    truth = objects((10, 0, CAR, 4), (20, 0, CAR, 5))
    assert counts(objects((10, 0, CAR, 0.9), (20, 0, CAR, 0.9), (30, 0, CAR, 0.9)), truth) == (1, 2, 1)
    assert counts(objects((10, 0, CAR, 0.9)), truth, min_lidar_points=4) == (2, 1, 1)
    assert counts(objects((10, 0, PEDESTRIAN, 0.9)), truth) == (1, 1, 0)


@pytest.mark.parametrize(("label", "range_m"), [(CAR, 50), (PEDESTRIAN, 40), (BARRIER, 30)])
def test_each_class_has_its_range(label, range_m):
    inside, outside = objects((0, range_m - 0.01, label, 9)), objects((0, range_m, label, 9))
    assert counts(inside, inside) == (1, 1, 1)
    assert counts(outside, outside) == (0, 0, 0)


def test_nothing_gives_nan_and_counts_add_up():
    none = match_detections(objects(), objects())
    assert np.isnan(none.recall)
    assert np.isnan(none.precision)
    total = sum([none, MatchCounts(num_truth=4, num_detections=6, num_matched=3)], MatchCounts())
    assert (total.recall, total.precision) == (0.75, 0.5)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"offsets_m, labels and weights must be .* got \(2, 3\), \(2,\) and \(2,\)"):
        PlacedObjects(offsets_m=np.zeros((2, 3)), labels=np.zeros(2, dtype=int), weights=np.zeros(2))
