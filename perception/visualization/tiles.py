"""What pictures are put together of: rows and columns of tiles, tiles without content, legends."""

from collections.abc import Sequence

import numpy as np

from perception.visualization import canvas
from perception.visualization.colors import BACKGROUND, MUTED, RGB

GAP_PX = 6
"""Between tiles."""

_STRIPE: RGB = (28, 34, 43)

LegendEntry = tuple[str, RGB]
"""A name and the colour that stands for it; the background's is drawn as an empty square."""


def stack(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Joins pictures with a gap; the shorter ones are filled up with background.

    Args:
        pictures: (H, W, 3) uint8 RGB of any sizes, at least one.
        axis: 0 joins them down, 1 across.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    size = [max(picture.shape[0] for picture in pictures), max(picture.shape[1] for picture in pictures)]
    size[axis] = sum(picture.shape[axis] for picture in pictures) + GAP_PX * (len(pictures) - 1)
    result = np.full((*size, 3), BACKGROUND, dtype=np.uint8)
    corner = [0, 0]
    for picture in pictures:
        height, width = picture.shape[:2]
        result[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = picture
        corner[axis] += picture.shape[axis] + GAP_PX
    return result


def draw_absent(tile: np.ndarray, name: str, words: str, font_px: int) -> None:
    """Fills a tile that has no content with stripes, its name and the reason, in place.

    Args:
        tile: (H, W, 3) uint8 RGB.
        name: what would stand here.
        words: why it does not.
        font_px: font size.
    """
    height, width = tile.shape[:2]
    for start in range(-height, width, 28):
        canvas.draw_lines(tile, np.array([[(start, height), (start + height, 0)]], dtype=np.float64), _STRIPE)
    canvas.draw_text(tile, name, (width / 2, height / 2 - 1.3 * font_px), font_px, MUTED, "center")
    canvas.draw_text(tile, words, (width / 2, height / 2 + 0.2 * font_px), font_px, MUTED, "center")


def draw_swatch(picture: np.ndarray, u: float, v: float, font_px: int, color: RGB, hollow: bool = False) -> None:
    """Draws the square of colour before a word of that size, in place.

    Args:
        picture: (H, W, 3) uint8 RGB.
        u: left edge of the square.
        v: top of the line of text.
        font_px: font size of the word.
        color: RGB.
        hollow: its outline alone.
    """
    side = font_px * 0.8
    square = np.array([(0, 0), (side, 0), (side, side), (0, side)]) + np.array((u, v + font_px * 0.2))
    if hollow:
        canvas.draw_outline(picture, square, color)
    else:
        canvas.fill_polygon(picture, square, color)


def legend_lines(names: Sequence[str], width_px: int, font_px: int) -> list[list[tuple[str, float]]]:
    """Breaks a legend into lines.

    Args:
        names: what it names.
        width_px: room for a line; a name that is wider than that has a line of its own.
        font_px: font size.

    Returns:
        For each line its names, each with the left edge of its square in pixels.
    """
    lines: list[list[tuple[str, float]]] = [[]]
    u = first = font_px * 0.6
    for name in names:
        need = font_px * 1.2 + canvas.text_size(_words(name), font_px)[0]
        if lines[-1] and u + need > width_px:
            lines.append([])
            u = first
        lines[-1].append((name, u))
        u += need + font_px
    return lines


def render_legend(entries: Sequence[LegendEntry], num_lines: int, width_px: int, font_px: int) -> np.ndarray:
    """Draws names with their colours.

    Args:
        entries: what is named; what does not fit is left out.
        num_lines: lines of room.
        width_px: its width.
        font_px: font size.

    Returns:
        (H, width_px, 3) uint8 RGB.
    """
    bar = np.full((legend_height_px(num_lines, font_px), width_px, 3), BACKGROUND, np.uint8)
    colors = dict(entries)
    for row, line in enumerate(legend_lines(list(colors), width_px, font_px)[:num_lines]):
        top = font_px * 0.3 + row * _line_px(font_px)
        for name, left in line:
            unseen = colors[name] == BACKGROUND
            draw_swatch(bar, left, top, font_px, MUTED if unseen else colors[name], hollow=unseen)
            canvas.draw_text(bar, _words(name), (left + font_px * 1.2, top), font_px, MUTED)
    return bar


def legend_height_px(num_lines: int, font_px: int) -> int:
    """How high a legend is.

    Args:
        num_lines: of names.
        font_px: font size.

    Returns:
        Pixels.
    """
    return num_lines * _line_px(font_px) + font_px // 2


def _line_px(font_px: int) -> int:
    return round(font_px * 1.5)


def _words(name: str) -> str:
    return name.replace("_", " ")
