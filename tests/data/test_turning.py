"""A vehicle that turns left: what sensors saw earlier lies where it is by the time of the sample."""

import math

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from perception.data.loading import CameraLoading, LidarLoading, RadarLoading, SampleLoader, UltrasonicLoading
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.lidar import write_lidar
from perception.formats.nuscenes_rows import EgoPoseRow
from perception.formats.nuscenes_tables import read_tables, write_tables
from perception.formats.radar import RADAR_FIELDS as SCAN_FIELDS
from perception.formats.radar import write_radar
from perception.formats.ultrasonic import Burst, EchoState, write_ultrasonic
from perception.structures import RADAR_FIELDS, Sample
from tests.data.conftest import IndexedSet, index_set
from tests.data.suite import RADARS, SOUND_M_S, ULTRASONICS, write_suite
from tests.synthetic_nuscenes import LIDAR_HEIGHT_M, VERSION, _yaw_quaternion, token

YAW_RATE_RAD_S, RADIUS_M = 0.5, 8.0
REAR = (-0.65, -0.24, -3.135)  # ULTRASONIC_09, whose heading was beyond -pi a moment ago


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> IndexedSet:
    """The made-up drives on a circle; not to be changed by a test but for the one file that it reads."""
    folder = tmp_path_factory.mktemp("turning")
    tables = read_tables(write_suite(folder / "set") / VERSION)
    tables.ego_pose = [on_circle(row) for row in tables.ego_pose]
    rear, turn = token("calibration", "ULTRASONIC_09"), _yaw_quaternion(REAR[2])
    tables.calibrated_sensor = [
        replace(row, rotation=turn) if row.token == rear else row for row in tables.calibrated_sensor
    ]
    write_tables(folder / "set" / VERSION, tables)
    return index_set(folder / "set", folder / "index")


def on_circle(row: EgoPoseRow) -> EgoPoseRow:
    yaw = YAW_RATE_RAD_S * 1e-6 * (row.timestamp - 1_533_000_000_000_000)
    position = (RADIUS_M * math.sin(yaw), -RADIUS_M * math.cos(yaw), 0.0)
    return replace(row, rotation=_yaw_quaternion(yaw), translation=position)


def ego_then(lag_s: float) -> np.ndarray:
    """(4, 4) from the ego frame that long ago to the present one."""
    angle = YAW_RATE_RAD_S * lag_s
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s, 0, -RADIUS_M * s], [-s, c, 0, RADIUS_M * (1 - c)], [0, 0, 1, 0], [0, 0, 0, 1]])


def pose_then(mount: tuple[float, float, float], lag_s: float) -> list[float]:
    """X, y and direction of a sensor that long ago, the direction as cosine and sine."""
    x, y, heading = mount
    turned = heading - YAW_RATE_RAD_S * lag_s
    return [*(ego_then(lag_s) @ [x, y, 0, 1])[:2], math.cos(turned), math.sin(turned)]


def load(turning: IndexedSet, position: int, **wanted: object) -> Sample:
    loader = SampleLoader(
        index=turning.index, dataroot=turning.dataroot, class_names=DETECTION_CLASSES, truths=None, **wanted
    )
    return loader.load(position)


def test_a_camera_of_another_time_has_turned(turning: IndexedSet) -> None:
    camera = turning.index.record(0).sensors["CAM_FRONT_RIGHT"]  # 6 ms after the sample
    group = load(turning, 0, cameras=CameraLoading(("CAM_FRONT_RIGHT",), image_size_px=(45, 80))).cameras["surround"]
    np.testing.assert_allclose(group.camera2ego[0], ego_then(-0.006) @ camera.sensor2ego, atol=1e-9)


def test_points_of_an_earlier_sweep_have_turned(turning: IndexedSet) -> None:
    """The point lay 10 m before the LiDAR and 5 m to its left; the vehicle has turned by 0.25 rad since."""
    path = turning.dataroot / turning.index.record(0).sensors["LIDAR_TOP"].path
    write_lidar(path, np.array([[-5.0, 10.0, 0.0, 30.0, 0.0]], np.float32))
    points = load(turning, 1, lidar=LidarLoading(num_sweeps=1)).lidar.points
    expected = ego_then(0.5) @ [10.9, 5.0, LIDAR_HEIGHT_M, 1]
    np.testing.assert_allclose(points[-1], [*expected[:3], 30.0, 0.5], atol=1e-5)


