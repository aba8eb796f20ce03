"""What makes a box a house: windows, doors, shop fronts, balconies and roofs, as panels a little before the wall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception.simulation.mesh import Mesh, Paint, cuboid, loft, merge, moved, paint, placed, quads

_FRAME_OUT_M = 0.03
_GLASS_OUT_M = 0.05
_FRAMED_M = 11.0


@dataclass(frozen=True, eq=False)
class Facade:
    """One upright side of a building: x runs along it to the right seen from outside, y up, z out of the wall.

    Attributes:
        facade2town: (4, 4) transform; the origin is its lower left corner.
        width_m: its length.
    """

    facade2town: np.ndarray
    width_m: float


def facades_of(width_m: float, depth_m: float) -> list[Facade]:
    """The four sides of a box around the origin: front (towards -y), right, back, left.

    Args:
        width_m: extent along x.
        depth_m: extent along y.

    Returns:
        Four facades whose lower edges lie at z = 0.
    """
    sides = []
    for turns, (length, distance) in enumerate([(width_m, depth_m), (depth_m, width_m)] * 2):
        c, s = round(np.cos(turns * np.pi / 2)), round(np.sin(turns * np.pi / 2))
        right, out = np.array([c, s, 0.0]), np.array([s, -c, 0.0])
        side2box = np.eye(4)
        side2box[:3, :3] = np.column_stack([right, [0, 0, 1], out])
        side2box[:3, 3] = out * distance / 2 - right * length / 2
        sides.append(Facade(side2box, length))
    return sides


def panels(facade: Facade, rectangles: np.ndarray, out_m: float, covering: Paint) -> Mesh:
    """Flat rectangles before a facade.

    Args:
        facade: the side that they hang on.
        rectangles: (R, 4) left, bottom, right, top in metres on the facade.
        out_m: their distance from the wall.
        covering: their paint.

    Returns:
        Two triangles for each.
    """
    left, bottom, right, top = np.asarray(rectangles, dtype=np.float64).reshape(-1, 4).T
    z = np.full_like(left, out_m)
    corners = [np.stack(xy, axis=-1) for xy in ((left, bottom, z), (right, bottom, z), (right, top, z), (left, top, z))]
    return moved(quads(np.stack(corners, axis=1), covering), facade.facade2town)  # (R, 4, 3) corners


def block(facade: Facade, rectangle: Sequence[float], depth_m: float, covering: Paint) -> Mesh:
    """A box on a facade.

    Args:
        facade: the side that it stands out from.
        rectangle: left, bottom, right, top in metres on the facade.
        depth_m: how far it stands out.
        covering: its paint.

    Returns:
        Its mesh.
    """
    left, bottom, right, top = rectangle
    center = ((left + right) / 2, (bottom + top) / 2, depth_m / 2)
    return moved(cuboid((right - left, top - bottom, depth_m), covering, center), facade.facade2town)


def window_grid(
    facade: Facade, floors: Sequence[float] | np.ndarray, size_m: tuple[float, float], spacing_m: float
) -> np.ndarray:
    """The places of windows on a facade.

    Args:
        facade: the side.
        floors: heights of the window sills.
        size_m: width and height of a window.
        spacing_m: wanted distance between the middles of windows.

    Returns:
        (R, 4) rectangles, evenly spread over the side.
    """
    count = int((facade.width_m - 0.8) // spacing_m)
    if count < 1 or not len(floors):
        return np.zeros((0, 4))
    pitch = facade.width_m / count
    middle = (np.arange(count) + 0.5) * pitch
    x, y = (axis.ravel() for axis in np.meshgrid(middle, np.asarray(floors, dtype=np.float64)))
    return np.column_stack([x - size_m[0] / 2, y, x + size_m[0] / 2, y + size_m[1]])


def windows(rng: np.random.Generator, facade: Facade, rectangles: np.ndarray, frame: Paint) -> Mesh:
    """Windows, framed up to `_FRAMED_M`; some have blinds, a few are lit.

    Args:
        rng: where the randomness comes from.
        facade: the side.
        rectangles: (R, 4) their places.
        frame: paint of the frames.

    Returns:
        Panels.
    """
    low = rectangles[rectangles[:, 1] < _FRAMED_M]
    meshes = [panels(facade, low + np.array([-0.1, -0.16, 0.1, 0.1]), _FRAME_OUT_M, frame)]
    kind = rng.choice(3, len(rectangles), p=[0.74, 0.2, 0.06])
    for k, name in enumerate(("window", "window_blind", "window_lit")):
        meshes.append(panels(facade, rectangles[kind == k], _GLASS_OUT_M, paint(name)))
    return merge(meshes)


def bands(facade: Facade, floors: Sequence[float] | np.ndarray, height_m: float) -> Mesh:
    """Ribbon windows: one strip of glass per floor.

    Args:
        facade: the side.
        floors: heights of the sills.
        height_m: height of the glass.

    Returns:
        Panels.
    """
    rectangles = [[0.35, sill, facade.width_m - 0.35, sill + height_m] for sill in floors]
    return panels(facade, np.array(rectangles).reshape(-1, 4), _GLASS_OUT_M, paint("window"))


def shop_front(rng: np.random.Generator, facade: Facade) -> Mesh:
    """A row of shops on the ground floor: glass, doors, sign boards and some awnings.

    Args:
        rng: where the randomness comes from.
        facade: the side.

    Returns:
        Panels and boxes up to 3.8 m.
    """
    count = max(int(facade.width_m // rng.uniform(5.0, 8.0)), 1)
    pitch = facade.width_m / count
    meshes = [panels(facade, np.array([[0.05, 0.0, facade.width_m - 0.05, 3.75]]), 0.02, paint("trim_dark"))]
    for k in range(count):
        left, right = k * pitch + 0.25, (k + 1) * pitch - 0.25
        door = left + rng.uniform(0.15, 0.75) * (right - left - 1.2)
        glass = [[left, 0.45, door - 0.1, 2.75], [door + 1.1, 0.45, right, 2.75]]
        wide = [pane for pane in glass if pane[2] - pane[0] > 0.3]
        meshes.append(panels(facade, np.array(wide).reshape(-1, 4), _GLASS_OUT_M, paint("glass_front")))
        door_paint = paint("glass_front") if rng.random() < 0.6 else paint(f"door_{rng.integers(2)}")
        meshes.append(panels(facade, np.array([[door, 0.05, door + 1.0, 2.45]]), _GLASS_OUT_M, door_paint))
        sign = rng.integers(7)
        meshes.append(block(facade, (left, 2.95, right, 3.65), 0.16, paint(f"shop_sign_{sign}")))
        letters = rng.integers(4, 9)
        x = left + 0.3 + np.arange(letters) * 0.42
        x = x[x + 0.28 < right - 0.2]
        heights = rng.uniform(0.22, 0.38, len(x))
        text = np.column_stack([x, np.full(len(x), 3.12), x + 0.28, 3.12 + heights])
        meshes.append(panels(facade, text, 0.17, paint("trim_dark" if sign in (3, 6) else "trim_light")))
        if rng.random() < 0.45:
            meshes.append(_awning(facade, left, right, paint(f"awning_{sign}")))
    return merge(meshes)


def _awning(facade: Facade, left: float, right: float, covering: Paint) -> Mesh:
    """A slanting roof of cloth over a shop window."""
    profile = [[2.92, 0.05], [2.4, 0.05], [2.2, 1.25], [2.42, 1.25]]
    ends = [[[x, y, z] for y, z in profile] for x in (right, left)]
    return moved(loft(np.array(ends), covering), facade.facade2town)


def balconies(facade: Facade, rectangles: np.ndarray, covering: Paint) -> Mesh:
    """Balconies below windows.

    Args:
        facade: the side.
        rectangles: (R, 4) the windows that get one.
        covering: paint of the parapet.

    Returns:
        Boxes that stand out 1.1 m.
    """
    return merge(
        [block(facade, (left - 0.6, bottom - 0.55, right + 0.6, bottom + 0.45), 1.1, covering)
         for left, bottom, right, _ in rectangles]
    )  # fmt: skip


def gable_roof(size_m: tuple[float, float], base_m: float, rise_m: float, tiles: Paint, gable: Paint) -> Mesh:
    """A pitched roof with its ridge along x, eaves 0.4 m out.

    Args:
        size_m: extent of the walls along x and y.
        base_m: height of the walls.
        rise_m: height of the ridge above them.
        tiles: paint of the slopes.
        gable: paint of the triangles below them.

    Returns:
        Slopes, undersides and gables.
    """
    width, depth = size_m[0] / 2, size_m[1] / 2
    x, y, drop = width + 0.35, depth + 0.45, 0.45 * rise_m / depth
    ridge, eave = base_m + rise_m + 0.12, base_m - drop + 0.12
    front = [[-x, -y, eave], [x, -y, eave], [x, 0, ridge], [-x, 0, ridge]]
    back = [[x, y, eave], [-x, y, eave], [-x, 0, ridge], [x, 0, ridge]]
    under = [[[px, py, pz - 0.12] for px, py, pz in reversed(side)] for side in (front, back)]
    slopes = quads(np.array([front, back]), tiles)
    soffits = quads(np.array(under), paint("trim_light"))
    thin = []
    for sign in (1, -1):
        ends = np.array(
            [[sign * x, -y, eave - 0.12], [sign * x, -y, eave], [sign * x, 0, ridge], [sign * x, 0, ridge - 0.12]]
        )
        other = ends * [1, -1, 1]
        thin += [ends[::-1], other] if sign > 0 else [ends, other[::-1]]
    fronts = [[[-x, -y, eave - 0.12], [x, -y, eave - 0.12], [x, -y, eave], [-x, -y, eave]]]
    fronts += [[[x, y, eave - 0.12], [-x, y, eave - 0.12], [-x, y, eave], [x, y, eave]]]
    edges = quads(np.concatenate([np.array(thin), np.array(fronts)]), paint("trim_light"))
    top = base_m + rise_m
    triangles = [
        [[width, -depth, base_m], [width, depth, base_m], [width, 0, top], [width, 0, top]],
        [[-width, depth, base_m], [-width, -depth, base_m], [-width, 0, top], [-width, 0, top]],
    ]
    return merge([slopes, soffits, edges, quads(np.array(triangles), gable)])


def hip_roof(size_m: tuple[float, float], base_m: float, rise_m: float, tiles: Paint) -> Mesh:
    """A roof that slopes on four sides, eaves 0.4 m out.

    Args:
        size_m: extent of the walls along x and y.
        base_m: height of the walls.
        rise_m: height of the ridge above them.
        tiles: paint of the slopes.

    Returns:
        Slopes and their underside.
    """
    x, y = size_m[0] / 2 + 0.4, size_m[1] / 2 + 0.4
    half = max(x - y, 0.0)
    e, r = base_m + 0.13, base_m + rise_m
    a, b, c, d = [-x, -y, e], [x, -y, e], [x, y, e], [-x, y, e]
    p, q = [-half, 0, r], [half, 0, r]
    under = [[px, py, pz - 0.14] for px, py, pz in (d, c, b, a)]
    ring = [a, b, c, d]
    edges = [[[*p[:2], e - 0.14], [*q[:2], e - 0.14], q, p] for p, q in zip(ring, [*ring[1:], a], strict=True)]
    return merge([quads(np.array([[a, b, q, p], [c, d, p, q], [b, c, q, q], [d, a, p, p]]), tiles),
                  quads(np.array([under, *edges]), paint("trim_light"))])  # fmt: skip


def flat_roof(rng: np.random.Generator, size_m: tuple[float, float], base_m: float, wall: Paint) -> Mesh:
    """A flat roof with a parapet and some plant on it.

    Args:
        rng: where the randomness comes from.
        size_m: extent of the walls along x and y.
        base_m: height of the walls.
        wall: paint of the parapet.

    Returns:
        Boxes on top of the walls.
    """
    width, depth = size_m
    high = float(rng.uniform(0.5, 1.1))
    meshes = [
        quads(
            np.array([[[sx * width / 2, sy * depth / 2, base_m] for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]]),
            paint("flat_roof"),
        )
    ]
    for side, length in ((1, width), (-1, width)):
        meshes.append(cuboid((length, 0.3, high), wall, (0, side * (depth / 2 - 0.15), base_m + high / 2)))
    for side in (1, -1):
        meshes.append(cuboid((0.3, depth - 0.6, high), wall, (side * (width / 2 - 0.15), 0, base_m + high / 2)))
    for _ in range(rng.integers(1, 4)):
        length_m, width_m, height_m = rng.uniform(1.2, 3.5), rng.uniform(1.2, 3.0), rng.uniform(0.8, 2.6)
        if width > length_m + 2 and depth > width_m + 2:
            x = rng.uniform(-0.5, 0.5) * (width - length_m - 1.5)
            y = rng.uniform(-0.5, 0.5) * (depth - width_m - 1.5)
            box = cuboid((length_m, width_m, height_m), paint("steel" if rng.random() < 0.5 else "trim_light"))
            meshes.append(placed(box, (x, y, base_m + height_m / 2)))
    return merge(meshes)
