"""Occupancy: it agrees with LiDAR, pictures and boxes in worlds drawn at random; classes, masks, hidden places."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.occupancy import (
    FLAT_CLASSES,
    FREE,
    OCCUPANCY_CLASSES,
    OCCUPANCY_GRID,
    POINT_TO_OCCUPANCY,
    Occupancy,
)
from perception.simulation.mesh import cuboid, paint
from perception.simulation.rig import roof_lidar, surround_cameras
from perception.simulation.sensors.base import Surroundings
from perception.simulation.sensors.camera import CameraRecording
from perception.simulation.sensors.lidar import LidarRecording
from perception.simulation.truth.images import picture_points
from perception.simulation.truth.occupancy import OccupancySensors, scene_occupancy, solid_labels
from perception.simulation.truth.solids import Solids
from tests.simulation.tiny_world import EvenMotion, ground, pose, surroundings
from tests.simulation.truth_world import NUM_ACTORS, TinyScene, draw_scene

T_US = 1_000_000
SEEDS = range(3)
LIDAR, CAMERAS = roof_lidar(), surround_cameras((225, 400))
LABEL = {name: label for label, name in enumerate(OCCUPANCY_CLASSES)}


@cache
def scene_of(seed: int) -> tuple[TinyScene, LidarRecording, tuple[CameraRecording, ...], Occupancy]:
    scene = draw_scene(seed)
    sweep, shots = taken(scene.surroundings, T_US)
    sensors = OccupancySensors(LIDAR, CAMERAS, [T_US])
    return scene, sweep, shots, scene_occupancy(scene.solids, scene.surroundings, sensors, sweep, shots)


def taken(world: Surroundings, t_us: int) -> tuple[LidarRecording, tuple[CameraRecording, ...]]:
    shots = tuple(camera.capture(world, t_us + camera.delay_us) for camera in CAMERAS)
    return LIDAR.capture(world, t_us), shots


def in_ego(sweep: LidarRecording, rows: np.ndarray) -> np.ndarray:
    return sweep.points[rows, :3].astype(np.float64) @ LIDAR.sensor2ego[:3, :3].T + LIDAR.sensor2ego[:3, 3]


def labels_around(semantics: np.ndarray, points: np.ndarray, reach_m: float) -> np.ndarray:
    """(P, 27) labels of the cells of points and of points a little beside them."""
    offsets = reach_m * (np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3))
    cells = np.floor((points[:, None] + offsets - OCCUPANCY_GRID.origin_m) / OCCUPANCY_GRID.cell_m).astype(int)
    cells = np.clip(cells, 0, np.array(semantics.shape) - 1)
    return semantics[tuple(np.moveaxis(cells, -1, 0))]


def in_grid(points: np.ndarray, margin_m: float = 0.5) -> np.ndarray:
    return (np.abs(points[:, :2]) < 40 - margin_m).all(axis=1) & (points[:, 2] > -0.5) & (points[:, 2] < 5.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_points_of_actors_lie_in_their_boxes_and_in_cells_of_their_class(seed: int) -> None:
    scene, sweep, _, truth = scene_of(seed)
    seen = 0
    for actor in range(NUM_ACTORS):
        mine = sweep.actor == actor
        points = in_ego(sweep, mine)
        box2ego = np.linalg.inv(sweep.ego2global) @ scene.motion.actor2global(T_US)[actor]
        local = (points - box2ego[:3, 3]) @ box2ego[:3, :3]
        assert (np.abs(local) < scene.sizes_m[actor] / 2 + 0.08).all()
        wanted = POINT_TO_OCCUPANCY[POINT_CATEGORIES.index(scene.categories[actor])]
        found = labels_around(truth.semantics, points[in_grid(points)], 0.05)
        assert (found == wanted).any(axis=1).all()
        exact = found[:, 13]  # of the cell that holds the point
        assert len(exact) == 0 or (exact == FREE).mean() < 0.2  # noise before a face that lies on a cell's face
        seen += len(exact)
    assert seen > 500


@pytest.mark.parametrize("seed", SEEDS)
def test_every_return_lies_in_an_observed_occupied_cell(seed: int) -> None:
    _, sweep, _, truth = scene_of(seed)
    rows = (sweep.semantic > 0) & (sweep.semantic != POINT_CATEGORIES.index("vehicle.ego"))
    points = in_ego(sweep, rows)
    inside = in_grid(points)
    found = labels_around(truth.semantics, points[inside], 0.08)
    assert inside.sum() > 5_000
    assert (found != FREE).any(axis=1).all()
    wanted = POINT_TO_OCCUPANCY[sweep.semantic[rows][inside]]
    same = (found == wanted[:, None]).any(axis=1)
    assert same.mean() > 0.985  # where something stands, the ground around its foot is its cell
    assert (same | ~np.isin(found[:, 13], FLAT_CLASSES)).mean() > 0.998
    cells = np.floor((points[inside] - OCCUPANCY_GRID.origin_m) / OCCUPANCY_GRID.cell_m).astype(int)
    assert truth.mask_lidar[tuple(cells.T)].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_cells_that_cameras_see_project_onto_their_class(seed: int) -> None:
    _, _, shots, truth = scene_of(seed)
    cells = np.argwhere(truth.mask_camera & (truth.semantics != FREE))
    labels = truth.semantics[tuple(cells.T)]
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(-1, 3)
    corners = (cells[:, None] + corners) * OCCUPANCY_GRID.cell_m + OCCUPANCY_GRID.origin_m  # (N, 8, 3)
    shown, matched = np.zeros(len(cells), bool), np.zeros(len(cells), bool)
    for camera, shot in zip(CAMERAS, shots, strict=True):
        picture = POINT_TO_OCCUPANCY[shot.semantic]
        ego2camera = np.linalg.inv(camera.sensor2ego)  # the car stands
        local = corners @ ego2camera[:3, :3].T + ego2camera[:3, 3]
        pixels = local[..., :2] / local[..., 2:] * camera.intrinsics[[0, 1], [0, 1]] + camera.intrinsics[:2, 2]
        height, width = camera.image_size_px
        whole = (local[..., 2] > 0.5).all(axis=1) & (pixels > -0.5).all(axis=(1, 2))
        whole &= (pixels < np.array([width, height]) - 0.5).all(axis=(1, 2))
        for row in np.nonzero(whole)[0]:
            (u0, v0), (u1, v1) = (
                np.rint(pixels[row].min(axis=0)).astype(int),
                np.rint(pixels[row].max(axis=0)).astype(int),
            )
            shown[row] = True
            matched[row] |= (picture[v0 : v1 + 1, u0 : u1 + 1] == labels[row]).any()
    assert shown.sum() > 1000
    assert matched[shown].mean() > 0.985
    standing = shown & ~np.isin(labels, FLAT_CLASSES)
    assert matched[standing].mean() > 0.97


@pytest.mark.parametrize("seed", SEEDS)
def test_what_pictures_show_is_observed_and_of_that_class(seed: int) -> None:
    scene, sweep, shots, truth = scene_of(seed)
    labels = solid_labels(scene.solids, scene.surroundings, T_US, np.linalg.inv(sweep.ego2global))
    for camera, shot in zip(CAMERAS, shots, strict=True):
        hit = np.isfinite(shot.distance_m[::3, ::3])
        points = picture_points(camera, shot, 3) @ camera.sensor2ego[:3, :3].T + camera.sensor2ego[:3, 3]
        inside = in_grid(points)
        found = labels_around(labels, points[inside], 0.01)
        assert inside.sum() > 2000
        assert (found != FREE).any(axis=1).mean() > 0.999
        same = (found == POINT_TO_OCCUPANCY[shot.semantic[::3, ::3][hit][inside]][:, None]).any(axis=1)
        assert same.mean() > 0.97
        cells = tuple(np.floor((points[inside] - OCCUPANCY_GRID.origin_m) / OCCUPANCY_GRID.cell_m).astype(int).T)
        assert truth.mask_camera[cells][truth.mask_lidar[cells]].mean() > 0.99
        assert truth.mask_camera[cells].mean() > 0.85  # the LiDAR looks from elsewhere


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_and_labels_are_consistent(seed: int) -> None:
    *_, truth = scene_of(seed)
    assert (truth.mask_lidar | ~truth.mask_camera).all()
    assert (truth.semantics[~truth.mask_lidar] == FREE).all()
    assert (truth.semantics[:, :, :1] == FREE).all()  # below the ground
    assert 0.1 < truth.mask_camera.mean() < truth.mask_lidar.mean() < 0.95


def box_scene(height_m: float, *boxes: np.ndarray) -> tuple[Solids, Surroundings]:
    shapes = [cuboid((1.0, 3.9, height_m), paint("car_white", "vehicle.car"))] * len(boxes)
    motion = EvenMotion(actors=list(boxes), velocities_m_s=[(0, 0, 0)] * len(boxes))
    return Solids(ground(), shapes), surroundings(motion, shapes)


def test_a_box_known_by_hand() -> None:
    solids, world = box_scene(1.6, pose(10.25, 0.0, 0.8))
    labels = solid_labels(solids, world, T_US, np.linalg.inv(world.motion.ego2global(T_US)))
    x = np.arange(200) * 0.4 - 39.8
    y, z = x, np.arange(16) * 0.4 - 0.8
    shell = (np.abs(x - 10.2) < 0.5)[:, None, None] & (np.abs(y) < 2.0)[:, None] & ((z > -0.1) & (z < 1.7))
    car = labels == LABEL["car"]
    assert (car <= shell).all()
    assert car[np.argmin(np.abs(x - 9.8)), 100, 3]  # its front
    assert not car[np.argmin(np.abs(x - 10.2)), 100, 3]  # hollow
    road = np.zeros_like(labels, dtype=bool)
    road[:, :, 2] = True
    assert ((labels == LABEL["driveable_surface"]) == (road & ~car)).all()
    assert set(np.unique(labels)) == {LABEL["car"], LABEL["driveable_surface"], FREE}


def test_what_stands_behind_is_not_observed_unless_from_elsewhere() -> None:
    solids, world = box_scene(2.4, pose(10.0, 0.0, 1.2), pose(14.0, 0.0, 1.2))
    ahead = [pose(10.0 + 8.0, 0.0, 1.2), pose(14.0 + 8.0, 0.0, 1.2)]  # as far from the car, which drives 8 m until then
    moving = replace(world, motion=EvenMotion(8.0, 0, ahead, [(0, 0, 0)] * 2))
    sensors = OccupancySensors(LIDAR, CAMERAS, [T_US])
    still = scene_occupancy(solids, world, sensors, *taken(world, T_US))
    behind = (133, slice(98, 102), slice(3, 6))  # the front of the second at 13.5 m
    assert (still.semantics[123, 98:102, 3:6] != FREE).any()
    assert not still.mask_lidar[behind].any()
    assert (still.semantics[behind] == FREE).all()
    later = OccupancySensors(LIDAR, CAMERAS, [T_US, T_US + 1_300_000])  # then from between the boxes
    driven = scene_occupancy(solids, moving, later, *taken(moving, T_US))
    assert (driven.semantics[behind] == LABEL["car"]).any()
    assert not driven.mask_camera[behind].any()


def test_walkways_are_seen_and_the_road_below_them_is_not() -> None:
    scene, *_ = scene_of(0)
    labels = solid_labels(scene.solids, scene.surroundings, T_US, np.linalg.inv(scene.motion.ego2global(T_US)))
    strip = labels[40:160, 116:122, 2]  # y from 6.4 to 8.8 m
    on_ground = np.isin(strip, FLAT_CLASSES)
    assert on_ground.mean() > 0.9
    assert (strip[on_ground] == LABEL["sidewalk"]).all()
    assert (labels[40:160, 110:114, 2] != LABEL["sidewalk"]).all()


def test_without_cameras_nothing_is_in_view() -> None:
    scene, sweep, _, _ = scene_of(1)
    truth = scene_occupancy(scene.solids, scene.surroundings, OccupancySensors(LIDAR, (), []), sweep, ())
    assert not truth.mask_camera.any()
    assert truth.mask_lidar.any()
