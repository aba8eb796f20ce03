"""Scenes as a whole: nobody touches anybody, motion is plausible, there is enough to see, seeds repeat."""

from collections import Counter

import numpy as np
import pytest

from perception.formats.classes import ATTRIBUTES, CATEGORY_TO_CLASS, CLASS_RANGE_M, DETECTION_CLASSES
from perception.simulation.ego import BORDER_M, EGO_CENTRE_M
from perception.simulation.traffic_overlap import rectangles_overlap
from perception.simulation.world import World
from tests.simulation.bare_town import bare_town

DURATION_S = 12.0
# Town, whether it drives on the right, and seed of the scenes that are looked at.
SCENES = ((0, True, 0), (0, False, 7), (3, True, 11), (1, True, 13))


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [World(bare_town(town, right), seed, DURATION_S) for town, right, seed in SCENES]


def boxes_of(world: World, time_us: int) -> np.ndarray:
    """(A + 1, 5) rectangles on the ground, ego first."""
    poses = world.actor2global(time_us)
    ego = world.ego2global(time_us)
    center = ego[:3, :3] @ [EGO_CENTRE_M, 0, 0] + ego[:3, 3]
    yaw = np.arctan2(poses[:, 1, 0], poses[:, 0, 0])
    sizes = np.array([actor.shape.size_lwh_m[:2] for actor in world.actors])
    rows = np.column_stack((poses[:, :2, 3], sizes, yaw))
    return np.vstack(([*center[:2], *world.ego_size_lwh_m[:2], np.arctan2(ego[1, 0], ego[0, 0])], rows))


def test_no_two_boxes_ever_overlap(worlds: list[World]) -> None:
    """At times that are no stored ones, between them, and at the very ends."""
    for world in worlds:
        times = [*range(world.first_us, world.last_us, 217_391), world.last_us]
        for time_us in times:
            boxes = boxes_of(world, time_us)
            first, second = np.triu_indices(len(boxes), 1)
            near = np.linalg.norm(boxes[first, :2] - boxes[second, :2], axis=1) < 16
            first, second = first[near], second[near]
            assert not rectangles_overlap(boxes[first], boxes[second]).any()


def test_the_ego_drives_plausibly_on_the_ground_and_inside_the_map(worlds: list[World]) -> None:
    for world in worlds:
        step = 50_000
        times = np.arange(world.first_us, world.last_us + 1, step)
        poses = np.array([world.ego2global(int(time)) for time in times])
        motion = np.array([world.ego_velocity(int(time)) for time in times])
        assert (poses[:, 2, 3] == 0).all()
        assert poses[:, :2, 3].min() > BORDER_M
        assert (np.array(world.town.size_m) - poses[:, :2, 3]).min() > BORDER_M
        speed, yaw_rate = np.linalg.norm(motion[:, :2], axis=1), motion[:, 3]
        assert np.abs(np.gradient(speed, 0.05)).max() < 3.0
        assert np.abs(speed * yaw_rate).max() < 3.0
        assert np.abs(np.diff(yaw_rate)).max() < 0.15
        forward = (motion[:, :2] * poses[:, :2, 0]).sum(axis=1)
        np.testing.assert_allclose(forward, speed, atol=0.03)
        assert speed.max() > 2.0


def test_velocities_are_the_derivatives_of_positions_and_continuous(worlds: list[World]) -> None:
    world = worlds[0]
    for time_us in (0, 1_234_567, 4_999_999, 5_000_000):
        after, before = world.actor2global(time_us + 500), world.actor2global(time_us - 500)
        numeric = (after - before)[:, :3, 3] / 1e-3
        np.testing.assert_allclose(world.actor_velocities(time_us), numeric, atol=0.02)
    jump = world.actor_velocities(5_000_000) - world.actor_velocities(4_999_999)
    assert np.abs(jump).max() < 1e-3


def test_actors_turn_and_brake_plausibly(worlds: list[World]) -> None:
    for world in worlds:
        times = np.arange(0, round(DURATION_S * 1e6), 100_000)
        velocity = np.array([world.actor_velocities(int(time))[:, :2] for time in times])
        poses = np.array([world.actor2global(int(time)) for time in times])
        speed = np.linalg.norm(velocity, axis=-1)
        driven = np.array([actor.behaviour.value in ("driven", "ridden") for actor in world.actors])
        assert speed[:, driven].max() < 16.0
        assert np.abs(np.diff(speed[:, driven], axis=0)).max() < 0.75
        ahead = (velocity * poses[:, :, :2, 0]).sum(axis=-1)
        assert (ahead - speed)[:, driven].min() > -0.35


