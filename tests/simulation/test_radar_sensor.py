"""The radars: Doppler, what they find and miss, ghosts, states and codes, and files that the devkit reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from nuscenes.utils.data_classes import Box, RadarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from perception.formats.radar import RADAR_FIELDS, RadarFilter, read_radar
from perception.simulation.actors.catalogue import build_shape
from perception.simulation.light import draw_light
from perception.simulation.materials import town_materials
from perception.simulation.mesh import cuboid, paint, quads
from perception.simulation.rays import RayScene
from perception.simulation.recorder import surroundings_of
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.radar import (
    LOBE,
    NUM_SLOTS,
    PERIOD_S,
    RMS_BOUNDS,
    Radar,
    RadarRecording,
    count_radar_points,
    scan_times_us,
    surround_radars,
)
from perception.simulation.sensors.radar_echoes import Carrier, Echoes, echoes_of, resolved
from perception.simulation.world import World
from tests.simulation.bare_town import bare_town
from tests.simulation.tiny_world import START_M, EvenMotion, pose, surroundings, wall_at

CAR = paint("car_white", "vehicle.car")
CAR_SIZE = np.array([4.5, 1.8, 1.6])
FRONT = surround_radars()[0]
FIXED_RATE_M_S = 0.125 + 5 * 0.08
"""Half a step of the velocity and five deviations of its noise."""


def field(scan: RadarRecording, name: str) -> np.ndarray:
    return scan.points[:, RADAR_FIELDS.index(name)].astype(np.float64)


def lines(scan: RadarRecording) -> np.ndarray:
    """(P, 2) unit directions of the returns, sensor frame."""
    places = scan.points[:, :2].astype(np.float64)
    return places / np.linalg.norm(places, axis=1, keepdims=True)


def rates(scan: RadarRecording, names: tuple[str, str]) -> np.ndarray:
    """(P,) a velocity's part along the line of sight."""
    return (lines(scan) * np.stack([field(scan, name) for name in names], axis=1)).sum(axis=1)


def sensor_velocity(radar: Radar, ego2global: np.ndarray, velocity: np.ndarray, yaw_rate: float) -> np.ndarray:
    """(3,) of a mounted sensor over ground, world axes."""
    arm = ego2global[:3, :3] @ radar.sensor2ego[:3, 3]
    return velocity + yaw_rate * np.array([-arm[1], arm[0], 0])


def check_rates(
    scan: RadarRecording, own: np.ndarray, centres: np.ndarray, velocities: np.ndarray, yaw_rates: np.ndarray
) -> np.ndarray:
    """Checks all returns of actors, by their centres, velocities (A, 3) and yaw rates; gives the errors (K,)."""
    mine = (scan.actor >= 0) & (field(scan, "ambig_state") == 3)
    actor, sensor2global = scan.actor[mine], scan.sensor2global
    place = scan.points[mine, :2] @ sensor2global[:2, :2].T + sensor2global[:2, 3]
    arm = place - centres[actor, :2]
    turning = yaw_rates[actor, None] * np.stack([-arm[:, 1], arm[:, 0]], axis=1)
    velocity = velocities[actor, :2] + turning  # (K, 2)
    along = lines(scan)[mine] @ sensor2global[:2, :2].T
    expected = ((velocity - own[:2]) * along).sum(axis=1)
    # the place is off by noise and steps of 0.2 m, so the line of sight is not quite the one of the measurement
    askew = 0.04 + 0.25 / np.linalg.norm(scan.points[mine, :2], axis=1)
    allowed = FIXED_RATE_M_S + askew * np.linalg.norm(velocity - own[:2], axis=1) + 0.5 * np.abs(yaw_rates[actor])
    error = rates(scan, ("vx", "vy"))[mine] - expected
    assert (np.abs(error) < allowed).all()
    compensated = rates(scan, ("vx_comp", "vy_comp"))[mine] - (velocity * along).sum(axis=1)
    np.testing.assert_allclose(compensated, error, atol=1e-3)
    return error


