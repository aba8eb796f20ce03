"""What the simulated car says of itself over its CAN bus: pose, inertial unit, steering, wheels, pedals.

Everything follows from where the car is. It turns as a bicycle does that does not slip, so that steering follows from
yaw rate over speed; wheels turn by their distance from the centre of the turn; pedals follow from the acceleration and
what driving costs. Poses are exact, as those of the tables; measured numbers have noise and the steps of the original.

Source: devkit of nuScenes, `can_bus/README.md` (fields, rates, units, resolutions and signs: steering is positive to
the right, all else to the left; of gears it names 0, parked, and 7, driving); Rajamani 2012, "Vehicle Dynamics and
Control", section 2.2 (bicycle model).
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from perception.formats.can_bus import CanBus, Columns
from perception.geometry.headings import headings
from perception.simulation.ego import WHEELBASE_M
from perception.simulation.town.town import Lane
from perception.simulation.world import World

WHEEL_RADIUS_M = 0.305
TRACK_M = 1.51
STEERING_RATIO = 16.2
"""Turn of the steering wheel over turn of the front wheels."""

ROUTE_BEYOND_M = 50.0
_MOST_LANES = 20

_WHEELS = (
    # place ahead of the rear axle and left of the middle, radius
    ("FL", WHEELBASE_M, TRACK_M / 2, 0.9985 * WHEEL_RADIUS_M),
    ("FR", WHEELBASE_M, -TRACK_M / 2, 1.0010 * WHEEL_RADIUS_M),
    ("RL", 0.0, TRACK_M / 2, 1.0005 * WHEEL_RADIUS_M),
    ("RR", 0.0, -TRACK_M / 2, 0.9995 * WHEEL_RADIUS_M),
)

_GRAVITY = 9.81
_STEP_US = 10_000
_DIFFERENCE_US = 30_000
_REVERSES_M_S = -0.02
_GEAR_FORWARD, _GEAR_REVERSE = 7, 1  # the second is a number of our own
_SLOWEST_M_S = 0.6  # below, the steering is taken from before and after
_MARGIN_US = 500_000
_STEER_OFFSET_DEG = -12.6
_RPM_STEP = 0.0417
_ODOM_CM = 125
_SIGNAL_AHEAD_S, _SIGNAL_TURN_RAD = 3.0, 0.35
_RATES_HZ = {
    "ms_imu": 100, "pose": 50, "steeranglefeedback": 100, "vehicle_monitor": 2, "zoesensors": 800, "zoe_veh_info": 100,
}  # fmt: skip


class Drive(NamedTuple):
    """How the car moves, at the times of K samples.

    Attributes:
        t_us: (K,) since the scene's zero.
        speed_m_s: (K,) along its axis.
        yaw_rate_rad_s: (K,) to the left.
        acceleration: (K, 2) m/s^2 along the car's axis and to its left.
        steering_rad: (K,) turn of the steering wheel to the right.
        steering_rad_s: (K,) its change.
        travelled_m: (K,) since the first sample.
        turn_ahead_rad: (K,) how far it will turn to the left within the next seconds; to the right where it backs.
    """

    t_us: np.ndarray
    speed_m_s: np.ndarray
    yaw_rate_rad_s: np.ndarray
    acceleration: np.ndarray
    steering_rad: np.ndarray
    steering_rad_s: np.ndarray
    travelled_m: np.ndarray
    turn_ahead_rad: np.ndarray

    def at(self, t_us: np.ndarray) -> Drive:
        """The same at other times (N,)."""
        rest = [
            np.stack([np.interp(t_us, self.t_us, column) for column in values.reshape(len(values), -1).T], axis=-1)
            for values in self[1:]
        ]
        return Drive(t_us, *(new.reshape(len(t_us), *old.shape[1:]) for new, old in zip(rest, self[1:], strict=True)))


def can_bus(world: World, epoch_us: int) -> CanBus:
    """The messages of a scene, from its zero to half a second after its end.

    Args:
        world: the scene.
        epoch_us: what its zero is since 1970; `dataset.start_us` of the scene.

    Returns:
        All messages, and the route on the map.
    """
    end_us = min(round(world.duration_s * 1e6) + _MARGIN_US, world.last_us)
    drive = _drive(world, end_us)
    messages: dict[str, Columns] = {}
    for name, rate_hz in _RATES_HZ.items():
        rng = np.random.default_rng([world.seed, zlib.crc32(b"CAN_BUS"), zlib.crc32(name.encode())])
        period_us = 1e6 / rate_hz
        times = np.arange(0.3 * period_us, end_us - 0.1 * period_us, period_us)
        times = np.rint(times + rng.uniform(-0.1, 0.1, len(times)) * period_us).astype(np.int64)  # (N,)
        columns = _pose(world, drive.at(times)) if name == "pose" else _MAKERS[name](drive.at(times), rng)
        messages[name] = {"utime": epoch_us + times, **columns}
    return CanBus(messages, _route(world, end_us))


def _drive(world: World, end_us: int) -> Drive:
    times = np.arange(0, end_us + _STEP_US, _STEP_US).clip(max=end_us)
    reach = np.arange(-(_DIFFERENCE_US // _STEP_US), _DIFFERENCE_US // _STEP_US + 1) * _STEP_US
    padded = np.concatenate((times[0] + reach[reach < 0], times, times[-1] + reach[reach > 0]))
    padded = padded.clip(world.first_us, world.last_us)
    velocity = np.stack([world.ego_velocity(int(time)) for time in padded])  # (K + 6, 4)
    yaw = np.unwrap([_yaw(world, int(time)) for time in times])  # (K,)
    wide = len(reach) - 1
    change = (velocity[wide:, :2] - velocity[:-wide, :2]) / (wide * _STEP_US * 1e-6)  # (K, 2)
    ahead = np.stack((np.cos(yaw), np.sin(yaw)), axis=1)  # (K, 2)
    left = np.stack((-ahead[:, 1], ahead[:, 0]), axis=1)
    middle = slice(wide // 2, len(velocity) - wide // 2)
    speed = np.einsum("ki,ki->k", velocity[middle, :2], ahead)
    rate = np.convolve(velocity[:, 3], np.full(wide + 1, 1 / (wide + 1)), mode="valid")  # (K,)
    steering = _steering(speed, rate)
    later = np.interp(times + _SIGNAL_AHEAD_S * 1e6, times, yaw)
    return Drive(
        t_us=times,
        speed_m_s=speed,
        yaw_rate_rad_s=rate,
        acceleration=np.stack([np.einsum("ki,ki->k", change, axis) for axis in (ahead, left)], axis=1),
        steering_rad=steering,
        steering_rad_s=np.gradient(steering, _STEP_US * 1e-6),
        travelled_m=np.concatenate(([0.0], np.cumsum(_pace(speed)[:-1] * np.diff(times) * 1e-6))),
        turn_ahead_rad=np.where(_backs(speed), yaw - later, later - yaw),
    )


def _yaw(world: World, t_us: int) -> float:
    pose = world.ego2global(t_us)
    return float(np.arctan2(pose[1, 0], pose[0, 0]))


def _steering(speed_m_s: np.ndarray, yaw_rate_rad_s: np.ndarray) -> np.ndarray:
    """(K,) turn of the steering wheel to the right, radians; where the car all but stands, between before and after."""
    rolls = np.nonzero(np.abs(speed_m_s) > _SLOWEST_M_S)[0]
    if not len(rolls):
        return np.zeros(len(speed_m_s))
    wheels = np.arctan(WHEELBASE_M * yaw_rate_rad_s[rolls] / speed_m_s[rolls])
    return -STEERING_RATIO * np.interp(np.arange(len(speed_m_s)), rolls, wheels)


def _pose(world: World, drive: Drive) -> Columns:
    """Exact: positions and headings are those that the tables have."""
    poses = np.stack([world.town.town2global @ world.ego2global(int(time)) for time in drive.t_us])  # (N, 4, 4)
    velocities = np.stack([world.ego_velocity(int(time)) for time in drive.t_us])  # (N, 4)
    town2ego = np.stack([world.ego2global(int(time))[:3, :3].T for time in drive.t_us])
    return {
        "accel": _with_gravity(drive),
        "orientation": _quaternions(headings(poses[:, :2, 0])),
        "pos": poses[:, :3, 3],
        "rotation_rate": _about_z(velocities[:, 3]),
        "vel": np.einsum("nij,nj->ni", town2ego, velocities[:, :3]),
    }


def _imu(drive: Drive, rng: np.random.Generator) -> Columns:
    """At the rear axle, with the car's axes; its north is its own."""
    count = len(drive.t_us)
    turned = np.cumsum(np.diff(drive.t_us, prepend=drive.t_us[0]) * 1e-6 * drive.yaw_rate_rad_s)
    yaw = rng.uniform(-np.pi, np.pi) + turned + rng.normal(0, 1e-4) * drive.t_us * 1e-6  # it drifts
    return {
        "linear_accel": _with_gravity(drive) + rng.normal(0, 0.02, 3) + rng.normal(0, 0.12, (count, 3)),
        "q": _quaternions(yaw),
        "rotation_rate": _about_z(drive.yaw_rate_rad_s) + rng.normal(0, 8e-4, 3) + rng.normal(0, 4e-3, (count, 3)),
    }


