"""Near-field metrics by hand: cells, nearest obstacles by direction, files, intervals over scenes."""

import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.near_field import FIGURES, NearFieldCounts, NearFieldRule, NearFieldScorer
from perception.evaluation.near_field_report import (
    NearFieldReport,
    evaluate_near_field,
    near_field_bootstrap,
    paired_near_field_bootstrap,
    write_near_field_predictions,
)
from perception.formats.near_field import NEAR_FIELD_GRID, NearFieldCell, near_field_bytes
from perception.geometry.grid import Grid
from perception.structures import NearFieldPrediction, Predictions
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

FREE, OCCUPIED, UNKNOWN = NearFieldCell
# Four cells of 1 m by 1 m around a vehicle of 2 m by 2 m, on a map of 6 m by 6 m; four directions: the first is from
# straight ahead to straight left.
GRID = Grid.square(3.0, 1.0, (0.0, 2.0))
RULE = NearFieldRule(num_bins=4, x_range_m=(-1.0, 1.0), half_width_m=1.0)


@pytest.fixture
def scorer() -> NearFieldScorer:
    return NearFieldScorer(RULE, GRID)


def free_ground() -> np.ndarray:
    cells = np.full((6, 6), FREE, np.uint8)
    cells[2:4, 2:4] = UNKNOWN  # the vehicle itself
    return cells


def says(cells: np.ndarray) -> np.ndarray:
    """A prediction that is sure of what some cells say."""
    return np.where(cells == OCCUPIED, 0.9, 0.1)


def test_directions_begin_ahead_and_go_to_the_left(scorer: NearFieldScorer) -> None:
    # Columns are x, rows are y: ahead on the left are the last rows and columns.
    assert scorer.bins[5, 5] == 0 and scorer.bins[5, 0] == 1 and scorer.bins[0, 0] == 2 and scorer.bins[0, 5] == 3


def test_distances_are_from_the_outline(scorer: NearFieldScorer) -> None:
    assert scorer.distances_m[2:4, 2:4].max() == 0
    np.testing.assert_allclose(scorer.distances_m[3], [1.5, 0.5, 0, 0, 0.5, 1.5])
    np.testing.assert_allclose(scorer.distances_m[5, 5], math.hypot(1.5, 1.5))


def test_the_default_outline_is_that_of_the_car_around_its_rear_axle() -> None:
    scorer = NearFieldScorer()
    inside = NEAR_FIELD_GRID.centers_xy().numpy()[scorer.distances_m == 0]
    np.testing.assert_allclose(inside.min(0), [-0.65, -0.85])
    np.testing.assert_allclose(inside.max(0), [3.35, 0.85])


def test_a_perfect_prediction(scorer: NearFieldScorer) -> None:
    cells = free_ground()
    cells[5, 4:] = OCCUPIED
    counts = scorer.count(says(cells), cells)
    assert counts == NearFieldCounts(samples=1, hit_cells=2, occupied_bins=1, clear_bins=3)
    figures = counts.figures()
    assert tuple(figures) == FIGURES
    assert [figures[name] for name in FIGURES] == [1, 1, 1, 0, 0, 0, 0]


def test_cells_by_hand(scorer: NearFieldScorer) -> None:
    cells, said = free_ground(), free_ground()
    cells[5, 3:] = OCCUPIED  # three
    said[5, 4:] = said[0, 0] = OCCUPIED  # two of them, and one that is free
    cells[0, 5] = UNKNOWN
    said[0, 5] = OCCUPIED  # nobody knows
    figures = scorer.count(says(said), cells).figures()
    assert figures["iou"] == 2 / 4
    assert figures["precision"] == 2 / 3
    assert figures["recall"] == 2 / 3
    assert figures["missed_bins"] == 0
    assert figures["false_bins"] == 1 / 3