@pytest.mark.parametrize("seed", range(6))
def test_doppler_is_the_projected_relative_velocity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    speed, yaw_rate = rng.uniform(-5, 20), rng.uniform(-0.4, 0.4)
    places = [pose(*rng.uniform([-40, -30], [50, 30]), 0.81, rng.uniform(-3, 3)) for _ in range(8)]
    velocities = np.pad(rng.uniform(-15, 15, (8, 2)), ((0, 0), (0, 1)))
    motion = EvenMotion(speed, yaw_rate, places, [tuple(velocity) for velocity in velocities])
    world = surroundings(motion, [cuboid(CAR_SIZE, CAR)] * 8, seed=seed)
    errors, t_us = [np.zeros(0)], 40_000
    ego2global = motion.ego2global(t_us)
    for radar in surround_radars():
        own = sensor_velocity(radar, ego2global, speed * ego2global[:3, 0], yaw_rate)
        centres = motion.actor2global(t_us)[:, :3, 3]
        errors.append(check_rates(radar.capture(world, t_us), own, centres, velocities, np.zeros(8)))
    error = np.concatenate(errors)
    assert len(error) > 20
    assert abs(error.mean()) < 0.1


SEEDS = [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", SEEDS)
def test_doppler_agrees_with_the_world(seed: int) -> None:
    world, what_is = traffic(seed)
    count, short_us = 0, 1_000
    for t_us in (200_000, 1_500_000):
        velocity, of_actors = world.ego_velocity(t_us), world.actor_velocities(t_us)
        poses, later = world.actor2global(t_us), world.actor2global(t_us + short_us)
        turn = poses[:, :3, :3].transpose(0, 2, 1) @ later[:, :3, :3]
        yaw_rates = np.arctan2(turn[:, 1, 0], turn[:, 0, 0]) / (1e-6 * short_us)
        for radar in surround_radars():
            own = sensor_velocity(radar, world.ego2global(t_us), velocity[:3], float(velocity[3]))
            scan = radar.capture(what_is, t_us)
            count += len(check_rates(scan, own, poses[:, :3, 3], of_actors, yaw_rates))
    assert count > 60


def traffic(seed: int) -> tuple[World, Surroundings]:
    """Traffic on level ground, without houses."""
    world = World(bare_town(seed), seed, 2.0)
    corners = 1000 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    meshes = [mesh for actor in world.actors for mesh in actor.shape.meshes]
    rays = RayScene(quads(corners[None], paint("asphalt")), meshes)
    return world, replace(surroundings_of(world, "day"), rays=rays, signals=None, ego_shape=None)


@pytest.mark.parametrize("yaw_rate", [0.0, 0.3])
def test_what_stands_still_has_no_compensated_velocity(yaw_rate: float) -> None:
    world = surroundings(EvenMotion(12.0, yaw_rate), static=[wall_at(40), wall_at(-40)])
    for radar in surround_radars():
        scan = radar.capture(world, 30_000)
        still = np.isin(field(scan, "dyn_prop"), (1, 3)) & (field(scan, "ambig_state") == 3)
        assert still.sum() > 20
        over_ground = rates(scan, ("vx_comp", "vy_comp"))[still]
        assert np.abs(over_ground).max() < 1.0
        assert np.median(np.abs(over_ground)) < 0.2
        raw = np.abs(rates(scan, ("vx", "vy"))[still])
        assert raw.max() > 8 or abs(np.arctan2(*radar.sensor2ego[1::-1, 0])) - np.pi / 2 < 0.1


def test_compensated_velocities_are_radial_and_raw_ones_are_not() -> None:
    scan = FRONT.capture(surroundings(EvenMotion(12.0, 0.2), static=[wall_at(40)]), 30_000)
    across = lines(scan)[:, 0] * field(scan, "vy_comp") - lines(scan)[:, 1] * field(scan, "vx_comp")
    assert np.abs(across).max() < 1e-5
    across = lines(scan)[:, 0] * field(scan, "vy") - lines(scan)[:, 1] * field(scan, "vx")
    assert np.abs(across).max() > 3


def off_grid(points: np.ndarray) -> float:
    """The largest distance of a value from its grid, in steps."""
    grids = (("x", 0.2, 0), ("y", 0.2, 0.1), ("rcs", 0.5, 0), ("vx", 0.25, 0), ("vy", 0.25, 0), ("z", 1, 0))
    cells = [(points[:, RADAR_FIELDS.index(name)].astype(float) - offset) / step for name, step, offset in grids]
    return float(np.abs(cells - np.round(cells)).max())


def test_recorded_values_lie_on_these_grids(real_data: Path) -> None:
    for file in [*(real_data / "radar").glob("*.pcd"), *(real_data / "nuscenes/samples/RADAR_FRONT").glob("*.pcd")]:
        assert off_grid(read_radar(file)) < 2e-4


def test_values_lie_on_the_grids_of_recorded_files(tmp_path: Path) -> None:
    motion = EvenMotion(10.0, 0.1, [pose(25, 3, 0.81)], [(4.0, 1.0, 0.0)])
    scan = FRONT.capture(surroundings(motion, [cuboid(CAR_SIZE, CAR)], [wall_at(50)]), 30_000)
    assert off_grid(scan.points) < 2e-4
    assert (field(scan, "z") == 0).all()
    assert (field(scan, "id") == np.arange(len(scan.points))).all()
    assert (field(scan, "is_quality_valid") == 1).all()
    distance = np.hypot(field(scan, "x"), field(scan, "y"))
    assert (np.diff(distance) > -2).all()  # nearest first, but for noise
    assert np.degrees(np.abs(np.arctan2(field(scan, "y"), field(scan, "x")))).max() < 75
    (tmp_path / "a.pcd").write_bytes(scan.content)
    np.testing.assert_array_equal(read_radar(tmp_path / "a.pcd"), scan.points)
    theirs = RadarPointCloud.from_file(str(tmp_path / "a.pcd")).points.T
    np.testing.assert_array_equal(theirs, read_radar(tmp_path / "a.pcd", RadarFilter()))
    assert 0.2 * len(scan.points) < len(theirs) < 0.9 * len(scan.points)


def test_nothing_at_all_is_a_file_of_its_own(tmp_path: Path) -> None:
    far = quads(np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]], float), CAR)
    void = Surroundings(RayScene(far), EvenMotion(), town_materials(0), draw_light(2, "day"), 1)
    scans = [FRONT.capture(void, t_us) for t_us in range(0, 1_000_000, 50_000)]
    empty = next(scan for scan in scans if not len(scan.points))  # as often as the noise has no peak
    (tmp_path / "a.pcd").write_bytes(empty.content)
    assert RadarPointCloud.from_file(str(tmp_path / "a.pcd")).points.shape == (18, 0)
    assert read_radar(tmp_path / "a.pcd").shape == (0, 18)
    assert max(len(scan.points) for scan in scans) < 10


