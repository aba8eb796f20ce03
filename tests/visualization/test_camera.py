import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.geometry.boxes import box_corners
from perception.structures import Boxes3D
from perception.visualization import camera
from perception.visualization.camera import CameraView, camera_picture
from perception.visualization.layers import BoxLayer, ground_truth_layer
from tests.visualization.conftest import CLASSES, GREY, IMAGE_SIZE_PX, make_boxes, make_cameras


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Rows and columns (K, 2) of the pixels that differ."""
    return np.argwhere((before != after).any(axis=-1))


def layer(boxes: Boxes3D) -> BoxLayer:
    return ground_truth_layer(boxes, CLASSES, hollow=True)


def view_of(camera_model: str = "pinhole", yaw_rad: float = 0.0) -> tuple[np.ndarray, CameraView]:
    return camera_picture(make_cameras({"CAM": yaw_rad}, camera_model), 0)


@pytest.mark.parametrize("camera_model", ["pinhole", "kannala_brandt"])
def test_a_box_straight_ahead_is_drawn_around_the_centre(camera_model: str) -> None:
    picture, view = view_of(camera_model)
    drawn = camera.draw_boxes(picture, view, layer(make_boxes([[10, 0, 1.5, 2, 2, 2, 0, 0, 0]])))
    marked = changed(picture, drawn)
    centre = (np.array(IMAGE_SIZE_PX) - 1) / 2
    # The near face is 2 m wide at 9 m: 80 px * 1 m / 9 m to each side; a fisheye has 80 px per radian.
    half_px = 80 / 9 if camera_model == "pinhole" else 80 * math.atan(math.sqrt(2) / 9) / math.sqrt(2)
    np.testing.assert_allclose((marked.min(axis=0) + marked.max(axis=0)) / 2, centre, atol=0.51)
    line_px = 1.0
    np.testing.assert_allclose((marked.max(axis=0) - marked.min(axis=0)) / 2, half_px + line_px, atol=0.9)


def test_a_resized_picture_shows_the_box_at_the_same_place() -> None:
    cameras = make_cameras({"CAM": 0.0})
    small, large = camera_picture(cameras, 0), camera_picture(cameras, 0, 480)
    assert large[0].shape == (270, 480, 3)
    corners = box_corners(torch.tensor([[10.0, 3, 1.5, 4, 2, 2, 0.3]], dtype=torch.float64))[0]
    pixels_small, _ = small[1].project(small[1].from_ego(corners))
    pixels_large, _ = large[1].project(large[1].from_ego(corners))
    np.testing.assert_allclose(pixels_large, 3 * (pixels_small + 0.5) - 0.5, atol=1e-9)


@pytest.mark.parametrize("camera_model", ["pinhole", "kannala_brandt"])
def test_a_box_behind_the_camera_draws_nothing(camera_model: str) -> None:
    picture, view = view_of(camera_model)
    boxes = make_boxes([[-20, 0, 1.5, 4, 2, 2, 0, 0, 0], [-5, 1, 1.5, 4, 2, 2, 1, 3, 0]])
    np.testing.assert_array_equal(camera.draw_boxes(picture, view, layer(boxes)), picture)


@pytest.mark.parametrize("x", [-1.9, -0.05, 0.0, 1.0, 2.0])
def test_a_box_across_the_near_plane_gives_finite_lines_inside_the_picture(x: float) -> None:
    picture, view = view_of()
    boxes = make_boxes([[x, 1.2, 1.2, 6, 2, 2, 0.1, 0, 0]])
    corners = view.from_ego(box_corners(boxes.boxes.double()))
    assert (corners[..., 2] < camera.NEAR_M).any() and (corners[..., 2] > camera.NEAR_M).any()
    lines, visible = camera.edge_lines(corners, view, IMAGE_SIZE_PX)
    height, width = IMAGE_SIZE_PX
    assert visible.any() and np.isfinite(lines).all()
    ends = lines[visible]
    assert ends[..., 0].min() >= -0.5 and ends[..., 0].max() <= width - 0.5
    assert ends[..., 1].min() >= -0.5 and ends[..., 1].max() <= height - 0.5
    assert len(changed(picture, camera.draw_boxes(picture, view, ground_truth_layer(boxes, CLASSES)))) > 0


def test_the_cut_at_the_near_plane_keeps_the_line() -> None:
    """An edge along the road that starts behind the camera ends where the whole line would."""
    _, view = view_of()
    corners = view.from_ego(box_corners(torch.tensor([[0.0, 2, 0.5, 20, 1, 1, 0]], dtype=torch.float64)))
    lines, visible = camera.edge_lines(corners, view, (10_000, 10_000))
    # Right side, bottom: y = 1.5, z = 0, from x = -10 to 10; the vanishing point is the principal point.
    expected_end = np.array([79.5 - 80 * 1.5 / 10, 44.5 + 80 * 1.5 / 10])
    ends = lines[visible].reshape(-1, 2)
    assert np.abs(ends - expected_end).max(axis=1).min() < 1e-6
    direction = (ends - [79.5, 44.5]) / np.linalg.norm(ends - [79.5, 44.5], axis=1, keepdims=True)
    assert (np.abs(direction - [-math.sqrt(0.5), math.sqrt(0.5)]).max(axis=1) < 1e-6).sum() >= 2


def test_edges_of_a_fisheye_bend() -> None:
    _, view = view_of("kannala_brandt")
    corners = view.from_ego(box_corners(torch.tensor([[1.0, 0, 1.5, 0.4, 6, 1.4, 0]], dtype=torch.float64)))
    lines, visible = camera.edge_lines(corners, view, (1000, 1000))
    top = lines[0][: camera._FISHEYE_PIECES * 12].reshape(12, -1, 2, 2)[5]  # an edge across the picture
    seen = visible[0].reshape(12, -1)[5]
    starts = top[seen][:, 0]
    chord = starts[-1] - starts[0]
    offset = np.abs(np.cross(chord, starts - starts[0])) / np.linalg.norm(chord)
    assert offset.max() > 2


def test_the_front_face_is_tinted() -> None:
    picture, view = view_of()
    drawn = camera.draw_boxes(
        picture, view, ground_truth_layer(make_boxes([[5, 0, 1.5, 2, 2, 2, math.pi, 0, 0]]), CLASSES)
    )
    assert (drawn[44, 79] != GREY).any()  # the box faces the camera: its front is the near face
    assert (drawn[44, 30] == GREY).all()


def test_points_are_drawn_where_they_project_and_the_nearest_wins() -> None:
    picture, view = view_of()
    points = torch.tensor([[10.0, 2.0, 1.5], [40.0, 8.0, 1.5], [-10.0, 0.0, 1.5], [math.nan, 0, 0]])
    drawn = camera.draw_points(picture, view, points)
    marked = changed(picture, drawn)
    np.testing.assert_allclose(marked.mean(axis=0), [44.5, 79.5 - 16], atol=0.51)
    near = camera.draw_points(picture, view, points[:1])
    np.testing.assert_array_equal(drawn, near)


def test_drawing_leaves_its_input_as_it_was() -> None:
    picture, view = view_of()
    boxes = make_boxes([[10, 0, 1.5, 2, 2, 2, 0, 0, 0]])
    camera.draw_boxes(picture, view, ground_truth_layer(boxes, CLASSES))
    camera.draw_points(picture, view, torch.tensor([[10.0, 0, 1.5]]))
    assert (picture == GREY).all()


def test_no_boxes_and_no_points_draw_nothing() -> None:
    picture, view = view_of()
    np.testing.assert_array_equal(camera.draw_boxes(picture, view, layer(make_boxes([]))), picture)
    np.testing.assert_array_equal(camera.draw_points(picture, view, torch.zeros(0, 4)), picture)


def test_rejects() -> None:
    picture, view = view_of()
    with pytest.raises(ValueError, match="color_by must be depth or height, got 'rainbow'"):
        camera.draw_points(picture, view, torch.zeros(0, 3), color_by="rainbow")
    with pytest.raises(ValueError, match="finite place, size and yaw"):
        layer(make_boxes([[math.nan, 0, 0, 1, 1, 1, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, got 5\.\.5"):
        ground_truth_layer(make_boxes([[1, 0, 0, 1, 1, 1, 0, 0, 0]], labels=[5]), CLASSES)


def test_a_fisheye_shows_nothing_beyond_its_largest_angle() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    intrinsics = torch.tensor([[31.0, 0.0, 59.5], [0.0, 31.0, 39.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    view = CameraView(
        camera_model="kannala_brandt",
        intrinsics=intrinsics,
        distortion=torch.zeros(4, dtype=torch.float64),
        camera2ego=eye,
        image2aug=eye[:3, :3],
    )
    angles = torch.tensor([0.5, 1.5, 1.7], dtype=torch.float64)
    points = torch.stack((angles.sin(), torch.zeros(3), angles.cos()), 1)
    assert view.project(points)[1].tolist() == [True, True, True]
    limited = replace(view, theta_max_rad=torch.tensor(1.6, dtype=torch.float64)).resized(2.0, 2.0)
    assert limited.project(points)[1].tolist() == [True, True, False]
