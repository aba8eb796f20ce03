"""A scene of the simulated world: a town, everybody in it, and where all of them are at any microsecond."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.formats.classes import MOVING_SPEED_M_S
from perception.simulation.actors.catalogue import ActorShape
from perception.simulation.ego import DRIVES, EGO_SIZE_LWH_M, Drive
from perception.simulation.town.town import Town
from perception.simulation.traffic import draw_traffic
from perception.simulation.traffic_actors import MARGIN_S, TRACK_STEP_S, Behaviour
from perception.simulation.traffic_rules import Signals

STRIDE_SHARE = 0.42
"""A walking person's step, as a share of the height; the feet change places with every step."""

_ATTRIBUTES = {
    Behaviour.DRIVEN: ("vehicle.moving", "vehicle.stopped"),
    Behaviour.PARKED: ("vehicle.parked", "vehicle.parked"),
    Behaviour.ON_FOOT: ("pedestrian.moving", "pedestrian.standing"),
    Behaviour.SEATED: ("pedestrian.sitting_lying_down", "pedestrian.sitting_lying_down"),
    Behaviour.RIDDEN: ("cycle.with_rider", "cycle.with_rider"),
    Behaviour.LEFT: ("cycle.without_rider", "cycle.without_rider"),
    Behaviour.THING: ("", ""),
}


@dataclass(frozen=True, eq=False)
class Actor:
    """Somebody or something with a box.

    Attributes:
        id: index in `World.actors`; the same all through the scene.
        shape: category, size and meshes.
        behaviour: what it does, as far as its attribute depends on it.
    """

    id: int
    shape: ActorShape
    behaviour: Behaviour


