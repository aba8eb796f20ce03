"""The files of a set with every sensor and truth: all are there, this project's readers take them, and they agree."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.formats.can_bus import MESSAGES, read_can_bus
from perception.formats.classes import POINT_CATEGORIES
from perception.formats.label_images import read_depth, read_semantics
from perception.formats.lidar import read_lidar
from perception.formats.near_field import read_near_field
from perception.formats.nuscenes_rows import SampleDataRow, SampleRow
from perception.formats.nuscenes_tables import Tables, read_tables
from perception.formats.occupancy import FREE, OCCUPANCY_GRID, read_occupancy
from perception.formats.point_labels import read_lidarseg, read_panoptic
from perception.formats.radar import read_radar
from perception.formats.radar4d import read_radar4d
from perception.formats.ultrasonic import read_ultrasonic
from perception.simulation.rig import sensor_rig
from perception.simulation.schedule import recording_times_us
from perception.simulation.sensors.fisheye import Fisheye
from tests.simulation.conftest import SETTINGS

pytestmark = pytest.mark.slow

RIG = sensor_rig(SETTINGS)
READERS = {"radar": read_radar, "radar4d": read_radar4d, "ultrasonic": read_ultrasonic}


@pytest.fixture(scope="module")
def tables(simulated: Path) -> Tables:
    return read_tables(simulated / "v1.0-mini")


@pytest.fixture(scope="module")
def channels(tables: Tables) -> dict[str, str]:
    """The channel of each calibration."""
    names = {row.token: row.channel for row in tables.sensor}
    return {row.token: names[row.sensor_token] for row in tables.calibrated_sensor}


@pytest.fixture(scope="module")
def sweeps(tables: Tables, channels: dict[str, str]) -> dict[str, SampleDataRow]:
    """The LiDAR's keyframes by sample."""
    return {
        row.sample_token: row
        for row in tables.sample_data
        if row.is_key_frame and channels[row.calibrated_sensor_token] == "LIDAR_TOP"
    }


def scene_names(tables: Tables) -> dict[str, str]:
    """The scene of each sample."""
    names = {row.token: row.name for row in tables.scene}
    return {row.token: names[row.scene_token] for row in tables.sample}


def some(tables: Tables) -> list[SampleRow]:
    """Samples from all scenes."""
    return tables.sample[::7]


def test_every_sensor_records_at_its_times_and_keyframes_are_of_nuscenes_own_kinds(
    tables: Tables, channels: dict[str, str]
) -> None:
    found = Counter((channels[row.calibrated_sensor_token], row.is_key_frame) for row in tables.sample_data)
    num_scenes = len(tables.scene)
    for sensor in RIG:
        own = num_scenes * SETTINGS.num_keyframes
        every = num_scenes * sum(map(len, recording_times_us(sensor, SETTINGS)))
        keyframes = own if sensor.modality in ("camera", "lidar", "radar") else 0
        assert found[sensor.channel, True] == keyframes, sensor.channel
        assert found[sensor.channel, False] == every - keyframes, sensor.channel
    assert {row.channel: row.modality for row in tables.sensor} == {it.channel: it.modality for it in RIG}


def test_every_file_has_a_row_and_every_row_a_file(simulated: Path, tables: Tables) -> None:
    named = {row.filename for row in tables.sample_data}
    assert len(named) == len(tables.sample_data)
    written = {path for folder in ("samples", "sweeps") for path in (simulated / folder).rglob("*") if path.is_file()}
    assert {str(path.relative_to(simulated)) for path in written} == named
    for row in tables.sample_data:
        assert row.filename.startswith("samples/" if row.is_key_frame else "sweeps/")


def test_readers_take_what_the_other_sensors_wrote(simulated: Path, tables: Tables, channels: dict[str, str]) -> None:
    sensors, read = {it.channel: it for it in RIG}, Counter()
    for row in tables.sample_data[::11]:
        sensor = sensors[channels[row.calibrated_sensor_token]]
        if sensor.modality in READERS:
            READERS[sensor.modality](simulated / row.filename)
        elif isinstance(sensor, Fisheye):
            assert cv2.imread(str(simulated / row.filename)).shape == (*SETTINGS.fisheye_size_px, 3)
            assert (row.height, row.width) == SETTINGS.fisheye_size_px
        read[sensor.modality] += 1
    assert min(read[it] for it in (*READERS, "fisheye")) > 10


