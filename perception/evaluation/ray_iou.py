"""RayIoU: occupancy as a LiDAR in the volume would see it, which a thicker surface does not improve.

Rays leave from where the LiDAR was in the course of the scene. A ray of the prediction agrees with the truth's where
both end in the same class and at nearly the same depth: where each leaves the first occupied voxel. No mask is used.

Source:
    Liu et al. 2024, "Fully Sparse 3D Occupancy Prediction" (SparseOcc), section 4, and its evaluation: the rays, the
    choice of origins, depths at which voxels are left. There the ends of rays are rounded to single precision; here
    everything is in double precision.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.geometry.transforms import invert_rigid, transform_points
from perception.ops.raycast_voxels import raycast_voxels

THRESHOLDS_M = (1.0, 2.0, 4.0)
"""How far apart two depths must not be; a difference must be smaller."""

MOST_ORIGINS = 8
_REACH_M = 39.0  # of the origins, along x and y
_STEEP_RAYS = 10  # elevations whose rays meet the ground 1, 2, ... times as far away as they begin above it
_HIGHEST_RAD = 0.21
_AZIMUTHS = 360


def ray_directions() -> np.ndarray:
    """The directions of the rays.

    Returns:
        (14040, 3) float64 of length 1 in the ego frame: 39 elevations, rising, each with 360 azimuths from straight
        ahead to the left.
    """
    elevations = [-math.atan2(1, steps) for steps in range(1, _STEEP_RAYS + 1)]
    increment = elevations[-1] - elevations[-2]
    while elevations[-1] < _HIGHEST_RAD:
        elevations.append(elevations[-1] + increment)
    elevation = np.array(elevations)[:, None]
    azimuth = np.deg2rad(np.arange(_AZIMUTHS))
    across = np.cos(elevation)
    parts = (across * np.cos(azimuth), across * np.sin(azimuth), np.sin(elevation) + 0 * azimuth)
    return np.stack(parts, axis=-1).reshape(-1, 3)  # (39, 360, 3) -> (14040, 3)


def ray_origins(lidar_global: np.ndarray, ego2global: np.ndarray) -> np.ndarray:
    """Chooses where the rays of a sample begin.

    Args:
        lidar_global: (S, 3) where the LiDAR was at all keyframes of the sample's scene, in the order of time.
        ego2global: (4, 4) of the sample.

    Returns:
        (N, 3) float64 in the sample's ego frame: those nearer than 39 m along x and along y; of more than eight, the
        first, the last, and others evenly between.
    """
    global2ego = invert_rigid(torch.from_numpy(ego2global))
    origins = transform_points(global2ego, torch.from_numpy(lidar_global)).numpy()
    origins = origins[(np.abs(origins[:, :2]) < _REACH_M).all(1)]
    if len(origins) > MOST_ORIGINS:
        origins = origins[np.round(np.linspace(0, len(origins) - 1, MOST_ORIGINS)).astype(np.int64)]
    return origins


def cast_rays(labels: Tensor, origins: Tensor, directions: Tensor, grid: Grid, free: int) -> tuple[Tensor, Tensor]:
    """Finds what each ray meets first, and the depth at which it leaves it.

    Args:
        labels: (Z, Y, X) integer classes; all but `free` are occupied.
        origins: (R, 3) float64, metres in the grid's frame.
        directions: (R, 3) float64 of length 1.
        grid: where the voxels are.
        free: the class of free space.

    Returns:
        (R,) classes, `free` where a ray meets nothing, and (R,) float64 metres to where it leaves the first occupied
        voxel, or the grid where it meets none (of no meaning where it misses even that).
    """
    hits = raycast_voxels(labels != free, origins, directions, grid)
    met = hits.cells >= 0
    place = hits.cells.clamp(min=0)
    found = torch.where(met, labels.flatten()[place].long(), free)
    counts = torch.tensor(grid.shape[::-1])  # x y z
    cell = torch.stack((place % counts[0], place // counts[0] % counts[1], place // (counts[0] * counts[1])), 1)
    low, high = torch.where(met[:, None], cell, 0), torch.where(met[:, None], cell + 1, counts)  # (R, 3)
    size = origins.new_tensor(grid.cell_m)
    begin = (origins - origins.new_tensor(grid.origin_m)) / size  # in cells
    leave_m = (torch.where(directions > 0, high, low) - begin) / (directions / size)  # (R, 3)
    depth_m = torch.where(directions == 0, math.inf, leave_m).amin(1)
    return found, depth_m.clamp(min=0)


class RayScorer:
    """Counts the rays of samples.

    Args:
        grid: where the voxels are.
        num_classes: K; the last class is free space.
    """

    def __init__(self, grid: Grid, num_classes: int) -> None:
        self.grid = grid
        self.free = num_classes - 1
        self.directions = torch.from_numpy(ray_directions())

    def count(self, truth: Tensor, predicted: Tensor, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compares the rays of one sample.

        Args:
            truth: (Z, Y, X) integer classes.
            predicted: (Z, Y, X) likewise.
            origins: (N, 3) where the rays begin, metres in the grid's frame.

        Returns:
            (K - 1,) rays of each class in the truth, (K - 1,) in the prediction and (3, K - 1) in both, at depths
            nearer than `THRESHOLDS_M`; rays that meet nothing in the truth do not count.
        """
        directions = self.directions.repeat(len(origins), 1)  # (N * 14040, 3)
        begins = torch.from_numpy(origins).to(torch.float64).repeat_interleave(len(self.directions), 0)
        real, real_m = cast_rays(truth, begins, directions, self.grid, self.free)
        said, said_m = cast_rays(predicted, begins, directions, self.grid, self.free)
        counted = real != self.free
        real, said, apart_m = real[counted], said[counted], (said_m - real_m)[counted].abs()
        hits = [torch.bincount(real[(real == said) & (apart_m < near)], minlength=self.free) for near in THRESHOLDS_M]
        return (
            torch.bincount(real, minlength=self.free).numpy(),
            torch.bincount(said, minlength=self.free + 1)[: self.free].numpy(),
            torch.stack(hits).numpy(),
        )
