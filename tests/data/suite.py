"""The made-up drive with radars, radars with height, ultrasonic sensors, fisheyes and near-field truth.

The vehicle drives straight on at `EGO_SPEED_M_S`. Ahead of it a car drives along its line, seen by the front radars; a
post stands beside the road, seen by radars and heard by the ultrasonic sensors. The world's frame is the ego frame of a
scene's first sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from PIL import Image

from perception.formats.near_field import near_field_bytes
from perception.formats.nuscenes_rows import CalibratedSensorRow, EgoPoseRow, SampleDataRow, SensorRow
from perception.formats.nuscenes_tables import Tables, read_tables, write_tables
from perception.formats.radar import RADAR_FIELDS, write_radar
from perception.formats.radar4d import write_radar4d
from perception.formats.ultrasonic import Burst, EchoState, write_ultrasonic
from tests.synthetic_nuscenes import EGO_SPEED_M_S, VERSION, _heading, _yaw_quaternion, token, write_synthetic_nuscenes

POST_M = (6.0, 1.5)
CAR_START_M, CAR_SPEED_M_S = 30.0, 9.0
RADARS = {"RADAR_FRONT": (3.4, 0.0, 0.0), "RADAR_FRONT_LEFT": (2.4, 0.8, 1.4), "RADAR_BACK_LEFT": (-0.6, 0.6, 2.8)}
RADARS_4D = {"RADAR4D_FRONT": (3.4, 0.0, 0.0)}
ULTRASONICS = {
    "ULTRASONIC_02": (3.3, 0.62, 0.55),
    "ULTRASONIC_03": (3.42, 0.24, 0.1),
    "ULTRASONIC_09": (-0.65, -0.24, 3.0),
}
FISHEYES = {"FISHEYE_FRONT": (3.7, 0.0, 0.0), "FISHEYE_LEFT": (2.0, 1.0, 1.57)}
DISTORTION = (0.0141, 0.0484, -0.0187, 0.0025)
THETA_MAX_RAD = 1.6
FISHEYE_SIZE_PX = (80, 120)
RADAR_DELAY_US, RADAR_PERIOD_US, NUM_SWEEPS = 16_000, 77_000, 3
SOUND_M_S = 340.0
REACH_M = 4.0
HEIGHT_M = 0.5


@dataclass(frozen=True)
class Place:
    """A recording to be made: of which sensor, mounted where (x y yaw in the ego frame), in which drive and when."""

    scene: str
    sample: str
    channel: str
    mount: tuple[float, float, float]
    time_us: int
    since_start_s: float


def write_suite(root: Path) -> Path:
    """Writes the set.

    Args:
        root: the folder to write to.

    Returns:
        `root`.
    """
    write_synthetic_nuscenes(root)
    tables = read_tables(root / VERSION)
    kinds = {"radar": RADARS, "radar4d": RADARS_4D, "ultrasonic": ULTRASONICS, "fisheye": FISHEYES}
    for kind, channels in kinds.items():
        for channel, mount in channels.items():
            _mount(tables, kind, channel, mount)
    for scene in tables.scene:
        samples = [row for row in tables.sample if row.scene_token == scene.token]
        for kind, channels in kinds.items():
            for number, (channel, mount) in enumerate(channels.items()):
                rows = []
                for sample in samples:
                    for time_us, is_key in _times(kind, sample.timestamp, number):
                        since_s = (time_us - samples[0].timestamp) * 1e-6
                        place = Place(scene.name, sample.token, channel, mount, time_us, since_s)
                        rows.append(_record(tables, root, kind, place, is_key))
                _chain(tables, rows)
        for sample in samples:
            path = root / "near_field" / scene.name / f"{sample.token}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(near_field_bytes(near_field_cells()))
    write_tables(root / VERSION, tables)
    return root


def near_field_cells() -> np.ndarray:
    """(160, 160) uint8: free but for one occupied cell, and unknown behind it."""
    cells = np.zeros((160, 160), np.uint8)
    cells[95, 140], cells[95, 141:] = 1, 2
    return cells


def radar_rows(place: Place) -> np.ndarray:
    """(P, 18): the car, the post, and returns of all states."""
    car, post = _seen(place, (CAR_START_M + CAR_SPEED_M_S * place.since_start_s, 0.0)), _seen(place, POST_M)
    line = car / np.linalg.norm(car)
    ahead = np.array([math.cos(place.mount[2]), -math.sin(place.mount[2])])  # the ego's x axis, seen from the radar
    rate = CAR_SPEED_M_S * float(line @ ahead)
    rng = np.random.default_rng(place.time_us % 1_000_003)
    rows = np.zeros((24, len(RADAR_FIELDS)))
    column = {name: number for number, name in enumerate(RADAR_FIELDS)}
    rows[:, column["x"]], rows[:, column["y"]] = rng.uniform(4, 60, 24), rng.uniform(-30, 30, 24)
    rows[:, column["rcs"]] = rng.integers(-10, 40, 24) / 2
    rows[:, column["dyn_prop"]], rows[:, column["invalid_state"]] = 1, rng.choice([0, 4, 3], 24)
    rows[:, column["ambig_state"]], rows[:, column["pdh0"]] = rng.choice([3, 3, 1], 24), 1
    rows[:, column["x_rms"]], rows[:, column["y_rms"]] = 19, 20
    for row, seen in enumerate((car, post)):
        rows[row, [column["x"], column["y"]]] = seen
        rows[row, [column["invalid_state"], column["ambig_state"]]] = 0, 3
    rows[0, [column["vx_comp"], column["vy_comp"]]] = rate * line
    rows[0, column["dyn_prop"]] = 0
    return rows


def sound_path(sender: tuple, receiver: tuple) -> float:
    """Half the way of a sound by the post from one mount to another while the vehicle drives, of a burst at 0 s."""
    out = math.hypot(POST_M[0] - sender[0], POST_M[1] - sender[1])
    way = 2 * out
    for _ in range(20):  # to where the receiver has come by then
        driven = EGO_SPEED_M_S * way / SOUND_M_S
        way = out + math.hypot(POST_M[0] - receiver[0] - driven, POST_M[1] - receiver[1])
    return way / 2


def burst_of(place: Place) -> Burst:
    """What the sensors report of a burst; number 9 looks back and hears nothing, 3 is blind in the second sample."""
    sender = int(place.channel[-2:])
    start = EGO_SPEED_M_S * place.since_start_s
    listeners = [9] if sender == 9 else [2, 3]
    state = [EchoState.NO_OBJECT if n == 9 or place.since_start_s > 0.3 else EchoState.OBJECT for n in listeners]
    if sender != 9 and place.since_start_s > 0.3:
        state[1] = EchoState.BLIND
    distance = np.full((len(listeners), 2), np.nan)
    for row, number in enumerate(listeners):
        if state[row] == EchoState.OBJECT:
            mounts = [ULTRASONICS[f"ULTRASONIC_{n:02}"] for n in (sender, number)]
            distance[row, 0] = sound_path(*[(x + start, y) for x, y, _ in mounts])
            distance[row, 1] = distance[row, 0] + 0.4 if number == sender else np.nan
    return Burst(
        sender=sender,
        sound_speed_m_s=SOUND_M_S,
        half_beam_rad=0.7,
        noise_m=0.01,
        temperature_c=15.0,
        receiver=np.array(listeners, np.uint8),
        state=np.array(state, np.uint8),
        reach_m=np.full(len(listeners), REACH_M),
        distance_m=distance,
        level_db=np.where(np.isnan(distance), np.nan, 31.0),
    )


def _times(kind: str, sample_us: int, number: int) -> list[tuple[int, bool]]:
    if kind in ("radar", "radar4d"):
        last = sample_us + RADAR_DELAY_US
        return [(last - back * RADAR_PERIOD_US, kind == "radar" and not back) for back in range(NUM_SWEEPS, -1, -1)]
    return [(sample_us - 36_000 * (3 - number), False)] if kind == "ultrasonic" else [(sample_us, False)]


def _seen(place: Place, world: tuple[float, float]) -> np.ndarray:
    """(2,) a place of the world in the sensor's frame at its time."""
    x, y, yaw = place.mount
    offset = np.array(world) - (x + EGO_SPEED_M_S * place.since_start_s, y)
    return np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]]) @ offset


