"""Ultrasonic sensors: distances, what is heard and what is not, faults, and what a file is good for."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.ultrasonic import EchoState, read_ultrasonic
from perception.geometry.grid import Grid
from perception.ops.echo_splat import EchoGeometry, EchoKind, echo_splat
from perception.simulation import acoustics
from perception.simulation.acoustics import MAX_RANGE_M, Air, draw_air, sound_speed_m_s
from perception.simulation.mesh import Mesh, cuboid, cylinder, moved, paint
from perception.simulation.sensors import ultrasonic
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.ultrasonic import NOISE_M, Ultrasonic, UltrasonicRecording, bumper_sensors
from tests.simulation.tiny_world import START_M, EvenMotion, pose, surroundings, wall_at

SENSORS = bumper_sensors()
FRONT = SENSORS[2]
STEEL = paint("steel")
T_US = 1_000_000
ASIDE_M = np.linspace(-0.3, 0.3, 16)


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No defects and no foreign sounds, unless a test wants them."""
    for chance in ("_FAULT_CHANCE", "_BLIND_CHANCE", "_LOST_CHANCE", "_FOREIGN_CHANCE"):
        monkeypatch.setattr(ultrasonic, chance, 0.0)


@pytest.fixture
def mild(monkeypatch: pytest.MonkeyPatch) -> Air:
    """20 degrees, known to the car."""
    air = Air(20.0, 20.0, 0.5)
    monkeypatch.setattr(ultrasonic, "draw_air", lambda _: air)
    return air


def before(sensor: Ultrasonic, distance_m: float, aside_m: float = 0.0) -> np.ndarray:
    """A place on the ground before a sensor at rest at time 0, in the world."""
    x, y = (sensor.sensor2ego @ [distance_m, aside_m, 0, 1])[:2]
    return START_M + np.array([x, y, 0])


def post(place: np.ndarray) -> Mesh:
    """The test object of the standard."""
    upright = np.eye(4)
    upright[:3, 3] = place
    return moved(cylinder(0.0375, (0.0, 1.0), STEEL, segments=32), upright)


def direct(sensor: Ultrasonic, recording: UltrasonicRecording) -> int:
    """The row of the sensor's own report."""
    return sensor.listeners.index(sensor.number)


def unbiased(recording: UltrasonicRecording) -> np.ndarray:
    """Distances (R, 2) as they would be had the car known the air."""
    air = recording.air
    return recording.burst.distance_m * sound_speed_m_s(air.temperature_c) / sound_speed_m_s(air.measured_c)


@pytest.mark.parametrize(("celsius", "expected"), [(20, 1.6), (0, 0.56), (35, 1.68), (-20, 0.35)])
def test_air_absorbs_as_the_standard_says(celsius: float, expected: float) -> None:
    assert Air(celsius, celsius, 0.5).absorption_db_m == pytest.approx(expected, abs=0.012)


def test_sound_is_faster_in_warm_air() -> None:
    assert sound_speed_m_s(0) == pytest.approx(331.3)
    assert sound_speed_m_s(20) == pytest.approx(343.2, abs=0.1)
    off_m = 3 * (sound_speed_m_s(20) / sound_speed_m_s(-20) - 1)  # what 20 degrees assumed at -20 do to 3 m
    assert off_m == pytest.approx(0.228, abs=0.002)


def test_no_two_sensors_that_fire_together_are_neighbours() -> None:
    assert [sensor.channel for sensor in SENSORS] == [f"ULTRASONIC_{i:02d}" for i in range(1, 13)]
    for sensor in SENSORS:
        assert sensor.number in sensor.listeners
        together = {it.number for it in SENSORS if it.delay_us == sensor.delay_us} - {sensor.number}
        assert len(together) == 3
        assert not together & set(sensor.listeners)
        (partner,) = (it for it in SENSORS if np.array_equal(it.sensor2ego, sensor.partner2ego))
        assert partner.number in together
        assert sensor.delay_us * -1e-6 > 2 * MAX_RANGE_M / sound_speed_m_s(-20)  # heard before the sample's time
    mirrored = np.diag([1.0, -1.0, 1.0])
    for left, right in ((0, 5), (1, 4), (2, 3), (11, 6), (10, 7), (9, 8)):
        a, b = SENSORS[left].sensor2ego, SENSORS[right].sensor2ego
        np.testing.assert_allclose(mirrored @ a[:3, 3], b[:3, 3])
        np.testing.assert_allclose(mirrored @ a[:3, 0], b[:3, 0], atol=1e-12)


