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
        size_m: width and height of the map, whose origin is its bottom left corner.
        namespace: what the tokens are derived from; equal calls in equal order give equal tokens.
    """

    def __init__(self, size_m: tuple[float, float], namespace: str) -> None:
        self._namespace = namespace
        self._nodes: dict[tuple[float, float], str] = {}
        self._map: dict[str, Any] = {"version": "1.3", "canvas_edge": [float(edge) for edge in size_m]}
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
        for x, y in points.tolist():
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
        self._map["arcline_path_3"][lane] = [dict(piece) for piece in arclines]

    def build(self) -> dict[str, Any]:
        """The map with every key that the devkit asks for.

        Returns:
            What goes into the JSON file.
        """
        return self._map


def draw_mask(exteriors: Sequence[np.ndarray], size_m: tuple[float, float]) -> np.ndarray:
    """A map's mask: 255 on the given areas, 0 elsewhere, 0.1 m a pixel, north up.

    Args:
        exteriors: (N, 2) rings in metres, without holes.
        size_m: width and height of the map.

    Returns:
        (10 * height, 10 * width) uint8.
    """
    width, height = (round(edge * MASK_PX_PER_M) for edge in size_m)
    mask = np.zeros((height, width), dtype=np.uint8)
    fraction_bits = 6
    for ring in exteriors:
        pixels = np.asarray(ring, dtype=np.float64) * [MASK_PX_PER_M, -MASK_PX_PER_M] + [-0.5, height - 0.5]
        corners = np.round(pixels * (1 << fraction_bits)).astype(np.int32)
        cv2.fillPoly(mask, [corners], (255,), shift=fraction_bits)
    return mask


def write_maps(dataroot: str | Path, maps: Mapping[str, tuple[Mapping[str, Any], np.ndarray]]) -> None:
    """Writes vector map and mask of all four locations; those without a map get empty ones.

    Args:
        dataroot: the folder that gets `maps/`.
        maps: by location, the vector map and its (H, W) uint8 mask.

    Raises:
        ValueError: an unknown location, or a mask whose size does not fit the map's `canvas_edge`.
        OSError: a file cannot be written.
    """
    if unknown := set(maps) - set(MASK_FILES):
        raise ValueError(f"write_maps: maps must be of {tuple(MASK_FILES)}, got {sorted(unknown)}")
    folder = Path(dataroot) / "maps"
    (folder / "expansion").mkdir(parents=True, exist_ok=True)
    for location, mask_file in MASK_FILES.items():
        size_m = (30.0, 20.0)
        vector_map, mask = maps.get(location) or (VectorMapBuilder(size_m, location).build(), draw_mask([], size_m))
        expected = tuple(round(edge * MASK_PX_PER_M) for edge in reversed(vector_map["canvas_edge"]))
        if mask.shape != expected or mask.dtype != np.uint8:
            raise ValueError(
                f"write_maps: the mask of {location} must be {expected} uint8, got {mask.shape} {mask.dtype}"
            )
        with atomic_writer(folder / "expansion" / f"{location}.json") as file:
            file.write(json.dumps(vector_map, separators=(",", ":")).encode())
        _, png = cv2.imencode(".png", mask)
        with atomic_writer(folder / mask_file) as file:
            file.write(png.tobytes())
