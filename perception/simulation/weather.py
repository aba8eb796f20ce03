"""Rain and fog of a scene: how hard it rains, and how far one sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

WeatherKind = Literal["clear", "rain", "fog"]
KINDS: tuple[WeatherKind, ...] = get_args(WeatherKind)

_RAIN_MM_H = (3.0, 25.0)
_FOG_M = (60.0, 250.0)
_LIMIT_OF_SIGHT = 3.0  # of the logarithm: at the visibility 5 % of a black object's contrast is left


@dataclass(frozen=True)
class Weather:
    """The weather of a scene, the same all through it.

    Attributes:
        kind: "clear", "rain" or "fog".
        rain_mm_h: how hard it rains.
        visibility_m: the meteorological optical range, at which 5 % of contrast is left.
    """

    kind: WeatherKind = "clear"
    rain_mm_h: float = 0.0
    visibility_m: float = float("inf")

    @property
    def extinction_per_m(self) -> float:
        """Share of light that drops take out of a beam per metre, one way (Koschmieder's law)."""
        return _LIMIT_OF_SIGHT / self.visibility_m


CLEAR = Weather()


def draw_weather(seed: int, kind: WeatherKind) -> Weather:
    """The weather of a scene, drawn at random.

    Args:
        seed: of the scene.
        kind: "clear", "rain" or "fog".

    Returns:
        Clear weather; 3 to 25 mm of rain an hour; or fog in which one sees 60 to 250 m.

    Raises:
        ValueError: another kind.

    Source:
        Light lost in rain: Recommendation ITU-R P.1814 (2007), 1.076 R^0.67 dB/km for R mm/h.
    """
    if kind not in KINDS:
        raise ValueError(f"draw_weather: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    share = np.random.default_rng([seed, 32]).uniform()
    if kind == "rain":
        rain_mm_h = _between(_RAIN_MM_H, share)
        extinction_per_m = 1.076 * rain_mm_h**0.67 * np.log(10) / 10 / 1000
        return Weather("rain", rain_mm_h, float(_LIMIT_OF_SIGHT / extinction_per_m))
    return Weather("fog", 0.0, _between(_FOG_M, share)) if kind == "fog" else CLEAR


def _between(limits: tuple[float, float], share: float) -> float:
    """A number evenly drawn on a scale of logarithms."""
    low, high = limits
    return float(low * (high / low) ** share)
