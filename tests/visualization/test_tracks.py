import numpy as np
import pytest
import torch

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.tracking_submission import SampleTracks
from perception.geometry.transforms import yaw_matrix
from perception.visualization.bev import BevView, blank
from perception.visualization.tracks import draw_tails, render_tracks, track_colors, track_layer

VIEW = BevView.square(20.0, 400)
CAR = DETECTION_CLASSES.index("car")
POSE = yaw_matrix(torch.tensor(0.5, dtype=torch.float64))
POSE[:3, 3] = torch.tensor([1000.0, 2000.0, 1.0])


def tracks(*rows: tuple[int, float, float]) -> SampleTracks:
    """Cars of rows id, x, y in the ego frame."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    boxes = np.zeros((len(rows), 9))
    boxes[:, :3] = np.hstack([table[:, 1:], np.zeros((len(rows), 1))]) @ POSE[:3, :3].numpy().T + POSE[:3, 3].numpy()
    boxes[:, 3:6] = (4.5, 1.9, 1.6)
    return SampleTracks(boxes, np.ones(len(rows)), np.full(len(rows), CAR), table[:, 0].astype(np.int64))


def pixel(x: float, y: float) -> tuple[int, int]:
    u, v = VIEW.to_pixels(np.array([x, y])).round().astype(int)
    return v, u


def test_colours_stay_and_differ():
    colors = track_colors(np.arange(30))
    np.testing.assert_array_equal(track_colors(np.array([7, 3])), colors[[7, 3]])
    assert len({tuple(color) for color in colors.tolist()}) == 30
    assert track_colors(np.zeros(0, dtype=np.int64)).shape == (0, 3)


def test_boxes_stand_where_the_ego_vehicle_sees_them():
    layer = track_layer(tracks((4, 10, 3), (9, -5, -2)), POSE)
    np.testing.assert_allclose(layer.boxes[:, :2].numpy(), [[10, 3], [-5, -2]], atol=1e-9)
    assert layer.captions == ("4", "9")
    np.testing.assert_array_equal(layer.colors, track_colors(np.array([4, 9])))


def test_a_tail_goes_where_the_object_was_and_fades():
    history = [tracks((1, 0, 12), (2, -15, 0)), tracks((1, 5, 12)), tracks((1, 10, 12))]
    picture = draw_tails(blank(VIEW), VIEW, history, POSE)
    empty, color = blank(VIEW), track_colors(np.array([1]))[0].astype(int)
    old, new = (picture[pixel(x, 12)].astype(int) for x in (2.5, 7.5))
    assert np.abs(new - color).sum() < np.abs(old - color).sum()
    assert not np.array_equal(old, empty[pixel(2.5, 12)])
    np.testing.assert_array_equal(picture[pixel(-15, 0)], empty[pixel(-15, 0)])  # track 2 is not there any more
    np.testing.assert_array_equal(draw_tails(empty, VIEW, [], POSE), empty)


def test_the_whole_picture():
    history = [tracks((1, 0, 12)), tracks((1, 5, 12), (3, 500, 0)), tracks((1, 10, 12), (3, 505, 0))]
    picture = render_tracks(VIEW, history, POSE, points=torch.rand(50, 4), title="three")
    assert picture.shape == (400, 400, 3)
    assert not np.array_equal(picture[pixel(10, 12)], blank(VIEW)[pixel(10, 12)])
    assert render_tracks(VIEW, [tracks()], POSE).shape == (400, 400, 3)
    with pytest.raises(ValueError, match="render_tracks: history must hold the tracks of the sample"):
        render_tracks(VIEW, [], POSE)