def echoes(world: Surroundings, radar: Radar = FRONT, seed: int = 0, t_us: int = 0) -> tuple[Echoes, Carrier]:
    carrier = Carrier.of(world, radar.sensor2ego, t_us)
    return echoes_of(world, carrier, LOBE, t_us, np.random.default_rng(seed)), carrier


def section_db(kind: str, yaw_deg: float, distance_m: float = 20.0) -> float:
    """Median cross-section of a kind of actor ahead of the radar, dBsm."""
    sections = []
    for seed in range(4):
        shape = build_shape(kind, np.random.default_rng(seed))
        place = pose(3.4 + distance_m, 0, shape.size_lwh_m[2] / 2, np.radians(yaw_deg))
        found, _ = echoes(surroundings(EvenMotion(0, 0, [place], [(0.0, 0.0, 0.0)]), [shape.meshes[0]]), seed=seed)
        sections.append(found.section_m2[found.actor == 0].sum())
    return float(10 * np.log10(np.median(sections)))


def test_cross_sections_follow_class_and_aspect() -> None:
    behind, corner, beside = (section_db("saloon", yaw_deg) for yaw_deg in (0, 45, 90))
    assert corner + 3 < behind < beside + 1
    assert 5 < behind < 14
    assert 10 < beside < 20
    lorry, person, cyclist = section_db("truck", 0), section_db("adult_walking", 0), section_db("cyclist", 90)
    assert 12 < lorry < 25
    assert -13 < person < -4
    assert person < cyclist < behind < lorry
    assert section_db("bus", 90) > lorry


def test_an_object_is_as_large_far_away_as_nearby() -> None:
    near, far = section_db("saloon", 180, 15), section_db("saloon", 180, 70)
    assert abs(near - far) < 4


def test_what_is_hidden_is_not_found() -> None:
    lorry, car = cuboid(np.array([8.0, 2.5, 3.0]), CAR), cuboid(CAR_SIZE, CAR)
    for gap, hidden in ((0.0, True), (6.0, False)):
        motion = EvenMotion(0, 0, [pose(15, 0, 1.5), pose(40, gap, 0.8)], [(0.0, 0.0, 0.0)] * 2)
        scan = FRONT.capture(surroundings(motion, [lorry, car]), 0)
        assert (scan.actor == 0).any()
        assert (scan.actor == 1).any() != hidden


def found_share(distance_m: float) -> float:
    """Share of scans in which somebody who walks ahead is found."""
    person = build_shape("adult_walking", np.random.default_rng(3))
    place = pose(3.4 + distance_m, 0, person.size_lwh_m[2] / 2)
    found = 0
    for seed in range(12):
        world = surroundings(EvenMotion(0, 0, [place], [(1.2, 0.0, 0.0)]), [person.meshes[0]], seed=seed)
        found += bool((FRONT.capture(world, 0).actor == 0).any())
    return found / 12


