"""From the world to radar echoes: rays over the antenna's lobe, their Doppler, mirrored ways, and cells of resolution.

Each ray stands for a small solid angle. What it meets is a patch of known area and speed with the cross-section that
`radar_surfaces` gives; rays that meet a wall go on as a mirror sends them, and what they meet then is a ghost behind
the wall. Patches that the radar cannot tell apart by distance, direction and Doppler add up, as powers.

Sources: Skolnik, Introduction to Radar Systems, 3rd edition, sections 2.6 and 2.8 (radar equation, fluctuating
targets); Kraus et al., The Radar Ghost Dataset, IROS 2021 (ghosts over a mirror come in at the length of the way and,
with two reflections at the wall, in the wall's direction).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from perception.simulation.rays import STATIC, ActorPoses, Hits, RayScene
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.radar_surfaces import brightness, mirroring

_DELTA_US = 200
"""Velocities are the change of poses within this time."""

_MIN_RANGE_M, _MAX_RANGE_M = 0.5, 250.0
_MIRROR_RANGE_M, _MIRROR_NORMAL_Z, _LEAST_MIRROR = 60.0, 0.2, 0.05
_MIRROR_RISE = 0.07
"""Up to this sine of the elevation, 4 degrees, mirrored ways are followed; others lead over or below everything."""
_GRAIN_M, _GRAIN_DB = 0.5, 8.0
"""Size of the grains of static surfaces, and the spread of their brightness: edges and corners too small for a mesh."""

_PRIMES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


@dataclass(frozen=True)
class Lobe:
    """Where a radar looks, and what it can tell apart.

    Attributes:
        half_width_deg: of the field of view in azimuth.
        columns: of rays; evenly spread over the sine of the azimuth, as an antenna array resolves it.
        borders_deg: elevations between which the rows of rays lie, rising; rows are narrow where much is to be seen.
        half_power_deg: azimuth and elevation at which the antenna's gain has fallen to a half, one way.
        reach_m: where one square metre straight ahead is as strong as the noise.
        range_cell_m: resolution of the distance.
        sine_cell: resolution of the sine of the azimuth.
        across_cell_m: what lies closer together than this, across the line of sight, is reported as one anyway.
        doppler_cell_m_s: resolution of the range rate over ground.
        elevation_cell_deg: resolution of the elevation; infinite for a radar that does not measure it.
    """

    half_width_deg: float
    columns: int
    borders_deg: tuple[float, ...]
    half_power_deg: tuple[float, float]
    reach_m: float
    range_cell_m: float
    sine_cell: float
    across_cell_m: float
    doppler_cell_m_s: float
    elevation_cell_deg: float = np.inf

    @cached_property
    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Width (N,) in sine of azimuth, and height (N,) in radians, of what each ray stands for; row by row."""
        heights = np.diff(np.radians(self.borders_deg))  # (rows,)
        sine = 2 * np.sin(np.radians(self.half_width_deg)) / self.columns
        return np.full(len(heights) * self.columns, sine), np.repeat(heights, self.columns)

    def rays(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sine of the azimuth (N,) and elevation (N,) in radians of each ray, at random within what it stands for."""
        low = -np.sin(np.radians(self.half_width_deg))
        (width, height), (across, up) = self.steps, rng.random((2, len(self.steps[0])))
        column = np.tile(np.arange(self.columns), len(self.borders_deg) - 1)
        bottom = np.repeat(np.radians(self.borders_deg[:-1]), self.columns)
        return low + (column + across) * width, bottom + up * height

    def signal_db(self, echoes: Echoes) -> np.ndarray:
        """Power (E,) of echoes above the noise, by the radar equation.

        Args:
            echoes: E echoes; the gain over elevation is in their cross-section.

        Returns:
            (E,) dB.
        """
        gain = gain_db(np.arcsin(echoes.sine), self.half_power_deg[0])
        return 10 * np.log10(echoes.section_m2) + gain - 40 * np.log10(echoes.range_m / self.reach_m)


class Echoes(NamedTuple):
    """What comes back to a radar; the sensor frame is x forward, y left, z up.

    Attributes:
        range_m: (E,) distance.
        sine: (E,) of the azimuth, left positive.
        elevation_rad: (E,).
        rate_m_s: (E,) how fast the distance grows, as the moving sensor sees it.
        section_m2: (E,) cross-section as the radar reckons it, under the antenna's gain over elevation.
        actor: (E,) int32, -1 for none; a ghost is nobody.
        ghost: (E,) bool, whether the wave took a way over a wall.
    """

    range_m: np.ndarray
    sine: np.ndarray
    elevation_rad: np.ndarray
    rate_m_s: np.ndarray
    section_m2: np.ndarray
    actor: np.ndarray
    ghost: np.ndarray

    def at(self, rows: np.ndarray) -> Echoes:
        """Some of the echoes (K,)."""
        return Echoes(*(values[rows] for values in self))


@dataclass(frozen=True, eq=False)
class Carrier:
    """A mounted radar on its way.

    Attributes:
        sensor2global: (4, 4) pose.
        velocity_m_s: (3,) of the sensor over ground, world axes.
        yaw_rate_rad_s: of the vehicle, to the left.
    """

    sensor2global: np.ndarray
    velocity_m_s: np.ndarray
    yaw_rate_rad_s: float

    @classmethod
    def of(cls, surroundings: Surroundings, sensor2ego: np.ndarray, t_us: int) -> Carrier:
        """The radar mounted at a place (4, 4) at a time."""
        now, after = (surroundings.motion.ego2global(t_us + step) @ sensor2ego for step in (0, _DELTA_US))
        turn = now[:3, :3].T @ after[:3, :3]
        velocity = (after - now)[:3, 3] / (1e-6 * _DELTA_US)
        return cls(now, velocity, float(np.arctan2(turn[1, 0], turn[0, 0])) / (1e-6 * _DELTA_US))

    def own_rate(self, directions: np.ndarray) -> np.ndarray:
        """How fast the sensor moves (N,) along unit directions (N, 3) of its own frame."""
        return directions @ (self.sensor2global[:3, :3].T @ self.velocity_m_s)


def unit(sine: np.ndarray, elevation_rad: np.ndarray) -> np.ndarray:
    """Unit directions (N, 3) in the sensor frame from the sine of the azimuth and the elevation (N,)."""
    flat = np.cos(elevation_rad)
    return np.stack([flat * np.sqrt(1 - sine**2), flat * sine, np.sin(elevation_rad)], axis=-1)


def gain_db(angle_rad: np.ndarray, half_power_deg: float) -> np.ndarray:
    """Gain there and back (N,) at an angle off the middle of the lobe (N,), 0 dB in the middle."""
    return -6.0 * (angle_rad / np.radians(half_power_deg)) ** 2


def echoes_of(surroundings: Surroundings, carrier: Carrier, lobe: Lobe, t_us: int, rng: np.random.Generator) -> Echoes:
    """All that comes back to a radar, patch by patch.

    Args:
        surroundings: what there is.
        carrier: the radar at that time.
        lobe: where it looks.
        t_us: the time; everything stands still in it but for its speed.
        rng: places the rays.

    Returns:
        The echoes: what the rays meet, and ghosts.
    """
    sine, elevation = lobe.rays(rng)  # (N,)
    width, height = lobe.steps
    solid = width * height * np.cos(elevation) / np.sqrt(1 - sine**2)  # (N,) steradians
    solid *= 10 ** (0.1 * gain_db(elevation, lobe.half_power_deg[1]))
    directions = unit(sine, elevation) @ carrier.sensor2global[:3, :3].T  # (N, 3)
    world = _World.of(surroundings, t_us)
    hits = world.rays.cast(carrier.sensor2global[:3, 3], directions, world.actors)
    rows = np.nonzero(hits.found & (hits.distance_m > _MIN_RANGE_M) & (hits.distance_m < _MAX_RANGE_M))[0]  # (K,)
    hits, directions, solid = hits.at(rows), directions[rows], solid[rows]
    velocity = world.velocity(hits)  # (K, 3)
    level = _level(hits, directions) * hits.distance_m**2 * solid
    rate = np.einsum("ij,ij->i", velocity - carrier.velocity_m_s, directions)
    straight = np.zeros(len(rows), bool)
    direct = Echoes(hits.distance_m, sine[rows], elevation[rows], rate, level, hits.actor, straight)
    walls, mirrored = _mirrored(world, carrier, hits, directions, solid)
    ghosts = mirrored._replace(sine=direct.sine[walls], elevation_rad=direct.elevation_rad[walls])
    return Echoes(*(np.concatenate(pair) for pair in zip(direct, ghosts, strict=True)))


@dataclass(frozen=True, eq=False)
class _World:
    """What rays meet at one time, and how it moves.

    Attributes:
        rays: the surfaces.
        actors: A poses.
        place2velocity: (A, 3, 4), from a place in an actor's frame to its velocity in the world.
    """

    rays: RayScene
    actors: ActorPoses
    place2velocity: np.ndarray

    @classmethod
    def of(cls, surroundings: Surroundings, t_us: int) -> _World:
        """The world at a time."""
        motion = surroundings.motion  # without signal lamps, which cover no more than lamp glass of the town
        start, end = motion.actor2global(t_us), motion.actor2global(t_us + _DELTA_US)
        actors = ActorPoses.still(motion.actor_shapes(t_us), start)
        return cls(surroundings.rays, actors, (end - start)[:, :3] / (1e-6 * _DELTA_US))

    def velocity(self, hits: Hits) -> np.ndarray:
        """(N, 3) of what was hit, world axes."""
        velocity = np.zeros((len(hits.actor), 3))
        moving = np.nonzero(hits.actor != STATIC)[0]
        way = self.place2velocity[hits.actor[moving]]  # (K, 3, 4)
        velocity[moving] = np.einsum("kij,kj->ki", way[..., :3], hits.position[moving]) + way[..., 3]
        return velocity


def _level(hits: Hits, directions: np.ndarray) -> np.ndarray:
    """(N,) square metres per square metre across the line of sight; static surfaces have grains that stay in place."""
    moving = hits.actor != STATIC
    cosine = np.abs(np.einsum("ij,ij->i", hits.normal, directions))
    grain = 10 ** (0.1 * _GRAIN_DB * _normal_at(np.floor(hits.position / _GRAIN_M).astype(np.int64)))
    return brightness(moving, hits.semantic, hits.material, cosine) * np.where(moving, 1.0, grain)


def _normal_at(cells: np.ndarray) -> np.ndarray:
    """(N,) normally distributed numbers that depend on the cells (N, 3) int64 alone."""
    mixed = (cells.view(np.uint64) * _PRIMES).sum(axis=1, dtype=np.uint64)  # (N,)
    for shift, prime in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 1)):  # MurmurHash3's finalizer
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(prime)
    first = ((mixed >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    second = (mixed & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
    return np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)  # Box and Muller


def _mirrored(
    world: _World, carrier: Carrier, hits: Hits, directions: np.ndarray, solid: np.ndarray
) -> tuple[np.ndarray, Echoes]:
    """Which hits (K,) are on mirrors that show something, and what; its directions are left to the caller."""
    kept = np.where(hits.actor == STATIC, mirroring(hits.material), 0.0)
    upright = np.abs(hits.normal[:, 2]) < _MIRROR_NORMAL_Z
    level = upright & (np.abs(directions[:, 2]) < _MIRROR_RISE)
    walls = np.nonzero((kept > _LEAST_MIRROR) & level & (hits.distance_m < _MIRROR_RANGE_M))[0]
    normal, inward, first_m = hits.normal[walls], directions[walls], hits.distance_m[walls]
    onward = inward - 2 * np.einsum("ij,ij->i", inward, normal)[:, None] * normal  # (K, 3)
    start = carrier.sensor2global[:3, 3] + inward * first_m[:, None] + 0.02 * normal
    found = world.rays.cast(start, onward, world.actors)
    way_m = first_m + found.distance_m
    seen = np.nonzero(found.found & (way_m < _MAX_RANGE_M))[0]
    found, normal, way_m, walls = found.at(seen), normal[seen], way_m[seen], walls[seen]
    velocity = world.velocity(found)
    velocity -= 2 * np.einsum("ij,ij->i", velocity, normal)[:, None] * normal  # as the mirror shows it
    rate = np.einsum("ij,ij->i", velocity - carrier.velocity_m_s, directions[walls])
    bright = _level(found, onward[seen]) * way_m**2 * solid[walls] * kept[walls] ** 2
    nothing = np.zeros(len(walls))
    nobody, ghost = np.full(len(walls), STATIC, np.int32), np.ones(len(walls), bool)
    return walls, Echoes(way_m, nothing, nothing, rate, bright, nobody, ghost)


def resolved(echoes: Echoes, lobe: Lobe, carrier: Carrier) -> Echoes:
    """Adds up what a radar cannot tell apart.

    Args:
        echoes: E patches.
        lobe: gives the cells of resolution.
        carrier: the radar; Doppler counts less its own motion, so that a wall that it passes stays in one piece.

    Returns:
        C echoes: cross-sections added, all else averaged by power; actor and ghost are those of the strongest patch.
    """
    if not len(echoes.range_m):
        return echoes
    over_ground = echoes.rate_m_s + carrier.own_rate(unit(echoes.sine, echoes.elevation_rad))
    cells = [
        np.floor(echoes.range_m / lobe.range_cell_m),
        np.floor(echoes.sine * np.minimum(echoes.range_m / lobe.across_cell_m, 1 / lobe.sine_cell)),
        np.floor(over_ground / lobe.doppler_cell_m_s),
        np.floor(np.degrees(echoes.elevation_rad) / lobe.elevation_cell_deg),
    ]
    key = np.zeros(len(echoes.range_m), np.int64)
    for cell in cells:
        whole = cell.astype(np.int64)
        whole -= whole.min()
        key = key * (int(whole.max()) + 1) + whole
    _, index = np.unique(key, return_inverse=True)  # (E,) which of C
    power = echoes.section_m2 / echoes.range_m**4
    total = np.bincount(index, power)  # (C,)
    range_m, sine, elevation, rate = (np.bincount(index, power * values) / total for values in echoes[:4])
    strongest = np.zeros(len(total), np.int64)
    rising = np.argsort(power)
    strongest[index[rising]] = rising  # the last one written stays
    section = np.bincount(index, echoes.section_m2)
    return Echoes(range_m, sine, elevation, rate, section, echoes.actor[strongest], echoes.ghost[strongest])
