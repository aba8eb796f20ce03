"""Radars, ultrasonic sensors, fisheyes and near-field truth of a made-up drive; the radars beside the devkit's."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from pyquaternion import Quaternion

from perception.data.collate import collate
from perception.data.loading import (
    CameraLoading,
    LidarLoading,
    Radar4dLoading,
    RadarLoading,
    SampleLoader,
    UltrasonicLoading,
)
from perception.data.problems import SensorFileError
from perception.data.sensor_settings import RangingLoading, SensorSuite
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.near_field import NearFieldCell
from perception.formats.nuscenes_tables import read_tables, write_tables
from perception.formats.radar import RADAR_FIELDS as SCAN_FIELDS
from perception.formats.radar import RadarFilter, read_radar, write_radar
from perception.formats.radar4d import read_radar4d, write_radar4d
from perception.formats.ultrasonic import EchoState, read_ultrasonic, write_ultrasonic
from perception.geometry.cameras import kannala_brandt_theta_max
from perception.ops.echo_splat import EchoKind
from perception.ops.radar_splat import radar_covariances
from perception.structures import RADAR4D_FIELDS, RADAR_FIELDS
from tests.data import suite as made_up
from tests.data.conftest import IndexedSet, index_set
from tests.synthetic_nuscenes import VERSION

FISHEYE = CameraLoading(("FISHEYE_FRONT", "FISHEYE_LEFT"), image_size_px=made_up.FISHEYE_SIZE_PX, group="fisheye")
ALL = {
    "cameras": [CameraLoading(image_size_px=(45, 80)), FISHEYE],
    "lidar": LidarLoading(),
    "radar": RadarLoading(channels=tuple(made_up.RADARS), num_sweeps=made_up.NUM_SWEEPS),
    "radar4d": Radar4dLoading(num_sweeps=made_up.NUM_SWEEPS),
    "ultrasonic": UltrasonicLoading(),
}


def loader_of(data: IndexedSet, **options: object) -> SampleLoader:
    return SampleLoader(index=data.index, dataroot=data.dataroot, class_names=DETECTION_CLASSES, **options)


def column(points: torch.Tensor, name: str, fields: tuple[str, ...] = RADAR_FIELDS) -> torch.Tensor:
    return points[:, 3 + fields.index(name)]


def path_of(data: IndexedSet, channel: str, position: int = 1) -> Path:
    record = data.index.record(position).sensors.get(channel)
    return data.dataroot / (record or data.index.extra_sensors(position)[channel][-1]).path


def test_scans_of_all_radars_lie_where_the_devkit_puts_them(suite: IndexedSet) -> None:
    devkit = pytest.importorskip("nuscenes.nuscenes").NuScenes("v1.0-mini", str(suite.dataroot), verbose=False)
    clouds = pytest.importorskip("nuscenes.utils.data_classes").RadarPointCloud
    wanted = replace(ALL["radar"], doppler_compensation=False)
    sample = loader_of(suite, radar=wanted).load(1)
    row = devkit.get("sample", sample.token)
    lidar = devkit.get("sample_data", row["data"]["LIDAR_TOP"])
    mounted = devkit.get("calibrated_sensor", lidar["calibrated_sensor_token"])
    for number, channel in enumerate(wanted.channels):
        cloud, lags_s = clouds.from_file_multisweep(devkit, row, channel, "LIDAR_TOP", nsweeps=4, min_distance=0)
        expected = Quaternion(mounted["rotation"]).rotation_matrix @ cloud.points[:3]
        expected += np.array(mounted["translation"])[:, None]
        ours = sample.radar.points[sample.radar.sensor == number]
        assert len(ours) == cloud.points.shape[1] > 4
        np.testing.assert_allclose(ours[:, :3], expected.T, atol=2e-5)
        np.testing.assert_allclose(column(ours, "rcs_dbsm"), cloud.points[5])
        np.testing.assert_allclose(column(ours, "time_lag_s"), lags_s[0], atol=1e-6)
        yaw = made_up.RADARS[channel][2]
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        velocity = torch.stack((column(ours, "vx_mps"), column(ours, "vy_mps")))
        np.testing.assert_allclose(velocity, turn @ cloud.points[8:10], atol=1e-5)
    assert sample.radar.fields == RADAR_FIELDS
    assert torch.equal(sample.radar.sensor2ego, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "fields"), [("radar", RADAR_FIELDS), ("radar4d", RADAR4D_FIELDS)])
def test_what_moves_is_moved_on_and_what_stands_stays(suite: IndexedSet, kind: str, fields: tuple[str, ...]) -> None:
    """The car drives along the front radar's line of sight: all its scans fall on where it is at the sample's time."""
    channels = ("RADAR_FRONT",) if kind == "radar" else ("RADAR4D_FRONT",)
    ours = {
        compensated: getattr(
            loader_of(suite, **{kind: replace(ALL[kind], channels=channels, doppler_compensation=compensated)}).load(1),
            kind,
        ).points
        for compensated in (True, False)
    }
    speed = column(ours[True], "vx_mps", fields)
    car = speed > 5
    now_m = made_up.CAR_START_M + (made_up.CAR_SPEED_M_S - made_up.EGO_SPEED_M_S) * 0.5
    lags_s = column(ours[True], "time_lag_s", fields)[car]
    assert lags_s.tolist() == pytest.approx([-0.016, 0.061, 0.138, 0.215], abs=1e-6)
    torch.testing.assert_close(ours[True][car, 0], torch.full((4,), now_m), atol=5e-3, rtol=0)
    apart = ours[True][car, 0] - ours[False][car, 0]
    torch.testing.assert_close(apart, lags_s * made_up.CAR_SPEED_M_S, atol=5e-3, rtol=0)
    torch.testing.assert_close(speed[car], torch.full((4,), made_up.CAR_SPEED_M_S), atol=2e-2, rtol=0)
    assert torch.equal(ours[True][~car], ours[False][~car])
    post = (ours[True][:, :2] - torch.tensor([made_up.POST_M[0] - 2.0, made_up.POST_M[1]])).norm(dim=1) < 1e-3
    assert post.sum() == 4


def test_the_recording_nearest_in_time_is_the_samples_own(tmp_path: Path) -> None:
    """Of scans 116 and 39 ms after the sample and 38 and 115 ms before it that 38 ms before it is taken."""
    version = made_up.write_suite(tmp_path / "set") / VERSION
    tables = read_tables(version)
    tables.sample_data = [
        structs.replace(row, timestamp=row.timestamp + 100_000) if "RADAR4D_FRONT" in row.filename else row
        for row in tables.sample_data
    ]
    write_tables(version, tables)
    late = index_set(tmp_path / "set", tmp_path / "index")
    for num_sweeps, expected_s in ((0, [0.038]), (1, [0.038, 0.115])):
        points = loader_of(late, radar4d=Radar4dLoading(num_sweeps=num_sweeps)).load(0).radar4d.points
        lags_s = column(points, "time_lag_s", RADAR4D_FIELDS).unique()
        assert lags_s.tolist() == pytest.approx(expected_s, abs=1e-6)


def test_radar_fields_say_how_well_a_return_is_known(suite: IndexedSet) -> None:
    everything = RadarLoading(channels=("RADAR_FRONT_LEFT",), radar_filter=None)
    points = loader_of(suite, radar=everything).load(1).radar.points
    scan = dict(zip(SCAN_FIELDS, read_radar(path_of(suite, "RADAR_FRONT_LEFT")).T, strict=True))
    assert len(points) == 24
    unknown = scan["ambig_state"] != 3
    assert 0 < unknown.sum() < 24
    assert np.array_equal(column(points, "vx_mps").isnan().numpy(), unknown)
    valid = np.select([scan["invalid_state"] == 0, scan["invalid_state"] == 4], [1.0, 0.5])
    np.testing.assert_allclose(column(points, "quality"), (valid + ~unknown) / 2)
    yaw = made_up.RADARS["RADAR_FRONT_LEFT"][2]
    turn = torch.tensor([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    expected = radar_covariances(
        torch.from_numpy(np.stack((scan["x"], scan["y"]), 1)).double(),
        torch.tensor([[0.616, 0.794]]).repeat(24, 1).double() * torch.from_numpy(scan["x_rms"] > 0)[:, None],
        turn,
        range_sigma_m=0.2,
        azimuth_sigma_rad=0.01,
    )
    rms_known = torch.from_numpy(scan["x_rms"] == 19)
    assert rms_known.all()
    for name, (i, j) in {"cov_xx_m2": (0, 0), "cov_xy_m2": (0, 1), "cov_yy_m2": (1, 1)}.items():
        torch.testing.assert_close(column(points, name), expected[:, i, j].float(), rtol=1e-4, atol=1e-5)


def test_states_of_returns_and_the_weakest_points_are_left_out_as_asked(suite: IndexedSet) -> None:
    scan = read_radar(path_of(suite, "RADAR_FRONT"))
    wanted = RadarLoading(channels=("RADAR_FRONT",))
    default = loader_of(suite, radar=wanted).load(1).radar.points
    assert len(default) == RadarFilter().keeps(scan).sum() < len(scan)
    lenient = RadarFilter(invalid_states=(0, 4), ambig_states=(1, 3))
    more = loader_of(suite, radar=replace(wanted, radar_filter=lenient)).load(1).radar.points
    assert len(default) < len(more) == lenient.keeps(scan).sum() < len(scan)
    thin = loader_of(suite, radar=replace(wanted, max_points=3)).load(1).radar
    assert thin.points.shape == (3, 11) and thin.sensor.tolist() == [0, 0, 0]
    strong = loader_of(suite, radar4d=Radar4dLoading(min_power_db=20.0)).load(1).radar4d.points
    assert column(strong, "power_db", RADAR4D_FIELDS).tolist() == [25.0]
    assert strong[0, 2] > 1.4  # the height is measured


def test_echoes_come_from_where_the_post_is(suite: IndexedSet) -> None:
    """Half the way sender - post - receiver is the distance, while the vehicle has driven 0.14 to 0.43 m since."""
    echoes = loader_of(suite, ultrasonic=UltrasonicLoading()).load(0).ultrasonic
    assert echoes.sensor.tolist() == [2, 3, 2, 2, 3, 3, 9]
    assert echoes.sent_by.tolist() == [2, 2, 2, 3, 3, 3, 9]
    assert echoes.kind.tolist() == [EchoKind.FIRST, EchoKind.FIRST, EchoKind.LATER] * 2 + [EchoKind.NONE]
    first = echoes.kind == EchoKind.FIRST
    post = torch.tensor(made_up.POST_M)
    way = sum((pose[:, :2] - post).norm(dim=1) for pose in (echoes.sender, echoes.receiver)) / 2
    torch.testing.assert_close(way[first], echoes.distance_m[first], atol=2e-3, rtol=0)
    direct = (echoes.sender == echoes.receiver).all(1)
    assert torch.equal(direct, echoes.sensor == echoes.sent_by)
    flight_s = 2 * echoes.distance_m / made_up.SOUND_M_S
    burst_s = torch.tensor([0.108, 0.108, 0.108, 0.072, 0.072, 0.072, 0.036])
    torch.testing.assert_close(echoes.age_s, burst_s - flight_s)
    assert (echoes.level[first] == 0.5).all() and echoes.level[-1] == 0
    assert echoes.distance_m[-1] == made_up.REACH_M
    assert (echoes.beam_rad == 0.7).all() and (echoes.sigma_m == 0.01).all()
    assert echoes.sender[-1, 2] == pytest.approx(3.0)


def test_a_sensor_that_hears_nothing_and_one_that_cannot_hear(suite: IndexedSet) -> None:
    echoes = loader_of(suite, ultrasonic=UltrasonicLoading()).load(1).ultrasonic
    blind = echoes.sensor == 3
    assert (echoes.kind[blind] == EchoKind.NOTHING).all() and (echoes.state[blind] == EchoState.BLIND).all()
    assert (echoes.kind[~blind] == EchoKind.NONE).all() and (echoes.state[~blind] == EchoState.NO_OBJECT).all()
    assert not echoes.level.any()


def test_ultrasonic_sensors_not_asked_for_neither_send_nor_hear(suite: IndexedSet) -> None:
    some = (
        loader_of(suite, ultrasonic=UltrasonicLoading(channels=("ULTRASONIC_03", "ULTRASONIC_12"))).load(0).ultrasonic
    )
    assert set(some.sensor.tolist()) == set(some.sent_by.tolist()) == {3}
    young = loader_of(suite, ultrasonic=UltrasonicLoading(max_age_s=0.08)).load(0).ultrasonic
    assert set(young.sent_by.tolist()) == {3, 9}
    older = loader_of(suite, ultrasonic=UltrasonicLoading(max_age_s=0.6)).load(1).ultrasonic
    assert older.age_s.max() > 0.5 and len(older) == 5 + 7 - 3  # the three echoes of sensor 2's are too old
    assert loader_of(suite, ultrasonic=UltrasonicLoading(max_age_s=0.01)).load(0).ultrasonic is None


def test_fisheyes_are_a_group_of_their_own_with_their_largest_angle(suite: IndexedSet) -> None:
    cameras = loader_of(suite, cameras=ALL["cameras"]).load(0).cameras
    assert list(cameras) == ["surround", "fisheye"]
    assert cameras["surround"].theta_max_rad is None
    fisheye = cameras["fisheye"]
    assert fisheye.camera_model == "kannala_brandt" and fisheye.present.all()
    derived = kannala_brandt_theta_max(fisheye.distortion[1])
    assert fisheye.theta_max_rad.tolist() == [made_up.THETA_MAX_RAD, float(derived)]
    alone = loader_of(suite, cameras=FISHEYE).load(0)
    batch = collate([alone, replace(alone, cameras={})])
    assert batch.cameras["fisheye"].theta_max_rad.tolist() == [fisheye.theta_max_rad.tolist(), [np.pi, np.pi]]


def test_truth_near_the_vehicle_comes_with_the_annotations(suite: IndexedSet, synthetic: IndexedSet) -> None:
    truth = loader_of(suite).load(0).near_field
    assert np.array_equal(truth.cells.numpy(), made_up.near_field_cells())
    (cell,) = (truth.cells == NearFieldCell.OCCUPIED).nonzero().tolist()
    assert truth.grid.centers_xy()[cell[0], cell[1]].tolist() == pytest.approx([6.05, 1.55])
    assert loader_of(suite, truths=None).load(0).near_field is None
    assert loader_of(synthetic).load(0).near_field is None


def test_an_empty_scan_is_present_without_points(own_suite: IndexedSet) -> None:
    for channel in made_up.RADARS:
        write_radar(path_of(own_suite, channel), np.zeros((0, len(SCAN_FIELDS))))
    write_radar4d(path_of(own_suite, "RADAR4D_FRONT"), np.zeros((0, 7)))
    sample = loader_of(own_suite, radar=replace(ALL["radar"], num_sweeps=0), radar4d=Radar4dLoading()).load(1)
    assert sample.radar.points.shape == sample.radar4d.points.shape == (0, 11)
    assert sample.problems == ()


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [Path.unlink, cut_off])
@pytest.mark.parametrize("channel", ["RADAR_FRONT", "RADAR4D_FRONT", "ULTRASONIC_02", "FISHEYE_LEFT", "near_field"])
def test_a_bad_file_of_one_sensor_is_told_and_the_rest_goes_on(own_suite: IndexedSet, channel: str, damage) -> None:
    scene, token = own_suite.index.record(1).scene, own_suite.index.record(1).token
    near_field = own_suite.dataroot / f"near_field/{scene}/{token}.npz"
    path = near_field if channel == "near_field" else path_of(own_suite, channel)
    damage(path)
    with pytest.raises(
        SensorFileError, match=rf"SampleLoader: sample {token} \(position 1\), {channel} .*{path.name}: "
    ):
        loader_of(own_suite, **ALL).load(1)
    loader = loader_of(own_suite, **ALL, on_error="skip")
    sample = loader.load(1)
    assert loader.skipped == {"missing_file" if damage is Path.unlink else "unreadable_file": 1}
    assert len(sample.problems) == 1
    assert set(sample.radar.sensor.tolist()) == ({1, 2} if channel == "RADAR_FRONT" else {0, 1, 2})
    assert (sample.radar4d is None) == (channel == "RADAR4D_FRONT")
    assert set(sample.ultrasonic.sent_by.tolist()) == ({3, 9} if channel == "ULTRASONIC_02" else {2, 3, 9})
    assert sample.cameras["fisheye"].present.tolist() == [True, channel != "FISHEYE_LEFT"]
    assert (sample.near_field is None) == (channel == "near_field")
    assert sample.lidar is not None and sample.cameras["surround"].present.all()


def test_returns_that_are_not_finite_are_an_error_or_dropped(own_suite: IndexedSet) -> None:
    """A radar file cannot be written with a NaN on purpose: one is put in by hand."""
    path = path_of(own_suite, "RADAR4D_FRONT")
    points = read_radar4d(path)
    data = bytearray(path.read_bytes())
    data[16 + 28 : 16 + 32] = np.float32(np.nan).tobytes()
    data[12:16] = zlib.crc32(bytes(data[16:])).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    wanted = Radar4dLoading()
    with pytest.raises(SensorFileError, match="1 of 2 points are not finite"):
        loader_of(own_suite, radar4d=wanted).load(1)
    loader = loader_of(own_suite, radar4d=wanted, on_error="skip")
    kept = loader.load(1).radar4d.points
    assert len(kept) == len(points) - 1
    assert loader.skipped == {"non_finite_points": 1}


def test_a_burst_of_another_sensor_is_refused(own_suite: IndexedSet) -> None:
    path = path_of(own_suite, "ULTRASONIC_02")
    write_ultrasonic(path, replace(read_ultrasonic(path), sender=7))
    with pytest.raises(SensorFileError, match="the burst must come from sensor 2, got one of sensor 7"):
        loader_of(own_suite, ultrasonic=UltrasonicLoading()).load(1)


def test_batches_mix_samples_with_other_sensors(suite: IndexedSet) -> None:
    whole = loader_of(suite, **ALL).load(0)
    samples = [
        replace(whole, radar=None, ultrasonic=None, near_field=None),
        whole,
        replace(whole, radar=replace(whole.radar, points=whole.radar.points[:0], sensor=None), radar4d=None),
    ]
    batch = collate(samples)
    for name in ("radar", "radar4d", "ultrasonic"):
        assert getattr(batch, name).present.tolist() == [getattr(sample, name) is not None for sample in samples]
        owners = [row for row, sample in enumerate(samples) if getattr(sample, name) is not None]
        assert set(getattr(batch, name).batch_index.tolist()) <= set(owners)
    assert torch.equal(batch.radar.points, whole.radar.points)
    second = batch.ultrasonic.batch_index == 1
    assert torch.equal(batch.ultrasonic.sender[second], whole.ultrasonic.sender)
    assert [truth is None for truth in batch.near_field] == [True, False, False]
    moved = batch.to("meta")
    assert moved.ultrasonic.kind.device.type == moved.radar4d.points.device.type == "meta"
    assert moved.near_field[1].cells.device.type == moved.cameras["fisheye"].theta_max_rad.device.type == "meta"
    bare = collate([replace(whole, cameras={}, lidar=None, radar=None, radar4d=None, ultrasonic=None)])
    assert (bare.radar, bare.radar4d, bare.ultrasonic) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radar": RadarLoading(channels=())}, "radars must have channels"),
        ({"radar4d": Radar4dLoading(azimuth_sigma_rad=0.0)}, "azimuth_sigma_rad > 0"),
        ({"radar": RadarLoading(max_points=0)}, "max_points >= 1"),
        ({"ultrasonic": UltrasonicLoading(channels=("SONAR",))}, "ultrasonic must have channels ULTRASONIC_01"),
        ({"ultrasonic": UltrasonicLoading(max_age_s=-1)}, "max_age_s >= 0"),
        ({"cameras": [FISHEYE, FISHEYE]}, "groups of different names, got fisheye, fisheye"),
    ],
)
def test_wrong_settings_are_refused(suite: IndexedSet, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader_of(suite, **options)


def test_a_suite_of_sensors_names_its_parts() -> None:
    sensors = SensorSuite(
        cameras=(CameraLoading(), FISHEYE), lidar=LidarLoading(), ranging=RangingLoading(ultrasonic=UltrasonicLoading())
    )
    assert sensors.names == ("camera", "fisheye", "lidar", "ultrasonic")
    part = sensors.only(["fisheye", "ultrasonic"])
    assert part.names == ("fisheye", "ultrasonic") and part.cameras == (FISHEYE,)