def test_the_nearest_obstacle_of_a_direction_by_hand(scorer: NearFieldScorer) -> None:
    cells, said = free_ground(), free_ground()
    cells[3, 4] = OCCUPIED  # ahead left, 0.5 m from the outline
    said[3, 5] = OCCUPIED  # 1.5 m: 1 m too far
    cells[3, 0] = OCCUPIED  # behind left, 1.5 m
    said[3, 1] = said[3, 0] = OCCUPIED  # 0.5 m: 1 m too near
    cells[0, 0] = OCCUPIED  # behind right, nothing predicted
    said[0, 5] = OCCUPIED  # ahead right, nothing there
    counts = scorer.count(says(said), cells)
    assert counts.occupied_bins == 3 and counts.clear_bins == 1
    assert counts.missed_bins == 1 and counts.false_bins == 1
    figures = counts.figures()
    assert figures["distance_error_m"] == pytest.approx(1.0)
    assert figures["too_far_m"] == pytest.approx(0.5)
    assert figures["missed_bins"] == pytest.approx(1 / 3) and figures["false_bins"] == 1


def test_an_obstacle_predicted_inside_what_hides_it_is_at_a_wrong_distance_and_no_miss(scorer: NearFieldScorer) -> None:
    cells, said = free_ground(), free_ground()
    cells[3, 4], cells[3, 5] = OCCUPIED, UNKNOWN
    said[3, 5] = OCCUPIED
    counts = scorer.count(says(said), cells)
    assert (counts.missed_bins, counts.error_m, counts.false_cells, counts.missed_cells) == (0, 1.0, 0, 1)
    cells[3, 4], cells[3, 5] = UNKNOWN, OCCUPIED  # before the obstacle nobody knows
    counts = scorer.count(says(np.where(cells == UNKNOWN, OCCUPIED, FREE)), cells)
    assert (counts.missed_bins, counts.false_cells, counts.missed_cells) == (1, 0, 1)


def test_directions_of_which_nothing_is_known_do_not_count(scorer: NearFieldScorer) -> None:
    cells = np.full((6, 6), UNKNOWN, np.uint8)
    cells[3:, 3:] = FREE
    counts = scorer.count(np.ones((6, 6)), cells)
    assert (counts.occupied_bins, counts.clear_bins, counts.false_bins) == (0, 1, 1)
    figures = counts.figures()
    assert math.isnan(figures["recall"]) and math.isnan(figures["missed_bins"]) and figures["iou"] == 0


def test_the_threshold_is_reached_and_no_prediction_is_no_obstacle(scorer: NearFieldScorer) -> None:
    cells = free_ground()
    cells[5] = OCCUPIED
    said = np.zeros((6, 6))
    said[5] = [0.49, 0.5, 0.51, np.nan, 1.0, 0.0]
    counts = scorer.count(said, cells)
    assert (counts.hit_cells, counts.missed_cells) == (3, 3)


def test_counts_add_up(scorer: NearFieldScorer) -> None:
    rng = np.random.default_rng(0)
    parts = [scorer.count(rng.uniform(size=(6, 6)), rng.integers(0, 3, (6, 6))) for _ in range(5)]
    total = sum(parts, NearFieldCounts())
    np.testing.assert_allclose(astuple(total), np.sum([astuple(part) for part in parts], axis=0))
    assert total.samples == 5


def test_arrays_of_another_shape_are_errors(scorer: NearFieldScorer) -> None:
    with pytest.raises(ValueError, match=r"occupied and cells must be \(6, 6\), got \(6, 5\) and \(6, 6\)"):
        scorer.count(np.zeros((6, 5)), free_ground())


