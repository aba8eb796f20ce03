"""Rural landscapes: roads that can be driven, areas that fit the mesh, a map for the devkit, and scenes in them."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import LineString, Polygon
from shapely.ops import unary_union

from perception.formats.classes import CATEGORY_TO_CLASS, DETECTION_CLASSES, POINT_CATEGORIES
from perception.formats.nuscenes_map import merge_maps, write_maps
from perception.simulation.ego import BORDER_M
from perception.simulation.materials import material_index
from perception.simulation.town import KERB_HEIGHT_M, Town, build_town, curves
from perception.simulation.town.districts import DISTRICT_M
from perception.simulation.town.plan import draw_plan
from perception.simulation.town.roadside import furnish_roads
from perception.simulation.town.town_map import town_map
from perception.simulation.world import World
from tests.simulation.test_town import cast_down, points_in

TOWNS = [(1, "train", "boston-seaport"), (2, "test", "singapore-onenorth")]
ROADS = "drivable_area"


@cache
def rural(seed: int, split: str, location: str) -> Town:
    return build_town(seed, split, location, landscape="rural")


@pytest.fixture(params=TOWNS, ids=["right-hand", "left-hand"])
def town(request: pytest.FixtureRequest) -> Town:
    return rural(*request.param)


def bytes_of(town: Town) -> str:
    """A hash of all that a town is made of."""
    digest = hashlib.sha256()
    for array in (town.mesh.vertices, town.mesh.triangles, town.mesh.materials, town.mesh.semantics, town.materials):
        digest.update(array.tobytes())
    for lane in town.lanes:
        digest.update(lane.centerline.tobytes())
        digest.update(repr((lane.successors, lane.predecessors, lane.stop_line, lane.turn)).encode())
        digest.update(repr(lane.speed_limit_mps).encode())
    for layer in sorted(town.areas):
        for shape in town.areas[layer]:
            digest.update(shape.wkb)
    digest.update(repr((town.parking_slots, town.signal_heads, town.size_m)).encode())
    return digest.hexdigest()


def test_it_says_what_it_is_and_towns_stay_the_default(town: Town) -> None:
    assert town.landscape == "rural" and town.bustle < 1.0
    with pytest.raises(ValueError, match="build_town: landscape must be one of town, rural, got 'sea'"):
        build_town(0, landscape="sea")  # type: ignore[arg-type]


def test_roads_are_long_fast_and_bend_widely(town: Town) -> None:
    roads = [lane for lane in town.lanes if lane.junction is None]
    assert np.mean([curves.length(lane.centerline) for lane in roads]) > 180
    assert all(16.0 < lane.speed_limit_mps < 23.0 and lane.left is None and lane.right is None for lane in roads)
    for lane in roads:
        heading = np.unwrap(np.arctan2(*curves.directions(curves.resampled(lane.centerline, 4.0)).T[::-1]))
        assert np.abs(np.diff(heading)).max() < 4.0 / 40.0
    assert all(lane.speed_limit_mps < 14 for lane in town.lanes if lane.junction is not None)
    assert not town.signal_heads and {stop.kind for stop in town.stop_lines} <= {"STOP_SIGN", "YIELD"}


def test_lanes_join_without_gap_or_kink_and_lead_everywhere(town: Town) -> None:
    for lane in town.lanes:
        for following in (town.lanes[k] for k in lane.successors):
            assert lane.id in following.predecessors and (lane.junction is None) != (following.junction is None)
            np.testing.assert_allclose(following.centerline[0], lane.centerline[-1], atol=1e-6)
            turn = curves.directions(lane.centerline)[-1] @ curves.directions(following.centerline)[0]
            assert turn > np.cos(np.radians(4))
    for links in ("successors", "predecessors"):
        reached, pending = {0}, [0]
        while pending:
            found = set(getattr(town.lanes[pending.pop()], links)) - reached
            reached |= found
            pending += found
        assert len(reached) == len(town.lanes)


@pytest.mark.parametrize("seed", range(12))
def test_plans_of_any_seed_hold_together(seed: int) -> None:
    plan = draw_plan(seed, seed % 2 == 0, "rural")
    assert max(plan.size_m) <= DISTRICT_M
    points = np.concatenate([lane.centerline for lane in plan.lanes])
    assert points.min() > BORDER_M and (np.array(plan.size_m) - points).min() > BORDER_M
    assert all(lane.successors and lane.predecessors for lane in plan.lanes)
    assert all(plan.areas[layer] for layer in plan.areas)
    assert all(shape.is_valid and not shape.interiors for shapes in plan.areas.values() for shape in shapes)
    assert len(plan.junctions) >= 2 and len(plan.crossings) == 1 and len(plan.parking_slots) > 20
    assert {divider.kind for divider in plan.dividers} == {"road", "lane"}


def test_layers_lie_where_they_belong(town: Town) -> None:
    drivable = unary_union(town.areas[ROADS]).buffer(0.01)
    for layer in ("lane", "road_block", "road_segment", "ped_crossing", "stop_line", "carpark_area"):
        assert all(drivable.contains(shape.buffer(-0.05)) for shape in town.areas[layer]), layer
    walkway = unary_union(town.areas["walkway"])
    assert walkway.intersection(drivable.buffer(-0.02)).area < 1.0
    for lane in town.lanes:
        assert drivable.contains(LineString(lane.centerline).buffer(0.95, cap_style="flat"))
    for crossing in town.crossings:
        assert all(walkway.distance(end) < 0.3 for end in LineString(crossing.centerline).boundary.geoms)


def test_the_mesh_shows_what_the_map_says(town: Town) -> None:
    layers = {ROADS: "flat.driveable_surface", "carpark_area": "flat.driveable_surface", "walkway": "flat.sidewalk"}
    for layer, category in layers.items():
        heights, categories = cast_down(town, points_in(town.areas[layer], 2000), 0.4)
        height_m = KERB_HEIGHT_M if layer == "walkway" else 0.0
        as_mapped = (categories == POINT_CATEGORIES.index(category)) & (np.abs(heights - height_m) < 0.03)
        assert as_mapped.mean() > (0.98 if layer == "walkway" else 0.999), layer  # it slopes down to crossings


def test_nothing_hangs_over_the_lanes_or_stands_where_people_walk(town: Town) -> None:
    lanes = points_in(town.areas["lane"] + town.areas["lane_connector"], 4000, 0.1)
    heights, _ = cast_down(town, lanes, 3.3)
    assert heights.max() < 0.05
    ring = np.concatenate(town.walkways)
    for shift in (-0.4, 0.0, 0.4):
        heights, categories = cast_down(town, ring + np.array([shift, shift]), 2.1)
        assert heights.max() < KERB_HEIGHT_M + 0.03
        assert (heights > KERB_HEIGHT_M - 0.03).mean() > 0.99  # ways into car parks are low
        assert np.isin(categories, [24, 25, 26, 27]).all()


@pytest.mark.parametrize("seed", range(2))
def test_the_arms_of_poles_lie_across_the_road(seed: int) -> None:
    plan = draw_plan(seed, True, "rural")
    mesh = furnish_roads(np.random.default_rng(seed), plan, Polygon())
    corners = mesh.corners[mesh.materials == material_index("wood")].astype(np.float64)
    arms = corners[..., :2].reshape(-1, 36, 2)  # twelve triangles each
    roads = [divider.line for divider in plan.dividers if divider.kind == "road"]
    points, ways = (np.concatenate([of(road) for road in roads]) for of in (np.asarray, curves.directions))
    for arm in arms:
        nearest = np.linalg.norm(points - arm.mean(axis=0), axis=1).argmin()
        along = np.ptp(arm @ ways[nearest])
        assert along < 0.4 < 2.0 < np.ptp(arm @ curves.left_of(ways[nearest]))
    assert len(arms) > 3


def test_places_to_park_lie_on_their_areas(town: Town) -> None:
    parking = unary_union(town.areas["carpark_area"]).buffer(0.05)
    for slot in town.parking_slots:
        along = np.array([np.cos(slot.yaw_rad), np.sin(slot.yaw_rad)])
        line = LineString(np.array([slot.x, slot.y]) + np.outer([-2.3, 2.3], along))
        assert parking.contains(line.buffer(0.95, cap_style="flat"))


def test_the_land_goes_on_to_hills_and_the_mesh_is_no_larger_than_a_towns(town: Town) -> None:
    mesh = town.mesh
    assert mesh.num_triangles <= 110_000 and np.isfinite(mesh.vertices).all()
    assert mesh.triangles.max() < len(mesh.vertices) and mesh.materials.max() < len(town.materials)
    middle = np.array(town.size_m) / 2
    around = middle + 2000.0 * np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, 2 * np.pi, 60)])
    heights, categories = cast_down(town, around, 300.0)
    assert (categories == POINT_CATEGORIES.index("flat.terrain")).all()
    assert heights.min() > 0.0 and 10.0 < heights.max() < 130.0
    assert {"static.manmade", "static.vegetation", "flat.terrain", "flat.sidewalk"} <= {
        POINT_CATEGORIES[i] for i in np.unique(mesh.semantics)
    }


def test_the_same_arguments_build_the_same_bytes_and_others_do_not() -> None:
    first = bytes_of(rural(*TOWNS[0]))
    assert bytes_of(build_town(*TOWNS[0], landscape="rural")) == first
    assert bytes_of(rural(*TOWNS[1])) != first


@pytest.mark.slow
def test_towns_are_what_they_were_before_there_was_any_country() -> None:
    """Sums over one town, which hold on other machines too, where hashes of its numbers need not."""
    mesh = build_town(1, "train", "boston-seaport").mesh
    counts = (mesh.num_triangles, mesh.materials.sum(dtype=np.int64), mesh.semantics.sum(dtype=np.int64))
    assert counts == (86852, 4387094, 2438327)
    vertices = mesh.vertices.astype(np.float64)
    np.testing.assert_allclose(vertices.sum(axis=0), [25929083.139008, 25959203.001401, 473083.306365], rtol=1e-7)


@pytest.mark.parametrize(("seed", "split", "location"), [*TOWNS, (3, "val", "singapore-queenstown")])
def test_every_class_is_cast_in_a_scene(seed: int, split: str, location: str) -> None:
    town = rural(seed, split, location)
    world = World(town, 100 + seed, 8.0)
    assert {CATEGORY_TO_CLASS.get(actor.shape.category) for actor in world.actors} >= set(DETECTION_CLASSES)
    ego = np.array([world.ego2global(t_us)[:2, 3] for t_us in range(0, 8_000_001, 100_000)])
    assert ego.min() > BORDER_M and (np.array(town.size_m) - ego).min() > BORDER_M
    assert np.linalg.norm(np.diff(ego, axis=0), axis=1).sum() > 8.0


def test_the_devkit_takes_the_map(tmp_path: Path) -> None:
    map_api = pytest.importorskip("nuscenes.map_expansion.map_api", reason="nuscenes-devkit is the referee")
    town = rural(*TOWNS[0])
    write_maps(tmp_path, {town.location: merge_maps([town_map(town)])})
    loaded = map_api.NuScenesMap(str(tmp_path), town.location)
    layers = [layer for layer in loaded.non_geometric_layers if layer != "traffic_light"]
    assert all(getattr(loaded, layer) for layer in layers) and not loaded.traffic_light
    middle = np.array(town.size_m) / 2
    mask = loaded.get_map_mask((*middle, *town.size_m), 0.0, layers, (300, 300))
    assert mask.reshape(len(layers), -1).any(axis=1).all()
    for lane in (lane for lane in town.lanes if lane.junction is None):
        x, y = lane.centerline[len(lane.centerline) // 2] + town.origin_m
        (segment,) = loaded.get_next_roads(x, y)["road_segment"]
        assert loaded.get("road_segment", segment)["is_intersection"]
