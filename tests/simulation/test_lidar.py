"""The LiDAR: order and angles of its firings, motion during the spin, missing returns, reproducibility."""

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.lidar import read_lidar
from perception.simulation.mesh import cuboid, paint
from perception.simulation.rig import roof_lidar
from perception.simulation.sensors.lidar import NUM_COLUMNS, NUM_RINGS, SPIN_US, Lidar, LidarRecording
from tests.simulation.tiny_world import EvenMotion, pose, surroundings, wall_at

CAR = paint("car_white", "vehicle.car")
CAR_SIZE = np.array([4.5, 1.8, 1.6])
SEMANTIC = {name: index for index, name in enumerate(POINT_CATEGORIES)}


def in_world(lidar: Lidar, sweep: LidarRecording) -> np.ndarray:
    sensor2global = sweep.ego2global @ lidar.sensor2ego
    return sweep.points[:, :3].astype(np.float64) @ sensor2global[:3, :3].T + sensor2global[:3, 3]


def returned(sweep: LidarRecording) -> np.ndarray:
    return sweep.semantic != SEMANTIC["noise"]


def test_every_firing_is_stored_ring_by_ring_clockwise_from_the_left() -> None:
    lidar = roof_lidar()
    sweep = lidar.capture(surroundings(EvenMotion(), static=[wall_at(30)]), 1_000_000)
    points = sweep.points.reshape(NUM_COLUMNS, NUM_RINGS, 5)
    assert (points[..., 4] == np.arange(NUM_RINGS)).all()
    raw = sweep.raw.reshape(NUM_COLUMNS, NUM_RINGS, 3).astype(np.float64)
    distance = np.linalg.norm(raw, axis=2)
    elevation = np.degrees(np.arcsin(raw[..., 2] / np.maximum(distance, 1e-9)))
    expected = -30.67 + 1.333 * np.arange(NUM_RINGS)
    assert np.abs(elevation - expected)[distance > 1].max() < 0.01
    ring = distance[:, 12] > 1
    left = np.degrees(np.arctan2(-raw[ring, 12, 0], raw[ring, 12, 1]))  # from straight ahead to the left
    assert 88 < left[0] < 99
    steps = np.diff(np.unwrap(left, period=360)) / np.diff(np.nonzero(ring)[0])
    np.testing.assert_allclose(steps, -0.3326, atol=0.01)
    assert sweep.time_s.dtype == np.float32
    np.testing.assert_allclose(sweep.time_s.reshape(NUM_COLUMNS, NUM_RINGS)[[0, -1], 0], [-0.05, 0], atol=1e-7)


def test_the_file_reads_back(tmp_path) -> None:
    sweep = roof_lidar().capture(surroundings(EvenMotion()), 0)
    (tmp_path / "a.pcd.bin").write_bytes(sweep.content)
    read = read_lidar(tmp_path / "a.pcd.bin", num_points=NUM_COLUMNS * NUM_RINGS)
    np.testing.assert_array_equal(read, sweep.points)
    assert (read[:, 3] == read[:, 3].round()).all()
    assert read[:, 3].min() >= 0
    assert read[:, 3].max() <= 255


@pytest.mark.parametrize("yaw_rate_rad_s", [0.0, 0.5, -0.5])
def test_a_wall_stays_straight_while_the_car_moves(yaw_rate_rad_s: float) -> None:
    lidar, wall_m = roof_lidar(), 25.0
    sweep = lidar.capture(surroundings(EvenMotion(10.0, yaw_rate_rad_s), static=[wall_at(wall_m)]), 100_000)
    world = in_world(lidar, sweep) - pose(0, 0)[:3, 3]
    on_wall = sweep.semantic == SEMANTIC["static.manmade"]
    assert on_wall.sum() > 3000
    off = world[on_wall, 0] - wall_m
    assert abs(off.mean()) < 0.003
    assert off.std() < 0.02  # the noise of the range
    on_ground = sweep.semantic == SEMANTIC["flat.driveable_surface"]
    assert abs(world[on_ground, 2].mean()) < 0.003
    skewed = sweep.raw.astype(np.float64) @ lidar.sensor2ego[:3, :3].T + lidar.sensor2ego[:3, 3]
    as_if_still = (skewed @ sweep.ego2global[:3, :3].T + sweep.ego2global[:3, 3])[on_wall, 0] - wall_m
    assert np.abs(as_if_still - pose(0, 0)[0, 3]).max() > 0.2


