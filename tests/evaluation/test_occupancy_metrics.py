"""Occupancy metrics by hand: voxels under masks, files, the best guess without looking, intervals over scenes."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.data.index import REFERENCE_CHANNEL, Index
from perception.data.index_build import build_index
from perception.evaluation.occupancy import CLASS_FIGURES, FIGURES, OccupancyCounts, OccupancyScorer
from perception.evaluation.occupancy_prior import OccupancyTally, occupancy_prior
from perception.evaluation.occupancy_report import (
    OccupancyReport,
    evaluate_occupancy,
    evaluate_occupancy_prior,
    no_occupancy,
    occupancy_bootstrap,
    paired_occupancy_bootstrap,
    scene_lidars,
    write_occupancy_predictions,
)
from perception.formats.occupancy import FREE, OCCUPANCY_GRID, OCCUPANCY_SHAPE, Occupancy, occupancy_bytes
from perception.formats.occupancy_predictions import occupancy_truth_path
from perception.geometry.grid import Grid
from perception.structures import OccupancyPrediction, Predictions
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

CAR, ROAD, GRASS = 4, 11, 14
LIDAR_M = np.array([[0.94, 0.0, 1.84]])


def scene(wall: int = 120) -> Occupancy:
    """Road below, a wall of car so many voxels from the rear; the LiDAR sees the lower half, cameras its front."""
    semantics = np.full(OCCUPANCY_SHAPE, FREE, np.uint8)
    semantics[:, :, 0] = ROAD
    semantics[wall, 60:140, 1:9] = CAR
    lidar = np.zeros(OCCUPANCY_SHAPE, bool)
    lidar[:, :, :8] = True
    camera = lidar.copy()
    camera[:100] = False
    return Occupancy(semantics, lidar, camera)


@pytest.fixture(scope="module")
def scorer() -> OccupancyScorer:
    return OccupancyScorer()


def test_a_perfect_prediction(scorer: OccupancyScorer) -> None:
    truth = scene()
    counts = scorer.count(truth.semantics, truth, LIDAR_M)
    figures = counts.figures()
    assert tuple(figures) == FIGURES
    assert all(value == 1 for value in figures.values())
    assert counts.voxels[:, CAR, CAR].tolist() == [80 * 7, 80 * 7, 80 * 8]
    assert counts.voxels.sum((1, 2)).tolist() == [100 * 200 * 8, 200 * 200 * 8, 640000]
    by_class = counts.by_class()
    assert "free" not in by_class and tuple(by_class["car"]) == CLASS_FIGURES
    assert all(math.isnan(value) for value in by_class["bus"].values())


def test_masks_by_hand(scorer: OccupancyScorer) -> None:
    truth = scene()
    said = truth.semantics.copy()
    said[:50, :, 0] = GRASS  # behind, where only the LiDAR looks: a quarter of the road, of a class that is not there
    said[120, 60:140, 8] = FREE  # one of eight layers of the car, where nobody looks
    counts = scorer.count(said, truth, LIDAR_M)
    figures = counts.figures()
    assert figures["miou_mask_camera"] == 1
    assert figures["miou_mask_lidar"] == pytest.approx((0.75 + 1) / 2)  # grass is not in the truth and not in the mean
    assert figures["miou_no_mask"] == pytest.approx((0.75 + 7 / 8) / 2)
    assert figures["occupied_iou_mask_lidar"] == 1
    assert figures["occupied_iou_no_mask"] == pytest.approx(1 - 80 / (40000 + 640))
    by_class = counts.by_class()
    assert math.isnan(by_class["terrain"]["iou_mask_lidar"])
    assert by_class["terrain"]["ray_iou_1m"] == 0  # rays of it in the prediction alone count there


def test_counts_are_summed_before_they_are_divided(scorer: OccupancyScorer) -> None:
    truths = [scene(110), scene(130)]
    said = [truths[0].semantics, np.full(OCCUPANCY_SHAPE, FREE, np.uint8)]
    parts = [scorer.count(one, truth, LIDAR_M) for one, truth in zip(said, truths, strict=True)]
    total = sum(parts, OccupancyCounts.none())
    assert total.samples == 2
    assert total.figures()["miou_no_mask"] == 0.5
    np.testing.assert_array_equal(total.row(), parts[0].row() + parts[1].row())
    np.testing.assert_array_equal(OccupancyCounts.from_row(total.row()).voxels, total.voxels)
    np.testing.assert_array_equal(OccupancyCounts.from_row(total.row()).rays_hit, total.rays_hit)


def test_nothing_counted_gives_no_numbers() -> None:
    assert all(math.isnan(value) for value in OccupancyCounts.none().figures().values())


def test_the_confusion_is_indexed_by_truth_and_prediction(scorer: OccupancyScorer) -> None:
    truth = scene()
    counts = scorer.count(np.full(OCCUPANCY_SHAPE, GRASS, np.uint8), truth, LIDAR_M)
    assert counts.voxels[2, ROAD, GRASS] == 40000 and counts.voxels[2, GRASS].sum() == 0
    assert counts.rays_predicted[GRASS] == counts.rays_truth.sum() > 0


def test_arrays_that_are_no_labels_are_errors(scorer: OccupancyScorer) -> None:
    for wrong in (
        np.zeros((16, 200, 200), np.uint8),
        np.zeros(OCCUPANCY_SHAPE),
        np.full(OCCUPANCY_SHAPE, 18, np.uint8),
    ):
        with pytest.raises(
            ValueError, match=r"OccupancyScorer.count: semantics must be \(200, 200, 16\) uint8 in 0..17"
        ):
            scorer.count(wrong, scene(), LIDAR_M)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    """The small set with an occupancy truth of every sample, a wall at another place for each."""
    folder = tmp_path_factory.mktemp("set")
    root = write_synthetic_nuscenes(folder / "small")
    build_index(root, VERSION, folder / "index")
    index = Index.open(folder / "index")
    for number in range(len(index)):
        record = index.record(number)
        path = occupancy_truth_path(root, record.scene, record.token)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(occupancy_bytes(scene(110 + number)))
    return root, index


def predictions(index: Index, grid: Grid = OCCUPANCY_GRID) -> list[tuple[Predictions, str]]:
    """What a model would say that is always right."""
    found = []
    for number in range(len(index)):
        record = index.record(number)
        labels = torch.from_numpy(scene(110 + number).semantics.transpose(2, 1, 0).copy())
        occupancy = OccupancyPrediction(labels=labels, grid=grid)
        found.append((Predictions(token=record.token, detections=None, occupancy=occupancy), record.scene))
    return found


def test_predictions_are_written_read_and_scored(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    assert write_occupancy_predictions(tmp_path, predictions(index)) == len(index) == 5
    report = evaluate_occupancy(tmp_path, root, index, "mini_train")
    assert report.scenes == ("scene-0061",) and report.counts[0].samples == 2
    assert all(value == 1 for value in report.figures.values())
    assert report.total.rays_truth[CAR] > 0


def test_where_nothing_is_seen_all_is_free(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    said = [
        (Predictions(token=found.token, detections=None, occupancy=no_occupancy()), s)
        for found, s in predictions(index)
    ]
    write_occupancy_predictions(tmp_path, said)
    assert evaluate_occupancy(tmp_path, root, index, "mini_train").figures == dict.fromkeys(FIGURES, 0.0)


def test_lidars_of_a_scene_follow_the_vehicle(dataset: tuple[Path, Index]) -> None:
    _, index = dataset
    lidars, poses = scene_lidars(index, "scene-0061")
    positions = index.samples_of(["scene-0061"])
    assert len(lidars) == len(positions) == len(poses)
    for number, lidar in zip(positions, lidars, strict=True):
        record = index.record(int(number))
        mounted = record.sensors[REFERENCE_CHANNEL].sensor2ego[:3, 3]
        ego = poses[record.token]
        np.testing.assert_allclose(ego[:3, :3] @ mounted + ego[:3, 3], lidar)


def test_a_scene_without_lidar_has_no_origins_of_rays(dataset: tuple[Path, Index], monkeypatch) -> None:
    _, index = dataset
    record = index.record
    monkeypatch.setattr(type(index), "record", lambda _, i: dataclasses.replace(record(i), sensors={}))
    with pytest.raises(ValueError, match=r"every sample of scene-0061 must have LIDAR_TOP, .* has none"):
        scene_lidars(index, "scene-0061")


def test_a_missing_file_is_named(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    with pytest.raises(FileNotFoundError, match=r"scene-0061"):
        evaluate_occupancy(tmp_path, root, index, "mini_train")
    with pytest.raises(FileNotFoundError, match=r"gts/scene-0061/.*/labels.npz"):
        evaluate_occupancy(tmp_path, tmp_path, index, "mini_train")


def test_predictions_that_cannot_be_written_are_errors(tmp_path: Path, dataset: tuple[Path, Index]) -> None:
    index = dataset[1]
    with pytest.raises(ValueError, match="write_occupancy_predictions: t: predictions must have occupancy, got none"):
        write_occupancy_predictions(tmp_path, [(Predictions(token="t", detections=None), "scene")])
    shifted = Grid((-39.6, 40.4), (-40.0, 40.0), (-1.0, 5.4), (0.4, 0.4, 0.4))
    with pytest.raises(ValueError, match="grid must have the truth's voxels"):
        write_occupancy_predictions(tmp_path, predictions(index, shifted)[:1])
    assert list(tmp_path.rglob("*.npz")) == []


def test_the_best_guess_without_looking_by_hand() -> None:
    tally = OccupancyTally()
    road, grass, hidden = (np.full(OCCUPANCY_SHAPE, label, np.uint8) for label in (ROAD, GRASS, CAR))
    seen = np.zeros(OCCUPANCY_SHAPE, bool)
    seen[:100] = True
    for labels, mask in ((road, seen), (grass, seen), (grass, seen), (hidden, ~seen & False)):
        tally.add(Occupancy(labels, mask, mask))
    guess = tally.most_frequent()
    assert (guess[:100] == GRASS).all() and (guess[100:] == FREE).all()
    counts = tally.class_counts()
    assert counts[[ROAD, GRASS, CAR]].tolist() == [320000, 640000, 0] and counts.sum() == 960000
    with pytest.raises(ValueError, match="OccupancyTally: mask must be one of camera, lidar, none, got 'radar'"):
        OccupancyTally("radar")


def test_the_best_guess_finds_what_is_always_there(dataset: tuple[Path, Index]) -> None:
    root, index = dataset
    prior = occupancy_prior(root, index, "mini_train", mask="none")
    assert (prior[:, :, 0] == ROAD).all()
    report = evaluate_occupancy_prior(prior, root, index, "mini_train")
    assert report.total.by_class()["driveable_surface"]["iou_no_mask"] == 1
    assert 0 < report.figures["miou_no_mask"] < 1


def report_of(*hits: int) -> OccupancyReport:
    """Scenes with ten voxels of road, so many of them found."""
    counts = []
    for hit in hits:
        one = OccupancyCounts.none()
        one.voxels[:, ROAD, ROAD], one.voxels[:, ROAD, FREE] = hit, 10 - hit
        counts.append(one)
    return OccupancyReport(scenes=tuple(f"scene-{number}" for number in range(len(hits))), counts=tuple(counts))


def test_intervals_of_equal_scenes_are_points_and_of_unequal_ones_hold_the_value() -> None:
    sure = occupancy_bootstrap(report_of(4, 4, 4))["miou_mask_camera"]
    assert (sure.value, sure.low, sure.high) == (0.4, 0.4, 0.4)
    unsure = occupancy_bootstrap(report_of(0, 2, 4, 6, 8))["miou_mask_camera"]
    assert unsure.value == pytest.approx(0.4)
    assert 0.05 < unsure.low < 0.3 and 0.5 < unsure.high < 0.75


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    gain = paired_occupancy_bootstrap(report_of(0, 2, 4, 6, 8), report_of(1, 3, 5, 7, 9))["miou_no_mask"]
    np.testing.assert_allclose([gain.value, gain.low, gain.high], 0.1)
    with pytest.raises(ValueError, match="both reports must be of the same scenes"):
        paired_occupancy_bootstrap(report_of(1), report_of(1, 2))
    with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
        occupancy_bootstrap(report_of(1), draws=0)
