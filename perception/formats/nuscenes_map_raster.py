"""Masks of vector maps: which cells of a patch each class of the map covers, as the devkit draws them.

Source: nuscenes-devkit 1.2, `map_expansion/map_api.py`, `NuScenesMapExplorer.get_map_mask`; the six classes are those
of Liu et al., "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation", ICRA 2023,
section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import shapely

from perception.formats.nuscenes_map_reader import LayerShapes, read_map_layers

MAP_CLASSES = ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider")
"""The classes of map segmentation, in the order in which they are reported."""

DIVIDER_LAYERS = ("road_divider", "lane_divider")
"""The layers that the class `divider` is drawn from."""

DIVIDER_WIDTH_PX = 2
_INSIDE_M = 1e-6  # a shape this far inside a patch stays as it is when cut


@dataclass(frozen=True, kw_only=True)
class MapPatch:
    """A rectangle on a map, and the cells that it is divided into.

    Args:
        center_m: x and y on the map, metres.
        yaw_rad: direction of the patch's own x axis on the map, counter-clockwise.
        size_m: extent along its own y and x axes.
        cells: number of cells along y and x.

    Raises:
        ValueError: a number is not finite, or a size or count is not positive.
    """

    center_m: tuple[float, float]
    yaw_rad: float
    size_m: tuple[float, float] = (100.0, 100.0)
    cells: tuple[int, int] = (200, 200)

    def __post_init__(self) -> None:
        if not np.isfinite([*self.center_m, self.yaw_rad, *self.size_m]).all():
            raise ValueError(f"MapPatch: center_m, yaw_rad and size_m must be finite, got {self}")
        if min(self.size_m) <= 0 or min(self.cells) < 1:
            raise ValueError(f"MapPatch: size_m and cells must be positive, got {self.size_m} and {self.cells}")

    @property
    def outline(self) -> shapely.Polygon:
        """The rectangle on the map."""
        (x, y), (height, width) = self.center_m, self.size_m
        upright = shapely.box(x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0)
        return shapely.transform(upright, lambda points: _turned(points, self._angle_rad, self.center_m))

    @property
    def local_outline(self) -> shapely.Polygon:
        """The rectangle around the origin of its own frame."""
        height, width = self.size_m
        return shapely.box(-width / 2.0, -height / 2.0, width / 2.0, height / 2.0)

    @property
    def _angle_rad(self) -> float:
        """By way of degrees, which round as they do in the devkit."""
        return self.yaw_rad / math.pi * 180 * math.pi / 180.0

    def to_local(self, points: np.ndarray) -> np.ndarray:
        """Moves points into the patch's frame.

        Args:
            points: (N, 2) on the map, metres.

        Returns:
            (N, 2) metres from the centre, along the patch's own axes.
        """
        return _turned(points, -self._angle_rad, self.center_m) - self.center_m

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Says where points lie in the picture of the patch.

        Args:
            points: (N, 2) as `to_local` gives them.

        Returns:
            (N, 2) column and row.
        """
        (height, width), (rows, columns) = self.size_m, self.cells
        return (points + np.array([width, height]) / 2.0) * [columns / width, rows / height]


