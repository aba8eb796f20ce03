"""The road network of a town: a bent grid with pieces left out, as roads between junctions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from perception.simulation.town import curves

LANE_WIDTH_M = 3.3
GUTTER_M = 0.35
MARGIN_M = 88.0
"""Distance from the outermost junctions to the edge of the map: more than the 60 m that map drawings need."""

_ARTERIAL_MPS = 13.4
_STREET_MPS = 9.0

Edge = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Road:
    """A road between two junctions.

    Attributes:
        line: (N, 2) its middle, from the centre of one junction to the centre of the other, 2 m between points.
        start: index of the junction where it begins.
        end: index of the junction where it ends.
        lanes: lanes in each direction.
        phases: signal phase of its approach at the start and at the end.
        parking: whether there are bays on its left and on its right side.
        speed_limit_mps: speed limit in m/s.
    """

    line: np.ndarray
    start: int
    end: int
    lanes: int
    phases: tuple[int, int]
    parking: tuple[bool, bool]
    speed_limit_mps: float

    @property
    def half_width_m(self) -> float:
        """Distance from the middle to the kerb."""
        return self.lanes * LANE_WIDTH_M + GUTTER_M


@dataclass(frozen=True, eq=False)
class Network:
    """Roads and the junctions between them.

    Attributes:
        size_m: width and height of the map.
        centers: (J, 2) centres of the junctions.
        roads: the roads.
        angle_rad: how the grid is turned against the map.
    """

    size_m: tuple[float, float]
    centers: np.ndarray
    roads: tuple[Road, ...]
    angle_rad: float


@dataclass(frozen=True, eq=False)
class Grid:
    """A bent grid of roads.

    Attributes:
        nodes: (rows * columns, 2) row by row.
        rows: how many.
        columns: how many.
        edges: the pieces that exist; they run right or up.
        arterial: those of the main roads.
    """

    nodes: np.ndarray
    rows: int
    columns: int
    edges: list[Edge]
    arterial: set[Edge]

    def neighbours(self, node: int) -> list[int]:
        """The nodes that a node is joined to."""
        return [b if a == node else a for a, b in self.edges if node in (a, b)]

    def joined(self, a: int, b: int) -> bool:
        """Whether a piece runs between two nodes."""
        return (min(a, b), max(a, b)) in self.edges


def _connected(num_nodes: int, edges: list[Edge]) -> bool:
    reached, pending = {0}, [0]
    while pending:
        node = pending.pop()
        found = {b if a == node else a for a, b in edges if node in (a, b)} - reached
        reached |= found
        pending += sorted(found)
    return len(reached) == num_nodes


def without_some(rng: np.random.Generator, grid: Grid, count: int) -> list[Edge]:
    """The edges of a grid without some inner ones of its minor roads.

    Args:
        rng: where the randomness comes from.
        grid: all pieces.
        count: how many to leave out, where there is a choice.

    Returns:
        Pieces that hang together, at least two at every node.
    """
    edges = list(grid.edges)
    inner = [e for e in edges if e not in grid.arterial and not _on_rim(grid, e)]
    for edge in [inner[i] for i in rng.permutation(len(inner))]:
        rest = [e for e in edges if e != edge]
        degrees = np.bincount(np.array(rest).ravel(), minlength=len(grid.nodes))
        if count > 0 and degrees.min() >= 2 and _connected(len(grid.nodes), rest):
            edges, count = rest, count - 1
    return edges


def _on_rim(grid: Grid, edge: Edge) -> bool:
    (ra, ca), (rb, cb) = (divmod(node, grid.columns) for node in edge)
    return (ra == rb and ra in (0, grid.rows - 1)) or (ca == cb and ca in (0, grid.columns - 1))


def _bent_grid(rng: np.random.Generator) -> Grid:
    """A grid with uneven spacing, waves and jitter, one four-lane row and one four-lane column."""
    rows, columns = [(4, 4), (4, 4), (3, 5), (5, 3)][rng.integers(4)]
    xs = np.cumsum(rng.uniform(84, 116, columns))
    ys = np.cumsum(rng.uniform(84, 116, rows))
    x, y = (axis.ravel() for axis in np.meshgrid(xs, ys))
    phases = rng.uniform(0, 2 * np.pi, 2)
    bent = np.column_stack([x + 9 * np.sin(y / 70 + phases[0]), y + 9 * np.sin(x / 70 + phases[1])])
    nodes = bent + rng.uniform(-7, 7, (len(x), 2))
    index = np.arange(rows * columns).reshape(rows, columns)
    across = [(int(a), int(b)) for a, b in zip(index[:, :-1].ravel(), index[:, 1:].ravel(), strict=True)]
    along = [(int(a), int(b)) for a, b in zip(index[:-1].ravel(), index[1:].ravel(), strict=True)]
    main_row = index[rng.integers(1, rows - 1)]
    main_column = index[:, rng.integers(1, columns - 1)]
    arterial = {(int(a), int(b)) for main in (main_row, main_column) for a, b in pairwise(main)}
    grid = Grid(nodes, rows, columns, across + along, arterial)
    return Grid(nodes, rows, columns, without_some(rng, grid, int(rng.integers(1, 3))), arterial)


def _tangent(grid: Grid, node: int, other: int) -> np.ndarray:
    """The direction in which the road from `node` to `other` leaves `node`; opposite arms share a line."""
    towards = grid.nodes[other] - grid.nodes[node]
    opposite = 2 * node - other
    neighbours = grid.neighbours(node)
    if opposite in neighbours:
        return curves.unit(grid.nodes[other] - grid.nodes[opposite])
    if len(neighbours) == 2:
        (before,) = (n for n in neighbours if n != other)
        return curves.unit(grid.nodes[other] - grid.nodes[before])
    through = [n for n in neighbours if 2 * node - n in neighbours]
    across = curves.left_of(_tangent(grid, node, through[0]))
    across = across * np.sign(across @ towards)
    return curves.unit(across + 0.5 * curves.unit(towards))


def _piece(grid: Grid, a: int, b: int) -> np.ndarray:
    """(N, 2) the road's middle between two neighbouring nodes."""
    start, end = grid.nodes[a], grid.nodes[b]
    handle = np.linalg.norm(end - start) / 3
    controls = [start, start + handle * _tangent(grid, a, b), end + handle * _tangent(grid, b, a), end]
    return curves.bezier(np.array(controls), 200)


