"""Which scenes a set has: their official names, splits, towns and seeds, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from perception.formats.splits import split_scenes

GENERATOR = 1
"""Version of the generator; another version makes other bytes from the same seeds."""

SPLITS = ("train", "val")
LOCATIONS = {
    "train": ("singapore-onenorth", "boston-seaport", "singapore-hollandvillage"),
    "val": ("singapore-queenstown",),
}
"""A location has one map and so one town, which belongs to one split; both splits have traffic on the left."""

MAX_SWEEPS = 10
_MAX_MINI = 10
_MAX_SECONDS = 60.0

# `NuScenesCanBus` has no data for these, or breaks on them.
_WITHOUT_CAN_BUS = {*range(161, 169), *range(170, 177), *range(309, 315), 419, 499, 515, 517}


@dataclass(frozen=True)
class Settings:
    """What is recorded of each scene.

    Attributes:
        seconds: length of a scene; it has two keyframes a second.
        image_size_px: height and width of the pictures.
        sweeps: LiDAR sweeps kept before each keyframe, at 20 Hz; 9 or more is all there are.
        raw_lidar: whether the points as measured, skewed by the ego's motion, are kept in files of their own.
    """

    seconds: float = 20.0
    image_size_px: tuple[int, int] = (225, 400)
    sweeps: int = 0
    raw_lidar: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= _MAX_SECONDS:
            raise ValueError(f"Settings: seconds must be in 1..{_MAX_SECONDS:g}, got {self.seconds:g}")
        if len(self.image_size_px) != 2 or not all(32 <= side <= 4096 for side in self.image_size_px):
            raise ValueError(f"Settings: image_size_px must be two sides in 32..4096, got {self.image_size_px}")
        if not 0 <= self.sweeps <= MAX_SWEEPS:
            raise ValueError(f"Settings: sweeps must be in 0..{MAX_SWEEPS}, got {self.sweeps}")

    @property
    def num_keyframes(self) -> int:
        """Keyframes of a scene."""
        return int(2 * self.seconds)


PRESETS = {
    "default": Settings(),
    "quick": Settings(seconds=4.0, image_size_px=(90, 160)),
    "sweeps": Settings(sweeps=9),
    "full": Settings(image_size_px=(900, 1600), sweeps=9),
}
"""Settings by name."""


@dataclass(frozen=True)
class SceneOrder:
    """A scene to be made; what it looks like depends on this and the settings alone.

    Attributes:
        name: official name, such as `scene-0061`.
        split: "train" or "val".
        seed: of traffic, light and noise.
        location: nuScenes map name.
        town: seed of the town at that location.
    """

    name: str
    split: str
    seed: int
    location: str
    town: int


@dataclass(frozen=True)
class Manifest:
    """A set to be made.

    Attributes:
        version: `v1.0-mini` up to ten scenes, else `v1.0-trainval`.
        settings: what is recorded.
        scenes: in the order of the tables.
    """

    version: str
    settings: Settings
    scenes: tuple[SceneOrder, ...]


def plan_manifest(num_scenes: int, seed: int, settings: Settings) -> Manifest:
    """The manifest of a set by its size alone.

    Args:
        num_scenes: how many scenes; of up to ten, one is for validation and from four on two, of more 15 in 85.
        seed: of everything. A scene of the same name and seed is the same in sets of other sizes of one version.
        settings: what is recorded.

    Returns:
        The manifest.

    Raises:
        ValueError: no scene, more than there are names for, or a negative seed.
    """
    if num_scenes < 1:
        raise ValueError(f"plan_manifest: num_scenes must be at least 1, got {num_scenes}")
    if seed < 0:
        raise ValueError(f"plan_manifest: seed must be at least 0, got {seed}")
    version = _version(num_scenes)
    train, val = _names(version)
    if num_scenes > len(train) + len(val):
        raise ValueError(
            f"plan_manifest: num_scenes must be at most {len(train) + len(val)}, the official names there are, "
            f"got {num_scenes}"
        )
    if num_scenes <= _MAX_MINI:
        num_val = min(num_scenes // 2, len(val))
    else:
        num_val = max(round(num_scenes * 150 / 850), num_scenes - len(train))
    splits = [*["train"] * (num_scenes - num_val), *["val"] * num_val]
    return Manifest(version, settings, tuple(_orders(version, [{"split": split} for split in splits], seed)))


def read_manifest(path: str | Path, settings: Settings | None = None) -> Manifest:
    """The manifest in a YAML file, such as the `manifest.yaml` of a finished set.

    The file holds `scenes`, a list of mappings with `split` and `seed` and, where they are not to be chosen, `name`,
    `location` and `town`; and, if wanted, `generator` (a version) and `settings`.

    Args:
        path: the file.
        settings: what the file's own are laid over; None for the preset `default`.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no manifest, was written for another generator, or its scenes do not fit together.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"read_manifest: {path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return _manifest(content, settings or Settings())
    except ValueError as error:
        raise ValueError(f"read_manifest: {path}: {error}") from error


def manifest_text(manifest: Manifest) -> str:
    """The YAML file from which `read_manifest` makes the same manifest.

    Args:
        manifest: any.

    Returns:
        Its text.
    """
    settings = asdict(manifest.settings)
    settings["image_size_px"] = list(settings["image_size_px"])
    lines = [yaml.safe_dump({"generator": GENERATOR, "settings": settings}, sort_keys=False), "scenes:\n"]
    lines += [
        "- " + yaml.safe_dump(asdict(order), sort_keys=False, default_flow_style=True, width=200)
        for order in manifest.scenes
    ]
    return "".join(lines)