def test_rules_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\] and num_bins at least 1, got 0.5 and 0"):
        NearFieldRule(num_bins=0)
    with pytest.raises(ValueError, match="x_range_m must rise and half_width_m be positive"):
        NearFieldRule(x_range_m=(2.0, 2.0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    """The small set with a near-field truth of every sample: a wall ahead, another one for each sample."""
    folder = tmp_path_factory.mktemp("set")
    root = write_synthetic_nuscenes(folder / "small")
    build_index(root, VERSION, folder / "index")
    index = Index.open(folder / "index")
    for number in range(len(index)):
        record = index.record(number)
        path = root / "near_field" / record.scene / f"{record.token}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(near_field_bytes(wall(number)))
    return root, index


def wall(number: int) -> np.ndarray:
    cells = np.zeros((160, 160), np.uint8)
    cells[60:100, 130 + number] = OCCUPIED
    return cells


def predictions(index: Index, shift_cells: int = 0, grid: Grid = NEAR_FIELD_GRID) -> list[tuple[Predictions, str]]:
    """What a model would say that sees the walls so many cells too far."""
    found = []
    for number in range(len(index)):
        record = index.record(number)
        occupied = torch.from_numpy(np.roll(wall(number), shift_cells, 1)).float()
        near_field = NearFieldPrediction(occupied=occupied, grid=grid)
        found.append((Predictions(token=record.token, detections=None, near_field=near_field), record.scene))
    return found


def test_predictions_are_written_read_and_scored(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    assert write_near_field_predictions(tmp_path / "right", predictions(index)) == len(index) == 5
    report = evaluate_near_field(tmp_path / "right", root, index, "mini_train")
    assert report.scenes == ("scene-0061",) and report.counts[0].samples == 2
    assert report.figures["iou"] == 1 and report.figures["distance_error_m"] == 0
    write_near_field_predictions(tmp_path / "far", predictions(index, 3))
    figures = evaluate_near_field(tmp_path / "far", root, index, "mini_train").figures
    assert figures["iou"] == 0
    # The wall is straight ahead of the bumper; at its ends the nearest point of the outline is a corner.
    assert figures["distance_error_m"] == pytest.approx(0.3, abs=0.02) == pytest.approx(figures["too_far_m"], abs=0.02)


def test_a_missing_file_is_named(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    with pytest.raises(FileNotFoundError, match=r"scene-0061"):
        evaluate_near_field(tmp_path, root, index, "mini_train")
    with pytest.raises(FileNotFoundError, match=r"near_field"):
        evaluate_near_field(tmp_path, tmp_path, index, "mini_train")


def test_predictions_that_cannot_be_written_are_errors(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    index = dataset[1]
    none = Predictions(token="t", detections=None)
    with pytest.raises(ValueError, match="predictions must have a near field, got none for t"):
        write_near_field_predictions(tmp_path, [(none, "scene")])
    shifted = Grid((-7.0, 9.0), (-8.0, 8.0), (0.0, 2.0), (0.1, 0.1, 2.0))
    with pytest.raises(ValueError, match="grid must have the truth's cells"):
        write_near_field_predictions(tmp_path, predictions(index, grid=shifted)[:1])
    assert list(tmp_path.rglob("*.npz")) == []


def report_of(*hits: int) -> NearFieldReport:
    """Scenes with ten occupied cells, so many of them found."""
    counts = tuple(NearFieldCounts(samples=1, hit_cells=hit, missed_cells=10 - hit) for hit in hits)
    return NearFieldReport(scenes=tuple(f"scene-{number}" for number in range(len(hits))), counts=counts)


def test_intervals_of_equal_scenes_are_points_and_of_unequal_ones_hold_the_value() -> None:
    sure = near_field_bootstrap(report_of(4, 4, 4))["recall"]
    assert (sure.value, sure.low, sure.high) == (0.4, 0.4, 0.4)
    unsure = near_field_bootstrap(report_of(0, 2, 4, 6, 8))["recall"]
    assert unsure.value == pytest.approx(0.4)
    assert 0.05 < unsure.low < 0.3 and 0.5 < unsure.high < 0.75


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    gain = paired_near_field_bootstrap(report_of(0, 2, 4, 6, 8), report_of(1, 3, 5, 7, 9))["recall"]
    np.testing.assert_allclose([gain.value, gain.low, gain.high], 0.1)
    with pytest.raises(ValueError, match="both reports must be of the same scenes"):
        paired_near_field_bootstrap(report_of(1), report_of(1, 2))
    with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
        near_field_bootstrap(report_of(1), draws=0)
