"""Manifests as YAML files: read from users' hands, so everything in them is checked before work starts."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from perception.simulation.manifest import (
    DRIVES,
    GENERATOR,
    LANDSCAPES,
    LIGHTS,
    LOCATIONS,
    MAX_MINI,
    MINI,
    SPLITS,
    TRAINVAL,
    Manifest,
    SceneOrder,
    official_names,
    ordered_scenes,
)
from perception.simulation.settings import Settings
from perception.simulation.town.districts import district_origin
from perception.simulation.weather import KINDS

_IN_LINE: dict[str, Any] = {"sort_keys": False, "default_flow_style": True, "width": 1000}
_KEYS = ("generator", "version", "settings", "scenes")
_SCENE_KINDS = {field.name: int if field.name in ("seed", "district", "town") else str for field in fields(SceneOrder)}
_SETTING_KINDS = {
    "seconds": (int, float),
    "sweeps": (int,),
    "radar_sweeps": (int,),
    "raw_lidar": (bool,),
    "can_bus": (bool,),
}
_SIZES, _LISTS = ("image_size_px", "fisheye_size_px"), ("sensors", "truths")
_ALWAYS_WRITTEN = ("seconds", "image_size_px", "sweeps", "raw_lidar")
"""Settings that every manifest names; the others came later, and are named where they are not the default."""

_CHOICES = {
    "split": SPLITS,
    "location": tuple(name for names in LOCATIONS.values() for name in names),
    "light": LIGHTS,
    "weather": KINDS,
    "drive": DRIVES,
    "landscape": LANDSCAPES,
}
_USUAL = {field.name: field.default for field in fields(SceneOrder) if field.default is not MISSING}
"""Attributes of scenes that a manifest names only where they are not the default."""


def read_manifest(path: str | Path, settings: Settings | None = None, any_generator: bool = False) -> Manifest:
    """The manifest in a YAML file, such as the `manifest.yaml` of a finished set.

    The file holds `scenes`, a list of mappings with `split` and `seed` and, where they are not to be chosen, `name`,
    `location` with `district`, `town`, `light`, `weather`, `drive` and `landscape`; and, if wanted, `generator` (a
    version of this program), `version` (of the tables) and `settings`.

    Args:
        path: the file.
        settings: what the file's own are laid over; None for the preset `default`.
        any_generator: whether to take a file of another generator version, with which the set comes out differently.

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
        return _manifest(content, settings or Settings(), any_generator)
    except ValueError as error:
        raise ValueError(f"read_manifest: {path}: {error}") from error


def manifest_text(manifest: Manifest) -> str:
    """The YAML file from which `read_manifest` makes the same manifest.

    Args:
        manifest: any.

    Returns:
        Its text, with one line for each scene.
    """
    head = {"generator": GENERATOR, "version": manifest.version}
    usual = asdict(Settings())
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(manifest.settings).items()
        if name in _ALWAYS_WRITTEN or value != usual[name]
    }
    lines = [yaml.safe_dump(head, sort_keys=False), f"settings: {yaml.safe_dump(settings, **_IN_LINE)}", "scenes:\n"]
    return "".join([*lines, *(f"- {yaml.safe_dump(_scene(order), **_IN_LINE)}" for order in manifest.scenes)])


def _scene(order: SceneOrder) -> dict[str, Any]:
    return {name: value for name, value in asdict(order).items() if name not in _USUAL or value != _USUAL[name]}


def _manifest(content: Any, settings: Settings, any_generator: bool) -> Manifest:
    """The manifest in the values of a file; errors do not name the file."""
    if not isinstance(content, dict) or not isinstance(content.get("scenes"), list) or not content["scenes"]:
        raise ValueError("must be a mapping with a list of scenes")
    _check_keys("the file", content, _KEYS)
    if not any_generator and content.get("generator", GENERATOR) != GENERATOR:
        raise ValueError(f"generator must be {GENERATOR}, this version, got {content['generator']!r}")
    wishes = content["scenes"]
    for number, wish in enumerate(wishes):
        _check_wish(f"scene {number}", wish)
    version = content.get("version") or _version(wishes)
    if version not in (MINI, TRAINVAL):
        raise ValueError(f"version must be {MINI} or {TRAINVAL}, got {reprlib.repr(version)}")
    orders = tuple(ordered_scenes(version, wishes, seed=0))
    _check_orders(orders, version)
    return Manifest(version, _settings(content.get("settings", {}), settings), orders)


