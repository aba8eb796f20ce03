"""Night, low sun, rain and fog in pictures: physics by hand, and what weather must leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.drops import drops_per_m3
from perception.simulation.glare import glow, veil
from perception.simulation.headlamps import low_beam_cd
from perception.simulation.lamp_light import NO_LAMPS, LampField, irradiance, phase, scattered
from perception.simulation.lamps import BALL, LOW_BEAM, POOL, Lamps, Mounted, bright_lamps, lamps_of, street_lamps
from perception.simulation.lens_drops import LensDrop, lens_drops, look_through
from perception.simulation.light import TIMES_OF_DAY, draw_light, sky_colour
from perception.simulation.materials import material_index, town_materials
from perception.simulation.mesh import Mesh, cuboid, merge, paint, placed, quads
from perception.simulation.optics import Shot, plain, through_rain_and_lens
from perception.simulation.rain import Drops, draw_drops, fall_speed_m_s, paint_streaks, streaks
from perception.simulation.rays import ActorPoses, RayScene
from perception.simulation.rendering import Instant, View
from perception.simulation.rig import sensor_rig
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.camera import Camera
from perception.simulation.sensors.fisheye import Fisheye
from perception.simulation.settings import Settings
from perception.simulation.shading import Appearance, radiance
from perception.simulation.town.furniture import lamp_post
from perception.simulation.traffic_actors import Behaviour
from perception.simulation.weather import CLEAR, Weather, draw_weather
from perception.simulation.wetness import in_weather
from perception.simulation.world import World
from tests.simulation.bare_town import bare_town
from tests.simulation.tiny_world import START_M, EvenMotion, ground, pose, surroundings, wall_at

RAIN = Weather("rain", 10.0, 2000.0)
FOG = Weather("fog", 0.0, 100.0)
LOOKS = Appearance.of(town_materials(0))
NOBODY = ActorPoses.none()


def lamps_at(
    street_m: Sequence[Sequence[float]] = (),
    kind: int = BALL,
    heads_m: Sequence[Sequence[float]] = (),
    kerb: float = -1,
) -> Lamps:
    """Street lamps of one kind, and headlamps of the own car."""
    places = np.array(street_m, float).reshape(-1, 3)
    heads = np.array(heads_m, float).reshape(-1, 3)
    none = Mounted(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, int))
    own = Mounted(heads, np.full(len(heads), -1), np.ones(len(heads), int))
    kinds = np.full(len(places), kind, np.int8)
    return Lamps(places, kinds, np.ones(3), own, none, np.array([True, False, False]), kerb)


def pinhole(height: int, width: int, focal_px: float) -> np.ndarray:
    """(H, W, 3) float32 directions of a camera that looks along x."""
    v, u = np.mgrid[:height, :width]
    ahead = np.stack([np.full(u.shape, focal_px), (width - 1) / 2 - u, (height - 1) / 2 - v], axis=-1)
    return (ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)).astype(np.float32)


def lux_at(lamps: Lamps, places: Sequence[Sequence[float]], normals: Sequence[Sequence[float]]) -> np.ndarray:
    """(N,) lux of green light at places (N, 3) around the origin, nothing between."""
    beams = lamps.beams(np.eye(4), np.zeros((0, 4, 4)), np.zeros(3))
    field = LampField.around(lamps, beams, 60.0, True)
    count = len(places)
    rest, best, _ = irradiance(
        np.array(places, np.float32),
        np.array(normals, np.float32),
        np.ones(count, bool),
        np.zeros(count, np.float32),
        field.beams,
        field.cells,
    )
    return (rest + best)[:, 1]


@pytest.mark.parametrize("weather", [FOG, Weather("fog", 0.0, 60.0)])
def test_at_the_visibility_one_twentieth_of_contrast_is_left(weather: Weather) -> None:
    light = draw_light(3, "day", weather)
    light = light._replace(haze_per_m=weather.extinction_per_m)  # of the fog alone
    distance = np.array([1e-3, weather.visibility_m], np.float32)
    eye, sideways = START_M + np.array([0, 0, 1.0]), np.array([[1, 0, 0]], np.float32)
    contrasts = []
    for metres in distance:
        scene = RayScene(quads(_wall(float(metres)), paint("car_black")))
        hits = scene.cast(eye, sideways)
        lit = np.zeros(1, bool), np.zeros(1, np.float32)
        mirrors = np.full(1, -1, np.int32), np.zeros((0, 3), np.float32)
        looks = LOOKS._replace(gloss=np.zeros_like(LOOKS.gloss))
        seen = radiance(sideways, hits, *lit, mirrors, looks, light, 1e-3, NO_LAMPS)[0]
        contrasts.append((light.horizon - seen) / light.horizon)
    np.testing.assert_allclose(contrasts[1] / contrasts[0], np.exp(-3), rtol=1e-3)
    sky = np.empty(3)
    sky_colour(-light.to_sun[0], -light.to_sun[1], 0.0, light, sky)
    np.testing.assert_allclose(sky, light.horizon, rtol=1e-3)  # the fog's own colour


def _wall(metres: float) -> np.ndarray:
    corners = np.array([[metres, 5, -5], [metres, -5, -5], [metres, -5, 5], [metres, 5, 5]])
    return corners[None] + START_M


def test_lamps_shine_by_the_inverse_square_and_the_cosine() -> None:
    lamps = lamps_at([[5, 0, 0]])
    lux = lux_at(lamps, [[4, 0, 0], [3, 0, 0], [1, 0, 0]], [[1, 0, 0]] * 3)
    np.testing.assert_allclose(lux, [320, 320 / 4, 320 / 16], rtol=2e-3)  # 320 cd
    turned = lux_at(lamps, [[4, 0, 0], [4, 0, 0]], [[0.8, 0.6, 0], [-1, 0, 0]])
    np.testing.assert_allclose(turned, [0.8 * 320, 0], rtol=2e-3)  # its back is dark
    under = lux_at(lamps_at([[0, 0, 8]], POOL), [[0, 0, 0]], [[1, 0, 0]])
    assert under[0] == 0  # a wall straight below a lamp
    level = lux_at(lamps_at([[0, 0, 8]], POOL), [[0, 0, 0.0], [40, 0, 0]], [[0.7, 0, 0.714]] * 2)
    assert level[0] == pytest.approx(16 * 0.714, rel=0.02)
    assert level[1] == 0  # beyond its reach


def test_a_lamp_behind_a_wall_lights_nothing() -> None:
    scene = RayScene(merge([ground(), wall_at(5.0)]))
    eye = START_M + np.array([0, 0, 1.5])
    down = np.array([[1, 0, -0.5], [1, 0.3, -0.6], [1, -0.2, -0.7]], np.float32)
    directions = down / np.linalg.norm(down, axis=1, keepdims=True)
    hits = scene.cast(eye, directions)
    lit = []
    for x in (3.0, 7.0):
        lamps = lamps_at([START_M + np.array([x, 0, 4.0])])
        beams = lamps.beams(np.eye(4), np.zeros((0, 4, 4)), eye)
        field = LampField.around(lamps, beams, 60.0, True)
        instant = Instant(scene, NOBODY, NOBODY, draw_light(1, "night"), LOOKS, field)
        lit.append(instant.lamp_light(hits, eye, eye, directions, 0).irradiance)
    assert lit[0].min() > 0.01
    assert not lit[1].any()


def test_a_dipped_beam_is_cut_off_and_rises_towards_the_kerb() -> None:
    oncoming, kerb = 8.0, -8.0  # degrees to the left, traffic on the right
    assert low_beam_cd(0.0, -1.5, -1.0) > 10_000
    assert low_beam_cd(oncoming, 0.0, -1.0) < 0.05 * low_beam_cd(oncoming, -1.2, -1.0)
    assert low_beam_cd(kerb, 0.5, -1.0) > 10 * low_beam_cd(oncoming, 0.5, -1.0)
    assert low_beam_cd(oncoming, 0.5, 1.0) == pytest.approx(low_beam_cd(kerb, 0.5, -1.0))  # traffic on the left
    assert low_beam_cd(0.0, 3.0, -1.0) < 625  # what the regulation allows above
    walls = lux_at(lamps_at(heads_m=[[0, 0, 0.65]]), [[25, 0, 0.2], [25, 0, 0.65], [-25, 0, 0.2]], [[-1, 0, 0]] * 3)
    assert walls[0] > 15
    assert walls[1] < 1
    assert walls[2] == 0
    aside = [[25, -3.5, 0.9], [25, 3.5, 0.9]]
    for kerb in (-1.0, 1.0):
        right, left = lux_at(lamps_at(heads_m=[[0, 0, 0.65]], kerb=kerb), aside, [[-1, 0, 0]] * 2)
        assert (right > 10 * left) if kerb < 0 else (left > 10 * right)


def test_phase_function_of_drops_keeps_the_light() -> None:
    cosine = np.linspace(-1, 1, 20001)
    share = np.array([phase(value) for value in cosine])
    assert 2 * np.pi * np.trapz(share, cosine) == pytest.approx(1, rel=1e-3)
    assert share[-1] > 100 * share[0]


def test_fog_shows_the_light_around_a_lamp_and_not_away_from_it() -> None:
    lamps = lamps_at([[20, 0, 5]])
    field = LampField.around(lamps, lamps.beams(np.eye(4), np.zeros((0, 4, 4)), np.zeros(3)), 60.0, True)
    towards = np.array([[20, 1, 5], [20, 8, 5], [-20, 0, 5]], np.float32)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    endless = np.full(3, np.inf, np.float32)
    near, aside, away = scattered(towards, endless, field.beams, field.cells, 0.03)[:, 1]
    assert near > 5 * aside > 0
    assert away < 0.05 * near
    assert not scattered(towards, np.full(3, 0.3, np.float32), field.beams, field.cells, 0.03).any()


def test_the_light_around_a_lamp_in_fog_is_centred_on_it() -> None:
    height, width, eye = 60, 96, START_M + np.array([0, 0, 1.5])
    v, u = np.mgrid[:height, :width]
    directions = pinhole(height, width, 60.0).reshape(-1, 3)
    scene, light = RayScene(wall_at(-50.0)), draw_light(3, "night", FOG)
    hits = scene.cast(eye, directions)
    pictures = []
    for places in ([], [START_M + np.array([20, 0, 1.5])]):
        lamps = lamps_at(places)
        field = LampField.around(lamps, lamps.beams(np.eye(4), np.zeros((0, 4, 4)), eye), light.white_lux, True)
        instant = Instant(scene, NOBODY, NOBODY, light, LOOKS, field)
        pictures.append(instant.picture(View(eye, directions, width, 1 / 60), hits)[..., 1])
    halo = pictures[1] - pictures[0]
    assert halo.max() > 0.05
    bright = np.where(halo > halo.max() / 4, halo, 0)
    centre = [float((bright * at).sum() / bright.sum()) for at in (u, v)]
    np.testing.assert_allclose(centre, [(width - 1) / 2, (height - 1) / 2], atol=0.6)


def test_the_veil_of_the_sun_falls_with_the_angle() -> None:
    degrees = np.array([1.0, 3.0, 10.0, 30.0])
    directions = np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0 * degrees])
    drawn = veil(directions.astype(np.float32), np.array([1, 0, 0], np.float32), np.array([1, 0.5, 0.25], np.float32))
    np.testing.assert_allclose(drawn[:, 0], np.pi * (10 / degrees**3 + 5 / degrees**2), rtol=1e-2)
    np.testing.assert_allclose(drawn[:, 1], drawn[:, 0] / 2)
    assert (np.diff(drawn[:, 0]) < 0).all()


def test_what_hides_the_sun_takes_the_veil_away() -> None:
    light = draw_light(4, "low_sun", heading_rad=0.0)
    eye = START_M + np.array([0, 0, 1.5])
    directions = np.tile(np.array([1, 0, 0], np.float32), (64, 1))
    picture, view = np.full((8, 8, 3), 0.1, np.float32), View(eye, directions, 8, 1e-3)
    rng = np.random.default_rng(0)
    shot = Shot("CAM_FRONT", 1, 0, np.array([1.0, 0, 0]), 0.5, np.zeros(3), lambda places: places[:, :2], rng)
    results = []
    for static in ([ground()], [ground(), wall_at(20.0)]):
        instant = Instant(RayScene(merge(static)), NOBODY, NOBODY, light, LOOKS)
        results.append(through_rain_and_lens(picture, instant, view, shot, CLEAR))
    assert results[0].min() > 0.12
    np.testing.assert_array_equal(results[1], picture)


@pytest.mark.parametrize("heading", [0.0, 2.5])
def test_a_low_sun_stands_ahead(heading: float) -> None:
    for seed in range(30):
        x, y, z = draw_light(seed, "low_sun", heading_rad=heading).to_sun
        assert 4 <= np.degrees(np.arcsin(z)) <= 10
        aside = np.degrees(np.arctan2(y, x) - heading)
        assert abs((aside + 180) % 360 - 180) <= 15


@pytest.mark.parametrize("time_of_day", TIMES_OF_DAY)
def test_every_light_goes_with_any_weather(time_of_day: str) -> None:
    clear, rain, fog = (draw_light(5, time_of_day, weather) for weather in (CLEAR, RAIN, FOG))  # type: ignore[arg-type]
    assert rain.haze_per_m == pytest.approx(clear.haze_per_m + RAIN.extinction_per_m)
    assert fog.haze_per_m == pytest.approx(clear.haze_per_m + FOG.extinction_per_m)
    assert rain.sun.max() <= 0.1 * max(clear.sun.max(), 1e-9)
    assert rain.glare == 0
    assert all((light.zenith > 0).all() and (light.horizon > 0).all() for light in (clear, rain, fog))
    assert {light.dark for light in (clear, rain, fog)} == {time_of_day == "night"}


def test_a_clear_day_is_left_alone() -> None:
    materials = town_materials(0)
    assert in_weather(materials, CLEAR) is materials
    assert in_weather(materials, FOG) is materials
    for time_of_day in ("day", "dusk"):
        light = draw_light(7, time_of_day)  # type: ignore[arg-type]
        assert plain(light, CLEAR)
        assert (light.airlight, light.veil, light.grain, light.glare) == (0.85, 0.0, 1.0, 0.0)
        for one, other in zip(light, draw_light(7, time_of_day, CLEAR, 1.0), strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(one, other)


def test_wet_ground_is_darker_glossier_and_dull_for_a_laser() -> None:
    dry = town_materials(0)
    before = dry.copy()
    wet = in_weather(dry, RAIN)
    road, steel = material_index("asphalt"), material_index("steel")
    assert (wet["albedo"][road] < 0.6 * dry["albedo"][road]).all()
    assert wet["gloss"][road] > 0.5 > dry["gloss"][road]
    assert wet["lidar_reflectivity"][road] < 0.5 * dry["lidar_reflectivity"][road]
    assert wet[steel] == dry[steel]
    assert dry.tobytes() == before.tobytes()


def test_drops_are_as_many_as_marshall_and_palmer_found() -> None:
    size = np.linspace(0.9, 5.0, 100_001)
    for rain_mm_h in (3.0, 25.0):
        density = 8000 * np.exp(-4.1 * rain_mm_h**-0.21 * size)
        above, beyond = drops_per_m3(rain_mm_h, np.array([0.9e-3, 5e-3]))
        assert above - beyond == pytest.approx(np.trapz(density, size), rel=1e-4)
    np.testing.assert_allclose(fall_speed_m_s(np.array([1e-3, 2e-3, 5e-3])), [4.0, 6.5, 9.1], atol=0.2)  # Atlas et al.


def test_a_streak_is_as_long_as_its_drop_falls() -> None:
    velocity = np.array([[0, 0, -8.0]])
    drops = Drops(np.array([[2.0, 0, 0]]), np.array([2e-3]), velocity)
    line = streaks(
        drops, np.zeros(3), 0.01, lambda at: np.column_stack((-at[:, 1], -at[:, 2])) / at[:, :1] * 300, 1 / 300
    )
    np.testing.assert_allclose(line[0, :4], [0, -6, 0, 6], atol=1e-9)  # 300 px * 8 m/s * 0.01 s / 2 m
    np.testing.assert_allclose(line[0, 4:], [0.3, np.pi / 4 * 0.09])
    picture = np.zeros((41, 41, 3), np.float32)
    line[:, [0, 2]] += 20
    line[:, [1, 3]] += 20
    paint_streaks(picture, line, np.ones((1, 3), np.float32))
    assert picture[..., 0].sum() == pytest.approx(line[0, 5], rel=0.1)  # the opacity of a streak is its drop's area
    assert picture[:, [18, 22]].sum() == 0


def test_rain_is_drawn_from_its_generator_within_sight() -> None:
    directions = pinhole(225, 400, 316.0)
    draws = [draw_drops(np.random.default_rng(3), 20.0, directions, 1 / 316, np.zeros(3)) for _ in range(2)]
    for one, other in zip(*draws, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 100 < len(draws[0].diameter_m) < 7000
    assert draws[0].diameter_m.min() >= 0.9e-3
    assert (draws[0].velocity_m_s[:, 2] < -3).all()


def test_drops_of_rain_are_evenly_spread_in_a_wide_picture() -> None:
    directions, rng = pinhole(90, 160, 56.0), np.random.default_rng(0)  # 110 degrees wide
    towards = np.concatenate([draw_drops(rng, 25.0, directions, 1 / 56, np.zeros(3)).position_m for _ in range(400)])
    cosine = towards[:, 0] / np.linalg.norm(towards, axis=1)
    whole = 4 * np.arctan(80 * 45 / (56 * np.sqrt(80**2 + 45**2 + 56**2)))  # of a rectangle seen from 56 before it
    cone = 2 * np.pi * (1 - np.cos(np.radians(35)))
    assert (cosine > np.cos(np.radians(35))).mean() == pytest.approx(cone / whole, abs=0.02)
    lens = next(it for it in sensor_rig(_settings()) if isinstance(it, Fisheye)).lens
    rays = lens.rays[0].reshape(*lens.image_size_px, 3)
    drops = np.concatenate([draw_drops(rng, 25.0, rays, 1 / 60, np.zeros(3)).position_m for _ in range(400)])
    angle = np.arccos(drops[:, 2] / np.linalg.norm(drops, axis=1))
    assert (angle > lens.theta_max_rad - 0.01).mean() < 0.02 < 0.05 < (lens.rays[1] < 0).mean()  # none in the corners


def test_drops_on_the_glass_stay_a_while_and_differ_by_camera() -> None:
    now, soon, later = (lens_drops(9, "CAM_BACK", t_us, 20.0, (225, 400)) for t_us in (0, 100_000, 30_000_000))
    assert now == lens_drops(9, "CAM_BACK", 0, 20.0, (225, 400))
    same = [abs(a.u - b.u) < 1 for a, b in zip(now, soon, strict=True)]
    assert np.mean(same) > 0.8
    assert [drop.u for drop in now] != [drop.u for drop in later]
    assert now != lens_drops(9, "CAM_BACK_LEFT", 0, 20.0, (225, 400))
    counts = [[len(lens_drops(s, "CAM_BACK", 0, mm, (90, 160))) for s in range(60)] for mm in (3.0, 25.0)]
    assert np.mean(counts[0]) < np.mean(counts[1])


def test_a_drop_shows_the_world_upside_down() -> None:
    picture = np.zeros((120, 200, 3), np.float32)
    picture[:60] = 1.0  # sky
    seen = look_through(picture, (LensDrop(100.0, 90.0, 20.0, 20.0, 1.0),))
    assert seen[80, 100, 0] < 0.3 < 0.7 < seen[100, 100, 0]
    np.testing.assert_array_equal(seen[:60], picture[:60])
    assert not picture[60:].any()
    assert look_through(picture, ()) is picture


def test_only_what_is_too_bright_glows() -> None:
    picture = np.full((61, 61, 3), 0.2, np.float32)
    assert not glow(picture, 1.0, 0.003).any()
    picture[30, 30] = 30.0
    halo = glow(picture, 1.0, 0.003)[30, 31:, 0]
    assert (np.diff(halo[:10]) < 0).all()
    assert halo[0] > 20 * halo[12] > 0
    assert glow(picture, 1.0, 0.003, FOG.extinction_per_m)[30, 45, 0] > 1.5 * halo[14]  # fog widens it


def test_street_lamps_are_found_where_they_stand() -> None:
    tall, ball = lamp_post(8.0, 2.0, "steel_dark"), lamp_post(3.5, 0.0, "steel_dark")
    mesh = merge([placed(tall, (10, 20, 0)), placed(ball, (30, 5, 0)), cuboid((1, 1, 1), paint("steel"))])
    places, kinds = street_lamps(mesh)
    order = np.argsort(kinds)
    assert kinds[order].tolist() == [POOL, BALL]
    np.testing.assert_allclose(places[order], [[10, 17.8, 8.25], [30, 5, 3.725]], atol=0.02)
    none = street_lamps(ground())
    assert none[0].shape == (0, 3)
    assert len(none[1]) == 0


def test_lamps_of_parked_cars_are_off() -> None:
    lamps, head = lamps_at(), material_index("headlamp")
    assert lamps.on(np.array([0, 1, -1, 7]), np.full(4, head)).tolist() == [True, False, False, False]
    assert lamps.on(np.array([-1]), np.array([material_index("lamp")])).all()
    assert bright_lamps(60.0)[head] > 20 > 2 > bright_lamps(1e5)[head] > 0.5
    assert bright_lamps(60.0)[material_index("asphalt")] == 0


def test_cycles_have_one_headlamp_and_cars_two() -> None:
    world = World(bare_town(0), 0, 4.0)
    lamps = lamps_of(world)
    for mounted in (lamps.heads, lamps.tails):
        ridden = np.array([world.actors[i].behaviour is Behaviour.RIDDEN for i in mounted.actor[2:]])
        assert 0 < ridden.sum() < len(ridden)
        assert mounted.actor[:2].tolist() == [-1, -1]
        assert mounted.count.tolist() == [1, 1, *np.where(ridden, 1, 2)]
    ego2global = world.ego2global(0)
    beams = lamps.beams(ego2global, world.actor2global(0), ego2global[:3, 3])
    assert set(beams.candela[(beams.kind == LOW_BEAM) & beams.own]) == {1.0}
    assert set(beams.candela[beams.kind == LOW_BEAM]) == {1.0, 2.0}


def test_a_fisheye_projects_where_it_looks() -> None:
    lens = next(it for it in sensor_rig(_settings()) if isinstance(it, Fisheye)).lens
    rays, within = lens.rays
    pixels = lens.project(rays[within > 0.01].astype(np.float64) * 3.0)
    v, u = np.mgrid[: lens.image_size_px[0], : lens.image_size_px[1]]
    np.testing.assert_allclose(pixels, np.stack([u, v], axis=-1).reshape(-1, 2)[within > 0.01], atol=0.02)
    assert np.isnan(lens.project(np.array([[0.0, 0.0, -1.0]]))).all()


def _settings() -> Settings:
    return Settings(
        seconds=2.0, image_size_px=(60, 100), sensors=("camera", "lidar", "fisheye"), fisheye_size_px=(60, 90)
    )


def _car() -> Mesh:
    return cuboid((4.0, 1.8, 1.5), paint("car_red", "vehicle.car"))


def _scene(time_of_day: str, weather: Weather) -> Surroundings:
    """A road with a car, a wall and a street lamp."""
    motion = EvenMotion(speed_m_s=5.0, actors=[pose(12, 1, 0.75)], velocities_m_s=[(3.0, 0.0, 0.0)])
    post = placed(lamp_post(8.0, 1.0, "steel_dark"), START_M + np.array([15, -6, 0]))
    scene = surroundings(motion, [_car()], [wall_at(40.0), post])
    light = draw_light(2, time_of_day, weather)  # type: ignore[arg-type]
    lamps = lamps_at(street_lamps(merge([post]))[0], POOL, [[3.4, 0.6, 0.65], [3.4, -0.6, 0.65]])
    lamps = replace(lamps, shining=np.array([True, False]))
    materials = in_weather(scene.materials, weather)
    return replace(scene, light=light, weather=weather, materials=materials, lamps=lamps)


@pytest.mark.parametrize("channel", ["CAM_FRONT", "FISHEYE_FRONT"])
def test_pictures_are_deterministic_and_truth_knows_no_weather(channel: str) -> None:
    (camera,) = (it for it in sensor_rig(_settings()) if it.channel == channel)
    assert isinstance(camera, Camera | Fisheye)
    clear = camera.capture(replace(_scene("day", CLEAR), lamps=None), 500_000)
    pictures = [clear.content]
    for time_of_day, weather in (("night", CLEAR), ("night", RAIN), ("night", FOG), ("day", RAIN), ("low_sun", CLEAR)):
        scene = _scene(time_of_day, weather)
        one, again = (camera.capture(scene, 500_000) for _ in range(2))
        assert one.content == again.content
        for name in ("actor", "distance_m", "semantic"):
            np.testing.assert_array_equal(getattr(one, name), getattr(clear, name))
        pictures.append(one.content)
    assert len(set(pictures)) == len(pictures)


def test_headlights_light_the_road_ahead_at_night() -> None:
    (camera,) = (it for it in sensor_rig(_settings()) if it.channel == "CAM_FRONT")
    scene = _scene("night", CLEAR)
    lit = camera.capture(scene, 500_000).image.astype(float)  # type: ignore[attr-defined]
    dark = camera.capture(replace(scene, lamps=lamps_at()), 500_000).image.astype(float)  # type: ignore[attr-defined]
    road = np.s_[45:58, 30:70]
    assert lit[road].mean() > dark[road].mean() + 10


@pytest.mark.parametrize("channel", ["FISHEYE_REAR", "FISHEYE_LEFT"])
def test_no_window_of_a_house_is_lit_in_the_own_car(channel: str) -> None:
    (camera,) = (it for it in sensor_rig(_settings()) if it.channel == channel)
    assert isinstance(camera, Fisheye)
    lit, dark = (camera.capture(replace(_scene(when, CLEAR), lamps=lamps_at()), 500_000) for when in ("day", "night"))
    own = dark.semantic == POINT_CATEGORIES.index("vehicle.ego")
    assert own.mean() > 0.05
    assert dark.image[own].mean() < 20 < 60 < lit.image[own].mean()


def test_draws_of_weather_are_seen_in_light() -> None:
    fog = draw_weather(3, "fog")
    assert draw_light(3, "day", fog).haze_per_m > fog.extinction_per_m
