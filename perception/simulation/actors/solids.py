"""Faces gathered piece by piece into one actor: skins over rings, boxes, tubes, balls, wheels and flush panels.

Everything here is in metres, x forward, y left, z up; triangles wind counter-clockwise seen from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PANEL_OFFSET_M = 0.006
"""How far a panel (window, lamp, plate) stands off the face it lies on, so that no two faces coincide."""

Point = Sequence[float] | np.ndarray


class Assembly:
    """Vertices, triangles and material names of one actor under construction."""

    def __init__(self) -> None:
        self._vertices: list[np.ndarray] = []
        self._triangles: list[np.ndarray] = []
        self._materials: list[str] = []
        self._num_vertices = 0

    def add(self, vertices: np.ndarray, triangles: np.ndarray, materials: str | Sequence[str]) -> None:
        """Adds triangles over their own vertices.

        Args:
            vertices: (V, 3), metres.
            triangles: (T, 3) indices into `vertices`.
            materials: one name for all triangles, or T names.
        """
        triangles = np.asarray(triangles, dtype=np.int64).reshape(-1, 3)
        self._vertices.append(np.asarray(vertices, dtype=np.float64))
        self._triangles.append(triangles + self._num_vertices)
        self._materials.extend([materials] * len(triangles) if isinstance(materials, str) else materials)
        self._num_vertices += len(vertices)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """What has been gathered: vertices (V, 3) float64, triangles (T, 3) int64 and T material names."""
        return np.concatenate(self._vertices), np.concatenate(self._triangles), list(self._materials)

    def quad(self, corners: Sequence[Point] | np.ndarray, material: str) -> None:
        """Adds a quadrilateral from four corners, counter-clockwise seen from outside."""
        self.add(np.asarray(corners, dtype=np.float64), np.array([(0, 1, 2), (0, 2, 3)]), material)

    def panel(
        self, corners: np.ndarray, across: tuple[float, float], along: tuple[float, float], material: str
    ) -> None:
        """Adds a part of a quadrilateral, standing a few millimetres off it: a window, a lamp, a plate.

        Args:
            corners: (4, 3) of the carrying face, counter-clockwise seen from outside.
            across: share of the way from corner 0 to corner 1 where the panel begins and ends.
            along: the same from corner 0 to corner 3.
            material: the panel's.
        """
        corners = np.asarray(corners, dtype=np.float64)
        normal = _cross(corners[2] - corners[0], corners[3] - corners[1])
        normal /= np.linalg.norm(normal)
        uv = np.array([(across[0], along[0]), (across[1], along[0]), (across[1], along[1]), (across[0], along[1])])
        u, v = uv[:, :1], uv[:, 1:]
        lower = (1 - u) * corners[0] + u * corners[1]  # (4, 3)
        upper = (1 - u) * corners[3] + u * corners[2]
        self.quad((1 - v) * lower + v * upper + PANEL_OFFSET_M * normal, material)

    def skin(
        self, rings: np.ndarray, materials: str | Sequence[str | None], caps: tuple[str | None, str | None]
    ) -> None:
        """Adds a closed skin over rings of equally many points.

        Args:
            rings: (N, K, 3); every ring runs counter-clockwise seen from the last ring's side.
            materials: one name, or K names for the strip from point k to k + 1 (None leaves the strip open).
            caps: materials of the faces that close the first and the last ring, None leaves them open.
        """
        num_rings, num_points = rings.shape[:2]
        names = [materials] * num_points if isinstance(materials, str) else list(materials)
        triangles, faces = [], []
        for ring in range(num_rings - 1):
            for point, name in enumerate(names):
                if name is None:
                    continue
                a, d = ring * num_points + point, ring * num_points + (point + 1) % num_points
                b, c = a + num_points, d + num_points
                triangles += [(a, d, c), (a, c, b)]
                faces += [name, name]
        first, last = 0, (num_rings - 1) * num_points
        for point in range(1, num_points - 1):
            if caps[0] is not None:
                triangles.append((first, first + point + 1, first + point))
                faces.append(caps[0])
            if caps[1] is not None:
                triangles.append((last, last + point, last + point + 1))
                faces.append(caps[1])
        self.add(rings.reshape(-1, 3), np.array(triangles), faces)  # (N, K, 3) -> (N K, 3)

    def block(self, lower: Point, upper: Point, material: str, top: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
        """Adds an upright box whose top may be smaller than its foot.

        Args:
            lower: (3,) smallest corner.
            upper: (3,) largest corner.
            material: the box's.
            top: size of the top face in x and y relative to the foot's.

        Returns:
            (5, 4, 3) corners of the faces front, back, left, right, top, for panels; corner 0 to 1 runs
            horizontally, 0 to 3 upwards (top: 0 to 1 to the left, 0 to 3 backwards).
        """
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        middle, half = (low + high) / 2, (high - low) / 2
        signs = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)], dtype=np.float64)
        foot, lid = (np.empty((4, 3)) for _ in range(2))
        foot[:, :2], foot[:, 2] = middle[:2] + signs * half[:2], low[2]
        lid[:, :2], lid[:, 2] = middle[:2] + signs * half[:2] * top, high[2]
        return self.frustum(foot, lid, material)

    def frustum(self, foot: np.ndarray, lid: np.ndarray, material: str) -> np.ndarray:
        """Adds the solid between two quadrilaterals, one above the other.

        Args:
            foot: (4, 3) lower corners: front right, front left, back left, back right.
            lid: (4, 3) upper corners in the same order.
            material: the solid's.

        Returns:
            (5, 4, 3) corners of the faces front, back, left, right, top, as `block` gives them.
        """
        self.skin(np.stack((foot, lid)), material, (material, material))
        sides = [(0, 1), (2, 3), (1, 2), (3, 0)]
        faces = [(foot[a], foot[b], lid[b], lid[a]) for a, b in sides] + [tuple(lid)]
        return np.array(faces)

    def tube(
        self, start: Point, end: Point, radii: tuple[float, float], material: str, sides: int = 5, capped: bool = True
    ) -> None:
        """Adds a round bar between two points: a limb, a pole, a tank.

        Args:
            start: (3,) centre of the first end.
            end: (3,) centre of the last end.
            radii: at the two ends, metres.
            material: the bar's.
            sides: corners of its cross-section.
            capped: whether the ends are closed.
        """
        first, last = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        ring = ring_around(last - first, sides)  # (K, 3)
        cap = material if capped else None
        self.skin(np.stack((first + radii[0] * ring, last + radii[1] * ring)), material, (cap, cap))

    def limb(self, joints: Sequence[Point], radii: Sequence[float], material: str, sides: int = 4) -> None:
        """Adds a bent bar through joints without gaps between its pieces: an arm, a leg.

        Args:
            joints: J points from the trunk outwards; consecutive pieces bend by less than a right angle and a half.
            radii: J radii, metres.
            material: the bar's.
            sides: corners of its cross-section.
        """
        points = np.asarray(joints, dtype=np.float64)  # (J, 3)
        ring = ring_around(points[-1] - points[0], sides)
        rings = points[:, None] + np.asarray(radii)[:, None, None] * ring  # (J, K, 3)
        self.skin(rings, material, (material, material))

    def ball(
        self,
        center: Point,
        radii: Point,
        material: str,
        sides: int = 6,
        belts: Sequence[float] = (-0.94, -0.45, 0.45, 0.94),
    ) -> None:
        """Adds an ellipsoid, or a slice of one.

        Args:
            center: (3,) its centre.
            radii: (3,) half extents along x, y and z.
            material: the ellipsoid's.
            sides: corners of its outline.
            belts: heights of its rings from -1 (lower pole) to 1; the first and the last are closed.
        """
        heights = np.asarray(belts)
        turn = 2 * np.pi * (np.arange(sides) + 0.5) / sides
        circle = np.stack((np.cos(turn), np.sin(turn)), axis=-1)  # (K, 2)
        rings = np.empty((len(heights), sides, 3))
        rings[..., :2] = np.sqrt(1 - heights[:, None, None] ** 2) * circle / np.cos(np.pi / sides)
        rings[..., 2] = heights[:, None]
        self.skin(np.asarray(center) + rings * np.asarray(radii), material, (material, material))

    def wheel(
        self, hub: Point, radius_m: float, width_m: float, rim: str, sides: int = 10, open_behind: bool = False
    ) -> None:
        """Adds a wheel that turns about y, its rim on the side away from y = 0.

        Args:
            hub: (3,) centre of the wheel.
            radius_m: to the tread.
            width_m: of the tyre.
            rim: material of the rim.
            sides: corners of its outline.
            open_behind: whether its inner side can be seen and is closed.
        """
        center = np.asarray(hub, dtype=np.float64)
        out = np.array([0.0, 1.0 if center[1] >= 0 else -1.0, 0.0])
        ring = ring_around(out, sides) / np.cos(np.pi / sides) ** 0.5
        outer = center + out * width_m / 2 + radius_m * ring
        self.skin(np.stack((outer - out * width_m, outer)), "tyre", ("tyre" if open_behind else None, "tyre"))
        disc = center + out * (width_m / 2 + PANEL_OFFSET_M) + 0.62 * radius_m * ring_around(out, sides - 2)
        self.add(disc, _fan(sides - 2), rim)

    def hoop(self, hub: Point, radius_m: float, width_m: float, material: str, sides: int = 12) -> None:
        """Adds an open wheel of spokes too thin to see: a tyre of three-sided section that turns about y."""
        turn = 2 * np.pi * np.arange(sides) / sides
        circle = np.stack((np.cos(turn), np.zeros(sides), np.sin(turn)), axis=-1)  # (N, 3)
        section = np.array([(radius_m, 0.0), (radius_m - width_m, width_m / 2), (radius_m - width_m, -width_m / 2)])
        rings = circle[:, None] * section[None, :, :1] + np.array([0, 1, 0]) * section[None, :, 1:]  # (N, 3, 3)
        closed = np.concatenate((rings, rings[:1])) + np.asarray(hub)
        self.skin(closed, material, (None, None))


def shifted(point: Point, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """A point (3,) moved by x, y and z."""
    return np.asarray(point, dtype=np.float64) + np.array([x, y, z])


def ring_around(axis: np.ndarray, sides: int) -> np.ndarray:
    """A regular polygon of unit radius about an axis, counter-clockwise seen against it.

    Args:
        axis: (3,) direction, any length above zero.
        sides: corners of the polygon.

    Returns:
        (sides, 3) offsets from the axis.
    """
    along = axis / np.linalg.norm(axis)
    helper = np.array([0.0, 0.0, 1.0]) if abs(along[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    first = _cross(helper, along)
    first /= np.linalg.norm(first)
    second = _cross(along, first)
    turn = 2 * np.pi * (np.arange(sides) + 0.5)[:, None] / sides
    return np.cos(turn) * first + np.sin(turn) * second


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross product of two single vectors, without the general function's overhead."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def _fan(sides: int) -> np.ndarray:
    """(sides - 2, 3) triangles of a convex polygon."""
    return np.array([(0, point, point + 1) for point in range(1, sides - 1)])