def test_small_things_far_away_are_missed() -> None:
    near, far, farthest = found_share(15), found_share(70), found_share(150)
    assert near > 0.9
    assert 0.05 < far < 1
    assert farthest <= far
    assert farthest < 0.5


def test_a_wall_mirrors_what_drives_along_it() -> None:
    side_m, velocity = 8.0, np.array([-6.0, 1.5, 0.0])
    glass = quads(
        np.array([[[0, side_m, 0], [80, side_m, 0], [80, side_m, 6], [0, side_m, 6]]], float) + START_M,
        paint("curtain_wall"),
    )
    motion = EvenMotion(10.0, 0.0, [pose(30, -2, 0.81)], [tuple(velocity)])
    found, _ = echoes(surroundings(motion, [cuboid(CAR_SIZE, CAR)], [glass]))
    ghosts = found.at(np.nonzero(found.ghost & (np.abs(found.rate_m_s) > 12))[0])  # of the car, not of the street
    assert len(ghosts.range_m) > 3
    assert (ghosts.actor == -1).all()
    image = np.array([30 - 3.412, 2 * side_m + 2, 0.3])  # the car behind the wall, from the radar
    azimuth = np.arctan2(image[1], image[0])
    assert np.abs(ghosts.range_m - np.linalg.norm(image)).max() < 3.5
    assert np.abs(np.arcsin(ghosts.sine) - azimuth).max() < 0.12
    mirrored = velocity * np.array([1, -1, 1]) - np.array([10.0, 0, 0])
    expected = mirrored @ image / np.linalg.norm(image)
    assert abs(np.median(ghosts.rate_m_s) - expected) < 0.5
    direct = found.section_m2[found.actor == 0].sum()
    assert ghosts.section_m2.sum() < 0.2 * direct


def test_cells_keep_power_and_tell_moving_from_standing() -> None:
    motion = EvenMotion(10.0, 0.0, [pose(30, 1, 0.81)], [(8.0, 0.0, 0.0)])
    found, carrier = echoes(surroundings(motion, [cuboid(CAR_SIZE, CAR)], [wall_at(33)]))
    cells = resolved(found, LOBE, carrier)
    assert len(cells.range_m) < 0.6 * len(found.range_m)
    assert np.isclose(cells.section_m2.sum(), found.section_m2.sum())
    assert (np.abs(cells.rate_m_s[cells.actor == 0] + 2) < 0.5).all()
    assert (np.abs(cells.rate_m_s[(cells.actor < 0) & (np.abs(cells.sine) < 0.2)] + 10) < 0.5).all()


def test_codes_and_states_are_those_of_the_interface() -> None:
    world = surroundings(EvenMotion(10.0, 0.0), static=[wall_at(30), wall_at(-60)])
    scans = [radar.capture(world, t_us) for radar in surround_radars() for t_us in (0, 76_923, 153_846)]
    values = np.concatenate([scan.points for scan in scans])
    by_name = {name: set(values[:, i].astype(int).tolist()) for i, name in enumerate(RADAR_FIELDS)}
    assert by_name["dyn_prop"] <= {0, 1, 2, 3, 4}
    assert by_name["ambig_state"] <= {0, 1, 2, 3}
    assert by_name["invalid_state"] <= {0, 3, 4, 6, 7, 9, 10, 11, 15, 16}
    assert by_name["pdh0"] <= {1, 3, 6}
    assert by_name["vy_rms"] <= {0, 3}
    assert RMS_BOUNDS[18] == 0.478
    unknown = values[:, RADAR_FIELDS.index("ambig_state")] == 0
    assert 0 < unknown.mean() < 0.1
    for name in ("vx", "vy", "x_rms", "y_rms", "vx_rms", "vy_rms"):
        assert (values[unknown, RADAR_FIELDS.index(name)] == 0).all()
        if name.endswith("rms"):
            assert (values[~unknown, RADAR_FIELDS.index(name)] > 0).all()
    assert (values[unknown, RADAR_FIELDS.index("dyn_prop")] == 4).all()


def test_the_same_seed_and_time_give_the_same_bytes() -> None:
    motion = EvenMotion(5.0, 0.1, [pose(12, 2, 0.81)], [(3.0, 0.0, 0.0)])

    def content(seed: int) -> bytes:
        return FRONT.capture(surroundings(motion, [cuboid(CAR_SIZE, CAR)], seed=seed), 50_000).content

    assert content(5) == content(5)
    assert content(5) != content(6)


