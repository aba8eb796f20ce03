"""One picture for one sample: its cameras as they look out of the vehicle, the bird's-eye view beside them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception.structures import CameraImages, Predictions, Sample
from perception.visualization import bev, camera, canvas
from perception.visualization.colors import (
    BACKGROUND,
    DEPTH_RANGE_M,
    HEIGHT_RANGE_M,
    MUTED,
    SURFACE,
    TEXT,
    depth_colors,
    height_colors,
)
from perception.visualization.layers import BoxLayer
from perception.visualization.task_tiles import TaskTile, render_column, render_row, tile_side_px, tiles_of
from perception.visualization.tiles import GAP_PX, draw_absent, draw_swatch, stack

SURROUND = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"),
)
"""Where the six surround cameras stand in the panel."""

_COLUMNS = 3
_MAX_COLUMNS = 4
_SIDES_PX = (90, 4096)
_REACH_M = (1.0, 10_000.0)


@dataclass(frozen=True, kw_only=True)
class PanelStyle:
    """How a panel looks.

    Args:
        tile_px: height and width of the room for one camera.
        bev_half_m: the bird's-eye view reaches so far to each side.
        bev_alone_px: side of the bird's-eye view where there is no camera.
        points_on_cameras: draw the LiDAR points onto the pictures.
        channels: cameras that get a tile even in a sample without any picture, so that all panels of a drive are alike.
        task_tiles: views of map, occupancy and near field that a panel has, those without content too, so that all
            panels of a drive are alike; None shows those that the sample has.

    Raises:
        ValueError: a tile or the view alone has no room for its words or is absurdly large; bev_half_m is no reach.
    """

    tile_px: tuple[int, int] = (450, 800)
    bev_half_m: float = 52.0
    bev_alone_px: int = 1400
    points_on_cameras: bool = True
    channels: tuple[str, ...] = ()
    task_tiles: tuple[TaskTile, ...] | None = None

    def __post_init__(self) -> None:
        least, most = _SIDES_PX
        if not least <= min(self.tile_px) <= max(self.tile_px) <= most or not least <= self.bev_alone_px <= most:
            raise ValueError(
                f"PanelStyle: tile_px and bev_alone_px must be in {least}..{most}, "
                f"got {self.tile_px} and {self.bev_alone_px}"
            )
        if not _REACH_M[0] <= self.bev_half_m <= _REACH_M[1]:
            raise ValueError(f"PanelStyle: bev_half_m must be in {_REACH_M[0]}..{_REACH_M[1]}, got {self.bev_half_m}")


def render_panel(
    sample: Sample,
    layers: Sequence[BoxLayer],
    style: PanelStyle | None = None,
    title: str = "",
    predictions: Predictions | None = None,
) -> np.ndarray:
    """Draws a sample with everything it holds; works with any set of sensors.

    Args:
        sample: not batched; its points, boxes and further truths are in the ego frame.
        layers: boxes, the first at the bottom.
        style: how it looks.
        title: beside the name of the scene; the sample's token if not given.
        predictions: map, occupancy and near field as predicted; what it says of boxes is in the layers.

    Returns:
        (H, W, 3) uint8 RGB, height and width even.
    """
    style = style or PanelStyle()
    names = [name for group in sample.cameras.values() if bool(group.present.any()) for name in group.names]
    rows = arrange(dict.fromkeys((*names, *style.channels)))
    body = _body(sample, rows, layers, style, predictions)
    has_points = sample.lidar is not None
    header = _header(sample, title, body.shape[1])
    footer = _footer(layers, body.shape[1], bool(rows) and has_points and style.points_on_cameras, has_points)
    picture = np.concatenate((header, body, footer))
    even = [(0, size % 2) for size in picture.shape[:2]]
    return np.pad(picture, (*even, (0, 0)), mode="edge")


def _body(
    sample: Sample,
    rows: Sequence[Sequence[str]],
    layers: Sequence[BoxLayer],
    style: PanelStyle,
    predictions: Predictions | None,
) -> np.ndarray:
    """Cameras, bird's-eye view and further views, these under the cameras or, where there are none, beside the view."""
    tiles = tiles_of(sample, predictions) if style.task_tiles is None else style.task_tiles
    if not rows:
        view = _bev(sample, layers, style, style.bev_alone_px)
        if not tiles:
            return view
        return stack([view, render_column(tiles, sample, predictions, len(view), style.bev_half_m)], 1)
    cameras = stack([_row(sample, row, layers, style) for row in rows], 0)
    if len(rows) == 1 and tiles:  # beside a single row the view would be small
        side_px = tile_side_px(tiles, cameras.shape[1], others=1)
        further = render_row(tiles, sample, predictions, side_px, style.bev_half_m)
        return stack([cameras, stack([_bev(sample, layers, style, side_px), further], 1)], 0)
    body = stack([cameras, _bev(sample, layers, style, len(cameras))], 1)
    if not tiles:
        return body
    side_px = tile_side_px(tiles, body.shape[1])
    return stack([body, render_row(tiles, sample, predictions, side_px, style.bev_half_m)], 0)


