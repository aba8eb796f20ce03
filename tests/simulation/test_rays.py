"""Hits against geometry that can be worked out by hand: planes, boxes, and actors that move during the cast."""

import numpy as np
import pytest

pytest.importorskip("open3d", reason="open3d casts the rays")
pytest.importorskip("numba", reason="numba compiles the loops around them")

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.materials import material_index
from perception.simulation.mesh import Mesh, cuboid, merge, moved, paint, quads
from perception.simulation.raster import Lens
from perception.simulation.rays import STATIC, ActorPoses, RayScene

FAR_FROM_ZERO_M = np.array([1200.0, 800.0, 0.0])
ROAD = paint("asphalt", "flat.driveable_surface")
CAR = paint("car_red", "vehicle.car")
WALL = paint("steel")


def far(x: float, y: float, z: float) -> np.ndarray:
    return FAR_FROM_ZERO_M + np.array([x, y, z])


def ground(half_m: float = 100.0) -> Mesh:
    corners = half_m * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    return quads(corners[None] + FAR_FROM_ZERO_M, ROAD)


def pose(x: float, y: float, z: float, yaw_rad: float = 0.0) -> np.ndarray:
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    matrix = np.eye(4)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    matrix[:3, 3] = far(x, y, z)
    return matrix


def random_directions(count: int) -> np.ndarray:
    directions = np.random.default_rng(1).normal(size=(count, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def distance_to_box(origin: np.ndarray, directions: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Slab test around zero from outside the box, in float64."""
    with np.errstate(divide="ignore"):
        sides = (np.stack([-size / 2, size / 2]) - origin)[:, None] / directions  # (2, N, 3)
    near, far = sides.min(axis=0).max(axis=1), sides.max(axis=0).min(axis=1)  # (N,)
    return np.where((near <= far) & (near > 0), near, np.inf)


def test_ground_is_met_where_a_plane_is() -> None:
    directions = random_directions(2000)
    origin = far(1.0, 2.0, 1.8)
    hits = RayScene(ground()).cast(origin, directions)
    distance = np.where(directions[:, 2] < 0, -1.8 / np.where(directions[:, 2] < 0, directions[:, 2], -1), np.inf)
    end = origin + directions * np.where(np.isfinite(distance), distance, 0)[:, None] - FAR_FROM_ZERO_M
    inside = (np.abs(end[:, :2]) < 99.9).all(axis=1)
    np.testing.assert_allclose(hits.distance_m[inside], distance[inside], rtol=1e-5, atol=1e-4)
    found = hits.found
    assert (hits.actor == STATIC).all()
    assert (hits.normal[found] == (0, 0, 1)).all()
    assert (hits.semantic[found] == POINT_CATEGORIES.index("flat.driveable_surface")).all()
    assert (hits.material[found] == material_index("asphalt")).all()
    assert not found[directions[:, 2] > 0].any()


@pytest.mark.parametrize("yaw_rad", [0.0, 0.7, -2.5])
def test_an_actor_is_met_where_its_box_is(yaw_rad: float) -> None:
    size = np.array([4.5, 1.8, 1.5])
    scene = RayScene(ground(), [cuboid((1, 1, 1), WALL), cuboid(size, CAR), cuboid((9, 3, 3), WALL)])
    actor2world = pose(6.0, -3.0, 0.76, yaw_rad)
    origin = far(0.0, 0.0, 1.8)
    directions = random_directions(20000)
    hits = scene.cast(origin, directions, ActorPoses.still(np.array([1], np.int32), actor2world[None]))
    rotation = actor2world[:3, :3]
    expected = distance_to_box(rotation.T @ (origin - actor2world[:3, 3]), directions @ rotation, size)
    actor = hits.actor == 0
    assert actor.sum() > 200
    assert (actor != np.isfinite(expected)).mean() < 1e-3  # rays along an edge
    both = actor & np.isfinite(expected)
    np.testing.assert_allclose(hits.distance_m[both], expected[both], atol=1e-4)
    assert (hits.semantic[both] == POINT_CATEGORIES.index("vehicle.car")).all()
    on_face = np.abs(np.abs(hits.position[both]) / (size / 2) - 1).min(axis=1)
    assert on_face.max() < 1e-3
    world_position = origin + directions[both] * hits.distance_m[both, None]
    back = hits.position[both] @ rotation.T + actor2world[:3, 3]
    np.testing.assert_allclose(back, world_position, atol=1e-3)
    np.testing.assert_allclose(hits.normal[both], hits.mesh_normal[both] @ rotation.T, atol=1e-5)
    assert ((hits.normal * directions).sum(axis=1)[hits.found] <= 1e-6).all()


def test_a_hundred_actors_give_what_one_mesh_of_them_gives() -> None:
    rng = np.random.default_rng(3)
    shapes = [cuboid(rng.uniform(0.4, 4.0, 3), CAR) for _ in range(100)]
    poses = np.stack([pose(*rng.uniform(-40, 40, 2), rng.uniform(0, 3), rng.uniform(-3, 3)) for _ in shapes])
    origin, directions = far(0.3, 0.2, 1.8), random_directions(20000)
    actors = ActorPoses.still(np.arange(100, dtype=np.int32), poses)
    moving = RayScene(ground(), shapes).cast(origin, directions, actors)
    together = merge([ground(), *(moved(shape, p) for shape, p in zip(shapes, poses, strict=True))])
    still = RayScene(together).cast(origin, directions)
    agree = np.isclose(moving.distance_m, still.distance_m, atol=2e-3)
    assert agree.mean() > 0.999  # the rest graze an edge
    assert (moving.semantic == still.semantic)[agree].mean() > 0.999


@pytest.mark.parametrize("yaw_rad", [0.0, 0.7, 2.9])
def test_a_view_is_what_rays_through_the_pixels_meet(yaw_rad: float) -> None:
    rng = np.random.default_rng(4)
    blocks = [cuboid(rng.uniform(0.2, 9.0, 3), WALL, far(*rng.uniform(-60, 60, 2), 2.0)) for _ in range(60)]
    shapes = [cuboid(rng.uniform(0.3, 3.0, 3), CAR) for _ in range(40)]
    poses = np.stack([pose(*rng.uniform(-30, 30, 2), rng.uniform(0, 3), rng.uniform(-3, 3)) for _ in shapes])
    scene, actors = RayScene(merge([ground(), *blocks]), shapes), ActorPoses.still(np.arange(40, dtype=np.int32), poses)
    camera2world = pose(0.3, 0.2, 1.7, yaw_rad)
    camera2world[:3, :3] = camera2world[:3, :3] @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    lens = Lens(focal_u=70.0, focal_v=66.0, principal_u=61.2, principal_v=40.7, height=80, width=120)
    v, u = np.mgrid[:80, :120].reshape(2, -1)
    local = np.column_stack(((u - 61.2) / 70.0, (v - 40.7) / 66.0, np.ones(len(u))))
    directions = (local / np.linalg.norm(local, axis=1, keepdims=True)) @ camera2world[:3, :3].T
    seen, covered = scene.view(camera2world, lens, directions, actors)
    cast = scene.cast(camera2world[:3, 3], directions, actors)
    agree = (
        np.isclose(seen.distance_m, cast.distance_m, rtol=1e-4, atol=1e-3) | (seen.found == cast.found) & ~seen.found
    )
    assert agree.mean() > 0.999  # the rest graze an edge
    for one, other in zip(seen, cast, strict=True):
        both = agree & seen.found
        assert np.isclose(one[both], other[both], rtol=1e-4, atol=2e-3).mean() > 0.998
    for row in np.flatnonzero(covered):
        alone = ActorPoses.still(actors.shapes[[row]], poses[[row]])
        met = (scene.cast(camera2world[:3, 3], directions, alone).actor == 0).sum()
        assert covered[row] >= met - 2  # hidden by what stands still
        bare = RayScene(ground(0.01), shapes).cast(camera2world[:3, 3], directions, alone)
        assert abs(covered[row] - (bare.actor == 0).sum()) <= 2
    wanted = np.array([7, 4000, 9599])
    some, _ = scene.view(camera2world, lens, directions[wanted], actors, wanted)
    np.testing.assert_array_equal(some.distance_m, seen.distance_m[wanted])


def test_each_ray_sees_the_actor_at_its_own_time() -> None:
    scene = RayScene(ground(), [cuboid((2, 2, 2), CAR)])
    actors = ActorPoses(np.zeros(1, np.int32), pose(10, 0, 1)[None], pose(14, 0, 1)[None])
    fractions = np.array([0.0, 0.25, 1.0])
    hits = scene.cast(far(0, 0, 1), np.tile([1.0, 0, 0], (3, 1)), actors, fractions)
    np.testing.assert_allclose(hits.distance_m, [9, 10, 13], atol=1e-4)


def test_occlusion_by_static_and_moving_surfaces_ends_with_the_ray() -> None:
    wall = cuboid((1, 10, 10), WALL, far(20, 0, 5))
    scene = RayScene(merge([ground(), wall]), [cuboid((2, 2, 2), CAR)])
    actors = ActorPoses.still(np.zeros(1, np.int32), pose(0, 10, 1)[None])
    origin = far(0, 0, 1)
    directions = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, -1, 0], [0, 0, -1]])
    limits = np.array([19.0, 20.0, 8.9, 9.1, np.inf, np.inf], np.float32)
    occluded = scene.occluded(origin, directions, limits, actors)
    assert occluded.tolist() == [False, True, False, True, False, True]
    assert scene.occluded(origin, directions, limits).tolist() == [False, True, False, False, False, True]


def test_nothing_at_all_is_met_in_an_empty_world() -> None:
    empty = merge([])
    hits = RayScene(empty).cast(np.zeros(3), random_directions(5))
    assert not hits.found.any()
    assert len(RayScene(empty).cast(np.zeros(3), np.zeros((0, 3))).distance_m) == 0


def test_wrong_shapes_are_named() -> None:
    scene = RayScene(ground())
    with pytest.raises(ValueError, match=r"cast: directions must be \(N, 3\), got \(4,\)"):
        scene.cast(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"cast: origins must be \(3,\) or \(5, 3\), got \(4, 3\)"):
        scene.cast(np.zeros((4, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"cast: fractions must be \(5,\), got \(4,\)"):
        scene.cast(np.zeros(3), random_directions(5), None, np.zeros(4))
    with pytest.raises(ValueError, match=r"view: directions must be \(6, 3\), got \(5, 3\)"):
        scene.view(np.eye(4), Lens(1.0, 1.0, 0.0, 0.0, 2, 3), random_directions(5), ActorPoses.none())
