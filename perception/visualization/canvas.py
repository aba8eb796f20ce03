"""Antialiased drawing on an RGB picture, in place: lines, polygons, points, text.

Pixel (0, 0) is the centre of the top-left pixel; positions are fractions of pixels.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

try:
    import cv2
    from PIL import ImageFont
except ImportError as missing:
    raise ImportError(
        f"perception.visualization needs {missing.name}: pip install 'bev-perception-stack[viz]'"
    ) from missing

from perception.visualization.colors import BACKGROUND, RGB

_SHIFT = 4  # cv2's fixed-point positions: sixteenths of a pixel
_FAR_PX = 1e6  # beyond any picture, within fixed-point range


def draw_lines(canvas: np.ndarray, segments: np.ndarray, color: RGB, thickness_px: int = 1) -> None:
    """Draws separate straight lines.

    Args:
        canvas: (H, W, 3) uint8, changed in place.
        segments: (K, 2, 2) ends u v; lines with an end that is not finite are left out.
        color: RGB.
        thickness_px: width of the lines.
    """
    for segment in segments[np.isfinite(segments).all(axis=(1, 2))]:
        cv2.polylines(canvas, [_fixed(segment)], False, color, thickness_px, cv2.LINE_AA, _SHIFT)


def draw_outline(canvas: np.ndarray, polygon: np.ndarray, color: RGB, thickness_px: int = 1) -> None:
    """Draws a closed line.

    Args:
        canvas: (H, W, 3) uint8, changed in place.
        polygon: (K, 2) u v.
        color: RGB.
        thickness_px: width of the line.
    """
    cv2.polylines(canvas, [_fixed(polygon)], True, color, thickness_px, cv2.LINE_AA, _SHIFT)


def draw_circle(canvas: np.ndarray, center: tuple[float, float], radius_px: float, color: RGB) -> None:
    """Draws a ring one pixel wide.

    Args:
        canvas: (H, W, 3) uint8, changed in place.
        center: u v.
        radius_px: radius.
        color: RGB.
    """
    u, v = (round(value * 2**_SHIFT) for value in center)
    cv2.circle(canvas, (u, v), round(radius_px * 2**_SHIFT), color, 1, cv2.LINE_AA, _SHIFT)


def fill_polygon(canvas: np.ndarray, polygon: np.ndarray, color: RGB, opacity: float = 1.0) -> None:
    """Fills a polygon, see-through where the opacity is below 1.

    Args:
        canvas: (H, W, 3) uint8, changed in place.
        polygon: (K, 2) u v; fewer than three corners draw nothing.
        color: RGB.
        opacity: 0 invisible, 1 solid.
    """
    if len(polygon) < 3:
        return
    size = np.array(canvas.shape[1::-1])
    low = np.clip(np.floor(polygon.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(polygon.max(axis=0)) + 1, 0, size).astype(int)
    if (high <= low).any():
        return
    mask = np.zeros((high - low)[::-1], dtype=np.uint8)
    cv2.fillPoly(mask, [_fixed(polygon - low)], (255,), cv2.LINE_AA, _SHIFT)
    region = canvas[low[1] : high[1], low[0] : high[0]]
    _blend(region, np.array(color, dtype=np.float32), mask * np.float32(opacity / 255))


def draw_points(
    canvas: np.ndarray, pixels: np.ndarray, colors: np.ndarray, radius_px: float = 1.0, opacity: float = 1.0
) -> None:
    """Draws round dots; later ones cover earlier ones.

    Args:
        canvas: (H, W, 3) uint8, changed in place.
        pixels: (P, 2) u v; those outside the picture are left out.
        colors: (P, 3) uint8 RGB.
        radius_px: radius of a dot.
        opacity: 0 invisible, 1 solid.
    """
    height, width = canvas.shape[:2]
    fine_pixels = np.nan_to_num((pixels + 0.5) * 2, nan=-1, posinf=-1, neginf=-1)  # twice as fine, then averaged
    inside = ((fine_pixels >= 0) & (fine_pixels < (2 * width, 2 * height))).all(axis=1)
    cells, colors = fine_pixels[inside].astype(np.int64), colors[inside]
    margin = int(np.ceil(2 * radius_px)) + 1
    fine = np.zeros((2 * (height + margin), 2 * (width + margin), 4), dtype=np.uint8)
    flat = fine.reshape(-1, 4)
    paint = np.concatenate((colors, np.full_like(colors[:, :1], 255)), axis=1)  # (P, 4) RGB and cover
    start = (cells[:, 1] + margin) * fine.shape[1] + cells[:, 0] + margin
    reach = np.arange(-margin + 1, margin)
    for dv in reach:
        for du in reach[(reach**2 + dv**2) <= (2 * radius_px) ** 2]:
            flat[start + dv * fine.shape[1] + du] = paint
    fine = fine[margin : margin + 2 * height, margin : margin + 2 * width]
    fine = fine.reshape(height, 2, width, 2, 4)
    total = fine.astype(np.uint16).sum(axis=(1, 3), dtype=np.uint16)  # (H, 2, W, 2, 4) -> (H, W, 4)
    cover = total[..., 3].astype(np.float32) / (4 * 255)
    touched = cover > 0
    color = total[touched][:, :3] / (cover[touched, None] * 4)
    share = cover[touched, None] * opacity
    canvas[touched] = (canvas[touched] * (1 - share) + color * share).round().astype(np.uint8)


def text_size(text: str, size_px: int) -> tuple[int, int]:
    """Measures a line of text.

    Args:
        text: the text.
        size_px: font size.

    Returns:
        Width of the text and height of a line, pixels.
    """
    return _text_mask(text, size_px).shape[1], round(size_px * 1.25)


def draw_text(
    canvas: np.ndarray, text: str, at: tuple[float, float], size_px: int, color: RGB, align: str = "left"
) -> None:
    """Writes a line of text.

    Args:
        canvas: (H, W, 3) uint8, changed in place; text beyond its border is cut off.
        text: the text.
        at: u v of the top left of the line; of its top middle or top right where aligned so.
        size_px: font size.
        color: RGB.
        align: "left", "center" or "right".

    Raises:
        ValueError: unknown alignment.
    """
    if align not in ("left", "center", "right"):
        raise ValueError(f"draw_text: align must be left, center or right, got {align!r}")
    mask = _text_mask(text, size_px)
    u = round(at[0] - mask.shape[1] * {"left": 0.0, "center": 0.5, "right": 1.0}[align])
    v = round(at[1])
    top, left = max(-v, 0), max(-u, 0)
    region = canvas[max(v, 0) : max(v + mask.shape[0], 0), max(u, 0) : max(u + mask.shape[1], 0)]
    mask = mask[top : top + region.shape[0], left : left + region.shape[1]]
    _blend(region, np.array(color, dtype=np.float32), mask.astype(np.float32) / 255)


def draw_tag(canvas: np.ndarray, text: str, at: tuple[float, float], size_px: int, color: RGB) -> None:
    """Writes a line of text on a dark plate.

    Args:
        canvas: (H, W, 3) uint8, changed in place.
        text: the text.
        at: u v of the plate's top left.
        size_px: font size.
        color: RGB of the text.
    """
    width, height = tag_size(text, size_px)
    u, v = round(at[0]), round(at[1])
    corners = np.array([(u, v), (u + width - 1, v), (u + width - 1, v + height - 1), (u, v + height - 1)])
    fill_polygon(canvas, corners.astype(np.float64), BACKGROUND, opacity=0.72)
    draw_text(canvas, text, (u + size_px // 3, v + (height - text_size(text, size_px)[1]) // 2), size_px, color)


def tag_size(text: str, size_px: int) -> tuple[int, int]:
    """Measures the plate of `draw_tag`.

    Args:
        text: the text.
        size_px: font size.

    Returns:
        Width and height, pixels.
    """
    width, height = text_size(text, size_px)
    return width + 2 * (size_px // 3), height + 2


def clip_polygon(vertices: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Cuts off the part of a polygon on the far side of a plane or line.

    Args:
        vertices: (K, D) corners in order.
        distances: (K,) signed distance of each corner; what is below 0 is cut off.

    Returns:
        (L, D) corners of the rest; (0, D) where nothing is left.

    Source:
        Sutherland and Hodgman 1974.
    """
    kept = []
    for i in range(len(vertices)):
        a, b, d_a, d_b = vertices[i - 1], vertices[i], distances[i - 1], distances[i]
        if (d_a < 0) != (d_b < 0):
            kept.append(a + (b - a) * (d_a / (d_a - d_b)))
        if d_b >= 0:
            kept.append(b)
    return np.array(kept).reshape(-1, vertices.shape[1])


