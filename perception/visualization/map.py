"""Pictures of the map around the vehicle: what covers the ground, class by class, as it is and as it is predicted."""

from collections.abc import Sequence

import numpy as np

from perception.structures import MapPrediction, MapTruth
from perception.visualization import canvas
from perception.visualization.bev import BevView
from perception.visualization.colors import BACKGROUND, RGB, TEXT, class_colors
from perception.visualization.near_field import draw_cells, reach_m
from perception.visualization.tiles import LegendEntry

# From what lies below to what lies on top of it.
_COLORS: dict[str, RGB] = {
    "drivable_area": (38, 74, 96),
    "carpark_area": (92, 74, 122),
    "walkway": (44, 104, 76),
    "ped_crossing": (88, 166, 214),
    "stop_line": (240, 92, 96),
    "divider": (250, 214, 92),
    "vehicle": (255, 150, 66),
}
_GAP_PX = 4
# Probabilities in this range shade from nothing to a class's full colour; small ones of many classes would veil all.
_SHADED = (0.25, 0.75)


def map_colors(shares: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Colours a map: every class covers what lies below it as far as its share goes.

    Args:
        shares: (K, Y, X) in [0, 1], a truth's cells or a prediction's probabilities; NaN leaves the background.
        class_names: K names of the layers.

    Returns:
        (Y, X, 3) uint8 RGB.

    Raises:
        ValueError: there is not one layer per name.
    """
    if shares.ndim != 3 or len(shares) != len(class_names):
        raise ValueError(f"map_colors: shares must be ({len(class_names)}, Y, X), got {shares.shape}")
    colors = np.broadcast_to(np.array(BACKGROUND, np.float64), (*shares.shape[1:], 3))
    for name, color in _colors_of(class_names).items():
        share = np.nan_to_num(shares[list(class_names).index(name)].astype(np.float64))[..., None]  # (Y, X, 1)
        colors = colors * (1 - share) + np.array(color) * share
    return colors.round().astype(np.uint8)


def render_map(truth: MapTruth | None, prediction: MapPrediction | None, size_px: int = 640) -> np.ndarray:
    """Draws truth and prediction of one sample side by side over the same ground, each as far as there is one.

    Args:
        truth: in the ego frame, left; where there is a prediction, as far as that reaches.
        prediction: in the ego frame, right; a class shows from a probability of 0.25 on and is full at 0.75.
        size_px: side of each picture.

    Returns:
        (size_px, W, 3) uint8 RGB.

    Raises:
        ValueError: there is neither, or `size_px` is not positive.
    """
    shown = prediction if prediction is not None else truth
    if shown is None:
        raise ValueError("render_map: truth or prediction must be given, got neither")
    view = BevView.square(reach_m(shown.grid), size_px)
    both = (("truth", truth), ("prediction", prediction))
    panels = [_panel(title, found, view) for title, found in both if found is not None]
    gap = np.full((size_px, _GAP_PX, 3), BACKGROUND, np.uint8)
    return panels[0] if len(panels) == 1 else np.concatenate([panels[0], gap, panels[1]], axis=1)


def draw_map(found: MapTruth | MapPrediction, view: BevView) -> np.ndarray:
    """Draws one map without words.

    Args:
        found: in the ego frame; a predicted class shows from a probability of 0.25 on and is full at 0.75.
        view: what the picture shows.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if isinstance(found, MapTruth):
        shares = found.cells.cpu().numpy()
    else:
        low, high = _SHADED
        shares = ((found.probabilities.detach().cpu().numpy() - low) / (high - low)).clip(0, 1)
    return draw_cells(view, map_colors(shares, found.class_names), found.grid)


def map_legend(class_names: Sequence[str] = tuple(_COLORS)) -> list[LegendEntry]:
    """Names the colours of classes.

    Args:
        class_names: names of layers.

    Returns:
        From the lowest layer to the highest.
    """
    return list(_colors_of(class_names).items())


def _panel(title: str, found: MapTruth | MapPrediction, view: BevView) -> np.ndarray:
    picture = draw_map(found, view)
    font_px = max(len(picture) // 40, 11)
    canvas.draw_tag(picture, title, (font_px // 2, font_px // 2), font_px, TEXT)
    for row, (name, color) in enumerate(map_legend(found.class_names), start=1):
        place = (font_px // 2, font_px // 2 + 2 * font_px * row)
        canvas.draw_tag(picture, name.replace("_", " "), place, font_px, _lighter(color))
    return picture


def _colors_of(class_names: Sequence[str]) -> dict[str, RGB]:
    """Colours from the lowest layer to the highest; classes that are not known lie on top."""
    known = {name: color for name, color in _COLORS.items() if name in class_names}
    others = [name for name in class_names if name not in _COLORS]
    red_green_blue = class_colors(others).tolist()
    return known | {name: (red, green, blue) for name, (red, green, blue) in zip(others, red_green_blue, strict=True)}


def _lighter(color: RGB) -> RGB:
    """A colour that can be read on the background."""
    red, green, blue = (value + max(0, 170 - max(color)) for value in color)
    return red, green, blue
