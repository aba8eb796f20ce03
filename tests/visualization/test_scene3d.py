import math
import sys

import numpy as np
import pytest
import torch

from perception.geometry.boxes import box_corners
from perception.visualization import scene3d
from perception.visualization.layers import ground_truth_layer
from tests.visualization.conftest import CLASSES, make_boxes


def test_boxes_become_edges_a_cross_on_the_front_and_a_velocity_line() -> None:
    boxes = make_boxes([[10, 2, 1, 4, 2, 2, 0, 3, -1], [5, 5, 1, 1, 1, 1, 1, math.nan, math.nan]], labels=[0, 1])
    layer = ground_truth_layer(boxes, CLASSES)
    scene = scene3d.build_scene(None, [layer])
    assert scene.points.shape == (0, 3) and scene.lines.shape == (30, 2)
    lengths = np.linalg.norm(np.diff(scene.vertices[scene.lines], axis=1)[:, 0], axis=1)
    np.testing.assert_allclose(sorted(lengths[:12]), [2] * 8 + [4] * 4)
    np.testing.assert_allclose(lengths[12:15], [math.sqrt(8), math.sqrt(8), math.sqrt(10)])
    assert lengths[29] == 0  # unknown velocity
    np.testing.assert_allclose(scene.vertices[:8], box_corners(boxes.boxes.double())[0].numpy())
    assert scene.vertices[scene.lines[12:14]][..., 0].min() == 12  # the cross lies in the front face
    np.testing.assert_array_equal(scene.line_colors[[0, 29]], layer.colors)


def test_layers_are_put_together() -> None:
    layer = ground_truth_layer(make_boxes([[10, 2, 1, 4, 2, 2, 0, 0, 0]]), CLASSES)
    one, two = scene3d.build_scene(None, [layer]), scene3d.build_scene(None, [layer, layer])
    np.testing.assert_array_equal(two.vertices[two.lines[15:]], one.vertices[one.lines])


def test_points_that_are_not_finite_are_left_out() -> None:
    points = torch.tensor([[1.0, 2, 3, 9], [math.nan, 0, 0, 0], [0, math.inf, 0, 0]])
    scene = scene3d.build_scene(points, [])
    np.testing.assert_array_equal(scene.points, [[1, 2, 3]])
    assert scene.point_colors.shape == (1, 3) and scene.lines.shape == (0, 2)


def test_a_missing_display_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RuntimeError, match="needs a display, but neither DISPLAY nor WAYLAND_DISPLAY is set"):
        scene3d.show(scene3d.build_scene(None, []))


def test_a_missing_open3d_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(ImportError, match=r"extra `viz` and `pip install --no-deps open3d-cpu`.*libusb-1\.0-0"):
        scene3d.to_open3d(scene3d.build_scene(None, []))


@pytest.mark.slow
def test_open3d_takes_the_scene() -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    layer = ground_truth_layer(make_boxes([[10, 2, 1, 4, 2, 2, 0, 3, -1]]), CLASSES)
    cloud, lines, _ = scene3d.to_open3d(scene3d.build_scene(torch.rand(7, 4), [layer]))
    assert len(cloud.points) == len(cloud.colors) == 7
    assert len(lines.lines) == len(lines.colors) == 15 and len(lines.points) == 10