def test_enough_of_every_class_is_in_sight(worlds: list[World]) -> None:
    counts, far, seen = [], [], Counter[str]()
    for world in worlds:
        classes = [CATEGORY_TO_CLASS.get(actor.shape.category) for actor in world.actors]
        limits = np.array([CLASS_RANGE_M[name] if name else 0.0 for name in classes])
        for time_us in range(0, round(DURATION_S * 1e6), 500_000):
            apart = world.actor2global(time_us)[:, :2, 3] - world.ego2global(time_us)[:2, 3]
            distance = np.linalg.norm(apart, axis=1)
            inside = distance < limits
            counts.append(int(inside.sum()))
            far += (distance[inside] > 30).tolist()
            seen.update(str(classes[i]) for i in np.flatnonzero(inside))
    assert np.median(counts) >= 25
    assert np.mean(far) >= 0.3
    assert set(seen) == set(DETECTION_CLASSES)
    assert min(seen.values()) >= 10


def test_attributes_follow_what_actors_do(worlds: list[World]) -> None:
    found = Counter[str]()
    for world in worlds:
        for time_us in (0, 3_000_000, 9_000_000):
            speed = np.linalg.norm(world.actor_velocities(time_us)[:, :2], axis=1)
            for actor, name, pace in zip(world.actors, world.actor_attributes(time_us), speed, strict=True):
                found[name] += 1
                root = actor.shape.category.split(".")[0]
                assert (name == "") == (root in ("animal", "movable_object", "static_object"))
                assert not name.endswith(("parked", "stopped", "standing")) or pace <= 0.2
                assert not name.endswith("moving") or pace > 0.2
                if actor.shape.category in ("vehicle.bicycle", "vehicle.motorcycle"):
                    assert name.startswith("cycle.")
    assert set(found) - {""} <= set(ATTRIBUTES)
    assert {"vehicle.moving", "vehicle.parked", "pedestrian.moving", "pedestrian.standing"} <= set(found)
    assert {"cycle.with_rider", "cycle.without_rider", "vehicle.stopped"} <= set(found)


def test_walking_people_change_feet_and_standing_ones_do_not(worlds: list[World]) -> None:
    world = worlds[0]
    feet = np.array([world.actor_meshes(time) for time in range(0, 4_000_000, 100_000)])
    walking = np.linalg.norm(world.actor_velocities(2_000_000), axis=1) > 1.0
    pairs = np.array([len(actor.shape.meshes) == 2 for actor in world.actors])
    assert (np.ptp(feet[:, walking & pairs], axis=0) == 1).all()
    assert (feet[:, ~pairs] == 0).all()


def test_the_same_seed_gives_the_same_scene_and_another_a_different_one(worlds: list[World]) -> None:
    world = worlds[0]
    again, other = (World(world.town, seed, DURATION_S) for seed in (world.seed, 11))
    np.testing.assert_array_equal(world.actor2global(3_141_592), again.actor2global(3_141_592))
    for first, second in zip(world.actors, again.actors, strict=True):
        np.testing.assert_array_equal(first.shape.meshes[0].vertices, second.shape.meshes[0].vertices)
    assert not np.array_equal(world.ego2global(0), other.ego2global(0))


def test_lights_show_on_every_stop_line(worlds: list[World]) -> None:
    world = worlds[0]
    colours = world.signal_colours(0)
    kinds = [stop.kind for stop in world.town.stop_lines]
    assert all((colour == "") == (kind != "TRAFFIC_LIGHT") for colour, kind in zip(colours, kinds, strict=True))
    assert {"green", "red"} <= set(colours)


def test_times_outside_the_scene_and_bad_arguments_are_named(worlds: list[World]) -> None:
    world = worlds[0]
    with pytest.raises(ValueError, match=r"World: time_us must be in -1000000\.\.13000000, got 13000001"):
        world.ego2global(13_000_001)
    with pytest.raises(ValueError, match="World: duration_s must be finite and above 0, got 0"):
        World(world.town, 0, 0)
    with pytest.raises(ValueError, match="World: seed must be at least 0, got -1"):
        World(world.town, -1, 10.0)
