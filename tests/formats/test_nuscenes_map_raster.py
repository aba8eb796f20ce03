"""Vector maps read and drawn: cell for cell as the devkit does, and damaged ones refused by name."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.formats.nuscenes_map import VectorMapBuilder, write_maps
from perception.formats.nuscenes_map_raster import DIVIDER_LAYERS, MAP_CLASSES, MapPatch, VectorMap

LOCATION = "boston-seaport"
AREAS = MAP_CLASSES[:5]
STOP = {"stop_line_type": "YIELD", "ped_crossing_tokens": [], "traffic_light_tokens": [], "road_block_token": ""}
SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def blob(rng: np.random.Generator, center: np.ndarray, radius_m: float) -> np.ndarray:
    """(N, 2) a star-shaped ring."""
    angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(5, 30)))
    radii = radius_m * rng.uniform(0.4, 1.0, len(angles))
    return center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def random_map(seed: int = 0) -> VectorMapBuilder:
    """Shapes of every layer strewn over 400 m: large, small, with holes, crossing themselves; short dividers."""
    rng = np.random.default_rng(seed)
    builder = VectorMapBuilder((400.0, 400.0), "random")
    builder.add_drivable_area([blob(rng, rng.uniform(0, 400, 2), 60.0) for _ in range(12)])
    for layer in AREAS[1:]:
        fields = STOP if layer == "stop_line" else {}
        for _ in range(40):
            builder.add_area(layer, blob(rng, rng.uniform(0, 400, 2), rng.choice([3.0, 15.0, 50.0])), fields)
        center = rng.uniform(100, 300, 2)
        holed = builder.polygon(
            center + 60 * (SQUARE - 0.5), [center + 20 * (SQUARE - 0.5), center + 4 * SQUARE + 13.1]
        )
        builder.build()[layer].append({"token": f"{layer}-holed", "polygon_token": holed, **fields})
        builder.add_area(layer, rng.uniform(0, 400, 2) + 40 * SQUARE[[0, 2, 1, 3]], fields)  # a bow tie
    for layer in DIVIDER_LAYERS:
        for _ in range(250):
            start = rng.uniform(0, 400, 2)
            builder.add_line(layer, start + np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]) * rng.normal(0, 8, 2))
    return builder


def written(folder: Path, content: dict[str, Any]) -> Path:
    """The file of a map that is `content`."""
    write_maps(folder, {LOCATION: content})
    return folder / f"maps/expansion/{LOCATION}.json"


def devkit_masks(api, patch: MapPatch) -> np.ndarray:
    """(6, rows, columns) what the devkit draws of a patch."""
    box = (*patch.center_m, *patch.size_m)
    drawn = api.get_map_mask(box, patch.yaw_rad / np.pi * 180, [*AREAS, *DIVIDER_LAYERS], patch.cells)
    return np.concatenate([drawn[:5], drawn[5:6] | drawn[6:7]]).astype(bool)


@pytest.mark.parametrize(("size_m", "cells"), [((100.0, 100.0), (200, 200)), ((60.0, 90.0), (150, 100))])
def test_masks_are_the_devkits_cell_for_cell(tmp_path: Path, size_m, cells) -> None:
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    vector_map = VectorMap(written(tmp_path, random_map().build()))
    api = map_api.NuScenesMap(str(tmp_path), LOCATION)
    rng = np.random.default_rng(1)
    covered = np.zeros(6)
    for _ in range(12):
        center = tuple(rng.uniform(0, 400, 2))
        patch = MapPatch(center_m=center, yaw_rad=rng.uniform(-math.pi, math.pi), size_m=size_m, cells=cells)
        masks = vector_map.rasterize(patch)
        np.testing.assert_array_equal(masks, devkit_masks(api, patch))
        covered += masks.any(axis=(1, 2))
    assert (covered >= 8).all()


def test_a_square_lies_where_it_is_drawn_by_hand(tmp_path: Path) -> None:
    builder = VectorMapBuilder((40.0, 40.0), "hand")
    builder.add_area("walkway", np.array([12.0, 11.0]) + [2.0, 1.0] * SQUARE)
    builder.add_line("lane_divider", np.array([[8.0, 14.0], [12.0, 14.0]]))
    vector_map = VectorMap(written(tmp_path, builder.build()))
    upright = MapPatch(center_m=(10.0, 10.0), yaw_rad=0.0, size_m=(10.0, 10.0), cells=(10, 10))
    walkway, divider = vector_map.rasterize(upright, ["walkway", "divider"])
    assert np.argwhere(walkway).tolist() == [[y, x] for y in (6, 7) for x in (7, 8, 9)]  # corners belong to it
    assert divider[9, 3:8].all() and not divider[:8].any()
    turned = MapPatch(center_m=(10.0, 10.0), yaw_rad=math.pi / 2, size_m=(10.0, 10.0), cells=(10, 10))
    (walkway,) = vector_map.rasterize(turned, ["walkway"])  # x forward is north, y is west
    assert np.argwhere(walkway).tolist() == [[y, x] for y in (1, 2, 3) for x in (6, 7)]
    assert not vector_map.rasterize(MapPatch(center_m=(900.0, 9.0), yaw_rad=0.3)).any()


def test_what_the_devkit_cannot_draw_is_drawn(tmp_path: Path) -> None:
    builder = VectorMapBuilder((400.0, 400.0), "hard")
    builder.add_line("road_divider", np.array([[90.0, 100.0], [90.0, 151.0], [110.0, 151.0], [110.0, 100.0]]))
    builder.add_area("carpark_area", np.array([150.0, 90.0]) + 20 * SQUARE)  # touches the patch
    builder.add_drivable_area([np.array([90.0, 90.0]) + 20 * SQUARE[[0, 2, 1, 3]]])  # crosses itself
    vector_map = VectorMap(written(tmp_path, builder.build()))
    drivable, carpark, divider = vector_map.rasterize(
        MapPatch(center_m=(100.0, 100.0), yaw_rad=0.0), ["drivable_area", "carpark_area", "divider"]
    )
    assert divider[100:, 80].all() and divider[100:, 120].all() and not divider[:, 90:110].any()
    assert not carpark.any()
    assert drivable[100, 80:120].all() and 0.4 < drivable[80:120, 80:120].mean() < 0.7
    assert not drivable[103:120, 100].any(), "above the knot there is nothing"


def test_shapes_without_nodes_or_extent_are_left_out(tmp_path: Path) -> None:
    builder = random_map()
    content = builder.build()
    before = VectorMap(written(tmp_path, content)).layers
    content["polygon"].append({"token": "bare", "exterior_node_tokens": [], "holes": []})
    content["walkway"].append({"token": "bare", "polygon_token": "bare"})
    content["line"].append({"token": "bare", "node_tokens": []})
    content["lane_divider"].append({"token": "bare", "line_token": "bare"})
    builder.add_line("lane_divider", np.array([[9.0, 9.0], [9.0, 9.0]]))
    content["polygon"][0]["holes"].append({"node_tokens": []})
    after = VectorMap(written(tmp_path, content)).layers
    assert {name: len(layer.shapes) for name, layer in after.items()} == {
        name: len(layer.shapes) for name, layer in before.items()
    }


def _first(content: dict[str, Any], layer: str) -> dict[str, Any]:
    """The record of what a layer's first record refers to."""
    kind = "line" if layer.endswith("divider") else "polygon"
    token = content[layer][0][f"{kind}_token"]
    return next(row for row in content[kind] if row["token"] == token)


