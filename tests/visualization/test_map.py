import numpy as np
import pytest
import torch

from perception.geometry.grid import Grid
from perception.structures import MapPrediction, MapTruth
from perception.visualization.colors import BACKGROUND
from perception.visualization.map import map_colors, render_map

GRID = Grid.square(50.0, 0.5)
NAMES = ("divider", "drivable_area")  # not in the order in which they lie


def road() -> MapTruth:
    """A road of 15 m along the right side, with a line of a metre, 19 to 20 m to the right."""
    cells = torch.zeros(2, 200, 200, dtype=torch.bool)
    cells[1, 50:80] = cells[0, 60:62] = True
    return MapTruth(cells=cells, class_names=NAMES, grid=GRID)


def test_a_class_covers_what_lies_below_it_as_far_as_its_share_goes() -> None:
    shares = np.array([[[0.0, 0.0, 1.0, 0.5, np.nan]], [[0.0, 1.0, 1.0, 1.0, np.nan]]])
    nothing, area, line, both, unknown = map_colors(shares, NAMES)[0].astype(int)
    assert tuple(nothing) == tuple(unknown) == BACKGROUND
    assert len({tuple(nothing), tuple(area), tuple(line)}) == 3
    np.testing.assert_allclose(both, (area + line) / 2, atol=0.51)
    np.testing.assert_array_equal(map_colors(shares[::-1], NAMES[::-1])[0], map_colors(shares, NAMES)[0])
    with pytest.raises(ValueError, match=r"map_colors: shares must be \(2, Y, X\), got \(1, 1, 5\)"):
        map_colors(shares[:1], NAMES)


def test_truth_and_prediction_stand_side_by_side_over_the_same_ground() -> None:
    truth = road()
    wide = MapTruth(
        cells=torch.nn.functional.pad(truth.cells, (60, 60, 60, 60)), class_names=NAMES, grid=Grid.square(80.0, 0.5)
    )
    said = MapPrediction(probabilities=truth.cells.float(), class_names=NAMES, grid=GRID)
    picture = render_map(wide, said, 400)
    assert picture.shape == (400, 804, 3)
    np.testing.assert_array_equal(picture[200:, :400], picture[200:, 404:])  # below the tags
    line = map_colors(np.ones((1, 1, 1)), ("divider",))[0, 0]
    columns = np.flatnonzero((picture[380, :400] == line).all(-1))
    assert columns.tolist() == [276, 277, 278, 279]  # 4 pixels a metre, the middle at 200
    unsure = MapPrediction(probabilities=truth.cells.float() / 2 + 0.25, class_names=NAMES, grid=GRID)
    np.testing.assert_array_equal(render_map(None, unsure, 400), render_map(None, said, 400))
    assert render_map(truth, None, 200).shape == render_map(None, said, 200).shape == (200, 200, 3)


def test_a_class_without_a_colour_gets_one_and_nothing_to_draw_is_an_error() -> None:
    colors = map_colors(np.ones((1, 1, 1)), ("grass",))
    assert tuple(colors[0, 0]) != BACKGROUND
    with pytest.raises(ValueError, match="render_map: truth or prediction must be given, got neither"):
        render_map(None, None)
