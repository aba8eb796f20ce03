"""Both trackers on hand-computed scenes: who is who, when tracks begin and end, what the state is."""

import dataclasses

import numpy as np
import pytest
import torch

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SampleDetections
from perception.formats.tracking_submission import TRACKING_CLASSES
from perception.geometry.boxes import transform_boxes
from perception.geometry.transforms import yaw_matrix
from perception.tracking.association import assign_hungarian
from perception.tracking.greedy import GreedyTracker
from perception.tracking.kalman import ClassNoise, KalmanTracker
from perception.tracking.tracker import Lifecycle, Moment, track_moments

CAR, TRUCK, BARRIER = (DETECTION_CLASSES.index(name) for name in ("car", "truck", "barrier"))
NAN = float("nan")
TRACKERS = {
    "greedy": GreedyTracker,
    "kalman": KalmanTracker,
    "kalman_hungarian": lambda **settings: KalmanTracker(assign=assign_hungarian, **settings),
}


@pytest.fixture(params=TRACKERS)
def make(request):
    return TRACKERS[request.param]


def found(*rows, labels=None, scores=None) -> SampleDetections:
    """Cars of rows x y vx vy; far from the origin, as global coordinates are."""
    boxes = np.zeros((len(rows), 9))
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    boxes[:, :2], boxes[:, 7:] = table[:, :2] + 1000, table[:, 2:]
    boxes[:, 3:6] = (4.5, 1.9, 1.6)
    return SampleDetections(
        boxes,
        np.full(len(rows), 0.5) if scores is None else np.array(scores),
        np.full(len(rows), CAR) if labels is None else np.array(labels),
    )


def run(tracker, *moments, step_us=500_000, scene="scene-0001"):
    """Tracks of each moment; moments are detections, or None where nothing was recorded at all."""
    state, told = None, []
    for number, detections in enumerate(moments):
        if detections is not None:
            tracks, state = tracker.step(detections, scene=scene, timestamp_us=number * step_us, state=state)
            told.append(tracks)
    return told


def ids_by_x(tracks) -> list[int]:
    return tracks.ids[np.argsort(tracks.boxes_global[:, 0])].tolist()


# Two cars 3 m apart drive at 4 m/s towards each other: after half a second the left one is 1 m beyond the right one.
MEETING = (found((0, 0, 4, 0), (3, 0, -4, 0)), found((2, 0, 4, 0), (1, 0, -4, 0)))


def test_crossing_objects_keep_their_ids_by_their_velocities(make):
    first, second = run(make(), *MEETING)
    assert ids_by_x(first) == [0, 1]
    assert ids_by_x(second) == [1, 0]


def test_crossing_objects_swap_without_velocities(make):
    blind = [dataclasses.replace(one, boxes_global=one.boxes_global.copy()) for one in MEETING]
    for one in blind:
        one.boxes_global[:, 7:] = NAN
    first, second = run(make(), *blind)
    assert ids_by_x(first) == [0, 1]
    assert ids_by_x(second) == [0, 1]


def test_velocities_are_learnt_where_detections_have_none(make):
    # At 6 m/s, 3 m a step: from the third moment on, where they cross, both are known to move.
    a, b = (0, 3, 6, 9, 12, 15), (14, 11, 8, 5, 2, -1)
    moments = [found((x, 0.0, NAN, NAN), (y, 0.4, NAN, NAN)) for x, y in zip(a, b, strict=True)]
    told = run(make(), *moments)
    assert [tracks.ids[np.argmin(tracks.boxes_global[:, 1])] for tracks in told] == [0] * 6
    np.testing.assert_allclose(told[-1].boxes_global[told[-1].ids == 0, 7:], [[6, 0]], atol=0.5)


def test_a_velocity_learnt_after_a_gap_is_that_since_the_last_detection():
    # 1 m in a second, of which the detector missed the middle; then 3 m in a second, expected to be 1 m.
    moments = [found((x, 0, NAN, NAN)) if x is not None else found() for x in (0, None, 1, None, 4)]
    told = run(GreedyTracker(), *moments)
    assert [tracks.ids.tolist() for tracks in told] == [[0], [], [0], [], [0]]
    np.testing.assert_allclose(told[2].boxes_global[:, 7:], [[1, 0]])
    np.testing.assert_allclose(told[4].boxes_global[:, 7:], [[3, 0]])


