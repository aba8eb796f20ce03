"""A spinning LiDAR of 32 beams: every firing is stored, ring by ring, in the frame of the sweep's end.

What rain and fog do to its pulses is in `lidar_weather.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.materials import Pattern
from perception.simulation.rays import STATIC, Hits, RayScene
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.ego_body import ego_body
from perception.simulation.sensors.lidar_weather import (
    HALF_RANGE_M,
    REFLECTIVITY,
    SPECKLE,
    DropEchoes,
    drop_echoes,
    prevailing,
    transmission,
)
from perception.simulation.wetness import FLAT

NUM_RINGS = 32
NUM_COLUMNS = 1085
SPIN_US = 50_000

_LOWEST_DEG, _RING_STEP_DEG = -30.67, 1.333
_FIRST_AZIMUTH_DEG, _COLUMN_STEP_DEG = -90.2, 0.3326  # clockwise from straight ahead
_MIN_RANGE_M, _MAX_RANGE_M = 0.5, 104.0
_RANGE_NOISE_M = 0.015
_RANGE_POWER = 0.4  # of the light that comes back: how far a pulse reaches
_DRY_GLOSS = 0.06  # no dark ground is glossier while it is dry
_WHITE = 29  # intensity of a white surface
_OWN_POWER = 1e6  # of the own car's echoes, which nothing outdoes
_KNOTS = 6
"""Poses taken along the spin; between them the ego vehicle moves evenly."""

_NOISE = POINT_CATEGORIES.index("noise")
_EGO = POINT_CATEGORIES.index("vehicle.ego")


@dataclass(frozen=True, eq=False)
class LidarRecording:
    """One sweep: P = 1085 * 32 points, column by column, the ring running fastest.

    Attributes:
        t_us: timestamp, the end of the sweep.
        ego2global: (4, 4) pose of the ego vehicle then.
        points: (P, 5) float32 x y z intensity ring, sensor frame at the timestamp; a firing without return lies where
            the sensor was.
        actor: (P,) int32 actor that each point lies on, -1 for none.
        semantic: (P,) uint8 index into `POINT_CATEGORIES`; `noise` without return and off rain and fog, `vehicle.ego`
            on the own car.
        raw: (P, 3) float32 the points as measured, each in the sensor frame of its own time.
        time_s: (P,) float32 time of each firing less the timestamp, -0.05 to 0.
    """

    t_us: int
    ego2global: np.ndarray
    points: np.ndarray
    actor: np.ndarray
    semantic: np.ndarray
    raw: np.ndarray
    time_s: np.ndarray

    @property
    def content(self) -> bytes:
        """The `.pcd.bin` file."""
        return self.points.astype("<f4").tobytes()


@dataclass(frozen=True, eq=False)
class Lidar:
    """A mounted spinning LiDAR.

    Attributes:
        channel: such as `LIDAR_TOP`.
        sensor2ego: (4, 4) mounting pose; sensor frame x right, y forward, z up.
        delay_us: 0, as it times the samples.
    """

    channel: str
    sensor2ego: np.ndarray
    delay_us: int = 0
    modality: str = "lidar"
    suffix: str = ".pcd.bin"

    @cached_property
    def _directions(self) -> np.ndarray:
        """(P, 3) float64 unit directions of the firings, each in the sensor frame of its own time."""
        azimuth = np.radians(_FIRST_AZIMUTH_DEG + _COLUMN_STEP_DEG * np.arange(NUM_COLUMNS))[:, None]  # (columns, 1)
        elevation = np.radians(_LOWEST_DEG + _RING_STEP_DEG * np.arange(NUM_RINGS))  # (rings,)
        x, y = np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation)
        return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], axis=-1).reshape(-1, 3)

    @cached_property
    def _own_car(self) -> Hits:
        """What of the own car each firing meets; the same in every sweep."""
        directions = self._directions @ self.sensor2ego[:3, :3].T
        return RayScene(ego_body()).cast(self.sensor2ego[:3, 3], directions)

    @cached_property
    def _own_chance(self) -> np.ndarray:
        """(P,) chance of a return off the own car, whose paint throws away what strikes it at a low angle."""
        return np.minimum(4 * _cosines(self._own_car, self._directions @ self.sensor2ego[:3, :3].T), 1.0)

    def capture(self, surroundings: Surroundings, t_us: int) -> LidarRecording:
        """Records the sweep that ends at a timestamp.

        Args:
            surroundings: what there is to see.
            t_us: the end of the sweep.

        Returns:
            The sweep.
        """
        share = np.arange(NUM_COLUMNS) / (NUM_COLUMNS - 1)  # (columns,) of the spin
        sensor2global = _interpolated(self._knots(surroundings, t_us), share)  # (columns, 4, 4)
        origins = np.repeat(sensor2global[:, :3, 3], NUM_RINGS, axis=0)  # (P, 3)
        beams = self._directions.reshape(NUM_COLUMNS, NUM_RINGS, 3)
        directions = (beams @ sensor2global[:, :3, :3].transpose(0, 2, 1)).reshape(-1, 3)  # (P, 3)
        fraction = np.repeat(share, NUM_RINGS)  # (P,)
        hits = surroundings.rays.cast(origins, directions, surroundings.actors(t_us - SPIN_US, t_us), fraction)
        rng = surroundings.rng(self.channel, t_us)
        air = transmission(surroundings.weather, hits.distance_m)
        cosine = _cosines(hits, directions)
        weakness = echo_weakness(hits, cosine, surroundings.materials, air)
        distance, own = self._measured(hits, weakness, surroundings.materials, rng)
        drops = self._drops(surroundings, t_us, hits.distance_m, weakness, distance > 0)
        distance[drops.firing] = 0.0
        returned = distance > 0  # (P,) off surfaces
        distance[drops.firing] = drops.distance_m
        raw = self._directions * distance[:, None]  # (P, 3)
        sensor2end = np.linalg.inv(sensor2global[-1]) @ sensor2global  # (columns, 4, 4)
        points = np.empty((len(raw), 5), np.float32)
        deskewed = raw.reshape(beams.shape) @ sensor2end[:, :3, :3].transpose(0, 2, 1) + sensor2end[:, None, :3, 3]
        points[:, :3] = deskewed.reshape(-1, 3)
        points[:, 3] = _intensities(hits, cosine, air, own, returned, surroundings.materials, rng)
        points[drops.firing, 3] = np.minimum(np.rint(_WHITE * drops.intensity), 255)
        points[:, 4] = np.tile(np.arange(NUM_RINGS), NUM_COLUMNS)
        return LidarRecording(
            t_us=t_us,
            ego2global=surroundings.motion.ego2global(t_us),
            points=points,
            actor=np.where(returned & ~own, surroundings.known(hits.actor, t_us), STATIC),
            semantic=np.where(returned, np.where(own, _EGO, hits.semantic), _NOISE).astype(np.uint8),
            raw=raw.astype(np.float32),
            time_s=((fraction - 1) * SPIN_US * 1e-6).astype(np.float32),
        )

    def _knots(self, surroundings: Surroundings, t_us: int) -> np.ndarray:
        """(K, 4, 4) `sensor2global` evenly over the spin."""
        times = np.linspace(t_us - SPIN_US, t_us, _KNOTS).round().astype(int)
        return np.stack([surroundings.motion.ego2global(int(time)) @ self.sensor2ego for time in times])

    def _drops(
        self, surroundings: Surroundings, t_us: int, surface_m: np.ndarray, weakness: np.ndarray, seen: np.ndarray
    ) -> DropEchoes:
        """What is reported of rain and fog, before surfaces (P,) of the world and before the own car."""
        weather = surroundings.weather
        if weather.kind == "clear":
            return DropEchoes.none()
        rng = surroundings.rng(f"{self.channel}/weather", t_us)
        own_m = self._own_car.distance_m
        power = np.where(own_m < np.inf, _OWN_POWER, 1 / weakness)
        return prevailing(drop_echoes(weather, len(seen), rng), np.minimum(own_m, surface_m), power, seen, rng)

    def _measured(
        self, hits: Hits, weakness: np.ndarray, materials: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distance (P,) of each return, 0 where there is none, and whether it came off the own car (P,) bool."""
        own_m = self._own_car.distance_m
        own = own_m < np.inf
        noise = rng.standard_normal(len(own), dtype=np.float32)
        depth = rng.exponential(0.15, len(own))
        leaves = materials["pattern"][hits.material] == Pattern.LEAVES
        distance = np.where(own, own_m, hits.distance_m) + _RANGE_NOISE_M * noise + np.where(leaves & ~own, depth, 0)
        chance = np.where(own, self._own_chance, return_chance(hits, weakness, materials))
        seen = (rng.random(len(own)) < chance) & (distance > _MIN_RANGE_M) & (distance < _MAX_RANGE_M)
        return np.where(seen, distance, 0.0), own


