"""Scenarios by name: how the ego drives, through which land, in what light and weather."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Traits = Mapping[str, str]
"""What is laid down of a scene: values of `SceneOrder`'s drive, landscape, light and weather; all else is chosen."""

_TRAITS: dict[str, Traits] = {
    "street": {"drive": "street"},
    "junction": {"drive": "junction"},
    "parking": {"drive": "parking"},
    "rural": {"landscape": "rural"},
    "night": {"light": "night"},
    "low_sun": {"light": "low_sun"},
    "rain": {"weather": "rain"},
    "fog": {"weather": "fog"},
}

_MIX = (
    "street",
    "junction",
    "parking",
    "rural",
    "street night",
    "junction rain",
    "parking night",
    "rural fog",
    "junction low_sun",
    "street fog",
    "parking rain",
    "rural night",
    "street low_sun",
    "junction night rain",
    "parking fog",
    "rural rain",
)
"""Every drive by day, at night, in rain and in fog, in an order in which short sets have some of each."""

SCENARIOS = (*_TRAITS, "mix")
"""What a scenario may be called; `mix` has every drive in every light and weather."""


def scenario(names: Sequence[str]) -> tuple[Traits, ...]:
    """What the scenes of a set are laid down to be.

    Args:
        names: of `SCENARIOS`; several are taken together, such as parking and night, and `mix` stands alone.

    Returns:
        Traits of scenes, to be used in turn.

    Raises:
        ValueError: an unknown name, or names that contradict one another.
    """
    for name in names:
        if name not in SCENARIOS:
            raise ValueError(f"scenario: names must be of {', '.join(SCENARIOS)}, got {name!r}")
    if "mix" in names:
        if len(names) > 1:
            raise ValueError(f"scenario: mix must stand alone, got {', '.join(names)}")
        return tuple(_together(names.split()) for names in _MIX)
    return (_together(names),)


def _together(names: Sequence[str]) -> Traits:
    traits: dict[str, str] = {}
    for name in names:
        for key, value in _TRAITS[name].items():
            if traits.setdefault(key, value) != value:
                raise ValueError(f"scenario: names must not contradict one another, got {traits[key]} and {value}")
    return traits
