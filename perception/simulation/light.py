"""Sun, sky and haze of a scene, by day, at dusk, at night and with the sun ahead, in any weather.

Sources: Moon and Spencer 1942, "Illumination from a non-uniform sky" (an overcast sky is grey, and brightest overhead);
Koschmieder 1924, "Theorie der horizontalen Sichtweite" (haze hides by the exponential of the distance, and shows the
colour of the horizon instead).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numba import njit

from perception.simulation.textures import smooth_noise
from perception.simulation.weather import CLEAR, Weather

TimeOfDay = Literal["day", "dusk", "night", "low_sun"]
TIMES_OF_DAY: tuple[TimeOfDay, ...] = get_args(TimeOfDay)

_OVERCAST = 0.35
"""Share of the light of a clear sky with sun that comes through rain clouds."""

_DARK_LUX = 500.0
_LOW_SUN_DEG = (4.0, 10.0)
_LOW_SUN_ASIDE_DEG = 15.0

_FOG_DEPTH_M = 60.0
"""How high fog reaches; the sun shines through that much of it."""


class Light(NamedTuple):
    """Where light comes from; 1 is white paper in full sun.

    Attributes:
        to_sun: (3,) float32 unit vector, world axes.
        sun: (3,) float32 RGB of what faces the sun.
        zenith: (3,) float32 RGB of the sky overhead.
        horizon: (3,) float32 RGB of the sky low down.
        glow: (3,) float32 RGB of the sky beside the sun.
        clouds: share of the sky that is covered, 0..1.
        haze_per_m: share of light lost per metre.
        cloud_salt: which clouds.
        exposure_s: how long a camera's shutter is open.
        gain: how far a camera may brighten the picture.
        brightness: linear brightness that it aims at.
        lamps: how much of their light lamps and lit windows give.
        airlight: brightness of endless haze, as a share of the horizon's.
        veil: optical thickness of the fog overhead, which hides clouds and sun.
        white_lux: how much light falls on white paper that is 1.
        grain: factor on the noise of a camera.
        glare: how much of what physics wants of the veil of a sun in the picture there is; 0 where it is high.
    """

    to_sun: np.ndarray
    sun: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    glow: np.ndarray
    clouds: float
    haze_per_m: float
    cloud_salt: int
    exposure_s: float
    gain: float
    brightness: float
    lamps: float
    airlight: float = 0.85
    veil: float = 0.0
    white_lux: float = 1e5
    grain: float = 1.0
    glare: float = 0.0

    @property
    def dark(self) -> bool:
        """Whether lamps light the world, and no sun."""
        return self.white_lux < _DARK_LUX


def draw_light(
    seed: int, time_of_day: TimeOfDay | None = None, weather: Weather = CLEAR, heading_rad: float = 0.0
) -> Light:
    """The light of a scene, drawn at random.

    Args:
        seed: of the scene.
        time_of_day: "day", "dusk", "night" or "low_sun"; drawn where None, three days to one dusk.
        weather: rain and fog, which hide the sun and grey the sky.
        heading_rad: where the ego vehicle goes, world; the low sun stands ahead of it.

    Returns:
        The light.

    Raises:
        ValueError: another time of day.
    """
    if time_of_day is not None and time_of_day not in TIMES_OF_DAY:
        known = ", ".join(repr(it) for it in TIMES_OF_DAY)
        raise ValueError(f"draw_light: time_of_day must be {known} or None, got {time_of_day!r}")
    rng = np.random.default_rng([seed, 31])
    dusk = rng.random() < 0.25
    time_of_day = time_of_day or ("dusk" if dusk else "day")
    azimuth, clouds, haze, salt = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.75), rng.uniform(), rng.integers(1000)
    elevation = rng.uniform(0.06, 0.16) if time_of_day == "dusk" else rng.uniform(0.5, 1.1)
    if time_of_day == "low_sun":
        ahead = np.random.default_rng([seed, 33])
        azimuth = heading_rad + np.radians(ahead.uniform(-_LOW_SUN_ASIDE_DEG, _LOW_SUN_ASIDE_DEG))
        elevation, clouds = np.radians(ahead.uniform(*_LOW_SUN_DEG)), 0.5 * clouds
    to_sun = (np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation))
    light = {"day": _day, "dusk": _dusk, "night": _night, "low_sun": _low_sun}[time_of_day](clouds, haze)
    light = light._replace(to_sun=_float32(to_sun), cloud_salt=int(salt))
    return {"clear": _unchanged, "rain": _in_rain, "fog": _in_fog}[weather.kind](light, weather)


def _dusk(clouds: float, haze: float) -> Light:
    return Light(
        to_sun=_UP,
        sun=_float32((0.15, 0.075, 0.03)),
        zenith=_float32((0.024, 0.034, 0.062)),
        horizon=_float32((0.15, 0.105, 0.085)),
        glow=_float32((0.45, 0.20, 0.07)),
        clouds=clouds,
        haze_per_m=0.0012 + 0.0014 * haze,
        cloud_salt=0,
        exposure_s=0.012,
        gain=9.0,
        brightness=0.12,
        lamps=1.0,
    )


def _day(clouds: float, haze: float) -> Light:
    cover = clouds**2  # thick cloud takes from the sun what it gives to the sky
    return Light(
        to_sun=_UP,
        sun=_float32((0.90, 0.83, 0.72)) * np.float32(1 - 0.55 * cover),
        zenith=_float32(np.array([0.13, 0.22, 0.42]) * (1 - cover) + 0.38 * cover),
        horizon=_float32(np.array([0.52, 0.58, 0.66]) * (1 + 0.1 * cover)),
        glow=_float32((0.9, 0.85, 0.7)),
        clouds=clouds,
        haze_per_m=0.0006 + 0.0012 * haze,
        cloud_salt=0,
        exposure_s=0.003,
        gain=2.2,
        brightness=0.19,
        lamps=0.4,
    )


def _low_sun(clouds: float, haze: float) -> Light:
    """A sun a few hand's breadths over the horizon: less than half of its light is left, and more of the red."""
    return Light(
        to_sun=_UP,
        sun=_float32((0.66, 0.47, 0.26)),
        zenith=_float32((0.10, 0.16, 0.29)),
        horizon=_float32((0.46, 0.40, 0.34)),
        glow=_float32((2.2, 1.65, 0.95)),
        clouds=clouds,
        haze_per_m=0.0012 + 0.0016 * haze,
        cloud_salt=0,
        exposure_s=0.004,
        gain=3.0,
        brightness=0.17,
        lamps=0.4,
        glare=1.0,
    )


