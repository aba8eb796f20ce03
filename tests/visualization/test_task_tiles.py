from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.formats.near_field import NEAR_FIELD_GRID
from perception.formats.occupancy import FREE as FREE_VOXEL
from perception.formats.occupancy import OCCUPANCY_GRID
from perception.geometry.grid import Grid
from perception.structures import (
    MapPrediction,
    MapTruth,
    NearField,
    NearFieldPrediction,
    OccupancyPrediction,
    OccupancyTruth,
    Predictions,
    Sample,
)
from perception.visualization.colors import BACKGROUND, SURFACE
from perception.visualization.map import map_legend
from perception.visualization.near_field import OCCUPIED
from perception.visualization.task_tiles import (
    TASKS,
    TaskTile,
    render_column,
    render_row,
    tile_side_px,
    tiles_of,
)
from perception.visualization.tiles import GAP_PX

CAR, ROAD = 4, 11
HALF_M = 52.0
EVERY = tuple(TaskTile(task, source) for task in TASKS for source in ("prediction", "truth"))


def with_truths(sample: Sample) -> Sample:
    """Something 4 to 6 m ahead and 2 to 4 m to the left: a crossing, a car, an obstacle."""
    cells = torch.zeros(2, 320, 320, dtype=torch.bool)
    cells[0] = True
    cells[1, 164:168, 168:172] = True  # 0.5 m each, from -80 m on
    labels = torch.full(OCCUPANCY_GRID.shape, FREE_VOXEL, dtype=torch.uint8)
    labels[3:6, 105:110, 110:115] = CAR  # 0.4 m each, from -40 m on
    seen = torch.ones(OCCUPANCY_GRID.shape, dtype=torch.bool)
    near = torch.zeros(160, 160, dtype=torch.uint8)
    near[100:120, 120:140] = 1  # 0.1 m each, from -8 m on
    return replace(
        sample,
        map=MapTruth(cells=cells, class_names=("drivable_area", "ped_crossing"), grid=Grid.square(80.0, 0.5)),
        occupancy=OccupancyTruth(labels=labels, mask_lidar=seen, mask_camera=seen, grid=OCCUPANCY_GRID),
        near_field=NearField(cells=near, grid=NEAR_FIELD_GRID),
    )


def perfect(sample: Sample) -> Predictions:
    """The truths of `with_truths`, told as predictions; the map on 50 m."""
    assert sample.map is not None and sample.occupancy is not None and sample.near_field is not None
    said = sample.map.cells[:, 60:-60, 60:-60].float()
    return Predictions(
        token=sample.token,
        detections=None,
        map=MapPrediction(probabilities=said, class_names=sample.map.class_names, grid=Grid.square(50.0, 0.5)),
        occupancy=OccupancyPrediction(labels=sample.occupancy.labels, grid=OCCUPANCY_GRID),
        near_field=NearFieldPrediction(occupied=(sample.near_field.cells == 1).float(), grid=NEAR_FIELD_GRID),
    )


@pytest.fixture
def known(sample: Sample) -> Sample:
    """The sample of the room with truths of all tasks."""
    return with_truths(sample)


def tile(row: np.ndarray, number: int, side_px: int) -> np.ndarray:
    left = number * (side_px + GAP_PX)
    return row[:side_px, left : left + side_px]


