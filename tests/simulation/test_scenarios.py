"""Scenarios: what their scenes are laid down to be, where these lie, and how manifests keep it."""

from __future__ import annotations

import pytest

from perception.simulation.manifest import MINI, TRAINVAL, Manifest, ordered_scenes, plan_manifest, plan_splits
from perception.simulation.manifest_file import manifest_text, read_manifest
from perception.simulation.scenarios import SCENARIOS, scenario
from perception.simulation.settings import Settings
from perception.simulation.town.districts import num_districts

SETTINGS = Settings()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_makes_sets_of_all_sizes_that_a_file_keeps(name, tmp_path):
    for number, manifest in enumerate(
        [
            plan_manifest(10, 2, SETTINGS, scenario([name])),
            plan_manifest(120, 2, SETTINGS, scenario([name])),
            plan_splits({"train": 40, "val": 20, "test": 20}, 2, SETTINGS, scenario([name])),
        ]
    ):
        path = tmp_path / f"{number}.yaml"
        path.write_text(manifest_text(manifest))
        assert read_manifest(path) == manifest
        assert all(order.district < num_districts(order.location) for order in manifest.scenes)
        assert name == "mix" or all(name in order.traits for order in manifest.scenes)


def test_a_scene_is_the_same_in_smaller_sets():
    large, small = (plan_splits({"train": n, "val": n}, 5, SETTINGS, scenario(["mix"])) for n in (30, 7))
    assert set(small.scenes) <= set(large.scenes)
    assert set(plan_manifest(4, 5, SETTINGS, scenario(["mix"])).scenes) <= set(
        plan_manifest(9, 5, SETTINGS, scenario(["mix"])).scenes
    )


def test_the_mix_has_every_drive_light_weather_and_landscape():
    scenes = plan_splits({"train": 32}, 0, SETTINGS, scenario(["mix"])).scenes
    assert {it.drive for it in scenes} >= {"street", "junction", "parking"}
    assert {it.light for it in scenes} == {"day", "dusk", "night", "low_sun"}
    assert {it.weather for it in scenes} == {"clear", "rain", "fog"}
    assert {it.landscape for it in scenes} == {"town", "rural"}
    early = plan_splits({"val": 8}, 0, SETTINGS, scenario(["mix"])).scenes
    assert {word for it in early for word in it.traits} >= {"parking", "rural", "night", "rain", "fog"}


def test_names_are_taken_together():
    (traits,) = scenario(["parking", "night", "rain"])
    assert traits == {"drive": "parking", "light": "night", "weather": "rain"}
    assert scenario([]) == ({},)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["night", "low_sun"], "names must not contradict one another, got night and low_sun"),
        (["parking", "street"], "names must not contradict one another, got parking and street"),
        (["snow"], "names must be of street, junction, .*, mix, got 'snow'"),
        (["mix", "night"], "mix must stand alone, got mix, night"),
    ],
)
def test_contradictions_are_named(names, message):
    with pytest.raises(ValueError, match=f"scenario: {message}"):
        scenario(names)


def test_rural_places_are_no_towns():
    scenes = plan_splits({"train": 64, "val": 32, "test": 32}, 0, SETTINGS, scenario(["mix"])).scenes
    of_place = {}
    for order in scenes:
        assert of_place.setdefault(order.place, (order.town, order.landscape)) == (order.town, order.landscape)
    assert len({town for town, _ in of_place.values()}) == len(of_place)
    assert {landscape for _, landscape in of_place.values()} == {"town", "rural"}


def test_a_place_has_one_landscape(tmp_path):
    (rural, town) = ordered_scenes(MINI, [{"split": "train", "landscape": "rural"}, {"split": "train"}], 0)
    assert rural.place != town.place
    path = tmp_path / "manifest.yaml"
    path.write_text(
        "scenes:\n"
        "- {split: val, seed: 1, location: singapore-queenstown, district: 0, town: 3}\n"
        "- {split: val, seed: 2, location: singapore-queenstown, district: 0, town: 3, landscape: rural}\n"
    )
    with pytest.raises(ValueError, match="district 0 of singapore-queenstown must share a landscape, got town and r"):
        read_manifest(path)


def test_plain_scenes_are_written_as_ever():
    plain = Manifest(TRAINVAL, SETTINGS, tuple(plan_splits({"train": 1}, 0, SETTINGS).scenes))
    assert "weather" not in manifest_text(plain)
    assert plain.scenes[0].traits == ()
