"""nuScenes maps: vector maps `maps/expansion/<location>.json` and mask pictures `maps/<hash>.png`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.formats.files import atomic_writer

MASK_FILES = {
    "boston-seaport": "36092f0b03a857c6a3403e25b4b7aab3.png",
    "singapore-onenorth": "53992ee3023e5494b90c316c183be829.png",
    "singapore-hollandvillage": "37819e65e09e5547b8a3ceaefba56bb2.png",
    "singapore-queenstown": "93406b464a165eaba6d9de76ca09f5da.png",
}
"""The four locations that nuScenes tools know, and the names of their mask pictures."""

MASK_PX_PER_M = 10
"""Pixels of a mask per metre."""

POLYGON_LAYERS = (
    "road_segment",
    "road_block",
    "lane",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
    "lane_connector",
)
"""Layers whose records have one polygon; a record of `drivable_area` has several."""

LINE_LAYERS = ("road_divider", "lane_divider", "traffic_light")
"""Layers whose records have one line."""

_LISTS = ("polygon", "line", "node", "drivable_area", *POLYGON_LAYERS, *LINE_LAYERS)
_DICTS = ("arcline_path_3", "connectivity")


class VectorMapBuilder:
    """Collects the records of one vector map; points with equal coordinates become one node.

    Args:
        size_m: width and height of what is mapped; its bottom left corner is the origin of all points.
        namespace: what the tokens are derived from; equal calls in equal order give equal tokens.
        origin_m: where that corner lies on the map.
    """

    def __init__(self, size_m: tuple[float, float], namespace: str, origin_m: tuple[float, float] = (0.0, 0.0)) -> None:
        self._namespace = namespace
        self._origin_m = origin_m
        self._nodes: dict[tuple[float, float], str] = {}
        canvas_edge = [float(origin + edge) for origin, edge in zip(origin_m, size_m, strict=True)]
        self._map: dict[str, Any] = {"version": "1.3", "canvas_edge": canvas_edge}
        self._map |= {layer: [] for layer in _LISTS} | {layer: {} for layer in _DICTS}

    def _append(self, layer: str, fields: Mapping[str, Any]) -> str:
        rows = self._map[layer]
        token = hashlib.md5(f"{self._namespace}/{layer}/{len(rows)}".encode(), usedforsecurity=False).hexdigest()
        rows.append({"token": token, **fields})
        return token

    def nodes(self, points: np.ndarray) -> list[str]:
        """The tokens of points; new ones are added.

        Args:
            points: (N, 2) metres.

        Returns:
            N tokens.

        Raises:
            ValueError: the shape is another, or a coordinate is not finite.
        """
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise ValueError(f"VectorMapBuilder.nodes: points must be (N, 2) and finite, got {points.shape}")
        tokens = []
        for x, y in (points + self._origin_m).tolist():
            if (x, y) not in self._nodes:
                self._nodes[x, y] = self._append("node", {"x": x, "y": y})
            tokens.append(self._nodes[x, y])
        return tokens

    def line(self, points: np.ndarray) -> str:
        """Adds a line.

        Args:
            points: (N, 2) metres.

        Returns:
            Its token.
        """
        return self._append("line", {"node_tokens": self.nodes(points)})

    def polygon(self, exterior: np.ndarray, holes: Sequence[np.ndarray] = ()) -> str:
        """Adds a polygon.

        Args:
            exterior: (N, 2) metres, the first point not repeated.
            holes: (H, 2) rings; drawings blank them in the whole layer, so they must not overlap another polygon.

        Returns:
            Its token.
        """
        rings = [{"node_tokens": self.nodes(hole)} for hole in holes]
        return self._append("polygon", {"exterior_node_tokens": self.nodes(exterior), "holes": rings})

    def add_area(self, layer: str, exterior: np.ndarray, fields: Mapping[str, Any] | None = None) -> str:
        """Adds a record of a polygon layer.

        Args:
            layer: one of `POLYGON_LAYERS`.
            exterior: (N, 2) metres, the first point not repeated.
            fields: its other fields.

        Returns:
            Its token.

        Raises:
            ValueError: no such layer.
        """
        if layer not in POLYGON_LAYERS:
            raise ValueError(f"VectorMapBuilder.add_area: layer must be one of {POLYGON_LAYERS}, got {layer!r}")
        return self._append(layer, {"polygon_token": self.polygon(exterior), **(fields or {})})

    def add_line(self, layer: str, points: np.ndarray, fields: Mapping[str, Any] | None = None) -> str:
        """Adds a record of a line layer.

        Args:
            layer: one of `LINE_LAYERS`. A divider must be short and nearly straight: map drawings fail where a patch
                cuts a line into two pieces.
            points: (N, 2) metres.
            fields: its other fields.

        Returns:
            Its token.

        Raises:
            ValueError: no such layer.
        """
        if layer not in LINE_LAYERS:
            raise ValueError(f"VectorMapBuilder.add_line: layer must be one of {LINE_LAYERS}, got {layer!r}")
        return self._append(layer, {"line_token": self.line(points), **(fields or {})})

    def add_drivable_area(self, exteriors: Sequence[np.ndarray]) -> str:
        """Adds one drivable area of several polygons.

        Args:
            exteriors: (N, 2) rings in metres.

        Returns:
            Its token.
        """
        return self._append("drivable_area", {"polygon_tokens": [self.polygon(ring) for ring in exteriors]})

    def connect(
        self, lane: str, incoming: Sequence[str], outgoing: Sequence[str], arclines: Sequence[Mapping[str, Any]]
    ) -> None:
        """Says what a lane or lane connector leads from and to, and how it runs.

        Args:
            lane: its token.
            incoming: tokens of the lanes that end where it begins.
            outgoing: tokens of the lanes that begin where it ends.
            arclines: its course: start_pose, end_pose, shape, radius, segment_length.
        """
        self._map["connectivity"][lane] = {"incoming": list(incoming), "outgoing": list(outgoing)}
        self._map["arcline_path_3"][lane] = [
            {**piece, **{key: self._on_map(piece[key]) for key in ("start_pose", "end_pose")}} for piece in arclines
        ]

    def _on_map(self, pose: Sequence[float]) -> list[float]:
        """x, y and heading on the map."""
        x, y, heading = pose
        return [x + self._origin_m[0], y + self._origin_m[1], heading]

    def build(self) -> dict[str, Any]:
        """The map with every key that the devkit asks for.

        Returns:
            What goes into the JSON file.
        """
        return self._map


def merge_maps(maps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One map of several that lie beside one another on it.

    Args:
        maps: as `VectorMapBuilder.build` gives them, with different namespaces.

    Returns:
        A map with the records of all, as large as they need.

    Raises:
        ValueError: no map, or two that share tokens.
    """
    if not maps:
        raise ValueError("merge_maps: maps must be at least one, got none")
    edges = zip(*(part["canvas_edge"] for part in maps), strict=True)
    merged: dict[str, Any] = {"version": maps[0]["version"], "canvas_edge": [max(edge) for edge in edges]}
    merged |= {layer: [row for part in maps for row in part[layer]] for layer in _LISTS}
    merged |= {layer: {token: row for part in maps for token, row in part[layer].items()} for layer in _DICTS}
    if len({row["token"] for row in merged["node"]}) < len(merged["node"]):
        raise ValueError("merge_maps: maps must have different namespaces, got two that share tokens")
    return merged