def _version(num_scenes: int) -> str:
    return "v1.0-mini" if num_scenes <= _MAX_MINI else "v1.0-trainval"


def _names(version: str) -> tuple[list[str], list[str]]:
    """Official names for training and validation that a set of a version may use, in the order of use."""
    splits = ("mini_train", "mini_val") if version == "v1.0-mini" else SPLITS
    train, val = ([name for name in split_scenes(split) if _has_can_bus(name)] for split in splits)
    return train, val


def _has_can_bus(name: str) -> bool:
    return int(name.removeprefix("scene-")) not in _WITHOUT_CAN_BUS


def _orders(version: str, wishes: Sequence[dict[str, Any]], seed: int) -> Iterable[SceneOrder]:
    """Scenes as wished; what is not said is chosen: free names in order, locations in turn, seeds by name."""
    free = {
        split: [name for name in names if name not in {wish.get("name") for wish in wishes}]
        for split, names in zip(SPLITS, _names(version), strict=True)
    }
    numbers = dict.fromkeys(SPLITS, 0)
    for wish in wishes:
        split = wish["split"]
        name = wish.get("name") or (free[split].pop(0) if free[split] else None)
        if name is None:
            raise ValueError(f"the scenes of split {split} must be no more than the official names, got too many")
        locations = LOCATIONS[split]
        location = wish.get("location", locations[numbers[split] % len(locations)])
        numbers[split] += 1
        yield SceneOrder(
            name=name,
            split=split,
            seed=wish["seed"] if "seed" in wish else 10_000 * seed + int(name.removeprefix("scene-")),
            location=location,
            town=wish.get("town", 10 * seed + [*LOCATIONS["train"], *LOCATIONS["val"]].index(location)),
        )


_KEYS = {"name": str, "split": str, "seed": int, "location": str, "town": int}


def _manifest(content: Any, settings: Settings) -> Manifest:
    """The manifest in the values of a file; errors do not name the file."""
    if not isinstance(content, dict) or not isinstance(content.get("scenes"), list) or not content["scenes"]:
        raise ValueError("must be a mapping with a list of scenes")
    if unknown := sorted(map(str, content.keys() - {"generator", "settings", "scenes"})):
        raise ValueError(f"keys must be generator, settings and scenes, got {unknown[0]!r}")
    if content.get("generator", GENERATOR) != GENERATOR:
        raise ValueError(f"generator must be {GENERATOR}, this version, got {content['generator']!r}")
    wishes = content["scenes"]
    for number, wish in enumerate(wishes):
        _check_wish(number, wish)
    version = _version(len(wishes))
    orders = tuple(_orders(version, wishes, seed=0))
    _check_orders(orders, version)
    return Manifest(version, _settings(content.get("settings", {}), settings), orders)


def _settings(values: Any, base: Settings) -> Settings:
    names = {field.name for field in fields(Settings)}
    if not isinstance(values, dict) or not values.keys() <= names:
        raise ValueError(f"settings must be a mapping of {', '.join(sorted(names))}, got {values!r}")
    if "image_size_px" in values:
        size = values["image_size_px"]
        if not isinstance(size, list) or not all(type(side) is int for side in size):
            raise ValueError(f"settings: image_size_px must be a list of height and width, got {size!r}")
        values = {**values, "image_size_px": tuple(size)}
    kinds = {"seconds": (int, float), "sweeps": (int,), "raw_lidar": (bool,)}
    for key, allowed in kinds.items():
        if key in values and type(values[key]) not in allowed:
            raise ValueError(f"settings: {key} must be {allowed[-1].__name__}, got {values[key]!r}")
    return replace(base, **values)


def _check_wish(number: int, wish: Any) -> None:
    where = f"scene {number}"
    if not isinstance(wish, dict) or not wish.keys() <= _KEYS.keys():
        raise ValueError(f"{where} must be a mapping of {', '.join(_KEYS)}, got {wish!r}")
    for key, kind in _KEYS.items():
        if key in wish and (type(wish[key]) is not kind or (kind is int and wish[key] < 0)):
            what = "a string" if kind is str else "a whole number of at least 0"
            raise ValueError(f"{where}: {key} must be {what}, got {wish[key]!r}")
    if wish.get("split") not in SPLITS or "seed" not in wish:
        raise ValueError(f"{where} must have a seed and the split train or val, got {wish!r}")
    every = [*LOCATIONS["train"], *LOCATIONS["val"]]
    if wish.get("location", every[0]) not in every:
        raise ValueError(f"{where}: location must be one of {', '.join(every)}, got {wish['location']!r}")


def _check_orders(orders: Sequence[SceneOrder], version: str) -> None:
    """Names must be official and used once, and a location has one town."""
    official = dict(zip(SPLITS, _names(version), strict=True))
    towns: dict[str, tuple[str, int]] = {}
    names = [order.name for order in orders]
    for order in orders:
        if order.name not in official[order.split]:
            raise ValueError(f"{order.name!r} is no name of split {order.split} in {version} with CAN-bus data")
        if names.count(order.name) > 1:
            raise ValueError(f"scene names must differ, got {order.name} twice")
        town = (order.split, order.town)
        if towns.setdefault(order.location, town) != town:
            raise ValueError(
                f"the scenes at {order.location} must share split and town, as a location has one map, "
                f"got {towns[order.location]} and {town}"
            )