def test_the_index_gives_the_other_sensors_with_their_sample(simulated: Path, tmp_path: Path) -> None:
    build_index(simulated, "v1.0-mini", tmp_path / "index")
    index = Index.open(tmp_path / "index")
    extra = index.extra_sensors(3)
    assert set(extra) | set(index.record(3).sensors) == {it.channel for it in RIG}
    for fisheye in (it for it in RIG if isinstance(it, Fisheye)):
        (found,) = extra[fisheye.channel]
        np.testing.assert_allclose(found.intrinsics, fisheye.lens.intrinsics)
        np.testing.assert_allclose(found.distortion, fisheye.lens.distortion)
        assert found.camera_model == "kannala_brandt"


def test_point_labels_fit_their_points(simulated: Path, tables: Tables, sweeps: dict[str, SampleDataRow]) -> None:
    for rows in (tables.lidarseg, tables.panoptic):
        assert [row.token for row in rows] == [row.sample_data_token for row in rows]
        assert {row.token for row in rows} == {row.token for row in sweeps.values()}
    names = ({row.token: row.filename for row in rows} for rows in (tables.lidarseg, tables.panoptic))
    lidarseg, panoptic = names
    for sample in some(tables):
        sweep = sweeps[sample.token]
        num_points = len(read_lidar(simulated / sweep.filename))
        categories = read_lidarseg(simulated / lidarseg[sweep.token], num_points=num_points)
        instances = read_panoptic(simulated / panoptic[sweep.token], num_points=num_points)
        known = instances > 0
        np.testing.assert_array_equal(instances[known] // 1000, categories[known])
        assert known.mean() > 0.4  # the rest are missing returns, and the own car's


def test_points_lie_in_occupied_cells_and_the_near_field_knows_most_of_the_ground(
    simulated: Path, tables: Tables, sweeps: dict[str, SampleDataRow]
) -> None:
    lidar2ego, scenes = RIG[0].sensor2ego, scene_names(tables)
    assert len(list(simulated.glob("gts/*/*/labels.npz"))) == len(tables.sample)
    assert len(list(simulated.glob("near_field/*/*.npz"))) == len(tables.sample)
    own = POINT_CATEGORIES.index("vehicle.ego")
    for sample in some(tables):
        occupancy = read_occupancy(simulated / "gts" / scenes[sample.token] / sample.token / "labels.npz")
        points = read_lidar(simulated / sweeps[sample.token].filename)
        path = simulated / "lidarseg" / "v1.0-mini" / f"{sweeps[sample.token].token}_lidarseg.bin"
        counted = ~np.isin(read_lidarseg(path, num_points=len(points)), [0, own])
        places = points[counted, :3].astype(np.float64) @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
        cells = np.floor((places - OCCUPANCY_GRID.origin_m) / OCCUPANCY_GRID.cell_m).astype(int)
        inside = ((cells >= 0) & (cells < occupancy.semantics.shape)).all(axis=1)
        cells = tuple(cells[inside].T)
        assert occupancy.mask_lidar[cells].all()
        assert (occupancy.semantics[cells] != FREE).mean() > 0.8  # noise, and what moves while the LiDAR turns
        near = read_near_field(simulated / "near_field" / scenes[sample.token] / f"{sample.token}.npz")
        assert 0.3 < np.isin(near, (0, 1)).mean() < 1  # nobody sees what is under the car


def test_depth_and_semantics_are_of_the_pictures(simulated: Path, tables: Tables) -> None:
    cameras = [it for it in RIG if it.modality == "camera"]
    for folder in ("depth", "semantics"):
        assert len(list((simulated / folder).rglob("*.png"))) == len(cameras) * len(tables.sample)
    for sample in some(tables):
        for camera in cameras:
            depth_m = read_depth(simulated / "depth" / camera.channel / f"{sample.token}.png")
            categories = read_semantics(simulated / "semantics" / camera.channel / f"{sample.token}.png")
            assert depth_m.shape == categories.shape == SETTINGS.image_size_px
            np.testing.assert_array_equal(np.isfinite(depth_m), categories > 0)  # the sky has neither


def test_can_bus_messages_are_there_for_every_scene_and_nothing_else_is(simulated: Path, tables: Tables) -> None:
    names = [row.name for row in tables.scene]
    expected = {f"{name}_{message}.json" for name in names for message in (*MESSAGES, "meta", "route")}
    assert {path.name for path in (simulated / "can_bus").iterdir()} == expected
    poses = {row.token: row for row in tables.ego_pose}
    scenes = scene_names(tables)
    for name in names:
        pose = read_can_bus(simulated / "can_bus", name).messages["pose"]
        rows = [poses[row.token] for row in tables.sample_data if scenes[row.sample_token] == name and row.is_key_frame]
        times = np.array([row.timestamp for row in rows])
        assert pose["utime"][0] < times.min()
        for axis in range(2):
            along = np.interp(times, pose["utime"], pose["pos"][:, axis])
            np.testing.assert_allclose(along, [row.translation[axis] for row in rows], atol=0.01)
