import numpy as np
import pytest
import torch

from perception.formats.occupancy import FREE, OCCUPANCY_CLASSES, OCCUPANCY_GRID
from perception.structures import OccupancyPrediction, OccupancyTruth
from perception.visualization.colors import BACKGROUND, class_colors
from perception.visualization.occupancy import (
    draw_aslant,
    occupancy_class_colors,
    render_occupancy,
    top_down_colors,
)

CAR, ROAD = 4, 11


def street() -> torch.Tensor:
    """A road with a car of 2 by 4 by 2 m, 10 m ahead and 4 m to the left."""
    labels = torch.full(OCCUPANCY_GRID.shape, FREE, dtype=torch.uint8)
    labels[2] = ROAD
    labels[3:8, 110:115, 125:135] = CAR
    return labels


def truth_of(labels: torch.Tensor) -> OccupancyTruth:
    seen = torch.ones(OCCUPANCY_GRID.shape, dtype=torch.bool)
    seen[:, :20] = False
    return OccupancyTruth(labels=labels, mask_lidar=seen, mask_camera=seen, grid=OCCUPANCY_GRID)


def test_objects_keep_the_colours_of_their_boxes_and_all_classes_differ() -> None:
    colors = occupancy_class_colors()
    assert tuple(colors[FREE]) == BACKGROUND
    np.testing.assert_array_equal(colors[CAR], class_colors(["car"])[0])
    assert len(np.unique(colors, axis=0)) == len(OCCUPANCY_CLASSES)


def test_from_above_the_highest_voxel_is_seen_and_higher_ones_are_brighter() -> None:
    labels = street().numpy()
    labels[:, 0] = FREE
    colors = top_down_colors(labels)
    assert colors.shape == (200, 200, 3)
    assert (colors[0] == BACKGROUND).all()
    car, road = colors[112, 130].astype(int), colors[50, 50].astype(int)
    assert car[0] > car[2] and road[2] > road[0]  # amber on slate
    labels[15, 112, 130] = CAR
    assert top_down_colors(labels)[112, 130].sum() > car.sum()


def test_aslant_near_voxels_cover_far_ones_and_tops_are_brighter_than_fronts() -> None:
    labels = np.full((2, 3, 4), FREE, np.uint8)
    labels[0, :, 2] = ROAD
    labels[:, 1, 0] = CAR
    picture = draw_aslant(labels, 4)
    assert picture.shape == (4 * 2 + 2 * 4, 12, 3)
    car, road = (occupancy_class_colors()[label] for label in (CAR, ROAD))
    front = (car * 0.62).round().astype(np.uint8)
    np.testing.assert_array_equal(picture[-8:, 4:8].reshape(-1, 3), np.tile(front, (32, 1)))  # two voxels high
    np.testing.assert_array_equal(picture[-10:-8, 4:8].reshape(-1, 3), np.tile(car, (8, 1)))
    assert (picture[-10:-8, :4] == road).all()  # the road's top, two voxels farther away, beside the car
    assert (picture[-4:, :4] == BACKGROUND).all()


def test_left_is_left_in_both_views() -> None:
    labels = street()
    picture = render_occupancy(truth_of(labels), None, 400)
    amber = (picture[..., 0].astype(int) > 120) & (picture[..., 2] < 80)
    above, aslant = np.argwhere(amber[:400]), np.argwhere(amber[406:-30])
    assert above[:, 1].min() >= 160 and above[:, 1].max() < 200  # left of the middle
    assert above[:, 0].max() < 200  # ahead
    assert aslant[:, 1].min() >= 160 and aslant[:, 1].max() < 200


def test_truth_and_prediction_stand_side_by_side_and_the_legend_names_what_is_shown() -> None:
    labels = street()
    said = OccupancyPrediction(labels=labels, grid=OCCUPANCY_GRID)
    picture = render_occupancy(truth_of(labels), said, 400)
    assert picture.shape[1] == 806 and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[40:350, :340], picture[40:350, 406:746])  # but for what nothing observed
    assert not np.array_equal(picture[40:350, 360:400], picture[40:350, 766:806])
    alone = render_occupancy(None, said, 400)
    assert alone.shape[1] == 400
    colors = {tuple(color) for color in alone[-30:].reshape(-1, 3)}
    assert {tuple(occupancy_class_colors()[label]) for label in (CAR, ROAD)} < colors
    assert tuple(occupancy_class_colors()[16]) not in colors


def test_nothing_to_draw_and_voxels_too_small_are_errors() -> None:
    with pytest.raises(ValueError, match="render_occupancy: truth or prediction must be given, got neither"):
        render_occupancy(None, None)
    with pytest.raises(ValueError, match="draw_aslant: voxel_px must be at least 2, got 1"):
        draw_aslant(street().numpy(), 1)
