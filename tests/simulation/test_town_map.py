"""A town's vector map in the devkit's hands."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from perception.formats.nuscenes_map import draw_mask, merge_maps, write_maps
from perception.simulation.town import Town, build_town, curves
from perception.simulation.town.arclines import arcline
from perception.simulation.town.town_map import town_map

map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
arcline_path_utils = pytest.importorskip("nuscenes.map_expansion.arcline_path_utils")
LAYERS = [
    "drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider",
    "road_segment", "road_block", "lane",
]  # fmt: skip


@dataclass
class Mapped:
    """A town, its own records, and the map of its location."""

    town: Town
    records: dict[str, Any]
    loaded: map_api.NuScenesMap

    @property
    def origin_m(self) -> np.ndarray:
        return np.array(self.town.origin_m)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> list[Mapped]:
    """Two towns in one location and one in another."""
    towns = [
        build_town(1, "train", "boston-seaport", district=0),
        build_town(2, "train", "boston-seaport", district=3),
        build_town(2, "test", "singapore-onenorth", district=1),
    ]
    folder = tmp_path_factory.mktemp("dataroot")
    records = [town_map(town) for town in towns]
    maps = {"boston-seaport": merge_maps(records[:2]), "singapore-onenorth": merge_maps(records[2:])}
    write_maps(folder, maps)
    loaded = {location: map_api.NuScenesMap(str(folder), location) for location in maps}
    return [Mapped(town, record, loaded[town.location]) for town, record in zip(towns, records, strict=True)]


def rasterise(it: Mapped, count: int) -> np.ndarray:
    """(layers,) share of cells set, over random turned patches of which some leave the town or the map."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(count):
        x, y = it.origin_m + rng.uniform(0, it.town.size_m)
        mask = it.loaded.get_map_mask((x, y, 100, 100), rng.uniform(-180, 180), LAYERS, (200, 200))
        assert mask.shape == (len(LAYERS), 200, 200)
        shares.append(mask.reshape(len(LAYERS), -1).mean(axis=1))
    return np.mean(shares, axis=0)


def test_every_layer_draws_in_random_patches(mapped: list[Mapped]) -> None:
    assert np.all(rasterise(mapped[1], 15) > 0)


@pytest.mark.slow
def test_every_layer_draws_in_200_random_patches(mapped: list[Mapped]) -> None:
    for it in mapped:
        assert np.all(rasterise(it, 70) > 0)


def test_masks_agree_with_the_polygons(mapped: list[Mapped]) -> None:
    for it in mapped:
        low, high = (np.round(10 * (it.origin_m + corner)).astype(int) for corner in (0, it.town.size_m))
        mask = draw_mask({key: getattr(it.loaded, key) for key in ("canvas_edge", "node", "polygon", "drivable_area")})
        assert mask.shape == tuple(round(10 * edge) for edge in it.loaded.canvas_edge[::-1])
        own = mask[len(mask) - high[1] : len(mask) - low[1], low[0] : high[0]]
        area = sum(face.area for face in it.town.areas["drivable_area"])
        assert (own == 255).sum() / 100 == pytest.approx(area, rel=0.01)


def test_the_map_of_a_location_is_as_large_as_its_towns_need(mapped: list[Mapped]) -> None:
    corners = np.array([it.origin_m + it.town.size_m for it in mapped])
    assert mapped[0].loaded.canvas_edge == pytest.approx(corners[:2].max(axis=0).tolist())
    assert mapped[2].loaded.canvas_edge == pytest.approx(corners[2].tolist())


def test_lanes_are_found_where_they_run(mapped: list[Mapped]) -> None:
    for it in mapped:
        tokens = [record["token"] for record in it.records["lane"] + it.records["lane_connector"]]
        courses = it.loaded.discretize_lanes(tokens, 0.5)
        for lane, token in zip(it.town.lanes, tokens, strict=True):  # lanes first, then connectors, as in the town
            course = np.array(courses[token])[:, :2] - it.origin_m
            np.testing.assert_allclose(course[[0, -1]], lane.centerline[[0, -1]], atol=1e-3)
            gaps = np.linalg.norm(course[:, None] - curves.resampled(lane.centerline, 0.5), axis=-1).min(axis=1)
            assert gaps.max() < 0.45
            assert it.loaded.get_outgoing_lane_ids(token) == [tokens[k] for k in lane.successors]
            assert it.loaded.get_incoming_lane_ids(token) == [tokens[k] for k in lane.predecessors]


def test_the_next_road_of_a_lane_is_its_junction(mapped: list[Mapped]) -> None:
    for it in mapped:
        for lane, record in list(zip(it.town.lanes, it.records["lane"], strict=False))[::6]:
            x, y = lane.centerline[len(lane.centerline) // 2] + it.origin_m
            assert it.loaded.layers_on_point(x, y)["lane"] == record["token"]
            following = it.loaded.get_next_roads(x, y)
            (segment,) = following["road_segment"]
            assert it.loaded.get("road_segment", segment)["is_intersection"]
            assert following["lane"] == [] and following["road_block"] == []


def test_every_ego_lane_lies_on_the_drivable_area(mapped: list[Mapped]) -> None:
    for it in mapped[1:]:
        points = np.concatenate([lane.centerline[2:-1:12] for lane in it.town.lanes[::4]]) + it.origin_m
        assert all(it.loaded.record_on_point(x, y, "drivable_area") for x, y in points)


def test_traffic_lights_stand_where_their_lines_are(mapped: list[Mapped]) -> None:
    for it in mapped:
        assert it.records["traffic_light"]
        for record in it.records["traffic_light"]:
            line = np.array(it.loaded.extract_line(record["line_token"]).coords)
            np.testing.assert_allclose(line.mean(axis=0), [record["pose"]["tx"], record["pose"]["ty"]], atol=1e-6)


def test_tokens_of_a_location_are_all_different(mapped: list[Mapped]) -> None:
    loaded = mapped[0].loaded
    tokens = [record["token"] for layer in loaded.non_geometric_layers for record in getattr(loaded, layer)]
    tokens += [record["token"] for layer in loaded.geometric_layers for record in getattr(loaded, layer)]
    assert len(set(tokens)) == len(tokens)


def test_dividers_are_short(mapped: list[Mapped]) -> None:
    for it in mapped[1:]:
        for record in it.loaded.road_divider + it.loaded.lane_divider:
            line = it.loaded.extract_line(record["line_token"])
            assert len(line.coords) == 2 and line.length <= 5.01


def test_an_arcline_ends_where_it_should() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        bend, chord, drift = rng.uniform(-0.8, 0.8), rng.uniform(3, 12), rng.uniform(-0.1, 0.1)
        start = (*rng.uniform(-50, 50, 2), rng.uniform(-np.pi, np.pi))
        along = start[2] + bend / 2 + drift
        end = (start[0] + chord * np.cos(along), start[1] + chord * np.sin(along), start[2] + bend)
        path = arcline(start, end)
        course = np.array(arcline_path_utils.discretize(path, 0.05))
        np.testing.assert_allclose(course[-1, :2], end[:2], atol=0.05)
        assert sum(path["segment_length"]) < 1.15 * chord
