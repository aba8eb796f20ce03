"""The shapes of a vector map `maps/expansion/<location>.json`, read from a file that anybody may have written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import shapely

PolygonLayer = Literal["drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area"]
LineLayer = Literal["road_divider", "lane_divider"]

MAX_COORDINATE_M = 1e6
"""A node farther from the origin of its map is a mistake."""

_FIELD_PATH = re.compile(r"`\$\.(\w+)\[(\d+)\]\.?([^`]*)`")


class _Node(msgspec.Struct):
    token: str
    x: float
    y: float


class _Line(msgspec.Struct):
    token: str
    node_tokens: list[str]


class _Hole(msgspec.Struct):
    node_tokens: list[str]


class _Polygon(msgspec.Struct):
    token: str
    exterior_node_tokens: list[str]
    holes: list[_Hole]


class _DrivableArea(msgspec.Struct):
    token: str
    polygon_tokens: list[str]


class _Area(msgspec.Struct):
    token: str
    polygon_token: str


class _Divider(msgspec.Struct):
    token: str
    line_token: str


class _Map(msgspec.Struct):
    node: list[_Node]
    line: list[_Line]
    polygon: list[_Polygon]
    drivable_area: list[_DrivableArea]
    ped_crossing: list[_Area]
    walkway: list[_Area]
    stop_line: list[_Area]
    carpark_area: list[_Area]
    road_divider: list[_Divider]
    lane_divider: list[_Divider]


@dataclass(frozen=True, eq=False)
class LayerShapes:
    """The shapes of one layer, in the order of its records.

    Attributes:
        shapes: (G,) shapely polygons, multipolygons or lines, map coordinates in metres.
        bounds_m: (G, 4) x min, y min, x max, y max.
    """

    shapes: np.ndarray
    bounds_m: np.ndarray


def read_map_layers(path: str | Path) -> dict[str, LayerShapes]:
    """Reads the layers that map segmentation is about.

    As in the devkit, shapes without nodes are left out, and so are polygons that cross themselves, except in the
    drivable area: there they are mended.

    Args:
        path: a `maps/expansion/<location>.json`.

    Returns:
        Shapes by layer: drivable_area, ped_crossing, walkway, stop_line, carpark_area, road_divider, lane_divider.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is no JSON or lacks a layer; a record names a polygon, line or node that does not exist;
            a ring has fewer than three nodes, a line fewer than two; a node is not finite or absurdly far away. The
            message names file, layer, token and reason.
    """
    return _Reader(Path(path)).layers()


class _Reader:
    """One file while it is being read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map = _decode(path)
        self._points = np.array([(node.x, node.y) for node in self._map.node], dtype=np.float64).reshape(
            -1, 2
        )  # (N, 2)
        absurd = ~(np.abs(self._points) <= MAX_COORDINATE_M).all(axis=1)  # NaN included
        if absurd.any():
            node = self._map.node[int(absurd.argmax())]
            reason = f"must lie within {MAX_COORDINATE_M:.0f} m of the origin, got x = {node.x}, y = {node.y}"
            raise self._fault("node", node.token, reason)
        self._row_of_node = {node.token: row for row, node in enumerate(self._map.node)}
        self._polygons = {polygon.token: polygon for polygon in self._map.polygon}
        self._lines = {line.token: line for line in self._map.line}

    def layers(self) -> dict[str, LayerShapes]:
        """The shapes by layer."""
        rows = self._map
        areas = {"ped_crossing": rows.ped_crossing, "walkway": rows.walkway, "stop_line": rows.stop_line}
        areas |= {"carpark_area": rows.carpark_area}
        drivable = [(area.token, token) for area in rows.drivable_area for token in area.polygon_tokens]
        layers = {"drivable_area": self._polygon_layer("drivable_area", drivable, mend=True)}
        for layer, records in areas.items():
            layers[layer] = self._polygon_layer(layer, [(row.token, row.polygon_token) for row in records])
        layers["road_divider"] = self._line_layer("road_divider", rows.road_divider)
        layers["lane_divider"] = self._line_layer("lane_divider", rows.lane_divider)
        return layers

    def _polygon_layer(self, layer: str, records: Sequence[tuple[str, str]], mend: bool = False) -> LayerShapes:
        """Shapes of the polygons that pairs of record token and polygon token name."""
        rings: list[list[str]] = []
        counts = []
        for token, polygon_token in records:
            polygon = self._named(self._polygons, layer, token, "polygon", polygon_token)
            of_polygon = list(self._rings(layer, token, polygon))
            rings += of_polygon
            counts += [len(of_polygon)] if of_polygon else []
        polygon_of_ring = np.repeat(np.arange(len(counts)), counts)
        points, of_ring = self._coordinates(rings)
        polygons = shapely.polygons(shapely.linearrings(points, indices=of_ring), indices=polygon_of_ring)
        valid = shapely.is_valid(polygons)
        if mend:
            polygons[~valid] = [_mended(polygon) for polygon in polygons[~valid]]
            valid = ~shapely.is_empty(polygons)
        return _layer_of(polygons[valid])

    def _rings(self, layer: str, token: str, polygon: _Polygon) -> Iterator[list[str]]:
        """The nodes of the exterior, then of each hole; nothing of a polygon without nodes."""
        if not polygon.exterior_node_tokens:
            return
        for nodes in (polygon.exterior_node_tokens, *(hole.node_tokens for hole in polygon.holes)):
            if len(nodes) - (len(nodes) > 1 and nodes[0] == nodes[-1]) in (1, 2):
                reason = f"polygon {polygon.token!r}: a ring must have at least 3 nodes, got {len(nodes)}"
                raise self._fault(layer, token, reason)
            if nodes:
                yield self._checked_nodes(layer, token, f"polygon {polygon.token!r}", nodes)

    def _line_layer(self, layer: str, records: Sequence[_Divider]) -> LayerShapes:
        lines = []
        for row in records:
            line = self._named(self._lines, layer, row.token, "line", row.line_token)
            if len(line.node_tokens) == 1:
                raise self._fault(layer, row.token, f"line {line.token!r}: must have at least 2 nodes, got 1")
            if line.node_tokens:
                lines.append(self._checked_nodes(layer, row.token, f"line {line.token!r}", line.node_tokens))
        points, of_line = self._coordinates(lines)
        shapes = shapely.linestrings(points, indices=of_line)
        return _layer_of(shapes[shapely.length(shapes) > 0])

    def _coordinates(self, chains: Sequence[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2) points of the nodes of all chains, and (N,) which chain each belongs to."""
        rows = [self._row_of_node[node] for nodes in chains for node in nodes]
        return self._points[np.array(rows, dtype=np.int64)], np.repeat(np.arange(len(chains)), [*map(len, chains)])

    def _named(self, rows: Mapping[str, Any], layer: str, token: str, kind: str, wanted: str) -> Any:
        if wanted not in rows:
            raise self._fault(layer, token, f"must name a {kind} of the map, got {wanted!r}")
        return rows[wanted]

    def _checked_nodes(self, layer: str, token: str, owner: str, nodes: list[str]) -> list[str]:
        for node in nodes:
            if node not in self._row_of_node:
                raise self._fault(layer, token, f"{owner}: must name nodes of the map, got {node!r}")
        return nodes

    def _fault(self, layer: str, token: str, reason: str) -> ValueError:
        return ValueError(f"read_map_layers: {self._path}: {layer}, token {token!r}: {reason}")


def _layer_of(shapes: np.ndarray) -> LayerShapes:
    return LayerShapes(shapes, shapely.bounds(shapes).reshape(-1, 4))


def _mended(polygon: shapely.Polygon) -> shapely.MultiPolygon:
    """The area of a polygon that crosses itself."""
    parts = shapely.get_parts(shapely.make_valid(polygon))
    return shapely.MultiPolygon([part for part in shapely.get_parts(parts) if part.geom_type == "Polygon"])


def _decode(path: Path) -> _Map:
    """The file's rows; text with NaN or Infinity, which msgspec refuses, takes the slower way through `json`."""
    text = path.read_bytes()
    try:
        try:
            return msgspec.json.decode(text, type=_Map)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(json.loads(text), _Map)
    except msgspec.ValidationError as error:
        raise ValueError(_describe(path, text, error)) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"read_map_layers: {path}: not JSON: {error}") from error


def _describe(path: Path, text: bytes, error: msgspec.ValidationError) -> str:
    """The error sentence: file, layer, row, token and field."""
    found = _FIELD_PATH.search(str(error))
    if found is None:
        return f"read_map_layers: {path}: {error}"
    try:
        row = json.loads(text)[found[1]][int(found[2])]
    except (ValueError, RecursionError):  # broken besides, after the row
        row = None
    token = row.get("token") if isinstance(row, dict) else None
    field_name = f" field `{found[3]}`:" if found[3] else ""
    reason = str(error).split(" - at ")[0]
    return f"read_map_layers: {path}: {found[1]}, row {found[2]} (token {token!r}):{field_name} {reason}"