def line_along(grid: Grid, chain: list[int]) -> np.ndarray:
    """The middle of a road.

    Args:
        grid: where its nodes lie.
        chain: its nodes.

    Returns:
        (N, 2) closely spaced points from the first node to the last.
    """
    pieces = [_piece(grid, a, b) for a, b in pairwise(chain)]
    return np.concatenate([pieces[0], *(piece[1:] for piece in pieces[1:])])


def chains_of(grid: Grid) -> list[list[int]]:
    """The roads of a grid; a node with two arms is a bend of one road.

    Args:
        grid: pieces between nodes.

    Returns:
        Nodes along each road, from junction to junction.
    """
    junctions = [n for n in range(len(grid.nodes)) if len(grid.neighbours(n)) > 2]
    chains = []
    for start in junctions:
        for first in grid.neighbours(start):
            chain = [start, first]
            while chain[-1] not in junctions:
                (following,) = (n for n in grid.neighbours(chain[-1]) if n != chain[-2])
                chain.append(following)
            if (chain[0], chain[1]) < (chain[-1], chain[-2]):
                chains.append(chain)
    return chains


def phase_at(grid: Grid, node: int, other: int) -> int:
    """The signal phase of one arm of a junction.

    Args:
        grid: pieces between nodes.
        node: the junction.
        other: where the arm leads.

    Returns:
        0 for the main pair of arms, 1 for the rest.
    """
    neighbours = grid.neighbours(node)
    pairs = [n for n in neighbours if 2 * node - n in neighbours]
    arterial = [n for n in pairs if (min(n, node), max(n, node)) in grid.arterial]
    main = (arterial or pairs)[0]
    return 0 if other in (main, 2 * node - main) else 1


def draw_network(rng: np.random.Generator) -> Network:
    """Draws a road network.

    Args:
        rng: where the randomness comes from.

    Returns:
        Roads and junctions, turned by an odd angle, at least `MARGIN_M` inside the map.
    """
    grid = _bent_grid(rng)
    angle = float(rng.uniform(0.13, 0.65) * rng.choice([-1, 1]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = grid.nodes @ turn.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    size = np.ceil(10 * (high - low + 2 * MARGIN_M)) / 10
    grid = Grid(turned - low + MARGIN_M, grid.rows, grid.columns, grid.edges, grid.arterial)
    chains = chains_of(grid)
    junctions = sorted({node for chain in chains for node in (chain[0], chain[-1])})
    roads = []
    for chain in chains:
        arterial = (min(chain[:2]), max(chain[:2])) in grid.arterial
        roads.append(
            Road(
                line=curves.resampled(line_along(grid, chain), 2.0),
                start=junctions.index(chain[0]),
                end=junctions.index(chain[-1]),
                lanes=2 if arterial else 1,
                phases=(phase_at(grid, chain[0], chain[1]), phase_at(grid, chain[-1], chain[-2])),
                parking=(bool(rng.random() < 0.85), bool(rng.random() < 0.85)) if not arterial else (False, False),
                speed_limit_mps=_ARTERIAL_MPS if arterial else _STREET_MPS,
            )
        )
    return Network((float(size[0]), float(size[1])), grid.nodes[junctions], tuple(roads), angle)