def _mount(tables: Tables, kind: str, channel: str, mount: tuple[float, float, float]) -> None:
    tables.sensor.append(SensorRow(token=token("sensor", channel), channel=channel, modality=kind))
    camera = kind == "fisheye"
    tables.calibrated_sensor.append(
        CalibratedSensorRow(
            token=token("calibration", channel),
            sensor_token=token("sensor", channel),
            translation=(mount[0], mount[1], HEIGHT_M),
            rotation=_yaw_quaternion(mount[2]),
            camera_intrinsic=((31.0, 0.0, 59.5), (0.0, 31.0, 39.5), (0.0, 0.0, 1.0)) if camera else (),
            camera_model="kannala_brandt" if camera else None,
            camera_distortion=DISTORTION if camera else None,
            camera_theta_max_rad=THETA_MAX_RAD if channel == "FISHEYE_FRONT" else None,
        )
    )


def _record(tables: Tables, root: Path, kind: str, place: Place, is_key: bool) -> SampleDataRow:
    suffix = {"radar": "pcd", "radar4d": "bin", "ultrasonic": "ultra", "fisheye": "jpg"}[kind]
    folder = "samples" if is_key else "sweeps"
    filename = f"{folder}/{place.channel}/{place.scene}__{place.channel}__{place.time_us}.{suffix}"
    path = root / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "radar":
        write_radar(path, radar_rows(place))
    elif kind == "radar4d":
        car, post = _seen(place, (CAR_START_M + CAR_SPEED_M_S * place.since_start_s, 0.0)), _seen(place, POST_M)
        write_radar4d(
            path, np.array([[*car, 1.0, 5.0, CAR_SPEED_M_S, 10.0, 25.0], [*post, 0.5, -4.0, 0.1, -5.0, 12.0]])
        )
    elif kind == "ultrasonic":
        write_ultrasonic(path, burst_of(place))
    else:
        pixels = np.random.default_rng(len(place.channel)).integers(0, 255, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(FISHEYE_SIZE_PX[::-1]).save(path, quality=90)
    name = token("data", place.scene, place.channel, place.time_us)
    heading, driven_m = _heading(place.scene), EGO_SPEED_M_S * place.since_start_s
    position = (500 + driven_m * math.cos(heading), 1000 + driven_m * math.sin(heading), 0.0)
    tables.ego_pose.append(
        EgoPoseRow(token=name, timestamp=place.time_us, rotation=_yaw_quaternion(heading), translation=position)
    )
    height, width = FISHEYE_SIZE_PX if kind == "fisheye" else (0, 0)
    return SampleDataRow(
        token=name,
        sample_token=place.sample,
        ego_pose_token=name,
        calibrated_sensor_token=token("calibration", place.channel),
        timestamp=place.time_us,
        is_key_frame=is_key,
        filename=filename,
        prev="",
        next="",
        fileformat=suffix,
        width=width,
        height=height,
    )


def _chain(tables: Tables, rows: list[SampleDataRow]) -> None:
    names = ["", *(row.token for row in rows), ""]
    tables.sample_data += [replace(row, prev=names[n], next=names[n + 2]) for n, row in enumerate(rows)]
