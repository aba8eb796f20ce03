"""Further views of a sample: map, occupancy and near field, as predicted and as they are, as tiles for a panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from perception.structures import (
    MapPrediction,
    MapTruth,
    NearField,
    NearFieldPrediction,
    OccupancyPrediction,
    OccupancyTruth,
    Predictions,
    Sample,
)
from perception.visualization import canvas
from perception.visualization.bev import BevView
from perception.visualization.colors import SURFACE, TEXT
from perception.visualization.map import draw_map, map_legend
from perception.visualization.near_field import draw_near_field, near_field_legend, reach_m
from perception.visualization.occupancy import draw_occupancy, occupancy_legend
from perception.visualization.tiles import (
    GAP_PX,
    LegendEntry,
    draw_absent,
    legend_height_px,
    legend_lines,
    render_legend,
    stack,
)

Task = Literal["map", "occupancy", "near_field"]
TASKS: tuple[Task, ...] = ("map", "occupancy", "near_field")
"""What has views beside those of boxes, in the order in which they stand."""

Found = MapPrediction | MapTruth | OccupancyPrediction | OccupancyTruth | NearFieldPrediction | NearField
"""What a tile can show."""

_LEAST_SIDE_PX = 96
_LEAST_TILES = 4  # in a row, as to their size


class TaskTile(NamedTuple):
    """One further view.

    Attributes:
        task: what it shows.
        source: as it is predicted, or the truth.
    """

    task: Task
    source: Literal["prediction", "truth"]


@dataclass(frozen=True)
class _Scene:
    """What is shown, and how far around."""

    sample: Sample
    predictions: Predictions | None
    half_m: float


def tiles_of(sample: Sample, predictions: Predictions | None) -> tuple[TaskTile, ...]:
    """Says which further views a sample has.

    Args:
        sample: with the truths that were loaded.
        predictions: for it; None where there are none.

    Returns:
        Task by task, the prediction before the truth.
    """
    both = (TaskTile(task, source) for task in TASKS for source in ("prediction", "truth"))
    return tuple(tile for tile in both if _content(tile, sample, predictions) is not None)


def tile_side_px(tiles: Sequence[TaskTile], width_px: int, others: int = 0) -> int:
    """Chooses the side of the tiles of a row.

    Args:
        tiles: of the row.
        width_px: of the row.
        others: further squares of that size in it; with the tiles one at least.

    Returns:
        Pixels; a quarter of the width at most.
    """
    count = len(tiles) + others
    return max(min((width_px - GAP_PX * (count - 1)) // count, width_px // _LEAST_TILES), _LEAST_SIDE_PX)


def render_row(
    tiles: Sequence[TaskTile], sample: Sample, predictions: Predictions | None, side_px: int, half_m: float
) -> np.ndarray:
    """Draws tiles side by side, over a legend for each task.

    Args:
        tiles: one at least, those of a task next to each other; a tile without content is empty and says so.
        sample: with the truths.
        predictions: for it.
        side_px: of a tile.
        half_m: map and occupancy are drawn so far to each side, or as far as they reach.

    Returns:
        (H, W, 3) uint8 RGB; its size depends on `tiles` and `side_px` alone.
    """
    scene = _Scene(sample, predictions, half_m)
    return stack([_block(_of_task(task, tiles), scene, side_px, 1) for task in _tasks(tiles)], 1)


def render_column(
    tiles: Sequence[TaskTile], sample: Sample, predictions: Predictions | None, height_px: int, half_m: float
) -> np.ndarray:
    """Draws tasks below one another, each with its legend; the tiles of a single task stand below one another too.

    Args:
        tiles: as for `render_row`.
        sample: with the truths.
        predictions: for it.
        height_px: room for all; the picture is higher where tiles of 96 pixels do not fit into it.
        half_m: as for `render_row`.

    Returns:
        (H, W, 3) uint8 RGB; its size depends on `tiles` and `height_px` alone.
    """
    scene = _Scene(sample, predictions, half_m)
    blocks = [_of_task(task, tiles) for task in _tasks(tiles)]
    axis = 0 if len(blocks) == 1 else 1
    rows = len(tiles) if axis == 0 else len(blocks)

    def _height_of(side_px: int) -> int:
        widths = [side_px if axis == 0 else _across_px(len(block), side_px) for block in blocks]
        legends = [_legend_px(block[0].task, width) for block, width in zip(blocks, widths, strict=True)]
        return rows * side_px + (rows - 1) * GAP_PX + sum(legends)

    fitting = (side for side in range(height_px // rows, _LEAST_SIDE_PX, -1) if _height_of(side) <= height_px)
    side_px = next(fitting, _LEAST_SIDE_PX)
    return stack([_block(block, scene, side_px, axis) for block in blocks], 0)


def _tasks(tiles: Sequence[TaskTile]) -> list[Task]:
    return list(dict.fromkeys(tile.task for tile in tiles))


def _of_task(task: Task, tiles: Sequence[TaskTile]) -> list[TaskTile]:
    return [tile for tile in tiles if tile.task == task]


def _content(tile: TaskTile, sample: Sample, predictions: Predictions | None) -> Found | None:
    found: Found | None = getattr(sample if tile.source == "truth" else predictions, tile.task, None)
    return found


def _block(tiles: Sequence[TaskTile], scene: _Scene, side_px: int, axis: int) -> np.ndarray:
    """The tiles of one task, and below them its legend."""
    task = tiles[0].task
    found = [_content(tile, scene.sample, scene.predictions) for tile in tiles]
    view = BevView.square(_reach_m(task, [it for it in found if it is not None], scene.half_m), side_px)
    pictures = stack([_tile(tile, it, view) for tile, it in zip(tiles, found, strict=True)], axis)
    width = pictures.shape[1]
    lines = _legend_lines(task, width)
    return np.concatenate((pictures, render_legend(_legend(task, found), lines, width, _font_px(width))))


def _tile(tile: TaskTile, found: Found | None, view: BevView) -> np.ndarray:
    """One view (S, S, 3) with its name; empty where there is nothing to show."""
    words = {"prediction": "predicted", "truth": "true"}[tile.source]
    label = f"{tile.task.replace('_', ' ')}, {words}"
    font_px = min(max(view.size_px[1] // 32, 12), 16)
    if found is None:
        picture = np.full((*view.size_px, 3), SURFACE, np.uint8)
        draw_absent(picture, label, f"no {tile.source} for this sample", font_px)
        return picture
    picture = _drawn(found, view)
    canvas.draw_tag(picture, label, (font_px // 2, font_px // 2), font_px, TEXT)
    return picture


def _drawn(found: Found, view: BevView) -> np.ndarray:
    if isinstance(found, MapPrediction | MapTruth):
        return draw_map(found, view)
    if isinstance(found, OccupancyPrediction | OccupancyTruth):
        return draw_occupancy(found, view)
    return draw_near_field(found, view)


def _reach_m(task: Task, found: Sequence[Found], half_m: float) -> float:
    """How far both tiles of a task show: where the shorter of them ends, and for ground far around half_m at most."""
    reaches = [reach_m(it.grid) for it in found]
    return min(reaches, default=half_m) if task == "near_field" else min((half_m, *reaches))


def _legend(task: Task, found: Sequence[Found | None]) -> list[LegendEntry]:
    """Names and colours; of the map's classes those that are shown."""
    if task == "map":
        maps = [it for it in found if isinstance(it, MapPrediction | MapTruth)]
        return map_legend([*dict.fromkeys(name for it in maps for name in it.class_names)])
    return occupancy_legend() if task == "occupancy" else near_field_legend()


def _legend_lines(task: Task, width_px: int) -> int:
    """Lines of room for a legend, whatever a sample shows."""
    entries = map_legend() if task == "map" else _legend(task, ())
    return len(legend_lines([name for name, _ in entries], width_px, _font_px(width_px)))


def _legend_px(task: Task, width_px: int) -> int:
    return legend_height_px(_legend_lines(task, width_px), _font_px(width_px))


def _across_px(count: int, side_px: int) -> int:
    return count * side_px + (count - 1) * GAP_PX


def _font_px(width_px: int) -> int:
    return min(max(width_px // 60, 13), 16)
