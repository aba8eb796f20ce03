"""Actors' shapes: meshes fill their boxes, faces look outward, sizes follow the classes' statistics."""

import numpy as np
import pytest

from perception.formats.classes import CATEGORY_TO_CLASS, DETECTION_CLASSES, POINT_CATEGORIES
from perception.simulation.actors.catalogue import KINDS, ActorShape, build_shape

SEEDS = range(12)
# Mean width, length and height of the annotated boxes of nuScenes, per class.
MEAN_WLH_M = {
    "car": (1.95, 4.62, 1.73), "truck": (2.51, 6.93, 2.84), "bus": (2.94, 11.2, 3.47), "trailer": (2.90, 12.3, 3.87),
    "construction_vehicle": (2.73, 6.37, 3.19), "motorcycle": (0.77, 2.11, 1.47), "bicycle": (0.60, 1.70, 1.28),
    "pedestrian": (0.67, 0.73, 1.77), "traffic_cone": (0.41, 0.41, 1.07), "barrier": (2.53, 0.50, 0.98),
}  # fmt: skip


def shapes_of(kind: str) -> list[ActorShape]:
    """One shape per seed."""
    return [build_shape(kind, np.random.default_rng([seed, 5])) for seed in SEEDS]


@pytest.mark.parametrize("kind", KINDS)
def test_box_fits_every_mesh_on_every_side(kind: str) -> None:
    for shape in shapes_of(kind):
        for mesh in shape.meshes:
            used = mesh.vertices[np.unique(mesh.triangles)]
            np.testing.assert_allclose(used.max(axis=0), shape.size_lwh_m / 2, atol=1e-5)
            np.testing.assert_allclose(used.min(axis=0), -shape.size_lwh_m / 2, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_meshes_are_well_formed(kind: str) -> None:
    for shape in shapes_of(kind):
        for mesh in shape.meshes:
            assert mesh.vertices.dtype == np.float32
            assert mesh.triangles.dtype == np.int32
            assert np.isfinite(mesh.vertices).all()
            assert len(mesh.materials) == len(mesh.semantics) == len(mesh.triangles)
            a, b, c = np.moveaxis(mesh.corners.astype(np.float64), 1, 0)
            assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 1e-8
            assert set(mesh.semantics) == {POINT_CATEGORIES.index(shape.category)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_first_from_outside_and_above_faces_the_viewer(kind: str) -> None:
    """Rays from all round towards the actor hit outer sides first: no face is turned inwards, no hole looks in."""
    rng = np.random.default_rng(7)
    seen, turned = 0, 0
    for shape in shapes_of(kind)[:3]:
        corners = shape.meshes[0].corners.astype(np.float64)
        target = rng.uniform(-0.5, 0.5, (150, 3)) * shape.size_lwh_m
        azimuth, elevation = rng.uniform(0, 2 * np.pi, 150), rng.uniform(0.02, 0.9, 150)
        direction = -np.stack(
            (np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)), axis=1
        )
        distance, cosine = first_hits(corners, target - 30 * direction, direction)
        hit = np.isfinite(distance) & (np.abs(cosine) > 0.02)
        seen += int(hit.sum())
        turned += int((cosine[hit] > 0).sum())
    assert seen > 20
    assert turned <= 0.01 * seen


def first_hits(corners: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (R,) of the first triangle hit, inf for none, and the cosine between its normal and the ray."""
    a, edge1, edge2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(edge1, edge2)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.cross(directions[:, None], edge2[None])  # (R, T, 3)
        det = (cross * edge1).sum(axis=-1)
        offset = origins[:, None] - a
        u = (offset * cross).sum(axis=-1) / det
        q = np.cross(offset, edge1[None])
        v = (q * directions[:, None]).sum(axis=-1) / det
        t = (q * edge2).sum(axis=-1) / det
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (det != 0)
    t = np.where(inside, t, np.inf)
    nearest = t.argmin(axis=1)
    unit = normal[nearest] / np.linalg.norm(normal[nearest], axis=1, keepdims=True)
    return t[np.arange(len(t)), nearest], (unit * directions).sum(axis=1)


def test_sizes_follow_the_classes_statistics() -> None:
    by_class: dict[str, list[np.ndarray]] = {name: [] for name in DETECTION_CLASSES}
    for kind, (category, _) in KINDS.items():
        if category in CATEGORY_TO_CLASS and kind not in ("adult_sitting", "child_walking", "drawbar_trailer"):
            by_class[CATEGORY_TO_CLASS[category]] += [shape.size_lwh_m[[1, 0, 2]] for shape in shapes_of(kind)]
    for name, sizes in by_class.items():
        np.testing.assert_allclose(np.mean(sizes, axis=0), MEAN_WLH_M[name], rtol=0.25, err_msg=name)
        assert np.std(sizes, axis=0).min() > 0.01, name


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_differ_within_a_kind_and_repeat_with_a_seed(kind: str) -> None:
    first, again, other = (build_shape(kind, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.meshes[0].vertices, again.meshes[0].vertices)
    np.testing.assert_array_equal(first.meshes[0].materials, again.meshes[0].materials)
    assert not np.array_equal(first.size_lwh_m, other.size_lwh_m)


def test_meshes_are_small() -> None:
    """What a frame costs to trace goes by the number of triangles."""
    limits = {"vehicle.bicycle": 600, "vehicle.motorcycle": 600, "static_object.bicycle_rack": 1500}
    wheeled = ("personal_mobility", "wheelchair", "stroller")
    limits |= {f"human.pedestrian.{name}": 500 for name in wheeled}
    for kind, (category, _) in KINDS.items():
        limit = limits.get(category, 300 if category.startswith("human") else 420)
        assert max(mesh.num_triangles for shape in shapes_of(kind) for mesh in shape.meshes) <= limit, kind


def test_a_walking_person_has_either_foot_in_front() -> None:
    shape = build_shape("adult_walking", np.random.default_rng(0))
    assert len(shape.meshes) == 2
    fronts = [mesh.vertices[mesh.vertices[:, 0].argmax(), 1] for mesh in shape.meshes]
    assert fronts[0] * fronts[1] < 0


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ValueError, match=r"build_shape: kind must be one of car, .*got 'tank'"):
        build_shape("tank", np.random.default_rng(0))