def _steer_angle(drive: Drive, rng: np.random.Generator) -> Columns:
    return {"value": np.round(drive.steering_rad + rng.normal(0, 1.5e-3, len(drive.t_us)), 6)}


def _monitor(drive: Drive, rng: np.random.Generator) -> Columns:
    """The dashboard."""
    battery = float(rng.uniform(35, 95)) - drive.travelled_m / 1.4e3
    brake, throttle = _pedals(drive)
    left, right = (drive.turn_ahead_rad * sign > _SIGNAL_TURN_RAD for sign in (1, -1))
    rpm = _wheel_rpm(drive)
    return {
        "available_distance": np.rint(1.35 * battery).astype(int),
        "battery_level": np.rint(battery).astype(int),
        "brake": np.rint(brake).astype(int).clip(0, 126),
        "brake_switch": np.select([brake > 4, brake > 0], [3, 2], 1),
        "gear_position": np.where(_backs(drive.speed_m_s), _GEAR_REVERSE, _GEAR_FORWARD),
        "left_signal": left.astype(int),
        "rear_left_rpm": np.round(rpm["RL_wheel_speed"], 2),
        "rear_right_rpm": np.round(rpm["RR_wheel_speed"], 2),
        "right_signal": right.astype(int),
        "steering": np.round(np.degrees(drive.steering_rad), 1).clip(-780, 779.9),
        "steering_speed": np.rint(np.degrees(drive.steering_rad_s)).astype(int).clip(-465, 393),
        "throttle": np.rint(throttle).astype(int),
        "vehicle_speed": np.round(3.6 * _pace(drive.speed_m_s), 2),
        "yaw_rate": np.round(np.degrees(drive.yaw_rate_rad_s), 1),
    }


