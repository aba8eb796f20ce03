"""Manifests: official names, splits, towns and seeds, and files that are none."""

import re

import pytest

from perception.simulation.manifest import (
    PRESETS,
    Manifest,
    SceneOrder,
    Settings,
    manifest_text,
    plan_manifest,
    read_manifest,
)


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


def test_a_location_has_one_town_and_towns_are_of_one_split() -> None:
    scenes = plan_manifest(100, 3, Settings()).scenes
    towns = {(order.location, order.town, order.split) for order in scenes}
    assert len(towns) == len({order.location for order in scenes}) == 4


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
    ("values", "message"),
    [
        ({"seconds": 0.5}, r"seconds must be in 1\.\.60, got 0.5"),
        ({"seconds": float("nan")}, "seconds must be in .*, got nan"),
        ({"image_size_px": (0, 400)}, r"image_size_px must be two sides in 32\.\.4096, got \(0, 400\)"),
        ({"sweeps": 11}, r"sweeps must be in 0\.\.10, got 11"),
    ],
)
def test_impossible_settings_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**values)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_manifest_is_read_as_it_was_written(preset: str, tmp_path) -> None:
    manifest = plan_manifest(12, 5, PRESETS[preset])
    (tmp_path / "manifest.yaml").write_text(manifest_text(manifest))
    assert read_manifest(tmp_path / "manifest.yaml") == manifest


def test_a_manifest_may_leave_names_and_towns_open(tmp_path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(
        "settings: {sweeps: 3}\nscenes:\n- {split: val, seed: 4}\n- {split: train, seed: 2, name: scene-0553}\n"
        "- {split: train, seed: 3, location: boston-seaport, town: 9}\n"
    )
    manifest = read_manifest(path, Settings(seconds=5))
    assert manifest.settings == Settings(seconds=5, sweeps=3)
    assert manifest.scenes == (
        SceneOrder("scene-0103", "val", 4, "singapore-queenstown", 3),
        SceneOrder("scene-0553", "train", 2, "singapore-onenorth", 0),
        SceneOrder("scene-0061", "train", 3, "boston-seaport", 9),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenes: [", "not YAML"),
        ("- 1", "must be a mapping with a list of scenes"),
        ("scenes: []", "must be a mapping with a list of scenes"),
        ("scenes: [{split: val, seed: 1}]\nseed: 3", "keys must be generator, settings and scenes, got 'seed'"),
        ("generator: 0\nscenes: [{split: val, seed: 1}]", "generator must be 1, this version, got 0"),
        ("settings: {fps: 3}\nscenes: [{split: val, seed: 1}]", "settings must be a mapping of .*seconds"),
        ("settings: {sweeps: 2.5}\nscenes: [{split: val, seed: 1}]", "settings: sweeps must be int, got 2.5"),
        ("settings: {image_size_px: 400x225}\nscenes: [{split: val, seed: 1}]", "image_size_px must be a list"),
        ("scenes: [{split: test, seed: 1}]", "scene 0 must have a seed and the split train or val"),
        ("scenes: [{split: val}]", "scene 0 must have a seed"),
        ("scenes: [{split: val, seed: -1}]", "scene 0: seed must be a whole number of at least 0, got -1"),
        ("scenes: [{split: val, seed: 1, sead: 1}]", "scene 0 must be a mapping of name, split, seed"),
        ("scenes: [{split: val, seed: 1, name: scene-0061}]", "'scene-0061' is no name of split val in v1.0-mini"),
        ("scenes: [{split: val, seed: 1, name: my-scene}]", "'my-scene' is no name of split val"),
        ("scenes: [{split: val, seed: 1, location: paris}]", "location must be one of .*, got 'paris'"),
        ("scenes: [{split: val, seed: 1}, {split: val, seed: 2, town: 8}]", "must share split and town"),
        ("scenes: [{split: val, seed: 1}, {split: val, seed: 1}, {split: val, seed: 1}]", "got too many"),
        (
            "scenes: [{split: val, seed: 1, name: scene-0103}, {split: val, seed: 2, name: scene-0103}]",
            "scene names must differ, got scene-0103 twice",
        ),
    ],
)
def test_files_that_are_no_manifest_are_refused(text: str, message: str, tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{message}"):
        read_manifest(path)