def clip_segments(segments: np.ndarray, size_px: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Shortens lines to what lies inside a picture.

    Args:
        segments: (..., 2, 2) ends u v.
        size_px: height and width of the picture.

    Returns:
        (..., 2, 2) shortened lines and whether anything is left of each (...) bool.

    Source:
        Liang and Barsky 1984.
    """
    start, along = segments[..., 0, :], segments[..., 1, :] - segments[..., 0, :]  # (..., 2)
    upper = np.array([size_px[1] - 0.5, size_px[0] - 0.5])
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-0.5 - start) / along, (upper - start) / along
    parallel = along == 0
    outside = parallel & ((start < -0.5) | (start > upper))
    enter = np.where(parallel, 0.0, np.minimum(first, second)).max(axis=-1).clip(min=0)
    leave = np.where(parallel, 1.0, np.maximum(first, second)).min(axis=-1).clip(max=1)
    visible = (enter < leave) & ~outside.any(axis=-1) & np.isfinite(segments).all(axis=(-1, -2))
    ends = np.stack((enter, leave), axis=-1)[..., None]  # (..., 2, 1)
    return np.where(visible[..., None, None], start[..., None, :] + ends * along[..., None, :], 0.0), visible


def place_tags(
    texts: Sequence[str], anchors: np.ndarray, size_px: int, picture_size_px: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """Finds places for text plates so that none covers another; the first in the list have the choice.

    Args:
        texts: K lines of text.
        anchors: (K, 2) u v that each plate should stand on, centred.
        size_px: font size.
        picture_size_px: height and width that the plates must stay in.

    Returns:
        K times the top left of the plate, or None where it had no room or no text.
    """
    taken: list[tuple[int, int, int, int]] = []
    places: list[tuple[int, int] | None] = []
    for text, (u, v) in zip(texts, anchors, strict=True):
        width, height = tag_size(text, size_px)
        left = int(np.clip(round(u - width / 2), 0, max(picture_size_px[1] - width, 0)))
        tops = (int(np.clip(round(v - height - 2 - lift), 0, picture_size_px[0] - height)) for lift in (0, height))
        free = (top for top in tops if not any(_overlap((left, top, left + width, top + height), t) for t in taken))
        top = next(free, None) if text else None
        places.append(None if top is None else (left, top))
        if top is not None:
            taken.append((left, top, left + width, top + height))
    return places


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(np.clip(points, -_FAR_PX, _FAR_PX) * 2**_SHIFT).astype(np.int32)


def _blend(region: np.ndarray, color: np.ndarray, cover: np.ndarray) -> None:
    """Lays a colour (3,) over a region (H, W, 3) in place, as far as it is covered (H, W) in 0..1."""
    region[:] = (region + (color - region) * cover[..., None]).round().astype(np.uint8)


@lru_cache(maxsize=4096)
def _text_mask(text: str, size_px: int) -> np.ndarray:
    """The cover of a line of text (H, W) uint8; all lines of one size have one height and base line."""
    font = ImageFont.load_default(size_px)
    ascent, descent = font.getmetrics()  # type: ignore[union-attr]
    width = max(int(np.ceil(font.getlength(text))), 1)
    mask, (left, top) = font.getmask2(text, mode="L", anchor="ls")  # type: ignore[union-attr]
    glyphs = np.array(mask, dtype=np.uint8).reshape(mask.size[::-1])
    line = np.zeros((ascent + descent, max(width, max(left, 0) + glyphs.shape[1])), dtype=np.uint8)
    v, u = max(ascent + top, 0), max(left, 0)
    glyphs = glyphs[: line.shape[0] - v]
    line[v : v + glyphs.shape[0], u : u + glyphs.shape[1]] = glyphs
    return line