def _sensors(drive: Drive, rng: np.random.Generator) -> Columns:
    brake, throttle = _pedals(drive)
    sensor = 0.3755 + 0.035 * np.minimum(brake / 60, 1) + rng.normal(0, 2e-4, len(brake))
    return {
        "brake_sensor": np.round(sensor.clip(0.375, 0.411), 6),
        "steering_sensor": np.round(np.degrees(drive.steering_rad), 1),
        "throttle_sensor": np.rint(throttle).astype(int),
    }


def _vehicle(drive: Drive, rng: np.random.Generator) -> Columns:
    brake, throttle = _pedals(drive)
    torque = np.where(brake > 0, -30.0, 0.22 * throttle) * np.where(_backs(drive.speed_m_s), -1, 1)  # at the motor, Nm
    sun = rng.integers(5, 60, 2)
    steering_deg = np.degrees(drive.steering_rad) + rng.normal(0, 0.1, len(brake))
    across = drive.acceleration[:, 1] / _GRAVITY + rng.normal(0, 0.006, len(brake))
    return {
        **_wheel_rpm(drive),
        "left_solar": np.full(len(brake), sun[0]),
        "longitudinal_accel": _stepped(drive.acceleration[:, 0] + rng.normal(0, 0.05, len(brake)), 0.05),
        "meanEffTorque": _stepped(torque, 0.5) + 400,
        "odom": (100 * drive.travelled_m).astype(int) % _ODOM_CM,
        "odom_speed": np.round(3.6 * _pace(drive.speed_m_s), 2),
        "pedal_cc": np.rint(throttle).astype(int),
        "regen": np.rint(np.where(throttle > 0, 0, 60 * np.minimum(_pace(drive.speed_m_s) / 3, 1))).astype(int),
        "requestedTorqueAfterProc": _stepped(1.02 * torque, 0.5) + 400,
        "right_solar": np.full(len(brake), sun[1]),
        "steer_corrected": np.round(steering_deg, 1),
        "steer_offset_can": np.full(len(brake), _STEER_OFFSET_DEG),
        "steer_raw": np.round(steering_deg + _STEER_OFFSET_DEG, 1),
        "transversal_accel": _stepped(across, 0.004),
    }


_MAKERS = {
    "ms_imu": _imu,
    "steeranglefeedback": _steer_angle,
    "vehicle_monitor": _monitor,
    "zoesensors": _sensors,
    "zoe_veh_info": _vehicle,
}


def _pedals(drive: Drive) -> tuple[np.ndarray, np.ndarray]:
    """(N,) brake pressure in bar, and throttle 0..1000: what slows more than the motor does, is braked."""
    speed = _pace(drive.speed_m_s)
    along = np.where(_backs(drive.speed_m_s), -drive.acceleration[:, 0], drive.acceleration[:, 0])
    wanted = along + 0.12 + 4e-4 * speed**2  # m/s^2 with rolling and air
    standing = speed < 0.1
    coasting = -0.8 * np.minimum(speed / 3, 1)
    brake = np.where(standing, 15.0, 11 * np.maximum(coasting - wanted, 0))
    return brake, np.where(standing | (brake > 0), 0.0, (260 * (wanted - coasting)).clip(0, 1000))


