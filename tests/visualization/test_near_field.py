import numpy as np
import pytest
import torch

from perception.formats.near_field import NEAR_FIELD_GRID, NearFieldCell
from perception.structures import NearField, NearFieldPrediction
from perception.visualization.colors import BACKGROUND
from perception.visualization.near_field import (
    FREE,
    OCCUPIED,
    near_field_colors,
    probability_colors,
    render_near_field,
)


def truth_with_post() -> NearField:
    """Free ground with a post of 0.4 m, 5.8 m ahead and 3.8 m to the left; nothing is known behind on the right."""
    cells = torch.zeros(160, 160, dtype=torch.uint8)
    cells[116:120, 136:140] = NearFieldCell.OCCUPIED
    cells[:40, :40] = NearFieldCell.UNKNOWN
    return NearField(cells=cells, grid=NEAR_FIELD_GRID)


def where(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((picture == color).all(axis=-1))


def test_cells_are_drawn_where_they_lie() -> None:
    picture = render_near_field(truth_with_post(), None, 480)  # 3 pixels per cell
    assert picture.shape == (480, 480, 3)
    post = where(picture, OCCUPIED)
    np.testing.assert_array_equal(post.min(axis=0), [60, 120])  # x = 6 m up to 2 m from the top, y = 4 m to the left
    np.testing.assert_array_equal(post.max(axis=0), [71, 131])
    assert tuple(picture[478, 478]) == BACKGROUND and tuple(picture[478, 2]) == FREE


def test_truth_and_prediction_stand_side_by_side() -> None:
    truth = truth_with_post()
    said = NearFieldPrediction(occupied=(truth.cells == NearFieldCell.OCCUPIED).float(), grid=truth.grid)
    picture = render_near_field(truth, said, 480)
    assert picture.shape == (480, 964, 3)
    left, right = (where(half, OCCUPIED) for half in (picture[:, :480], picture[:, 484:]))
    np.testing.assert_array_equal(left, right)


def test_a_prediction_shades_from_free_to_occupied_and_leaves_out_what_it_does_not_say() -> None:
    colors = probability_colors(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32))[0]
    assert tuple(colors[0]) == FREE and tuple(colors[2]) == OCCUPIED and tuple(colors[3]) == BACKGROUND
    np.testing.assert_allclose(colors[1], (np.array(FREE) + OCCUPIED) / 2, atol=0.51)
    assert [tuple(color) for color in near_field_colors(np.arange(3, dtype=np.uint8))] == [FREE, OCCUPIED, BACKGROUND]


def test_the_ego_vehicle_is_drawn() -> None:
    picture = render_near_field(truth_with_post(), None, 480)
    u, v = 240, round((8 - 1.0) * 30)  # a metre ahead of the rear axle
    assert picture[v, u].mean() > 190


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="render_near_field: truth or prediction must be given, got neither"):
        render_near_field(None, None)