def draw_mask(vector_map: Mapping[str, Any]) -> np.ndarray:
    """The mask of a map: 255 on the drivable area, 0 elsewhere, 0.1 m a pixel, north up.

    Args:
        vector_map: as `VectorMapBuilder.build` gives it; holes in the drivable area are not left out.

    Returns:
        (10 * height, 10 * width) uint8.
    """
    width, height = (round(edge * MASK_PX_PER_M) for edge in vector_map["canvas_edge"])
    mask = np.zeros((height, width), dtype=np.uint8)
    points = {row["token"]: (row["x"], row["y"]) for row in vector_map["node"]}
    rings = {row["token"]: row["exterior_node_tokens"] for row in vector_map["polygon"]}
    fraction_bits = 6
    for token in (token for row in vector_map["drivable_area"] for token in row["polygon_tokens"]):
        ring = np.array([points[node] for node in rings[token]])  # (N, 2)
        pixels = ring * [MASK_PX_PER_M, -MASK_PX_PER_M] + [-0.5, height - 0.5]
        corners = np.round(pixels * (1 << fraction_bits)).astype(np.int32)
        cv2.fillPoly(mask, [corners], (255,), shift=fraction_bits)
    return mask


def write_maps(dataroot: str | Path, maps: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes vector map and mask of all four locations; those without a map get empty ones.

    Args:
        dataroot: the folder that gets `maps/`.
        maps: vector maps by location.

    Raises:
        ValueError: an unknown location.
        OSError: a file cannot be written.
    """
    if unknown := set(maps) - set(MASK_FILES):
        raise ValueError(f"write_maps: maps must be of {tuple(MASK_FILES)}, got {sorted(unknown)}")
    folder = Path(dataroot) / "maps"
    (folder / "expansion").mkdir(parents=True, exist_ok=True)
    for location, mask_file in MASK_FILES.items():
        vector_map = maps.get(location) or VectorMapBuilder((30.0, 20.0), location).build()
        with atomic_writer(folder / "expansion" / f"{location}.json") as file:
            file.write(json.dumps(vector_map, separators=(",", ":")).encode())
        _, png = cv2.imencode(".png", draw_mask(vector_map))
        with atomic_writer(folder / mask_file) as file:
            file.write(png.tobytes())