def test_returns_are_counted_as_the_devkit_counts_them() -> None:
    rng = np.random.default_rng(0)
    yaws, places = rng.uniform(-3, 3, 6), rng.uniform([-20, -12], [25, 12], (6, 2))
    actors = [pose(x, y, 0.8, yaw) for (x, y), yaw in zip(places, yaws, strict=True)]
    motion = EvenMotion(6.0, 0.2, actors, [(2.0, 0.0, 0.0)] * 6)
    world = surroundings(motion, [cuboid(CAR_SIZE, CAR)] * 6)
    scans = [radar.capture(world, 300_000 + radar.delay_us) for radar in surround_radars()]
    centres = motion.actor2global(300_000)[:, :3, 3]
    boxes = np.column_stack((centres, np.tile(CAR_SIZE, (6, 1)), yaws))
    counts = count_radar_points(scans, boxes)
    points = np.concatenate(
        [scan.points[:, :3] @ scan.sensor2global[:3, :3].T + scan.sensor2global[:3, 3] for scan in scans]
    )
    for box, count in zip(boxes, counts, strict=True):
        theirs = Box(box[:3], box[[4, 3, 5]], Quaternion(axis=[0, 0, 1], angle=box[6]))
        assert points_in_box(theirs, points.T).sum() == count
    assert counts.sum() > 10
    assert (count_radar_points([], boxes) == 0).all()


def test_radars_run_freely_and_the_nearest_scan_belongs_to_the_sample() -> None:
    keys = [500_000 * k for k in range(1, 9)]
    for radar in surround_radars():
        times = scan_times_us(radar.delay_us, PERIOD_S, keys, 10)
        assert times[0] == [keys[0] + radar.delay_us]
        every = np.concatenate(times)
        np.testing.assert_allclose(np.diff(every), 1e6 / 13, atol=1)
        assert [len(scans) for scans in times[1:]].count(6) + [len(scans) for scans in times[1:]].count(7) == 7
        assert max(abs(scans[-1] - key) for scans, key in zip(times, keys, strict=True)) <= 38_462
    assert [len(scans) for scans in scan_times_us(0, PERIOD_S, keys, 2)] == [1] + [3] * 7
    assert [len(scans) for scans in scan_times_us(0, PERIOD_S, keys, 0)] == [1] * 8


@pytest.mark.slow
def test_scans_in_a_town_are_as_full_as_recorded_ones() -> None:
    from perception.simulation.manifest import plan_manifest
    from perception.simulation.recorder import scene_surroundings
    from perception.simulation.settings import Settings

    manifest = plan_manifest(2, 0, Settings(seconds=2.0))
    _, what_is = scene_surroundings(manifest.scenes[0], manifest.settings)
    scans = [radar.capture(what_is, t_us) for radar in surround_radars() for t_us in (200_000, 1_900_000)]
    sizes = [len(scan.points) for scan in scans]
    assert max(sizes) == NUM_SLOTS
    assert sizes.count(NUM_SLOTS) >= 8  # fewer only where something stands right before a radar
    kept = [int(RadarFilter().keeps(scan.points).sum()) for scan in scans]
    assert 40 < np.mean(kept) < 80  # recorded: 30 to 74
    assert min(kept) > 25
    values = np.concatenate([scan.points for scan in scans])
    rcs = values[:, RADAR_FIELDS.index("rcs")]
    assert -3 < np.median(rcs) < 8
    assert np.isin(values[:, RADAR_FIELDS.index("dyn_prop")], (1, 3)).mean() > 0.75
    assert np.mean([scan.ghost.mean() for scan in scans]) < 0.15


def test_a_wall_is_bright_in_the_same_places_in_every_scan() -> None:
    levels = []
    for seed in (1, 2):
        found, _ = echoes(surroundings(EvenMotion(), static=[wall_at(13.412)]), seed=seed)  # 10 m ahead of the radar
        wall = found.at(np.nonzero((found.elevation_rad > 0) & (np.abs(found.sine) < 0.6) & ~found.ghost)[0])
        place = np.floor(10 * wall.sine / np.sqrt(1 - wall.sine**2) / 0.5).astype(int)  # 0.5 m along the wall
        levels.append(np.log10(np.bincount(place - place.min(), wall.section_m2)[1:-1]))
    assert np.corrcoef(*levels)[0, 1] > 0.7
