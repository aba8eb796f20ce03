"""Colours: one per class, and scales for height, depth and heat; RGB, made for a dark background."""

from collections.abc import Sequence

import numpy as np

try:
    import cv2
except ImportError as missing:
    raise ImportError(
        f"perception.visualization needs {missing.name}: pip install 'bev-perception-stack[viz]'"
    ) from missing

RGB = tuple[int, int, int]

BACKGROUND: RGB = (13, 17, 23)
SURFACE: RGB = (22, 27, 34)
GRID: RGB = (42, 50, 61)
MUTED: RGB = (125, 135, 148)
TEXT: RGB = (230, 237, 243)
GROUND_TRUTH: RGB = (255, 255, 255)

HEIGHT_RANGE_M = (-0.5, 4.0)
DEPTH_RANGE_M = (2.0, 60.0)

_CLASS_COLORS: dict[str, RGB] = {
    "car": (255, 184, 48),
    "truck": (255, 122, 69),
    "bus": (247, 89, 171),
    "trailer": (205, 146, 104),
    "construction_vehicle": (179, 127, 235),
    "pedestrian": (77, 168, 255),
    "motorcycle": (54, 214, 181),
    "bicycle": (160, 224, 74),
    "traffic_cone": (255, 77, 79),
    "barrier": (150, 163, 184),
}
_GOLDEN_RATIO = 0.618034

# Calm and cool, so that the warm boxes stand out: the ground is dim, what rises from it is bright.
_HEIGHT_STOPS = (
    (0.00, (52, 62, 86)),
    (0.11, (56, 76, 112)),
    (0.25, (48, 124, 156)),
    (0.45, (70, 178, 178)),
    (0.70, (164, 214, 172)),
    (1.00, (246, 240, 208)),
)


def class_colors(class_names: Sequence[str]) -> np.ndarray:
    """Gives each class its colour; a class that is not among nuScenes' ten gets a hue of its own.

    Args:
        class_names: N names in label order.

    Returns:
        (N, 3) uint8 RGB.
    """
    colors = [_CLASS_COLORS.get(name) or _hue(index) for index, name in enumerate(class_names)]
    return np.array(colors, dtype=np.uint8).reshape(-1, 3)


def height_colors(height_m: np.ndarray) -> np.ndarray:
    """Colours heights above the ground: dim slate at the road, teal at a car's roof, pale yellow high up.

    Args:
        height_m: (P,) z in the ego frame.

    Returns:
        (P, 3) uint8 RGB; heights outside `HEIGHT_RANGE_M` get the colour of its end.
    """
    low, high = HEIGHT_RANGE_M
    stops = np.array([stop for stop, _ in _HEIGHT_STOPS])
    anchors = np.array([color for _, color in _HEIGHT_STOPS], dtype=np.float64)  # (S, 3)
    share = (np.nan_to_num(height_m) - low) / (high - low)
    return np.stack([np.interp(share, stops, anchors[:, c]) for c in range(3)], axis=-1).astype(np.uint8)


def depth_colors(depth_m: np.ndarray) -> np.ndarray:
    """Colours depths on a logarithmic scale: red near, blue far.

    Args:
        depth_m: (P,) metres.

    Returns:
        (P, 3) uint8 RGB; depths outside `DEPTH_RANGE_M` get the colour of its end.
    """
    low, high = DEPTH_RANGE_M
    share = np.log(np.clip(np.nan_to_num(depth_m), low, high) / low) / np.log(high / low)
    return _table(cv2.COLORMAP_TURBO)[(230 - share * 200).round().astype(np.int64)]


def heat_colors(heat: np.ndarray) -> np.ndarray:
    """Colours values from 0 (dark violet) to 1 (pale yellow).

    Args:
        heat: any shape, clipped to 0..1; NaN counts as 0.

    Returns:
        (..., 3) uint8 RGB.
    """
    share = np.clip(np.nan_to_num(heat), 0, 1)
    return _table(cv2.COLORMAP_INFERNO)[(share * 255).round().astype(np.int64)]


def _table(colormap: int) -> np.ndarray:
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.applyColorMap(ramp, colormap)[:, 0, ::-1]  # (256, 1, 3) BGR -> (256, 3) RGB


def _hue(index: int) -> RGB:
    hue = np.uint8(179 * (index * _GOLDEN_RATIO % 1))
    red, green, blue = cv2.cvtColor(np.array([[[hue, 150, 255]]], dtype=np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue
