"""Ground truths of a scene in a town: the devkit's own panoptic labels, and what LiDAR and cameras say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.near_field import NearFieldCell
from perception.formats.nuscenes_map import write_maps
from perception.formats.nuscenes_rows import PointLabelRow
from perception.formats.nuscenes_tables import write_tables
from perception.formats.occupancy import FLAT_CLASSES, FREE, OCCUPANCY_GRID, POINT_TO_OCCUPANCY
from perception.formats.point_labels import FIRST_STUFF, lidarseg_bytes, panoptic_bytes
from perception.simulation.dataset import Recorded, common_tables, merged, scene_tables, start_us
from perception.simulation.manifest import plan_manifest
from perception.simulation.recorder import keyframe_annotations, scene_surroundings
from perception.simulation.rig import surround_rig
from perception.simulation.schedule import FIRST_US, KEYFRAME_US
from perception.simulation.sensors.base import Recording, Sensor, Surroundings
from perception.simulation.sensors.ego_body import ego_shadow
from perception.simulation.settings import Settings
from perception.simulation.signal_lamps import lamp_meshes
from perception.simulation.truth.images import picture_points
from perception.simulation.truth.lidarseg import InstanceNumbers, panoptic_labels
from perception.simulation.truth.near_field import near_field_cells
from perception.simulation.truth.occupancy import OccupancySensors, scene_occupancy
from perception.simulation.truth.solids import Solids
from perception.simulation.world import World

pytestmark = pytest.mark.slow

NUM_KEYFRAMES = 2
EYES_M = [(0.95, 0.0, 1.84), (3.6, 0.0, 0.6), (-0.8, 0.0, 0.8), (1.9, 1.0, 1.0), (1.9, -1.0, 1.0)]


class Drive(NamedTuple):
    """A scene and what its sensors recorded at each keyframe, the LiDAR first."""

    world: World
    surroundings: Surroundings
    solids: Solids
    rig: tuple[Sensor, ...]
    taken: list[list[Recording]]


@pytest.fixture(scope="module")
def order():
    return plan_manifest(2, 3, Settings()).scenes[0]


@pytest.fixture(scope="module")
def drive(order) -> Drive:
    world, surroundings = scene_surroundings(order, Settings(seconds=1.0))
    shapes = [mesh for actor in world.actors for mesh in actor.shape.meshes]
    solids = Solids(world.town.mesh, [*shapes, *lamp_meshes(), ego_shadow()])
    rig = surround_rig((225, 400))
    times = [FIRST_US + number * KEYFRAME_US for number in range(NUM_KEYFRAMES)]
    taken = [[sensor.capture(surroundings, t_us + sensor.delay_us) for sensor in rig] for t_us in times]
    return Drive(world, surroundings, solids, rig, taken)


@pytest.fixture(scope="module")
def labelled(order, drive: Drive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataroot with LiDAR files, our labels of them, and all tables."""
    root = tmp_path_factory.mktemp("labelled")
    for folder in ("samples/LIDAR_TOP", "lidarseg/v1.0-mini", "ours"):
        (root / folder).mkdir(parents=True)
    recorded, keyframes, labels = [], [], []
    numbers = InstanceNumbers(len(drive.world.actors))
    for number, taken in enumerate(drive.taken):
        notes = keyframe_annotations(drive.world, drive.rig[0], taken)
        keyframes.append(notes)
        known = numbers.at_keyframe(notes.noted, np.zeros(len(notes.noted)))  # fewer than labels can tell apart
        labels.append(panoptic_labels(taken[0], notes.noted, known))
        for sensor, recording in zip(drive.rig, taken, strict=True):
            ego2global = drive.world.town.town2global @ recording.ego2global
            name = f"samples/{sensor.channel}/{number}{sensor.suffix}"
            recorded.append(Recorded(sensor.channel, recording.t_us, ego2global, name, number, True))
        (root / f"samples/LIDAR_TOP/{number}.pcd.bin").write_bytes(taken[0].content)
    categories = [actor.shape.category for actor in drive.world.actors]
    tables = merged(common_tables(drive.rig), [scene_tables(order, drive.rig, recorded, categories, keyframes)])
    for row in tables.sample_data:
        number = round((row.timestamp - start_us(order.name) - FIRST_US) / KEYFRAME_US)
        if row.filename.startswith("samples/LIDAR_TOP"):
            name = f"lidarseg/v1.0-mini/{row.token}_lidarseg.bin"
            (root / name).write_bytes(lidarseg_bytes(drive.taken[number][0].semantic))
            (root / f"ours/{row.token}_panoptic.npz").write_bytes(panoptic_bytes(labels[number]))
            tables.lidarseg.append(PointLabelRow(token=row.token, sample_data_token=row.token, filename=name))
    write_maps(root, {})
    write_tables(root / "v1.0-mini", tables)
    return root


