"""Vector maps and masks, held against the devkit that reads them."""

import json
from pathlib import Path

import numpy as np
import pytest

from perception.formats.nuscenes_map import MASK_FILES, VectorMapBuilder, draw_mask, merge_maps, write_maps

SQUARE = np.array([[2.0, 1.0], [6.0, 1.0], [6.0, 4.0], [2.0, 4.0]])


def lane_map(namespace: str = "town", origin_m: tuple[float, float] = (0.0, 0.0)) -> VectorMapBuilder:
    builder = VectorMapBuilder((30.0, 20.0), namespace, origin_m)
    builder.add_drivable_area([SQUARE])
    edges = {"from_edge_line_token": builder.line(SQUARE[[0, 3]]), "to_edge_line_token": builder.line(SQUARE[[1, 2]])}
    sides = {"left_lane_divider_segments": [], "right_lane_divider_segments": []}
    lane = builder.add_area("lane", SQUARE, {"lane_type": "CAR", **edges, **sides})
    course = {
        "start_pose": [2, 2.5, 0],
        "end_pose": [6, 2.5, 0],
        "shape": "LSL",
        "radius": 9.0,
        "segment_length": [0, 4, 0],
    }
    builder.connect(lane, [], [], [course])
    builder.add_line("road_divider", SQUARE[:2], {"road_segment_token": ""})
    return builder


def test_points_with_equal_coordinates_are_one_node_and_tokens_repeat() -> None:
    built = lane_map().build()
    assert len(built["node"]) == 4
    assert built == lane_map().build()
    assert VectorMapBuilder((30.0, 20.0), "other").nodes(SQUARE) != lane_map().nodes(SQUARE)


def test_a_mask_is_north_up_at_a_tenth_of_a_metre() -> None:
    mask = draw_mask(lane_map().build())
    assert mask.shape == (200, 300) and set(np.unique(mask)) == {0, 255}
    rows, columns = np.nonzero(mask)
    extent = [rows.min(), rows.max(), columns.min(), columns.max()]
    np.testing.assert_allclose(extent, [160, 189, 20, 59], atol=1)  # the outline itself is drawn, too


def test_the_devkit_loads_all_four_locations(tmp_path: Path) -> None:
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    map_mask = pytest.importorskip("nuscenes.utils.map_mask")
    write_maps(tmp_path, {"singapore-onenorth": lane_map().build()})
    for location, mask_file in MASK_FILES.items():
        loaded = map_api.NuScenesMap(str(tmp_path), location)
        mask = map_mask.MapMask(str(tmp_path / "maps" / mask_file), resolution=0.1)
        has_lane = location == "singapore-onenorth"
        assert len(loaded.lane) == has_lane
        assert loaded.canvas_edge == [edge / 10 for edge in mask.mask().shape[::-1]]
        assert mask.is_on_mask(4.0, 2.5) == has_lane
        layers = ["drivable_area", "lane", "road_divider"]
        patch = loaded.get_map_mask((4.0, 2.5, 8.0, 8.0), 0.0, layers, (80, 80))
        np.testing.assert_allclose(patch[:2].mean(axis=(1, 2)), has_lane * 12 / 64, atol=0.02)
    onenorth = map_api.NuScenesMap(str(tmp_path), "singapore-onenorth")
    assert onenorth.get_closest_lane(4.0, 2.5, radius=3) == onenorth.lane[0]["token"]
    course = np.array(onenorth.discretize_lanes([onenorth.lane[0]["token"]], 1.0)[onenorth.lane[0]["token"]])
    np.testing.assert_allclose(course[[0, -1], :2], [[2, 2.5], [6, 2.5]], atol=1e-9)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_maps(tmp_path / name, {"boston-seaport": lane_map().build()})
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 8
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert json.loads((tmp_path / "a/maps/expansion/singapore-queenstown.json").read_text())["version"] == "1.3"


def test_maps_side_by_side_are_one_map_in_the_devkits_hands(tmp_path: Path) -> None:
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
    origins = [(0.0, 0.0), (200.0, 100.0)]
    parts = [lane_map(f"town-{k}", origin).build() for k, origin in enumerate(origins)]
    write_maps(tmp_path, {"boston-seaport": merge_maps(parts)})
    loaded = map_api.NuScenesMap(str(tmp_path), "boston-seaport")
    assert loaded.canvas_edge == [230.0, 120.0]
    assert draw_mask(merge_maps(parts)).shape == (1200, 2300)
    for lane, (x, y) in zip(loaded.lane, origins, strict=True):
        assert loaded.layers_on_point(x + 4.0, y + 2.5)["lane"] == lane["token"]
        assert loaded.get_closest_lane(x + 4.0, y + 2.5, radius=3) == lane["token"]
        course = np.array(loaded.discretize_lanes([lane["token"]], 1.0)[lane["token"]])
        np.testing.assert_allclose(course[[0, -1], :2], [[x + 2, y + 2.5], [x + 6, y + 2.5]], atol=1e-9)
        patch = loaded.get_map_mask((x + 4.0, y + 2.5, 8.0, 8.0), 0.0, ["drivable_area", "lane"], (80, 80))
        np.testing.assert_allclose(patch.mean(axis=(1, 2)), 12 / 64, atol=0.02)
    assert not any(loaded.layers_on_point(104.0, 52.5).values())


def test_maps_that_share_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="merge_maps: maps must have different namespaces"):
        merge_maps([lane_map().build(), lane_map(origin_m=(50.0, 0.0)).build()])
    with pytest.raises(ValueError, match="merge_maps: maps must be at least one, got none"):
        merge_maps([])


def test_rejects_wrong_places_layers_and_points(tmp_path: Path) -> None:
    builder = VectorMapBuilder((30.0, 20.0), "town")
    with pytest.raises(ValueError, match=r"write_maps: maps must be of .*, got \['paris'\]"):
        write_maps(tmp_path, {"paris": builder.build()})
    with pytest.raises(ValueError, match=r"add_area: layer must be one of .*, got 'river'"):
        builder.add_area("river", SQUARE)
    with pytest.raises(ValueError, match=r"add_line: layer must be one of .*, got 'lane'"):
        builder.add_line("lane", SQUARE)
    with pytest.raises(ValueError, match=r"nodes: points must be \(N, 2\) and finite, got \(1, 2\)"):
        builder.nodes(np.array([[np.nan, 0.0]]))
