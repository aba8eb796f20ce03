"""When sensors record: all at the keyframes, twice a second; the LiDAR in between; radars at a pace of their own."""

from __future__ import annotations

from perception.simulation.sensors.base import Sensor
from perception.simulation.sensors.lidar import Lidar
from perception.simulation.sensors.radar import PERIOD_S, Radar, scan_times_us
from perception.simulation.sensors.radar4d import Radar4d
from perception.simulation.settings import Settings

KEYFRAME_US = 500_000
SWEEP_US = 50_000
FIRST_US = KEYFRAME_US
"""Time of the first keyframe, late enough that no recording of a scene has a negative time."""

_SWEEPS_BETWEEN = KEYFRAME_US // SWEEP_US - 1


def keyframe_times_us(settings: Settings) -> list[int]:
    """The times of a scene's keyframes.

    Args:
        settings: what is recorded.

    Returns:
        Microseconds since the scene's zero, rising.
    """
    return [FIRST_US + number * KEYFRAME_US for number in range(settings.num_keyframes)]


def recording_times_us(sensor: Sensor, settings: Settings) -> list[list[int]]:
    """The times at which a sensor records.

    Args:
        sensor: any of the rig.
        settings: what is recorded.

    Returns:
        For each keyframe the times of the sweeps that lead to it, and last that of its own recording; the first
        keyframe has no sweeps.
    """
    keys = keyframe_times_us(settings)
    if isinstance(sensor, Radar | Radar4d):
        return scan_times_us(sensor.delay_us, PERIOD_S, keys, settings.radar_sweeps)
    sweeps = min(settings.sweeps, _SWEEPS_BETWEEN) if isinstance(sensor, Lidar) else 0
    own = [key + sensor.delay_us for key in keys]
    return [[time - back * SWEEP_US for back in range(sweeps if i else 0, -1, -1)] for i, time in enumerate(own)]
