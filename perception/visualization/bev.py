"""The bird's-eye view of a sample: x forward is up, y left is left."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from perception.geometry.boxes import box_corners
from perception.geometry.grid import Grid
from perception.visualization import canvas
from perception.visualization.colors import BACKGROUND, GRID, MUTED, TEXT, heat_colors, height_colors
from perception.visualization.layers import BoxLayer

MIN_SPEED_M_S = 0.5
"""Slower boxes get no velocity arrow."""

_FILL_OPACITY = 0.22
_SMALL_PX = 14  # boxes below get thin lines
# A mid-size car around its rear axle, metres: length behind and before it, half width.
_EGO_M = (-0.9, 3.6, 0.92)


@dataclass(frozen=True, kw_only=True)
class BevView:
    """Which part of the ego frame's ground a picture shows.

    Args:
        x_range_m: lower (bottom of the picture) and upper (top) bound along x.
        y_range_m: lower (right) and upper (left) bound along y.
        px_per_m: scale.

    Raises:
        ValueError: a range is empty or the scale not positive.
    """

    x_range_m: tuple[float, float]
    y_range_m: tuple[float, float]
    px_per_m: float

    def __post_init__(self) -> None:
        if not (self.x_range_m[0] < self.x_range_m[1] and self.y_range_m[0] < self.y_range_m[1]):
            raise ValueError(f"BevView: ranges must rise, got x {self.x_range_m} and y {self.y_range_m}")
        if not self.px_per_m > 0:
            raise ValueError(f"BevView: px_per_m must be positive, got {self.px_per_m}")

    @classmethod
    def square(cls, half_m: float, size_px: int) -> "BevView":
        """Builds the view of a square around the ego vehicle.

        Args:
            half_m: half of its side, metres.
            size_px: side of the picture.

        Returns:
            The view.

        Raises:
            ValueError: half_m or size_px is not positive.
        """
        if not (half_m > 0 and size_px > 0):
            raise ValueError(f"BevView: half_m and size_px must be positive, got {half_m} and {size_px}")
        return cls(x_range_m=(-half_m, half_m), y_range_m=(-half_m, half_m), px_per_m=size_px / (2 * half_m))

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of the picture."""
        (x_low, x_high), (y_low, y_high) = self.x_range_m, self.y_range_m
        return round((x_high - x_low) * self.px_per_m), round((y_high - y_low) * self.px_per_m)

    def to_pixels(self, points_xy: np.ndarray) -> np.ndarray:
        """Maps points on the ground to pixels.

        Args:
            points_xy: (..., 2) x y, metres in the ego frame.

        Returns:
            (..., 2) u v; pixel (0, 0) is the centre of the top-left pixel.
        """
        ahead, left = points_xy[..., 0], points_xy[..., 1]
        pixels = np.stack((self.y_range_m[1] - left, self.x_range_m[1] - ahead), axis=-1)
        return pixels * self.px_per_m - 0.5