def _version(wishes: Sequence[Mapping[str, Any]]) -> str:
    """The version that scenes are of where it is not said."""
    mini = {name for names in official_names(MINI).values() for name in names}
    fits = all(wish["split"] != "test" and wish.get("name", next(iter(mini))) in mini for wish in wishes)
    return MINI if fits and len(wishes) <= MAX_MINI else TRAINVAL


def _settings(values: Any, base: Settings) -> Settings:
    if not isinstance(values, dict):
        raise ValueError(f"settings must be a mapping, got {reprlib.repr(values)}")
    _check_keys("settings", values, [field.name for field in fields(Settings)])
    changed = dict(values)
    for key, value in values.items():
        if key in _SIZES and not (isinstance(value, list) and all(type(side) is int for side in value)):
            raise ValueError(f"settings: {key} must be a list of height and width, got {reprlib.repr(value)}")
        if key in _LISTS and not (isinstance(value, list) and all(isinstance(it, str) for it in value)):
            raise ValueError(f"settings: {key} must be a list of names, got {reprlib.repr(value)}")
        if key in _SETTING_KINDS and type(value) not in _SETTING_KINDS[key]:
            kind = _SETTING_KINDS[key][-1].__name__
            raise ValueError(f"settings: {key} must be {kind}, got {reprlib.repr(value)}")
        if isinstance(value, list):
            changed[key] = tuple(value)
    if "seconds" in values:
        changed["seconds"] = float(values["seconds"])  # so that equal manifests have equal texts
    return replace(base, **changed)


def _check_keys(where: str, values: Mapping[Any, Any], known: Sequence[str]) -> None:
    if unknown := sorted(str(key) for key in values if key not in known):
        raise ValueError(f"{where}: keys must be of {', '.join(known)}, got {unknown[0][:80]!r}")


def _check_wish(where: str, wish: Any) -> None:
    if not isinstance(wish, dict):
        raise ValueError(f"{where} must be a mapping, got {reprlib.repr(wish)}")
    _check_keys(where, wish, list(_SCENE_KINDS))
    for key, kind in _SCENE_KINDS.items():
        if key in wish and (type(wish[key]) is not kind or (kind is int and wish[key] < 0)):
            what = "a string" if kind is str else "a whole number of at least 0"
            raise ValueError(f"{where}: {key} must be {what}, got {reprlib.repr(wish[key])}")
    for key in ("split", "seed"):
        if key not in wish:
            raise ValueError(f"{where} must have a {key}, got none")
    for key, choices in _CHOICES.items():
        if wish.get(key, choices[0]) not in choices:
            raise ValueError(f"{where}: {key} must be one of {', '.join(choices)}, got {reprlib.repr(wish[key])}")
    if ("location" in wish) != ("district" in wish):
        raise ValueError(f"{where} must have both location and district or neither, got one of them")


def _check_orders(orders: Sequence[SceneOrder], version: str) -> None:
    """Names are official and used once; a location serves one split; a place has one town, and a town one place."""
    official = official_names(version)
    splits: dict[str, str] = {}
    towns: dict[tuple[str, int], tuple[int, str]] = {}
    places: dict[int, tuple[str, int]] = {}
    names: set[str] = set()
    for order in orders:
        if order.name not in official[order.split]:
            raise ValueError(f"{order.name!r} is no name of split {order.split} in {version} with CAN-bus data")
        if order.name in names:
            raise ValueError(f"scene names must differ, got {order.name} twice")
        names.add(order.name)
        district_origin(*order.place)
        if splits.setdefault(order.location, order.split) != order.split:
            raise ValueError(
                f"the scenes at {order.location} must be of one split, got {splits[order.location]} and {order.split}"
            )
        town, landscape = towns.setdefault(order.place, (order.town, order.landscape))
        if (town, landscape) != (order.town, order.landscape):
            what = ("town", town, order.town) if town != order.town else ("landscape", landscape, order.landscape)
            raise ValueError(
                f"the scenes of district {order.district} of {order.location} must share a {what[0]}, got "
                f"{what[1]} and {what[2]}"
            )
        if places.setdefault(order.town, order.place) != order.place:
            raise ValueError(f"town {order.town} must stand in one place, got {places[order.town]} and {order.place}")
