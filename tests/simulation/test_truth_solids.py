"""Surfaces in cells: areas are exact, nothing is lost between cells, motion is followed."""

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.geometry.grid import Grid
from perception.simulation.mesh import Mesh, cuboid, merge, paint
from perception.simulation.rays import ActorPoses
from perception.simulation.truth.solids import UNCOUNTED, Solids

CAR, ROAD = paint("car_white", "vehicle.car"), paint("asphalt", "flat.driveable_surface")
GRID = Grid((-2.0, 2.0), (-1.0, 2.0), (0.0, 1.5), (0.4, 0.25, 0.5))
KINDS = np.zeros(len(POINT_CATEGORIES), np.uint8)


def triangles(corners: np.ndarray) -> Mesh:
    count = len(corners)
    index = np.arange(3 * count, dtype=np.int32).reshape(count, 3)
    kinds = np.full(count, CAR.material, np.int16), np.full(count, CAR.semantic, np.uint8)
    return Mesh(corners.reshape(-1, 3).astype(np.float32), index, *kinds)


def areas_of(corners: np.ndarray) -> np.ndarray:
    edges = corners[:, 1:] - corners[:, :1]
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2


@pytest.mark.parametrize("seed", range(5))
def test_triangles_inside_keep_their_area_and_height(seed: int) -> None:
    corners = np.random.default_rng(seed).uniform([-2, -1, 0], [2, 2, 1.5], (40, 3, 3))
    surfaces = Solids(triangles(corners)).areas(ActorPoses.none(), np.eye(4), GRID, KINDS, 1)
    assert surfaces.area_m2.shape == (10, 12, 3, 1)
    assert surfaces.area_m2.sum() == pytest.approx(areas_of(corners).sum(), rel=1e-5)
    layer = np.arange(3)[None, None, :, None]
    low, high = 0.5 * layer * surfaces.area_m2, 0.5 * (layer + 1) * surfaces.area_m2
    assert (surfaces.moment_m3 >= low - 1e-4).all()
    assert (surfaces.moment_m3 <= high + 1e-4).all()


@pytest.mark.parametrize("seed", range(3))
def test_each_cell_holds_as_much_as_points_strewn_over_the_surface_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform([-4, -3, -2], [4, 4, 3], (1, 3, 3))  # reaches out of the grid
    cells = Solids(triangles(corners)).areas(ActorPoses.none(), np.eye(4), GRID, KINDS, 1).area_m2[..., 0]
    share = np.sort(rng.random((400_000, 2)), axis=1)
    weights = np.stack([share[:, 0], share[:, 1] - share[:, 0], 1 - share[:, 1]], axis=1)  # even over the triangle
    points = weights @ corners[0]
    edges = [np.linspace(lo, hi, n + 1) for lo, hi, n in zip((-2, -1, 0), (2, 2, 1.5), GRID.shape[::-1], strict=True)]
    counts, _ = np.histogramdd(points, edges)
    expected = counts / len(points) * areas_of(corners)[0]
    np.testing.assert_allclose(cells, expected, atol=6 * np.sqrt(expected.max() * areas_of(corners)[0] / len(points)))
    assert ((cells > 1e-3) <= (counts > 0)).all()


def test_a_box_known_by_hand() -> None:
    box = cuboid((0.799, 0.499, 0.499), CAR, (0.0, 0.25, 0.75))  # within 2 x 2 x 1 cells
    cells = Solids(box).areas(ActorPoses.none(), np.eye(4), GRID, KINDS, 1).area_m2[..., 0]
    inside = np.zeros(cells.shape, bool)
    inside[4:6, 4:6, 1] = True
    assert not cells[~inside].any()
    np.testing.assert_allclose(cells[inside], 2 * 0.4 * 0.25 + 0.4 * 0.5 + 0.25 * 0.5, rtol=0.01)


def test_actors_move_and_kinds_are_kept_apart() -> None:
    floor = cuboid((1.0, 1.0, 0.1), ROAD, (0, 0, 0.2))
    shape = cuboid((0.3, 0.2, 0.4), CAR)
    actor2world = np.eye(4)
    angle = 0.7
    actor2world[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    actor2world[:3, 3] = 100.6, 50.4, 0.75
    world2grid = np.eye(4)
    world2grid[:3, 3] = -100, -50, 0
    kinds = np.full(len(POINT_CATEGORIES), UNCOUNTED, np.uint8)
    kinds[CAR.semantic] = 1
    at = ActorPoses.still(np.array([0], np.int32), actor2world[None])
    surfaces = Solids(merge([floor]), [shape]).areas(at, world2grid, GRID, kinds, 2)
    assert surfaces.area_m2[..., 0].sum() == 0
    assert surfaces.area_m2[..., 1].sum() == pytest.approx(2 * (0.06 + 0.12 + 0.08), rel=1e-5)
    assert surfaces.moment_m3.sum() / surfaces.area_m2.sum() == pytest.approx(0.75, rel=1e-4)
    middle = np.argwhere(surfaces.area_m2[..., 1] > 0) * GRID.cell_m + GRID.origin_m + np.array(GRID.cell_m) / 2
    assert np.abs(middle.mean(axis=0) - [0.6, 0.4, 0.75]).max() < 0.25
    with pytest.raises(ValueError, match=r"Solids.areas: kind_of must be below num_kinds = 1 or 255"):
        Solids(floor, [shape]).areas(at, world2grid, GRID, kinds, 1)


def test_nothing_is_nothing() -> None:
    surfaces = Solids(merge([])).areas(ActorPoses.none(), np.eye(4), GRID, KINDS, 1)
    assert not surfaces.area_m2.any()
