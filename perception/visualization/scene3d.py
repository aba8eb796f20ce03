"""A window onto a sample in three dimensions (Open3D); what it shows is built apart from it, without a display."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from perception.geometry.boxes import box_corners
from perception.visualization.colors import BACKGROUND, height_colors
from perception.visualization.layers import BoxLayer

# By corner number of `box_corners`: bottom, top, uprights, a cross on the front face.
_EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7), (0, 7), (3, 4),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scene3D:
    """What the window shows, in the ego frame.

    Args:
        points: (P, 3) float64, metres.
        point_colors: (P, 3) uint8 RGB.
        vertices: (V, 3) float64, metres.
        lines: (L, 2) int64, indices into the vertices.
        line_colors: (L, 3) uint8 RGB.
    """

    points: np.ndarray
    point_colors: np.ndarray
    vertices: np.ndarray
    lines: np.ndarray
    line_colors: np.ndarray


def build_scene(points: Tensor | None, layers: Sequence[BoxLayer]) -> Scene3D:
    """Builds what the window shows: points coloured by height, boxes with a cross on the front and a velocity line.

    Args:
        points: (P, 3 + C), metres in the ego frame; those that are not finite are left out.
        layers: boxes in the ego frame.

    Returns:
        The scene.
    """
    xyz = np.zeros((0, 3)) if points is None else points[:, :3].double().numpy()
    xyz = xyz[np.isfinite(xyz).all(axis=1)]
    vertices, lines, colors = [np.zeros((0, 3))], [np.zeros((0, 2), dtype=np.int64)], [np.zeros((0, 3), dtype=np.uint8)]
    for layer in layers:
        first = sum(map(len, vertices))
        layer_vertices, layer_lines, owners = _box_lines(layer.boxes.double())
        vertices.append(layer_vertices)
        lines.append(layer_lines + first)
        colors.append(layer.colors[owners])
    return Scene3D(
        points=xyz,
        point_colors=height_colors(xyz[:, 2]),
        vertices=np.concatenate(vertices),
        lines=np.concatenate(lines),
        line_colors=np.concatenate(colors),
    )


def _box_lines(boxes: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ten vertices per box (10 M, 3), its lines (L, 2) and which box each line belongs to (L,)."""
    corners = box_corners(boxes).numpy()  # (M, 8, 3)
    centers = boxes[:, None, :3].numpy()
    ends = centers.copy()
    ends[:, 0, :2] += np.nan_to_num(boxes[:, 7:9].numpy())
    vertices = np.concatenate((corners, centers, ends), axis=1)  # (M, 10, 3)
    edges = np.array((*_EDGES, (8, 9)))  # (15, 2)
    lines = edges + 10 * np.arange(len(boxes))[:, None, None]  # (M, 15, 2)
    return vertices.reshape(-1, 3), lines.reshape(-1, 2), np.repeat(np.arange(len(boxes)), len(edges))


def to_open3d(scene: Scene3D) -> list[Any]:
    """Turns a scene into Open3D's geometries.

    Args:
        scene: what to show.

    Returns:
        A point cloud, a line set, and the axes of the ego frame.

    Raises:
        ImportError: Open3D is not installed, or a system library that it opens is missing.
    """
    o3d = _import_open3d()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(scene.points))
    cloud.colors = o3d.utility.Vector3dVector(scene.point_colors / 255)
    lines = o3d.geometry.LineSet(o3d.utility.Vector3dVector(scene.vertices), o3d.utility.Vector2iVector(scene.lines))
    lines.colors = o3d.utility.Vector3dVector(scene.line_colors / 255)
    return [cloud, lines, o3d.geometry.TriangleMesh.create_coordinate_frame(size=2.0)]


def show(scene: Scene3D, title: str = "") -> None:
    """Opens a window and returns when it is closed; the view starts behind and above the ego vehicle.

    Args:
        scene: what to show.
        title: of the window.

    Raises:
        ImportError: Open3D is not installed, or a system library that it opens is missing.
        RuntimeError: there is no display.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # Open3D would draw off screen and wait for ever for a window to be closed.
        raise RuntimeError("show: needs a display, but neither DISPLAY nor WAYLAND_DISPLAY is set")
    geometries = to_open3d(scene)
    window = _import_open3d().visualization.Visualizer()
    if not window.create_window(window_name=title, width=1600, height=900):
        raise RuntimeError("show: no window could be opened on the display")
    try:
        for geometry in geometries:
            window.add_geometry(geometry)
        options = window.get_render_option()
        options.background_color = np.array(BACKGROUND) / 255
        options.point_size = 2.0
        camera = window.get_view_control()
        camera.set_lookat((10.0, 0.0, 0.0))
        camera.set_front((-0.8, 0.0, 0.6))
        camera.set_up((0.0, 0.0, 1.0))
        camera.set_zoom(0.12)
        window.run()
    finally:
        window.destroy_window()


def _import_open3d() -> Any:
    try:
        return importlib.import_module("open3d")
    except ImportError as error:
        raise ImportError(
            f"scene3d: Open3D cannot be imported ({error}); it comes with the extra `viz` and "
            "`pip install --no-deps open3d-cpu`, and opens the system library libusb-1.0 (Debian: libusb-1.0-0)"
        ) from error
    except OSError as error:
        raise ImportError(
            f"scene3d: Open3D misses a system library ({error}); on Debian: libusb-1.0-0 libgl1 libx11-6"
        ) from error
