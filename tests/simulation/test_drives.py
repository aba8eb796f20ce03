"""What the ego does in scenes of each kind: along streets, over junctions, into places and out of them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from shapely.geometry import Polygon

from perception.formats.classes import CATEGORY_TO_CLASS, DETECTION_CLASSES
from perception.simulation.can_bus import STEERING_RATIO, WHEEL_RADIUS_M, WHEELBASE_M, can_bus
from perception.simulation.ego import EGO_CENTRE_M, Drive
from perception.simulation.ego_parking import draw_parking
from perception.simulation.manoeuvres import (
    STEERING_RAD,
    STEERING_RAD_S,
    Leg,
    Move,
    Rest,
    Straight,
    Turn,
    legs_along,
    solved,
    timed,
)
from perception.simulation.town.plan import draw_plan
from perception.simulation.traffic_overlap import rectangle_corners, rectangles_overlap
from perception.simulation.world import World
from perception.simulation.yards import find_yards
from tests.simulation.bare_town import bare_town

DURATION_S = 8.0
STEERING_LIMIT_RAD = np.radians(35.0)
ANY_DIGEST = "4b66f30b7d733741"


def world_of(seed: int, drive: Drive) -> World:
    return World(bare_town(seed % 4, seed % 2 == 0), seed, DURATION_S, drive)


@pytest.fixture(scope="module")
def parking() -> list[World]:
    return [world_of(seed, "parking") for seed in range(6)]


@pytest.fixture(scope="module")
def streets() -> list[World]:
    return [world_of(seed, "street") for seed in (0, 1)]


@pytest.fixture(scope="module")
def junctions() -> list[World]:
    return [world_of(seed, "junction") for seed in (1, 5)]


def motion_of(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Speeds along and across the car (K,) and its yaw rate (K,), 20 times a second."""
    times = np.arange(world.first_us, world.last_us, 50_000)
    ahead = np.array([world.ego2global(int(time))[:2, 0] for time in times])
    velocity = np.array([world.ego_velocity(int(time)) for time in times])
    along = (velocity[:, :2] * ahead).sum(axis=1)
    across = velocity[:, 1] * ahead[:, 0] - velocity[:, 0] * ahead[:, 1]
    return along, across, velocity[:, 3]


def boxes_of(world: World, time_us: int) -> np.ndarray:
    """(A + 1, 5) rectangles on the ground, ego first."""
    poses, ego = world.actor2global(time_us), world.ego2global(time_us)
    sizes = np.array([actor.shape.size_lwh_m[:2] for actor in world.actors])
    rows = np.column_stack((poses[:, :2, 3], sizes, np.arctan2(poses[:, 1, 0], poses[:, 0, 0])))
    center = ego[:2, 3] + EGO_CENTRE_M * ego[:2, 0]
    return np.vstack(([*center, *world.ego_size_lwh_m[:2], np.arctan2(ego[1, 0], ego[0, 0])], rows))


def gap_m(world: World, time_us: int) -> float:
    """From the ego to the nearest actor."""
    ego, *others = (Polygon(corners) for corners in rectangle_corners(boxes_of(world, time_us)))
    return min(ego.distance(other) for other in others)


def test_a_quarter_turn_is_an_arc_of_the_radius_asked_for() -> None:
    (leg, _) = legs_along(np.array([2.0, 1.0, 0.0]), [Turn(1, np.pi / 2, 0.2, eased=(False, False))])
    assert isinstance(leg, Leg)
    np.testing.assert_allclose(leg.poses[-1], [7.0, 6.0, np.pi / 2], atol=1e-4)
    np.testing.assert_allclose(leg.steering_rad, np.arctan(0.2 * WHEELBASE_M))
    (back, _) = legs_along(np.zeros(3), [Turn(-1, np.pi / 2, 0.2, eased=(False, False))])
    assert isinstance(back, Leg)
    np.testing.assert_allclose(back.poses[-1], [-5.0, -5.0, np.pi / 2], atol=1e-4)
    assert (back.steering_rad < 0).all()  # backing with the wheels to the right turns the car to the left


def test_open_straights_lead_to_the_goal() -> None:
    way: list[Move] = [
        Straight(1),
        Turn(1, -0.5),
        Turn(-1, -(np.pi / 2 - 0.5), eased=(False, True)),
        Straight(-1),
        Rest(1.0),
    ]
    start, goal = np.array([1.0, 2.0, 0.0]), (12.0, 10.0)
    found = solved(start, way, goal)
    assert found is not None
    legs = [leg for leg in legs_along(start, found) if isinstance(leg, Leg)]
    assert [leg.gear for leg in legs] == [1, -1]
    np.testing.assert_allclose(legs[-1].poses[-1], [*goal, -np.pi / 2], atol=1e-4)
    assert solved(start, way, (0.0, 10.0)) is None  # it would have to begin by backing
    assert solved(start, [Straight(1), Straight(1)], goal) is None


