"""Boxes and points drawn onto the picture of a camera, pinhole or fisheye, as recorded or augmented."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from perception.geometry.boxes import box_corners
from perception.geometry.cameras import CameraModel, project, transform_pixels, within_lens
from perception.geometry.transforms import invert_rigid, transform_points
from perception.structures import CameraImages
from perception.visualization import canvas
from perception.visualization.colors import depth_colors, height_colors
from perception.visualization.layers import BoxLayer

NEAR_M = 0.1
_FISHEYE_PIECES = 24  # so many straight pieces make the curve of an edge
_FRONT_OPACITY = 0.3
_SMALL_PX = 110  # boxes below get thin lines
_MIN_CAPTION_HEIGHT_PX = 12

_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
_FRONT = np.array([0, 3, 7, 4])


@dataclass(frozen=True, kw_only=True)
class CameraView:
    """Where one camera is and how it maps points to the pixels of a picture.

    Args:
        camera_model: "pinhole" or "kannala_brandt".
        intrinsics: (3, 3) float64, pixels of the recorded picture.
        distortion: (4,) float64.
        camera2ego: (4, 4) float64 rigid.
        image2aug: (3, 3) float64, pixels of the recorded picture to those that are drawn on.
        theta_max_rad: () float64, largest angle from the axis that a fisheye sees; None where nothing is said.
    """

    camera_model: CameraModel
    intrinsics: Tensor
    distortion: Tensor
    camera2ego: Tensor
    image2aug: Tensor
    theta_max_rad: Tensor | None = None

    def project(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Projects points of the camera frame.

        Args:
            points: (..., 3), metres in the camera frame.

        Returns:
            Pixels (..., 2) u v of the drawn picture and validity (...) bool.
        """
        points = points.double()
        pixels, valid = project(points, self.camera_model, self.intrinsics, self.distortion)
        valid = valid & within_lens(points, self.theta_max_rad)
        return transform_pixels(self.image2aug, pixels).numpy(), valid.numpy()

    def from_ego(self, points: Tensor) -> Tensor:
        """Moves points of the ego frame into the camera frame.

        Args:
            points: (..., P, 3 + C), metres in the ego frame.

        Returns:
            (..., P, 3) float64 in the camera frame.
        """
        return transform_points(invert_rigid(self.camera2ego), points[..., :3].double())

    def resized(self, scale_u: float, scale_v: float) -> "CameraView":
        """Gives the view onto the picture made larger or smaller.

        Args:
            scale_u: new width by old width.
            scale_v: new height by old height.

        Returns:
            The view with `image2aug` composed with the resize.
        """
        resize = torch.tensor(
            [[scale_u, 0, (scale_u - 1) / 2], [0, scale_v, (scale_v - 1) / 2], [0, 0, 1]], dtype=torch.float64
        )
        return replace(self, image2aug=resize @ self.image2aug)


def camera_picture(cameras: CameraImages, index: int, width_px: int | None = None) -> tuple[np.ndarray, CameraView]:
    """Takes one camera out of a group.

    Args:
        cameras: the group, of one sample (no batch axis).
        index: which camera.
        width_px: width to resize the picture to, keeping its shape; as it is if not given.

    Returns:
        The picture (H, W, 3) uint8 RGB and the view that maps onto it.

    Raises:
        ValueError: the group is batched, or the camera is absent from the sample.
    """
    if cameras.images.ndim != 4:
        raise ValueError(f"camera_picture: cameras must be those of one sample, got images {cameras.images.ndim}-D")
    if not bool(cameras.present[index]):
        raise ValueError(f"camera_picture: camera {cameras.names[index]} is absent from the sample")
    picture = np.ascontiguousarray(cameras.images[index].permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
    view = CameraView(
        camera_model=cameras.camera_model,
        intrinsics=cameras.intrinsics[index],
        distortion=cameras.distortion[index],
        camera2ego=cameras.camera2ego[index],
        image2aug=cameras.image2aug[index],
        theta_max_rad=None if cameras.theta_max_rad is None else cameras.theta_max_rad[index],
    )
    height, width = picture.shape[:2]
    if width_px is None or width_px == width:
        return picture, view
    size = (width_px, max(round(height * width_px / width), 1))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if width_px < width else cv2.INTER_CUBIC)
    return resized, view.resized(size[0] / width, size[1] / height)


def draw_points(picture: np.ndarray, view: CameraView, points: Tensor, color_by: str = "depth") -> np.ndarray:
    """Draws points onto a picture, the nearest on top.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: the camera.
        points: (P, 3 + C), metres in the ego frame.
        color_by: "depth" (distance from the camera) or "height" (above the ego frame's ground).

    Returns:
        The picture with points; the input is left as it is.

    Raises:
        ValueError: unknown `color_by`.
    """
    if color_by not in ("depth", "height"):
        raise ValueError(f"draw_points: color_by must be depth or height, got {color_by!r}")
    seen = view.from_ego(points)
    pixels, valid = view.project(seen)
    distance = seen.norm(dim=-1).numpy()
    order = np.flatnonzero(valid & (distance > NEAR_M))
    order = order[np.argsort(-distance[order], kind="stable")]
    colors = depth_colors(distance[order]) if color_by == "depth" else height_colors(points[:, 2].numpy()[order])
    result = picture.copy()
    canvas.draw_points(result, pixels[order], colors, radius_px=max(picture.shape[1] / 900, 0.75), opacity=0.85)
    return result