def test_the_devkits_tests_of_point_labels_pass(labelled: Path) -> None:
    environment = {**os.environ, "NUSCENES": str(labelled)}
    command = [sys.executable, "-m", "nuscenes.tests.test_lidarseg"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_panoptic_labels_are_those_that_the_devkit_makes_of_boxes(labelled: Path) -> None:
    """Where it has an instance, ours is the same; ours has more, as a point beside its box by noise keeps its own."""
    from nuscenes.nuscenes import NuScenes
    from nuscenes.panoptic.generate_panoptic_labels import generate_panoptic_labels

    devkit = NuScenes("v1.0-mini", str(labelled), verbose=False)
    generate_panoptic_labels(devkit, str(labelled / "devkit"), verbose=False)
    for sample in devkit.sample:
        token = sample["data"]["LIDAR_TOP"]
        theirs = np.load(labelled / "devkit/panoptic/v1.0-mini" / f"{token}_panoptic.npz")["data"].astype(int)
        ours = np.load(labelled / "ours" / f"{token}_panoptic.npz")["data"].astype(int)
        stuff = theirs // 1000 >= FIRST_STUFF
        np.testing.assert_array_equal(ours[stuff], theirs[stuff])
        thing = (theirs > 0) & ~stuff
        assert thing.sum() > 200
        assert (ours[thing] == theirs[thing]).mean() > 0.998
        added = (ours > 0) & (theirs == 0)
        assert added.sum() < 0.1 * thing.sum()
        assert set(ours[added]) <= set(ours[~stuff])
        assert len(np.unique(ours[thing])) > 5


@pytest.fixture(scope="module", params=range(NUM_KEYFRAMES))
def observed(drive: Drive, request: pytest.FixtureRequest):
    """A keyframe: the sweep, the pictures and the occupancy."""
    sweep, *shots = drive.taken[request.param]
    times = [taken[0].t_us for taken in drive.taken]
    sensors = OccupancySensors(drive.rig[0], drive.rig[1:], times)
    return sweep, shots, scene_occupancy(drive.solids, drive.surroundings, sensors, sweep, shots)


def neighbourhood(cells: np.ndarray, points: np.ndarray, lower_m: tuple, cell_m: tuple, reach_m: float) -> np.ndarray:
    """(P, 27) values of the cells of points (P, 3) and of points a little beside them."""
    offsets = reach_m * np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3)
    at = np.floor((points[:, None] + offsets - lower_m) / cell_m).astype(int)
    return cells[tuple(np.moveaxis(np.clip(at, 0, np.array(cells.shape) - 1), -1, 0))]


def around(truth, points: np.ndarray, reach_m: float) -> np.ndarray:
    return neighbourhood(truth.semantics, points, OCCUPANCY_GRID.origin_m, OCCUPANCY_GRID.cell_m, reach_m)