def test_a_return_of_an_earlier_scan_has_turned_in_place_and_in_velocity(turning: IndexedSet) -> None:
    """It was 10 m before the radar 0.215 s ago and has gone off at 6 m/s since."""
    rows = np.zeros((1, len(SCAN_FIELDS)), np.float32)
    for name, value in {"x": 10.0, "vx_comp": 6.0, "ambig_state": 3}.items():
        rows[0, SCAN_FIELDS.index(name)] = value
    write_radar(turning.dataroot / turning.index.sweeps(0, "RADAR_BACK_LEFT", 3)[-1].path, rows)
    points = load(turning, 0, radar=RadarLoading(channels=("RADAR_BACK_LEFT",), num_sweeps=3)).radar.points
    x, y, c, s = pose_then(RADARS["RADAR_BACK_LEFT"], 0.215)
    went_m = 10 + 6 * 0.215
    assert points[-1, :2].tolist() == pytest.approx([x + went_m * c, y + went_m * s], abs=1e-5)
    velocity = points[-1, 3 + RADAR_FIELDS.index("vx_mps") :][:2]
    assert velocity.tolist() == pytest.approx([6 * c, 6 * s], abs=1e-5)


def echo(turning: IndexedSet, sender: int, receiver: int, flight_s: float) -> tuple[list[float], list[float]]:
    """Poses of a sender and a receiver for whose way back and forth the sound takes that long."""
    record = turning.index.extra_sensors(0)[f"ULTRASONIC_{sender:02}"][0]
    burst = Burst(
        sender=sender,
        sound_speed_m_s=SOUND_M_S,
        half_beam_rad=0.7,
        noise_m=0.01,
        temperature_c=15.0,
        receiver=np.array([receiver], np.uint8),
        state=np.array([EchoState.NO_OBJECT], np.uint8),
        reach_m=np.array([SOUND_M_S * flight_s / 2]),
        distance_m=np.full((1, 2), np.nan),
        level_db=np.full((1, 2), np.nan),
    )
    write_ultrasonic(turning.dataroot / record.path, burst)
    echoes = load(turning, 0, ultrasonic=UltrasonicLoading()).ultrasonic
    row = (echoes.sent_by == sender).nonzero().item()
    poses = torch.stack((echoes.sender[row], echoes.receiver[row]))
    return tuple(torch.cat((poses[:, :2], poses[:, 2:].cos(), poses[:, 2:].sin()), 1).tolist())


def test_an_echo_goes_from_where_its_sender_was_to_where_its_receiver_came(turning: IndexedSet) -> None:
    """Sensor 2 sent 108 ms ago. Between its ends a way is taken for straight, which errs by millimetres."""
    sender, receiver = echo(turning, 2, 3, flight_s=0.02)
    assert sender == pytest.approx(pose_then(ULTRASONICS["ULTRASONIC_02"], 0.108), abs=1e-5)
    assert receiver == pytest.approx(pose_then(ULTRASONICS["ULTRASONIC_03"], 0.088), abs=2e-3)


def test_a_sensor_hears_itself_half_way_also_where_its_heading_passes_pi(turning: IndexedSet) -> None:
    """Sensor 9 sent 36 ms ago."""
    sender, receiver = echo(turning, 9, 9, flight_s=0.02)
    assert sender == receiver == pytest.approx(pose_then(REAR, 0.026), abs=1e-3)


def test_an_indirect_echo_reaches_the_rear_where_its_heading_passes_pi(turning: IndexedSet) -> None:
    sender, receiver = echo(turning, 3, 9, flight_s=0.02)
    assert sender == pytest.approx(pose_then(ULTRASONICS["ULTRASONIC_03"], 0.072), abs=1e-5)
    assert receiver == pytest.approx(pose_then(REAR, 0.052), abs=2e-3)


@pytest.mark.parametrize(("receiver", "lag_s"), [(9, 0.018), (3, 0.0)])
def test_a_sound_on_its_way_at_the_time_of_the_sample_is_heard_there(
    turning: IndexedSet, receiver: int, lag_s: float
) -> None:
    """Sensor 9 sent 36 ms ago, and what it sent would be back in 14 ms."""
    mount = REAR if receiver == 9 else ULTRASONICS["ULTRASONIC_03"]
    assert echo(turning, 9, receiver, flight_s=0.05)[1] == pytest.approx(pose_then(mount, lag_s), abs=1e-3)