def draw_boxes(picture: np.ndarray, view: CameraView, layer: BoxLayer) -> np.ndarray:
    """Draws boxes onto a picture, the nearest on top: twelve edges, the front face tinted, a caption above.

    Args:
        picture: (H, W, 3) uint8 RGB.
        view: the camera.
        layer: boxes in the ego frame and how they look.

    Returns:
        The picture with boxes; the input is left as it is.
    """
    result = picture.copy()
    if not len(layer):
        return result
    corners = view.from_ego(box_corners(layer.boxes.double()))  # (M, 8, 3)
    size_px = (picture.shape[0], picture.shape[1])
    lines, visible = edge_lines(corners, view, size_px)
    distance = corners.mean(dim=1).norm(dim=-1).numpy()
    drawn = [int(i) for i in np.argsort(-distance) if visible[i].any()]
    for i in drawn:
        color = _rgb(layer.colors[i])
        extent_px = np.ptp(lines[i][visible[i]].reshape(-1, 2), axis=0).max()
        thickness = 1 if layer.hollow or extent_px < _SMALL_PX else 2
        if not layer.hollow:
            face = front_polygon(corners[i], view, size_px)
            canvas.fill_polygon(result, face, color, _FRONT_OPACITY)
        canvas.draw_lines(result, lines[i][visible[i]], color, thickness)
    _draw_captions(result, layer, lines, visible, drawn[::-1])
    return result


def edge_lines(corners: Tensor, view: CameraView, size_px: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Projects the edges of boxes, cut at the near plane and at the border of the picture.

    Args:
        corners: (M, 8, 3) in the camera frame, in the order of `box_corners`.
        view: the camera; edges of a fisheye come in short pieces, as they are curves.
        size_px: height and width of the picture.

    Returns:
        (M, K, 2, 2) ends u v of straight pieces and which of them are seen (M, K) bool.
    """
    ends = corners[:, _EDGES]  # (M, 12, 2, 3)
    if view.camera_model == "pinhole":
        ends = _clip_near(ends)
        pixels, valid = view.project(ends)
        pieces, whole = pixels, valid.all(axis=-1)  # (M, 12, 2, 2), (M, 12)
    else:
        share = torch.linspace(0, 1, _FISHEYE_PIECES + 1, dtype=ends.dtype)[:, None]
        pixels, valid = view.project(torch.lerp(ends[:, :, :1], ends[:, :, 1:], share))  # (M, 12, S + 1, 2)
        pieces = np.stack((pixels[:, :, :-1], pixels[:, :, 1:]), axis=-2).reshape(len(corners), -1, 2, 2)
        whole = (valid[:, :, :-1] & valid[:, :, 1:]).reshape(len(corners), -1)
    lines, inside = canvas.clip_segments(pieces, size_px)
    return lines, inside & whole


def front_polygon(corners: Tensor, view: CameraView, size_px: tuple[int, int]) -> np.ndarray:
    """Projects the front face of one box, cut at the near plane and at the border of the picture.

    Args:
        corners: (8, 3) in the camera frame, in the order of `box_corners`.
        view: the camera.
        size_px: height and width of the picture.

    Returns:
        (K, 2) u v; (0, 2) where nothing is seen, or a fisheye does not see all of the face.
    """
    face = corners[_FRONT]  # (4, 3)
    if view.camera_model == "pinhole":
        face = torch.from_numpy(canvas.clip_polygon(face.numpy(), (face[:, 2] - NEAR_M).numpy()))
    else:
        share = torch.arange(_FISHEYE_PIECES, dtype=face.dtype)[:, None] / _FISHEYE_PIECES
        face = torch.lerp(face[:, None], face.roll(-1, 0)[:, None], share).reshape(-1, 3)  # (4, S, 3) -> (4 S, 3)
    pixels, valid = view.project(face)
    if not valid.all():
        return np.zeros((0, 2))
    for axis, limit in ((0, size_px[1]), (1, size_px[0])):
        pixels = canvas.clip_polygon(pixels, pixels[:, axis] + 0.5)
        pixels = canvas.clip_polygon(pixels, limit - 0.5 - pixels[:, axis])
    return pixels


def _clip_near(ends: Tensor) -> Tensor:
    """Moves the ends (..., 2, 3) that lie before the near plane onto it; edges wholly before it stay as they are."""
    depth = ends[..., 2]
    crosses = (depth < NEAR_M).any(-1) & (depth > NEAR_M).any(-1)
    span = torch.where(crosses, depth[..., 1] - depth[..., 0], torch.ones_like(depth[..., 0]))
    cut = torch.lerp(ends[..., 0, :], ends[..., 1, :], ((NEAR_M - depth[..., 0]) / span)[..., None])
    move = (crosses[..., None] & (depth < NEAR_M))[..., None]
    cut_ends = torch.where(move, cut[..., None, :], ends)
    behind = (depth <= NEAR_M).all(-1)[..., None, None]
    return torch.where(behind, -torch.ones_like(ends), cut_ends)


def _draw_captions(
    result: np.ndarray, layer: BoxLayer, lines: np.ndarray, visible: np.ndarray, nearest_first: list[int]
) -> None:
    spans = [lines[i][visible[i]].reshape(-1, 2) for i in nearest_first]
    shown = [k for k, span in enumerate(spans) if np.ptp(span[:, 1]) >= _MIN_CAPTION_HEIGHT_PX]
    if not shown:
        return
    texts = [layer.captions[nearest_first[k]] for k in shown]
    anchors = np.array([((spans[k][:, 0].min() + spans[k][:, 0].max()) / 2, spans[k][:, 1].min()) for k in shown])
    font_px = max(round(result.shape[1] / 66), 9)
    places = canvas.place_tags(texts, anchors, font_px, (result.shape[0], result.shape[1]))
    for k, text, place in zip(shown, texts, places, strict=True):
        if place is not None:
            canvas.draw_tag(result, text, place, font_px, _rgb(layer.colors[nearest_first[k]]))


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = color.tolist()
    return red, green, blue
