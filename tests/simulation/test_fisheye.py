"""The fisheye cameras: the lens, what lies behind the picture's plane, the black outside, the own car at the rim."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.geometry.cameras import project_kannala_brandt
from perception.simulation.fisheye_lens import FisheyeLens
from perception.simulation.mesh import cuboid, paint
from perception.simulation.sensors.fisheye import DISTORTION, THETA_MAX_RAD, Fisheye, FisheyeRecording, fisheye_cameras
from tests.simulation.tiny_world import START_M, EvenMotion, pose, surroundings, wall_at

SIZE_PX = (160, 240)
CAMERAS = {camera.channel: camera for camera in fisheye_cameras(SIZE_PX)}
FRONT = CAMERAS["FISHEYE_FRONT"]
RED = paint("car_red", "vehicle.car")
EGO, CAR = POINT_CATEGORIES.index("vehicle.ego"), POINT_CATEGORIES.index("vehicle.car")


def projected(camera: Fisheye, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) of points in the camera frame by the geometry room, and whether they lie within the circle."""
    lens = camera.lens
    intrinsics, distortion = torch.from_numpy(lens.intrinsics), torch.from_numpy(lens.distortion)
    pixels, valid = project_kannala_brandt(
        torch.from_numpy(points), intrinsics, distortion, torch.tensor(lens.theta_max_rad, dtype=torch.float64)
    )
    return pixels.numpy(), valid.numpy()


def in_camera(camera: Fisheye, world: np.ndarray, ego2global: np.ndarray) -> np.ndarray:
    """Points (N, 3) of the world in the camera frame."""
    camera2global = ego2global @ camera.sensor2ego
    return (world - camera2global[:3, 3]) @ camera2global[:3, :3]


def test_the_lens_is_the_one_that_is_stored() -> None:
    """1280 px wide its focal length is 333.2; pixels are halved with their corners fixed."""
    full = fisheye_cameras((640, 1280))[0].lens.intrinsics
    assert full[0, 0] == pytest.approx(333.2)
    half = fisheye_cameras((320, 640))[0].lens.intrinsics
    np.testing.assert_allclose(half[:2, 2] + 0.5, (full[:2, 2] + 0.5) / 2)
    assert FRONT.lens.distortion.tolist() == list(DISTORTION)
    assert FRONT.image_size_px == SIZE_PX


def test_rays_of_pixels_project_back_onto_them_up_to_95_degrees() -> None:
    rays, within = FRONT.lens.rays
    height, width = SIZE_PX
    v, u = np.mgrid[:height, :width]
    pixels, valid = projected(FRONT, rays.astype(np.float64) * 7.5)
    inside = within > 0
    np.testing.assert_allclose(pixels[inside], np.stack([u, v], axis=-1).reshape(-1, 2)[inside], atol=2e-3)
    assert valid[within > 1e-4].all()
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    angles = np.degrees(np.arccos(rays[:, 2]))
    assert 94 < angles[inside].max() <= 95
    assert (angles[inside] > 90).sum() > 100
    assert 0.88 < inside.mean() < 0.97


def test_the_circle_ends_where_the_angle_does() -> None:
    radius_px = float(np.interp(THETA_MAX_RAD, *_radii(FRONT.lens)))
    assert radius_px == pytest.approx(120, abs=1)  # as wide as the picture
    centre = FRONT.lens.intrinsics[:2, 2]
    for off_px, inside in ((-0.5, True), (0.5, False)):
        _, within = FRONT.lens.unproject(centre[None] + (radius_px + off_px) / np.sqrt(2))
        assert (within[0] > 0) == inside
        theta, radii_px = _radii(FRONT.lens)
        assert within[0] == pytest.approx(THETA_MAX_RAD - np.interp(radius_px + off_px, radii_px, theta), rel=0.02)


def _radii(lens: FisheyeLens) -> tuple[np.ndarray, np.ndarray]:
    theta = np.linspace(0, 1.7, 5000)
    k1, k2, k3, k4 = lens.distortion
    return theta, lens.intrinsics[0, 0] * (theta + k1 * theta**3 + k2 * theta**5 + k3 * theta**7 + k4 * theta**9)


def test_a_lens_whose_picture_turns_back_is_refused() -> None:
    bent = np.array([-0.0416, 0.0, -0.02, 0.0])
    with pytest.raises(ValueError, match="theta_max_rad must be below pi and where the radius turns back"):
        replace(FRONT.lens, distortion=bent)
    assert replace(FRONT.lens, distortion=bent, theta_max_rad=1.2).theta_max_rad == 1.2


def test_two_of_four_recorded_lenses_turn_back_and_are_refused() -> None:
    folder = os.environ.get("PERCEPTION_REAL_DATA")
    if not folder:
        pytest.skip("PERCEPTION_REAL_DATA is not set")
    refused = []
    for path in sorted(Path(folder, "fisheye", "yaml").glob("*.yaml")):
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        matrix, distortion = storage.getNode("camera_matrix").mat(), storage.getNode("dist_coeffs").mat().ravel()
        for angle_deg in (95.0, 110.0):
            try:
                FisheyeLens(matrix, distortion, np.radians(angle_deg), (640, 960))
            except ValueError:
                refused.append(angle_deg)
    assert refused.count(110.0) == 2
    assert refused.count(95.0) == 1


def test_lines_stay_straight_only_through_the_middle() -> None:
    along = np.linspace(-8, 8, 33)[:, None]
    for across, straight in ((0.0, True), (1.5, False)):
        line = np.array([0, across, 2.0]) + along * np.array([1.0, 0, 0])
        pixels, _ = projected(FRONT, line)
        assert (np.ptp(pixels[:, 1]) < 1e-9) == straight


