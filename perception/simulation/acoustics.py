"""Sound in air: how fast it is and what is lost, what surfaces send back, and which echoes stand out.

Source: ISO 17386:2023 (test object: a post of 75 mm); ISO 9613-1:1993 section 6 (absorption of air); Kuc and Siegel
1987, "Physically based simulation model for acoustic sensor robot navigation" (mirrors); Noykov and Roumenin 2007,
"Calibration and interface of a Polaroid ultrasonic sensor" (temperature, threshold crossing).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from perception.formats.ultrasonic import NUM_ECHOES, EchoState
from perception.simulation.drops import drops_per_m3
from perception.simulation.materials import MATERIALS, Pattern
from perception.simulation.rays import STATIC, Hits
from perception.simulation.sensors.base import Surroundings
from perception.simulation.weather import Weather, WeatherKind

FREQUENCY_HZ = 48_000.0
MAX_RANGE_M = 5.5
PULSE_M = 0.057
"""Half the length of a burst of 16 periods in the air."""

POST_REACH_M = 4.3
"""How far off the post of the standard is heard at 20 deg C and 50 % humidity."""

_USUAL_DB_M = 1.6  # absorption in that air
_FAINTEST = 1.34e-6  # power of the post there, of what was sent
_GROUND_M = 3.3  # nearer than this the threshold rises
_RISE = 4.0  # a later echo must rise so far above the dip before it

_AIRS: dict[WeatherKind, tuple[tuple[float, float], tuple[float, float]]] = {
    "clear": ((-5.0, 32.0), (0.35, 0.9)),
    "rain": ((3.0, 24.0), (0.85, 1.0)),
    "fog": ((-1.0, 14.0), (0.97, 1.0)),
}
"""By weather, temperatures in deg C and relative humidities that air has."""

_LOUD_DROP_M = 1e-3  # diameter of a drop that is heard when it strikes a membrane
_MEMBRANE_M2 = 2e-4  # 16 mm across
_WIND_M_S = 2.0


@dataclass(frozen=True)
class Air:
    """The air of a scene.

    Attributes:
        temperature_c: what it is.
        measured_c: what the car's thermometer says.
        humidity: relative, 0..1.
    """

    temperature_c: float
    measured_c: float
    humidity: float

    @property
    def absorption_db_m(self) -> float:
        """What 48 kHz loses on a metre at the pressure of sea level.

        Source: ISO 9613-1, equations 3 to 5, B.2 and B.3; beyond its 10 kHz the same formula is used.
        """
        kelvin = self.temperature_c + 273.15
        warmth = kelvin / 293.15
        vapour = 100 * self.humidity * 10 ** (4.6151 - 6.8346 * (273.16 / kelvin) ** 1.261)  # per cent of the air
        oxygen = 24 + 4.04e4 * vapour * (0.02 + vapour) / (0.391 + vapour)
        nitrogen = warmth**-0.5 * (9 + 280 * vapour * np.exp(-4.17 * (warmth ** (-1 / 3) - 1)))
        square = FREQUENCY_HZ**2
        relaxation = 0.01275 * np.exp(-2239.1 / kelvin) / (oxygen + square / oxygen)
        relaxation += 0.1068 * np.exp(-3352.0 / kelvin) / (nitrogen + square / nitrogen)
        return float(8.686 * square * (1.84e-11 * warmth**0.5 + warmth**-2.5 * relaxation))

    @property
    def reach_m(self) -> float:
        """How far off the post of the standard is heard, at most the largest range."""
        usual = 40 * np.log10(POST_REACH_M) + 2 * _USUAL_DB_M * POST_REACH_M
        distance_m = np.linspace(0.5, MAX_RANGE_M, 501)
        loss = 40 * np.log10(distance_m) + 2 * self.absorption_db_m * distance_m
        return float(np.interp(usual, loss, distance_m))


def sound_speed_m_s(temperature_c: float) -> float:
    """The speed of sound in air.

    Args:
        temperature_c: of the air.

    Returns:
        Metres per second.
    """
    return float(331.3 * np.sqrt(1 + temperature_c / 273.15))


def draw_air(surroundings: Surroundings) -> Air:
    """The air of a scene; the thermometer sits behind the bumper and rather errs to the warm side.

    Args:
        surroundings: of the scene; its seed decides.

    Returns:
        The air.
    """
    rng = surroundings.rng("AIR", 0)
    temperatures, humidities = _AIRS[surroundings.weather.kind]
    temperature = float(rng.uniform(*temperatures))
    return Air(temperature, temperature + float(rng.normal(1.0, 1.5)), float(rng.uniform(*humidities)))


def drop_strikes_per_s(weather: Weather, speed_m_s: np.ndarray) -> np.ndarray:
    """How often drops strike a sensor's membrane hard enough to be heard.

    A membrane is upright, so that drops reach it with the wind and as the car drives into them; that a drop of a
    millimetre is loud enough is an estimate.

    Args:
        weather: rain and fog, whose droplets are not heard.
        speed_m_s: (R,) at which sensors move along their axes.

    Returns:
        (R,) mean strikes a second.
    """
    speed = np.maximum(speed_m_s, 0.0) + _WIND_M_S
    return speed * _MEMBRANE_M2 * drops_per_m3(weather.rain_mm_h, _LOUD_DROP_M) if weather.rain_mm_h else 0 * speed


@dataclass(frozen=True, eq=False)
class Heard:
    """Sound at one listener, by distance: half ways (K,), powers (K,), actors (K,), whether it is its own burst's."""

    distance_m: np.ndarray
    power: np.ndarray
    actor: np.ndarray
    own: np.ndarray

    def with_foreign(self, distance_m: float, power: float) -> Heard:
        """The same and a sound from elsewhere."""
        place = int(np.searchsorted(self.distance_m, distance_m))
        values = zip(vars(self).values(), (distance_m, power, STATIC, False), strict=True)
        return Heard(*(np.insert(array, place, value) for array, value in values))