def test_speeds_steering_and_their_changes_keep_to_limits() -> None:
    way: list[Move] = [Straight(1, 9.0), Turn(1, 0.6), Turn(-1, 0.9, eased=(False, True)), Straight(-1, 3.0), Rest(1.5)]
    legs = legs_along(np.zeros(3), way)
    poses, parked = timed(legs, 2.5, 1.2)
    speed = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1) / 0.05
    assert 2.0 < speed.max() <= 2.5
    along = speed * np.sign((np.diff(poses[:, :2], axis=0) * [[1, 0]] * np.cos(poses[:-1, 2:])).sum(axis=1))
    assert along.min() == pytest.approx(-1.2, abs=0.02)
    assert np.abs(np.diff(speed)).max() / 0.05 < 0.65
    assert np.abs(np.diff(along, 2)).max() / 0.05**2 < 3.0
    rolls = speed > 0.3
    wheels = np.arctan(WHEELBASE_M * np.diff(poses[:, 2]) / 0.05 / np.where(rolls, along, 1.0))
    assert np.abs(wheels[rolls]).max() <= STEERING_RAD + 0.01
    turning = np.abs(np.diff(wheels))[rolls[1:] & rolls[:-1] & (np.sign(along[1:]) == np.sign(along[:-1]))]
    assert turning.max() / 0.05 <= 1.1 * STEERING_RAD_S
    assert parked.shape == (1, 2)
    np.testing.assert_array_equal(poses[-1], poses[-20])


def test_aisles_are_found_in_all_car_parks() -> None:
    for seed in range(3):
        parks = draw_plan(2 * seed).car_parks
        yards = next(find_yards(bare_town(seed)))
        assert len(yards) == sum(2 if park.size_m[1] > 20 else 1 for park in parks)
        for yard in yards:
            assert yard.across
            assert yard.half_width_m == pytest.approx(3.2)
            assert all(abs(abs(place.y) - 5.7) < 1e-6 for place in yard.places[: yard.beside])


def test_the_car_that_parks_turns_as_a_car_does(parking: list[World]) -> None:
    backed = 0
    for world in parking:
        along, across, rate = motion_of(world)
        assert np.abs(across).max() < 0.02
        assert along.max() < 3.1
        assert along.min() > -1.5
        backed += int(along.min() < -0.5)
        assert np.abs(np.diff(along)).max() / 0.05 < 0.8
        rolls = np.abs(along) > 0.2
        wheels = np.arctan(WHEELBASE_M * rate[rolls] / along[rolls])
        assert np.abs(wheels).max() < STEERING_LIMIT_RAD
        assert (np.abs(along) > 0.05).mean() > 0.5
    assert backed >= 3


def test_parking_ends_near_others_and_touches_nobody(parking: list[World]) -> None:
    gaps = np.array([gap_m(world, round(DURATION_S * 1e6)) for world in parking])
    assert gaps.min() > 0.3
    assert (gaps < 2.5).sum() >= 5
    for world in parking:
        for time_us in [*range(world.first_us, world.last_us, 317_391), world.last_us]:
            boxes = boxes_of(world, time_us)
            first, second = np.triu_indices(len(boxes), 1)
            near = np.linalg.norm(boxes[first, :2] - boxes[second, :2], axis=1) < 16
            assert not rectangles_overlap(boxes[first[near]], boxes[second[near]]).any()


def test_every_class_is_there_and_somebody_walks_among_the_places(parking: list[World]) -> None:
    walking = 0
    for world in parking:
        assert {CATEGORY_TO_CLASS.get(actor.shape.category) for actor in world.actors} >= set(DETECTION_CLASSES)
        apart = np.linalg.norm(world.actor2global(0)[:, :2, 3] - world.ego2global(0)[:2, 3], axis=1)
        names = world.actor_attributes(4_000_000)
        walking += sum(name == "pedestrian.moving" for name, away in zip(names, apart, strict=True) if away < 20)
    assert walking >= 6


