"""LiDAR, radars and ultrasonics in rain and fog: what they lose, what drops add, and that truths stay true."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.occupancy import FREE
from perception.formats.ultrasonic import EchoState
from perception.simulation.acoustics import drop_strikes_per_s, sound_speed_m_s
from perception.simulation.drops import drops_per_m3, size_slope_per_m
from perception.simulation.mesh import cuboid, paint
from perception.simulation.rig import roof_lidar, surround_cameras
from perception.simulation.sensors import lidar_weather
from perception.simulation.sensors.base import Sensor, Surroundings
from perception.simulation.sensors.lidar import LidarRecording
from perception.simulation.sensors.lidar_weather import drop_echoes, prevailing, transmission
from perception.simulation.sensors.radar import LOBE, Radar, surround_radars
from perception.simulation.sensors.radar4d import LOBE as LOBE4D
from perception.simulation.sensors.radar4d import Radar4d, surround_radars4d
from perception.simulation.sensors.radar_echoes import Carrier, Echoes, Lobe, unit
from perception.simulation.sensors.radar_weather import attenuated, attenuation_db_m, rain_echoes
from perception.simulation.sensors.ultrasonic import NOISE_M, bumper_sensors
from perception.simulation.truth.lidarseg import InstanceNumbers, panoptic_labels
from perception.simulation.truth.near_field import near_field_cells
from perception.simulation.truth.occupancy import OccupancySensors, scene_occupancy
from perception.simulation.weather import CLEAR, Weather, WeatherKind, draw_weather
from tests.simulation.test_radar_sensor import check_rates, sensor_velocity
from tests.simulation.tiny_world import EvenMotion, pose, surroundings, wall_at
from tests.simulation.truth_world import NUM_ACTORS, TinyScene, draw_scene

T_US = 1_000_000
LIDAR = roof_lidar()
FRONT = bumper_sensors()[2]
RADAR, RADAR4D = surround_radars()[0], surround_radars4d()[0]
CAR = paint("car_white", "vehicle.car")
CAR_SIZE = (4.5, 1.8, 1.6)
SEEDS = range(3)
NOISE, ROAD = POINT_CATEGORIES.index("noise"), POINT_CATEGORIES.index("flat.driveable_surface")


def rain(rain_mm_h: float) -> Weather:
    """Rain with the visibility of Recommendation ITU-R P.1814."""
    return Weather("rain", rain_mm_h, 3 / (1.076 * rain_mm_h**0.67 * np.log(10) / 1e4))


def fog(visibility_m: float) -> Weather:
    return Weather("fog", 0.0, visibility_m)


CLOUDBURST, THICK_FOG = rain(25.0), fog(60.0)


@lru_cache(maxsize=len(SEEDS))
def scene_of(seed: int) -> TinyScene:
    return draw_scene(seed, moving=True)


@lru_cache(maxsize=16)
def sweep_of(seed: int, weather: Weather) -> LidarRecording:
    return LIDAR.capture(replace(scene_of(seed).surroundings, weather=weather), T_US)


def ranges_m(sweep: LidarRecording) -> np.ndarray:
    return np.linalg.norm(sweep.raw.astype(np.float64), axis=1)


def off_drops(sweep: LidarRecording) -> np.ndarray:
    """(P,) bool: returns that came off rain and fog."""
    return (sweep.semantic == NOISE) & (ranges_m(sweep) > 0)


# --- LiDAR


@pytest.mark.parametrize("kind", ["rain", "fog"])
@pytest.mark.parametrize("seed", SEEDS)
def test_lidar_points_of_an_actor_lie_in_its_box_in_any_weather(seed: int, kind: WeatherKind) -> None:
    scene = scene_of(seed)
    sweep = sweep_of(seed, draw_weather(seed, kind))
    sensor2global = sweep.ego2global @ LIDAR.sensor2ego
    seen = 0
    for actor, name in enumerate(scene.categories):
        mine = sweep.actor == actor
        then = sweep.points[mine, :3].astype(np.float64) @ sensor2global[:3, :3].T + sensor2global[:3, 3]
        at_end = then - np.array(scene.motion.velocities_m_s[actor]) * sweep.time_s[mine, None]
        box2global = scene.motion.actor2global(T_US)[actor]
        local = (at_end - box2global[:3, 3]) @ box2global[:3, :3]
        assert (np.abs(local) < scene.sizes_m[actor] / 2 + 0.08).all()
        assert (sweep.semantic[mine] == POINT_CATEGORIES.index(name)).all()
        seen += mine.sum()
    assert seen > 400


@pytest.mark.parametrize("weather", [rain(3.0), CLOUDBURST, fog(250.0), THICK_FOG])
@pytest.mark.parametrize("seed", SEEDS)
def test_weather_takes_returns_and_adds_those_of_drops_before_surfaces(seed: int, weather: Weather) -> None:
    clear, sweep = sweep_of(seed, CLEAR), sweep_of(seed, weather)
    assert not off_drops(clear).any()
    drops = off_drops(sweep)
    solid = (ranges_m(sweep) > 0) & ~drops
    assert (solid <= (ranges_m(clear) > 0)).all()
    np.testing.assert_array_equal(sweep.points[solid, :3], clear.points[solid, :3])
    np.testing.assert_array_equal(sweep.semantic[solid], clear.semantic[solid])
    assert (sweep.points[solid, 3] <= clear.points[solid, 3]).all()
    assert (sweep.actor[drops] == -1).all()
    behind = drops & (ranges_m(clear) > 0)
    assert (ranges_m(sweep)[behind] < ranges_m(clear)[behind] + 0.1).all()
    assert (ranges_m(sweep)[drops] >= 1.0).all()
    assert (ranges_m(sweep)[drops] < 15).mean() > 0.95
    assert np.median(sweep.points[drops, 3]) <= 3


def test_the_less_one_sees_the_fewer_surfaces_return() -> None:
    clear = sweep_of(0, CLEAR)
    far = ranges_m(clear) > 20
    kept, near = [], []
    for visibility_m in (1000.0, 250.0, 120.0, 60.0, 30.0):
        sweep = sweep_of(0, fog(visibility_m))
        kept.append(int((far & (sweep.semantic != NOISE)).sum()))
        near.append(int(off_drops(sweep).sum()))
    assert kept == sorted(kept, reverse=True)
    assert near == sorted(near)
    assert kept[0] > 0.9 * far.sum()
    assert kept[-1] < 0.1 * far.sum()


def test_light_is_lost_as_computed_by_hand() -> None:
    np.testing.assert_allclose(transmission(fog(100.0), np.array([50.0, 100.0])), [0.05, 0.05**2], rtol=0.01)
    loss_db = -10 * np.log10(transmission(CLOUDBURST, np.array([100.0])))
    np.testing.assert_allclose(loss_db, 2 * 0.1 * 9.30, rtol=0.002)  # 1.076 * 25 ** 0.67 dB/km
    assert transmission(CLEAR, np.array([100.0])) == 1.0


@pytest.mark.parametrize("rain_mm_h", [3.0, 10.0, 25.0])
def test_drops_of_marshall_and_palmer_cause_the_extinction_of_rain(rain_mm_h: float) -> None:
    diameter_m = np.linspace(0, 8e-3, 4001)
    number = -np.diff(drops_per_m3(rain_mm_h, diameter_m))  # in a cubic metre, by size
    middle_m = (diameter_m[1:] + diameter_m[:-1]) / 2
    extinction = (number * 2 * np.pi / 4 * middle_m**2).sum()  # a large drop takes twice what strikes it
    assert extinction == pytest.approx(rain(rain_mm_h).extinction_per_m, rel=0.45)
    water_mm_h = (number * np.pi / 6 * middle_m**3 * _falling_m_s(middle_m)).sum() * 3.6e6
    assert water_mm_h == pytest.approx(rain_mm_h, rel=0.25)


def _falling_m_s(diameter_m: np.ndarray) -> np.ndarray:
    """Atlas, Srivastava, Sekhon: Doppler radar characteristics of precipitation, Reviews of Geophysics 11, 1973."""
    return np.maximum(9.65 - 10.3 * np.exp(-600 * diameter_m), 0)


def test_a_wall_in_fog_is_as_much_darker_as_light_is_lost() -> None:
    world = surroundings(EvenMotion(), static=[wall_at(20)])
    weather = fog(150.0)
    clear, sweep = LIDAR.capture(world, T_US), LIDAR.capture(replace(world, weather=weather), T_US)
    wall = (sweep.semantic == POINT_CATEGORIES.index("static.manmade")) & (clear.points[:, 3] > 20)
    expected = transmission(weather, ranges_m(sweep)[wall])
    ratio = sweep.points[wall, 3] / clear.points[wall, 3]
    assert wall.sum() > 100
    np.testing.assert_allclose(ratio, expected, atol=0.05)  # both are whole numbers


def crossover_m(visibility_m: float) -> float:
    """Where fog outshines a surface after Hahner et al. 2021, equations 5 to 13, with their parameters."""
    light_m_s, half_pulse_s, target = 2.998e8, 20e-9, 1e-6 / np.pi
    extinction, backscatter = 3 / visibility_m, 0.046 / visibility_m
    time_s = np.linspace(0, 2 * half_pulse_s, 400)
    way_m = np.arange(0.5, 40, 0.05)[:, None] - light_m_s * time_s / 2
    overlap = np.clip((way_m - 0.9) / 0.1, 0, 1)
    glow = overlap * np.exp(-2 * extinction * way_m) / np.maximum(way_m, 0.1) ** 2
    pulse = np.sin(np.pi * time_s / (2 * half_pulse_s)) ** 2
    soft = backscatter * (pulse * glow).sum(axis=1).max() * (time_s[1] - time_s[0])
    distance_m = np.arange(5, 150, 0.1)
    hard = target * np.exp(-2 * extinction * distance_m) / distance_m**2
    return float(distance_m[np.argmax(hard < soft)])


@pytest.mark.parametrize("visibility_m", [40.0, 60.0, 90.0])
def test_fog_outshines_a_wall_from_about_the_distance_of_hahner_et_al(visibility_m: float) -> None:
    shares = []
    for factor in (0.5, 0.75, 1.1, 1.4):
        wall = wall_at(0.95 + factor * crossover_m(visibility_m), half_m=8, height_m=20)
        world = surroundings(EvenMotion(), static=[wall])
        met = LIDAR.capture(world, T_US).semantic == POINT_CATEGORIES.index("static.manmade")
        sweep = LIDAR.capture(replace(world, weather=fog(visibility_m)), T_US)
        seen, outshone = (met & (sweep.semantic != NOISE)).sum(), (met & off_drops(sweep)).sum()
        shares.append(outshone / (seen + outshone))
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[1] < 0.5 < shares[2]
    assert shares[3] > 0.8


@pytest.mark.parametrize("rain_mm_h", [8.0, 25.0])
def test_echoes_of_rain_are_those_of_drops_thrown_into_beams(rain_mm_h: float) -> None:
    weather, rng, num_beams, slices_m = rain(rain_mm_h), np.random.default_rng(0), 400_000, np.arange(1.05, 25, 0.1)
    least_m = 0.99 * lidar_weather._faintest_drop_m(weather, slices_m).min()
    mean = drops_per_m3(rain_mm_h, least_m) * lidar_weather._beam_m2(slices_m) * 0.1  # in each slice of a beam
    thrown = rng.poisson(mean * num_beams)
    distance_m = np.repeat(slices_m, thrown)
    size_m = least_m + rng.exponential(1 / size_slope_per_m(rain_mm_h), thrown.sum())
    found = size_m > lidar_weather._faintest_drop_m(weather, distance_m)
    drops = drop_echoes(weather, num_beams, rng)
    assert len(drops.firing) == pytest.approx(found.sum(), rel=0.12)
    for share in (0.25, 0.75):
        assert np.quantile(drops.distance_m, share) == pytest.approx(np.quantile(distance_m[found], share), rel=0.08)
    power = (size_m / lidar_weather._faintest_drop_m(weather, distance_m))[found] ** 2
    assert np.mean(drops.power) == pytest.approx(power.mean(), rel=0.05)
    assert drops.power.min() >= 1


def test_rain_sends_few_points_back_and_the_harder_it_rains_the_more() -> None:
    """Sparse, near and faint, as Heinzler et al. 2019 and Kilic et al. 2021 find; fog sends far more."""
    counts = [len(drop_echoes(rain(rate), 1_000_000, np.random.default_rng(1)).firing) for rate in (3, 8, 25)]
    assert counts == sorted(counts)
    assert 20 < counts[0] < 2_000
    assert 2_000 < counts[2] < 40_000
    assert len(drop_echoes(THICK_FOG, 1_000_000, np.random.default_rng(1)).firing) > 5 * counts[2]


def test_of_two_echoes_the_stronger_prevails_and_none_behind_a_surface_does() -> None:
    firing = np.arange(4000)
    drops = lidar_weather.DropEchoes(firing, np.full(4000, 5.0), np.full(4000, 3.0), np.zeros(4000))
    rng, seen = np.random.default_rng(0), np.ones(4000, bool)

    def share(surface_m: float, power: float, seen: np.ndarray) -> float:
        places, powers = np.full(4000, surface_m), np.full(4000, power)
        return len(prevailing(drops, places, powers, seen, rng).firing) / 4000

    assert share(4.9, 0.01, ~seen) == 0
    assert share(20.0, 1e6, seen) < 0.01
    assert share(20.0, 1e6, ~seen) == 1
    # of echoes of mean power 1 that are found, one over 1 + p is stronger than p: half of it of all, above 1
    assert share(20.0, 1.0, seen) == pytest.approx(1 - 2 / (1 + 3), abs=0.03)


# --- truths


@pytest.mark.parametrize("weather", [CLOUDBURST, THICK_FOG])
@pytest.mark.parametrize("seed", SEEDS)
def test_truths_do_not_take_drops_for_surfaces(seed: int, weather: Weather) -> None:
    scene, clear, sweep = scene_of(seed), sweep_of(seed, CLEAR), sweep_of(seed, weather)
    wet = replace(scene.surroundings, weather=weather)
    drops = off_drops(sweep)
    assert drops.sum() > 50
    noted = np.ones(NUM_ACTORS, bool)
    numbers = InstanceNumbers(NUM_ACTORS).at_keyframe(noted, np.zeros(NUM_ACTORS))
    assert (panoptic_labels(sweep, noted, numbers)[drops] == 0).all()
    sensors = OccupancySensors(LIDAR, surround_cameras((45, 80))[:0], [T_US])
    dry = scene_occupancy(scene.solids, scene.surroundings, sensors, clear, ())
    occupancy = scene_occupancy(scene.solids, wet, sensors, sweep, ())
    assert (occupancy.mask_lidar <= dry.mask_lidar).all()
    assert occupancy.mask_lidar.sum() > 0.99 * dry.mask_lidar.sum()
    both = occupancy.mask_lidar
    np.testing.assert_array_equal(occupancy.semantics[both], dry.semantics[both])
    assert (occupancy.semantics[~both] == FREE).all()
    eyes_m = [(0.95, 0.0, 1.84)]
    np.testing.assert_array_equal(
        near_field_cells(scene.solids, wet, T_US, eyes_m),
        near_field_cells(scene.solids, scene.surroundings, T_US, eyes_m),
    )


# --- radars


def specific_attenuation_db_km(frequency_ghz: float, rain_mm_h: float) -> float:
    """Recommendation ITU-R P.838-3, horizontal polarisation, equations 1 to 3 with tables 1 and 3."""
    log = np.log10(frequency_ghz)

    def curve(rows: list[tuple[float, float, float]], slope: float, level: float) -> float:
        return sum(a * np.exp(-(((log - b) / c) ** 2)) for a, b, c in rows) + slope * log + level

    factors = [
        (-5.33980, -0.10008, 1.13098),
        (-0.35351, 1.26970, 0.45400),
        (-0.23789, 0.86036, 0.15354),
        (-0.94158, 0.64552, 0.16817),
    ]
    powers = [
        (-0.14318, 1.82442, -0.55187),
        (0.29591, 0.77564, 0.19822),
        (0.32177, 0.63773, 0.13164),
        (-5.37610, -0.96230, 1.47828),
        (16.1721, -3.29980, 3.43990),
    ]
    factor, power = curve(factors, -0.18961, 0.71147), curve(powers, 0.67849, -1.95537)
    return 10**factor * rain_mm_h**power


@pytest.mark.parametrize("rain_mm_h", [3.0, 10.0, 25.0])
def test_rain_attenuates_radar_waves_as_the_recommendation_says(rain_mm_h: float) -> None:
    expected = specific_attenuation_db_km(77, rain_mm_h)
    assert 1e3 * attenuation_db_m(rain(rain_mm_h)) == pytest.approx(expected, rel=0.025)


def test_echoes_lose_what_is_computed_by_hand() -> None:
    none = np.zeros(2)
    echoes = Echoes(np.array([10.0, 100.0]), none, none, none, np.ones(2), np.zeros(2, np.int32), none > 0)
    in_rain = attenuated(echoes, CLOUDBURST)
    np.testing.assert_allclose(10 * np.log10(in_rain.section_m2), [-0.224, -2.24], rtol=0.01)  # 11.2 dB/km
    in_fog = attenuated(echoes, fog(50.0))
    assert -0.3 < 10 * np.log10(in_fog.section_m2[1]) < -0.1  # a gramme of water in 3 m3 at about 3 dB/km a gramme
    assert attenuated(echoes, CLEAR) is echoes


def traffic(seed: int) -> tuple[Surroundings, EvenMotion, np.ndarray]:
    rng = np.random.default_rng(seed)
    at = rng.uniform([-45, -30, -3], [55, 30, 3], (8, 3)).tolist()
    places = [pose(x, y, 0.81, yaw_rad) for x, y, yaw_rad in at]
    velocities = np.pad(rng.uniform(-15, 15, (8, 2)), ((0, 0), (0, 1)))
    motion = EvenMotion(rng.uniform(0, 20), rng.uniform(-0.3, 0.3), places, [tuple(it) for it in velocities])
    return surroundings(motion, [cuboid(CAR_SIZE, CAR)] * 8, [wall_at(60)], seed), motion, velocities


@pytest.mark.parametrize("weather", [CLOUDBURST, THICK_FOG])
@pytest.mark.parametrize("seed", SEEDS)
def test_doppler_is_right_in_any_weather(seed: int, weather: Weather) -> None:
    world, motion, velocities = traffic(seed)
    ego2global, centres = motion.ego2global(T_US), motion.actor2global(T_US)[:, :3, 3]
    found = 0
    for radar in surround_radars():
        scan = radar.capture(replace(world, weather=weather), T_US)
        own = sensor_velocity(radar, ego2global, motion.speed_m_s * ego2global[:3, 0], motion.yaw_rate_rad_s)
        found += len(check_rates(scan, own, centres, velocities, np.zeros(8)))
    assert found > 15


def test_radars_see_nearly_as_much_in_rain_as_in_clear_air() -> None:
    counts = {CLEAR: 0, CLOUDBURST: 0, THICK_FOG: 0}
    for seed in range(6):
        clear = traffic(seed)[0]
        for weather in counts:
            world = replace(clear, weather=weather)
            scans = [radar.capture(world, T_US) for radar in surround_radars()]
            counts[weather] += sum(int((scan.actor >= 0).sum()) for scan in scans)
            counts[weather] += int((RADAR4D.capture(world, T_US).actor >= 0).sum())
    assert counts[CLEAR] > 400
    assert abs(counts[CLOUDBURST] / counts[CLEAR] - 1) < 0.08
    assert abs(counts[THICK_FOG] / counts[CLEAR] - 1) < 0.02


@pytest.mark.parametrize(("radar", "lobe", "fewest", "most"), [(RADAR, LOBE, 0.3, 5), (RADAR4D, LOBE4D, 5, 60)])
def test_few_peaks_of_rain_are_found_and_they_are_near_and_slow(
    radar: Radar | Radar4d, lobe: Lobe, fewest: float, most: float
) -> None:
    carrier, rng = Carrier.of(surroundings(EvenMotion(15.0)), radar.sensor2ego, T_US), np.random.default_rng(0)
    peaks = [rain_echoes(CLOUDBURST, lobe, carrier, 11.0, rng) for _ in range(50)]
    every = Echoes(*map(np.concatenate, zip(*peaks, strict=True)))
    assert fewest < len(every.range_m) / 50 < most
    assert every.range_m.max() < 16
    assert (every.actor == -1).all()
    assert (lobe.signal_db(every) > 11).all()
    over_ground = every.rate_m_s + carrier.own_rate(unit(every.sine, every.elevation_rad))
    assert np.abs(over_ground).max() < 6
    assert np.median(over_ground) < 0  # drops above the sensor come down
    for weather in (CLEAR, THICK_FOG):
        assert len(rain_echoes(weather, lobe, carrier, 11.0, rng).range_m) == 0


def test_peaks_of_rain_are_in_the_scan() -> None:
    world = surroundings(EvenMotion(15.0))
    counts = []
    for weather in (CLEAR, CLOUDBURST):
        places = RADAR4D.capture(replace(world, weather=weather), T_US).points[:, :3]
        near = np.linalg.norm(places, axis=1) < 16
        counts.append(int((near & (places[:, 2] > 0.1)).sum()))  # over level ground
    assert counts[0] == 0
    assert 3 < counts[1] < 80


# --- ultrasonics


@pytest.mark.parametrize("kind", ["rain", "fog"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_echo_of_the_burst_is_the_distance_of_the_wall_in_any_weather(seed: int, kind: WeatherKind) -> None:
    ahead_m = float(np.random.default_rng(seed).uniform(0.6, 4.0))
    world = surroundings(EvenMotion(), static=[wall_at(FRONT.sensor2ego[0, 3] + ahead_m)], seed=seed)
    world = replace(world, weather=draw_weather(seed, kind))
    own = 0
    for number in range(20):
        recording = FRONT.capture(world, T_US + 100_000 * number)
        row, air = FRONT.listeners.index(FRONT.number), recording.air
        if recording.own[row, 0]:
            own += 1
            unbiased = recording.burst.distance_m[row, 0] * sound_speed_m_s(air.temperature_c)
            assert unbiased / sound_speed_m_s(air.measured_c) == pytest.approx(ahead_m, abs=4.5 * NOISE_M)
            assert recording.true_m[row, 0] == pytest.approx(ahead_m, abs=0.003)
    assert own >= 15


def test_drops_strike_as_computed_by_hand() -> None:
    # 4.1 * 25 ** -0.21 = 2.086 per mm; 8000 / 2.086 * exp(-2.086) = 477 drops of a millimetre or more in a cubic metre
    expected = 477 * 2e-4 * np.array([2.0, 12.0, 2.0])  # at rest, at 10 m/s, and behind a car that drives so
    np.testing.assert_allclose(drop_strikes_per_s(CLOUDBURST, np.array([0.0, 10.0, -10.0])), expected, rtol=0.01)
    assert (drop_strikes_per_s(THICK_FOG, np.ones(2)) == 0).all()


def test_drops_are_heard_now_and_then_where_nothing_is() -> None:
    """Of as many bursts as drops should be heard in about, on a road without anything."""
    counts = {}
    for weather in (CLEAR, THICK_FOG, CLOUDBURST):
        world = replace(surroundings(EvenMotion(20.0)), weather=weather)
        reports = [FRONT.capture(world, T_US + 108_000 * number) for number in range(150)]
        states = np.concatenate([it.burst.state for it in reports])
        heard = np.concatenate([it.burst.distance_m[:, 0] for it in reports])[states == EchoState.OBJECT]
        assert not any(it.own.any() for it in reports)
        counts[weather] = len(heard)
        if weather is CLOUDBURST:
            assert np.std(heard) > 0.9  # at any distance
    strikes = 150 * len(FRONT.listeners) * 0.036 * drop_strikes_per_s(CLOUDBURST, np.array([20.0]))[0]
    assert counts[CLEAR] <= 8
    assert counts[THICK_FOG] <= 8
    assert 0.5 * strikes < counts[CLOUDBURST] < 1.3 * strikes + 8


@pytest.mark.parametrize("weather", [CLOUDBURST, THICK_FOG])
def test_the_same_seed_and_time_give_the_same_bytes(weather: Weather) -> None:
    world = replace(scene_of(0).surroundings, weather=weather)
    sensors: tuple[Sensor, ...] = (LIDAR, RADAR, RADAR4D, FRONT)
    for sensor in sensors:
        first = sensor.capture(world, T_US).content
        assert sensor.capture(world, T_US).content == first
        assert sensor.capture(replace(world, seed=99), T_US).content != first
