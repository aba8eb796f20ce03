"""Pictures of the ground near the vehicle: what is free, what is in the way, what nobody sees."""

import cv2
import numpy as np

from perception.formats.near_field import NearFieldCell
from perception.geometry.grid import Grid
from perception.structures import NearField, NearFieldPrediction
from perception.visualization import canvas
from perception.visualization.bev import BevView, draw_ego, draw_ring_labels, draw_rings
from perception.visualization.colors import BACKGROUND, RGB, TEXT
from perception.visualization.tiles import LegendEntry

FREE: RGB = (30, 76, 74)
OCCUPIED: RGB = (255, 150, 66)
_GAP_PX = 4


def near_field_colors(cells: np.ndarray) -> np.ndarray:
    """Colours a truth: free dark teal, occupied orange, unknown as the background.

    Args:
        cells: (Y, X) uint8 `NearFieldCell`.

    Returns:
        (Y, X, 3) uint8 RGB.
    """
    table = np.zeros((len(NearFieldCell), 3), np.uint8)
    for kind, color in {
        NearFieldCell.FREE: FREE,
        NearFieldCell.OCCUPIED: OCCUPIED,
        NearFieldCell.UNKNOWN: BACKGROUND,
    }.items():
        table[kind] = color
    return table[cells]


def probability_colors(occupied: np.ndarray) -> np.ndarray:
    """Colours a prediction, from free to occupied in the colours of the truth.

    Args:
        occupied: (Y, X) probability in [0, 1], NaN where nothing was predicted.

    Returns:
        (Y, X, 3) uint8 RGB.
    """
    share = np.nan_to_num(occupied)[..., None]
    colors = np.array(FREE) * (1 - share) + np.array(OCCUPIED) * share
    return np.where(np.isnan(occupied)[..., None], BACKGROUND, colors.round()).astype(np.uint8)


def draw_cells(view: BevView, colors: np.ndarray, grid: Grid) -> np.ndarray:
    """Draws the ground cell by cell, with sharp edges, range rings and the ego vehicle.

    Args:
        view: what the picture shows.
        colors: (Y, X, 3) uint8 RGB.
        grid: where the cells lie in the ego frame.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: there is not one colour per cell of the grid.
    """
    if colors.shape != (grid.num_y, grid.num_x, 3):
        raise ValueError(f"draw_cells: colors must be ({grid.num_y}, {grid.num_x}, 3), got {colors.shape}")
    cell_x, cell_y, _ = grid.cell_m
    first = view.to_pixels(np.array(grid.origin_m[:2]) + np.array((cell_x / 2, cell_y / 2)))  # pixel of cell (0, 0)
    scale = view.px_per_m
    cell2pixel = np.array([[0, -cell_y * scale, first[0]], [-cell_x * scale, 0, first[1]]])
    picture = cv2.warpAffine(
        colors, cell2pixel, view.size_px[::-1], flags=cv2.INTER_NEAREST, borderValue=tuple(map(float, BACKGROUND))
    )
    draw_rings(picture, view)
    draw_ego(picture, view)
    draw_ring_labels(picture, view)
    return picture


def render_near_field(
    truth: NearField | None, prediction: NearFieldPrediction | None, size_px: int = 480
) -> np.ndarray:
    """Draws truth and prediction of one sample side by side, each as far as there is one.

    Args:
        truth: in the ego frame, left.
        prediction: in the ego frame, right.
        size_px: side of each picture.

    Returns:
        (size_px, W, 3) uint8 RGB.

    Raises:
        ValueError: there is neither, or `size_px` is not positive.
    """
    both = (("truth", truth), ("prediction", prediction))
    panels = [_panel(title, found, size_px) for title, found in both if found is not None]
    if not panels:
        raise ValueError("render_near_field: truth or prediction must be given, got neither")
    gap = np.full((size_px, _GAP_PX, 3), BACKGROUND, np.uint8)
    return panels[0] if len(panels) == 1 else np.concatenate([panels[0], gap, panels[1]], axis=1)


def draw_near_field(found: NearField | NearFieldPrediction, view: BevView) -> np.ndarray:
    """Draws one grid of obstacles without words.

    Args:
        found: in the ego frame.
        view: what the picture shows.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if isinstance(found, NearField):
        return draw_cells(view, near_field_colors(found.cells.cpu().numpy()), found.grid)
    return draw_cells(view, probability_colors(found.occupied.detach().cpu().numpy()), found.grid)


def near_field_legend() -> list[LegendEntry]:
    """Names the colours.

    Returns:
        What is in the way, what is free, what nobody knows.
    """
    return [("occupied", OCCUPIED), ("free", FREE), ("unknown", BACKGROUND)]


def reach_m(grid: Grid) -> float:
    """How far a grid reaches from the ego vehicle's origin along x or y.

    Args:
        grid: the grid.

    Returns:
        The largest of its bounds, metres.
    """
    return max(map(abs, (*grid.x_range_m, *grid.y_range_m)))


def _panel(title: str, found: NearField | NearFieldPrediction, size_px: int) -> np.ndarray:
    picture = draw_near_field(found, BevView.square(reach_m(found.grid), size_px))
    font_px = max(size_px // 32, 11)
    canvas.draw_tag(picture, title, (font_px // 2, font_px // 2), font_px, TEXT)
    return picture
