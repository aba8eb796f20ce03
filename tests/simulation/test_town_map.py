"""A town's vector map in the devkit's hands."""

import numpy as np
import pytest

from perception.formats.nuscenes_map import write_maps
from perception.simulation.town import Town, build_town, curves
from perception.simulation.town.arclines import arcline
from perception.simulation.town.town_map import town_map, town_mask

map_api = pytest.importorskip("nuscenes.map_expansion.map_api")
arcline_path_utils = pytest.importorskip("nuscenes.map_expansion.arcline_path_utils")
LAYERS = [
    "drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider",
    "road_segment", "road_block", "lane",
]  # fmt: skip


@pytest.fixture(scope="module")
def towns() -> list[Town]:
    return [build_town(1, "train", "boston-seaport"), build_town(2, "test", "singapore-onenorth")]


@pytest.fixture(scope="module")
def maps(towns: list[Town], tmp_path_factory: pytest.TempPathFactory) -> list[map_api.NuScenesMap]:
    folder = tmp_path_factory.mktemp("dataroot")
    write_maps(folder, {town.location: (town_map(town), town_mask(town)) for town in towns})
    return [map_api.NuScenesMap(str(folder), town.location) for town in towns]


def rasterise(town: Town, loaded: map_api.NuScenesMap, count: int) -> np.ndarray:
    """(layers,) share of cells set, over random turned patches of which some leave the map."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(count):
        x, y = rng.uniform(0, town.size_m)
        mask = loaded.get_map_mask((x, y, 100, 100), rng.uniform(-180, 180), LAYERS, (200, 200))
        assert mask.shape == (len(LAYERS), 200, 200)
        shares.append(mask.reshape(len(LAYERS), -1).mean(axis=1))
    return np.mean(shares, axis=0)


def test_every_layer_draws_in_random_patches(towns: list[Town], maps: list[map_api.NuScenesMap]) -> None:
    assert np.all(rasterise(towns[0], maps[0], 15) > 0)


@pytest.mark.slow
def test_every_layer_draws_in_200_random_patches(towns: list[Town], maps: list[map_api.NuScenesMap]) -> None:
    for town, loaded in zip(towns, maps, strict=True):
        assert np.all(rasterise(town, loaded, 200) > 0)


def test_masks_agree_with_the_polygons(towns: list[Town], maps: list[map_api.NuScenesMap]) -> None:
    for town, loaded in zip(towns, maps, strict=True):
        mask = town_mask(town)
        assert mask.shape == tuple(round(10 * edge) for edge in town.size_m[::-1])
        assert loaded.canvas_edge == list(town.size_m)
        area = sum(face.area for face in town.areas["drivable_area"])
        assert (mask == 255).sum() / 100 == pytest.approx(area, rel=0.01)


def test_lanes_are_found_where_they_run(towns: list[Town], maps: list[map_api.NuScenesMap]) -> None:
    for town, loaded in zip(towns, maps, strict=True):
        tokens = [record["token"] for record in loaded.lane + loaded.lane_connector]
        courses = loaded.discretize_lanes(tokens, 0.5)
        for lane, token in zip(town.lanes, tokens, strict=True):  # lanes first, then connectors, as in the town
            course = np.array(courses[token])
            np.testing.assert_allclose(course[[0, -1], :2], lane.centerline[[0, -1]], atol=1e-3)
            gaps = np.linalg.norm(course[:, None, :2] - curves.resampled(lane.centerline, 0.5), axis=-1).min(axis=1)
            assert gaps.max() < 0.45
            assert loaded.get_outgoing_lane_ids(token) == [tokens[k] for k in lane.successors]
            assert loaded.get_incoming_lane_ids(token) == [tokens[k] for k in lane.predecessors]


def test_the_next_road_of_a_lane_is_its_junction(towns: list[Town], maps: list[map_api.NuScenesMap]) -> None:
    for town, loaded in zip(towns, maps, strict=True):
        for lane, record in list(zip(town.lanes, loaded.lane, strict=False))[::6]:
            x, y = lane.centerline[len(lane.centerline) // 2]
            assert loaded.layers_on_point(x, y)["lane"] == record["token"]
            following = loaded.get_next_roads(x, y)
            (segment,) = following["road_segment"]
            assert loaded.get("road_segment", segment)["is_intersection"]
            assert following["lane"] == [] and following["road_block"] == []


def test_every_ego_lane_lies_on_the_drivable_area(towns: list[Town], maps: list[map_api.NuScenesMap]) -> None:
    points = np.concatenate([lane.centerline[2:-1:12] for lane in towns[1].lanes[::4]])
    assert all(maps[1].record_on_point(x, y, "drivable_area") for x, y in points)


def test_dividers_are_short(maps: list[map_api.NuScenesMap]) -> None:
    for loaded in maps:
        for record in loaded.road_divider + loaded.lane_divider:
            line = loaded.extract_line(record["line_token"])
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