def blank(view: BevView) -> np.ndarray:
    """Draws the empty ground: range rings with their distances, the axes of the ego frame and the ego vehicle.

    Args:
        view: what the picture shows.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    picture = np.full((*view.size_px, 3), BACKGROUND, dtype=np.uint8)
    draw_rings(picture, view)
    return picture


def draw_rings(picture: np.ndarray, view: BevView) -> None:
    """Draws range rings around the ego vehicle, in place.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: what the picture shows.
    """
    center = view.to_pixels(np.zeros(2))
    reach = max(abs(bound) for bound in (*view.x_range_m, *view.y_range_m))
    height, width = view.size_px
    axes = np.array([[(center[0], 0), (center[0], height)], [(0, center[1]), (width, center[1])]], dtype=np.float64)
    canvas.draw_lines(picture, axes, GRID)
    for radius_m in np.arange(1, math.floor(math.sqrt(2) * reach / ring_step_m(reach)) + 1) * ring_step_m(reach):
        canvas.draw_circle(picture, (center[0], center[1]), radius_m * view.px_per_m, GRID)


def ring_step_m(reach_m: float) -> float:
    """Chooses a round distance between range rings: about five rings.

    Args:
        reach_m: how far the picture reaches.

    Returns:
        1, 2 or 5 times a power of ten, metres.
    """
    power = 10.0 ** math.floor(math.log10(reach_m / 5))
    return power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(reach_m / 5 / (factor * power))))


def draw_ring_labels(picture: np.ndarray, view: BevView) -> None:
    """Writes the distances of the range rings, in place.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: what the picture shows.
    """
    reach = max(abs(bound) for bound in (*view.x_range_m, *view.y_range_m))
    font_px = _font_px(view)
    direction = np.array([math.cos(math.radians(45)), -math.sin(math.radians(45))])  # ahead to the right
    for radius_m in np.arange(1, math.floor(math.sqrt(2) * reach / ring_step_m(reach)) + 1) * ring_step_m(reach):
        text = f"{radius_m:g} m"
        width, height = canvas.tag_size(text, font_px)
        u, v = view.to_pixels(direction * radius_m) - (width / 2, height / 2)
        if u >= 0 and u + width < picture.shape[1] and v >= 0:
            canvas.draw_tag(picture, text, (u, v), font_px, MUTED)


def draw_heat(picture: np.ndarray, view: BevView, heat: np.ndarray, grid: Grid, opacity: float = 0.9) -> np.ndarray:
    """Lays a map of values over the ground; low values are see-through.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: what the picture shows.
        heat: (Y, X) in 0..1, such as a heatmap or a normalised feature magnitude; NaN is see-through.
        grid: where the cells lie in the ego frame.
        opacity: of the value 1.

    Returns:
        The picture with the map; the input is left as it is.

    Raises:
        ValueError: heat is not one value per cell of the grid.
    """
    if heat.shape != (grid.num_y, grid.num_x):
        raise ValueError(f"draw_heat: heat must be (Y, X) = ({grid.num_y}, {grid.num_x}), got {heat.shape}")
    cell_x, cell_y, _ = grid.cell_m
    first = view.to_pixels(np.array(grid.origin_m[:2]) + np.array((cell_x / 2, cell_y / 2)))  # pixel of cell (0, 0)
    scale = view.px_per_m
    cell2pixel = np.array([[0, -cell_y * scale, first[0]], [-cell_x * scale, 0, first[1]]])
    values = np.clip(np.nan_to_num(heat), 0, 1).astype(np.float32)
    seen = cv2.warpAffine(values, cell2pixel, picture.shape[1::-1], flags=cv2.INTER_LINEAR)
    cover = (np.sqrt(seen) * opacity)[..., None]
    return (picture * (1 - cover) + heat_colors(seen) * cover).round().astype(np.uint8)


def draw_points(picture: np.ndarray, view: BevView, points: Tensor) -> np.ndarray:
    """Draws points coloured by their height, the highest on top.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: what the picture shows.
        points: (P, 3 + C), metres in the ego frame.

    Returns:
        The picture with points; the input is left as it is.
    """
    xyz = points[:, :3].double().numpy()
    xyz = xyz[np.isfinite(xyz).all(axis=1)]
    xyz = xyz[np.argsort(xyz[:, 2], kind="stable")]
    result = picture.copy()
    radius_px = float(np.clip(view.px_per_m * 0.07, 0.75, 2.5))
    canvas.draw_points(result, view.to_pixels(xyz[:, :2]), height_colors(xyz[:, 2]), radius_px, opacity=0.9)
    return result


def draw_ego(picture: np.ndarray, view: BevView) -> None:
    """Draws the ego vehicle from above, in place.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: what the picture shows.
    """
    rear, front, half = _EGO_M
    nose = 0.35
    body = [
        (rear, half - 0.15), (rear + 0.15, half), (front - nose, half), (front, half - nose),
        (front, -half + nose), (front - nose, -half), (rear + 0.15, -half), (rear, -half + 0.15),
    ]  # fmt: skip
    glass = [(1.55, half - 0.2), (2.35, half - 0.1), (2.35, -half + 0.1), (1.55, -half + 0.2)]
    canvas.fill_polygon(picture, view.to_pixels(np.array(body)), (205, 213, 222))
    canvas.fill_polygon(picture, view.to_pixels(np.array(glass)), (60, 70, 84))


def draw_boxes(picture: np.ndarray, view: BevView, layer: BoxLayer) -> np.ndarray:
    """Draws boxes from above: outline, a mark from the centre through the front, an arrow of one second's travel.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: what the picture shows.
        layer: boxes in the ego frame and how they look; captions are not drawn here.

    Returns:
        The picture with boxes; the input is left as it is.
    """
    result = picture.copy()
    boxes = layer.boxes.double()
    outlines = view.to_pixels(box_corners(boxes)[:, :4, :2].numpy())  # (M, 4, 2)
    centers = view.to_pixels(boxes[:, :2].numpy())
    ends = view.to_pixels((boxes[:, :2] + boxes[:, 7:9]).numpy())
    speeds = boxes[:, 7:9].norm(dim=1).numpy()
    for i in range(len(layer)):
        red, green, blue = layer.colors[i].tolist()
        color = (red, green, blue)
        thickness = 1 if layer.hollow or np.ptp(outlines[i], axis=0).max() < _SMALL_PX else 2
        if not layer.hollow:
            canvas.fill_polygon(result, outlines[i], color, _FILL_OPACITY)
        canvas.draw_outline(result, outlines[i], color, thickness)
        front = (outlines[i, 0] + outlines[i, 3]) / 2
        canvas.draw_lines(result, np.array([[centers[i], front]]), color, thickness)
        if MIN_SPEED_M_S < speeds[i] < np.inf:
            _draw_arrow(result, centers[i], ends[i], color, thickness)
    return result


def render_bev(
    view: BevView,
    *,
    points: Tensor | None = None,
    layers: tuple[BoxLayer, ...] = (),
    heat: tuple[np.ndarray, Grid] | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws the bird's-eye view of a sample.

    Args:
        view: what the picture shows.
        points: (P, 3 + C), metres in the ego frame.
        layers: boxes, the first at the bottom.
        heat: values (Y, X) in 0..1 and the grid they lie on.
        title: written in the top left corner.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    picture = blank(view)
    if heat is not None:
        picture = draw_heat(picture, view, *heat)
    if points is not None:
        picture = draw_points(picture, view, points)
    draw_ego(picture, view)
    for layer in layers:
        picture = draw_boxes(picture, view, layer)
    draw_ring_labels(picture, view)
    if title:
        canvas.draw_tag(picture, title, (_font_px(view) // 2,) * 2, round(_font_px(view) * 1.2), TEXT)
    return picture


def _font_px(view: BevView) -> int:
    return max(round(view.size_px[1] / 80), 11)


def _draw_arrow(
    picture: np.ndarray, start: np.ndarray, end: np.ndarray, color: tuple[int, int, int], thickness_px: int
) -> None:
    along = end - start
    length = float(np.linalg.norm(along))
    along = along / max(length, 1e-9)
    side = np.array([-along[1], along[0]])
    head_px = min(max(4.0 + 2 * thickness_px, length * 0.15), 14.0)
    neck = end - along * head_px
    canvas.draw_lines(picture, np.array([[start, neck]]), color, thickness_px)
    canvas.fill_polygon(picture, np.array([end, neck + side * head_px * 0.45, neck - side * head_px * 0.45]), color)