def echo_weakness(
    hits: Hits, cosine: np.ndarray, materials: np.ndarray, transmission: np.ndarray | float = 1.0
) -> np.ndarray:
    """How much weaker than the faintest one that is found echoes are on the average.

    Args:
        hits: (P,) what pulses meet.
        cosine: (P,) of the angle of incidence.
        materials: table of `materials.MATERIAL_DTYPE`.
        transmission: (P,) share of the light that the air leaves, there and back.

    Returns:
        (P,) one over the power of the echo; infinite where nothing was hit.
    """
    reflectivity, gloss = materials["lidar_reflectivity"], materials["lidar_gloss"]  # (materials,)
    strength = np.maximum(reflectivity + gloss, 0.01) / REFLECTIVITY
    half_range_m = HALF_RANGE_M * strength**_RANGE_POWER  # where every second pulse is lost, head on
    reach_m = half_range_m[hits.material] * np.maximum(cosine, 1e-3) ** 0.2  # (P,)
    return (hits.distance_m / (reach_m * transmission**_RANGE_POWER)) ** 2.2


def return_chance(hits: Hits, weakness: np.ndarray, materials: np.ndarray) -> np.ndarray:
    """The chance that a pulse comes back strong enough.

    Args:
        hits: (P,) what it meets.
        weakness: (P,) from `echo_weakness`.
        materials: table of `materials.MATERIAL_DTYPE`.

    Returns:
        (P,) 0..1; 0 where nothing was hit.
    """
    reflectivity = materials["lidar_reflectivity"]  # (materials,)
    gloss = np.where(FLAT, np.minimum(materials["gloss"], _DRY_GLOSS), materials["gloss"])  # a film of water is no pane
    glass = np.where(reflectivity < 0.1, 1 - 0.9 * gloss, 1.0)  # lets most of the light through
    return 0.985 * glass[hits.material] / (1 + weakness)


