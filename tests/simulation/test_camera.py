"""The camera: what it shows lies where the geometry says, its counts, its times, its bytes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.geometry.cameras import project, unproject
from perception.simulation.mesh import Mesh, cuboid, ellipsoid, paint
from perception.simulation.rays import RayScene
from perception.simulation.rig import scaled_intrinsics, surround_cameras, surround_rig
from perception.simulation.sensors.camera import Camera
from perception.simulation.sensors.ego_body import ego_shadow
from perception.simulation.signal_lamps import SignalLamps, lamp_meshes
from perception.simulation.town.town import SignalHead
from tests.simulation.tiny_world import START_M, EvenMotion, pose, surroundings, wall_at

CAR = paint("car_white", "vehicle.car")
LAMP = paint("signal_red", "vehicle.car")
CAR_SIZE = np.array([4.5, 1.8, 1.6])


def front(**changes: object) -> Camera:
    camera = surround_cameras((225, 400))[0]
    options = {name: getattr(camera, name) for name in ("channel", "sensor2ego", "intrinsics", "image_size_px")}
    return Camera(**(options | changes))


def pixels_of(camera: Camera, ego2global: np.ndarray, points: np.ndarray) -> np.ndarray:
    global2camera = np.linalg.inv(ego2global @ camera.sensor2ego)
    local = points @ global2camera[:3, :3].T + global2camera[:3, 3]
    pixels, valid = project(torch.from_numpy(local), "pinhole", torch.from_numpy(camera.intrinsics))
    assert valid.all()
    return pixels.numpy()


def box_world(motion: EvenMotion, mesh: Mesh, t_us: int) -> np.ndarray:
    box2world = motion.actor2global(t_us)[0]
    return mesh.vertices @ box2world[:3, :3].T + box2world[:3, 3]


@pytest.mark.parametrize("t_us", [0, 500_000])
def test_a_bright_actor_fills_its_projected_box(t_us: int) -> None:
    camera, mesh = front(motion_blur=False), cuboid(CAR_SIZE, LAMP)
    motion = EvenMotion(8.0, 0.2, [pose(22, 2, 0.9, 0.6)], [(5.0, -1.0, 0.0)])
    shot = camera.capture(surroundings(motion, [mesh]), t_us)
    corners = pixels_of(camera, shot.ego2global, box_world(motion, mesh, t_us))
    low, high = corners.min(axis=0), corners.max(axis=0)
    red = shot.image[..., 0].astype(int) - shot.image[..., 2] > 60
    v, u = np.nonzero(red)
    assert len(u) > 100
    assert u.min() >= low[0] - 1
    assert u.max() <= high[0] + 1
    assert v.min() >= low[1] - 1
    assert v.max() <= high[1] + 1
    np.testing.assert_allclose([u.min(), u.max()], [low[0], high[0]], atol=1.5)
    v, u = np.nonzero(shot.actor == 0)
    np.testing.assert_allclose([u.min(), u.max() + 1], np.array([low[0], high[0]]) + 0.5, atol=1.01)
    hull = cv2.contourArea(cv2.convexHull(corners.astype(np.float32)))
    assert shot.visible_px[0] == pytest.approx(hull, rel=0.02)


def test_the_middle_of_a_free_ball_is_where_it_projects() -> None:
    camera, ball = front(), ellipsoid((0.4, 0.4, 0.4), CAR, rings=8, segments=12)
    rng = np.random.default_rng(2)
    for _ in range(5):
        motion = EvenMotion(0, 0, [pose(rng.uniform(8, 30), rng.uniform(-3, 3), rng.uniform(0.5, 3))], [(0, 0, 0)])
        shot = camera.capture(surroundings(motion, [ball]), 0)
        u, v = np.rint(pixels_of(camera, shot.ego2global, motion.actor2global(0)[:, :3, 3])[0]).astype(int)
        assert shot.actor[v, u] == 0
        assert shot.visible_px[0] == pytest.approx(shot.unoccluded_px[0], rel=0.02)


def test_distance_is_along_the_ray_of_the_pixels_middle() -> None:
    camera, wall_m = front(), 25.0
    shot = camera.capture(surroundings(EvenMotion(), static=[wall_at(wall_m)]), 0)
    v, u = np.mgrid[:225:16, :400:16]
    pixels = torch.from_numpy(np.stack([u, v], -1).reshape(-1, 2).astype(float))
    rays, _ = unproject(pixels, "pinhole", torch.from_numpy(camera.intrinsics))
    camera2global = shot.ego2global @ camera.sensor2ego
    ends = rays.numpy() @ camera2global[:3, :3].T * shot.distance_m[v, u].reshape(-1, 1) + camera2global[:3, 3]
    ends -= pose(0, 0)[:3, 3]
    hit = np.isfinite(ends).all(axis=1)
    off = np.minimum(np.abs(ends[hit, 0] - wall_m), np.abs(ends[hit, 2]))
    assert hit.sum() > 150
    assert off.max() < 1e-3


def test_pixels_are_counted_with_and_without_what_stands_before() -> None:
    camera, mesh = front(), cuboid(CAR_SIZE, CAR)
    behind, before = pose(30, 0, 0.81), pose(15, 1.0, 0.81)
    alone = camera.capture(surroundings(EvenMotion(0, 0, [behind], [(0, 0, 0)]), [mesh]), 0)
    both = camera.capture(surroundings(EvenMotion(0, 0, [behind, before], [(0, 0, 0)] * 2), [mesh, mesh]), 0)
    assert alone.visible_px[0] == pytest.approx(alone.unoccluded_px[0], rel=0.03)
    assert both.unoccluded_px[0] == pytest.approx(alone.visible_px[0], rel=0.05)
    assert 0 < both.visible_px[0] < 0.8 * alone.visible_px[0]
    assert both.visible_px[1] == pytest.approx(both.unoccluded_px[1], rel=0.05)
    away = camera.capture(surroundings(EvenMotion(0, 0, [pose(-20, 0, 0.81)], [(0, 0, 0)]), [mesh]), 0)
    assert away.visible_px[0] == away.unoccluded_px[0] == 0


def test_the_shutter_smears_what_moves_sideways_and_leaves_what_stands() -> None:
    mesh = cuboid((1.0, 1.0, 1.6), LAMP)
    fast = EvenMotion(0, 0, [pose(8, -1, 1.0)], [(0.0, 30.0, 0.0)])
    slow = EvenMotion(0, 0, [pose(8, -1, 1.0)], [(0.0, 0.0, 0.0)])

    def edge_px(motion: EvenMotion, blur: bool) -> int:
        image = front(motion_blur=blur).capture(surroundings(motion, [mesh]), 0).image.astype(int)
        row = image[115, :, 0] - image[115, :, 2]
        return int(((row > 20) & (row < 0.8 * row.max())).sum())

    assert edge_px(fast, blur=True) >= edge_px(fast, blur=False) + 3
    assert abs(edge_px(slow, blur=True) - edge_px(slow, blur=False)) <= 1


def test_what_stands_in_shadow_is_darker() -> None:
    world = surroundings(EvenMotion(0, 0, [pose(12, 0, 0.9)], [(0, 0, 0)]), [cuboid((1.0, 3.0, 1.8), CAR)])
    bare = surroundings(EvenMotion(), [])
    camera = front(motion_blur=False)
    with_box, without = camera.capture(world, 0), camera.capture(bare, 0)
    road = (with_box.actor < 0) & np.isfinite(with_box.distance_m)
    drop = without.image[road].astype(int).sum(axis=1) - with_box.image[road].astype(int).sum(axis=1)
    assert (drop > 60).sum() > 100  # a patch of shadow
    assert np.median(np.abs(drop)) < 30  # the rest as before


def test_the_own_car_throws_a_shadow_and_is_not_seen() -> None:
    world = surroundings(EvenMotion(), [ego_shadow()])
    low = world.light._replace(to_sun=np.array([-0.98, 0.0, 0.2], np.float32))  # low behind the car
    with_car, without = (
        front(motion_blur=False).capture(replace(world, light=low, ego_shape=shape), 0) for shape in (0, None)
    )
    assert (with_car.actor == -1).all()
    np.testing.assert_array_equal(with_car.distance_m, without.distance_m)
    assert with_car.visible_px.shape == with_car.unoccluded_px.shape == (0,)
    darker = without.image.astype(int).sum(axis=-1) - with_car.image.astype(int).sum(axis=-1) > 20
    rows, columns = np.nonzero(darker)
    assert 0.01 < darker.mean() < 0.2
    assert (rows > 150).mean() > 0.95  # at the lower edge, before the car
    assert abs(columns.mean() - 200) < 20


def test_same_seed_same_bytes_and_they_are_a_jpeg() -> None:
    motion = EvenMotion(5.0, 0.1, [pose(12, 2, 0.81)], [(3.0, 0.0, 0.0)])
    shapes = [cuboid(CAR_SIZE, CAR)]
    first = front().capture(surroundings(motion, shapes), 50_000)
    again = front().capture(surroundings(motion, shapes), 50_000)
    assert first.content == again.content
    decoded = cv2.imdecode(np.frombuffer(first.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert decoded.shape == (225, 400, 3)
    assert np.abs(decoded.astype(int) - first.image).mean() < 6
    assert front().capture(surroundings(motion, shapes, seed=6), 50_000).content != first.content


def test_the_rig_is_timed_and_scaled_as_the_recorded_one() -> None:
    rig = {sensor.channel: sensor for sensor in surround_rig((900, 1600))}
    delays = {"CAM_FRONT_LEFT": -43, "CAM_FRONT": -36, "CAM_FRONT_RIGHT": -28, "CAM_BACK_RIGHT": -20, "CAM_BACK": -10}
    assert {name: rig[name].delay_us for name in delays} == {name: 1000 * ms for name, ms in delays.items()}
    assert rig["CAM_BACK_LEFT"].delay_us == -500
    assert rig["LIDAR_TOP"].delay_us == 0
    assert set(rig) == {*delays, "CAM_BACK_LEFT", "LIDAR_TOP"}
    for sensor in rig.values():
        rotation = sensor.sensor2ego[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
    headings = {"CAM_FRONT": 0, "CAM_FRONT_LEFT": 55, "CAM_BACK_LEFT": 109, "CAM_BACK": 180, "CAM_FRONT_RIGHT": -56}
    for name, heading in headings.items():
        axis = rig[name].sensor2ego[:3, 2]
        off = (np.degrees(np.arctan2(axis[1], axis[0])) - heading + 180) % 360 - 180
        assert abs(off) < 2
        assert rig[name].sensor2ego[2, 1] < -0.99  # the picture's down is the car's down
    np.testing.assert_allclose(rig["LIDAR_TOP"].sensor2ego[:3, 1], [1, 0, 0], atol=0.02)


def test_a_resized_camera_sees_along_the_same_rays() -> None:
    large, small = (scaled_intrinsics(1264.0, (812.0, 488.0), size) for size in ((900, 1600), (225, 400)))
    point = torch.tensor([[1.0, -0.4, 5.0]], dtype=torch.float64)
    u_large, u_small = (project(point, "pinhole", torch.from_numpy(k))[0].numpy() for k in (large, small))
    np.testing.assert_allclose(u_small, (u_large + 0.5) / 4 - 0.5)
    with pytest.raises(ValueError, match=r"surround_cameras: image_size_px must be positive, got \(0, 400\)"):
        surround_cameras((0, 400))


def test_an_empty_world_gives_a_picture() -> None:
    scene = surroundings(EvenMotion())
    empty = type(scene)(
        RayScene(cuboid((1, 1, 1), CAR, (400, -3000, 0))), scene.motion, scene.materials, scene.light, 1
    )
    shot = front().capture(empty, 0)
    assert not np.isfinite(shot.distance_m).any()
    assert shot.image.std() > 0


def test_lit_signals_shine_and_belong_to_the_town() -> None:
    head = SignalHead((*(START_M + np.array([12.0, 1.0, 2.2])),), np.pi, 0)
    car = cuboid(CAR_SIZE, CAR)
    motion = EvenMotion(0, 0, [pose(-20, 0, 0.81)], [(0, 0, 0)])
    scene = surroundings(motion, [car, *lamp_meshes()])
    for colour, channel in (("red", 0), ("green", 1)):
        lamps = SignalLamps([head], lambda _, colour=colour: (colour,), first_shape=1)
        shot = front(motion_blur=False).capture(replace(scene, signals=lamps), 0)
        world = START_M + np.array([12.0, 1.0, 2.2 + (0.34 if colour == "red" else -0.34)])
        u, v = np.rint(pixels_of(front(), shot.ego2global, world[None])[0]).astype(int)
        patch = shot.image[v - 3 : v + 4, u - 3 : u + 4].reshape(-1, 3).astype(int)
        brightest = patch[np.argmax(patch[:, channel] - patch[:, 1 - channel])]
        assert brightest[channel] > brightest[1 - channel] + 40
        assert (shot.actor == -1).all()
        assert shot.visible_px.tolist() == [0]
    dark = SignalLamps([head], lambda _: ("",), first_shape=1)
    assert len(dark.shining(0)[0]) == 0
