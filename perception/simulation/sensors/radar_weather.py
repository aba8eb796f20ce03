"""Rain and fog as radars of 77 GHz have them: waves lose a little power on their way, and rain sends back some.

Fog is next to nothing: its droplets are a hundred times smaller than the wave. Rain costs 1 dB on the way to 45 m and
back at 25 mm/h. What it sends back comes from all over the first metres; a detector takes its level for that of the
noise and sets its threshold above, so that few peaks get through. Not modelled: water on the radome, which costs more
than the rain in the air, and wet surfaces.

Sources: Recommendation ITU-R P.838-3 (2005), equations 1 to 3 (rain); Recommendation ITU-R P.840-8 (2019), section 2
(fog by its water); Altshuler, A simple expression for estimating attenuation by fog at millimeter wavelengths, IEEE
Transactions on Antennas and Propagation 32(7), 1984 (water by visibility); Marshall and Palmer, Journal of Meteorology
5, 1948, with Mie's scattering by water of 10 deg C (backscatter of rain); Skolnik, Introduction to Radar Systems, 3rd
edition, sections 7.6 and 7.8 (rain as clutter, thresholds that follow it); Hasirlioglu and Riener, Introduction to rain
and fog attenuation on automotive surround sensors, ITSC 2017.
"""

from __future__ import annotations

import numpy as np

from perception.simulation.rays import STATIC
from perception.simulation.sensors.radar_echoes import Carrier, Echoes, Lobe, unit
from perception.simulation.weather import Weather

_RAIN_DB_KM, _RAIN_POWER = 1.130, 0.7125  # of P.838-3 at 77 GHz, between horizontal and vertical polarisation
_FOG_DB_KM = 3.15  # of P.840 at 77 GHz and 10 deg C, for a gramme of water in a cubic metre
_FOG_KM, _FOG_POWER = 0.024, 1.54  # grammes of water in a cubic metre from kilometres of visibility

_SECTION_PER_M, _SECTION_POWER = 1.23e-4, 0.70  # of rain of 1 mm/h: square metres in a cubic metre
_REACH_M = 15.0
_FALL_M_S, _GUSTS_M_S = 6.0, 1.0  # of drops: how fast they fall, and how much their speed along a beam differs
_THROUGH = 1e-4
"""Chance that a cell full of rain has a peak that the threshold lets through."""


def attenuation_db_m(weather: Weather) -> float:
    """What a wave of 77 GHz loses, one way.

    Args:
        weather: rain and fog.

    Returns:
        Decibels per metre; 0 in clear air.
    """
    if weather.kind == "rain":
        return 1e-3 * _RAIN_DB_KM * weather.rain_mm_h**_RAIN_POWER
    return 1e-3 * _FOG_DB_KM * (1e3 * _FOG_KM / weather.visibility_m) ** _FOG_POWER


def attenuated(echoes: Echoes, weather: Weather) -> Echoes:
    """Echoes as weak as the way through the weather, there and back, leaves them.

    Args:
        echoes: E echoes in clear air.
        weather: rain and fog.

    Returns:
        The same with other cross-sections: a radar does not know of the weather.
    """
    if weather.kind == "clear":
        return echoes
    loss_db = 2 * attenuation_db_m(weather) * echoes.range_m
    return echoes._replace(section_m2=echoes.section_m2 * 10 ** (-0.1 * loss_db))


def rain_echoes(
    weather: Weather, lobe: Lobe, carrier: Carrier, threshold_db: float, rng: np.random.Generator
) -> Echoes:
    """The peaks of the rain near a radar that it takes for objects.

    Args:
        weather: rain and fog; there are none without rain.
        lobe: where the radar looks, and its cells.
        carrier: the radar; drops move over ground.
        threshold_db: power over the noise above which it finds echoes in clear air.
        rng: draws them.

    Returns:
        The peaks; as strong as they are in this scan.
    """
    if weather.kind != "rain":
        none = np.zeros(0)
        return Echoes(none, none, none, none, none, np.zeros(0, np.int32), np.zeros(0, bool))
    distance_m = np.arange(1.0, _REACH_M, lobe.range_cell_m)  # (R,)
    power, cells = _rain_cells(weather, lobe, distance_m)  # (R,) each
    mean = _THROUGH * cells * power / (1 + power)
    count = int(rng.poisson(mean.sum()))
    row = rng.choice(len(mean), count, p=mean / mean.sum())
    range_m = distance_m[row] + lobe.range_cell_m * rng.random(count)
    sine = np.sin(np.radians(lobe.half_width_deg)) * rng.uniform(-1, 1, count)
    elevation = np.radians(lobe.half_power_deg[1]) * rng.random(count)
    line = unit(sine, elevation)  # (K, 3)
    rate = _GUSTS_M_S * rng.standard_normal(count) - _FALL_M_S * line[:, 2] - carrier.own_rate(line)
    nobody, straight = np.full(count, STATIC, np.int32), np.zeros(count, bool)
    peaks = Echoes(range_m, sine, elevation, rate, np.ones(count), nobody, straight)
    level_db = threshold_db + 10 * np.log10((1 + power[row]) * (1 + 0.1 * rng.exponential(size=count)))
    return peaks._replace(section_m2=10 ** (0.1 * (level_db - lobe.signal_db(peaks))))


def _rain_cells(weather: Weather, lobe: Lobe, distance_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By distance (R,): power of the rain in one cell over the noise, straight ahead; and how many cells it fills.

    Rain is spread over the lobe above the horizon and over the Doppler that gusts give it.
    """
    sine = np.maximum(lobe.sine_cell, lobe.across_cell_m / distance_m)  # (R,)
    across = 2 * np.sin(np.radians(lobe.half_width_deg)) / sine
    up_deg = min(lobe.elevation_cell_deg, lobe.half_power_deg[1])
    rates = max(4 * _GUSTS_M_S / lobe.doppler_cell_m_s, 1.0)
    volume_m3 = lobe.range_cell_m * distance_m**2 * sine * np.radians(up_deg)
    section_m2 = _SECTION_PER_M * weather.rain_mm_h**_SECTION_POWER * volume_m3 / rates
    power = section_m2 * (lobe.reach_m / distance_m) ** 4
    return power, across * rates * lobe.half_power_deg[1] / up_deg