def test_streets_lead_past_junctions_and_junction_scenes_turn_there(
    streets: list[World], junctions: list[World]
) -> None:
    away, turned, paces = [], [], []
    for world in (*streets, *junctions):
        times = range(0, round(DURATION_S * 1e6) + 1, 100_000)
        poses = np.array([world.ego2global(time) for time in times])
        centers = np.array([junction.center for junction in world.town.junctions])
        away.append(np.linalg.norm(poses[:, None, :2, 3] - centers, axis=-1).min(axis=1).mean())
        turned.append(np.ptp(np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))))
        paces.append(np.linalg.norm(np.diff(poses[:, :2, 3], axis=0), axis=1).sum() / DURATION_S)
    assert min(away[:2]) > 40 > 30 > max(away[2:])
    assert max(turned[:2]) < 0.6 < 0.9 < min(turned[2:])
    assert min(paces[:2]) > 5


def test_a_drive_repeats_and_differs_from_the_others(parking: list[World], streets: list[World]) -> None:
    world = parking[0]
    again = world_of(world.seed, "parking")
    for time_us in (-1_000_000, 3_141_592):
        np.testing.assert_array_equal(world.ego2global(time_us), again.ego2global(time_us))
        np.testing.assert_array_equal(world.actor2global(time_us), again.actor2global(time_us))
    assert not np.array_equal(world.ego2global(0), streets[0].ego2global(0))
    assert world.drive == "parking"


def test_scenes_of_any_kind_are_what_they_were() -> None:
    world = World(bare_town(0), 0, 4.0)
    poses = [(world.ego2global(time)[:2], world.actor2global(time)[:, :2].sum(axis=0)) for time in (0, 2_345_678)]
    numbers = np.concatenate([np.ravel(part) for pair in poses for part in pair])
    digest = hashlib.sha256(np.char.mod("%.2f", numbers + 1e-4).tobytes()).hexdigest()
    assert len(world.actors) == 233
    assert digest[:16] == ANY_DIGEST


@pytest.mark.parametrize("longest_m", [7.0, 0.0])
def test_towns_without_car_parks_have_roads_to_park_beside(longest_m: float) -> None:
    """With bays alone, and with no places at all."""
    for right in (True, False):
        town = bare_town(1, right)
        slots = tuple(slot for slot in town.parking_slots if 5.5 < slot.length_m < longest_m)
        town = replace(town, parking_slots=slots)
        for duration_s in (4.0, 60.0):
            drive = draw_parking(town, duration_s, np.random.default_rng(3))
            assert not drive.yard.across
            assert drive.yard.lanes
            assert len(drive.poses) == round((duration_s + 2) / 0.05) + 1
            steps = np.diff(drive.poses[:, :2], axis=0)
            ahead = np.stack((np.cos(drive.poses[:-1, 3]), np.sin(drive.poses[:-1, 3])), axis=1)
            along = (steps * ahead).sum(axis=1)
            assert along.min() < -0.01 or duration_s < 10
            assert (np.abs(along) > 0.003).mean() > (0.15 if duration_s < 10 else 0.5)


def test_the_can_bus_tells_when_the_car_backs(parking: list[World]) -> None:
    world = next(world for world in parking if motion_of(world)[0].min() < -0.8)
    bus = can_bus(world, 0)
    pose, info, monitor = (bus.messages[name] for name in ("pose", "zoe_veh_info", "vehicle_monitor"))
    assert pose["vel"][:, 0].min() < -0.8
    along = np.interp(info["utime"], pose["utime"], pose["vel"][:, 0])
    turning = np.interp(info["utime"], pose["utime"], pose["rotation_rate"][:, 2])
    wheels = (info["RL_wheel_speed"] + info["RR_wheel_speed"]) * np.pi * WHEEL_RADIUS_M / 60
    np.testing.assert_allclose(wheels, np.abs(along), atol=0.06)
    np.testing.assert_allclose(info["odom_speed"] / 3.6, np.abs(along), atol=0.02)
    steering = bus.messages["steeranglefeedback"]
    wheel = -np.interp(info["utime"], steering["utime"], steering["value"]) / STEERING_RATIO  # to the left
    backs = along < -0.7
    np.testing.assert_allclose((along * np.tan(wheel) / WHEELBASE_M)[backs], turning[backs], atol=0.02)
    at = np.interp(monitor["utime"], pose["utime"], pose["vel"][:, 0])
    assert set(monitor["gear_position"][at < -0.1]) == {1}
    assert set(monitor["gear_position"][at > 0.1]) <= {7}
    assert not ((monitor["brake"] > 0) & (monitor["throttle"] > 0)).any()


def test_an_unknown_drive_is_named() -> None:
    with pytest.raises(ValueError, match=r"World: drive must be one of any, street, junction, parking, got 'fly'"):
        World(bare_town(0), 0, 4.0, "fly")  # type: ignore[arg-type]