def test_a_second_sample_of_the_same_time_tells_of_its_own_detections_alone(make):
    told = run(make(), found((0, 0, 0, 0), (9, 0, 0, 0)), found((9, 0, 0, 0)), found(), step_us=0)
    assert [tracks.ids.tolist() for tracks in told] == [[0, 1], [1], []]


def test_the_order_of_detections_does_not_matter(make):
    rng = np.random.default_rng(0)
    starts, speeds = rng.uniform(-40, 40, (30, 2)), rng.uniform(-8, 8, (30, 2))
    straight, mixed = [], []
    for step in range(6):
        places = starts + 0.5 * step * speeds + rng.normal(scale=0.2, size=(30, 2))
        rows, order = np.hstack([places, speeds]), rng.permutation(30) if step else np.arange(30)
        straight.append(found(*rows))
        mixed.append(found(*rows[order]))
    for one, other in zip(run(make(), *straight), run(make(), *mixed), strict=True):
        a, b = np.argsort(one.ids), np.argsort(other.ids)
        np.testing.assert_array_equal(one.ids[a], other.ids[b])
        np.testing.assert_allclose(one.boxes_global[a], other.boxes_global[b], atol=1e-9)


def test_tracks_turn_with_the_frame(make):
    a2b = yaw_matrix(torch.tensor(2.0, dtype=torch.float64))
    a2b[:3, 3] = torch.tensor([500.0, -200.0, 3.0])
    turned = [
        dataclasses.replace(one, boxes_global=transform_boxes(a2b, torch.from_numpy(one.boxes_global)).numpy())
        for one in MEETING
    ]
    for one, other in zip(run(make(), *MEETING), run(make(), *turned), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        expected = transform_boxes(a2b, torch.from_numpy(one.boxes_global)).numpy()
        np.testing.assert_allclose(other.boxes_global, expected, atol=1e-9)


def test_a_track_is_found_again_after_moments_without_it(make):
    moving = [found((2.0 * step, 0, 4, 0)) for step in range(4)]
    told = run(make(), moving[0], found(), found(), moving[3])
    assert [tracks.ids.tolist() for tracks in told] == [[0], [], [], [0]]


def test_a_track_is_found_again_after_moments_that_were_not_recorded(make):
    moving = [found((5.0 * step, 0, 10, 0)) for step in range(4)]
    told = run(make(), moving[0], None, None, moving[3])
    assert [tracks.ids.tolist() for tracks in told] == [[0], [0]]


def test_a_track_ends_with_its_age(make):
    still = found((0, 0, 0, 0))
    told = run(make(lifecycle=Lifecycle(max_age_s=0.75)), still, still, found(), still)
    assert [tracks.ids.tolist() for tracks in told] == [[0], [0], [], [1]]
    assert run(make(), still, None, None, None, still)[-1].ids.tolist() == [1]


def test_steps_may_be_short(make):
    # 10 moments a second, 20 m/s.
    told = run(make(), *[found((2.0 * step, 0, 20, 0)) for step in range(8)], step_us=100_000)
    assert [tracks.ids.tolist() for tracks in told] == [[0]] * 8


def test_another_scene_and_time_that_goes_back_begin_afresh(make):
    tracker, still = make(), found((0, 0, 0, 0))
    _, state = tracker.step(still, scene="a", timestamp_us=1_000_000)
    same, _ = tracker.step(still, scene="a", timestamp_us=1_500_000, state=state)
    other, _ = tracker.step(still, scene="b", timestamp_us=1_500_000, state=state)
    earlier, _ = tracker.step(still, scene="a", timestamp_us=500_000, state=state)
    assert same.ids.tolist() == [0]
    assert other.ids.tolist() == earlier.ids.tolist() == [1]


def test_a_state_is_not_changed_by_its_use(make):
    tracker = make()
    _, state = tracker.step(MEETING[0], scene="a", timestamp_us=0)
    before = {field.name: getattr(state.tracks, field.name).copy() for field in dataclasses.fields(state.tracks)}
    detections = MEETING[1].boxes_global.copy()
    first, _ = tracker.step(MEETING[1], scene="a", timestamp_us=500_000, state=state)
    second, _ = tracker.step(MEETING[1], scene="a", timestamp_us=500_000, state=state)
    for name, column in before.items():
        np.testing.assert_array_equal(getattr(state.tracks, name), column)
    np.testing.assert_array_equal(MEETING[1].boxes_global, detections)
    np.testing.assert_array_equal(first.boxes_global, second.boxes_global)
    np.testing.assert_array_equal(first.ids, second.ids)


def test_classes_are_kept_apart_and_others_left_out(make):
    first, second = run(
        make(), found((0, 0, 0, 0), (5, 0, 0, 0), labels=[CAR, BARRIER]), found((0, 0, 0, 0), labels=[TRUCK])
    )
    assert (first.ids.tolist(), first.labels.tolist()) == ([0], [CAR])
    assert (second.ids.tolist(), second.labels.tolist()) == ([1], [TRUCK])


def test_scores_decide_what_begins_and_continues(make):
    lifecycle = Lifecycle(min_score=0.2, birth_score=0.6)
    moments = [found((0, 0, 0, 0), scores=[score]) for score in (0.5, 0.7, 0.5, 0.1)]
    told = run(make(lifecycle=lifecycle), *moments)
    assert [tracks.ids.tolist() for tracks in told] == [[], [0], [0], []]


def test_a_track_is_told_of_when_it_has_enough_detections(make):
    told = run(make(lifecycle=Lifecycle(min_hits=2)), *[found((0, 0, 0, 0))] * 3)
    assert [tracks.ids.tolist() for tracks in told] == [[], [0], [0]]


def test_scores_of_detections_are_gathered(make):
    moments = [found((0, 0, 0, 0), scores=[score]) for score in (0.5, 0.6, 0.0)]
    gathered = [tracks.scores[0] for tracks in run(make(), *moments)]
    np.testing.assert_allclose(gathered, [0.5, 0.8, 0.8])  # 1 - 0.5 * 0.4
    single = run(make(lifecycle=Lifecycle(gather_scores=False)), *moments)
    assert [tracks.scores[0] for tracks in single] == [0.5, 0.6, 0.0]


def test_no_detections_ever(make):
    assert [len(tracks) for tracks in run(make(), found(), found())] == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes_global": np.full((1, 9), NAN)}, r"step: boxes and scores must be finite but for velocities"),
        ({"scores": np.array([NAN])}, r"with score nan in row 0"),
        ({"labels": np.array([10])}, r"step: labels must be in 0..9, got \[10\]"),
    ],
)
def test_bad_detections_are_named(make, change, message):
    moment = Moment(
        token="t1", scene="a", timestamp_us=0, detections=dataclasses.replace(found((0, 0, 0, 0)), **change)
    )
    with pytest.raises(ValueError, match=f"track_moments: sample 't1': .*{message}"):
        list(track_moments([moment], make()))


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"GreedyTracker: classes must be of car, .*got \('tram',\)"):
        GreedyTracker(limits_m={"tram": 1.0})
    with pytest.raises(ValueError, match=r"GreedyTracker: limits_m must be > 0, got \{'car': 0.0\}"):
        GreedyTracker(limits_m={"car": 0.0})
    with pytest.raises(ValueError, match=r"KalmanTracker: gate must be > 0, got 0"):
        KalmanTracker(gate=0)
    with pytest.raises(ValueError, match=r"ClassNoise: velocity_m_s must be > 0, got -1"):
        ClassNoise(position_m=1, velocity_m_s=-1, acceleration_m_s2=1, speed_m_s=1)
    with pytest.raises(ValueError, match=r"Lifecycle: min_hits must be >= 1 and max_age_s > 0, got 0 and 1.75"):
        Lifecycle(min_hits=0)


