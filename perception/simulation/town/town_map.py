"""A town as a part of its location's nuScenes vector map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from shapely.geometry import Point, Polygon
from shapely.strtree import STRtree

from perception.formats.nuscenes_map import VectorMapBuilder
from perception.simulation.town import curves
from perception.simulation.town.arclines import arcline_path
from perception.simulation.town.town import Lane, Town

_DIVIDER_PIECE_M = 5.0
_LANE_ARCLINE_M = 12.0
_CONNECTOR_ARCLINE_M = 5.0


def ring(shape: Polygon) -> np.ndarray:
    """The outline of a polygon that has no holes.

    Args:
        shape: a polygon.

    Returns:
        (N, 2) points, the first not repeated.
    """
    return np.array(shape.exterior.coords)[:-1]


def _edges(shape: Polygon, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """(2, 2) the ends of a strip, as `curves.strip` lays out its points: where driving begins, where it ends."""
    points = ring(shape)
    half = len(points) // 2
    first, last = points[[0, -1]], points[[half - 1, half]]
    return (last, first) if reverse else (first, last)


def _sides(shape: Polygon, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) the two long sides of a strip in driving direction: the one at its left and the one at its right."""
    points = ring(shape)
    half = len(points) // 2
    right, left = points[:half], points[half:][::-1]
    return (right[::-1], left[::-1]) if reverse else (left, right)


class _Finder:
    """Finds the record of a layer on which a point lies."""

    def __init__(self, shapes: Sequence[Polygon], tokens: Sequence[str]) -> None:
        self._tree = STRtree(shapes)
        self._tokens = tokens

    def token_at(self, shape: Polygon) -> str:
        """The token of the record below the middle of a shape; the nearest one where there is none."""
        return self._tokens[int(self._tree.nearest(Point(shape.representative_point())))]


def _add_roads(builder: VectorMapBuilder, town: Town) -> tuple[_Finder, _Finder]:
    """Adds drivable area, road segments and road blocks; returns finders for segments and blocks."""
    drivable = builder.add_drivable_area([ring(face) for face in town.areas["drivable_area"]])
    centers = [Point(junction.center) for junction in town.junctions]
    segments = []
    for face in town.areas["road_segment"]:
        inside = any(face.contains(center) for center in centers)
        fields = {"is_intersection": inside, "drivable_area_token": drivable}
        segments.append(builder.add_area("road_segment", ring(face), fields))
    segment_at = _Finder(town.areas["road_segment"], segments)
    blocks = []
    for k, shape in enumerate(town.areas["road_block"]):
        start, end = _edges(shape, reverse=k % 2 == 1)
        fields = {
            "from_edge_line_token": builder.line(start),
            "to_edge_line_token": builder.line(end),
            "road_segment_token": segment_at.token_at(shape),
        }
        blocks.append(builder.add_area("road_block", ring(shape), fields))
    return segment_at, _Finder(town.areas["road_block"], blocks)


def _segments(builder: VectorMapBuilder, side: np.ndarray, kind: str) -> list[dict[str, str]]:
    return [{"node_token": node, "segment_type": kind} for node in builder.nodes(side)]


def _lane_fields(builder: VectorMapBuilder, lane: Lane, shape: Polygon, runs_back: bool) -> dict[str, Any]:
    """The fields of a lane besides its polygon; a mirrored strip has its sides the other way round."""
    start, end = _edges(shape, runs_back)
    left, right = _sides(shape, runs_back)
    ahead = lane.centerline[1] - lane.centerline[0]
    if (left[0] - lane.centerline[0]) @ curves.left_of(ahead) < 0:
        left, right = right, left
    inner = {True: "DOUBLE_DASHED_WHITE", False: "SINGLE_SOLID_YELLOW"}
    return {
        "lane_type": "CAR",
        "from_edge_line_token": builder.line(start),
        "to_edge_line_token": builder.line(end),
        "left_lane_divider_segments": _segments(builder, left, inner[lane.left is not None]),
        "right_lane_divider_segments": _segments(builder, right, inner[lane.right is not None]),
    }