def _bev(sample: Sample, layers: Sequence[BoxLayer], style: PanelStyle, size_px: int) -> np.ndarray:
    points = None if sample.lidar is None else sample.lidar.points
    return bev.render_bev(bev.BevView.square(style.bev_half_m, size_px), points=points, layers=tuple(layers))


def arrange(names: Iterable[str]) -> list[list[str]]:
    """Puts cameras in rows.

    Args:
        names: channel names.

    Returns:
        Two rows of three surround cameras if there is one of them, then rows of up to four others.
    """
    names = list(names)
    surround = [name for row in SURROUND for name in row]
    others = [name for name in names if name not in surround]
    rows = [list(row) for row in SURROUND] if len(others) < len(names) else []
    return rows + [others[i : i + _MAX_COLUMNS] for i in range(0, len(others), _MAX_COLUMNS)]


def _row(sample: Sample, names: Sequence[str], layers: Sequence[BoxLayer], style: PanelStyle) -> np.ndarray:
    """Draws a row of cameras; four take the width of three."""
    height, width = style.tile_px
    if len(names) > _COLUMNS:
        room = _COLUMNS * width + (_COLUMNS - len(names)) * GAP_PX
        height, width = height * room // (len(names) * width), room // len(names)
    return stack([_tile(sample, name, layers, style, (height, width)) for name in names], 1)


