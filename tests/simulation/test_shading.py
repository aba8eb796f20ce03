"""Light: sun, shadow, open sky, textures that fade with distance, exposure and tone."""

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.simulation.developing import develop, expose, smear
from perception.simulation.edges import borrow, edges
from perception.simulation.light import Light, draw_light, sky_colour
from perception.simulation.materials import Pattern, material_index
from perception.simulation.mesh import cuboid, merge, paint
from perception.simulation.rays import ActorPoses, RayScene
from perception.simulation.shading import mirrored
from perception.simulation.shadows import hemisphere_directions, open_sky, sunlit
from perception.simulation.textures import smooth_noise, texture
from tests.simulation.tiny_world import START_M, ground

NOBODY = ActorPoses.none()


def looking_down(width: int = 64, height_m: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """An eye above `START_M` and directions (width ** 2, 3) over a square of half the height either way."""
    v, u = np.mgrid[:width, :width] / (width - 1) - 0.5
    directions = np.stack([u, -v, -np.ones_like(u)], axis=-1).reshape(-1, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return START_M + np.array([0, 0, height_m]), directions.astype(np.float32)


def sun_from(x: float, y: float, z: float) -> Light:
    to_sun = np.array([x, y, z], np.float32)
    return draw_light(0, "day")._replace(to_sun=to_sun / np.linalg.norm(to_sun))


def test_a_box_throws_its_shadow_away_from_the_sun() -> None:
    tall = cuboid((1.0, 1.0, 2.0), paint("steel"), START_M + np.array([0, 0, 1.0]))
    scene = RayScene(merge([ground(), tall]))
    eye, directions = looking_down()
    hits = scene.cast(eye, directions)
    lit = sunlit(scene, hits, eye, directions, sun_from(1, 0, 1), NOBODY)
    place = eye + directions * hits.distance_m[:, None] - START_M
    on_ground = place[:, 2] < 0.01
    beside = np.abs(place[:, 1]) < 0.45
    behind = on_ground & beside & (place[:, 0] > -2.45) & (place[:, 0] < -0.55)  # as long as the box is high
    before = on_ground & ((place[:, 0] > 0.55) | (place[:, 0] < -2.55))
    assert behind.sum() > 20
    assert not lit[behind].any()
    assert lit[before].all()
    assert lit[(place[:, 2] > 1.99) & (np.abs(place[:, :2]) < 0.45).all(axis=1)].all()  # its top


def test_neighbours_settle_nearly_all_shadows_and_the_same_ones() -> None:
    things = [
        cuboid((0.2, 0.2, 2.0), paint("steel"), START_M + np.array([x, y, 1.0])) for x in (-2, 0, 2) for y in (-1, 2)
    ]
    scene = RayScene(merge([ground(), *things]))
    eye, directions = looking_down(96)
    hits = scene.cast(eye, directions)
    light = sun_from(1, 0.4, 0.7)
    every = sunlit(scene, hits, eye, directions, light, NOBODY)
    asked = sunlit(scene, hits, eye, directions, light, NOBODY, width_px=96)
    assert 0.02 < 1 - every.mean() < 0.5
    assert (every != asked).mean() < 2e-3


def test_light_is_borrowed_from_the_same_surface_alone() -> None:
    box = cuboid((1.0, 1.0, 1.0), paint("steel"), START_M + np.array([0, 0, 0.5]))
    ball = cuboid((0.02, 0.02, 0.02), paint("car_red"), START_M + np.array([0.03, 0.02, 3.0]))  # between the pixels
    scene = RayScene(merge([ground(), box, ball]))
    eye, directions = looking_down(16)
    hits = scene.cast(eye, directions)
    picture = np.where(hits.material == material_index("steel"), 0.5, 0.1)[:, None] * np.ones(3, np.float32)
    pixels = np.arange(len(hits.distance_m))
    towards = np.concatenate((directions[:-1], (ball.vertices.mean(axis=0) - eye)[None])).astype(np.float32)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    found, light = scene.cast(eye, towards), np.full((256, 3), np.nan, np.float32)
    left = borrow(found, pixels, hits, picture.astype(np.float32), 16, light)
    assert left.tolist() == [255]
    np.testing.assert_allclose(light[:255], picture[:255])


def test_directions_are_spread_by_the_cosine_around_the_normal() -> None:
    normals = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0.6, -0.48, 0.64]], np.float32)
    for normal in normals:
        rows, columns = (axis.ravel() for axis in np.mgrid[:4, :4])
        directions = hemisphere_directions(np.tile(normal, (16, 1)), rows, columns)
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
        cosines = directions @ normal
        assert cosines.min() > 0
        assert cosines.mean() == pytest.approx(2 / 3, abs=0.02)  # of a cosine-weighted half sphere
        assert len(np.unique(directions.round(4), axis=0)) == 16


def test_the_sky_is_open_on_a_plain_and_half_closed_beside_a_wall() -> None:
    wall = cuboid((2.0, 40.0, 20.0), paint("steel"), START_M + np.array([1.0, 0, 10.0]))
    scene = RayScene(merge([ground(), wall]))
    eye = START_M + np.array([-2.0, 0, 3.0])
    _, directions = looking_down()
    hits = scene.cast(eye, directions)
    clear = open_sky(scene, hits, eye, directions, 64, NOBODY)
    place = eye + directions * hits.distance_m[:, None] - START_M
    on_ground = np.abs(place[:, 2]) < 0.01
    close = on_ground & (place[:, 0] > -0.12) & (place[:, 0] < 0)
    far = on_ground & (place[:, 0] < -2.8)
    assert far.sum() > 100
    assert (clear[far] > 0.95).all()
    if close.any():
        assert clear[close].mean() == pytest.approx(0.5, abs=0.15)
    assert clear[on_ground & (place[:, 0] > -0.6)].mean() < 0.85