class World:
    """A scene in a town. Times are whole microseconds since its start, from `first_us` to `last_us`.

    Its global frame is the town's own, near zero; `town.town2global` leads on to the map of the town's location.

    Attributes:
        town: the static world.
        seed: of the scene.
        duration_s: length of the scene.
        drive: what the ego does in it.
        actors: everybody; an actor's id is its index.
        signals: the traffic lights.
        first_us: earliest time with poses; before the start, for sweeps that reach back.
        last_us: latest time with poses.
    """

    def __init__(self, town: Town, seed: int, duration_s: float, drive: Drive = "any") -> None:
        if not (np.isfinite(duration_s) and duration_s > 0):
            raise ValueError(f"World: duration_s must be finite and above 0, got {duration_s}")
        if seed < 0:
            raise ValueError(f"World: seed must be at least 0, got {seed}")
        if drive not in DRIVES:
            raise ValueError(f"World: drive must be one of {', '.join(DRIVES)}, got {drive!r}")
        traffic = draw_traffic(town, seed, duration_s, drive)
        self.town, self.seed, self.duration_s, self.drive = town, seed, duration_s, drive
        self.signals: Signals = traffic.signals
        self.actors = tuple(Actor(i, track.shape, track.behaviour) for i, track in enumerate(traffic.tracks))
        steps = len(traffic.ego)
        self.first_us = -round(MARGIN_S * 1e6)
        self.last_us = self.first_us + round((steps - 1) * TRACK_STEP_S * 1e6)
        tracks = [np.broadcast_to(track.poses, (steps, 4)) for track in traffic.tracks]
        self._tables = np.stack([traffic.ego, *tracks])  # (A + 1, K, 4) x y z yaw
        self._lift = np.array([0.0] + [track.shape.size_lwh_m[2] / 2 for track in traffic.tracks])  # (A + 1,)
        steps_m = np.linalg.norm(np.diff(self._tables[1:, :, :2], axis=1), axis=-1)  # (A, K - 1)
        self._walked_m = np.pad(np.cumsum(steps_m, axis=1), ((0, 0), (1, 0)))  # (A, K)
        self._num_meshes = np.array([len(actor.shape.meshes) for actor in self.actors], dtype=np.int64)
        self._stride_m = np.array([STRIDE_SHARE * actor.shape.size_lwh_m[2] for actor in self.actors])

    @property
    def ego_size_lwh_m(self) -> tuple[float, float, float]:
        """Length, width and height of the ego vehicle."""
        return EGO_SIZE_LWH_M

    def ego2global(self, time_us: int) -> np.ndarray:
        """The ego's pose.

        Args:
            time_us: microseconds since the start.

        Returns:
            (4, 4) float64; the origin is the rear axle projected onto the ground, z = 0.

        Raises:
            ValueError: the time is outside the scene.
        """
        return _poses(self._state(time_us)[0][:1], self._lift[:1])[0]

    def actor2global(self, time_us: int) -> np.ndarray:
        """Poses of all actors' boxes.

        Args:
            time_us: microseconds since the start.

        Returns:
            (A, 4, 4) float64, from the box frame (origin at the box's centre, x forward, z up).

        Raises:
            ValueError: the time is outside the scene.
        """
        return _poses(self._state(time_us)[0][1:], self._lift[1:])

    def actor_velocities(self, time_us: int) -> np.ndarray:
        """Velocities (A, 3) of the actors' centres over ground in the global frame, m/s.

        Args:
            time_us: microseconds since the start.

        Returns:
            The exact derivatives of `actor2global`'s positions.

        Raises:
            ValueError: the time is outside the scene.
        """
        return self._state(time_us)[1][1:, :3]

    def ego_velocity(self, time_us: int) -> np.ndarray:
        """(4,) the ego's velocity x y z over ground in the global frame, m/s, and its yaw rate, rad/s.

        Args:
            time_us: microseconds since the start.

        Returns:
            The exact derivatives of `ego2global`'s position and yaw.

        Raises:
            ValueError: the time is outside the scene.
        """
        return self._state(time_us)[1][0]

    def actor_attributes(self, time_us: int) -> tuple[str, ...]:
        """The attribute of every actor, as nuScenes names it, by what it does and how fast it is; "" for things.

        Args:
            time_us: microseconds since the start.

        Returns:
            A names.

        Raises:
            ValueError: the time is outside the scene.
        """
        speeds = np.linalg.norm(self.actor_velocities(time_us)[:, :2], axis=1)
        still = (speeds <= MOVING_SPEED_M_S).tolist()
        return tuple(_ATTRIBUTES[actor.behaviour][i] for actor, i in zip(self.actors, still, strict=True))

    def actor_meshes(self, time_us: int) -> np.ndarray:
        """Which of its shape's meshes every actor shows: walking people change feet with every step.

        Args:
            time_us: microseconds since the start.

        Returns:
            (A,) int64 indices into `ActorShape.meshes`.

        Raises:
            ValueError: the time is outside the scene.
        """
        cell, share = self._cell(time_us)
        walked = (1 - share) * self._walked_m[:, cell] + share * self._walked_m[:, cell + 1]
        return np.floor(walked / self._stride_m).astype(np.int64) % self._num_meshes

    def signal_colours(self, time_us: int) -> tuple[str, ...]:
        """What the lights of every stop line of the town show: "green", "amber", "red", "" where there are none."""
        return tuple(self.signals.colour(i, time_us * 1e-6) for i in range(len(self.town.stop_lines)))

    def _cell(self, time_us: int) -> tuple[int, float]:
        """Index of the stored time before a time, and how far it lies on the way to the next, 0..1."""
        if not self.first_us <= time_us <= self.last_us:
            raise ValueError(f"World: time_us must be in {self.first_us}..{self.last_us}, got {time_us}")
        position = (int(time_us) - self.first_us) / (TRACK_STEP_S * 1e6)
        cell = min(int(position), self._tables.shape[1] - 2)
        return cell, position - cell

    def _state(self, time_us: int) -> tuple[np.ndarray, np.ndarray]:
        """(A + 1, 4) x y z yaw and their derivatives per second, ego first: cubic between stored poses."""
        cell, share = self._cell(time_us)
        last = self._tables.shape[1] - 1
        p1, p2 = self._tables[:, cell], self._tables[:, cell + 1]
        m1 = (p2 - self._tables[:, cell - 1]) / 2 if cell > 0 else p2 - p1
        m2 = (self._tables[:, cell + 2] - p1) / 2 if cell + 1 < last else p2 - p1
        cubic, square = 2 * (p1 - p2) + m1 + m2, 3 * (p2 - p1) - 2 * m1 - m2
        value = p1 + share * (m1 + share * (square + share * cubic))
        return value, (m1 + share * (2 * square + 3 * share * cubic)) / TRACK_STEP_S


def _poses(state: np.ndarray, lift_m: np.ndarray) -> np.ndarray:
    """(A, 4, 4) transforms from (A, 4) x y z yaw; `lift_m` raises the origin over the underside."""
    poses = np.zeros((len(state), 4, 4))
    cos, sin = np.cos(state[:, 3]), np.sin(state[:, 3])
    poses[:, 0, 0], poses[:, 0, 1], poses[:, 1, 0], poses[:, 1, 1] = cos, -sin, sin, cos
    poses[:, :3, 3] = state[:, :3]
    poses[:, 2, 3] += lift_m
    poses[:, 2, 2] = poses[:, 3, 3] = 1.0
    return poses
