"""Meshes against volumes and areas known in closed form, and triangulation against shapely's areas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation import mesh as meshes
from perception.simulation.materials import MATERIAL_DTYPE, MATERIALS, material_index, town_materials
from perception.simulation.triangulation import signed_area, triangulate

PAINT = meshes.paint("brick_0")


def volume(mesh: meshes.Mesh) -> float:
    """Volume inside a closed mesh, positive where its triangles face outward (divergence theorem)."""
    a, b, c = np.moveaxis(mesh.corners.astype(np.float64), 1, 0)
    return float(np.sum(a * np.cross(b, c)) / 6)


def is_closed(mesh: meshes.Mesh) -> bool:
    """Whether each directed edge has its opposite, positions compared."""
    _, owner = np.unique(np.round(mesh.vertices, 4), axis=0, return_inverse=True)
    triangles = owner.ravel()[mesh.triangles]
    edges = np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    return {tuple(edge) for edge in edges.tolist()} == {tuple(edge) for edge in edges[:, ::-1].tolist()}


def ngon_area(radius: float, corners: int) -> float:
    return 0.5 * corners * radius**2 * np.sin(2 * np.pi / corners)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (meshes.cuboid((2, 3, 4), PAINT, (5, -1, 2)), 24.0),
        (meshes.cylinder(1.5, (1, 3), PAINT, 12), 2 * ngon_area(1.5, 12)),
        (meshes.cone(1.0, (0, 3), PAINT, 7), ngon_area(1.0, 7)),
        (meshes.tube((1, 2, 3), (1, 6, 6), (0.5, 0.5), PAINT, 9), 5 * ngon_area(0.5, 9)),
        (meshes.ellipsoid((1, 2, 3), PAINT, (9, 9, 9), rings=60, segments=80), 4 / 3 * np.pi * 6),
    ],
    ids=["cuboid", "cylinder", "cone", "tube", "ellipsoid"],
)
def test_solids_are_closed_face_outward_and_have_their_volume(mesh: meshes.Mesh, expected: float) -> None:
    assert is_closed(mesh)
    assert volume(mesh) == pytest.approx(expected, rel=3e-3)


def test_a_prism_with_a_hole_has_its_volume() -> None:
    outline = np.array([[0, 0], [4, 0], [4, 3], [0, 3]])
    hole = np.array([[1, 1], [2, 1], [2, 2], [1, 2]])
    prism = meshes.prism(outline, (0.0, 2.0), PAINT, meshes.paint("grass", "flat.terrain"), [hole])
    assert volume(prism) == pytest.approx(2.0 * (12 - 1))  # the underside that it lacks lies in z = 0 and adds nothing
    top = prism.semantics == POINT_CATEGORIES.index("flat.terrain")
    assert np.all(prism.corners[top][..., 2] == 2.0)


def test_flat_and_ribbon_face_up() -> None:
    bend = np.array([[0, 0], [3, 0], [3, 3], [2, 3], [2, 1], [0, 1]])
    left, right = np.array([[0, 1, 0.5], [2, 1, 0.5]]), np.array([[0, 0, 0.5], [2, 0, 0.5]])
    for mesh in (meshes.flat(bend, 1.0, PAINT), meshes.flat(bend[::-1], 1.0, PAINT), meshes.ribbon(left, right, PAINT)):
        a, b, c = np.moveaxis(mesh.corners, 1, 0)
        assert np.all(np.cross(b - a, c - a)[:, 2] > 0)


def test_moving_keeps_volume_and_mirroring_keeps_triangles_facing_outward() -> None:
    body = meshes.merge([meshes.cuboid((1, 2, 3), PAINT), meshes.cone(1, (2, 4), PAINT)])
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[:3, 3] = 7, 8, 9
    assert volume(meshes.moved(body, mirror)) == pytest.approx(volume(body), rel=1e-4)
    turned = meshes.placed(body, (1, 2, 3), np.pi / 2)
    x, y, z = body.vertices[0]
    np.testing.assert_allclose(turned.vertices[0], [1 - y, 2 + x, 3 + z], atol=1e-5)


def test_merging_nothing_gives_an_empty_mesh_of_the_right_types() -> None:
    empty = meshes.merge([])
    assert empty.corners.shape == (0, 3, 3)
    assert [a.dtype for a in (empty.vertices, empty.triangles, empty.materials, empty.semantics)] == [
        np.float32, np.int32, np.int16, np.uint8,
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 40))
def test_triangles_cover_a_star_with_a_hole_exactly(seed: int, corners: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) + 0.01 * np.arange(corners)
    if np.max(np.diff(np.append(angles, angles[0] + 2 * np.pi))) > 2.5 or angles[-1] - angles[0] >= 2 * np.pi:
        return
    around = np.column_stack([np.cos(angles), np.sin(angles)])
    outline, hole = around * rng.uniform(3, 9, (corners, 1)), 0.3 * around
    points, triangles = triangulate(outline, [hole])
    assert len(triangles) == 2 * corners
    areas = np.array([signed_area(points[t]) for t in triangles])
    assert np.all(areas > -1e-9)
    assert areas.sum() == pytest.approx(Polygon(outline, [hole]).area, rel=1e-9)


def test_rejects_what_is_no_polygon_or_material() -> None:
    with pytest.raises(ValueError, match=r"triangulate: rings must be \(N >= 3, 2\), got \[\(2, 2\)\]"):
        triangulate(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"material_index: name must be a name in MATERIALS, got 'cheese'"):
        meshes.paint("cheese")
    with pytest.raises(ValueError, match=r"paint: category must be one of POINT_CATEGORIES, got 'sky'"):
        meshes.paint("grass", "sky")
    with pytest.raises(ValueError, match=r"town_materials: split must be one of train, val, test, got 'trial'"):
        town_materials(0, "trial")


def test_materials_are_physical_and_named_once() -> None:
    names = [material.name for material in MATERIALS]
    assert len(set(names)) == len(names)
    for split in ("train", "test"):
        table = town_materials(3, split)
        assert table.dtype == MATERIAL_DTYPE and len(table) == len(MATERIALS)
        for field in ("albedo", "contrast", "gloss", "lidar_reflectivity", "lidar_gloss"):
            assert table[field].min() >= 0 and table[field].max() <= 1
        assert table["scale_m"].min() > 0


def test_towns_of_the_two_splits_differ_in_colour_and_texture_and_vehicles_do_not() -> None:
    train = [town_materials(seed, "train") for seed in range(6)]
    test = [town_materials(seed, "test") for seed in range(6)]
    brick, paint = material_index("brick_0"), material_index("car_red")
    assert max(t["scale_m"][brick] for t in train) < min(t["scale_m"][brick] for t in test)
    assert all(np.array_equal(t[paint], train[0][paint]) for t in train + test)
    assert np.array_equal(town_materials(5, "train"), train[5])
