"""What traffic is built on: paths, boxes on the ground, right of way, the driver model."""

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from shapely.geometry import Polygon

from perception.simulation.town.town import Town
from perception.simulation.traffic_flow import Driver, Flow, Vehicle, stations_at
from perception.simulation.traffic_overlap import colliding_pairs, rectangle_corners, rectangles_overlap, survivors
from perception.simulation.traffic_paths import draw_lane_ids, route_along, smooth_path
from perception.simulation.traffic_rules import AMBER_S, GREEN_S, HALF_CYCLE_S, RightOfWay, Signals
from tests.simulation.bare_town import bare_town


@pytest.fixture(scope="module")
def town() -> Town:
    return bare_town(0)


def lights(town: Town) -> Signals:
    """Every junction's phase 0 turns green at 0."""
    return Signals(town, np.zeros(len(town.junctions)))


@given(st.integers(0, 2**31))
def test_overlap_agrees_with_polygon_intersection(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.column_stack(
        (
            rng.uniform(-4, 4, (40, 2)),
            rng.uniform(0.3, 9, (40, 1)),
            rng.uniform(0.3, 3, (40, 1)),
            rng.uniform(-7, 7, 40),
        )
    )
    shapes = [Polygon(corners) for corners in rectangle_corners(boxes)]
    expected = [a.intersection(b).area > 0 for a, b in zip(shapes[:20], shapes[20:], strict=True)]
    np.testing.assert_array_equal(rectangles_overlap(boxes[:20], boxes[20:]), expected)


def test_rectangles_that_share_an_edge_do_not_overlap() -> None:
    first = np.array([0.0, 0.0, 4.0, 2.0, 0.0])
    assert not rectangles_overlap(first, np.array([4.0, 0.0, 4.0, 2.0, 0.0]))
    assert rectangles_overlap(first, np.array([3.999, 0.0, 4.0, 2.0, 0.0]))


def test_colliding_pairs_are_those_of_every_pair_at_every_time() -> None:
    rng = np.random.default_rng(1)
    start = np.column_stack((rng.uniform(0, 60, (30, 2)), rng.uniform(-3, 3, 30)))
    speed = np.where(rng.random((30, 1)) < 0.5, rng.uniform(-1, 1, (30, 3)), 0.0)
    tracks = start[:, None] + speed[:, None] * np.arange(25)[:, None]
    sizes = rng.uniform(0.5, 8, (30, 2))
    expected = [
        (a, b)
        for a in range(30)
        for b in range(a + 1, 30)
        if any(
            Polygon(rectangle_corners(np.array([*tracks[a, k, :2], *(sizes[a] + 0.2), tracks[a, k, 2]]))).intersects(
                Polygon(rectangle_corners(np.array([*tracks[b, k, :2], *(sizes[b] + 0.2), tracks[b, k, 2]])))
            )
            for k in range(25)
        )
    ]
    assert len(expected) > 10
    np.testing.assert_array_equal(colliding_pairs(tracks, sizes, 0.2), expected)


def test_survivors_keep_the_important_and_no_more_go_than_must() -> None:
    pairs = np.array([(0, 1), (1, 2), (3, 4)])
    np.testing.assert_array_equal(survivors(pairs, np.array([9, 5, 1, 2, 2])), [True, False, True, True, False])


def test_a_smooth_path_follows_a_circle() -> None:
    turn = np.linspace(0, 1.5 * np.pi, 60)
    path = smooth_path(30 * np.stack((np.cos(turn), np.sin(turn)), axis=1))
    stations = np.linspace(3, path.length_m - 3, 200)
    position = path.positions(stations)
    np.testing.assert_allclose(np.linalg.norm(position, axis=1), 30, atol=0.12)
    np.testing.assert_allclose(np.linalg.norm(np.diff(position, axis=0), axis=1), np.diff(stations), rtol=0.01)
    heading = np.unwrap(path.headings(stations))
    np.testing.assert_allclose(np.gradient(heading, stations), 1 / 30, rtol=0.25)


def test_a_path_shifted_to_the_left_lies_to_the_left_and_goes_on_straight_beyond_its_ends() -> None:
    path = smooth_path(np.array([(0.0, 0.0), (50.0, 0.0)]), offset_m=2.0)
    np.testing.assert_allclose(path.positions(np.array([-5.0, 20.0, 60.0])), [(-5, 2), (20, 2), (60, 2)], atol=1e-9)


def test_routes_follow_the_lane_graph_and_slow_down_for_bends(town: Town) -> None:
    rng = np.random.default_rng(3)
    for start in (0, 5, 11):
        ids = draw_lane_ids(town.lanes, start, 400.0, rng)
        assert all(b in town.lanes[a].successors for a, b in pairwise(ids))
        route = route_along(town.lanes, ids)
        assert np.all(np.diff(route.starts_m) > 0)
        at = np.arange(len(route.speeds_mps)) * 0.5
        curvature = np.abs(np.gradient(np.unwrap(route.path.headings(at)), at))
        assert (route.speeds_mps**2 * curvature)[2:-2].max() < 2.6
        assert np.diff(route.speeds_mps**2).min() > -2 * 1.5 * 0.5 - 1e-9


def test_closed_lanes_are_avoided_where_there_is_another_way(town: Town) -> None:
    start = next(lane for lane in town.lanes if lane.junction is None and len(lane.successors) > 1)
    closed = frozenset(town.lanes[start.successors[0]].successors)
    for seed in range(20):
        ids = draw_lane_ids(town.lanes, start.id, 100.0, np.random.default_rng(seed), closed=closed)
        assert not closed.intersection(ids[:3])


def test_lights_take_turns(town: Town) -> None:
    signals = lights(town)
    shown = [
        (signals.phase_colour(0, 0, time)[0], signals.phase_colour(0, 1, time)[0])
        for time in np.arange(0, 4 * HALF_CYCLE_S, 0.1)
    ]
    assert ("green", "green") not in shown
    assert all("red" in pair for pair in shown)
    assert {pair[0] for pair in shown} == {"green", "amber", "red"}
    assert signals.phase_colour(0, 0, 1.0) == ("green", GREEN_S - 1.0)
    assert signals.phase_colour(0, 0, GREEN_S + 1.0) == ("amber", AMBER_S - 1.0)


def test_crossing_ways_are_never_held_at_the_same_time(town: Town) -> None:
    rights = RightOfWay(town, lights(town))
    junction = max(town.junctions, key=lambda j: len(j.connectors))
    turns = {i: town.lanes[i].turn for i in junction.connectors}
    lefts = [i for i in junction.connectors if turns[i] == "left"]
    assert rights.enter(1, lefts[0])
    granted = {i for i in junction.connectors if i != lefts[0] and rights.enter(100 + i, i)}
    for i in granted | {lefts[0]}:
        for j in granted | {lefts[0]}:
            gap = town.lanes[i].centerline[:, None] - town.lanes[j].centerline
            assert i == j or np.linalg.norm(gap, axis=-1).min() > 3.0
    assert len(granted) < len(junction.connectors) - 1
    rights.leave(1, lefts[0])
    assert rights.enter(2, lefts[0])


def test_vehicles_wait_for_people_until_they_have_passed(town: Town) -> None:
    rights = RightOfWay(town, lights(town))
    index, crossing = next((i, c) for i, c in enumerate(town.crossings) if not town.junctions[c.junction].signals)
    connectors = town.junctions[crossing.junction].connectors
    width = float(np.linalg.norm(np.diff(crossing.centerline, axis=0)))
    # The one whose way meets the crossing nearest to the kerb that the person starts from.
    gaps = {
        i: np.linalg.norm(town.lanes[i].centerline[:, None] - crossing.centerline.mean(axis=0), axis=-1).min()
        for i in connectors
    }
    near = [i for i in connectors if gaps[i] < width / 2]
    firsts = [np.linalg.norm(town.lanes[i].centerline - crossing.centerline[0], axis=1).min() for i in near]
    connector = near[int(np.argmin(firsts))]
    assert rights.step_out(7, index, 1, 6.0, 0.0)
    assert not rights.enter(1, connector)
    rights.walk(7, index, 1, 0.3 * width)
    assert not rights.enter(1, connector)
    rights.walk(7, index, 1, width)
    assert rights.enter(1, connector)
    rights.step_off(7, index)
    assert not rights.step_out(8, index, 1, 6.0, 0.0)
    rights.leave(1, connector)
    assert rights.step_out(8, index, 1, 6.0, 0.0)


def test_a_follower_stops_behind_a_standing_leader_without_touching_it(town: Town) -> None:
    lane = max((lane for lane in town.lanes if lane.junction is None), key=lambda lane: len(lane.centerline))
    route = route_along(town.lanes, [lane.id])
    parked = Vehicle(1, route, 5.0, 1.9, Driver(pace=0.0), 120.0, 0.0)
    follower = Vehicle(2, route, 4.5, 1.9, Driver(), 20.0, 10.0)
    Flow(town, RightOfWay(town, lights(town)), [parked, follower], []).run(0.0, 0.0, 40.0)
    station, speed, acceleration = np.array(follower.history).T
    assert station[-1] == pytest.approx(120.0 - 5.0 - follower.driver.gap_m, abs=0.6)
    assert speed[-1] < 0.1
    assert acceleration.min() > -3.5
    assert np.all(np.diff(station) >= -1e-9)


def test_stations_between_steps_are_those_of_constant_acceleration() -> None:
    history = [(10.0, 2.0, 1.0), (10.0 + 0.2 + 0.005, 2.1, 0.0)]
    np.testing.assert_allclose(stations_at(history, 2), [10.0, 10.0 + 0.1 + 0.5 * 0.05**2, 10.205])
