"""Pictures of the occupied space: from above, and aslant from behind, with the classes in a legend."""

import numpy as np
from torch import Tensor

from perception.formats.occupancy import FREE, OCCUPANCY_CLASSES
from perception.geometry.grid import Grid
from perception.structures import OccupancyPrediction, OccupancyTruth
from perception.visualization import canvas
from perception.visualization.bev import BevView
from perception.visualization.colors import BACKGROUND, RGB, SURFACE, TEXT, class_colors
from perception.visualization.near_field import draw_cells, reach_m
from perception.visualization.tiles import LegendEntry

# The ground is dim and cool, what stands on it bright: objects keep the colours of their boxes.
_COLORS: dict[str, RGB] = {
    "others": (214, 214, 224),
    "driveable_surface": (58, 66, 88),
    "other_flat": (124, 108, 70),
    "sidewalk": (112, 92, 122),
    "terrain": (66, 92, 54),
    "manmade": (150, 132, 120),
    "vegetation": (64, 148, 82),
}
_LOWEST_BRIGHTNESS = 0.75  # of the lowest layer, seen from above
_FRONT_BRIGHTNESS = 0.62  # of faces that look back, against those that look up
_GAP_PX = 6


def occupancy_class_colors() -> np.ndarray:
    """Gives each class of occupancy its colour.

    Returns:
        (18, 3) uint8 RGB; free as the background.
    """
    colors = class_colors(OCCUPANCY_CLASSES)
    for name, color in _COLORS.items():
        colors[OCCUPANCY_CLASSES.index(name)] = color
    colors[FREE] = BACKGROUND
    return colors


def top_down_colors(labels: np.ndarray) -> np.ndarray:
    """Colours every column by its highest occupied voxel, the brighter the higher.

    Args:
        labels: (Z, Y, X) index into `OCCUPANCY_CLASSES`.

    Returns:
        (Y, X, 3) uint8 RGB, the background where a column is free.
    """
    occupied = labels != FREE
    layers = len(labels)
    top = layers - 1 - occupied[::-1].argmax(0)  # (Z, Y, X) -> (Y, X)
    label = np.take_along_axis(labels, top[None], 0)[0]
    share = _LOWEST_BRIGHTNESS + (1 - _LOWEST_BRIGHTNESS) * top / max(layers - 1, 1)
    colors = (occupancy_class_colors()[label] * share[..., None]).round()
    return np.where(occupied.any(0)[..., None], colors, BACKGROUND).astype(np.uint8)


def draw_aslant(labels: np.ndarray, voxel_px: int = 4) -> np.ndarray:
    """Draws voxels as boxes seen aslant from behind and above: x goes up the picture, y to the left.

    Args:
        labels: (Z, Y, X) index into `OCCUPANCY_CLASSES`.
        voxel_px: width of a voxel; it is drawn as high as wide, and half as deep.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: `voxel_px` is below 2.
    """
    if voxel_px < 2:
        raise ValueError(f"draw_aslant: voxel_px must be at least 2, got {voxel_px}")
    layers, rows, columns = labels.shape
    deep = voxel_px // 2
    picture = np.full((columns * deep + layers * voxel_px, rows * voxel_px, 3), BACKGROUND, np.uint8)
    tops = occupancy_class_colors()
    fronts = (tops * _FRONT_BRIGHTNESS).round().astype(np.uint8)
    for column in reversed(range(columns)):  # from far to near, each from the ground up: what is nearer covers
        for layer in range(layers):
            line = labels[layer, ::-1, column].repeat(voxel_px)  # (Y,) -> (W,), left first
            places = np.flatnonzero(line != FREE)
            if len(places):
                base = len(picture) - column * deep - layer * voxel_px  # below the front's lowest line
                picture[base - voxel_px : base, places] = fronts[line[places]]
                picture[base - voxel_px - deep : base - voxel_px, places] = tops[line[places]]
    return picture


