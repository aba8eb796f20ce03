"""Semantic occupancy around the ego vehicle, cut from the surfaces of the scene, with masks of what was observed.

A cell is occupied where enough surface lies in it; its class is that of the largest surface. What stands on the ground
outranks the ground it stands on, as a vehicle must not drive there; of ground above ground the upper counts. Bodies are
hollow: as in Occ3D, which sees surfaces alone, nobody observes their inside, and what nobody observes is free in the
labels and absent from the masks.

Masks hold what can be seen from where the LiDAR is in the course of the scene and from the sample's cameras, and what
points and pixels of the sample show besides. They are those of clear air: rain, fog and darkness take nothing off them,
so that a set by night is measured as one by day, and returns off drops, which are noise, mark nothing.

Source: Tian et al., "Occ3D: A Large-Scale 3D Occupancy Prediction Benchmark for Autonomous Driving", NeurIPS 2023,
section 4 (voxel densification, visibility by ray casting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from perception.formats.occupancy import FLAT_CLASSES, FREE, OCCUPANCY_GRID, POINT_TO_OCCUPANCY, Occupancy
from perception.simulation.sensors.base import Sensor, Surroundings
from perception.simulation.sensors.camera import Camera, CameraRecording
from perception.simulation.sensors.lidar import LidarRecording
from perception.simulation.truth.images import picture_points
from perception.simulation.truth.solids import UNCOUNTED, CellSurfaces, Solids
from perception.simulation.truth.visibility import (
    Hidden,
    Viewpoint,
    camera_viewpoint,
    lidar_viewpoint,
    observed_cells,
)

LEAST_AREA_M2 = 0.004
"""Surface that makes a cell occupied: a fortieth of a face, so that no rounding at a face does."""

MAX_POSITIONS = 8
"""Most positions of the LiDAR that the mask is cast from; the metric RayIoU takes as many."""

_REACH_M = 39.0
_PIXEL_STEP = 2
_SLACK_M = 0.02
_NOISE_M = 0.06
"""How far a LiDAR point may lie before its surface: four standard deviations."""


@dataclass(frozen=True, eq=False)
class OccupancySensors:
    """What observes the cells.

    Attributes:
        lidar: times the samples.
        cameras: pinholes whose field the mask of the cameras covers.
        lidar_times_us: times of the scene at which the LiDAR observes; its keyframes.
    """

    lidar: Sensor
    cameras: Sequence[Camera]
    lidar_times_us: Sequence[int]


def scene_occupancy(
    solids: Solids,
    surroundings: Surroundings,
    sensors: OccupancySensors,
    sweep: LidarRecording,
    pictures: Sequence[CameraRecording],
) -> Occupancy:
    """The occupancy at a keyframe.

    Args:
        solids: the meshes of the scene.
        surroundings: their motion.
        sensors: what observes them.
        sweep: of the keyframe.
        pictures: of the keyframe, one of each camera.

    Returns:
        Labels and masks, in the ego frame at the sweep's timestamp.
    """
    global2ego = np.linalg.inv(sweep.ego2global)
    labels = solid_labels(solids, surroundings, sweep.t_us, global2ego)  # (X, Y, Z)
    from_lidar = _lidar_viewpoints(surroundings, sensors, sweep.t_us, global2ego)
    hidden = _hidden(surroundings, sweep.t_us, sweep.ego2global)
    mask_lidar = observed_cells(labels != FREE, OCCUPANCY_GRID, from_lidar, hidden)
    _mark(mask_lidar, sweep.points[sweep.semantic > 0, :3], sensors.lidar.sensor2ego)  # (P', 3) off surfaces
    from_cameras = []
    for camera, shot in zip(sensors.cameras, pictures, strict=True):
        camera2ego = global2ego @ shot.ego2global @ camera.sensor2ego
        from_cameras.append(camera_viewpoint(camera, camera2ego))
    mask_camera = observed_cells(labels != FREE, OCCUPANCY_GRID, from_cameras, hidden)
    for camera, shot, view in zip(sensors.cameras, pictures, from_cameras, strict=True):
        _mark(mask_camera, picture_points(camera, shot, _PIXEL_STEP), view.sensor2grid)
    return Occupancy(np.where(mask_lidar, labels, FREE).astype(np.uint8), mask_lidar, mask_lidar & mask_camera)


def solid_labels(solids: Solids, surroundings: Surroundings, t_us: int, global2ego: np.ndarray) -> np.ndarray:
    """What is in every cell, observed or not.

    Args:
        solids: the meshes of the scene.
        surroundings: their motion.
        t_us: time.
        global2ego: (4, 4) into the frame of the cells.

    Returns:
        (200, 200, 16) uint8 index into `OCCUPANCY_CLASSES`.
    """
    kind_of = POINT_TO_OCCUPANCY.copy()
    kind_of[0] = UNCOUNTED  # noise is no surface
    surfaces = solids.areas(surroundings.actors(t_us), global2ego, OCCUPANCY_GRID, kind_of, FREE)
    labels = np.full(surfaces.area_m2.shape[:3], FREE, np.uint8)
    floor_m2 = OCCUPANCY_GRID.cell_m[0] * OCCUPANCY_GRID.cell_m[1]
    _name(surfaces, np.isin(np.arange(FREE), FLAT_CLASSES), floor_m2, labels)
    return labels


@njit(cache=True)
def _name(surfaces: CellSurfaces, is_flat: np.ndarray, floor_m2: float, labels: np.ndarray) -> None:
    """Writes the class of each cell that holds enough surface: what stands there, or else the ground."""
    area, num_classes = surfaces.area_m2, len(is_flat)
    for x in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for z in range(labels.shape[2]):
                standing, flat, best = np.float32(0), np.float32(0), -1
                for k in range(num_classes):
                    if is_flat[k]:
                        flat += area[x, y, z, k]
                    elif area[x, y, z, k] > 0:
                        standing += area[x, y, z, k]
                        best = k if best < 0 or area[x, y, z, k] > area[x, y, z, best] else best
                if standing >= LEAST_AREA_M2:
                    labels[x, y, z] = best
                elif flat >= LEAST_AREA_M2:
                    labels[x, y, z] = _ground(area[x, y, z], surfaces.moment_m3[x, y, z], is_flat, floor_m2)


@njit(cache=True)
def _ground(area: np.ndarray, moment: np.ndarray, is_flat: np.ndarray, floor_m2: float) -> int:
    """The ground class (K,) of which most shows from above: walkways and plots lie on a road that runs on below."""
    left, best, most = floor_m2, -1, 0.0
    done = ~is_flat
    for _ in range(is_flat.sum()):
        top = -1
        for k in range(len(area)):
            if not done[k] and area[k] > 0 and (top < 0 or moment[k] * area[top] > moment[top] * area[k]):
                top = k
        if top < 0:
            break
        done[top] = True
        shows = min(area[top], left)
        left -= shows
        if best < 0 or shows > most:
            best, most = top, shows
    return best


def _mark(mask: np.ndarray, points: np.ndarray, sensor2ego: np.ndarray) -> None:
    """Marks the cells that hold points (P, 3) of a sensor: seen, though cells before them may hold something too."""
    points = points.astype(np.float64)
    behind = points * (1 + _NOISE_M / np.linalg.norm(points, axis=1, keepdims=True))
    places = np.concatenate([points, behind]) @ sensor2ego[:3, :3].T + sensor2ego[:3, 3]
    cells = np.floor((places - OCCUPANCY_GRID.origin_m) / OCCUPANCY_GRID.cell_m).astype(np.int64)  # (P, 3)
    inside = ((cells >= 0) & (cells < mask.shape)).all(axis=1)
    mask[tuple(cells[inside].T)] = True


def _hidden(surroundings: Surroundings, t_us: int, ego2global: np.ndarray) -> Hidden:
    """What the surfaces of the scene hide at a time; places in the ego frame."""
    actors, rotation = surroundings.actors(t_us), ego2global[:3, :3]

    def hidden(eye: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Which places (N, 3) an eye (3,) does not see."""
        ways = places - eye  # (N, 3)
        lengths = np.linalg.norm(ways, axis=1)
        limits_m = np.maximum(lengths - _SLACK_M, 1e-3).astype(np.float32)
        directions = (ways / np.maximum(lengths, 1e-6)[:, None]) @ rotation.T
        return surroundings.rays.occluded(rotation @ eye + ego2global[:3, 3], directions, limits_m, actors)

    return hidden


def _lidar_viewpoints(
    surroundings: Surroundings, sensors: OccupancySensors, t_us: int, global2ego: np.ndarray
) -> list[Viewpoint]:
    """The LiDAR at its places within the grid, the sample's own first."""
    motion, lidar2ego = surroundings.motion, sensors.lidar.sensor2ego
    others = [global2ego @ motion.ego2global(int(time)) @ lidar2ego for time in sensors.lidar_times_us if time != t_us]
    others = [pose for pose in others if np.abs(pose[:2, 3]).max() < _REACH_M]
    if len(others) >= MAX_POSITIONS:
        others = [others[i] for i in np.linspace(0, len(others) - 1, MAX_POSITIONS - 1).round().astype(int)]
    own = global2ego @ motion.ego2global(t_us) @ lidar2ego
    return [lidar_viewpoint(pose) for pose in (own, *others)]
