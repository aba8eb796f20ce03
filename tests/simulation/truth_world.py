"""Tiny worlds drawn at random: boxes of many categories around the car, one per sector, a wall, a walkway."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from perception.simulation.mesh import Mesh, cuboid, merge, paint, prism
from perception.simulation.sensors.base import Surroundings
from perception.simulation.truth.solids import Solids
from tests.simulation.tiny_world import START_M, EvenMotion, ground, pose, surroundings, wall_at

CATEGORIES = {
    "vehicle.car": (4.5, 1.9, 1.6),
    "vehicle.truck": (7.0, 2.5, 3.2),
    "human.pedestrian.adult": (0.6, 0.7, 1.75),
    "movable_object.trafficcone": (0.4, 0.4, 0.9),
    "movable_object.barrier": (0.5, 2.4, 1.0),
    "vehicle.bicycle": (1.7, 0.6, 1.2),
    "animal": (0.9, 0.4, 0.6),
}
NUM_ACTORS = 9
WALKWAY_Z_M = 0.13


class TinyScene(NamedTuple):
    """A world, its meshes once more, and what its actors are."""

    surroundings: Surroundings
    solids: Solids
    motion: EvenMotion
    categories: list[str]
    sizes_m: np.ndarray


def walkway() -> Mesh:
    """Raised ground to the left of the car, which lies on the road that runs on below."""
    outline = np.array([[-30, 6.1], [30, 6.1], [30, 9.3], [-30, 9.3]]) + START_M[:2]
    return prism(outline, (0.0, WALKWAY_Z_M), paint("sidewalk", "flat.sidewalk"))


def draw_scene(seed: int, moving: bool = False) -> TinyScene:
    """A scene of `NUM_ACTORS` actors 4 to 28 m away that stand on the ground and do not touch."""
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.choice(list(CATEGORIES), NUM_ACTORS)]
    sizes = np.array([CATEGORIES[name] for name in names]) * rng.uniform(0.85, 1.15, (NUM_ACTORS, 3))
    shapes = [cuboid(size, paint("car_white", name)) for name, size in zip(names, sizes, strict=True)]
    angles = 2 * np.pi * (np.arange(NUM_ACTORS) + rng.uniform(-0.1, 0.1, NUM_ACTORS)) / NUM_ACTORS
    away_m = rng.uniform(6, 28, NUM_ACTORS)
    yaws = rng.uniform(-np.pi, np.pi, NUM_ACTORS)
    poses = []
    for angle, away, yaw, size in zip(angles, away_m, yaws, sizes, strict=True):
        x, y = 1.4 + away * np.cos(angle), away * np.sin(angle)
        base = WALKWAY_Z_M if 6.1 < y < 9.3 and abs(x) < 30 else 0.0
        poses.append(pose(x, y, base + size[2] / 2, yaw))
    speeds = rng.uniform(-5, 5, (NUM_ACTORS, 2)) if moving else np.zeros((NUM_ACTORS, 2))
    motion = EvenMotion(actors=poses, velocities_m_s=[(vx, vy, 0.0) for vx, vy in speeds.tolist()])
    static = [wall_at(32.0), walkway()]
    return TinyScene(
        surroundings(motion, shapes, static, seed),
        Solids(merge([ground(), *static]), shapes),
        motion,
        names,
        sizes,
    )