def test_greedy_limits_are_by_class_and_grow_with_time():
    tracker = GreedyTracker(limits_m={"car": 2.0})
    near, far, later = found((0, 0, 0, 0)), found((2.5, 0, 0, 0)), found((0, 0, 0, 0))
    assert run(tracker, near, far)[1].ids.tolist() == [1]
    assert run(tracker, near, None, far)[1].ids.tolist() == [0]  # 4 m after a second
    assert run(tracker, near, later, step_us=0)[1].ids.tolist() == [0]


def continues(tracker: GreedyTracker, first: tuple, then: tuple, step_us: int = 500_000, label: int = CAR) -> bool:
    """Whether a detection of row x y vx vy goes on with the track of the one before."""
    return run(tracker, *[found(row, labels=[label]) for row in (first, then)], step_us=step_us)[1].ids.tolist() == [0]


@pytest.mark.parametrize(("step_us", "limit_m"), [(100_000, 2.0), (500_000, 2.0), (750_000, 3.0), (1_500_000, 6.0)])
def test_greedy_limits_grow_in_proportion_after_half_a_second_and_never_shrink(step_us, limit_m):
    tracker = GreedyTracker(limits_m={"car": 2.0})
    assert continues(tracker, (0, 0, 0, 0), (limit_m, 0, 0, 0), step_us)
    assert not continues(tracker, (0, 0, 0, 0), (limit_m + 0.01, 0, 0, 0), step_us)