@pytest.mark.parametrize("material", ["asphalt", "grass", "manhole"])
def test_level_ground_is_silent(material: str) -> None:
    floor = cuboid((30, 30, 0.02), paint(material), START_M)
    for seed in range(3):
        world = surroundings(EvenMotion(3.0), static=[floor], seed=seed)
        for sensor in SENSORS:
            burst = sensor.capture(world, T_US).burst
            assert (burst.state == EchoState.NO_OBJECT).all()
            assert np.isnan(burst.distance_m).all()
            assert (burst.reach_m > 4).all()


@pytest.mark.parametrize("seed", range(8))
def test_the_first_echo_of_a_wall_is_its_distance_within_the_noise(seed: int) -> None:
    ahead_m = float(np.random.default_rng(seed).uniform(0.4, 5.0))
    world = surroundings(EvenMotion(), static=[wall_at(FRONT.sensor2ego[0, 3] + ahead_m)], seed=seed)
    errors, row = [], None
    for number in range(12):
        recording = FRONT.capture(world, T_US + 500_000 * number)
        row = direct(FRONT, recording)
        assert recording.burst.state[row] == EchoState.OBJECT
        assert recording.own[row, 0]
        errors.append(unbiased(recording)[row, 0] - ahead_m)
        assert recording.true_m[row, 0] == pytest.approx(ahead_m, abs=0.003)
    assert np.abs(errors).max() < 4 * NOISE_M
    assert abs(np.mean(errors)) < NOISE_M


def test_a_wrong_thermometer_shifts_all_distances_by_the_same_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultrasonic, "draw_air", lambda _: Air(-10.0, 10.0, 0.5))
    monkeypatch.setattr(ultrasonic, "NOISE_M", 0.0)
    world = surroundings(EvenMotion(), static=[wall_at(FRONT.sensor2ego[0, 3] + 4.0)])
    recording = FRONT.capture(world, T_US)
    expected = 4.0 * math.sqrt(283.15 / 263.15)
    assert recording.burst.distance_m[direct(FRONT, recording), 0] == pytest.approx(expected, abs=0.003)
    assert recording.burst.temperature_c == 10.0


@pytest.mark.parametrize("seed", range(6))
def test_echoes_come_from_surfaces_and_none_is_heard_before_the_nearest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, speed = [], float(rng.uniform(0, 6))
    for _ in range(7):
        angle, far = rng.uniform(-np.pi, np.pi), rng.uniform(1.2, 4.5)
        at = pose(1.4 + (2.4 + far) * np.cos(angle) + speed, (1.2 + far) * np.sin(angle), 0.6, rng.uniform(0, 3))
        material = ["steel", "cloth_red", "brick_1", "car_white"][int(rng.integers(4))]
        boxes.append(moved(cuboid((0.6, rng.uniform(0.1, 1.5), 1.2), paint(material)), at))
    world = surroundings(EvenMotion(speed), static=boxes, seed=seed)
    heard = 0
    for sensor in SENSORS:
        recording = sensor.capture(world, T_US)
        fan_m = _surfaces_m(world, sensor, recording)
        row = direct(sensor, recording)
        if recording.own[row, 0]:
            heard += 1
            measured, way_back_m = unbiased(recording)[row, 0], speed * MAX_RANGE_M / 300  # half of what the car moves
            assert measured > fan_m.min() - 4 * NOISE_M - way_back_m
            assert np.abs(fan_m - recording.true_m[row, 0]).min() < 0.02 + way_back_m
            assert abs(measured - recording.true_m[row, 0]) < 4 * NOISE_M
    assert heard >= 3


