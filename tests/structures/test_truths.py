"""Truths and predictions of map and occupancy refuse what does not fit, and move with their batch."""

import dataclasses

import pytest
import torch

from perception.data.collate import collate
from perception.geometry.grid import Grid
from perception.structures import MapPrediction, MapTruth, OccupancyPrediction, OccupancyTruth, Predictions, Sample

GRID = Grid((-2.0, 2.0), (-1.0, 1.0), (-1.0, 2.0), (1.0, 1.0, 1.0))  # 3 x 2 x 4
SHAPE = (3, 2, 4)


def map_truth() -> MapTruth:
    return MapTruth(cells=torch.ones(1, 2, 4, dtype=torch.bool), class_names=("walkway",), grid=GRID)


def occupancy_truth() -> OccupancyTruth:
    mask = torch.ones(SHAPE, dtype=torch.bool)
    labels = torch.full(SHAPE, 17, dtype=torch.uint8)
    return OccupancyTruth(labels=labels, mask_lidar=mask, mask_camera=mask, grid=GRID)


def test_truths_name_the_field_that_does_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"MapTruth: cells must be \(K, Y, X\) with K = 2, Y = 2, X = 4.*got \(1, 2, 4\)"
    ):
        dataclasses.replace(map_truth(), class_names=("walkway", "divider"))
    with pytest.raises(ValueError, match=r"OccupancyTruth: mask_camera must be \(Z, Y, X\) with .*got \(4, 2, 3\)"):
        dataclasses.replace(occupancy_truth(), mask_camera=torch.ones(4, 2, 3, dtype=torch.bool))


def test_predictions_name_the_field_that_does_not_fit() -> None:
    grounds = MapPrediction(probabilities=torch.zeros(1, 2, 4), class_names=("walkway",), grid=GRID)
    space = OccupancyPrediction(labels=torch.zeros(SHAPE, dtype=torch.uint8), grid=GRID)
    assert Predictions(token="t", detections=None, map=grounds, occupancy=space).map is grounds
    with pytest.raises(ValueError, match=r"MapPrediction: probabilities must be \(K, Y, X\)"):
        dataclasses.replace(grounds, probabilities=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"OccupancyPrediction: labels must be \(Z, Y, X\)"):
        dataclasses.replace(space, labels=torch.zeros(2, 4, 3, dtype=torch.uint8))


def test_a_batch_holds_the_truths_of_its_samples_and_moves_them() -> None:
    bare = Sample(token="a", scene="s", timestamp_us=1, ego2global=torch.eye(4, dtype=torch.float64))
    full = dataclasses.replace(bare, map=map_truth(), occupancy=occupancy_truth())
    batch = collate([bare, full])
    assert batch.map == (None, full.map) and batch.occupancy == (None, full.occupancy)
    moved = batch.to("meta")
    assert moved.map[0] is None and moved.map[1] is not None and moved.map[1].cells.device.type == "meta"
    assert moved.occupancy[1] is not None and moved.occupancy[1].labels.device.type == "meta"
    assert collate([bare, bare]).map == (None, None) and collate([bare]).occupancy == (None,)
    with pytest.raises(ValueError, match="Batch: map must have 2 entries, got 1"):
        dataclasses.replace(batch, map=(None,))
