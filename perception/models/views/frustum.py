"""Where the cells of an image feature map look: viewing rays, the grid cells along them, and LiDAR seen along them."""

import torch
from torch import Tensor

from perception.geometry.cameras import project, transform_pixels, unproject, within_lens
from perception.geometry.grid import Grid
from perception.geometry.transforms import invert_rigid, transform_points
from perception.structures import CameraImages, PointBatch


def feature_rays(cameras: CameraImages, feature_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Gives the viewing ray through the centre of each feature cell of the present cameras.

    Args:
        cameras: batched; K of its B x N cameras are present.
        feature_size: rows and columns (h, w) of the feature map.

    Returns:
        Unit rays (K, h, w, 3) float64 in the camera frame and whether each is valid (K, h, w) bool.
    """
    present = cameras.present
    pixels = _cell_pixels(cameras, feature_size)  # (h, w, 2)
    aug2image = torch.linalg.inv(cameras.image2aug[present])[:, None, None]  # (B, N, 3, 3) -> (K, 1, 1, 3, 3)
    recorded = transform_pixels(aug2image, pixels)  # (h, w, 2) -> (K, h, w, 2)
    intrinsics = cameras.intrinsics[present][:, None, None]  # (K, 1, 1, 3, 3)
    distortion = cameras.distortion[present][:, None, None]  # (K, 1, 1, 4)
    rays, valid = unproject(recorded, cameras.camera_model, intrinsics, distortion)
    limit = cameras.theta_max_rad
    return rays, valid & within_lens(rays, None if limit is None else limit[present][:, None, None])


def frustum_cells(
    cameras: CameraImages, ego2aug: Tensor, feature_size: tuple[int, int], distances_m: Tensor, grid: Grid
) -> Tensor:
    """Finds the column of grid cells that holds each point along the rays of the present cameras.

    Args:
        cameras: batched; K of its B x N cameras are present.
        ego2aug: (B, 4, 4).
        feature_size: rows and columns (h, w) of the feature map.
        distances_m: (D,) distances from the camera along the ray, before the augmentation's scale.
        grid: in the augmented ego frame.

    Returns:
        (K, D, h, w) int64, cell (s * Y + y) * X + x where s counts the samples with a camera; -1 outside the grid or
        where the pixel has no ray.
    """
    present = cameras.present
    sample = present.nonzero()[:, 0]  # (K,)
    rays, valid = feature_rays(cameras, feature_size)  # (K, h, w, 3), (K, h, w)
    camera2aug = ego2aug[sample] @ cameras.camera2ego[present]  # (K, 4, 4)
    aug2cells = 1 / camera2aug.new_tensor(grid.cell_m)
    start = (camera2aug[:, :3, 3] - camera2aug.new_tensor(grid.origin_m)) * aug2cells  # (K, 3) in cells
    step = torch.einsum("kij,khwj->ikhw", camera2aug[:, :3, :3] * aug2cells[:, None], rays)  # cells per metre
    inside = valid[:, None]
    places = []
    for axis, count in enumerate(grid.shape[::-1]):  # one axis after the other: the frustum is large
        begin, slope = start[:, axis, None, None, None].float(), step[axis, :, None].float()
        place = begin + slope * distances_m.float()[:, None, None]  # (K, D, h, w)
        inside = inside & (place >= 0) & (place < count)
        places.append(place)
    row = (present.any(1).cumsum(0) - 1)[sample] * grid.num_y  # (K,) first row of the camera's sample
    x, y = (place.long() for place in places[:2])  # rounds towards 0, which is down inside
    return torch.where(inside, (row[:, None, None, None] + y) * grid.num_x + x, -1)


def lidar_distances(cameras: CameraImages, lidar: PointBatch, feature_size: tuple[int, int]) -> Tensor:
    """Finds how far the nearest LiDAR point in each feature cell of the present cameras is.

    Args:
        cameras: batched; K of its B x N cameras are present.
        lidar: points of the same samples.
        feature_size: rows and columns (h, w) of the feature map.

    Returns:
        (K, h, w) float32 distances from the camera along the ray, metres; infinite where no point falls.
    """
    height, width = feature_size
    scale = height / cameras.image_size_px[0]
    nearest = []
    for sample, camera in cameras.present.nonzero().tolist():
        ego2camera = invert_rigid(cameras.camera2ego[sample, camera])
        own = (lidar.batch_index == sample) & lidar.present[sample]  # what lies in an absent cloud is not read
        points = lidar.points[own, :3].to(ego2camera.dtype)
        points = transform_points(ego2camera, points)  # (P, 3)
        intrinsics, distortion = cameras.intrinsics[sample, camera], cameras.distortion[sample, camera]
        pixels, valid = project(points, cameras.camera_model, intrinsics, distortion)
        limit = cameras.theta_max_rad
        valid = valid & within_lens(points, None if limit is None else limit[sample, camera])
        column, row = ((transform_pixels(cameras.image2aug[sample, camera], pixels) + 0.5) * scale).floor().unbind(-1)
        inside = valid & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        cell = (row[inside] * width + column[inside]).long()
        empty = torch.full((height * width,), torch.inf, device=points.device)
        nearest.append(empty.scatter_reduce(0, cell, points[inside].norm(dim=-1).float(), "amin"))
    return torch.stack(nearest).unflatten(1, (height, width))  # K x (h * w) -> (K, h, w)


def _cell_pixels(cameras: CameraImages, feature_size: tuple[int, int]) -> Tensor:
    """Centres of the feature cells (h, w, 2) in pixels of `images`, where pixel (0, 0) is a pixel's centre."""
    (image_height, image_width), (height, width) = cameras.image_size_px, feature_size
    cell = cameras.image2aug.new_tensor((image_height / height, image_width / width))
    rows = (torch.arange(height, device=cell.device) + 0.5) * cell[0] - 0.5
    columns = (torch.arange(width, device=cell.device) + 0.5) * cell[1] - 0.5
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((u, v), dim=-1)
