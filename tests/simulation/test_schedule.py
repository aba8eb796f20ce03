"""When sensors record: sweeps lead to keyframes, and everything lies within the time that the world covers."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays of the sensors that are mounted")

from perception.simulation.rig import sensor_rig
from perception.simulation.schedule import FIRST_US, KEYFRAME_US, keyframe_times_us, recording_times_us
from perception.simulation.settings import SENSORS, Settings
from perception.simulation.traffic_actors import MARGIN_S

SETTINGS = Settings(seconds=3.0, sweeps=10, sensors=SENSORS, radar_sweeps=6)


def test_a_rig_has_what_is_asked_for_the_lidar_first() -> None:
    assert [it.modality for it in sensor_rig(Settings())] == ["lidar"] + 6 * ["camera"]
    some = sensor_rig(Settings(sensors=("camera", "lidar", "fisheye", "radar"), fisheye_size_px=(32, 48)))
    assert [it.modality for it in some[7:]] == 5 * ["radar"] + 4 * ["fisheye"]
    assert some[-1].image_size_px == (32, 48)
    rig = sensor_rig(SETTINGS)
    assert len({it.channel for it in rig}) == len(rig) == 7 + 5 + 2 + 12 + 4
    assert not any("CAM" in it.channel for it in rig if it.modality != "camera")


@pytest.mark.parametrize("modality", SENSORS)
def test_recordings_follow_one_another_and_the_last_is_near_its_keyframe(modality: str) -> None:
    keys = keyframe_times_us(SETTINGS)
    assert keys == [FIRST_US + number * KEYFRAME_US for number in range(6)]
    for sensor in (it for it in sensor_rig(SETTINGS) if it.modality == modality):
        times = recording_times_us(sensor, SETTINGS)
        assert len(times) == len(keys)
        assert len(times[0]) == 1
        for own, key in zip(times, keys, strict=True):
            assert abs(own[-1] - key) <= 108_000  # a cycle of the ultrasonic sensors
        every = np.concatenate(times)
        assert all(before < after for before, after in pairwise(every))
        assert every[0] > 0
        assert every[-1] < (SETTINGS.seconds + MARGIN_S) * 1e6 - 100_000


def test_how_many_sweeps_there_are() -> None:
    expected = {"lidar": {10}, "radar": {6, 7}, "radar4d": {6, 7}}
    for sensor in sensor_rig(SETTINGS):
        counts = {len(times) for times in recording_times_us(sensor, SETTINGS)[1:]}
        assert counts <= expected.get(sensor.modality, {1})
    for sensor in sensor_rig(Settings(seconds=3.0, sweeps=2, sensors=SENSORS)):
        counts = {len(times) for times in recording_times_us(sensor, Settings(seconds=3.0, sweeps=2))[1:]}
        assert counts == ({3} if sensor.modality == "lidar" else {1})