def _cosines(hits: Hits, directions: np.ndarray) -> np.ndarray:
    return np.abs(np.einsum("ij,ij->i", hits.normal, directions))


def _intensities(
    hits: Hits,
    cosine: np.ndarray,
    air: np.ndarray | float,
    own: np.ndarray,
    returned: np.ndarray,
    materials: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(P,) whole numbers 0..255: some tens for diffuse surfaces, far more for what throws light straight back.

    The root and the factors bring quantiles near those of recorded sweeps, whose scale is no plain reflectivity.
    """
    diffuse = _WHITE * np.sqrt(materials["lidar_reflectivity"])[hits.material] * (0.7 + 0.3 * cosine)
    mirrored = 150 * materials["lidar_gloss"][hits.material] * cosine**2
    speckle = np.exp(SPECKLE * rng.standard_normal(len(own), dtype=np.float32))
    value = np.where(own, 20.0, (diffuse + mirrored) * air) * speckle
    empty = rng.poisson(4.0, len(own))
    return np.clip(np.rint(np.where(returned, value, empty)), 0, 255)


def _interpolated(knots: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Transforms (N, 4, 4) between evenly spaced ones (K, 4, 4); the turn between neighbours must be small."""
    place = share * (len(knots) - 1)
    lower = np.minimum(place.astype(int), len(knots) - 2)  # (N,)
    part = (place - lower)[:, None, None]
    return knots[lower] * (1 - part) + knots[lower + 1] * part
