"""Manifests: official names, splits, towns and seeds, and files that are none."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from perception.simulation import ego
from perception.simulation.light import TIMES_OF_DAY
from perception.simulation.manifest import (
    DRIVES,
    LANDSCAPES,
    LIGHTS,
    Manifest,
    SceneOrder,
    plan_manifest,
    plan_splits,
)
from perception.simulation.manifest_file import manifest_text, read_manifest
from perception.simulation.settings import PRESETS, SENSORS, TRUTHS, Settings
from perception.simulation.town import town


def _splits(manifest: Manifest) -> dict[str, list[str]]:
    return {split: [order.name for order in manifest.scenes if order.split == split] for split in ("train", "val")}


@pytest.mark.parametrize(("num_scenes", "num_val"), [(1, 0), (2, 1), (3, 1), (4, 2), (10, 2)])
def test_small_sets_take_the_mini_names_of_the_devkit(num_scenes: int, num_val: int) -> None:
    from nuscenes.utils.splits import create_splits_scenes

    manifest = plan_manifest(num_scenes, 0, Settings())
    official, splits = create_splits_scenes(), _splits(manifest)
    assert manifest.version == "v1.0-mini"
    assert (len(splits["train"]), len(splits["val"])) == (num_scenes - num_val, num_val)
    assert set(splits["train"]) <= set(official["mini_train"])
    assert set(splits["val"]) <= set(official["mini_val"])


@pytest.mark.parametrize("num_scenes", [11, 100, 831])
def test_large_sets_take_names_that_the_can_bus_reader_accepts(num_scenes: int, tmp_path) -> None:
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus
    from nuscenes.utils.splits import create_splits_scenes

    manifest = plan_manifest(num_scenes, 0, Settings())
    official, splits = create_splits_scenes(), _splits(manifest)
    names = splits["train"] + splits["val"]
    assert manifest.version == "v1.0-trainval"
    assert len(set(names)) == num_scenes
    assert set(splits["train"]) <= set(official["train"])
    assert set(splits["val"]) <= set(official["val"])
    assert len(splits["val"]) == pytest.approx(num_scenes * 150 / 850, abs=4)
    (tmp_path / "can_bus").mkdir()
    reader = NuScenesCanBus(str(tmp_path))
    for name in names:
        (tmp_path / "can_bus" / f"{name}_meta.json").write_text("{}")
        assert reader.get_messages(name, "meta") == {}


def test_scenes_do_not_depend_on_how_many_there_are() -> None:
    small, large = (plan_manifest(count, 7, Settings()).scenes for count in (4, 10))
    assert set(small) <= set(large)
    assert not {order.seed for order in large} & {order.seed for order in plan_manifest(10, 8, Settings()).scenes}


def test_a_benchmark_has_test_scenes_in_a_version_of_their_own() -> None:
    from nuscenes.utils.splits import create_splits_scenes

    manifest = plan_splits({"train": 60, "val": 20, "test": 10}, 1, Settings())
    official = create_splits_scenes()
    assert {name: len(orders) for name, orders in manifest.versions.items()} == {"v1.0-trainval": 80, "v1.0-test": 10}
    for order in manifest.scenes:
        assert order.name in official[order.split]
    assert {order.split for order in manifest.versions["v1.0-test"]} == {"test"}
    assert list(plan_splits({"test": 2}, 1, Settings()).versions) == ["v1.0-test"]


def test_towns_are_many_and_no_location_serves_two_splits() -> None:
    scenes = plan_splits({"train": 60, "val": 20, "test": 10}, 3, Settings()).scenes
    towns = Counter((order.split, order.location, order.district, order.town) for order in scenes)
    assert Counter(split for split, *_ in towns) == {"train": 12, "val": 4, "test": 4}
    assert len({place[1:3] for place in towns}) == len({place[3] for place in towns}) == len(towns)
    assert len({(order.location, order.split) for order in scenes}) == len({order.location for order in scenes}) == 4
    assert {towns[it] for it in towns if it[0] == "train"} == {towns[it] for it in towns if it[0] == "val"} == {5}


def test_every_fourth_scene_of_a_split_is_at_dusk_in_changing_towns() -> None:
    train = plan_splits({"train": 60}, 3, Settings()).scenes
    dusk = [order.place for order in train if order.light == "dusk"]
    assert len(dusk) == 15
    assert len(set(dusk)) >= 11


@pytest.mark.parametrize(
    ("num_scenes", "seed", "message"),
    [
        (0, 0, "num_scenes must be at least 1, got 0"),
        (832, 0, "num_scenes must be at most 831, the official names there are, got 832"),
        (2, -1, "seed must be at least 0, got -1"),
    ],
)
def test_impossible_sets_are_refused(num_scenes: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_manifest(num_scenes, seed, Settings())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 2, "eval": 1}, "num_scenes must be by split, train, val, test, got 'eval'"),
        ({"train": 2, "test": 145}, r"num_scenes of test must be in 0\.\.144, the official names there are, got 145"),
        ({"val": 0}, "num_scenes must be at least 1, got none"),
    ],
)
def test_impossible_splits_are_refused(counts: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_splits(counts, 0, Settings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seconds": 0.5}, r"seconds must be in 1\.\.60, got 0.5"),
        ({"seconds": float("nan")}, "seconds must be in .*, got nan"),
        ({"image_size_px": (0, 400)}, r"image_size_px must be two sides in 32\.\.4096, got \(0, 400\)"),
        ({"sweeps": 11}, r"sweeps must be in 0\.\.10, got 11"),
        ({"radar_sweeps": 7}, r"radar_sweeps must be in 0\.\.6, got 7"),
        ({"fisheye_size_px": (320, 9)}, r"fisheye_size_px must be two sides in 32\.\.4096, got \(320, 9\)"),
        ({"sensors": ("camera", "lidar", "sonar")}, "sensors must be of camera, lidar, radar, .*, got 'sonar'"),
        ({"sensors": ("camera", "radar")}, "sensors must have camera and lidar, .*, got camera, radar"),
        ({"sensors": ()}, "sensors must have camera and lidar, .*, got none"),
        ({"truths": ("depth", "flow")}, "truths must be of lidarseg, panoptic, .*, got 'flow'"),
        ({"truths": ("depth", "depth")}, "truths must differ, got depth twice"),
    ],
)
def test_impossible_settings_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_sensors_and_truths_are_the_same_in_whatever_order_they_are_named() -> None:
    settings = Settings(sensors=("fisheye", "lidar", "camera"), truths=("semantics", "lidarseg"))
    assert settings == Settings(sensors=("lidar", "camera", "fisheye"), truths=("lidarseg", "semantics"))
    assert settings.sensors == ("camera", "lidar", "fisheye")


def test_settings_that_came_later_are_named_only_where_they_are_not_the_default() -> None:
    lines = manifest_text(plan_manifest(1, 0, Settings())).splitlines()
    assert lines[2] == "settings: {seconds: 20.0, image_size_px: [225, 400], sweeps: 0, raw_lidar: false}"
    lines = manifest_text(plan_manifest(1, 0, Settings(truths=("depth",), can_bus=True))).splitlines()
    assert lines[2].endswith(", raw_lidar: false, truths: [depth], can_bus: true}")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_manifest_is_read_as_it_was_written(preset: str, tmp_path) -> None:
    path = tmp_path / "manifest.yaml"
    for manifest in (
        plan_manifest(3, 5, PRESETS[preset]),
        plan_splits({"train": 1, "test": 2}, 5, PRESETS[preset]),
    ):
        path.write_text(manifest_text(manifest))
        assert read_manifest(path) == manifest


def test_a_manifest_may_leave_names_and_towns_open(tmp_path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(
        "settings: {sweeps: 3}\nscenes:\n- {split: val, seed: 4}\n- {split: train, seed: 2, name: scene-0553}\n"
        "- {split: train, seed: 3, location: boston-seaport, district: 7, town: 9, light: dusk}\n"
    )
    manifest = read_manifest(path, Settings(seconds=5))
    assert manifest.version == "v1.0-mini"
    assert manifest.settings == Settings(seconds=5, sweeps=3)
    assert manifest.scenes == (
        SceneOrder("scene-0103", "val", 4, "singapore-queenstown", 0, 40, "day"),
        SceneOrder("scene-0553", "train", 2, "boston-seaport", 0, 0, "day"),
        SceneOrder("scene-0061", "train", 3, "boston-seaport", 7, 9, "dusk"),
    )


@pytest.mark.parametrize(
    ("scenes", "version"),
    [
        ("[{split: val, seed: 1}]", "v1.0-mini"),
        ("[{split: val, seed: 1, name: scene-0003}]", "v1.0-trainval"),
        ("[{split: val, seed: 1}, {split: test, seed: 1}]", "v1.0-trainval"),
        ("[{split: val, seed: 1}]\nversion: v1.0-trainval", "v1.0-trainval"),
    ],
)
def test_names_and_splits_say_which_version_it_is(scenes: str, version: str, tmp_path) -> None:
    (tmp_path / "manifest.yaml").write_text(f"scenes: {scenes}")
    assert read_manifest(tmp_path / "manifest.yaml").version == version


def test_the_benchmark_is_what_its_rule_gives() -> None:
    path = Path(__file__).parents[2] / "configs" / "simulation" / "sim-v1.yaml"
    rule = plan_splits({"train": 60, "val": 20, "test": 10}, 1001, Settings(seconds=10.0, sweeps=9))
    assert read_manifest(path) == rule
    assert path.read_text() == manifest_text(rule)


def test_the_second_benchmark_is_the_first_with_every_sensor_and_truth() -> None:
    first, second = (
        read_manifest(Path(__file__).parents[2] / "configs" / "simulation" / f"sim-v{number}.yaml") for number in (1, 2)
    )
    assert second.scenes == first.scenes
    everything = {"sensors": SENSORS, "radar_sweeps": 6, "truths": TRUTHS, "can_bus": True}
    assert second.settings == replace(first.settings, **everything)


def test_traits_that_a_manifest_takes_are_those_that_worlds_take() -> None:
    assert LIGHTS == TIMES_OF_DAY
    assert DRIVES == ego.DRIVES
    assert LANDSCAPES == town.LANDSCAPES


_VAL = "split: val, seed: 1"
_PLACE = "location: boston-seaport, district: 0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenes: [", "not YAML"),
        ("- 1", "must be a mapping with a list of scenes"),
        ("scenes: []", "must be a mapping with a list of scenes"),
        (f"scenes: [{{{_VAL}}}]\nseed: 3", "keys must be of generator, version, settings, scenes, got 'seed'"),
        (f"generator: 0\nscenes: [{{{_VAL}}}]", "generator must be 2, this version, got 0"),
        (f"version: v2\nscenes: [{{{_VAL}}}]", "version must be v1.0-mini or v1.0-trainval, got 'v2'"),
        (f"settings: 3\nscenes: [{{{_VAL}}}]", "settings must be a mapping, got 3"),
        (f"settings: {{fps: 3}}\nscenes: [{{{_VAL}}}]", "settings: keys must be of seconds, .*, got 'fps'"),
        (f"settings: {{sweeps: 2.5}}\nscenes: [{{{_VAL}}}]", "settings: sweeps must be int, got 2.5"),
        (f"settings: {{image_size_px: 400x225}}\nscenes: [{{{_VAL}}}]", "image_size_px must be a list"),
        (f"settings: {{sensors: all}}\nscenes: [{{{_VAL}}}]", "settings: sensors must be a list of names, got 'all'"),
        (f"settings: {{truths: [depth, 3]}}\nscenes: [{{{_VAL}}}]", "settings: truths must be a list of names, got"),
        (f"settings: {{truths: [flow]}}\nscenes: [{{{_VAL}}}]", "truths must be of lidarseg, .*, got 'flow'"),
        (f"settings: {{can_bus: 1}}\nscenes: [{{{_VAL}}}]", "settings: can_bus must be bool, got 1"),
        (f"settings: {{fisheye_size_px: [9.5, 8]}}\nscenes: [{{{_VAL}}}]", "fisheye_size_px must be a list of height"),
        ("scenes: [7]", "scene 0 must be a mapping, got 7"),
        ("scenes: [{split: mini, seed: 1}]", "scene 0: split must be one of train, val, test, got 'mini'"),
        ("scenes: [{split: val}]", "scene 0 must have a seed, got none"),
        ("scenes: [{split: val, seed: -1}]", "scene 0: seed must be a whole number of at least 0, got -1"),
        (f"scenes: [{{{_VAL}, sead: 1}}]", "scene 0: keys must be of name, split, seed, .*, got 'sead'"),
        (f"scenes: [{{{_VAL}, name: scene-0061}}]", "'scene-0061' is no name of split val in v1.0-mini"),
        (f"scenes: [{{{_VAL}, name: my-scene}}]", "'my-scene' is no name of split val"),
        (f"scenes: [{{{_VAL}, name: ''}}]", "'' is no name of split val"),
        (
            "version: v1.0-mini\nscenes: [{split: test, seed: 1, name: scene-0077}]",
            "no name of split test in v1.0-mini",
        ),
        (f"version: v1.0-mini\nscenes: [{{{_VAL}, name: scene-0003}}]", "no name of split val in v1.0-mini"),
        (f"scenes: [{{{_VAL}, location: paris, district: 0}}]", "location must be one of .*, got 'paris'"),
        (f"scenes: [{{{_VAL}, location: boston-seaport}}]", "must have both location and district or neither"),
        (f"scenes: [{{{_VAL}, location: boston-seaport, district: 8}}]", r"must be in 0\.\.7, which its map has room"),
        (f"scenes: [{{{_VAL}, light: noon}}]", "light must be one of day, dusk, night, low_sun, got 'noon'"),
        (f"scenes: [{{{_VAL}, {_PLACE}}}, {{{_VAL}, {_PLACE}, town: 8}}]", "district 0 of boston-seaport must share a"),
        (f"scenes: [{{{_VAL}, town: 8}}, {{{_VAL}, town: 8}}]", "town 8 must stand in one place"),
        (f"scenes: [{{{_VAL}, {_PLACE}}}, {{split: train, seed: 1, {_PLACE}}}]", "at boston-seaport must be of one sp"),
        (f"scenes: [{{{_VAL}}}, {{{_VAL}}}, {{{_VAL}}}]", "split val in v1.0-mini must be no more than"),
        ("version: v1.0-mini\nscenes: [{split: test, seed: 1}]", "split test in v1.0-mini must be no more than"),
        (f"scenes: [{{{_VAL}, name: scene-0103}}, {{{_VAL}, name: scene-0103}}]", "names must differ, got scene-0103"),
    ],
)
def test_files_that_are_no_manifest_are_refused(text: str, message: str, tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{message}"):
        read_manifest(path)