def draw_occupancy(found: OccupancyTruth | OccupancyPrediction, view: BevView) -> np.ndarray:
    """Draws the occupied space from above without words.

    Args:
        found: in the ego frame; voxels of a truth that nothing observed are left out.
        view: what the picture shows.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return draw_cells(view, top_down_colors(_observed(found)), found.grid)


def occupancy_legend() -> list[LegendEntry]:
    """Names the colours of all classes but free.

    Returns:
        In the order of `OCCUPANCY_CLASSES`.
    """
    colors = occupancy_class_colors()[:FREE].tolist()
    return [(name, (red, green, blue)) for name, (red, green, blue) in zip(OCCUPANCY_CLASSES, colors, strict=False)]


def render_occupancy(
    truth: OccupancyTruth | None, prediction: OccupancyPrediction | None, size_px: int = 800
) -> np.ndarray:
    """Draws truth and prediction of one sample side by side, each as far as there is one, over a legend.

    Args:
        truth: in the ego frame, left; voxels that nothing observed are left out.
        prediction: in the ego frame, right.
        size_px: side of each view from above; the one aslant lies below it.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: there is neither, or `size_px` is less than two pixels a voxel.
    """
    panels, shown = [], np.zeros(len(OCCUPANCY_CLASSES), bool)
    for title, found in (("truth", truth), ("prediction", prediction)):
        if found is not None:
            labels = _observed(found)
            shown[np.unique(labels)] = True
            panels.append(_panel(title, labels, found.grid, size_px))
    if not panels:
        raise ValueError("render_occupancy: truth or prediction must be given, got neither")
    gap = np.full((len(panels[0]), _GAP_PX, 3), BACKGROUND, np.uint8)
    pictures = panels[0] if len(panels) == 1 else np.concatenate([panels[0], gap, panels[1]], axis=1)
    names = [name for name in OCCUPANCY_CLASSES[:FREE] if shown[OCCUPANCY_CLASSES.index(name)]]
    return np.concatenate([pictures, _legend(names, pictures.shape[1], size_px)], axis=0)


def _observed(found: OccupancyTruth | OccupancyPrediction) -> np.ndarray:
    labels: Tensor = found.labels
    if isinstance(found, OccupancyTruth):
        labels = labels.where(found.mask_lidar | found.mask_camera, labels.new_tensor(FREE))
    return labels.detach().cpu().numpy()


def _panel(title: str, labels: np.ndarray, grid: Grid, size_px: int) -> np.ndarray:
    above = draw_cells(BevView.square(reach_m(grid), size_px), top_down_colors(labels), grid)
    font_px = max(size_px // 40, 11)
    canvas.draw_tag(above, title, (font_px // 2, font_px // 2), font_px, TEXT)
    aslant = draw_aslant(labels, size_px // grid.num_y)
    below = np.full((len(aslant) + _GAP_PX, size_px, 3), BACKGROUND, np.uint8)
    left = (size_px - aslant.shape[1]) // 2
    below[_GAP_PX:, left : left + aslant.shape[1]] = aslant
    return np.concatenate([above, below], axis=0)


def _legend(names: list[str], width_px: int, size_px: int) -> np.ndarray:
    """Squares of colour with the names of classes, in as many lines as they take."""
    font_px = max(size_px // 50, 11)
    line_px, square_px = 2 * font_px, font_px
    colors = dict(zip(OCCUPANCY_CLASSES, occupancy_class_colors().tolist(), strict=True))
    places, u, line = [], font_px, 0
    for name in names:
        words = name.replace("_", " ")
        need = 2 * square_px + canvas.text_size(words, font_px)[0] + font_px
        if u + need > width_px and u > font_px:
            u, line = font_px, line + 1
        places.append((words, colors[name], u, line * line_px + font_px // 2))
        u += need
    legend = np.full(((line + 1) * line_px + font_px // 2, width_px, 3), SURFACE, np.uint8)
    for words, color, left, top in places:
        legend[top : top + square_px, left : left + square_px] = color
        canvas.draw_text(legend, words, (left + 1.5 * square_px, top - font_px // 8), font_px, TEXT)
    return legend
