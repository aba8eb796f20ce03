import math

import numpy as np
import pytest
import torch

from perception.geometry.grid import Grid
from perception.visualization import bev
from perception.visualization.bev import BevView
from perception.visualization.layers import ground_truth_layer
from tests.visualization.conftest import CLASSES, make_boxes

VIEW = BevView.square(half_m=50.0, size_px=500)


def centre_of_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Row and column of the middle of what differs."""
    return np.argwhere((before != after).any(axis=-1)).mean(axis=0)


def test_ahead_is_up_and_left_is_left() -> None:
    np.testing.assert_allclose(VIEW.to_pixels(np.array([[50.0, 50.0], [0.0, 0.0]])), [[-0.5, -0.5], [249.5, 249.5]])
    picture = bev.blank(VIEW)
    row, column = centre_of_change(picture, bev.draw_points(picture, VIEW, torch.tensor([[20.0, 30.0, 1.0]])))
    assert (row, column) == pytest.approx((149.5, 99.5), abs=0.6)


def test_boxes_are_drawn_where_they_stand_and_as_large_as_they_are() -> None:
    picture = bev.blank(VIEW)
    layer = ground_truth_layer(make_boxes([[20, -30, 1, 8, 4, 2, 0, 0, 0]]), CLASSES)
    marked = np.argwhere((bev.draw_boxes(picture, VIEW, layer) != picture).any(axis=-1))
    low, high = marked.min(axis=0), marked.max(axis=0)
    np.testing.assert_allclose((low + high) / 2, [149.5, 399.5], atol=0.51)  # 20 m ahead, 30 m to the right
    np.testing.assert_allclose((high - low) / 2, [20 + 2.5, 10 + 2.5], atol=0.51)  # 4 m and 2 m, and the line itself


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("velocity", "rows_above"), [((10.0, 0.0), 80), ((0.1, 0.0), 0), ((math.nan, math.nan), 0), ((math.inf, 0.0), 0)]
)
def test_an_arrow_shows_one_second_of_travel(velocity: tuple[float, float], rows_above: int) -> None:
    picture = bev.blank(VIEW)
    layer = ground_truth_layer(make_boxes([[20, 20, 1, 4, 2, 2, 0, *velocity]]), CLASSES)
    marked = np.argwhere((bev.draw_boxes(picture, VIEW, layer) != picture).any(axis=-1))
    top_of_box = 140
    assert top_of_box - marked[:, 0].min() == pytest.approx(max(rows_above - 40, 0), abs=2)


def test_heat_lies_on_its_cell() -> None:
    grid = Grid((-50.0, 50.0), (-40.0, 40.0), (-5.0, 3.0), (2.0, 4.0, 8.0))
    cells, inside = grid.cells(torch.tensor([[31.0, 10.0, 0.0]], dtype=torch.float64))
    assert inside.all()
    heat = np.zeros((grid.num_y, grid.num_x))
    heat[cells[0, 1], cells[0, 2]] = 1.0
    picture = bev.blank(VIEW)
    drawn = bev.draw_heat(picture, VIEW, heat, grid).astype(float)
    weight = np.abs(drawn - picture).sum(axis=-1)
    rows, columns = np.indices(weight.shape)
    centre = np.array([(weight * rows).sum(), (weight * columns).sum()]) / weight.sum()
    np.testing.assert_allclose(centre, VIEW.to_pixels(np.array([31.0, 10.0]))[::-1], atol=1.0)


def test_heat_without_values_changes_nothing() -> None:
    grid = Grid.square(50.0, 1.0)
    picture = bev.blank(VIEW)
    np.testing.assert_array_equal(bev.draw_heat(picture, VIEW, np.full((100, 100), np.nan), grid), picture)
    with pytest.raises(ValueError, match=r"heat must be \(Y, X\) = \(100, 100\), got \(3, 3\)"):
        bev.draw_heat(picture, VIEW, np.zeros((3, 3)), grid)


@pytest.mark.parametrize(("reach_m", "step_m"), [(52.0, 10.0), (102.4, 20.0), (8.0, 2.0), (0.5, 0.1), (30.0, 5.0)])
def test_rings_lie_at_round_distances(reach_m: float, step_m: float) -> None:
    assert bev.ring_step_m(reach_m) == pytest.approx(step_m)


def test_a_whole_view_with_nothing_in_it() -> None:
    picture = bev.render_bev(VIEW, points=torch.zeros(0, 4), layers=(ground_truth_layer(make_boxes([]), CLASSES),))
    assert picture.shape == (500, 500, 3) and picture.dtype == np.uint8
    assert picture[240:255, 247:252].mean() > 100  # the ego vehicle stands in the middle


def test_hollow_ground_truth_differs_from_predictions() -> None:
    boxes = make_boxes([[20, -30, 1, 8, 4, 2, 0, 0, 0]])
    picture = bev.blank(VIEW)
    hollow = bev.draw_boxes(picture, VIEW, ground_truth_layer(boxes, CLASSES, hollow=True))
    filled = bev.draw_boxes(picture, VIEW, ground_truth_layer(boxes, CLASSES))
    inside = (155, 396)  # beside the mark from the centre through the front
    assert (hollow[inside] == picture[inside]).all()
    assert (filled[inside] != picture[inside]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x_range_m": (1.0, 1.0), "y_range_m": (0.0, 1.0), "px_per_m": 1.0}, "ranges must rise"),
        ({"x_range_m": (0.0, 1.0), "y_range_m": (0.0, 1.0), "px_per_m": 0.0}, "px_per_m must be positive, got 0.0"),
    ],
)
def test_rejects(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BevView(**arguments)


@pytest.mark.parametrize("half_m", [0.0, -5.0, float("nan")])
def test_a_square_has_a_side(half_m: float) -> None:
    with pytest.raises(ValueError, match=rf"BevView: half_m and size_px must be positive, got {half_m} and 100"):
        BevView.square(half_m, 100)