def where(picture: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return np.argwhere((picture == color).all(axis=-1))


def test_tiles_are_those_that_have_content_prediction_before_truth(known: Sample, sample: Sample) -> None:
    said = perfect(known)
    assert tiles_of(known, said) == EVERY
    assert tiles_of(sample, None) == ()
    assert tiles_of(known, replace(said, map=None, occupancy=None)) == (
        *(TaskTile(task, "truth") for task in ("map", "occupancy")),
        *EVERY[-2:],
    )


def test_what_is_predicted_appears_in_its_colour_at_its_place(known: Sample) -> None:
    row = render_row(EVERY, known, perfect(known), 400, HALF_M)
    crossing = dict(map_legend(("ped_crossing",)))["ped_crossing"]
    # 50 m to each side, 4 pixels a metre: 4 to 6 m ahead of the middle, 2 to 4 m to its left.
    found = where(tile(row, 0, 400), crossing)
    np.testing.assert_array_equal((found.min(0), found.max(0)), ((176, 184), (183, 191)))
    # 40 m, 5 pixels a metre.
    picture = tile(row, 2, 400)
    found = where(picture, tuple(picture[175, 185]))
    np.testing.assert_array_equal((found.min(0), found.max(0)), ((170, 180), (179, 189)))
    assert picture[175, 185][0] > 2 * picture[175, 185][2]  # amber, as boxes of cars
    # 8 m, 25 pixels a metre, 2.5 a cell.
    found = where(tile(row, 4, 400), OCCUPIED)
    np.testing.assert_allclose((found.min(0), found.max(0)), ((50, 100), (99, 149)), atol=1)


def test_prediction_and_truth_show_the_same_ground_with_ahead_up_and_left_left(known: Sample) -> None:
    row = render_row(EVERY, known, perfect(known), 400, HALF_M)
    for number in (0, 2, 4):
        predicted, true = tile(row, number, 400), tile(row, number + 1, 400)
        np.testing.assert_array_equal(predicted[60:], true[60:])  # below the names
    assert not np.array_equal(tile(row, 0, 400)[:60], tile(row, 1, 400)[:60])
    nearer = render_row(EVERY, known, perfect(known), 400, 20.0)  # as far as the bird's-eye view reaches
    crossing = dict(map_legend(("ped_crossing",)))["ped_crossing"]
    assert len(where(tile(nearer, 0, 400), crossing)) == pytest.approx(20 * 20, abs=80)
    np.testing.assert_array_equal(tile(nearer, 4, 400), tile(row, 4, 400))


def test_a_tile_without_content_is_empty_and_changes_no_size(known: Sample, sample: Sample) -> None:
    said = perfect(known)
    for render, room in ((render_row, 200), (render_column, 900)):
        whole = render(EVERY, known, said, room, HALF_M)
        for less in (render(EVERY, known, None, room, HALF_M), render(EVERY, sample, None, room, HALF_M)):
            assert less.shape == whole.shape
    empty = tile(render_row(EVERY, known, None, 200, HALF_M), 0, 200)
    assert (empty == SURFACE).all(-1).mean() > 0.5 and empty.max() > 100  # the words
    other = replace(
        said,
        map=MapPrediction(probabilities=torch.zeros(1, 4, 4), class_names=("vehicle",), grid=Grid.square(1.0, 0.5)),
    )
    assert render_row(EVERY, known, other, 200, HALF_M).shape == render_row(EVERY, known, said, 200, HALF_M).shape


def test_legends_name_what_is_drawn(known: Sample) -> None:
    legend = render_row(EVERY, known, perfect(known), 400, HALF_M)[400:]
    width = 2 * 400 + 2 * GAP_PX
    of_map, of_near_field = legend[:, : width - GAP_PX], legend[:, 2 * width :]
    crossing = dict(map_legend(("ped_crossing",)))["ped_crossing"]
    assert len(where(of_map, crossing)) > 50 and not len(where(of_map, dict(map_legend())["stop_line"]))
    assert len(where(of_near_field, OCCUPIED)) > 50 and not len(where(of_map, OCCUPIED))


def test_a_column_keeps_its_height_and_a_single_task_stands_upright(known: Sample) -> None:
    said = perfect(known)
    column = render_column(EVERY, known, said, 1400, HALF_M)
    assert 1300 < column.shape[0] <= 1400 and 700 < column.shape[1] < 1000
    upright = render_column(EVERY[-2:], known, said, 1400, HALF_M)
    assert 1300 < upright.shape[0] <= 1400 and 600 < upright.shape[1] < 700
    assert (render_column(EVERY, known, said, 100, HALF_M)[:96, :96] != BACKGROUND).any()  # too small, yet drawn


def test_tiles_share_the_width_but_never_take_more_than_a_quarter() -> None:
    assert tile_side_px(EVERY, 2400) == (2400 - 5 * GAP_PX) // 6
    assert tile_side_px(EVERY[:1], 2400) == tile_side_px(EVERY[:3], 2400) == 600
    assert tile_side_px(EVERY[:3], 2400, others=2) == (2400 - 4 * GAP_PX) // 5
    assert tile_side_px(EVERY, 100) == 96