class VectorMap:
    """A vector map that gives masks of patches.

    Args:
        path: a `maps/expansion/<location>.json`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged (see `read_map_layers`).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.layers: Mapping[str, LayerShapes] = read_map_layers(path)

    def rasterize(self, patch: MapPatch, class_names: Sequence[str] = MAP_CLASSES) -> np.ndarray:
        """Draws the classes of the map within a patch.

        Cell for cell what the devkit's `get_map_mask` gives for the patch box (x, y, height, width) and the angle
        `yaw_rad / pi * 180`, where it gives anything: it fails on a divider that a patch cuts into pieces and on a
        polygon that only touches the patch. A corner at x falls on the cell `round(x / cell)` from the border, a
        point of a divider on `trunc(x / cell)`, and whatever a drawn outline runs through belongs to the shape; so
        masks lie half a cell off, as in every result that this protocol has.

        Args:
            patch: where, and how fine.
            class_names: some of `MAP_CLASSES`.

        Returns:
            (K, rows, columns) bool, in the patch's frame: row = y cell, column = x cell.

        Raises:
            ValueError: an unknown class; shapes of the map that cannot be cut.
        """
        unknown = [name for name in class_names if name not in MAP_CLASSES]
        if unknown:
            raise ValueError(f"VectorMap.rasterize: class_names must be of {', '.join(MAP_CLASSES)}, got {unknown}")
        masks = np.zeros((len(class_names), *patch.cells), dtype=np.uint8)
        for mask, name in zip(masks, class_names, strict=True):
            if name == "divider":
                for layer in DIVIDER_LAYERS:
                    _draw_lines(mask, self._pieces(layer, patch))
            else:
                _draw_polygons(mask, self._pieces(name, patch))
        return masks.astype(bool)

    def _pieces(self, layer: str, patch: MapPatch) -> _Pieces:
        """What a patch shows of a layer."""
        try:
            return _cut_out(self.layers[layer], patch)
        except shapely.errors.GEOSException as error:
            raise ValueError(f"VectorMap.rasterize: {self.path}: {layer}: cannot be cut at {patch}: {error}") from error


class _Pieces(NamedTuple):
    """Polygons or lines within a patch: their chains of pixels, exteriors and holes apart, and which belong together.

    `chains` has (N, 2) float64 column and row of each; `shape` (R,) says which shape of the layer a chain is of,
    rising; `is_hole` (R,) whether it is the edge of a hole.
    """

    chains: list[np.ndarray]
    shape: np.ndarray
    is_hole: np.ndarray


def _cut_out(layer: LayerShapes, patch: MapPatch) -> _Pieces:
    """Cuts as the devkit does: once on the map, once more in the patch's frame; what lies inside stays as it is."""
    number, inside = _near(layer.bounds_m, patch)
    areal = len(number) > 0 and shapely.get_dimensions(layer.shapes[number[0]]) == 2
    shapes, crossing = layer.shapes[number], ~inside
    shapes[crossing] = shapely.intersection(shapes[crossing], patch.outline)
    parts, of = _parts(shapes, areal)
    crossing = crossing[of]
    local = shapely.transform(parts[crossing], patch.to_local)
    parts[crossing] = shapely.intersection(local, patch.local_outline)
    pieces, of_part = _parts(parts, areal)
    crossing, number = crossing[of_part], number[of[of_part]]

    chains, of_piece = shapely.get_rings(pieces, return_index=True) if areal else (pieces, np.arange(len(pieces)))
    points, of_chain = shapely.get_coordinates(chains, return_index=True)  # (N, 2)
    to_move = ~crossing[of_piece[of_chain]]
    points[to_move] = patch.to_local(points[to_move])
    ends = np.cumsum(np.bincount(of_chain, minlength=len(chains)))
    is_hole = np.diff(of_piece, prepend=-1) == 0  # a polygon's first ring is its exterior
    pixels, stops = patch.to_pixels(points), ends.tolist()
    chains_px = [pixels[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    return _Pieces(chains_px, number[of_piece], is_hole)


def _near(bounds_m: np.ndarray, patch: MapPatch) -> tuple[np.ndarray, np.ndarray]:
    """The shapes whose bounds (G, 4) meet a patch: (M,) their numbers, and (M,) whether they lie inside."""
    x_min, y_min, x_max, y_max = patch.outline.bounds
    low, high = bounds_m[:, :2], bounds_m[:, 2:]
    near = np.flatnonzero((low <= (x_max, y_max)).all(axis=1) & (high >= (x_min, y_min)).all(axis=1))
    corners = bounds_m[near][:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (M, 4) -> (M, 4, 2)
    local = patch.to_local(corners.reshape(-1, 2)).reshape(corners.shape)
    low, high = local.min(axis=1), local.max(axis=1)  # (M, 4, 2) -> (M, 2)
    edge = np.array(patch.size_m)[::-1] / 2
    meets = ((low <= edge + _INSIDE_M) & (high >= -edge - _INSIDE_M)).all(axis=1)
    inside = ((low > -edge + _INSIDE_M) & (high < edge - _INSIDE_M)).all(axis=1)
    return near[meets], inside[meets]


def _parts(shapes: np.ndarray, areal: bool) -> tuple[np.ndarray, np.ndarray]:
    """The polygons or lines that shapes consist of, and which shape each is of."""
    parts, of = shapely.get_parts(shapes, return_index=True)
    wanted = (shapely.get_dimensions(parts) == (2 if areal else 1)) & ~shapely.is_empty(parts)
    return parts[wanted], of[wanted]


def _draw_polygons(mask: np.ndarray, pieces: _Pieces) -> None:
    """Fills shape by shape, first its exteriors, then its holes with nothing."""
    rings = zip(pieces.shape.tolist(), pieces.is_hole.tolist(), pieces.chains, strict=True)
    for _, shape in groupby(rings, key=itemgetter(0)):
        by_kind: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        for _, is_hole, ring in shape:
            by_kind[is_hole].append(ring.round().astype(np.int32))
        exteriors, holes = by_kind
        cv2.fillPoly(mask, exteriors, (1,))
        if holes:
            cv2.fillPoly(mask, holes, (0,))


def _draw_lines(mask: np.ndarray, pieces: _Pieces) -> None:
    lines = [line.astype(np.int32) for line in pieces.chains]
    if lines:
        cv2.polylines(mask, lines, False, (1,), DIVIDER_WIDTH_PX)


def _turned(points: np.ndarray, angle_rad: float, origin: tuple[float, float]) -> np.ndarray:
    """(N, 2) points turned about an origin, rounded as `shapely.affinity.rotate` rounds."""
    cos, sin = (0.0 if abs(value) < 2.5e-16 else value for value in (math.cos(angle_rad), math.sin(angle_rad)))
    (x, y), (x0, y0) = points.T, origin
    turned_x = cos * x + -sin * y + (x0 - x0 * cos + y0 * sin)
    turned_y = sin * x + cos * y + (y0 - x0 * sin - y0 * cos)
    return np.stack([turned_x, turned_y], axis=1)