def _surfaces_m(world: Surroundings, sensor: Ultrasonic, recording: UltrasonicRecording) -> np.ndarray:
    """Distances of all that stands within a sensor's cone and range, by a dense fan of rays."""
    aside, up = np.meshgrid(np.radians(np.arange(-85, 85.1, 0.5)), np.radians(np.arange(-42, 42.1, 1.0)))
    fan = np.stack([np.cos(up) * np.cos(aside), np.cos(up) * np.sin(aside), np.sin(up)], axis=-1).reshape(-1, 3)
    sensor2global = recording.ego2global @ sensor.sensor2ego
    hits = world.rays.cast(sensor2global[:3, 3], fan @ sensor2global[:3, :3].T)
    return hits.distance_m[(hits.distance_m < 6) & (np.abs(hits.normal[:, 2]) < 0.5)]


def test_a_moving_car_hears_the_wall_where_it_is_on_the_way_back(mild: Air) -> None:
    speed, ahead_m = 8.0, 3.0
    wall = wall_at(speed * T_US * 1e-6 + FRONT.sensor2ego[0, 3] + ahead_m)
    recording = FRONT.capture(surroundings(EvenMotion(speed), static=[wall]), T_US)
    sound = sound_speed_m_s(20)
    expected = ahead_m * sound / (sound + speed)  # there d, back d - v t, with c t = 2 d - v t
    assert recording.true_m[direct(FRONT, recording), 0] == pytest.approx(expected, abs=0.003)


def test_the_post_of_the_standard_is_heard_as_far_as_it_should(mild: Air) -> None:
    assert mild.reach_m == pytest.approx(4.3, abs=0.02)
    shares, levels = [], []
    for far_m in (1.5, 3.0, 4.0, 5.2):
        worlds = [surroundings(EvenMotion(), static=[post(before(FRONT, far_m, aside_m))]) for aside_m in ASIDE_M]
        bursts = [FRONT.capture(world, T_US).burst for world in worlds]
        heard = [burst.level_db[1, 0] for burst in bursts if burst.state[1] == EchoState.OBJECT]
        shares.append(len(heard) / len(bursts))
        levels.append(np.mean(heard) if heard else -1)
    assert shares[:2] == [1, 1]
    assert shares[2] > 0.5
    assert shares[3] < 0.2
    assert levels[0] > levels[1] > levels[2]


def test_clothes_answer_less_than_metal_and_a_slanted_mirror_not_at_all(mild: Air) -> None:
    row, place = FRONT.listeners.index(3), before(FRONT, 2.0)

    def level(material: str, turned_deg: float) -> float:
        at = pose(0, 0, 0.6, np.radians(6 + turned_deg))
        at[:2, 3] = place[:2]
        plate = moved(cuboid((0.05, 0.8, 1.2), paint(material)), at)
        world = surroundings(EvenMotion(), static=[plate])
        return float(np.mean([FRONT.capture(world, T_US + i).burst.level_db[row, 0] for i in range(6)]))

    facing = level("car_white", 0)
    assert facing > level("brick_0", 0) > level("cloth_blue", 0) + 3
    assert facing > level("car_white", 12) + 2
    assert not level("car_white", 45) > 0  # the mirrored lobe misses the sensor


def test_two_things_one_behind_the_other_give_two_echoes(mild: Air) -> None:
    row = FRONT.listeners.index(3)
    things = [post(before(FRONT, 1.5, 0.1)), wall_at(FRONT.sensor2ego[0, 3] + 3.0)]
    recording = FRONT.capture(surroundings(EvenMotion(), static=things), T_US)
    np.testing.assert_allclose(recording.burst.distance_m[row], [math.hypot(1.5, 0.1) - 0.0375, 3.0], atol=0.05)


