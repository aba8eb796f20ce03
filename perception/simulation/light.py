"""Sun, sky and haze of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numba import njit

from perception.simulation.textures import smooth_noise

TimeOfDay = Literal["day", "dusk"]


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


def draw_light(seed: int, time_of_day: TimeOfDay | None = None) -> Light:
    """The light of a scene, drawn at random.

    Args:
        seed: of the scene.
        time_of_day: "day" or "dusk"; drawn where None, three days to one dusk.

    Returns:
        The light.

    Raises:
        ValueError: another time of day.
    """
    if time_of_day not in ("day", "dusk", None):
        raise ValueError(f"draw_light: time_of_day must be 'day', 'dusk' or None, got {time_of_day!r}")
    rng = np.random.default_rng([seed, 31])
    dusk = rng.random() < 0.25
    dusk = dusk if time_of_day is None else time_of_day == "dusk"
    azimuth, clouds, haze, salt = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.75), rng.uniform(), rng.integers(1000)
    elevation = rng.uniform(0.06, 0.16) if dusk else rng.uniform(0.5, 1.1)
    to_sun = (np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation))
    if dusk:
        return Light(
            to_sun=_float32(to_sun),
            sun=_float32((0.15, 0.075, 0.03)),
            zenith=_float32((0.024, 0.034, 0.062)),
            horizon=_float32((0.15, 0.105, 0.085)),
            glow=_float32((0.45, 0.20, 0.07)),
            clouds=clouds,
            haze_per_m=0.0012 + 0.0014 * haze,
            cloud_salt=int(salt),
            exposure_s=0.012,
            gain=9.0,
            brightness=0.12,
            lamps=1.0,
        )
    cover = clouds**2  # thick cloud takes from the sun what it gives to the sky
    return Light(
        to_sun=_float32(to_sun),
        sun=_float32((0.90, 0.83, 0.72)) * np.float32(1 - 0.55 * cover),
        zenith=_float32(np.array([0.13, 0.22, 0.42]) * (1 - cover) + 0.38 * cover),
        horizon=_float32(np.array([0.52, 0.58, 0.66]) * (1 + 0.1 * cover)),
        glow=_float32((0.9, 0.85, 0.7)),
        clouds=clouds,
        haze_per_m=0.0006 + 0.0012 * haze,
        cloud_salt=int(salt),
        exposure_s=0.003,
        gain=2.2,
        brightness=0.19,
        lamps=0.4,
    )


def _float32(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)


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
    for i in range(3):
        clear = light.zenith[i] + (light.horizon[i] - light.zenith[i]) * low
        cloud = 0.75 * light.horizon[i] + 0.35 * light.sun[i]
        rgb[i] = clear + 0.85 * cover * (cloud - clear) + halo * light.glow[i] * (1 - 0.6 * cover)
