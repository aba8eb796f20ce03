"""Triangle meshes with a material and a point category per triangle, and the parametric shapes they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.materials import material_index
from perception.simulation.triangulation import triangulate


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles that wind counter-clockwise seen from outside.

    Attributes:
        vertices: (V, 3) float32, metres.
        triangles: (T, 3) int32, indices into the vertices.
        materials: (T,) int16, indices into `materials.MATERIALS`.
        semantics: (T,) uint8, indices into `formats.classes.POINT_CATEGORIES`.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    materials: np.ndarray
    semantics: np.ndarray

    @property
    def num_triangles(self) -> int:
        """The number of triangles."""
        return len(self.triangles)

    @property
    def corners(self) -> np.ndarray:
        """(T, 3, 3) float32: the corners of each triangle."""
        return self.vertices[self.triangles]  # (T, 3, 3)


class Paint(NamedTuple):
    """What a surface is made of and what a point on it is called."""

    material: int
    semantic: int


def paint(material: str, category: str = "static.manmade") -> Paint:
    """The paint of a named material and point category.

    Args:
        material: a name in `materials.MATERIALS`.
        category: a name in `POINT_CATEGORIES`.

    Returns:
        Their indices.

    Raises:
        ValueError: no such material or category.
    """
    if category not in POINT_CATEGORIES:
        raise ValueError(f"paint: category must be one of POINT_CATEGORIES, got {category!r}")
    return Paint(material_index(material), POINT_CATEGORIES.index(category))


def _mesh(vertices: np.ndarray, triangles: np.ndarray, paint: Paint) -> Mesh:
    """A mesh of one paint, without the triangles that have no area."""
    vertices = np.asarray(vertices, dtype=np.float32).reshape(-1, 3)
    triangles = np.asarray(triangles, dtype=np.int32).reshape(-1, 3)
    a, b, c = vertices.astype(np.float64)[triangles.T]  # (T, 3) each
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T
    squares = (uy * vz - uz * vy) ** 2 + (uz * vx - ux * vz) ** 2 + (ux * vy - uy * vx) ** 2
    triangles = triangles[squares > 1e-18]
    count = len(triangles)
    return Mesh(vertices, triangles, np.full(count, paint.material, np.int16), np.full(count, paint.semantic, np.uint8))


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """All triangles of several meshes, in their order.

    Args:
        meshes: any number of meshes in one frame; none gives the empty mesh.

    Returns:
        One mesh.
    """
    if not meshes:
        return _mesh(np.zeros((0, 3)), np.zeros((0, 3)), Paint(0, 0))
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts, strict=True)]).astype(np.int32),
        np.concatenate([mesh.materials for mesh in meshes]),
        np.concatenate([mesh.semantics for mesh in meshes]),
    )


def moved(mesh: Mesh, a2b: np.ndarray) -> Mesh:
    """The mesh in another frame.

    Args:
        mesh: a mesh in frame a.
        a2b: (4, 4) affine transform; a mirroring one turns the triangles round, so that they still face outward.

    Returns:
        The mesh in frame b.
    """
    vertices = mesh.vertices.astype(np.float64) @ a2b[:3, :3].T + a2b[:3, 3]
    triangles = mesh.triangles if np.linalg.det(a2b[:3, :3]) > 0 else mesh.triangles[:, ::-1]
    return Mesh(vertices.astype(np.float32), triangles, mesh.materials, mesh.semantics)


def placed(mesh: Mesh, position_m: Sequence[float], yaw_rad: float = 0.0) -> Mesh:
    """The mesh turned about +z and then shifted.

    Args:
        mesh: a mesh in its own frame.
        position_m: x y z of its origin.
        yaw_rad: counter-clockwise turn.

    Returns:
        The placed mesh.
    """
    a2b = np.eye(4)
    a2b[:2, :2] = [[np.cos(yaw_rad), -np.sin(yaw_rad)], [np.sin(yaw_rad), np.cos(yaw_rad)]]
    a2b[:3, 3] = position_m
    return moved(mesh, a2b)


def quads(corners: np.ndarray, paint: Paint) -> Mesh:
    """Quadrilaterals.

    Args:
        corners: (Q, 4, 3), counter-clockwise seen from the side they face.
        paint: their paint.

    Returns:
        Two triangles for each.
    """
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4, 3)
    first = 4 * np.arange(len(corners))[:, None, None]  # (Q, 1, 1)
    return _mesh(corners, first + np.array([[0, 1, 2], [0, 2, 3]]), paint)  # (Q, 2, 3) triangles


def cuboid(size_m: Sequence[float], paint: Paint, center_m: Sequence[float] = (0.0, 0.0, 0.0)) -> Mesh:
    """A box along the axes.

    Args:
        size_m: its extents along x, y and z.
        paint: its paint.
        center_m: its centre.

    Returns:
        12 triangles.
    """
    x, y, z = np.asarray(size_m, dtype=np.float64) / 2
    ring = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
    sections = [np.column_stack([ring, np.full(4, height)]) for height in (-z, z)]
    return loft(np.stack(sections) + np.asarray(center_m, dtype=np.float64), paint)


def loft(sections: np.ndarray, paint: Paint, capped: bool = True) -> Mesh:
    """The surface through a sequence of rings.

    Args:
        sections: (S, N, 3) rings of N points, each running counter-clockwise seen from the last ring towards the first.
        paint: its paint.
        capped: whether the first and the last ring are closed by fans (they must then be convex).

    Returns:
        The side faces and the caps; a ring shrunk to a point makes a tip.
    """
    sections = np.asarray(sections, dtype=np.float64)
    num_rings, size = sections.shape[:2]
    index = np.arange(num_rings * size).reshape(num_rings, size)  # (S, N)
    following = np.roll(index, -1, axis=1)
    lower = np.stack([index[:-1], following[:-1], following[1:]], axis=-1)  # (S - 1, N, 3)
    upper = np.stack([index[:-1], following[1:], index[1:]], axis=-1)  # (S - 1, N, 3)
    triangles = [np.concatenate([lower, upper]).reshape(-1, 3)]
    if capped:
        fan = np.column_stack([np.zeros(size - 2, int), np.arange(1, size - 1), np.arange(2, size)])  # (N - 2, 3)
        triangles += [fan[:, ::-1], index[-1][fan]]
    return _mesh(sections.reshape(-1, 3), np.concatenate(triangles), paint)


def tube(
    start_m: Sequence[float], end_m: Sequence[float], radii_m: tuple[float, float], paint: Paint, segments: int = 8
) -> Mesh:
    """A round bar between two points.

    Args:
        start_m: x y z of one end.
        end_m: x y z of the other.
        radii_m: radius at the start and at the end; zero makes a tip.
        paint: its paint.
        segments: corners of the round.

    Returns:
        A capped mesh.
    """
    start, end = np.asarray(start_m, dtype=np.float64), np.asarray(end_m, dtype=np.float64)
    x, y, z = (end - start) / np.linalg.norm(end - start)
    side = np.array([-y, x, 0.0] if abs(z) < 0.9 else [0.0, -z, y])  # a level or upright axis crossed with the bar
    side /= np.linalg.norm(side)
    other = np.array([y * side[2] - z * side[1], z * side[0] - x * side[2], x * side[1] - y * side[0]])
    angles = 2 * np.pi * np.arange(segments) / segments
    circle = np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * other  # (N, 3)
    return loft(np.stack([start + radii_m[0] * circle, end + radii_m[1] * circle]), paint)


def cylinder(radius_m: float, z_range_m: tuple[float, float], paint: Paint, segments: int = 8) -> Mesh:
    """An upright cylinder around the z axis.

    Args:
        radius_m: its radius.
        z_range_m: its lower and upper end.
        paint: its paint.
        segments: corners of the round.

    Returns:
        A capped mesh.
    """
    return tube((0, 0, z_range_m[0]), (0, 0, z_range_m[1]), (radius_m, radius_m), paint, segments)


def cone(radius_m: float, z_range_m: tuple[float, float], paint: Paint, segments: int = 8) -> Mesh:
    """An upright cone around the z axis, tip at the upper end.

    Args:
        radius_m: radius of its base.
        z_range_m: the base and the tip.
        paint: its paint.
        segments: corners of the round.

    Returns:
        A capped mesh.
    """
    return tube((0, 0, z_range_m[0]), (0, 0, z_range_m[1]), (radius_m, 0.0), paint, segments)


def ellipsoid(
    radii_m: Sequence[float],
    paint: Paint,
    center_m: Sequence[float] = (0.0, 0.0, 0.0),
    rings: int = 4,
    segments: int = 6,
) -> Mesh:
    """A ball stretched along the axes.

    Args:
        radii_m: its half extents along x, y and z.
        paint: its paint.
        center_m: its centre.
        rings: bands from pole to pole.
        segments: corners of the round.

    Returns:
        2 * segments * (rings - 1) triangles.
    """
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)[:, None]  # (S, 1)
    longitude = 2 * np.pi * np.arange(segments) / segments  # (N,)
    height = np.broadcast_to(np.sin(latitude), (rings + 1, segments))
    radius = np.round(np.cos(latitude), 12)  # exactly zero at the poles
    unit = np.stack([radius * np.cos(longitude), radius * np.sin(longitude), height], axis=-1)  # (S, N, 3)
    return loft(unit * np.asarray(radii_m) + np.asarray(center_m), paint, capped=False)


def flat(outline: np.ndarray, z_m: float, paint: Paint, holes: Sequence[np.ndarray] = ()) -> Mesh:
    """A level polygon that faces up.

    Args:
        outline: (N, 2) simple polygon, either way round.
        z_m: its height.
        paint: its paint.
        holes: (H, 2) simple polygons inside it that do not touch.

    Returns:
        Its triangles.
    """
    points, triangles = triangulate(outline, holes)
    return _mesh(np.column_stack([points, np.full(len(points), z_m)]), triangles, paint)


def wall(outline: np.ndarray, z_range_m: tuple[float, float], paint: Paint, closed: bool = True) -> Mesh:
    """Upright faces along a line; they face its right side, outward for a counter-clockwise ring.

    Args:
        outline: (N, 2) polyline, or ring whose first point is not repeated.
        z_range_m: lower and upper edge.
        paint: its paint.
        closed: whether the last point is joined to the first.

    Returns:
        Two triangles per piece.
    """
    outline = np.asarray(outline, dtype=np.float64)
    here = outline if closed else outline[:-1]
    there = np.roll(outline, -1, axis=0)[: len(here)]
    low, high = (np.full((len(here), 1), z) for z in z_range_m)
    corners = [np.hstack([xy, z]) for xy, z in ((here, low), (there, low), (there, high), (here, high))]
    return quads(np.stack(corners, axis=1), paint)


def prism(
    outline: np.ndarray,
    z_range_m: tuple[float, float],
    side: Paint,
    top: Paint | None = None,
    holes: Sequence[np.ndarray] = (),
) -> Mesh:
    """An extruded polygon without its underside.

    Args:
        outline: (N, 2) simple polygon, either way round.
        z_range_m: lower and upper end.
        side: paint of the upright faces.
        top: paint of the upper face; that of the sides where None.
        holes: (H, 2) polygons inside it, open from top to bottom.

    Returns:
        Side faces and upper face.
    """
    rings = [_turned(outline, 1)] + [_turned(hole, -1) for hole in holes]
    sides = [wall(ring, z_range_m, side) for ring in rings]
    return merge([*sides, flat(outline, z_range_m[1], top or side, holes)])


def _turned(ring: np.ndarray, orientation: int) -> np.ndarray:
    """The ring counter-clockwise (1) or clockwise (-1)."""
    ring = np.asarray(ring, dtype=np.float64)
    x, y = (ring - ring[0]).T
    area = np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
    return ring if area * orientation > 0 else ring[::-1]


def ribbon(left: np.ndarray, right: np.ndarray, paint: Paint) -> Mesh:
    """A strip between two lines; it faces up where `left` lies left of `right` along their direction.

    Args:
        left: (N, 3) points.
        right: (N, 3) points opposite them.
        paint: its paint.

    Returns:
        Two triangles per piece.
    """
    corners = np.stack([left[:-1], right[:-1], right[1:], left[1:]], axis=1)  # (N - 1, 4, 3)
    return quads(corners, paint)
