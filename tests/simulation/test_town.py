"""Towns: lanes that can be driven, areas that fit the mesh, and nothing in the way."""

from functools import cache

import numpy as np
import pytest
from shapely import contains_xy, prepare
from shapely.geometry import LineString, Polygon
from shapely.ops import unary_union

from perception.formats.classes import POINT_CATEGORIES
from perception.simulation.materials import material_index
from perception.simulation.town import KERB_HEIGHT_M, Town, build_town, curves
from perception.simulation.town.plan import draw_plan

TOWNS = [(1, "train", "boston-seaport"), (2, "test", "singapore-onenorth")]


@cache
def town_of(seed: int, split: str, location: str) -> Town:
    return build_town(seed, split, location)


@pytest.fixture(params=TOWNS, ids=["right-hand", "left-hand"])
def town(request: pytest.FixtureRequest) -> Town:
    return town_of(*request.param)


def cast_down(town: Town, points: np.ndarray, height_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Height and category of what lies below points at a height; shifted to the origin for precision."""
    o3d = pytest.importorskip("open3d")
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(town.mesh.vertices), o3d.core.Tensor(town.mesh.triangles.astype(np.uint32)))
    rays = np.zeros((len(points), 6), np.float32)
    rays[:, :2], rays[:, 2], rays[:, 5] = points, height_m, -1
    hits = scene.cast_rays(o3d.core.Tensor(rays))
    return height_m - hits["t_hit"].numpy(), town.mesh.semantics[hits["primitive_ids"].numpy()]


def points_in(areas: list[Polygon], count: int, margin_m: float = 0.25) -> np.ndarray:
    """Points drawn in areas, a margin away from their edges."""
    rng = np.random.default_rng(0)
    merged = unary_union(areas).buffer(-margin_m)
    prepare(merged)
    low, high = np.array(merged.bounds[:2]), np.array(merged.bounds[2:])
    points = rng.uniform(low, high, (count * 20, 2))
    return points[contains_xy(merged, points)][:count]


def test_the_map_is_large_and_the_lanes_lie_well_inside(town: Town) -> None:
    assert min(town.size_m) >= 400
    points = np.concatenate([lane.centerline for lane in town.lanes])
    assert points.min() >= 60 and np.all(np.array(town.size_m) - points.max(axis=0) >= 60)


def test_the_mesh_is_small_enough_to_cast_rays_at_and_has_no_slivers(town: Town) -> None:
    assert 40_000 < town.mesh.num_triangles <= 110_000
    assert town.mesh.vertices.dtype == np.float32 and np.isfinite(town.mesh.vertices).all()
    assert town.mesh.triangles.max() < len(town.mesh.vertices)
    assert town.mesh.materials.max() < len(town.materials)
    flat_or_static = set(range(24, 31))
    assert set(np.unique(town.mesh.semantics).tolist()) <= flat_or_static


def test_lanes_join_without_gap_or_kink(town: Town) -> None:
    for lane in town.lanes:
        assert lane.successors and lane.predecessors
        for following in (town.lanes[k] for k in lane.successors):
            assert lane.id in following.predecessors
            assert (lane.junction is None) != (following.junction is None)
            np.testing.assert_allclose(following.centerline[0], lane.centerline[-1], atol=1e-6)
            turn = curves.directions(lane.centerline)[-1] @ curves.directions(following.centerline)[0]
            assert turn > np.cos(np.radians(4))


def test_every_lane_leads_to_every_other(town: Town) -> None:
    for links in ("successors", "predecessors"):
        reached, pending = {0}, [0]
        while pending:
            found = set(getattr(town.lanes[pending.pop()], links)) - reached
            reached |= found
            pending += found
        assert len(reached) == len(town.lanes)


def test_lanes_bend_no_tighter_than_a_car_can_turn(town: Town) -> None:
    for lane in town.lanes:
        heading = np.unwrap(np.arctan2(*curves.directions(curves.resampled(lane.centerline, 1.0)).T[::-1]))
        assert np.abs(np.diff(heading)).max() < 1 / (5.0 if lane.junction is not None else 11.0)


def test_neighbours_lie_side_by_side(town: Town) -> None:
    paired = [lane for lane in town.lanes if lane.right is not None]
    assert paired
    for lane in paired:
        right = town.lanes[lane.right]
        assert right.left == lane.id
        middle = len(lane.centerline) // 2
        gap = right.centerline[middle] - lane.centerline[middle]
        ahead = curves.directions(lane.centerline)[middle]
        assert gap @ -curves.left_of(ahead) == pytest.approx(lane.width_m, abs=1e-6)


def test_traffic_keeps_to_the_side_of_its_country(town: Town) -> None:
    middles = [LineString(divider.line) for divider in town.dividers if divider.kind == "road"]
    to_the_left = 0
    lanes = [lane for lane in town.lanes if lane.junction is None]
    for lane in lanes:
        point, ahead = lane.centerline[3], curves.directions(lane.centerline)[3]
        middle = min(middles, key=lambda line: line.distance(LineString(lane.centerline[2:5])))
        nearest = middle.interpolate(middle.project(LineString(lane.centerline[3:5]).boundary.geoms[0]))
        to_the_left += curves.left_of(ahead) @ (np.array([nearest.x, nearest.y]) - point) > 0
    assert to_the_left == (len(lanes) if town.location.startswith("boston") else 0)


def test_areas_are_simple_polygons_without_holes(town: Town) -> None:
    for layer, shapes in town.areas.items():
        assert shapes, layer
        for shape in shapes:
            assert shape.is_valid and not shape.interiors and shape.area > 0.4, layer


def test_layers_lie_where_they_belong(town: Town) -> None:
    drivable = unary_union(town.areas["drivable_area"]).buffer(0.01)
    for layer in ("lane", "road_block", "road_segment", "ped_crossing", "stop_line", "carpark_area"):
        assert all(drivable.contains(shape.buffer(-0.05)) for shape in town.areas[layer]), layer
    walkway = unary_union(town.areas["walkway"])
    assert walkway.intersection(drivable.buffer(-0.02)).area < 1.0
    for lane in town.lanes:  # a car 1.9 m wide stays on the road all the way
        assert drivable.contains(LineString(lane.centerline).buffer(0.95, cap_style="flat"))


def test_signals_stop_lines_and_crossings_refer_to_their_junctions(town: Town) -> None:
    for k, stop in enumerate(town.stop_lines):
        assert all(town.lanes[lane].stop_line == k for lane in stop.lanes)
        for lane in stop.lanes:
            assert stop.polygon.buffer(0.1).contains(LineString(town.lanes[lane].centerline[-1:].repeat(2, 0)).centroid)
        lights = [head for head in town.signal_heads if head.stop_line == k]
        assert bool(lights) == (stop.kind == "TRAFFIC_LIGHT") and town.junctions[stop.junction].signals >= bool(lights)
        for head in lights:  # it looks at those who wait
            lane = town.lanes[stop.lanes[0]]
            ahead = curves.directions(lane.centerline)[-1]
            assert ahead @ [np.cos(head.yaw_rad), np.sin(head.yaw_rad)] < -0.95
            assert 2 < np.array(head.position_m[:2]) @ ahead - lane.centerline[-1] @ ahead < 15
    for crossing in town.crossings:
        ends = LineString(crossing.centerline)
        assert unary_union(town.areas["walkway"]).buffer(0.3).intersects(ends.boundary.geoms[0])
        assert unary_union(town.areas["walkway"]).buffer(0.3).intersects(ends.boundary.geoms[1])


@pytest.mark.parametrize(
    ("layer", "category", "height_m", "share"),
    [
        ("drivable_area", "flat.driveable_surface", 0.0, 0.999),
        ("ped_crossing", "flat.driveable_surface", 0.0, 1.0),
        ("stop_line", "flat.driveable_surface", 0.0, 1.0),
        ("carpark_area", "flat.driveable_surface", 0.0, 0.999),
        ("walkway", "flat.sidewalk", KERB_HEIGHT_M, 0.96),
    ],
)
def test_the_mesh_shows_what_the_map_says(town: Town, layer: str, category: str, height_m: float, share: float) -> None:
    points = points_in(town.areas[layer], 2000)
    heights, categories = cast_down(town, points, 0.4)
    as_mapped = (categories == POINT_CATEGORIES.index(category)) & (np.abs(heights - height_m) < 0.03)
    assert as_mapped.mean() >= share


def test_nothing_hangs_over_the_lanes_or_stands_where_people_walk(town: Town) -> None:
    lanes = points_in(town.areas["lane"] + town.areas["lane_connector"], 4000, 0.1)
    heights, _ = cast_down(town, lanes, 3.3)
    assert heights.max() < 0.05
    ring = np.concatenate(town.walkways)
    for shift in (-0.4, 0.0, 0.4):
        heights, categories = cast_down(town, ring + np.array([shift, shift]), 2.1)
        assert heights.max() < KERB_HEIGHT_M + 0.02
        assert np.isin(categories, [24, 25, 26, 27]).all()


def test_parking_slots_lie_on_their_areas_and_apart(town: Town) -> None:
    cars = []
    parking = unary_union(town.areas["carpark_area"]).buffer(0.05)
    for slot in town.parking_slots:
        along = np.array([np.cos(slot.yaw_rad), np.sin(slot.yaw_rad)])
        line = LineString(np.array([slot.x, slot.y]) + np.outer([-2.3, 2.3], along))
        cars.append(line.buffer(0.95, cap_style="flat"))
        assert parking.contains(cars[-1])
    assert len(cars) >= 40
    assert unary_union(cars).area == pytest.approx(sum(car.area for car in cars), rel=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_plans_of_any_seed_hold_together(seed: int) -> None:
    plan = draw_plan(seed, drives_on_the_right=seed % 2 == 0)
    assert all(lane.successors for lane in plan.lanes)
    assert min(curves.length(lane.centerline) for lane in plan.lanes) > 8
    assert all(shape.is_valid and not shape.interiors for shapes in plan.areas.values() for shape in shapes)
    assert len(plan.junctions) >= 6 and plan.parking_slots
    degrees = {sum(a.junction == j for a in plan.approaches) for j in range(len(plan.junctions))}
    assert degrees == {3, 4}


def test_a_park_whose_edge_is_one_line_in_two_parts_gets_its_hedges() -> None:
    town = build_town(100100, "train", "boston-seaport")
    assert np.any(town.mesh.materials == material_index("hedge"))


@pytest.mark.slow
def test_the_same_arguments_build_the_same_bytes() -> None:
    first, again = town_of(*TOWNS[0]), build_town(*TOWNS[0])
    assert first.mesh.vertices.tobytes() == again.mesh.vertices.tobytes()
    assert first.mesh.triangles.tobytes() == again.mesh.triangles.tobytes()
    assert first.mesh.materials.tobytes() == again.mesh.materials.tobytes()
    assert first.materials.tobytes() == again.materials.tobytes()


def test_the_same_seed_draws_the_same_plan_and_another_does_not() -> None:
    first, again, other = draw_plan(2), draw_plan(2), draw_plan(3)
    points = [np.concatenate([lane.centerline for lane in plan.lanes]).tobytes() for plan in (first, again, other)]
    assert points[0] == points[1] != points[2]
    assert first.parking_slots == again.parking_slots


def test_rejects_unknown_splits_places_and_seeds() -> None:
    with pytest.raises(ValueError, match="build_town: seed must be at least 0, got -1"):
        build_town(-1)
    with pytest.raises(ValueError, match="build_town: split must be one of train, val, test, got 'mini'"):
        build_town(0, "mini")
    with pytest.raises(ValueError, match=r"build_town: location must be one of .*, got 'paris'"):
        build_town(0, "train", "paris")
    with pytest.raises(ValueError, match=r"district of singapore-onenorth must be in 0\.\.3, .*, got 4"):
        build_town(0, "train", "singapore-onenorth", 4)