def _night(clouds: float, haze: float) -> Light:
    """The sky over a city, in which a moon stands; its own light is lost in that of the lamps."""
    lit = 0.6 + 0.8 * clouds  # clouds throw back the light of the city
    return Light(
        to_sun=_UP,
        sun=_float32((0.0, 0.0, 0.0)),
        zenith=_float32(np.array([0.0030, 0.0036, 0.0056]) * lit),
        horizon=_float32(np.array([0.0170, 0.0130, 0.0105]) * lit),
        glow=_float32((0.020, 0.020, 0.019)),
        clouds=clouds,
        haze_per_m=0.0008 + 0.0012 * haze,
        cloud_salt=0,
        exposure_s=0.020,
        gain=6.0,
        brightness=0.085,
        lamps=1.0,
        white_lux=60.0,
        grain=1.9,
    )


def _unchanged(light: Light, weather: Weather) -> Light:
    return light


def _overall(light: Light) -> np.ndarray:
    """(3,) what falls on level ground from sun and sky together."""
    return light.sun * max(float(light.to_sun[2]), 0.1) + (light.zenith + light.horizon) / 2


def _in_rain(light: Light, weather: Weather) -> Light:
    """Under rain clouds: no sun, an even grey sky that is brightest overhead."""
    total = _overall(light)  # (3,)
    grey = total.mean() * np.array([0.96, 1.0, 1.05]) * _OVERCAST
    if light.dark:
        grey = 0.9 * total  # clouds lit by the city
    return light._replace(
        sun=_float32(0.02 * light.sun),
        zenith=_float32(1.12 * grey),
        horizon=_float32(0.88 * grey),
        glow=_float32((0, 0, 0)),
        clouds=0.30 + 0.25 * light.clouds,
        haze_per_m=light.haze_per_m + weather.extinction_per_m,
        exposure_s=max(light.exposure_s, 0.006),
        gain=light.gain if light.dark else light.gain / _OVERCAST,
        lamps=max(light.lamps, 0.6),
        airlight=1.0,
        grain=light.grain if light.dark else 1.5,
        glare=0.0,
    )


def _in_fog(light: Light, weather: Weather) -> Light:
    """Within fog: its colour all round, a little lighter above; the sun is a disc, or not seen at all."""
    total = _overall(light)  # (3,)
    grey = 0.55 * (0.25 * total + 0.75 * total.mean())
    if light.dark:
        grey = 2.0 * total  # it throws the light of the street back
    thickness = weather.extinction_per_m * _FOG_DEPTH_M
    through = float(np.exp(-thickness / max(float(light.to_sun[2]), 0.05)))
    return light._replace(
        sun=_float32(light.sun * through),
        zenith=_float32(1.2 * grey),
        horizon=_float32(grey),
        haze_per_m=light.haze_per_m + weather.extinction_per_m,
        gain=light.gain if light.dark else 1.5 * light.gain,
        brightness=light.brightness if light.dark else 1.5 * light.brightness,
        lamps=max(light.lamps, 0.6),
        airlight=1.0,
        veil=thickness,
        grain=light.grain if light.dark else 1.3,
        glare=light.glare * through,
    )


def _float32(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)


_UP = _float32((0, 0, 1))


@njit(cache=True, error_model="numpy")
def sky_colour(x: float, y: float, z: float, light: Light, rgb: np.ndarray) -> None:
    """Fills `rgb` (3,) with the sky in a direction; below the horizon it is the haze there."""
    up = max(z, 0.0)
    low = (1 - up) ** 4
    near = max(x * light.to_sun[0] + y * light.to_sun[1] + z * light.to_sun[2], 0.0)
    halo = 0.25 * near**6 + 0.6 * near**60 + 6.0 * near**2500
    cover = 0.0
    if up > 0.02:
        u, v = x / (up + 0.12), y / (up + 0.12)
        billows = 0.6 * smooth_noise(1.3 * u, 1.3 * v, light.cloud_salt)
        billows += 0.3 * smooth_noise(3.1 * u, 3.1 * v, light.cloud_salt + 1)
        billows += 0.15 * smooth_noise(7 * u, 7 * v, light.cloud_salt + 2)
        cover = min(max((billows + 1.3 * light.clouds - 0.6) * 1.8, 0.0), 1.0) * min((up - 0.02) * 8, 1.0)
    if light.veil > 0:
        seen = np.exp(-light.veil / max(z, 0.02))
        cover *= seen
        halo *= seen
    for i in range(3):
        clear = light.zenith[i] + (light.horizon[i] - light.zenith[i]) * low
        cloud = 0.75 * light.horizon[i] + 0.35 * light.sun[i]
        rgb[i] = clear + 0.85 * cover * (cloud - clear) + halo * light.glow[i] * (1 - 0.6 * cover)