def _tile(
    sample: Sample, name: str, layers: Sequence[BoxLayer], style: PanelStyle, size_px: tuple[int, int]
) -> np.ndarray:
    """Draws one camera (H, W, 3), centred in its room; a labelled empty tile where it is absent."""
    height, width = size_px
    tile = np.full((height, width, 3), SURFACE, dtype=np.uint8)
    font_px = max(round(width / 50), 9)
    found = _find(sample.cameras, name)
    if found is None:
        draw_absent(tile, _label(name), "no picture in this sample", font_px)
        return tile
    group, index = found
    image_height, image_width = group.image_size_px
    fitting = min(width, height * image_width // image_height)
    picture, view = camera.camera_picture(group, index, fitting)
    picture = picture[:height]
    if sample.lidar is not None and style.points_on_cameras:
        picture = camera.draw_points(picture, view, sample.lidar.points)
    for layer in layers:
        picture = camera.draw_boxes(picture, view, layer)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    tile[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    canvas.draw_tag(tile, _label(name), (font_px // 2, font_px // 2), font_px, TEXT)
    return tile


def _find(cameras: Mapping[str, CameraImages], name: str) -> tuple[CameraImages, int] | None:
    for group in cameras.values():
        if name in group.names and bool(group.present[group.names.index(name)]):
            return group, group.names.index(name)
    return None


def _label(name: str) -> str:
    return name.removeprefix("CAM_").replace("_", " ").lower()


def _header(sample: Sample, title: str, width: int) -> np.ndarray:
    font_px = max(width // 130, 14)
    bar = np.full((font_px * 2, width, 3), BACKGROUND, dtype=np.uint8)
    v = font_px * 0.4
    canvas.draw_text(bar, sample.scene, (font_px * 0.6, v), font_px, TEXT)
    left = font_px * 1.6 + canvas.text_size(sample.scene, font_px)[0]
    canvas.draw_text(bar, title or sample.token, (left, v), font_px, MUTED)
    canvas.draw_text(bar, f"{sample.timestamp_us / 1e6:.3f} s", (width - font_px * 0.6, v), font_px, MUTED, "right")
    return bar


def _footer(layers: Sequence[BoxLayer], width: int, has_depth: bool, has_points: bool) -> np.ndarray:
    """Draws the legend: what each layer is, how many boxes of which class, the scales of the points."""
    font_px = max(width // 170, 13)
    bar = np.full((font_px * 2 + 4, width, 3), BACKGROUND, dtype=np.uint8)
    right = width - font_px * 0.6
    if has_points:
        low, high = HEIGHT_RANGE_M
        ramp = height_colors(np.linspace(low, high, 120))
        right = _draw_scale(bar, ramp, ("height", f"{low:g}", f"{high:g} m"), right, font_px)
    if has_depth:
        low, high = DEPTH_RANGE_M
        ramp = depth_colors(np.geomspace(low, high, 120))
        right = _draw_scale(bar, ramp, ("distance", f"{low:g}", f"{high:g} m"), right - font_px * 2, font_px)
    cursor = font_px * 0.6
    for layer in layers:
        cursor = _draw_legend(bar[:, : round(right - font_px)], layer, cursor, font_px) + font_px * 1.5
    return bar


def _draw_legend(bar: np.ndarray, layer: BoxLayer, cursor: float, font_px: int) -> float:
    """Writes a layer's title and as many of its classes as fit from `cursor` on; returns where it ends."""
    v = font_px * 0.45
    if layer.hollow:
        draw_swatch(bar, cursor, v, font_px, (255, 255, 255), hollow=True)
        cursor += font_px * 1.3
    heading = f"{layer.title} ({len(layer)})"
    canvas.draw_text(bar, heading, (cursor, v), font_px, TEXT)
    cursor += canvas.text_size(heading, font_px)[0] + font_px
    if layer.hollow:
        return cursor
    brightest = dict(sorted(zip(layer.names, layer.colors.tolist(), strict=True)))
    counts = Counter(layer.names).most_common()
    for number, (name, count) in enumerate(counts):
        red, green, blue = brightest[name]
        text = f"{name.replace('_', ' ')} {count}"
        rest = f"+{len(counts) - number}"
        more = 0 if number + 1 == len(counts) else font_px * 1.2 + canvas.text_size(rest, font_px)[0]
        if cursor + font_px * 1.2 + canvas.text_size(text, font_px)[0] + more > bar.shape[1]:
            canvas.draw_text(bar, rest, (cursor, v), font_px, MUTED)
            return cursor + canvas.text_size(rest, font_px)[0]
        draw_swatch(bar, cursor, v, font_px, (red, green, blue))
        canvas.draw_text(bar, text, (cursor + font_px * 1.2, v), font_px, MUTED)
        cursor += font_px * 2.2 + canvas.text_size(text, font_px)[0]
    return cursor


def _draw_scale(bar: np.ndarray, ramp: np.ndarray, words: tuple[str, str, str], right: float, font_px: int) -> float:
    """Draws a colour scale that ends at `right`; returns where it begins."""
    name, low, high = words
    v = font_px * 0.45
    canvas.draw_text(bar, high, (right, v), font_px, MUTED, "right")
    end = round(right - canvas.text_size(high, font_px)[0] - font_px * 0.5)
    top = round(v + font_px * 0.25)
    bar[top : top + round(font_px * 0.7), end - len(ramp) : end] = ramp
    canvas.draw_text(bar, low, (end - len(ramp) - font_px * 0.5, v), font_px, MUTED, "right")
    start = end - len(ramp) - font_px - canvas.text_size(low, font_px)[0]
    canvas.draw_text(bar, name, (start, v), font_px, MUTED, "right")
    return start - canvas.text_size(name, font_px)[0]
