"""The road network of a rural landscape: few long roads with wide bends."""

from __future__ import annotations

import numpy as np

from perception.geometry.headings import headings
from perception.simulation.town import curves
from perception.simulation.town.districts import DISTRICT_M
from perception.simulation.town.network import Edge, Grid, Network, Road, chains_of, line_along, phase_at, without_some

_MARGIN_M = 72.0
"""Distance from the roads to the edge of the map: their lanes keep the 60 m that map drawings need."""

_LEAST_RADIUS_M = 60.0
_LIMITS_MPS = (16.7, 19.4, 22.2)
_REDRAWN = 40


def _grid(rng: np.random.Generator) -> Grid:
    """Two or three rows and columns of nodes, far apart and not quite in line."""
    rows, columns = [(2, 3), (3, 2), (3, 3), (3, 3)][rng.integers(4)]
    steps = {2: (300.0, 430.0), 3: (200.0, 270.0)}
    xs = np.concatenate([[0.0], np.cumsum(rng.uniform(*steps[columns], columns - 1))])
    ys = np.concatenate([[0.0], np.cumsum(rng.uniform(*steps[rows], rows - 1))])
    x, y = (axis.ravel() for axis in np.meshgrid(xs, ys))
    nodes = np.column_stack([x, y]) + rng.uniform(-24, 24, (len(x), 2))
    index = np.arange(rows * columns).reshape(rows, columns)
    across = _edges(index[:, :-1], index[:, 1:])
    along = _edges(index[:-1], index[1:])
    main = index[rows // 2] if columns == 3 else index[:, 0]
    whole = Grid(nodes, rows, columns, across + along, set())
    kept = without_some(rng, whole, int(rng.integers(3)) if rows == columns else 0)
    priority = {edge for edge in kept if set(edge) <= set(main.tolist())}
    return Grid(nodes, rows, columns, kept, priority)


def _edges(from_nodes: np.ndarray, to_nodes: np.ndarray) -> list[Edge]:
    return [(int(a), int(b)) for a, b in zip(from_nodes.ravel(), to_nodes.ravel(), strict=True)]


def _least_radius_m(line: np.ndarray) -> float:
    """The radius of a line's tightest bend."""
    heading = np.unwrap(headings(curves.directions(curves.resampled(line, 8.0))))
    return 8.0 / max(float(np.abs(np.diff(heading)).max()), 1e-6)


def draw_country_network(rng: np.random.Generator) -> Network:
    """Draws a network of country roads with one lane each way.

    Args:
        rng: where the randomness comes from.

    Returns:
        Roads and junctions, turned by an odd angle, that fit a district.
    """
    drawn = [_lines(rng)]
    while len(drawn) < _REDRAWN and min(map(_least_radius_m, drawn[-1][2])) < _LEAST_RADIUS_M:
        drawn.append(_lines(rng))
    grid, angle, lines = max(drawn, key=lambda it: min(map(_least_radius_m, it[2])))
    chains = chains_of(grid)
    low, high = (pick(np.concatenate(lines), axis=0) for pick in (np.min, np.max))
    scale = min(1.0, (DISTRICT_M - 1.0 - 2 * _MARGIN_M) / float((high - low).max()))
    size = np.ceil(10 * (scale * (high - low) + 2 * _MARGIN_M)) / 10
    junctions = sorted({node for chain in chains for node in (chain[0], chain[-1])})
    roads = [
        Road(
            line=curves.resampled(scale * (line - low) + _MARGIN_M, 2.0),
            start=junctions.index(chain[0]),
            end=junctions.index(chain[-1]),
            lanes=1,
            phases=(phase_at(grid, chain[0], chain[1]), phase_at(grid, chain[-1], chain[-2])),
            parking=(False, False),
            speed_limit_mps=float(rng.choice(_LIMITS_MPS)),
        )
        for chain, line in zip(chains, lines, strict=True)
    ]
    centers = scale * (grid.nodes[junctions] - low) + _MARGIN_M
    return Network((float(size[0]), float(size[1])), centers, tuple(roads), angle)


def _lines(rng: np.random.Generator) -> tuple[Grid, float, list[np.ndarray]]:
    """A turned grid, the angle, and the middles of its roads."""
    grid = _grid(rng)
    angle = float(rng.uniform(0.04, 0.3) * rng.choice([-1, 1]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = Grid(grid.nodes @ turn.T, grid.rows, grid.columns, grid.edges, grid.arterial)
    return turned, angle, [line_along(turned, chain) for chain in chains_of(turned)]
