"""What the car says of itself fits how it drives, and the devkit's reader takes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.formats.can_bus import MESSAGES, CanBus, Columns, write_can_bus
from perception.simulation.can_bus import STEERING_RATIO, TRACK_M, WHEEL_RADIUS_M, WHEELBASE_M, can_bus
from perception.simulation.world import World
from tests.simulation.bare_town import bare_town

EPOCH_US = 1_533_006_100_000_000
DURATION_S = 12.0
SCENES = ((0, True, 0), (0, False, 7))
RATES_HZ = {"ms_imu": 100, "pose": 50, "steeranglefeedback": 100, "vehicle_monitor": 2, "zoe_veh_info": 100}


@pytest.fixture(scope="module")
def driven() -> list[tuple[World, CanBus]]:
    worlds = [
        World(replace(bare_town(town, right), origin_m=(740.0, 1480.0)), seed, DURATION_S)
        for town, right, seed in SCENES
    ]
    return [(world, can_bus(world, EPOCH_US)) for world in worlds]


def seconds(columns: Columns) -> np.ndarray:
    return (columns["utime"] - EPOCH_US) * 1e-6


def truth(world: World, columns: Columns) -> np.ndarray:
    """(N, 4) velocity x y z and yaw rate at the times of messages."""
    return np.stack([world.ego_velocity(int(time)) for time in columns["utime"] - EPOCH_US])


def test_messages_come_at_their_rates_all_through_the_scene(driven: list[tuple[World, CanBus]]) -> None:
    for _, bus in driven:
        for name, rate in RATES_HZ.items():
            times = seconds(bus.messages[name])
            assert (np.diff(times) > 0).all()
            assert times[0] < 0.5
            assert times[-1] > DURATION_S - 0.2
            assert (len(times) - 1) / (times[-1] - times[0]) == pytest.approx(rate, rel=0.02)
        sensors = seconds(bus.messages["zoesensors"])
        assert 794 <= (len(sensors) - 1) / (sensors[-1] - sensors[0]) <= 973


def test_poses_are_those_of_the_world_on_the_map(driven: list[tuple[World, CanBus]]) -> None:
    for world, bus in driven:
        pose = bus.messages["pose"]
        for row in range(0, len(pose["utime"]), 37):
            expected = world.town.town2global @ world.ego2global(int(pose["utime"][row] - EPOCH_US))
            np.testing.assert_allclose(pose["pos"][row], expected[:3, 3])
            w, x, y, z = pose["orientation"][row]
            assert x == y == 0
            np.testing.assert_allclose([w * w - z * z, 2 * w * z], expected[:2, 0], atol=1e-12)
        assert np.linalg.norm(pose["pos"][0, :2]) > 740
        motion = truth(world, pose)
        np.testing.assert_allclose(np.linalg.norm(pose["vel"], axis=1), np.linalg.norm(motion[:, :3], axis=1))
        np.testing.assert_allclose(pose["rotation_rate"][:, 2], motion[:, 3])
        assert np.abs(pose["vel"][:, 1:]).max() < 0.1  # it does not slip


def test_acceleration_adds_up_to_the_change_of_speed(driven: list[tuple[World, CanBus]]) -> None:
    for _, bus in driven:
        for name, field, tolerance in (("pose", "accel", 0.05), ("ms_imu", "linear_accel", 0.5)):
            columns = bus.messages[name]
            times, along = seconds(columns), columns[field][:, 0]
            gained = np.sum((along[1:] + along[:-1]) / 2 * np.diff(times))
            speed = np.interp(times[[0, -1]], seconds(bus.messages["pose"]), bus.messages["pose"]["vel"][:, 0])
            assert gained == pytest.approx(speed[1] - speed[0], abs=tolerance)
            assert columns[field][:, 2].mean() == pytest.approx(9.81, abs=0.1)
        pose = bus.messages["pose"]  # a turn presses outwards: the acceleration points to its centre
        expected = pose["vel"][:, 0] * pose["rotation_rate"][:, 2]
        assert np.abs(pose["accel"][:, 1] - expected).mean() < 0.1


def test_steering_brings_about_the_turn(driven: list[tuple[World, CanBus]]) -> None:
    turned = 0
    for world, bus in driven:
        steering = bus.messages["steeranglefeedback"]
        motion = truth(world, steering)
        speed = np.linalg.norm(motion[:, :2], axis=1)
        rate = -speed * np.tan(steering["value"] / STEERING_RATIO) / WHEELBASE_M  # positive steering is to the right
        fast = speed > 1.5
        assert np.abs(rate - motion[:, 3])[fast].mean() < 0.01
        assert np.abs(steering["value"]).max() < 7.7
        turned += int(np.abs(rate[fast]).max() > 0.1)
        monitor = bus.messages["vehicle_monitor"]
        same = np.interp(seconds(monitor), seconds(steering), np.degrees(steering["value"]))
        np.testing.assert_allclose(monitor["steering"], same, atol=8)
        np.testing.assert_allclose(monitor["yaw_rate"], np.degrees(truth(world, monitor)[:, 3]), atol=2)
        info = bus.messages["zoe_veh_info"]
        np.testing.assert_allclose(info["steer_corrected"] - info["steer_raw"], 12.6, atol=1e-6)
    assert turned


def test_wheels_turn_as_fast_as_the_ground_passes_under_them(driven: list[tuple[World, CanBus]]) -> None:
    for world, bus in driven:
        info = bus.messages["zoe_veh_info"]
        motion = truth(world, info)
        speed = np.linalg.norm(motion[:, :2], axis=1)
        left, right = (info[f"R{side}_wheel_speed"] * 2 * np.pi * WHEEL_RADIUS_M / 60 for side in "LR")
        np.testing.assert_allclose((left + right) / 2, speed, atol=0.05)
        np.testing.assert_allclose((right - left) / TRACK_M, motion[:, 3], atol=0.06)
        front = info["FL_wheel_speed"] + info["FR_wheel_speed"]  # on the wider circle
        assert (front > 0.995 * (info["RL_wheel_speed"] + info["RR_wheel_speed"]) - 0.1).all()
        steps = info["FL_wheel_speed"] / 0.0417
        np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
        monitor = bus.messages["vehicle_monitor"]
        np.testing.assert_allclose(
            monitor["vehicle_speed"] / 3.6, np.linalg.norm(truth(world, monitor)[:, :2], axis=1), atol=0.02
        )


def test_pedals_go_with_the_acceleration(driven: list[tuple[World, CanBus]]) -> None:
    braked = pushed = 0
    for _, bus in driven:
        monitor, pose = bus.messages["vehicle_monitor"], bus.messages["pose"]
        along = np.interp(seconds(monitor), seconds(pose), pose["accel"][:, 0])
        rolls = monitor["vehicle_speed"] > 2
        assert not (monitor["brake"] > 0)[(along > 0.2) & rolls].any()
        assert (monitor["throttle"] > 0)[(along > 0.3) & rolls].all()
        assert (monitor["brake"] > 0)[(along < -1.3) & rolls].all()
        assert not ((monitor["brake"] > 0) & (monitor["throttle"] > 0)).any()
        braked, pushed = braked + int(monitor["brake"].max() > 0), pushed + int(monitor["throttle"].max() > 0)
        assert set(np.unique(monitor["brake_switch"])) <= {1, 2, 3}
        for name, low, high in (("brake", 0, 126), ("throttle", 0, 1000), ("battery_level", 0, 100)):
            assert low <= monitor[name].min() <= monitor[name].max() <= high
        assert not (monitor["left_signal"] & monitor["right_signal"]).any()
        sensor = bus.messages["zoesensors"]["brake_sensor"]
        assert sensor.min() >= 0.375
        assert sensor.max() <= 0.411
    assert braked
    assert pushed


def test_the_devkit_reads_all_of_it_and_finds_the_way_on_the_route(
    driven: list[tuple[World, CanBus]], tmp_path: Path
) -> None:
    api = pytest.importorskip("nuscenes.can_bus.can_bus_api", reason="the devkit reads the files")
    (tmp_path / "can_bus").mkdir()
    names = ("scene-0061", "scene-0103")
    for name, (_, bus) in zip(names, driven, strict=True):
        write_can_bus(tmp_path / "can_bus", name, bus)
    reader = api.NuScenesCanBus(dataroot=str(tmp_path))
    assert reader.list_misaligned_routes(max_misalignment=0.6) == []
    for name, (_, bus) in zip(names, driven, strict=True):
        for message, fields in MESSAGES.items():
            rows = reader.get_messages(name, message)
            assert all(row.keys() == {"utime", *fields} for row in rows)
            assert len(rows) == reader.get_messages(name, "meta")[message]["message_count"]
        route, pose = reader.get_pose_and_route(name)
        assert np.abs(np.linalg.norm(np.diff(route, axis=0), axis=1) - 1).max() < 0.3
        for end in (0, -1):
            assert 40 < np.linalg.norm(route[end] - pose[end]) < 75
        assert np.abs(route - bus.route).max() == 0


def test_the_same_scene_says_the_same(driven: list[tuple[World, CanBus]]) -> None:
    world, bus = driven[0]
    again = can_bus(world, EPOCH_US)
    for name, columns in bus.messages.items():
        for field, values in columns.items():
            np.testing.assert_array_equal(again.messages[name][field], values)
    other = driven[1][1].messages["ms_imu"]["linear_accel"]
    assert not np.array_equal(other[:100], bus.messages["ms_imu"]["linear_accel"][:100])