@pytest.mark.parametrize("seed", range(4))
def test_pixels_show_what_lies_on_their_rays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [pose(*rng.uniform((-12, -12), (16, 12)), 0.8, rng.uniform(0, 3)) for _ in range(8)]
    boxes = [it for it in boxes if np.linalg.norm(it[:2, 3] - START_M[:2] - [1.4, 0]) > 5]
    motion = EvenMotion(4.0, 0.1, boxes, [(0.0, 0.0, 0.0)] * len(boxes))
    world = surroundings(motion, [cuboid((4.0, 1.8, 1.6), RED)] * len(boxes), [wall_at(20)], seed=seed)
    for camera in CAMERAS.values():
        shot = camera.capture(world, 100_000)
        camera2global = shot.ego2global @ camera.sensor2ego
        rows = rng.choice(np.nonzero(shot.valid.ravel() & (shot.semantic.ravel() != EGO))[0], 300)
        rays = camera.lens.rays[0][rows].astype(np.float64) @ camera2global[:3, :3].T
        hits = world.rays.cast(camera2global[:3, 3], rays, world.actors(100_000))
        np.testing.assert_allclose(shot.distance_m.ravel()[rows], hits.distance_m, rtol=1e-4)
        same = shot.actor.ravel()[rows] == np.where(hits.found, hits.actor, -1)
        assert same.mean() > 0.99
        shown = shot.actor >= 0
        assert (shot.semantic[shown] == CAR).all()


def test_what_stands_behind_the_plane_of_the_picture_is_seen() -> None:
    """A post beside the front camera, 3 degrees behind it, in pixels beyond 90 degrees."""
    level = replace(FRONT, sensor2ego=FRONT.sensor2ego.copy())
    level.sensor2ego[:3, :3] = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    back = np.radians(3)
    place = pose(FRONT.sensor2ego[0, 3] - 4 * np.sin(back), 4 * np.cos(back), 0.7)
    world = surroundings(EvenMotion(0.0, 0.0, [place], [(0, 0, 0)]), [cuboid((0.1, 0.1, 1.4), RED)])
    shot = level.capture(world, 0)
    rows = np.nonzero((shot.actor == 0).ravel())[0]
    assert len(rows) > 10
    assert (level.lens.rays[0][rows, 2] < 0).all()
    pixels, valid = projected(level, in_camera(level, place[None, :3, 3], shot.ego2global))
    assert valid.all()
    middle = np.array([rows % SIZE_PX[1], rows // SIZE_PX[1]]).mean(axis=1)
    np.testing.assert_allclose(middle, pixels[0], atol=2)


def shots(world_seed: int = 5) -> dict[str, FisheyeRecording]:
    world = surroundings(EvenMotion(6.0), static=[wall_at(30)], seed=world_seed)
    return {channel: camera.capture(world, 200_000) for channel, camera in CAMERAS.items()}


def test_the_picture_is_black_outside_its_circle_alone() -> None:
    for shot in shots().values():
        assert (shot.image[~shot.valid] == 0).all()
        assert (shot.semantic[~shot.valid] == 0).all()
        assert (shot.actor[~shot.valid] == -1).all()
        middle = shot.image[40:120, 60:180]
        assert (middle.max(axis=-1) > 20).all()
        assert 60 < middle.mean() < 200
        decoded = cv2.imdecode(np.frombuffer(shot.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert decoded.shape == (*SIZE_PX, 3)
        assert np.abs(decoded.astype(int) - shot.image)[shot.valid].mean() < 4
        corners = decoded[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.max() < 12


def test_the_own_car_lies_at_the_rim_and_hides_what_is_behind_it() -> None:
    for channel, shot in shots().items():
        own = (shot.semantic == EGO) & shot.valid
        assert 0.01 < own.mean() < 0.35, channel
        assert (shot.actor[own] == -1).all()
        assert shot.distance_m[own].max() < 4
        assert not own[: SIZE_PX[0] // 2, 60:180].any()  # not in the middle of the view
        columns = np.nonzero(own.any(axis=0))[0]
        assert columns[0] < 60
        assert columns[-1] > 180
    left, right = (shots()[f"FISHEYE_{side}"].semantic == EGO for side in ("LEFT", "RIGHT"))
    assert (left == right[:, ::-1]).mean() > 0.97  # the car is the same on both sides


def test_the_own_car_stands_still_in_the_picture_and_the_street_does_not() -> None:
    camera, world = CAMERAS["FISHEYE_LEFT"], surroundings(EvenMotion(10.0))
    shot = camera.capture(world, 0)
    hits = camera._picture(world, world.motion.ego2global(0), 0)[1]
    ways = camera._pixel_motion(world, hits, 0)
    own = (shot.semantic == EGO).ravel()
    assert (ways[own & shot.valid.ravel()] == 0).all()
    street = np.nonzero(hits.found & ~own & shot.valid.ravel() & (hits.distance_m < 10))[0][::50]
    rays = camera.lens.rays[0][street].astype(np.float64) * hits.distance_m[street, None]
    half_m = 10.0 * world.light.exposure_s / 2
    step = camera.sensor2ego[:3, :3].T @ np.array([half_m, 0, 0])  # the camera's own way, in its frame
    expected = projected(camera, rays - step)[0] - projected(camera, rays + step)[0]
    np.testing.assert_allclose(ways[street], expected, atol=0.02)
    assert np.abs(expected).max() > 0.5


def test_the_same_seed_and_time_give_the_same_bytes() -> None:
    first, again, other = shots(5), shots(5), shots(6)
    for channel, shot in first.items():
        assert shot.content == again[channel].content
        assert shot.content != other[channel].content


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size_px must be positive"):
        fisheye_cameras((0, 480))
