"""The near-field grid: boxes known by hand, shadows, and LiDAR points in worlds drawn at random."""

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.formats.near_field import NEAR_FIELD_GRID, NearFieldCell
from perception.simulation.mesh import cuboid, paint
from perception.simulation.rig import roof_lidar
from perception.simulation.sensors.ego_body import ego_shadow
from perception.simulation.truth.near_field import HIGH_M, LOW_M, near_field_cells
from perception.simulation.truth.solids import Solids
from tests.simulation.tiny_world import EvenMotion, ground, pose, surroundings
from tests.simulation.truth_world import draw_scene

T_US = 1_000_000
CAR = paint("car_white", "vehicle.car")
EYES_M = np.array([[0.95, 0.0, 1.84], [3.6, 0.0, 0.6], [-0.8, 0.0, 0.8], [1.9, 1.0, 1.0], [1.9, -1.0, 1.0]])
FREE, OCCUPIED, UNKNOWN = NearFieldCell


def box_cells(size_m: tuple[float, float, float], at: np.ndarray, eyes_m: np.ndarray = EYES_M) -> np.ndarray:
    shape = cuboid(size_m, CAR)
    world = surroundings(EvenMotion(actors=[at], velocities_m_s=[(0, 0, 0)]), [shape])
    return near_field_cells(Solids(ground(), [shape]), world, T_US, eyes_m)


def rows(low_m: float, high_m: float) -> slice:
    return slice(round((low_m + 8) / 0.1), round((high_m + 8) / 0.1))


def test_an_empty_lot_is_free() -> None:
    cells = near_field_cells(Solids(ground()), surroundings(EvenMotion()), T_US, EYES_M)
    assert cells.shape == NEAR_FIELD_GRID.shape[1:]
    assert (cells == FREE).all()


def test_a_box_is_occupied_where_it_is_seen_and_hides_what_is_behind() -> None:
    cells = box_cells((1.05, 3.05, 1.9), pose(6.0, 1.0, 0.95))  # x 5.475 to 6.525, y -0.525 to 2.525
    assert (cells[rows(-0.4, 2.4), rows(5.4, 5.5)] == OCCUPIED).all()  # its front
    assert (cells[rows(-0.6, 2.6), rows(5.3, 5.4)] == FREE).all()
    assert (cells[rows(0.5, 1.5), rows(6.8, 7.9)] == UNKNOWN).all()
    assert (cells[rows(-7, -3), rows(-7, 7)] == FREE).all()
    assert (cells == OCCUPIED).sum() >= 31


def test_eyes_see_over_what_is_low_and_not_over_what_is_high() -> None:
    low, high = (box_cells((1.0, 3.0, z), pose(5.0, 0.0, z / 2), EYES_M[:1]) for z in (0.5, 1.9))
    assert (low[rows(-1, 1), rows(7.4, 8.0)] == FREE).all()
    assert (high[rows(-1, 1), rows(7.4, 8.0)] == UNKNOWN).all()
    assert (low[rows(-1.4, 1.4), rows(4.5, 5.5)] == OCCUPIED).all()  # seen from above


@pytest.mark.parametrize(("z_m", "height_m", "expected"), [(0.05, 0.1, FREE), (2.6, 1.0, FREE), (1.0, 0.6, OCCUPIED)])
def test_heights_that_matter(z_m: float, height_m: float, expected: NearFieldCell) -> None:
    assert LOW_M > 0.13  # a kerb is ground
    assert HIGH_M == 2.0
    cells = box_cells((0.5, 0.5, height_m), pose(5.0, 0.0, z_m))
    assert cells[80, 128] == expected


def test_the_own_car_hides_what_is_under_it() -> None:
    world = surroundings(EvenMotion(), [ego_shadow()])
    shown = type(world)(world.rays, world.motion, world.materials, world.light, world.seed, ego_shape=0)
    cells = near_field_cells(Solids(ground()), shown, T_US, EYES_M)
    assert (cells[rows(-0.7, 0.7), rows(-0.4, 3.2)] == UNKNOWN).all()
    assert (cells[rows(2, 8)] == FREE).all()


@pytest.mark.parametrize("seed", range(6))
def test_lidar_points_agree(seed: int) -> None:
    scene, lidar = draw_scene(seed), roof_lidar()
    sweep = lidar.capture(scene.surroundings, T_US)
    cells = near_field_cells(scene.solids, scene.surroundings, T_US, EYES_M)
    points = sweep.points[:, :3].astype(np.float64) @ lidar.sensor2ego[:3, :3].T + lidar.sensor2ego[:3, 3]
    real = ~np.isin(sweep.semantic, [0, POINT_CATEGORIES.index("vehicle.ego")])
    near = real & (np.abs(points[:, :2]) < 7.8).all(axis=1)
    places = np.floor((points[:, :2] + 8) / 0.1).astype(int)
    standing = near & (sweep.actor >= 0) & (points[:, 2] > LOW_M + 0.05) & (points[:, 2] < HIGH_M - 0.05)
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)
    spots = places[standing][:, None] + around
    assert (cells[spots[..., 1], spots[..., 0]] == OCCUPIED).any(axis=1).all()
    low = near & (sweep.actor < 0) & (points[:, 2] < LOW_M)
    ground_cells = cells[places[low][:, 1], places[low][:, 0]]
    assert low.sum() > 5000
    assert (ground_cells == FREE).mean() > 0.99


def test_eyes_must_be_places() -> None:
    with pytest.raises(ValueError, match=r"near_field_cells: eyes_m must be \(E, 3\), got \(3,\)"):
        near_field_cells(Solids(ground()), surroundings(EvenMotion()), T_US, EYES_M[0])
