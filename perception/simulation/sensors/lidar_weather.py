"""What rain and fog do to LiDAR pulses: both weaken them, and both send back echoes that are no object's.

Powers count in those of the faintest echo that a sensor finds. Light is lost there and back by Beer and Lambert's law.

A drop of rain is a small mirror in the beam: it is found if it is large enough for its distance, and as drops have the
sizes of Marshall and Palmer, how many of those a beam holds and how bright they are follows. Fog has so many droplets
that they send back an even glow, backscatter and extinction being in proportion; what makes single points of it is
that fog is uneven. Close by, sender and receiver look past each other, so that echoes are strongest some metres away.

Of all echoes of a firing the strongest is reported. Not modelled: water on the sensor's window, spray of wheels, light
that is scattered more than once.

Sources: Hahner et al., Fog Simulation on Real LiDAR Point Clouds in Adverse Weather, ICCV 2021 (echoes of fog, the
strongest one is reported); Rasshofer, Spies, Spies: Influences of weather phenomena on automotive laser radar systems,
Advances in Radio Science 9, 2011 (backscatter by visibility, overlap close by); Kilic et al., Lidar Light Scattering
Augmentation (LISA), arXiv 2107.07004, 2021 (single drops among an even extinction); Heinzler et al., Weather Influence
and Classification with Automotive Lidar Sensors, IV 2019 (points of rain and fog lie near the sensor and are faint);
van de Hulst, Light Scattering by Small Particles, 1957, section 12 (large drops); HDL-32E user's manual (beam).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from perception.simulation.drops import drops_per_m3, size_slope_per_m
from perception.simulation.weather import Weather

HALF_RANGE_M = 110.0
"""Where every second pulse is lost that a diffuse surface of `REFLECTIVITY` sends back, in clear air, head on."""

REFLECTIVITY = 0.3

_LEAST_SHARE = 1e-12  # of light; less is as good as nothing
_DISTANCES_M = np.arange(1.0, 25.0, 0.1)
_OVERLAP_M = 3.5
"""Where echoes of what is thinly spread along a beam are strongest."""

SPECKLE = 0.6
"""Standard deviation of the logarithm of an intensity."""

_BEAM_M, _DIVERGENCE_RAD = 0.011, 0.0028  # its diameter at the window, and how it widens

_DROP_GAIN = 0.35
"""Backscatter of a large drop of water beside that of a mirroring ball. Front and focus at the back alone make 0.1; the
glory makes 3 to 7 straight back (Mie, 1 and 2 mm), but is narrower than a receiver. The value lies between."""

_BACKSCATTER = 0.046  # of fog, per metre and steradian, times the visibility in metres
_PULSE_M = 0.75  # half the length of 5 ns in the air
_LEFT = 0.55
"""Share of an even glow that is left after a receiver built for pulses; so fog and a surface come out equally strong
at distances like those of Hahner et al."""

_UNEVEN_M, _EVENNESS = 1.0, 3.0
"""Size of the lumps of fog; and shape of their brightness, whose logarithm has a logistic distribution."""


class DropEchoes(NamedTuple):
    """Echoes of rain and fog; at most one a firing.

    Attributes:
        firing: (K,) int64 index of the firing.
        distance_m: (K,).
        power: (K,) at least 1.
        intensity: (K,) as a share of that of a white surface, on the scale of surfaces, the root of their reflectivity.
    """

    firing: np.ndarray
    distance_m: np.ndarray
    power: np.ndarray
    intensity: np.ndarray

    @classmethod
    def none(cls) -> DropEchoes:
        """No echo."""
        return cls(np.zeros(0, np.int64), *np.zeros((3, 0)))

    def at(self, rows: np.ndarray) -> DropEchoes:
        """Some of the echoes: (K',) indices or (K,) bool."""
        return DropEchoes(*(values[rows] for values in self))


def transmission(weather: Weather, distance_m: np.ndarray) -> np.ndarray | float:
    """The share of its light that a pulse keeps on the way to a place and back.

    Args:
        weather: rain and fog.
        distance_m: (P,) of the place; may be infinite.

    Returns:
        (P,) 0..1; the number 1 in clear air.

    Source:
        Koschmieder's law for fog; Recommendation ITU-R P.1814 for rain, by way of `Weather.extinction_per_m`.
    """
    if not weather.extinction_per_m:
        return 1.0
    return np.maximum(np.exp(-2 * weather.extinction_per_m * distance_m), _LEAST_SHARE)


def drop_echoes(weather: Weather, num_firings: int, rng: np.random.Generator) -> DropEchoes:
    """Echoes of rain or fog that are found if nothing else is in the way.

    Args:
        weather: rain or fog.
        num_firings: P.
        rng: draws them.

    Returns:
        The echoes, one for each firing that has any.
    """
    mean = _mean_echoes(weather)
    firing = np.nonzero(rng.random(num_firings) < -np.expm1(-mean[-1]))[0]  # (K,)
    share, chance = rng.random((2, len(firing)))
    distance_m = np.interp(share * mean[-1], mean, _DISTANCES_M)
    chance = np.maximum(chance, 1e-9)
    if weather.kind == "rain":
        faintest = _faintest_drop_m(weather, distance_m)
        power = (1 - np.log(chance) / (size_slope_per_m(weather.rain_mm_h) * faintest)) ** 2
    else:
        odds = _fog_power(weather, distance_m) ** -_EVENNESS
        power = (((1 + odds) / chance - 1) / odds) ** (1 / _EVENNESS)
    reflectivity = REFLECTIVITY * power / (HALF_RANGE_M**2 * _near_gain(distance_m))  # of a surface as bright
    speckle = np.exp(SPECKLE * rng.standard_normal(len(firing)))
    return DropEchoes(firing, distance_m, power, np.sqrt(reflectivity) * speckle)


def prevailing(
    drops: DropEchoes, surface_m: np.ndarray, power: np.ndarray, seen: np.ndarray, rng: np.random.Generator
) -> DropEchoes:
    """The echoes of drops that are reported: before the first surface, and stronger than its echo if that is found.

    Args:
        drops: all echoes.
        surface_m: (P,) distance of the first surface of each firing, infinite without.
        power: (P,) mean power of its echo; it fluctuates as `lidar.return_chance` has it.
        seen: (P,) bool, whether that echo is found.
        rng: draws how strong it is.

    Returns:
        Those echoes.
    """
    mean = power[drops.firing]  # (K,)
    actual = (1 + mean) / (1 - rng.random(len(mean))) - mean  # at least 1: of those that are found
    stronger = ~seen[drops.firing] | (drops.power > actual)
    return drops.at(stronger & (drops.distance_m < surface_m[drops.firing]))


@lru_cache(maxsize=4)
def _mean_echoes(weather: Weather) -> np.ndarray:
    """(len(_DISTANCES_M),) how many echoes a firing has on the way to each distance, on the average."""
    if weather.kind == "rain":
        per_m3 = drops_per_m3(weather.rain_mm_h, _faintest_drop_m(weather, _DISTANCES_M))
        per_m = per_m3 * _beam_m2(_DISTANCES_M)
    else:
        per_m = 1 / (_UNEVEN_M * (1 + _fog_power(weather, _DISTANCES_M) ** -_EVENNESS))
    steps = np.diff(_DISTANCES_M) * (per_m[1:] + per_m[:-1]) / 2
    return np.concatenate(([0.0], np.cumsum(steps)))


def _near_gain(distance_m: np.ndarray) -> np.ndarray:
    """What takes the place of one over the square of the distance, where sender and receiver overlap in part."""
    square = distance_m**2
    return square / (square + _OVERLAP_M**2) ** 2


def _beam_m2(distance_m: np.ndarray) -> np.ndarray:
    return np.pi / 4 * (_BEAM_M + _DIVERGENCE_RAD * distance_m) ** 2


def _as_surface(weather: Weather, distance_m: np.ndarray) -> np.ndarray:
    """Power of the echo of what sends back all light per steradian; a white surface sends back 1 / pi of that."""
    clear = np.pi / REFLECTIVITY * HALF_RANGE_M**2 * _near_gain(distance_m)
    return clear * transmission(weather, distance_m)


def _faintest_drop_m(weather: Weather, distance_m: np.ndarray) -> np.ndarray:
    """Diameter of the smallest drop that is found at a distance."""
    per_square = _DROP_GAIN / 16 / _beam_m2(distance_m)  # of the diameter; a mirroring ball: a sixteenth
    return 1 / np.sqrt(per_square * _as_surface(weather, distance_m))


def _fog_power(weather: Weather, distance_m: np.ndarray) -> np.ndarray:
    """Mean power of the echo of fog from around a distance."""
    glow = _BACKSCATTER / weather.visibility_m * _PULSE_M * _LEFT
    return glow * _as_surface(weather, distance_m)