def test_edges_are_where_surfaces_and_brightness_change() -> None:
    box = cuboid((1.0, 1.0, 1.0), paint("steel"), START_M + np.array([0, 0, 0.5]))
    scene = RayScene(merge([ground(), box]))
    eye, directions = looking_down()
    hits = scene.cast(eye, directions)
    picture = np.where(hits.material == material_index("steel"), 0.5, 0.1)[:, None] * np.ones(3)
    found = edges(hits, picture.astype(np.float32), 64, 0.1).reshape(64, 64)
    inside = (hits.material == material_index("steel")).reshape(64, 64)
    rim = inside ^ np.roll(inside, 1, axis=0) | inside ^ np.roll(inside, 1, axis=1)
    assert found.sum() > 20
    assert (found & ~rim & ~np.roll(rim, -1, axis=0) & ~np.roll(rim, -1, axis=1)).sum() == 0
    assert not edges(hits, np.full((64 * 64, 3), 0.3, np.float32), 64, 0.1).any()


def test_a_mirror_keeps_the_angle() -> None:
    ray = np.array([[0.6, 0.0, -0.8]], np.float32)
    np.testing.assert_allclose(mirrored(ray, np.array([[0, 0, 1]], np.float32)), [[0.6, 0, 0.8]], atol=1e-6)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_textures_are_even_around_zero_and_fade_with_distance(pattern: Pattern) -> None:
    places = np.random.default_rng(0).uniform(-50, 50, (4000, 2))
    near = np.array([texture(int(pattern), u, v, 0.5, 0.005) for u, v in places])
    far = np.array([texture(int(pattern), u, v, 0.5, 3.0) for u, v in places])
    assert np.isfinite(near).all()
    assert abs(near.mean()) < 0.5
    assert np.abs(near).max() <= 3.0
    assert far.std() <= near.std() + 1e-9
    assert (near.std() > 0) == (pattern != Pattern.PLAIN)


def test_noise_is_continuous_and_bounded() -> None:
    values = np.array([smooth_noise(u, 0.37, 3) for u in np.linspace(-20, 20, 20001)])
    assert np.abs(values).max() <= 1
    assert np.abs(np.diff(values)).max() < 0.01
    assert values.std() > 0.2


def test_light_is_drawn_from_its_seed() -> None:
    for seed in range(20):
        first, again = draw_light(seed), draw_light(seed)
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)
        assert np.linalg.norm(first.to_sun) == pytest.approx(1, abs=1e-6)
    day, dusk = draw_light(3, "day"), draw_light(3, "dusk")
    assert day.to_sun[2] > 0.4 > 0.2 > dusk.to_sun[2] > 0
    assert dusk.sun.max() < 0.3 * day.sun.max()
    assert {draw_light(seed).lamps for seed in range(30)} == {day.lamps, dusk.lamps}
    with pytest.raises(ValueError, match=r"draw_light: time_of_day must be 'day', 'dusk', .* or None, got 'noon'"):
        draw_light(0, "noon")  # type: ignore[arg-type]


def test_the_sky_is_brightest_at_the_sun() -> None:
    light, towards, away = sun_from(1, 0, 0.5)._replace(clouds=0.0), np.empty(3), np.empty(3)
    sky_colour(*light.to_sun, light, towards)
    sky_colour(-light.to_sun[0], light.to_sun[1], light.to_sun[2], light, away)
    assert towards.min() > 3 * away.max()


def test_exposure_brings_the_middle_to_what_is_usual() -> None:
    light = draw_light(0, "day")
    for level in (0.1, 0.2, 0.4):
        picture = np.full((40, 60, 3), level, np.float32)
        assert expose(picture, light) * (level + 0.01) == pytest.approx(light.brightness, rel=0.01)
    assert expose(np.zeros((40, 60, 3), np.float32), light) == light.gain


def test_more_light_gives_larger_values_and_corners_are_darker() -> None:
    silent = np.zeros((9, 401, 3), np.float32)
    ramp = np.broadcast_to(np.linspace(0, 3, 401, dtype=np.float32)[None, :, None], silent.shape)
    row = develop(np.ascontiguousarray(ramp), 1.0, silent)[4, :, 0].astype(int)
    assert row[0] == 0
    assert row.max() == 255
    assert (np.diff(row[:300]) >= 0).all()
    flat = develop(np.full((225, 400, 3), 0.2, np.float32), 1.0, np.zeros((225, 400, 3), np.float32))
    assert flat[112, 200].min() > flat[0, 0].max() > 0.85 * flat[112, 200].min()


def test_smearing_keeps_the_light_and_follows_the_motion() -> None:
    picture = np.zeros((21, 21, 3), np.float32)
    picture[10, 10] = 5.0
    motion = np.zeros((21, 21, 2), np.float32)
    np.testing.assert_array_equal(smear(picture, motion), picture)
    motion[..., 0] = 5.0
    smeared = smear(picture, motion)
    assert smeared.sum() == pytest.approx(picture.sum(), rel=1e-5)
    assert np.flatnonzero(smeared[10, :, 0]).tolist() == [8, 9, 10, 11, 12]
    assert not smeared[[9, 11]].any()
