"""The radar with height: elevation, Doppler, power, density, files."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.radar4d import RADAR4D_FIELDS, read_radar4d
from perception.simulation.mesh import cuboid, paint
from perception.simulation.sensors.radar import surround_radars
from perception.simulation.sensors.radar4d import LOBE, MAX_POINTS, Radar4dRecording, surround_radars4d
from tests.simulation.tiny_world import EvenMotion, pose, surroundings, wall_at

CAR = paint("car_white", "vehicle.car")
FRONT = surround_radars4d()[0]


def field(scan: Radar4dRecording, name: str) -> np.ndarray:
    return scan.points[:, RADAR4D_FIELDS.index(name)].astype(np.float64)


def in_world(scan: Radar4dRecording) -> np.ndarray:
    return scan.points[:, :3] @ scan.sensor2global[:3, :3].T + scan.sensor2global[:3, 3]


@pytest.mark.parametrize("seed", range(4))
def test_doppler_is_the_projected_relative_velocity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    speed, yaw_rate = rng.uniform(-5, 20), rng.uniform(-0.3, 0.3)
    places = [pose(*rng.uniform([-40, -20], [50, 20]), 0.81, rng.uniform(-3, 3)) for _ in range(8)]
    velocities = np.pad(rng.uniform(-15, 15, (8, 2)), ((0, 0), (0, 1)))
    motion = EvenMotion(speed, yaw_rate, places, [tuple(velocity) for velocity in velocities])
    world = surroundings(motion, [cuboid(np.array([4.5, 1.8, 1.6]), CAR)] * 8, [wall_at(60)], seed)
    ego2global, errors = motion.ego2global(40_000), []
    for radar in surround_radars4d():
        scan = radar.capture(world, 40_000)
        arm = ego2global[:3, :3] @ radar.sensor2ego[:3, 3]
        own = speed * ego2global[:3, 0] + yaw_rate * np.array([-arm[1], arm[0], 0])
        kept = ~scan.ghost
        velocity = np.where(scan.actor[kept, None] >= 0, velocities[scan.actor[kept]], 0.0)  # (K, 3)
        along = in_world(scan)[kept] - scan.sensor2global[:3, 3]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        error = field(scan, "range_rate")[kept] - ((velocity - own) * along).sum(axis=1)
        # a cell holds patches up to a degree apart, and what it says of their direction has noise
        assert (np.abs(error) < 0.35 + 0.03 * np.linalg.norm(velocity - own, axis=1)).all()
        over_ground = field(scan, "range_rate_over_ground")[kept] - (velocity * along).sum(axis=1)
        np.testing.assert_allclose(over_ground, error, atol=1e-3)
        errors.append(error)
    assert np.concatenate(errors).std() < 0.15


def test_height_is_measured() -> None:
    size = np.array([8.0, 2.5, 3.2])
    motion = EvenMotion(0, 0, [pose(25, -4, 1.6), pose(25, 4, 5.6)], [(0.0, 0.0, 0.0)] * 2)
    world = surroundings(motion, [cuboid(size, CAR)] * 2)  # one on the ground, one 4 m above it
    scans = [FRONT.capture(world, t_us) for t_us in (0, 76_923, 153_846)]
    actor, places = np.concatenate([it.actor for it in scans]), np.concatenate([in_world(it) for it in scans])
    low, high = places[actor == 0, 2], places[actor == 1, 2]
    assert len(low) > 20
    assert len(high) > 20
    assert -0.6 < low.min() < low.max() < 3.8
    assert 3.4 < high.min() < high.max() < 7.8
    for centre, mine in ((motion.actors[0], actor == 0), (motion.actors[1], actor == 1)):
        off = np.abs(places[mine] - centre[:3, 3]) - size / 2
        assert (off[:, :2] < 0.6).all()


def test_power_follows_the_radar_equation() -> None:
    scan = FRONT.capture(surroundings(EvenMotion(), static=[wall_at(30)]), 0)
    distance = np.linalg.norm(scan.points[:, :3], axis=1)
    azimuth_deg = np.degrees(np.arctan2(field(scan, "y"), field(scan, "x")))
    expected = field(scan, "rcs") - 6 * (azimuth_deg / LOBE.half_power_deg[0]) ** 2
    expected -= 40 * np.log10(distance / LOBE.reach_m)
    assert np.abs(field(scan, "power") - expected).max() < 3
    assert field(scan, "power").min() > 10


def test_it_sees_more_than_a_radar_without_height(tmp_path: Path) -> None:
    motion = EvenMotion(8.0, 0.1, [pose(25, 2, 0.81)], [(4.0, 0.0, 0.0)])
    world = surroundings(motion, [cuboid(np.array([4.5, 1.8, 1.6]), CAR)], [wall_at(50)])
    scan, plain = FRONT.capture(world, 40_000), surround_radars()[0].capture(world, 40_000)
    assert 3 * len(plain.points) < len(scan.points) <= MAX_POINTS
    assert (scan.actor == 0).sum() > 2 * (plain.actor == 0).sum() > 0
    assert (np.diff(np.linalg.norm(scan.points[:, :3], axis=1)) > -1).all()
    (tmp_path / "a.bin").write_bytes(scan.content)
    np.testing.assert_array_equal(read_radar4d(tmp_path / "a.bin"), scan.points)
    assert FRONT.capture(world, 40_000).content == scan.content
    assert FRONT.capture(world, 40_001).content != scan.content
