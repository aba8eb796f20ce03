"""What every simulated sensor is and gets: one `Sensor` class per kind, one file per class.

A sensor looks at `Surroundings` at its own time and gives a `Recording`, whose `content` is the file a data set holds.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from perception.simulation.lamps import Lamps
from perception.simulation.light import Light
from perception.simulation.rays import STATIC, ActorPoses, RayScene
from perception.simulation.signal_lamps import SignalLamps
from perception.simulation.weather import CLEAR, Weather


class Motion(Protocol):
    """How the ego vehicle and the actors move; times are integer microseconds."""

    def ego2global(self, t_us: int) -> np.ndarray:
        """(4, 4) float64 pose of the ego vehicle."""

    def actor2global(self, t_us: int) -> np.ndarray:
        """(A, 4, 4) float64 poses of all actors, the same actors in the same order at every time."""

    def actor_shapes(self, t_us: int) -> np.ndarray:
        """(A,) int32 index of each actor's mesh among the shapes of the ray scene; it may change as people walk."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """All that a sensor can perceive.

    Attributes:
        rays: static world and shapes of the actors.
        motion: of ego vehicle and actors.
        materials: (len(MATERIALS),) table of `materials.MATERIAL_DTYPE`.
        light: sun and sky.
        seed: of the scene; noise depends on it, the channel and the time alone.
        signals: what the traffic lights show; dark where None.
        ego_shape: the own car among the shapes of the ray scene; it throws no shadow where None.
        weather: rain and fog.
        lamps: those that shine in the dark, in rain and in fog; all are off where None, as on a clear day.
    """

    rays: RayScene
    motion: Motion
    materials: np.ndarray
    light: Light
    seed: int
    signals: SignalLamps | None = None
    ego_shape: int | None = None
    weather: Weather = CLEAR
    lamps: Lamps | None = None

    def actors(self, start_us: int, end_us: int | None = None) -> ActorPoses:
        """The actors at one time, or between two, over which they move evenly; lit signal lamps follow them."""
        start = self.motion.actor2global(start_us)
        end = start if end_us is None else self.motion.actor2global(end_us)
        shapes = self.motion.actor_shapes(start_us)
        if self.signals is not None:
            lamps, lamp2global = self.signals.shining(start_us)
            shapes = np.concatenate([shapes, lamps])
            start, end = (np.concatenate([poses, lamp2global]) for poses in (start, end))
        return ActorPoses(shapes, start, end)

    def casting_shadows(self, t_us: int) -> ActorPoses:
        """What keeps light off the world at one time: the actors, and the own car, which no sensor sees."""
        actors = self.actors(t_us)
        if self.ego_shape is None:
            return actors
        poses = np.concatenate([actors.start, self.motion.ego2global(t_us)[None]])
        return ActorPoses.still(np.append(actors.shapes, np.int32(self.ego_shape)), poses)

    def known(self, actor: np.ndarray, t_us: int) -> np.ndarray:
        """Rows of actors as sensors report them: signal lamps belong to the town, so theirs become `STATIC`."""
        return np.where(actor < len(self.motion.actor_shapes(t_us)), actor, STATIC).astype(np.int32)

    def rng(self, channel: str, t_us: int) -> np.random.Generator:
        """The random numbers of one recording."""
        return np.random.default_rng([self.seed, zlib.crc32(channel.encode()), t_us])


class Recording(Protocol):
    """What a sensor recorded at one time."""

    @property
    def t_us(self) -> int:
        """Timestamp, microseconds."""

    @property
    def ego2global(self) -> np.ndarray:
        """(4, 4) float64 pose of the ego vehicle at the timestamp."""

    @property
    def content(self) -> bytes:
        """The file that a data set holds for it."""


class Sensor(Protocol):
    """A mounted sensor."""

    @property
    def channel(self) -> str:
        """Name of the sensor in a data set, such as `CAM_FRONT`."""

    @property
    def modality(self) -> str:
        """Kind of sensor in a data set, such as `camera`."""

    @property
    def suffix(self) -> str:
        """Ending of the file names of its recordings, with the dot."""

    @property
    def sensor2ego(self) -> np.ndarray:
        """(4, 4) float64 mounting pose."""

    @property
    def delay_us(self) -> int:
        """Its timestamp less the reference sensor's (the LiDAR's) in the same sample."""

    def capture(self, surroundings: Surroundings, t_us: int) -> Recording:
        """Records what is perceived at a timestamp; the same arguments give the same bytes."""
