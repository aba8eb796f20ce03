"""Rain and fog: their ranges, and the physics that joins them to sight."""

from __future__ import annotations

import numpy as np
import pytest

from perception.simulation.weather import CLEAR, KINDS, Weather, draw_weather


def test_clear_air_takes_no_light():
    assert CLEAR.extinction_per_m == 0
    assert draw_weather(7, "clear") == CLEAR


def test_five_percent_of_contrast_are_left_at_the_visibility():
    weather = draw_weather(3, "fog")
    assert np.exp(-weather.extinction_per_m * weather.visibility_m) == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_weather(kind):
    drawn = [draw_weather(seed, kind) for seed in range(40)]
    assert drawn == [draw_weather(seed, kind) for seed in range(40)]
    assert {it.kind for it in drawn} == {kind}
    assert len(set(drawn)) == (1 if kind == "clear" else 40)


def test_rain_of_ten_millimetres_an_hour_takes_five_decibels_a_kilometre():
    drawn = [draw_weather(seed, "rain") for seed in range(300)]
    nearest = min(drawn, key=lambda it: abs(it.rain_mm_h - 10))
    decibels = 10 * np.log10(np.exp(nearest.extinction_per_m * 1000))
    assert decibels == pytest.approx(1.076 * 10**0.67, rel=0.02)  # 5.03, by ITU-R P.1814
    assert {round(np.log(it.rain_mm_h)) for it in drawn} == {1, 2, 3}
    harder = sorted(drawn, key=lambda it: it.rain_mm_h)
    assert np.all(np.diff([it.visibility_m for it in harder]) <= 0)


def test_fog_hides_what_is_farther_than_a_quarter_of_a_kilometre():
    seen = [draw_weather(seed, "fog").visibility_m for seed in range(100)]
    assert min(seen) >= 60
    assert max(seen) <= 250


def test_unknown_weather_is_named():
    with pytest.raises(ValueError, match="draw_weather: kind must be one of clear, rain, fog, got 'snow'"):
        draw_weather(0, "snow")  # type: ignore[arg-type]
    assert Weather("rain", 5.0, 1000.0).extinction_per_m == pytest.approx(0.003)