def test_lidar_points_lie_in_cells_of_their_class(drive: Drive, observed) -> None:
    sweep, _, truth = observed
    lidar2ego = drive.rig[0].sensor2ego
    points = sweep.points[:, :3].astype(np.float64) @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
    leaves = POINT_CATEGORIES.index("static.vegetation")
    inside = (np.abs(points[:, :2]) < 39.5).all(axis=1) & (points[:, 2] < 5.0) & (points[:, 2] > -0.5)
    still = inside & (sweep.actor < 0) & ~np.isin(sweep.semantic, [0, POINT_CATEGORIES.index("vehicle.ego"), leaves])
    found = around(truth, points[still], 0.08)
    assert (found != FREE).any(axis=1).mean() > 0.999
    wanted = POINT_TO_OCCUPANCY[sweep.semantic[still]]
    right = (found == wanted[:, None]).any(axis=1) | ~np.isin(found[:, 13], FLAT_CLASSES)
    assert right.mean() > 0.98  # cells at kerbs hold two kinds of ground
    speeds = np.linalg.norm(drive.world.actor_velocities(sweep.t_us), axis=1)
    slow = inside & (sweep.actor >= 0)
    slow[slow] = speeds[sweep.actor[slow]] < 0.5
    found = around(truth, points[slow], 0.08)
    assert slow.sum() > 100
    assert (found != FREE).any(axis=1).mean() > 0.995
    wanted = POINT_TO_OCCUPANCY[sweep.semantic[slow]]
    assert (found == wanted[:, None]).any(axis=1).mean() > 0.98


def test_pictures_show_cells_of_their_class(drive: Drive, observed) -> None:
    sweep, shots, truth = observed
    for camera, shot in zip(drive.rig[1:], shots, strict=True):
        camera2ego = np.linalg.inv(sweep.ego2global) @ shot.ego2global @ camera.sensor2ego
        points = picture_points(camera, shot, 4) @ camera2ego[:3, :3].T + camera2ego[:3, 3]
        hit = np.isfinite(shot.distance_m[::4, ::4])
        semantic, actor = shot.semantic[::4, ::4][hit], shot.actor[::4, ::4][hit]
        inside = (np.abs(points[:, :2]) < 39.5).all(axis=1) & (points[:, 2] < 5.0) & (actor < 0)
        at = np.floor((points[inside] - OCCUPANCY_GRID.origin_m) / OCCUPANCY_GRID.cell_m).astype(int)
        seen = truth.mask_camera[tuple(at.T)]
        found = around(truth, points[inside][seen], 0.02)
        assert seen.mean() > 0.7  # the LiDAR looks from elsewhere
        assert (found != FREE).any(axis=1).mean() > 0.99
        wanted = POINT_TO_OCCUPANCY[semantic[inside][seen]]
        assert ((found == wanted[:, None]).any(axis=1) | ~np.isin(found[:, 13], FLAT_CLASSES)).mean() > 0.97


def test_lidar_points_near_the_car_lie_on_obstacles_or_on_free_ground(drive: Drive, observed) -> None:
    sweep, *_ = observed
    cells = near_field_cells(drive.solids, drive.surroundings, sweep.t_us, EYES_M)
    lidar2ego = drive.rig[0].sensor2ego
    points = sweep.points[:, :3].astype(np.float64) @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
    speeds = np.append(np.linalg.norm(drive.world.actor_velocities(sweep.t_us), axis=1), 0.0)
    near = (np.abs(points[:, :2]) < 7.8).all(axis=1) & (speeds[sweep.actor] < 0.5)
    flat = np.isin(sweep.semantic, [i for i, name in enumerate(POINT_CATEGORIES) if name.startswith("flat.")])
    ground = near & flat
    at = np.floor((points[ground, :2] + 8) / 0.1).astype(int)
    assert ground.sum() > 3000
    assert (cells[at[:, 1], at[:, 0]] == NearFieldCell.FREE).mean() > 0.96  # under what hangs or sticks out it is not
    things = near & ~flat & ~np.isin(sweep.semantic, [0, POINT_CATEGORIES.index("vehicle.ego")])
    things &= (points[:, 2] > 0.28) & (points[:, 2] < 1.95)
    found = neighbourhood(cells.T[..., None], points[things], (-8, -8, -99), (0.1, 0.1, 200), 0.1)
    assert (found == NearFieldCell.OCCUPIED).any(axis=1).mean() > 0.98