def _add_lanes(builder: VectorMapBuilder, town: Town) -> None:
    """Adds lanes and connectors, how they are connected and how they run."""
    lanes = [lane for lane in town.lanes if lane.junction is None]
    connectors = [lane for lane in town.lanes if lane.junction is not None]
    tokens = {}
    for lane, shape in zip(lanes, town.areas["lane"], strict=True):
        start, _ = _edges(shape, reverse=False)
        runs_back = bool(np.linalg.norm(start.mean(axis=0) - lane.centerline[0]) > lane.width_m)
        tokens[lane.id] = builder.add_area("lane", ring(shape), _lane_fields(builder, lane, shape, runs_back))
    for lane, shape in zip(connectors, town.areas["lane_connector"], strict=True):
        tokens[lane.id] = builder.add_area("lane_connector", ring(shape))
    for lane in town.lanes:
        piece = _LANE_ARCLINE_M if lane.junction is None else _CONNECTOR_ARCLINE_M
        incoming, outgoing = ([tokens[k] for k in ids] for ids in (lane.predecessors, lane.successors))
        builder.connect(tokens[lane.id], incoming, outgoing, arcline_path(lane.centerline, piece))


def _add_lights(builder: VectorMapBuilder, town: Town, block_at: _Finder) -> dict[int, list[str]]:
    """Adds the traffic lights; returns their tokens by stop line."""
    lights: dict[int, list[str]] = {}
    for head in town.signal_heads:
        x, y, z = head.position_m
        across = 0.2 * np.array([-np.sin(head.yaw_rad), np.cos(head.yaw_rad)])
        x_map, y_map = x + town.origin_m[0], y + town.origin_m[1]
        pose = {"tx": x_map, "ty": y_map, "tz": z, "rx": 0.0, "ry": 0.0, "rz": head.yaw_rad}
        fields = {
            "traffic_light_type": "VERTICAL",
            "from_road_block_token": block_at.token_at(town.stop_lines[head.stop_line].polygon),
            "items": [
                {"color": color, "shape": "CIRCLE", "rel_pos": dict(pose, tz=dz), "to_road_block_tokens": []}
                for color, dz in (("RED", 0.34), ("YELLOW", 0.0), ("GREEN", -0.34))
            ],
            "pose": pose,
        }
        line = np.array([x, y]) + np.stack([-across, across])
        lights.setdefault(head.stop_line, []).append(builder.add_line("traffic_light", line, fields))
    return lights


def _add_crossings(builder: VectorMapBuilder, town: Town, segment_at: _Finder, block_at: _Finder) -> None:
    """Adds pedestrian crossings, stop lines and traffic lights."""
    crossings = [
        builder.add_area("ped_crossing", ring(it.polygon), {"road_segment_token": segment_at.token_at(it.polygon)})
        for it in town.crossings
    ]
    lights = _add_lights(builder, town, block_at)
    for k, stop in enumerate(town.stop_lines):
        near = [
            token
            for crossing, token in zip(town.crossings, crossings, strict=True)
            if crossing.junction == stop.junction and crossing.polygon.distance(stop.polygon) < 3.0
        ]
        fields = {
            "stop_line_type": stop.kind,
            "ped_crossing_tokens": near,
            "traffic_light_tokens": lights.get(k, []),
            "road_block_token": block_at.token_at(stop.polygon),
        }
        builder.add_area("stop_line", ring(stop.polygon), fields)


def _add_dividers(builder: VectorMapBuilder, town: Town, segment_at: _Finder) -> None:
    """Adds the dividers as short straight pieces, which a patch's edge cuts once at most."""
    for divider in town.dividers:
        for start, end in pairwise(curves.resampled(divider.line, _DIVIDER_PIECE_M)):
            piece = np.array([start, end])
            if divider.kind == "road":
                segment = segment_at.token_at(Polygon([*piece, piece.mean(axis=0)]).buffer(0.1))
                builder.add_line("road_divider", piece, {"road_segment_token": segment})
            else:
                fields = {"lane_divider_segments": _segments(builder, piece, "DOUBLE_DASHED_WHITE")}
                builder.add_line("lane_divider", piece, fields)


def town_map(town: Town) -> dict[str, Any]:
    """The vector map of a town.

    Args:
        town: a town.

    Returns:
        What `merge_maps` makes the map of its location from; as it is if the town is the only one there.
    """
    builder = VectorMapBuilder(town.size_m, f"{town.name}@{town.origin_m}", town.origin_m)
    segment_at, block_at = _add_roads(builder, town)
    _add_lanes(builder, town)
    _add_crossings(builder, town, segment_at, block_at)
    for walkway in town.areas["walkway"]:
        builder.add_area("walkway", ring(walkway))
    for area in town.areas["carpark_area"]:
        fields = {"orientation": 0.0, "road_block_token": block_at.token_at(area)}
        builder.add_area("carpark_area", ring(area), fields)
    _add_dividers(builder, town, segment_at)
    return builder.build()