@pytest.mark.parametrize(
    ("name", "limit_m"),
    [("bicycle", 3.0), ("bus", 5.5), ("car", 4.0), ("motorcycle", 13.0), ("pedestrian", 1.0), ("trailer", 3.0),
     ("truck", 4.0)],
)  # fmt: skip
def test_greedy_limits_are_those_published_with_centerpoint(name, limit_m):
    label = DETECTION_CLASSES.index(name)
    assert continues(GreedyTracker(), (0, 0, 0, 0), (0, limit_m, 0, 0), label=label)
    assert not continues(GreedyTracker(), (0, 0, 0, 0), (0, limit_m + 0.01, 0, 0), label=label)


def test_greedy_limits_of_one_class_do_not_reach_another_in_the_same_moment():
    labels = [DETECTION_CLASSES.index(name) for name in ("pedestrian", "motorcycle")]
    moments = [found((x, 0, 0, 0), (x, 50, 0, 0), labels=labels) for x in (0, 8)]
    assert run(GreedyTracker(), *moments)[1].ids.tolist() == [1, 2]  # the motorcycle goes on, a pedestrian begins


@pytest.mark.parametrize(
    ("first", "then", "goes_on"),
    [
        ((0, 0, 9, 9), (3.4, 2.5, 4, 5), True),  # moved back by its own velocity: (1.4, 0)
        ((0, 0, 4, 0), (3.5, 0, 0, 0), False),  # and only by that
        ((0, 0, NAN, NAN), (3.5, 0, 4, 0), True),
        ((0, 0, 4, 0), (3.5, 0, NAN, NAN), True),  # by the track's, where its own is unknown: (1.5, 0)
        ((0, 0, NAN, NAN), (1.9, 0, NAN, NAN), True),
        ((0, 0, NAN, NAN), (2.1, 0, NAN, NAN), False),
        ((0, 0, 0, 0), (1.4, 1.4, 0, 0), True),  # 1.98 m
        ((0, 0, 0, 0), (1.5, 1.5, 0, 0), False),  # 2.12 m
    ],
)
def test_greedy_distances_are_those_of_centres_after_moving_back(first, then, goes_on):
    assert continues(GreedyTracker(limits_m={"car": 2.0}), first, then) == goes_on


@pytest.mark.parametrize(
    ("tracker", "ids"),
    [
        (GreedyTracker(limits_m={"car": 6.0}), [0, 1]),
        (KalmanTracker(noise={"car": ClassNoise(position_m=2, velocity_m_s=1, acceleration_m_s2=1, speed_m_s=1)}),
         [0, 1]),
        (KalmanTracker(noise={"car": ClassNoise(position_m=2, velocity_m_s=1, acceleration_m_s2=1, speed_m_s=1)},
                       assign=assign_hungarian), [1, 0]),
    ],
    ids=["greedy", "kalman", "kalman_hungarian"],
)  # fmt: skip
def test_the_nearest_pair_goes_first_whatever_its_score_unless_the_sum_decides(tracker, ids):
    # Tracks at 0 and 3: detections at 1.4 and -2.5 are 1.4 and 5.5 m from them, or the other way round 1.6 and 2.5 m.
    before = found((0, 0, 0, 0), (3, 0, 0, 0))
    after = found((1.4, 0, 0, 0), (-2.5, 0, 0, 0), scores=[0.1, 0.9])
    tracks = run(tracker, before, after)[1]
    assert tracks.ids[np.argsort(-tracks.boxes_global[:, 0])].tolist() == ids


@pytest.mark.parametrize("velocity", [(20, NAN), (NAN, 20), (np.inf, 0), (0, -np.inf)])
def test_a_velocity_of_which_a_part_is_not_finite_is_unknown(make, velocity):
    told, expected = (run(make(), found((0, 0, 4, 0)), found((2, 0, *v)))[1] for v in (velocity, (NAN, NAN)))
    assert told.ids.tolist() == expected.ids.tolist() == [0]
    np.testing.assert_array_equal(told.boxes_global, expected.boxes_global)
    np.testing.assert_allclose(told.boxes_global[:, 7:], [[4, 0]], atol=1e-9)


