"""Buildings drawn from a seed: where they stand on the blocks, and their shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.prepared import prep

from perception.simulation.mesh import Mesh, Paint, cuboid, merge, paint, placed, wall
from perception.simulation.town import curves, facades
from perception.simulation.town.blocks import Block, polygons
from perception.simulation.town.plan import Plan
from perception.simulation.town.surfaces import PLOT_Z_M


@dataclass(frozen=True)
class Style:
    """What the buildings of a town are like.

    Attributes:
        walls: materials of the walls.
        roofs: materials of the tiles.
        floors: least and greatest number of floors downtown.
        pitched: share of pitched roofs outside downtown.
        window_m: width and height of ordinary windows.
        band_share: share of tall buildings with ribbon windows.
    """

    walls: tuple[str, ...]
    roofs: tuple[str, ...]
    floors: tuple[int, int]
    pitched: float
    window_m: tuple[float, float]
    band_share: float


@dataclass(frozen=True)
class Site:
    """A building's place: middle of its footprint, heading of its x axis (street towards -y), size, setback."""

    x: float
    y: float
    yaw_rad: float
    width_m: float
    depth_m: float
    setback_m: float = 0.0

    def footprint(self, margin_m: float = 0.0) -> Polygon:
        """Its ground area, widened by a margin."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        x, y = self.width_m / 2 + margin_m, self.depth_m / 2 + margin_m
        corners = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
        return Polygon(corners @ np.array([[c, s], [-s, c]]) + [self.x, self.y])


def draw_style(rng: np.random.Generator, split: str) -> Style:
    """Draws the building style of a town; training towns have other walls, roofs and windows than the rest.

    Args:
        rng: where the randomness comes from.
        split: "train", "val" or "test".

    Returns:
        The style.
    """
    train = split == "train"
    first = ["brick_0", "brick_1", "render_0", "render_1", "slab_0", "boards_0", "boards_2", "brick_2", "render_2"]
    second = ["brick_3", "brick_2", "render_3", "render_4", "slab_1", "slab_2", "boards_1", "boards_3", "render_1"]
    walls = first if train else second
    chosen = [walls[i] for i in sorted(rng.permutation(len(walls))[:7])]
    roofs = ("tiles_0", "tiles_1") if train else ("tiles_2", "tiles_3")
    size = (
        (rng.uniform(1.0, 1.35), rng.uniform(1.45, 1.7)) if train else (rng.uniform(1.3, 1.7), rng.uniform(1.3, 1.55))
    )
    low = int(rng.integers(3, 5))
    return Style(
        walls=tuple(chosen),
        roofs=roofs,
        floors=(low, low + int(rng.integers(3, 7))),
        pitched=float(rng.uniform(0.65, 0.95) if train else rng.uniform(0.4, 0.75)),
        window_m=(float(size[0]), float(size[1])),
        band_share=float(rng.uniform(0.2, 0.5)),
    )


_WIDTHS_M = {"downtown": (10, 24), "mixed": (9, 20), "residential": (8.5, 13), "outskirts": (9, 24)}
_DEPTHS_M = {"downtown": (11, 16), "mixed": (10, 15), "residential": (8, 10.5), "outskirts": (9, 15)}
_SETBACKS_M = {"downtown": (0.25, 0.6), "mixed": (0.4, 2.5), "residential": (4, 7), "outskirts": (4, 12)}
_GAPS_M = {"downtown": (0.0, 0.2), "mixed": (0.2, 6.0), "residential": (2.5, 6.0), "outskirts": (2, 13)}


def _frontages(block: Block) -> list[tuple[np.ndarray, int]]:
    """The lines along which buildings stand, closed, and 1 where the plots lie to their left, -1 to their right."""
    found = []
    for part in polygons(block.plots, 400.0):
        rings = part.interiors if block.kind == "outskirts" else [part.exterior]
        for ring in rings:
            inside_is_left = ring.is_ccw == (block.kind != "outskirts")
            found.append((curves.resampled(np.array(ring.simplify(0.3).coords), 2.0), 1 if inside_is_left else -1))
    return found


def _site(frontage: np.ndarray, inward: int, station: float, size_m: tuple[float, float], setback_m: float) -> Site:
    """The site whose front lies `setback_m` behind a piece of a frontage."""
    left, right = (curves.at(frontage, station + side * size_m[0] / 2) for side in (-1, 1))
    into = curves.left_of(curves.unit(right - left)) * inward
    x, y = (left + right) / 2 + into * (setback_m + size_m[1] / 2)
    along = -curves.left_of(into)
    yaw = float(np.arctan2(along[1], along[0]))
    return Site(float(x), float(y), yaw, float(np.linalg.norm(right - left)), size_m[1], setback_m)


def _overlaps(area: Polygon, others: list[Polygon]) -> bool:
    return bool(others) and bool(shapely.intersects(area, np.array(others, dtype=object)).any())


def draw_sites(rng: np.random.Generator, block: Block, taken: list[Polygon]) -> list[Site]:
    """Draws the places of buildings along the walkways around a block.

    Args:
        rng: where the randomness comes from.
        block: the block; a park gets none.
        taken: areas that buildings must leave free; the new footprints are appended.

    Returns:
        Sites that do not overlap.
    """
    sites: list[Site] = []
    if block.kind == "park":
        return sites
    plots = prep(block.plots.buffer(0.01))
    for frontage, inward in _frontages(block):
        position, total = rng.uniform(0, 6), curves.length(frontage)
        while position < total:
            width, depth = rng.uniform(*_WIDTHS_M[block.kind]), rng.uniform(*_DEPTHS_M[block.kind])
            setback = rng.uniform(*_SETBACKS_M[block.kind])
            tries = [
                (width, depth, setback),
                (0.8 * width, 0.9 * depth, setback + 0.7),
                (0.6 * width, 0.7 * depth, setback + 1.5),
            ]
            for w, d, back in tries:
                site = _site(frontage, inward, position + w / 2, (w, d), back)
                area = site.footprint()
                if plots.contains(area) and not _overlaps(area, taken):
                    taken.append(site.footprint(-0.03))
                    sites.append(site)
                    position += w
                    break
            else:
                position += 2.0
            position += rng.uniform(*_GAPS_M[block.kind]) + 4.0 * (rng.random() < 0.08)
    return sites


def _chimney(rng: np.random.Generator, size_m: tuple[float, float], eave_m: float, rise_m: float) -> Mesh:
    """A chimney that comes out of a roof near its ridge."""
    height = rise_m + 0.9
    x = rng.uniform(-0.25, 0.25) * size_m[0]
    return placed(cuboid((0.7, 0.6, height), paint("brick_2")), (x, 0.12 * size_m[1], eave_m + height / 2))


def _front_door(facade: facades.Facade, x: float, kind: int) -> Mesh:
    """A door with its frame and a step."""
    return merge(
        [
            facades.panels(facade, np.array([[x - 0.12, 0.0, x + 1.12, 2.25]]), 0.03, paint("trim_light")),
            facades.panels(facade, np.array([[x, 0.05, x + 1.0, 2.12]]), 0.05, paint(f"door_{kind}")),
            facades.block(facade, (x - 0.3, 0.0, x + 1.3, 0.16), 0.5, paint("kerb")),
            facades.block(facade, (x - 0.4, 2.4, x + 1.4, 2.5), 1.1, paint("trim_dark")),
        ]
    )


def house(rng: np.random.Generator, style: Style, size_m: tuple[float, float]) -> Mesh:
    """A family house with a pitched roof, its front towards -y.

    Args:
        rng: where the randomness comes from.
        style: the town's style.
        size_m: extent of the footprint along x and y.

    Returns:
        Its mesh, standing on z = 0.
    """
    width, depth = size_m
    storeys = int(rng.integers(1, 3))
    eave = 0.4 + 2.75 * storeys
    walls, tiles = paint(str(rng.choice(style.walls))), paint(str(rng.choice(style.roofs)))
    rise = float(rng.uniform(0.28, 0.46) * depth)
    if rng.random() < 0.7:
        roof = facades.gable_roof(size_m, eave, rise, tiles, walls)
    else:
        roof = facades.hip_roof(size_m, eave, rise, tiles)
    meshes = [_walls(size_m, eave, walls), roof, _chimney(rng, size_m, eave, rise)]
    frame = paint("trim_light" if rng.random() < 0.7 else "trim_dark")
    sills = 0.95 + 2.75 * np.arange(storeys)
    door = rng.uniform(0.3, 0.45) * width
    garage = width > 9.5 and rng.random() < 0.6
    for k, side in enumerate(facades.facades_of(width, depth)):
        places = facades.window_grid(side, sills, (style.window_m[0], 1.35), 2.9 if k % 2 == 0 else 3.8)
        if k == 0:
            low = places[:, 1] < 2
            blocked = (places[:, 0] < door + 1.4) & (places[:, 2] > door - 0.4)
            blocked |= garage & (places[:, 2] > width - 3.5)
            places = places[~(low & blocked)]
            meshes.append(_front_door(side, door, int(rng.integers(2))))
            if garage:
                meshes.append(
                    facades.panels(side, np.array([[width - 3.2, 0, width - 0.6, 2.2]]), 0.04, paint("garage_door"))
                )
        meshes.append(facades.windows(rng, side, places, frame))
    return merge(meshes)


def _walls(size_m: tuple[float, float], height_m: float, covering: Paint) -> Mesh:
    x, y = size_m[0] / 2, size_m[1] / 2
    return wall(np.array([[-x, -y], [x, -y], [x, y], [-x, y]]), (0.0, height_m), covering)


def town_house(rng: np.random.Generator, style: Style, size_m: tuple[float, float], storeys: int, shops: bool) -> Mesh:
    """A building of several floors, its front towards -y.

    Args:
        rng: where the randomness comes from.
        style: the town's style.
        size_m: extent of the footprint along x and y.
        storeys: its floors.
        shops: whether shops take the ground floor.

    Returns:
        Its mesh, standing on z = 0.
    """
    ground_m = 4.0 if shops else 3.2
    floor_m = float(rng.uniform(2.95, 3.5))
    height = ground_m + floor_m * (storeys - 1) + 0.5
    walls = paint(str(rng.choice(style.walls)))
    pitched = storeys <= 4 and rng.random() < style.pitched
    ribbon = storeys >= 5 and rng.random() < style.band_share
    meshes = [_walls(size_m, height, walls)]
    if pitched:
        rise = float(rng.uniform(0.25, 0.4) * size_m[1])
        meshes.append(facades.gable_roof(size_m, height, rise, paint(str(rng.choice(style.roofs))), walls))
        meshes.append(_chimney(rng, size_m, height, rise))
    else:
        meshes.append(facades.flat_roof(rng, size_m, height, walls))
    frame = paint("trim_light" if rng.random() < 0.6 else "trim_dark")
    sills = ground_m + 0.9 + floor_m * np.arange(storeys - 1)
    spacing = float(rng.uniform(2.5, 3.4))
    trim = paint("trim_light") if rng.random() < 0.6 else walls
    balcony = storeys > 2 and rng.random() < 0.3
    for k, side in enumerate(facades.facades_of(*size_m)):
        if ribbon:
            meshes.append(facades.bands(side, sills, 1.6))
        else:
            low = [] if shops or k == 0 else [1.0]
            places = facades.window_grid(side, [*low, *sills], style.window_m, (1.0, 1.7, 2.6, 1.7)[k] * spacing)
            meshes.append(_upper_windows(rng, side, places, frame, framed=k == 0))
            if balcony and k == 0:
                meshes.append(facades.balconies(side, places[rng.random(len(places)) < 0.4], trim))
        if not pitched:
            meshes.append(facades.block(side, (-0.12, height - 0.5, side.width_m + 0.12, height - 0.1), 0.28, trim))
    front = facades.facades_of(*size_m)[0]
    meshes.append(_ground_floor(rng, front, style, frame, shops))
    return merge(meshes)


def _upper_windows(
    rng: np.random.Generator, side: facades.Facade, places: np.ndarray, frame: Paint, framed: bool
) -> Mesh:
    """Windows with frames on the street side, bare ones elsewhere."""
    if framed:
        return facades.windows(rng, side, places, frame)
    return facades.panels(side, places, 0.04, paint("window"))


def _ground_floor(rng: np.random.Generator, front: facades.Facade, style: Style, frame: Paint, shops: bool) -> Mesh:
    """The street side of the ground floor: shops, or a door between windows."""
    if shops:
        belt = facades.block(front, (-0.05, 3.75, front.width_m + 0.05, 4.0), 0.2, paint("trim_light"))
        return merge([facades.shop_front(rng, front), belt])
    places = facades.window_grid(front, [1.0], style.window_m, 3.0)
    door = rng.uniform(0.35, 0.6) * front.width_m
    clear = (places[:, 0] > door + 1.3) | (places[:, 2] < door - 0.3)
    return merge([facades.windows(rng, front, places[clear], frame), _front_door(front, door, int(rng.integers(2)))])


def hall(rng: np.random.Generator, style: Style, size_m: tuple[float, float]) -> Mesh:
    """A store or workshop: low, wide, with gates and a sign, its front towards -y.

    Args:
        rng: where the randomness comes from.
        style: the town's style.
        size_m: extent of the footprint along x and y.

    Returns:
        Its mesh, standing on z = 0.
    """
    height = float(rng.uniform(5.0, 8.0))
    walls = paint(str(rng.choice(style.walls)))
    front = facades.facades_of(*size_m)[0]
    gates = np.arange(1.2, size_m[0] - 4.5, 5.5)
    rectangles = np.column_stack([gates, 0 * gates, gates + 3.4, 0 * gates + 3.4])
    width = front.width_m
    sign = (0.25 * width, height - 1.6, 0.7 * width, height - 0.5)
    return merge(
        [
            _walls(size_m, height, walls),
            facades.flat_roof(rng, size_m, height, walls),
            facades.panels(front, rectangles, 0.05, paint("garage_door")),
            facades.block(front, sign, 0.2, paint(f"shop_sign_{rng.integers(7)}")),
            *(facades.bands(side, [height - 1.9], 0.9) for side in facades.facades_of(*size_m)[1:]),
        ]
    )


def draw_building(rng: np.random.Generator, style: Style, kind: str, site: Site) -> Mesh:
    """Draws the building of a site.

    Args:
        rng: where the randomness comes from.
        style: the town's style.
        kind: the kind of its block.
        site: its place.

    Returns:
        Its mesh in the town.
    """
    size = (site.width_m, site.depth_m)
    draw = rng.random()
    if kind == "downtown":
        tall = rng.random() < 0.15
        mesh = town_house(rng, style, size, int(rng.integers(*style.floors)) + 5 * tall, draw < 0.75)
    elif kind == "residential" or (kind == "outskirts" and draw < 0.45):
        mesh = house(rng, style, size)
    elif kind == "mixed" and draw > 0.12:
        mesh = town_house(rng, style, size, int(rng.integers(2, 5)), rng.random() < 0.5)
    elif draw < 0.75:
        mesh = hall(rng, style, size)
    else:
        mesh = town_house(rng, style, size, int(rng.integers(3, 8)), False)
    return placed(mesh, (site.x, site.y, PLOT_Z_M), site.yaw_rad)


def _tower(rng: np.random.Generator, style: Style, size_m: tuple[float, float]) -> Mesh:
    """A tall building for the distance: ribbon windows and a flat roof."""
    storeys = int(rng.integers(4, 13))
    height = 3.2 * storeys + 1.5
    walls = paint(str(rng.choice(style.walls)))
    sills = 1.4 + 3.2 * np.arange(storeys)
    meshes = [_walls(size_m, height, walls), facades.flat_roof(rng, size_m, height, walls)]
    return merge(meshes + [facades.bands(side, sills, 1.5) for side in facades.facades_of(*size_m)])


def _backdrop(rng: np.random.Generator, style: Style, plan: Plan, taken: list[Polygon]) -> list[Mesh]:
    """Tall buildings some way outside the town, that close the view along its roads."""
    land = polygons(plan.blocks[-1].plots, 400.0)[0]
    edge = Polygon(land.interiors[0])
    near, far = prep(edge.buffer(38)), prep(edge.buffer(105))
    low, high = np.array(edge.bounds[:2]) - 105, np.array(edge.bounds[2:]) + 105
    meshes: list[Mesh] = []
    for x, y in rng.uniform(low, high, (260, 2)):
        size = (float(rng.uniform(16, 34)), float(rng.uniform(13, 20)))
        site = Site(float(x), float(y), float(rng.uniform(0, 2 * np.pi)), *size)
        area = site.footprint(4.0)
        inside = far.contains(area) and not near.intersects(area)
        if len(meshes) < 20 and inside and not _overlaps(area, taken):
            taken.append(area)
            meshes.append(placed(_tower(rng, style, size), (site.x, site.y, PLOT_Z_M), site.yaw_rad))
    return meshes


def draw_buildings(
    rng: np.random.Generator, style: Style, plan: Plan, taken: list[Polygon]
) -> tuple[Mesh, list[tuple[str, Site]]]:
    """Draws all buildings of a town.

    Args:
        rng: where the randomness comes from.
        style: the town's style.
        plan: the town's plan.
        taken: areas to leave free; the footprints are appended.

    Returns:
        Their mesh, and the kind of block and place of each that stands along a street.
    """
    sites = [(block.kind, site) for block in plan.blocks for site in draw_sites(rng, block, taken)]
    meshes = [draw_building(rng, style, kind, site) for kind, site in sites]
    return merge(meshes + _backdrop(rng, style, plan, taken)), sites
