"""Tracks from above: every object in the colour of its id, with its number and a tail where it has been."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.tracking_submission import SampleTracks
from perception.geometry.boxes import transform_boxes
from perception.geometry.transforms import invert_rigid, transform_points
from perception.visualization import bev, canvas
from perception.visualization.bev import BevView
from perception.visualization.colors import RGB, TEXT
from perception.visualization.layers import BoxLayer

_GOLDEN_RATIO = 0.618034
_TAIL_PX = 2


def track_colors(ids: np.ndarray) -> np.ndarray:
    """Gives each track a colour that stays; numbers that follow each other get hues far apart.

    Args:
        ids: (M,) int64 numbers of tracks.

    Returns:
        (M, 3) uint8 RGB.
    """
    hsv = np.full((1, len(ids), 3), 255, dtype=np.uint8)
    hsv[0, :, 0] = (180 * (ids * _GOLDEN_RATIO % 1)).astype(np.uint8)
    hsv[0, :, 1] = np.where(ids % 2, 130, 190)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] if len(ids) else np.zeros((0, 3), dtype=np.uint8)


def track_layer(tracks: SampleTracks, ego2global: Tensor) -> BoxLayer:
    """Shows tracked boxes in the colours of their ids, with class and number.

    Args:
        tracks: of one sample, in the global frame.
        ego2global: (4, 4) float64, the sample's.

    Returns:
        The layer, in the ego frame.
    """
    names = tuple(DETECTION_CLASSES[label] for label in tracks.labels.tolist())
    return BoxLayer(
        title="tracks",
        boxes=transform_boxes(invert_rigid(ego2global), torch.from_numpy(tracks.boxes_global)),
        names=names,
        captions=tuple(str(number) for number in tracks.ids.tolist()),
        colors=track_colors(tracks.ids),
    )


def draw_tails(picture: np.ndarray, view: BevView, history: Sequence[SampleTracks], ego2global: Tensor) -> np.ndarray:
    """Draws where the objects of the last sample were before; older is fainter.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: what the picture shows.
        history: tracks in the global frame, the oldest first; the last ones are of the sample that is shown.
        ego2global: (4, 4) float64, of that sample.

    Returns:
        The picture with tails; the input is left as it is.
    """
    result = picture.copy()
    if not history:
        return result
    shown = set(history[-1].ids.tolist())
    ages = range(len(history) - 1, -1, -1)
    last: dict[int, np.ndarray] = {}
    for age, tracks in zip(ages, history, strict=True):
        centers = transform_points(invert_rigid(ego2global), torch.from_numpy(tracks.boxes_global[:, :3]))
        pixels = view.to_pixels(centers[:, :2].numpy())  # (M, 2)
        share = 1 - age / len(history)
        for number, pixel, color in zip(tracks.ids.tolist(), pixels, track_colors(tracks.ids), strict=True):
            if number in last and number in shown:
                _draw_faint(result, np.stack([last[number], pixel]), color, share)
            last[number] = pixel
    return result


def render_tracks(
    view: BevView,
    history: Sequence[SampleTracks],
    ego2global: Tensor,
    *,
    points: Tensor | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws the bird's-eye view of a sample with its tracks, their numbers and tails.

    Args:
        view: what the picture shows.
        history: tracks in the global frame, the oldest first; the last ones are of the sample that is shown.
        ego2global: (4, 4) float64, of that sample.
        points: (P, 3 + C), metres in the ego frame.
        title: written in the top left corner.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("render_tracks: history must hold the tracks of the sample, got none")
    picture = bev.blank(view)
    if points is not None:
        picture = bev.draw_points(picture, view, points)
    picture = draw_tails(picture, view, history, ego2global)
    bev.draw_ego(picture, view)
    layer = track_layer(history[-1], ego2global)
    picture = bev.draw_boxes(picture, view, layer)
    bev.draw_ring_labels(picture, view)
    font_px = max(view.size_px[1] // 80, 11)
    _draw_numbers(picture, view, layer, font_px)
    if title:
        canvas.draw_tag(picture, title, (font_px // 2,) * 2, round(font_px * 1.2), TEXT)
    return picture


def _draw_numbers(picture: np.ndarray, view: BevView, layer: BoxLayer, font_px: int) -> None:
    """Writes the captions above the boxes that are in the picture, in place; those without room are left out."""
    anchors = view.to_pixels(layer.boxes[:, :2].numpy())  # (M, 2)
    height, width = view.size_px
    seen = ((anchors >= 0) & (anchors < (width, height))).all(axis=1)
    texts = [caption if inside else "" for caption, inside in zip(layer.captions, seen, strict=True)]
    above = anchors - (0, view.px_per_m)
    for text, place, color in zip(
        texts, canvas.place_tags(texts, above, font_px, view.size_px), layer.colors.tolist(), strict=True
    ):
        if place is not None:
            canvas.draw_tag(picture, text, place, font_px, (color[0], color[1], color[2]))


def _draw_faint(picture: np.ndarray, segment: np.ndarray, color: np.ndarray, share: float) -> None:
    """Draws a line (2, 2) as a quadrangle that lets the ground shine through."""
    along = segment[1] - segment[0]
    length = float(np.linalg.norm(along))
    if not length > 0:
        return
    side = np.array([-along[1], along[0]]) / length * _TAIL_PX / 2
    corners = np.array([segment[0] + side, segment[1] + side, segment[1] - side, segment[0] - side])
    red, green, blue = (int(value) for value in color)
    paint: RGB = (red, green, blue)
    canvas.fill_polygon(picture, corners, paint, opacity=share)