@pytest.mark.parametrize(("settings", "age_us"), [({}, 1_750_000), ({"lifecycle": Lifecycle(max_age_s=0.6)}, 600_000)])
def test_a_track_of_just_the_highest_age_goes_on_and_an_older_one_does_not(make, settings, age_us):
    still = found((0, 0, 0, 0))
    for late_us, number in ((0, 0), (1, 1)):
        tracker = make(**settings)
        _, state = tracker.step(still, scene="a", timestamp_us=0)
        _, state = tracker.step(found(), scene="a", timestamp_us=400_000, state=state)
        tracks, _ = tracker.step(still, scene="a", timestamp_us=age_us + late_us, state=state)
        assert tracks.ids.tolist() == [number]


@pytest.mark.parametrize("name", DETECTION_CLASSES)
def test_the_benchmarks_classes_are_tracked_without_other_settings(make, name):
    (tracks,) = run(make(), found((0, 0, 0, 0), labels=[DETECTION_CLASSES.index(name)]))
    assert len(tracks) == (name in TRACKING_CLASSES)


def test_other_settings_track_other_classes():
    noise = ClassNoise(position_m=1, velocity_m_s=1, acceleration_m_s2=1, speed_m_s=1)
    for tracker in (GreedyTracker(limits_m={"barrier": 1.0}), KalmanTracker(noise={"barrier": noise})):
        (tracks,) = run(tracker, found((0, 0, 0, 0), (9, 0, 0, 0), labels=[CAR, BARRIER]))
        assert tracks.labels.tolist() == [BARRIER]


def test_every_detection_begins_a_track_at_once_without_other_settings(make):
    (tracks,) = run(make(), found((0, 0, 0, 0), (20, 0, 0, 0), scores=[0.0, 1.0]))
    assert tracks.scores.tolist() == [0.0, 1.0]


def test_scores_that_just_reach_a_limit_are_enough(make):
    tracker = make(lifecycle=Lifecycle(min_score=0.25, birth_score=0.5))
    told = run(tracker, *[found((0, 0, 0, 0), scores=[score]) for score in (0.49, 0.5, 0.25, 0.24)])
    assert [tracks.ids.tolist() for tracks in told] == [[], [0], [0], []]


def test_each_track_gathers_the_scores_of_its_own_detections(make):
    moments = [
        found((0, 0, 0, 0), (20, 0, 0, 0), scores=[0.2, 0.5]),
        found(),
        found((20, 0, 0, 0), (40, 0, 0, 0), (0, 0, 0, 0), scores=[0.6, 0.3, 0.5]),
        found((40, 0, 0, 0), (0, 0, 0, 0), scores=[0.9, 0.5]),
    ]
    expected = [{0: 0.2, 1: 0.5}, {}, {0: 0.6, 1: 0.8, 2: 0.3}, {0: 0.8, 2: 0.93}]  # as 1 - 0.8 * 0.5 = 0.6
    for tracks, scores in zip(run(make(), *moments), expected, strict=True):
        assert dict(zip(tracks.ids.tolist(), tracks.scores.tolist(), strict=True)) == pytest.approx(scores)
    single = run(make(lifecycle=Lifecycle(gather_scores=False)), *moments)[2]
    assert dict(zip(single.ids.tolist(), single.scores.tolist(), strict=True)) == {0: 0.5, 1: 0.6, 2: 0.3}


def test_detections_before_a_track_is_told_of_count_for_its_score(make):
    told = run(make(lifecycle=Lifecycle(min_hits=3)), *[found((0, 0, 0, 0)), found()] * 3)
    assert [tracks.scores.tolist() for tracks in told] == [[], [], [], [], [0.875], []]  # 1 - 0.5^3


def test_new_tracks_are_numbered_one_after_the_other(make):
    told = run(
        make(lifecycle=Lifecycle(birth_score=0.4)),
        found((0, 0, 0, 0), (20, 0, 0, 0), scores=[0.1, 0.5]),
        found((0, 0, 0, 0), (20, 0, 0, 0), (40, 0, 0, 0), (60, 0, 0, 0), scores=[0.1, 0.5, 0.5, 0.5]),
        found((0, 0, 0, 0), (60, 0, 0, 0)),
    )
    assert [ids_by_x(tracks) for tracks in told] == [[0], [0, 1, 2], [3, 2]]