@dataclass
class Report:
    """What a listener makes of what it hears.

    Attributes:
        state: whether there is an object.
        distance_m: half the way of the sound of each echo; NaN without.
        level_db: over the threshold.
        actor: that most of it came from; `STATIC` for none.
        own: whether most of it came of the burst that is listened for.
    """

    state: EchoState = EchoState.NO_OBJECT
    distance_m: list[float] = field(default_factory=lambda: [np.nan] * NUM_ECHOES)
    level_db: list[float] = field(default_factory=lambda: [np.nan] * NUM_ECHOES)
    actor: list[int] = field(default_factory=lambda: [STATIC] * NUM_ECHOES)
    own: list[bool] = field(default_factory=lambda: [False] * NUM_ECHOES)


def threshold(distance_m: np.ndarray) -> np.ndarray:
    """Power of the faintest sound heard, as a share of what was sent; higher near by, to keep the ground silent.

    Args:
        distance_m: half the way of the sound.

    Returns:
        As many powers.
    """
    return _FAINTEST * (1 + (_GROUND_M / np.maximum(distance_m, 1.0)) ** 4)


def detected(heard: Heard, deaf_m: float) -> Report:
    """Finds the first echoes that stand out.

    Args:
        heard: what arrives.
        deaf_m: half the way of the sound below which nothing can be measured.

    Returns:
        The report.
    """
    distance, power = heard.distance_m, heard.power
    total = np.concatenate(([0.0], np.cumsum(power)))  # (K + 1,)
    begin = np.searchsorted(distance, distance - PULSE_M)  # (K,) the first ray that still sounds
    before, after = total[:-1] - total[begin], total[1:] - total[begin]  # (K,) around each arrival
    report = Report()
    faintest = threshold(distance)
    loud, start = after >= faintest, 0
    for echo in range(NUM_ECHOES):
        found = np.nonzero(loud[start:])[0]
        if not len(found):
            break
        first = start + int(found[0])
        if distance[first] < deaf_m:
            report.state = EchoState.TOO_CLOSE
            break
        end = int(np.searchsorted(distance, distance[first] + PULSE_M))
        strongest = first + int(np.argmax(power[first:end]))
        report.state = EchoState.OBJECT
        report.distance_m[echo] = float(distance[first])
        report.level_db[echo] = float(10 * np.log10((total[end] - total[first]) / faintest[first]))
        report.actor[echo], report.own[echo] = int(heard.actor[strongest]), bool(heard.own[strongest])
        dip = np.minimum.accumulate(before[end:])
        loud[end:] &= after[end:] >= _RISE * dip
        start = end
    return report


def echoed(hits: Hits, directions: np.ndarray, ears: np.ndarray) -> np.ndarray:
    """How much surfaces send to listeners.

    A surface mirrors within a lobe around the mirrored direction, whose tilt is half the angle that sound is off it,
    and scatters by Lambert's law.

    Args:
        hits: (K,) what was hit.
        directions: (K, 3) unit, in which the sound came.
        ears: (R, K, 3) unit, from the surfaces to R listeners.

    Returns:
        (R, K) power per solid angle, as a share of what strikes the surface.
    """
    between = ears - directions  # (R, K, 3) halfway between the ways there and back
    between /= np.linalg.norm(between, axis=2, keepdims=True)
    tilt = np.arccos(np.clip(np.einsum("rki,ki->rk", between, hits.normal), -1, 1))  # (R, K)
    mirrored, lobe, scattered = _SURFACES[hits.material].T  # (K,) each
    facing = np.maximum(np.einsum("rki,ki->rk", ears, hits.normal), 0)  # (R, K)
    return mirrored * np.exp(-((tilt / lobe) ** 2)) / (4 * np.pi * lobe**2) + scattered * facing / np.pi


def _surface(name: str, pattern: Pattern) -> tuple[float, float, float]:
    """Share of the power that is mirrored, half width of the lobe in radians, and share that is scattered.

    At a wavelength of 7 mm sheet metal and render are mirrors, brick and asphalt are half rough, clothes swallow sound.
    """
    if name.startswith(("cloth", "skin", "hair", "leather", "hi_vis", "tarpaulin")):
        return 0.12, float(np.radians(30)), 0.12
    if pattern in (Pattern.LEAVES, Pattern.GRASS):
        return 0.03, float(np.radians(40)), 0.06
    if pattern in (Pattern.PLAIN, Pattern.WINDOWS, Pattern.NOISE, Pattern.CLADDING, Pattern.STRIPES):
        return 0.9, float(np.radians(14)), 0.02
    return 0.6, float(np.radians(20)), 0.06


_SURFACES = np.array([_surface(material.name, material.pattern) for material in MATERIALS])  # (materials, 3)
