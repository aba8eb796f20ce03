"""Which scenes a set has: their official names, splits, towns and seeds, and what is recorded of them.

The devkit knows one map per location, and a split's towns must be no other's. So each split has locations of its own,
each with several towns side by side on its map, the districts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from perception.formats.splits import split_scenes
from perception.simulation.scenarios import Traits
from perception.simulation.settings import Settings
from perception.simulation.weather import WeatherKind

if TYPE_CHECKING:
    from perception.simulation.ego import Drive
    from perception.simulation.light import TimeOfDay
    from perception.simulation.town.town import Landscape

GENERATOR = 2
"""Version of the generator; another version makes other bytes from the same seeds."""

SPLITS = ("train", "val", "test")
LIGHTS: tuple[TimeOfDay, ...] = ("day", "dusk", "night", "low_sun")
DRIVES: tuple[Drive, ...] = ("any", "street", "junction", "parking")
LANDSCAPES: tuple[Landscape, ...] = ("town", "rural")
MINI, TRAINVAL, TEST = "v1.0-mini", "v1.0-trainval", "v1.0-test"

LOCATIONS = {
    "train": ("boston-seaport", "singapore-hollandvillage"),
    "val": ("singapore-queenstown",),
    "test": ("singapore-onenorth",),
}
"""Where the scenes of a split take place if nothing else is said; no location serves two splits."""

MAX_MINI = 10
"""Most scenes of `v1.0-mini`, which has no more names."""

_NUM_TOWNS = {MINI: {"train": 4, "val": 2, "test": 1}, TRAINVAL: {"train": 12, "val": 4, "test": 4}}
_NUM_RURAL = {MINI: {"train": 2, "val": 1, "test": 1}, TRAINVAL: {"train": 2, "val": 1, "test": 1}}
_FIRST_RURAL = {MINI: {"train": 2, "val": 2, "test": 1}, TRAINVAL: {"train": 6, "val": 4, "test": 3}}
"""By split, the first district of a location that is rural in sets that have rural scenes."""

_FIRST_TRAITS = {"train": 0, "val": 5, "test": 10}
"""By split, where in the turn of traits its scenes begin, so that small sets have different ones in each."""

# `NuScenesCanBus` has no data for these, or breaks on them.
_WITHOUT_CAN_BUS = {*range(161, 169), *range(170, 177), *range(309, 315), 419, 499, 515, 517}


@dataclass(frozen=True)
class SceneOrder:
    """A scene to be made; what it looks like depends on this and the settings alone.

    Attributes:
        name: official name, such as `scene-0061`.
        split: "train", "val" or "test".
        seed: of traffic, light and noise.
        location: nuScenes map name.
        district: which of the location's towns, by its place on the map.
        town: seed of that town.
        light: "day", "dusk", "night", or "low_sun" ahead of the ego.
        weather: "clear", "rain" or "fog".
        drive: "any", or what the ego does: "street", "junction", "parking".
        landscape: "town" or "rural"; that of the place.
    """

    name: str
    split: str
    seed: int
    location: str
    district: int
    town: int
    light: TimeOfDay
    weather: WeatherKind = "clear"
    drive: Drive = "any"
    landscape: Landscape = "town"

    @property
    def traits(self) -> tuple[str, ...]:
        """What sets the scene apart from a clear drive by day through a town, in words."""
        usual = ("any", "town", "day", "clear")
        words = (self.drive, self.landscape, self.light, self.weather)
        return tuple(word for word, plain in zip(words, usual, strict=True) if word != plain)

    @property
    def place(self) -> tuple[str, int]:
        """Location and district: scenes of one place have one town."""
        return self.location, self.district


@dataclass(frozen=True)
class Manifest:
    """A set to be made.

    Attributes:
        version: `v1.0-mini` or `v1.0-trainval`, in which the official names stand.
        settings: what is recorded.
        scenes: in the order of the tables.
    """

    version: str
    settings: Settings
    scenes: tuple[SceneOrder, ...]

    @property
    def versions(self) -> dict[str, tuple[SceneOrder, ...]]:
        """The scenes of each version that is written; those for testing have one of their own, as the devkit asks."""
        names = dict.fromkeys(self.version_of(order) for order in self.scenes)
        return {name: tuple(it for it in self.scenes if self.version_of(it) == name) for name in names}

    def version_of(self, order: SceneOrder) -> str:
        """The version that a scene is written in."""
        return TEST if order.split == "test" else self.version


def plan_manifest(num_scenes: int, seed: int, settings: Settings, traits: Sequence[Traits] = ({},)) -> Manifest:
    """The manifest of a set by its size alone.

    Args:
        num_scenes: how many scenes; of up to ten, one is for validation and from four on two, of more 15 in 85.
        seed: of everything. A scene of the same name and seed is the same in sets of other sizes of one version.
        settings: what is recorded.
        traits: of the scenes, in turn within each split.

    Returns:
        The manifest.

    Raises:
        ValueError: no scene, more than there are names for, or a negative seed.
    """
    if num_scenes < 1:
        raise ValueError(f"plan_manifest: num_scenes must be at least 1, got {num_scenes}")
    version = MINI if num_scenes <= MAX_MINI else TRAINVAL
    names = official_names(version)
    most = len(names["train"]) + len(names["val"])
    if num_scenes > most:
        raise ValueError(
            f"plan_manifest: num_scenes must be at most {most}, the official names there are, got {num_scenes}"
        )
    if version == MINI:
        num_val = min(num_scenes // 2, len(names["val"]))
    else:
        num_val = max(round(num_scenes * 150 / 850), num_scenes - len(names["train"]))
    return _planned(version, {"train": num_scenes - num_val, "val": num_val}, seed, settings, traits)


def plan_splits(
    num_scenes: Mapping[str, int], seed: int, settings: Settings, traits: Sequence[Traits] = ({},)
) -> Manifest:
    """The manifest of a set with the official names of `v1.0-trainval` and `v1.0-test`, whatever its size.

    Args:
        num_scenes: scenes by split.
        seed: of everything.
        settings: what is recorded.
        traits: of the scenes, in turn within each split.

    Returns:
        The manifest.

    Raises:
        ValueError: no scene, an unknown split, more scenes than there are names for, or a negative seed.
    """
    names = official_names(TRAINVAL)
    for split, count in num_scenes.items():
        if split not in SPLITS:
            raise ValueError(f"plan_splits: num_scenes must be by split, {', '.join(SPLITS)}, got {split!r}")
        if not 0 <= count <= len(names[split]):
            raise ValueError(
                f"plan_splits: num_scenes of {split} must be in 0..{len(names[split])}, the official names there are, "
                f"got {count}"
            )
    if not sum(num_scenes.values()):
        raise ValueError("plan_splits: num_scenes must be at least 1, got none")
    return _planned(TRAINVAL, num_scenes, seed, settings, traits)


def _planned(
    version: str, num_scenes: Mapping[str, int], seed: int, settings: Settings, traits: Sequence[Traits]
) -> Manifest:
    if seed < 0:
        raise ValueError(f"a manifest's seed must be at least 0, got {seed}")
    wishes = [
        {"split": split, **traits[(number + begin) % len(traits)]}
        for split, begin in _FIRST_TRAITS.items()
        for number in range(num_scenes.get(split, 0))
    ]
    rural = any(it.get("landscape") == "rural" for it in traits)
    return Manifest(version, settings, tuple(ordered_scenes(version, wishes, seed, rural)))


def official_names(version: str) -> dict[str, list[str]]:
    """The official names that a set may use.

    Args:
        version: `MINI`, or `TRAINVAL` with the names of `TEST`.

    Returns:
        Names by split, in the order of use; none that the CAN-bus reader refuses.
    """
    official = {"train": "mini_train", "val": "mini_val"} if version == MINI else {split: split for split in SPLITS}
    names = {split: [name for name in split_scenes(it) if _has_can_bus(name)] for split, it in official.items()}
    return {"test": [], **names}


def _has_can_bus(name: str) -> bool:
    return int(name.removeprefix("scene-")) not in _WITHOUT_CAN_BUS


def _place(version: str, split: str, landscape: str, number: int, rural: bool) -> tuple[str, int]:
    """Location and district of a split's scene of a landscape: every place comes once before any comes again.

    In sets with `rural` scenes towns leave room for them on the map.
    """
    locations, first = LOCATIONS[split], _FIRST_RURAL[version][split]
    most, begin = _NUM_TOWNS[version][split], 0
    if landscape == "rural":
        most, begin = _NUM_RURAL[version][split], first
    elif rural:
        most = min(most, first * len(locations))
    turn = number % most
    return locations[turn % len(locations)], begin + turn // len(locations)


def _light(version: str, split: str, number: int) -> TimeOfDay:
    """Every fourth scene is at dusk, in another town each time."""
    return "dusk" if (number + number // _NUM_TOWNS[version][split]) % 4 == 3 else "day"


def _town_seed(seed: int, location: str, district: int) -> int:
    every = [location for locations in LOCATIONS.values() for location in locations]
    return 100 * seed + 20 * every.index(location) + district


def ordered_scenes(
    version: str, wishes: Sequence[Mapping[str, Any]], seed: int, rural: bool = False
) -> Iterable[SceneOrder]:
    """Scenes as wished; what is not said is chosen: free names in order, places in turn, seeds by name.

    Args:
        version: `MINI` or `TRAINVAL`.
        wishes: attributes of each scene; at least its split, and a district where it has a location.
        seed: of what is chosen.
        rural: whether towns leave room on the map for rural scenes even if none is wished for.

    Yields:
        The scenes, in the order of the wishes.

    Raises:
        ValueError: more scenes in a split than there are names for.
    """
    taken = {wish.get("name") for wish in wishes}
    free = {split: [name for name in names if name not in taken] for split, names in official_names(version).items()}
    rural = rural or any(wish.get("landscape") == "rural" for wish in wishes)
    numbers, placed = dict.fromkeys(SPLITS, 0), dict.fromkeys(product(SPLITS, LANDSCAPES), 0)
    for wish in wishes:
        split, landscape = wish["split"], wish.get("landscape", "town")
        if "name" not in wish and not free[split]:
            raise ValueError(f"the scenes of split {split} in {version} must be no more than the official names")
        name = wish["name"] if "name" in wish else free[split].pop(0)
        location, district = _place(version, split, landscape, placed[split, landscape], rural)
        if "location" in wish:
            location, district = wish["location"], wish["district"]
        yield SceneOrder(
            name=name,
            split=split,
            seed=wish["seed"] if "seed" in wish else 10_000 * seed + int(name.removeprefix("scene-")),
            location=location,
            district=district,
            town=wish["town"] if "town" in wish else _town_seed(seed, location, district),
            light=wish["light"] if "light" in wish else _light(version, split, numbers[split]),
            weather=wish.get("weather", "clear"),
            drive=wish.get("drive", "any"),
            landscape=landscape,
        )
        numbers[split] += 1
        placed[split, landscape] += 1