def _without_layer(content: dict[str, Any]) -> None:
    del content["stop_line"]


def _without_node(content: dict[str, Any]) -> None:
    _first(content, "walkway")["exterior_node_tokens"][1] = "gone"


def _two_points(content: dict[str, Any]) -> None:
    row = _first(content, "walkway")
    row["exterior_node_tokens"] = row["exterior_node_tokens"][:2] + row["exterior_node_tokens"][:1]


def _thin_hole(content: dict[str, Any]) -> None:
    row = _first(content, "walkway")
    row["holes"] = [{"node_tokens": row["exterior_node_tokens"][:2]}]


def _one_point(content: dict[str, Any]) -> None:
    row = _first(content, "road_divider")
    row["node_tokens"] = row["node_tokens"][:1]


def _without_polygon(content: dict[str, Any]) -> None:
    content["drivable_area"][0]["polygon_tokens"][0] = "gone"


def _without_line(content: dict[str, Any]) -> None:
    content["lane_divider"][0]["line_token"] = "gone"


def _not_finite(content: dict[str, Any]) -> None:
    content["node"][3] |= {"token": "lost", "x": math.nan}


def _far_away(content: dict[str, Any]) -> None:
    content["node"][3] |= {"token": "lost", "y": 1e9}


def _wrong_type(content: dict[str, Any]) -> None:
    content["ped_crossing"][2] = {"token": "odd", "polygon_token": 7}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_layer, r"missing required field `stop_line`"),
        (_without_node, r"walkway, token '\w+': polygon '\w+': must name nodes of the map, got 'gone'"),
        (_two_points, r"walkway, token '\w+': polygon '\w+': a ring must have at least 3 nodes, got 3"),
        (_thin_hole, r"walkway, token '\w+': polygon '\w+': a ring must have at least 3 nodes, got 2"),
        (_one_point, r"road_divider, token '\w+': line '\w+': must have at least 2 nodes, got 1"),
        (_without_polygon, r"drivable_area, token '\w+': must name a polygon of the map, got 'gone'"),
        (_without_line, r"lane_divider, token '\w+': must name a line of the map, got 'gone'"),
        (_not_finite, r"node, token 'lost': must lie within 1000000 m of the origin, got x = nan"),
        (_far_away, r"node, token 'lost': must lie within 1000000 m of the origin, got .* y = 1000000000"),
        (_wrong_type, r"ped_crossing, row 2 \(token 'odd'\): field `polygon_token`: Expected `str`, got `int`"),
    ],
)
def test_a_damaged_map_is_refused_with_file_layer_and_token(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = written(tmp_path, random_map().build())
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"read_map_layers: .*{LOCATION}.json: .*{message}"):
        VectorMap(path)


@pytest.mark.parametrize("text", [b"", b'{"node": [', b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_map_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "map.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"read_map_layers: .*map.json: "):
        VectorMap(tmp_path / "map.json")
    with pytest.raises(FileNotFoundError):
        VectorMap(tmp_path / "none.json")


def test_wrong_patches_and_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"MapPatch: center_m, yaw_rad and size_m must be finite"):
        MapPatch(center_m=(math.nan, 0.0), yaw_rad=0.0)
    with pytest.raises(ValueError, match=r"MapPatch: size_m and cells must be positive, got \(0.0, 9.0\)"):
        MapPatch(center_m=(0.0, 0.0), yaw_rad=0.0, size_m=(0.0, 9.0))
    vector_map = VectorMap(written(tmp_path, random_map().build()))
    with pytest.raises(ValueError, match=r"class_names must be of drivable_area, .*, got \['river'\]"):
        vector_map.rasterize(MapPatch(center_m=(0.0, 0.0), yaw_rad=0.0), ["walkway", "river"])