def test_neighbours_hear_an_echo_on_the_ellipse_around_sender_and_receiver(mild: Air) -> None:
    place = before(FRONT, 1.6, 0.2)
    recording = FRONT.capture(surroundings(EvenMotion(), static=[post(place)]), T_US)
    heard = 0
    for row, number in enumerate(FRONT.listeners):
        ends = [SENSORS[it - 1].sensor2ego[:2, 3] + START_M[:2] for it in (3, number)]
        expected = sum(math.dist(end, place[:2]) for end in ends) / 2 - 0.0375
        if recording.burst.state[row] == EchoState.OBJECT:
            heard += 1
            assert recording.burst.distance_m[row, 0] == pytest.approx(expected, abs=4 * NOISE_M)
    assert heard >= 2


def test_an_actor_is_named_and_taken_where_it_is_when_the_sound_meets_it(mild: Air) -> None:
    motion = EvenMotion(0.0, 0.0, [pose(9.0, 0.24, 0.8)], [(-4.0, 0.0, 0.0)])
    recording = FRONT.capture(surroundings(motion, [cuboid((2.0, 1.6, 1.6), paint("car_red"))]), T_US)
    row = direct(FRONT, recording)
    assert recording.actor[row, 0] == 0
    expected = 9.0 - 4.0 * 1.008 - 1.0 - FRONT.sensor2ego[0, 3]
    assert recording.true_m[row, 0] == pytest.approx(expected, abs=0.01)


def test_what_is_too_close_to_measure_is_said_to_be_so(mild: Air) -> None:
    recording = FRONT.capture(surroundings(EvenMotion(), static=[wall_at(FRONT.sensor2ego[0, 3] + 0.12)]), T_US)
    row = direct(FRONT, recording)
    assert recording.burst.state[row] == EchoState.TOO_CLOSE
    assert np.isnan(recording.burst.distance_m[row]).all()


@pytest.mark.parametrize(("leak", "leaks"), [(1.0, True), (0.0, False)])
def test_a_strong_echo_of_the_partner_leaks_through_at_a_wrong_distance(
    leak: float, leaks: bool, mild: Air, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ultrasonic, "_LEAK", leak)
    corner, partner = SENSORS[1], SENSORS[4]
    plate = moved(cuboid((0.05, 0.3, 1.0), STEEL), pose(corner.sensor2ego[0, 3] + 1.025, 0, 0.5))  # a mirror in between
    recording = corner.capture(surroundings(EvenMotion(), static=[plate]), T_US)
    row = direct(corner, recording)
    aside_m = corner.sensor2ego[1, 3] - partner.sensor2ego[1, 3]
    found = np.isfinite(recording.true_m[row]) & ~recording.own[row]
    assert found.any() == leaks
    if leaks:
        assert recording.true_m[row][found][0] == pytest.approx(math.hypot(1.0, aside_m / 2), abs=0.02)


def test_foreign_sounds_are_heard_and_marked(mild: Air, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultrasonic, "_FOREIGN_CHANCE", 1.0)
    world, distances = surroundings(EvenMotion()), []
    for number in range(20):
        recording = FRONT.capture(world, T_US + number)
        assert not recording.own.any()
        distances += recording.true_m[np.isfinite(recording.true_m)].tolist()
    assert len(distances) > 30
    assert min(distances) < 1.5
    assert max(distances) > 4


@pytest.mark.parametrize(
    ("chance", "own", "neighbour"),
    [
        ("_FAULT_CHANCE", EchoState.FAULTED, EchoState.NOT_AVAILABLE),
        ("_BLIND_CHANCE", EchoState.BLIND, EchoState.NOT_AVAILABLE),
        ("_LOST_CHANCE", EchoState.NOT_AVAILABLE, EchoState.NOT_AVAILABLE),
    ],
)
def test_a_sensor_that_cannot_tell_says_so(
    chance: str, own: EchoState, neighbour: EchoState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ultrasonic, chance, 1.0)
    recording = FRONT.capture(surroundings(EvenMotion(), static=[wall_at(5.0)]), T_US)
    assert recording.burst.state.tolist() == [neighbour, own, neighbour]
    assert np.isnan(recording.burst.distance_m).all()
    assert np.isnan(recording.true_m).all()


