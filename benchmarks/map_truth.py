"""Drawing the map around a sample: ours against the devkit's `get_map_mask`, one thread each."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import pair_row
from perception.data.index import Index
from perception.data.map_truth import MapSource
from perception.data.truths import MapLoading
from perception.formats.nuscenes_map_raster import DIVIDER_LAYERS, MAP_CLASSES
from perception.geometry.grid import Grid

NUM_SAMPLES = 20


def map_rows(index: Index, dataroot: Path, repeats: int) -> list[dict[str, Any]]:
    """Times the six classes around samples spread over the set, one sample a run.

    Args:
        index: the index.
        dataroot: of the set.
        repeats: timed runs of each side.

    Returns:
        Rows as `benchmarks.timing.pair_row` gives them; none for a set without vector maps.
    """
    if not (dataroot / "maps" / "expansion").is_dir():
        return []
    from nuscenes.map_expansion.map_api import NuScenesMap

    source = MapSource(index, dataroot)
    positions = np.linspace(0, len(index) - 1, min(NUM_SAMPLES, len(index))).astype(int).tolist()
    api_of = cache(partial(NuScenesMap, str(dataroot)))  # the devkit reads each map once, too
    peers = [_devkit_patch(index, position, api_of) for position in positions]
    rows = []
    for half_m in (50.0, MapLoading().half_m):
        grid, turns = Grid.square(half_m, 0.5), (cycle(positions), cycle(peers))

        def _ours(grid: Grid = grid, positions: cycle = turns[0]) -> np.ndarray:
            return source.in_ego(next(positions), MAP_CLASSES, grid)

        def _peer(half_m: float = half_m, peers: cycle = turns[1]) -> np.ndarray:
            return next(peers)(half_m)

        for position in positions:  # reads the maps
            source.vector_map(position)
        case = f"six classes, +-{half_m:.0f} m, 0.5 m"
        rows.append(pair_row("draw the map", case, _ours, "nuscenes-devkit", _peer, repeats))
    return rows


def _devkit_patch(index: Index, position: int, api_of: Callable[[str], Any]) -> Callable[[float], np.ndarray]:
    """The devkit's masks around a sample, by half the size of the patch."""
    record = index.record(position)
    api, pose = api_of(index.scene(record.scene).location), record.ego2global
    angle_deg = math.degrees(math.atan2(pose[1, 0], pose[0, 0]))
    layers = [*MAP_CLASSES[:-1], *DIVIDER_LAYERS]

    def _draw(half_m: float) -> np.ndarray:
        box, num_cells = (*pose[:2, 3], 2 * half_m, 2 * half_m), round(4 * half_m)
        return api.get_map_mask(box, angle_deg, layers, (num_cells, num_cells))

    return _draw