def test_points_of_a_driving_car_lie_where_it_is_when_they_are_taken() -> None:
    velocity = np.array([-9.0, 4.0, 0.0])
    motion = EvenMotion(8.0, 0.0, [pose(14, 3, 0.81, 0.4)], [tuple(velocity)])
    lidar, t_us = roof_lidar(), 50_000
    sweep = lidar.capture(surroundings(motion, [cuboid(CAR_SIZE, CAR)]), t_us)
    mine = sweep.actor == 0
    assert mine.sum() > 150
    assert (sweep.semantic[mine] == SEMANTIC["vehicle.car"]).all()
    box2world = motion.actor2global(t_us)[0]
    then = in_world(lidar, sweep)[mine] - velocity * sweep.time_s[mine, None]  # to where the car is at the end
    local = (then - box2world[:3, 3]) @ box2world[:3, :3]
    assert (np.abs(local) < CAR_SIZE / 2 + 0.08).all()
    on_a_face = np.abs(np.abs(local) - CAR_SIZE / 2).min(axis=1)
    assert on_a_face.max() < 0.08
    assert np.median(on_a_face) < 0.02


def test_firings_without_return_lie_on_the_way_of_the_sensor() -> None:
    speed = 10.0
    sweep = roof_lidar().capture(surroundings(EvenMotion(speed)), 1_000_000)
    missing = ~returned(sweep)
    assert 0.2 < missing.mean() < 0.8  # half of the world is sky
    points, time = sweep.points[missing, :3], sweep.time_s[missing]
    np.testing.assert_allclose(points[:, 1], speed * time, atol=0.01)
    assert np.abs(points[:, [0, 2]]).max() < 0.02
    far = np.linalg.norm(sweep.points[~missing, :3], axis=1)
    assert far.max() <= 105
    own = sweep.semantic == SEMANTIC["vehicle.ego"]
    assert np.linalg.norm(sweep.points[own, :3], axis=1).max() < 3
    assert (sweep.actor[own | missing] == -1).all()


def test_the_same_seed_and_time_give_the_same_bytes() -> None:
    motion = EvenMotion(5.0, 0.1, [pose(12, 2, 0.81)], [(3.0, 0.0, 0.0)])
    shapes = [cuboid(CAR_SIZE, CAR)]
    first = roof_lidar().capture(surroundings(motion, shapes), 50_000)
    assert roof_lidar().capture(surroundings(motion, shapes), 50_000).content == first.content
    assert roof_lidar().capture(surroundings(motion, shapes, seed=6), 50_000).content != first.content


def test_dark_oblique_and_far_surfaces_answer_less() -> None:
    lidar = roof_lidar()
    world = surroundings(EvenMotion(), static=[wall_at(60, half_m=100, height_m=40)])
    sweep = lidar.capture(world, SPIN_US)
    distance = np.linalg.norm(sweep.raw.reshape(NUM_COLUMNS, NUM_RINGS, 3), axis=2)
    ahead = slice(270, 272)  # straight ahead: near road, far road, wall
    seen = (distance[200:340] > 1).mean(axis=0)
    assert seen[10] > 0.9
    assert seen[21] < seen[16] < seen[10] + 0.02
    assert seen[24] > 0.75  # the bright wall at 60 m, where the road is lost
    assert distance[ahead, 10].max() < 8
