"""A world small enough to work out by hand: level ground, a wall, actors that are boxes, a car that drives evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from perception.simulation.light import draw_light
from perception.simulation.materials import town_materials
from perception.simulation.mesh import Mesh, merge, paint, quads
from perception.simulation.rays import RayScene
from perception.simulation.sensors.base import Surroundings

START_M = np.array([400.0, 300.0, 0.0])
"""Where the car is at time 0; the world's origin is far away."""

ROAD = paint("asphalt", "flat.driveable_surface")
WALL = paint("render_1")


def pose(x: float, y: float, z: float = 0.0, yaw_rad: float = 0.0) -> np.ndarray:
    """A pose relative to `START_M`, in the world."""
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    matrix = np.eye(4)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    matrix[:3, 3] = START_M + np.array([x, y, z])
    return matrix


def ground(half_m: float = 150.0) -> Mesh:
    """Level ground at z = 0."""
    corners = half_m * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    return quads(corners[None] + START_M, ROAD)


def wall_at(x_m: float, half_m: float = 60.0, height_m: float = 12.0) -> Mesh:
    """A wall across the way that faces the car."""
    corners = np.array([[x_m, half_m, 0], [x_m, -half_m, 0], [x_m, -half_m, height_m], [x_m, half_m, height_m]])
    return quads(corners[None] + START_M, WALL)


@dataclass
class EvenMotion:
    """The car drives a circle (or straight on), actors drive straight; everything at constant speed."""

    speed_m_s: float = 0.0
    yaw_rate_rad_s: float = 0.0
    actors: list[np.ndarray] = field(default_factory=list)
    velocities_m_s: list[tuple[float, float, float]] = field(default_factory=list)

    def ego2global(self, t_us: int) -> np.ndarray:
        seconds = t_us * 1e-6
        yaw = self.yaw_rate_rad_s * seconds
        if abs(self.yaw_rate_rad_s) < 1e-9:
            return pose(self.speed_m_s * seconds, 0)
        radius = self.speed_m_s / self.yaw_rate_rad_s
        return pose(radius * np.sin(yaw), radius * (1 - np.cos(yaw)), 0, yaw)

    def actor2global(self, t_us: int) -> np.ndarray:
        poses = np.array(self.actors).reshape(-1, 4, 4)
        if len(poses):
            poses[:, :3, 3] += np.array(self.velocities_m_s) * t_us * 1e-6
        return poses

    def actor_shapes(self, t_us: int) -> np.ndarray:
        return np.arange(len(self.actors), dtype=np.int32)


def surroundings(
    motion: EvenMotion, shapes: Sequence[Mesh] = (), static: Sequence[Mesh] = (), seed: int = 5
) -> Surroundings:
    """The tiny world by day."""
    rays = RayScene(merge([ground(), *static]), shapes)
    return Surroundings(rays, motion, town_materials(0), draw_light(2, "day"), seed)