def _wheel_rpm(drive: Drive) -> dict[str, np.ndarray]:
    """Revolutions per minute (N,) of the four wheels, whose tyres are not quite of one size."""
    rpm = {}
    for name, ahead_m, left_m, radius_m in _WHEELS:
        along = drive.speed_m_s - left_m * drive.yaw_rate_rad_s
        speed = np.hypot(along, ahead_m * drive.yaw_rate_rad_s)
        rpm[f"{name}_wheel_speed"] = _stepped(speed / (2 * np.pi * radius_m) * 60, _RPM_STEP)
    return rpm


def _backs(speed_m_s: np.ndarray) -> np.ndarray:
    """(N,) whether the car rolls back."""
    return speed_m_s < _REVERSES_M_S


def _pace(speed_m_s: np.ndarray) -> np.ndarray:
    """(N,) what the dashboard shows: speed without its sign."""
    return np.where(_backs(speed_m_s), -speed_m_s, np.maximum(speed_m_s, 0))


def _stepped(values: np.ndarray, step: float) -> np.ndarray:
    return np.round(np.rint(values / step) * step, 6)


def _with_gravity(drive: Drive) -> np.ndarray:
    """(N, 3) what an accelerometer feels on level ground, car's axes."""
    return np.column_stack((drive.acceleration, np.full(len(drive.t_us), _GRAVITY)))


def _about_z(rate: np.ndarray) -> np.ndarray:
    return rate[:, None] * np.array([0.0, 0.0, 1.0])  # (N, 3)


def _quaternions(yaw_rad: np.ndarray) -> np.ndarray:
    """(N, 4) w x y z of turns about z, w not negative."""
    half = ((yaw_rad + np.pi) % (2 * np.pi) - np.pi) / 2
    return np.column_stack((np.cos(half), np.zeros((len(half), 2)), np.sin(half)))


def _route(world: World, end_us: int) -> np.ndarray:
    """(K, 2) points a metre apart on the map: the way driven, and the lanes before and after it."""
    times = np.linspace(0, end_us, 2 + end_us // 50_000).astype(int)
    poses = np.stack([world.ego2global(int(time)) for time in times])
    driven = poses[:, :2, 3]
    before, after = (_along_lanes(world.town.lanes, poses[end], end == -1) for end in (0, -1))
    way = np.concatenate((before[::-1], driven, after))
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    way, stations = way[np.append(True, steps > 1e-6)], np.append(0.0, np.cumsum(steps[steps > 1e-6]))
    targets = np.arange(0.0, stations[-1], 1.0)
    points = np.stack([np.interp(targets, stations, way[:, axis]) for axis in (0, 1)], axis=1)
    return points @ world.town.town2global[:2, :2].T + world.town.town2global[:2, 3]


def _along_lanes(lanes: tuple[Lane, ...], pose: np.ndarray, onward: bool) -> np.ndarray:
    """(K, 2) points from a pose along the lanes, forward or back, the farthest last; they end where lanes do."""
    sign = 1 if onward else -1
    position, ahead = pose[:2, 3], pose[:2, 0]
    lane = min(lanes, key=lambda it: _misfit(it, position, ahead))
    points: list[np.ndarray] = []
    rest_m, here = ROUTE_BEYOND_M, position
    for _ in range(_MOST_LANES):
        for point in lane.centerline[::sign]:
            if (point - position) @ ahead * sign < 0.5 and not points:
                continue
            rest_m -= float(np.linalg.norm(point - here))
            here = point
            points.append(point)
            if rest_m <= 0:
                return np.array(points)
        following = lane.successors if onward else lane.predecessors
        if not following:
            break
        lane = min((lanes[i] for i in following), key=lambda it: it.turn not in ("", "straight"))
    return np.array(points).reshape(-1, 2)


def _misfit(lane: Lane, position: np.ndarray, ahead: np.ndarray) -> float:
    """How badly a lane fits a car: distance in metres, and 10 for driving against it."""
    distance = np.linalg.norm(lane.centerline - position, axis=1)
    nearest = min(int(distance.argmin()), len(distance) - 2)
    along = lane.centerline[nearest + 1] - lane.centerline[nearest]
    return float(distance.min() + 5 * (1 - along @ ahead / max(float(np.linalg.norm(along)), 1e-9)))