def test_a_defect_lasts_all_through_a_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultrasonic, "_FAULT_CHANCE", 0.5)
    for seed in range(6):
        world = surroundings(EvenMotion(), seed=seed)
        own = {int(FRONT.capture(world, T_US * i).burst.state[1]) for i in range(3)}
        assert len(own) == 1


def test_the_same_seed_and_time_give_the_same_bytes() -> None:
    def content(seed: int, t_us: int) -> bytes:
        world = surroundings(EvenMotion(), static=[wall_at(FRONT.sensor2ego[0, 3] + 2.0)], seed=seed)
        return FRONT.capture(world, t_us).content

    assert content(1, T_US) == content(1, T_US)
    assert len({content(1, T_US), content(2, T_US), content(1, T_US + 1)}) == 3


def test_the_air_of_scenes_differs_and_the_thermometer_errs() -> None:
    airs = [draw_air(surroundings(EvenMotion(), seed=seed)) for seed in range(40)]
    errors = [air.measured_c - air.temperature_c for air in airs]
    assert 0.3 < np.mean(errors) < 2
    assert np.ptp([air.temperature_c for air in airs]) > 25
    assert all(4 < air.reach_m <= MAX_RANGE_M for air in airs)


def test_a_file_is_all_that_echo_splat_needs(mild: Air, tmp_path: Path) -> None:
    place = before(FRONT, 1.6)
    recording = FRONT.capture(surroundings(EvenMotion(), static=[post(place)]), T_US)
    (tmp_path / "a.ultra").write_bytes(recording.content)
    burst = read_ultrasonic(tmp_path / "a.ultra")
    np.testing.assert_allclose(burst.distance_m, recording.burst.distance_m, atol=5.1e-4)
    headings = {
        it.number: (*it.sensor2ego[:2, 3], math.atan2(it.sensor2ego[1, 0], it.sensor2ego[0, 0])) for it in SENSORS
    }
    first = burst.state == EchoState.OBJECT
    distance = np.where(first, burst.distance_m[:, 0], burst.reach_m)
    count = len(burst.receiver)
    echoes = EchoGeometry(
        sender=torch.tensor([headings[burst.sender]] * count, dtype=torch.float64),
        receiver=torch.tensor([headings[int(number)] for number in burst.receiver], dtype=torch.float64),
        distance_m=torch.from_numpy(distance),
        beam_rad=torch.full((count,), burst.half_beam_rad, dtype=torch.float64),
        age_s=torch.from_numpy(2 * distance / burst.sound_speed_m_s),
        kind=torch.from_numpy(np.where(first, EchoKind.FIRST, EchoKind.NONE).astype(np.int64)),
        batch_index=torch.zeros(count, dtype=torch.int64),
    )
    belief = torch.from_numpy(np.where(first, 0.5 + 0.5 * np.minimum(burst.level_db[:, 0] / 15, 1), 0.0))
    grid = Grid.square(8.0, 0.1)
    bev = echo_splat(belief, torch.full((count,), 2 * burst.noise_m, dtype=torch.float64), echoes, 1, grid)[0]
    y, x = ((place - START_M)[[1, 0]] / 0.1 + 80).astype(int)
    assert bev[0, y - 2 : y + 3, x - 2 : x + 3].max() > 0.5
    middle = (before(FRONT, 0.8) - START_M)[[1, 0]] / 0.1 + 80
    assert bev[1, int(middle[0]), int(middle[1])] > 0.5
    assert bev[0, 80, 60] == 0  # inside the car


def test_the_report_of_silence_is_empty() -> None:
    silence = acoustics.Heard(np.zeros(0), np.zeros(0), np.zeros(0, np.int32), np.zeros(0, bool))
    report = acoustics.detected(silence, 0.2)
    assert report.state == EchoState.NO_OBJECT
    assert np.isnan(report.distance_m).all()
