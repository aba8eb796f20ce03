"""What happens to light between a rendered picture and the sensor: rain, drops on the glass, glare, glow of lamps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perception.simulation.developing import expose
from perception.simulation.glare import glow, veil
from perception.simulation.lamp_light import lit_drops
from perception.simulation.lens_drops import lens_drops, look_through
from perception.simulation.light import Light
from perception.simulation.rain import Drops, draw_drops, paint_streaks, streaks
from perception.simulation.rendering import Instant, View
from perception.simulation.sensors.base import Surroundings
from perception.simulation.weather import Weather

_MOMENT_US = 5000
_SEEN_THROUGH = 0.94
"""Share of the light around that a drop sends on."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A camera at one time.

    Attributes:
        channel: of the camera.
        seed: of the scene.
        t_us: time.
        axis: (3,) unit vector along which it looks, world.
        widest: cosine of the angle from the axis beyond which nothing shines into the lens.
        velocity_m_s: (3,) over ground.
        project: gives pixels (N, 2) of places (N, 3) relative to the camera, world axes; NaN where it sees nothing.
        rng: source of the rain.
    """

    channel: str
    seed: int
    t_us: int
    axis: np.ndarray
    widest: float
    velocity_m_s: np.ndarray
    project: Callable[[np.ndarray], np.ndarray]
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        channel: str,
        surroundings: Surroundings,
        sensor2ego: np.ndarray,
        t_us: int,
        widest_rad: float,
        to_pixels: Callable[[np.ndarray], np.ndarray],
    ) -> Shot:
        """A mounted camera at a time.

        Args:
            channel: its name.
            surroundings: what it sees.
            sensor2ego: (4, 4) mounting pose.
            t_us: time.
            widest_rad: angle from its axis beyond which nothing shines into the lens.
            to_pixels: gives pixels (N, 2) of places (N, 3) in the camera frame.

        Returns:
            The camera.
        """
        pose = surroundings.motion.ego2global(t_us) @ sensor2ego
        before, after = (surroundings.motion.ego2global(t_us + dt) @ sensor2ego for dt in (-_MOMENT_US, _MOMENT_US))
        return cls(
            channel=channel,
            seed=surroundings.seed,
            t_us=t_us,
            axis=pose[:3, 2],
            widest=float(np.cos(widest_rad)),
            velocity_m_s=(after[:3, 3] - before[:3, 3]) / (2e-6 * _MOMENT_US),
            project=lambda places: to_pixels(places @ pose[:3, :3]),
            rng=surroundings.rng(f"{channel}/rain", t_us),
        )


def plain(light: Light, weather: Weather) -> bool:
    """Whether nothing happens to light on its way."""
    return weather.kind != "rain" and not light.dark and light.glare == 0


def through_rain_and_lens(
    picture: np.ndarray, instant: Instant, view: View, shot: Shot, weather: Weather, inside: np.ndarray | None = None
) -> np.ndarray:
    """What reaches the sensor of a rendered picture.

    Args:
        picture: (H, W, 3) float32 light, which stays as it is.
        instant: the world.
        view: the rays through the picture.
        shot: the camera.
        weather: of the scene.
        inside: (H * W,) bool, pixels that the exposure goes by; None: all.

    Returns:
        (H, W, 3) float32 light.
    """
    light, size = instant.light, (picture.shape[0], picture.shape[1])
    result = picture.copy()
    if weather.kind == "rain":
        wind = np.random.default_rng([shot.seed, 37]).normal(0, 1.2, 3) * [1, 1, 0]
        directions = view.directions.reshape(*size, 3)
        drops = draw_drops(shot.rng, weather.rain_mm_h, directions, view.pixel_rad, wind)
        lines = streaks(drops, shot.velocity_m_s, light.exposure_s, shot.project, view.pixel_rad)
        paint_streaks(result, lines, _shown(drops, instant))
        result = look_through(result, lens_drops(shot.seed, shot.channel, shot.t_us, weather.rain_mm_h, size))
    facing = float(shot.axis @ light.to_sun)
    if light.glare > 0 and facing > shot.widest and not _hidden(instant, view.eye_m):
        fading = min((facing - shot.widest) / (0.3 * (1 - shot.widest)), 1.0)
        sun = light.sun * np.float32(light.glare * fading)
        result += veil(view.directions, light.to_sun, sun).reshape(*size, 3)
    if light.dark:
        seen = result if inside is None else result.reshape(1, -1, 3)[:, inside]
        result += glow(result, expose(seen, light), view.pixel_rad, weather.extinction_per_m)
    return result


def _hidden(instant: Instant, eye_m: np.ndarray) -> bool:
    """Whether something stands between a camera and the sun."""
    endless = np.full(1, np.inf, np.float32)
    return bool(instant.rays.occluded(eye_m, instant.light.to_sun[None], endless, instant.actors)[0])


def _shown(drops: Drops, instant: Instant) -> np.ndarray:
    """(N, 3) float32: the light that each drop shows: the sky all round, and the lamps that shine on it."""
    light = instant.light
    around = np.float32(_SEEN_THROUGH) * (light.zenith + light.horizon) / 2  # (3,)
    shown = np.tile(around, (len(drops.diameter_m), 1))
    if light.dark and instant.lamps is not None:
        field = instant.lamps
        lux = lit_drops(drops.position_m.astype(np.float32), field.beams, field.cells)  # (N, 3)
        shown += lux * np.float32(np.pi / field.white_lux)
    return shown
