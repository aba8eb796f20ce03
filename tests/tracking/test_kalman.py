"""The Kalman filter against the textbook's one update with all measurements at once, and its yaws."""

import dataclasses
import math

import numpy as np
import pytest

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SampleDetections
from perception.tracking.association import assign_greedy
from perception.tracking.kalman import ClassNoise, KalmanTracker

NOISE = ClassNoise(
    position_m=0.4, velocity_m_s=0.9, acceleration_m_s2=1.5, speed_m_s=6.0, size_m=0.5, yaw_rad=0.3, turn_rad=0.2
)
NAN = float("nan")
CAR, TRUCK = (DETECTION_CLASSES.index(name) for name in ("car", "truck"))
# A second after a detection with velocity: places have a variance of 1 + 1 + 4 / 4 = 3, velocities of 1 + 4 = 5.
ROUND = ClassNoise(position_m=1.0, velocity_m_s=1.0, acceleration_m_s2=2.0, speed_m_s=3.0)


def detection(x, y, vx, vy, yaw=0.0, length=4.0) -> SampleDetections:
    box = np.array([[x, y, 1.0, length, 2.0, 1.5, yaw, vx, vy]])
    return SampleDetections(box, np.ones(1), np.zeros(1, dtype=np.int64))


def several(*rows: tuple[float, ...], labels: list[int]) -> SampleDetections:
    """Boxes of rows x y z length yaw vx vy."""
    table = np.array(rows, dtype=np.float64)
    boxes = np.tile([0.0, 0.0, 0.0, 0.0, 2.0, 1.5, 0.0, 0.0, 0.0], (len(rows), 1))
    boxes[:, [0, 1, 2, 3, 6, 7, 8]] = table
    return SampleDetections(boxes, np.ones(len(rows)), np.array(labels))


def run(detections, step_us=500_000, gate=1000.0):
    tracker, state = KalmanTracker(noise={"car": NOISE}, gate=gate), None
    for number, one in enumerate(detections):
        tracks, state = tracker.step(one, scene="a", timestamp_us=number * step_us, state=state)
    return tracks, state


def textbook(measurements, elapsed_s):
    """Mean and covariance of x y vx vy after measurements (4,), of which unknown velocities are left out."""
    r_place, r_speed = NOISE.position_m**2, NOISE.velocity_m_s**2
    first = np.nan_to_num(measurements[0])
    mean = first
    start_speed = NOISE.speed_m_s**2 if np.isnan(measurements[0][2]) else r_speed
    covariance = np.diag([r_place, r_place, start_speed, start_speed])
    f = np.eye(4)
    f[0, 2] = f[1, 3] = elapsed_s
    g = np.array([[elapsed_s**2 / 2, 0], [0, elapsed_s**2 / 2], [elapsed_s, 0], [0, elapsed_s]])
    for z in measurements[1:]:
        mean, covariance = f @ mean, f @ covariance @ f.T + NOISE.acceleration_m_s2**2 * g @ g.T
        h = np.eye(4)[~np.isnan(z)]
        r = np.diag(np.array([r_place, r_place, r_speed, r_speed])[~np.isnan(z)])
        gain = covariance @ h.T @ np.linalg.inv(h @ covariance @ h.T + r)
        mean = mean + gain @ (z[~np.isnan(z)] - h @ mean)
        covariance = (np.eye(4) - gain @ h) @ covariance
    return mean, covariance


@pytest.mark.parametrize("known", [(True, True, True), (False, False, False), (False, True, False)])
@pytest.mark.parametrize("step_us", [100_000, 730_000])
def test_place_and_velocity_are_the_textbooks(known, step_us):
    measurements = np.array([(10.0, 5.0, 3.0, -1.0), (11.2, 4.7, 2.5, -0.8), (12.9, 4.4, 3.4, -0.2)])
    measurements[~np.array(known), 2:] = NAN
    tracks, state = run([detection(*z) for z in measurements], step_us)
    mean, covariance = textbook(measurements, 1e-6 * step_us)
    np.testing.assert_allclose(tracks.boxes_global[0, [0, 1, 7, 8]], mean, atol=1e-12)
    np.testing.assert_allclose(state.tracks.covariances[0], covariance, atol=1e-12)


def test_sizes_are_the_mean_of_what_was_seen():
    tracks, _ = run([detection(0, 0, 0, 0, length=length) for length in (4.0, 5.0, 3.6)])
    assert tracks.boxes_global[0, 3] == pytest.approx(4.2)


def test_noisy_places_are_smoothed():
    rng = np.random.default_rng(0)
    seen = [detection(2.0 * step + rng.normal(scale=0.4), rng.normal(scale=0.4), 4, 0) for step in range(200)]
    tracker, state, errors = KalmanTracker(noise={"car": NOISE}), None, []
    for number, one in enumerate(seen):
        tracks, state = tracker.step(one, scene="a", timestamp_us=number * 500_000, state=state)
        errors.append((tracks.boxes_global[0, :2] - (2.0 * number, 0), one.boxes_global[0, :2] - (2.0 * number, 0)))
    filtered, detected = np.sqrt(np.square(errors).mean(axis=(0, 2)))
    assert state.next_id == 1
    assert filtered < 0.85 * detected


def yaw_after(*yaws):
    tracks, _ = run([detection(0, 0, 0, 0, yaw=yaw) for yaw in yaws])
    return tracks.boxes_global[0, 6]


def test_a_flipped_yaw_does_not_turn_the_track():
    assert yaw_after(0.1, 0.1 + math.pi, 0.1) == pytest.approx(0.1)
    assert yaw_after(0.1, 0.1, 0.1, 0.1 - math.pi, 0.1 - math.pi) == pytest.approx(0.1)


def test_a_heading_that_began_wrong_is_outvoted():
    assert yaw_after(0.1 - math.pi, 0.1, 0.1, 0.1) == pytest.approx(0.1)


def test_yaws_are_smoothed_across_the_seam():
    yaw = yaw_after(math.pi - 0.1, -math.pi + 0.1)
    assert abs(abs(yaw) - math.pi) < 0.1
    assert -math.pi <= yaw < math.pi


def test_the_gate_is_in_standard_deviations():
    # Both places are wrong by 0.4 m and the unknown velocity by 6 m/s: after half a second the difference has a
    # standard deviation of sqrt(0.4^2 + 3^2 + (1.5 * 0.125)^2 + 0.4^2) = 3.0586 m.
    one_sigma = math.sqrt(0.4**2 + 3**2 + (1.5 * 0.125) ** 2 + 0.4**2)
    for factor, number in ((2.99, 0), (3.01, 1)):
        tracks, _ = run([detection(0, 0, NAN, NAN), detection(factor * one_sigma, 0, NAN, NAN)], gate=3.0)
        assert tracks.ids.tolist() == [number]


@pytest.mark.parametrize(("distance_m", "number"), [(9.0, 0), (9.01, 1)])
def test_without_another_gate_four_and_a_half_standard_deviations_are_allowed(distance_m, number):
    # After a second the difference of places has a variance of 3 + 1, so 9 m are 4.5 standard deviations.
    tracker = KalmanTracker(noise={"car": ROUND})
    _, state = tracker.step(detection(0, 0, 0, 0), scene="a", timestamp_us=0)
    tracks, _ = tracker.step(detection(distance_m, 0, 0, 0), scene="a", timestamp_us=1_000_000, state=state)
    assert tracks.ids.tolist() == [number]


def test_costs_are_twice_the_negative_log_likelihoods_of_place_and_velocity():
    tables = []

    def assign_and_keep(costs: np.ndarray) -> np.ndarray:
        tables.append(costs)
        return assign_greedy(costs)

    # With the error of the next detection, a second later, differences have these variances of place and velocity:
    # the car 3 + 1 = 4 and 5 + 1 = 6, the car of unknown velocity 1 + 9 + 1 + 1 = 12 and 9 + 4 + 1 = 14,
    # the truck, whose errors are twice as large, 16 and 24.
    truck = ClassNoise(position_m=2.0, velocity_m_s=2.0, acceleration_m_s2=4.0, speed_m_s=3.0)
    tracker = KalmanTracker(noise={"car": ROUND, "truck": truck}, gate=3.0, assign=assign_and_keep)
    before = several(
        (0, 0, 0, 4, 0, 1, 0), (10, 0, 0, 4, 0, NAN, NAN), (50, 0, 0, 4, 0, 0, 0), labels=[CAR, CAR, TRUCK]
    )  # expected at 1, 10 and 50
    after = several(
        (2, 1, 0, 4, 0, 1, 2),
        (7, 0, 0, 4, 0, NAN, NAN),
        (7.1, 0, 0, 4, 0, 0, 3),
        (54, 0, 0, 4, 0, 2, 0),
        labels=[CAR, CAR, CAR, TRUCK],
    )
    _, state = tracker.step(before, scene="a", timestamp_us=0)
    tracker.step(after, scene="a", timestamp_us=1_000_000, state=state)
    car, unknown, far = (math.log(place**2) + math.log(speed**2) for place, speed in ((4, 6), (12, 14), (16, 24)))
    inf = math.inf
    expected = [
        [2 / 4 + 4 / 6 + car, 65 / 12 + 5 / 14 + unknown, inf],
        [36 / 4 + 2 + car, 9 / 12 + 2 + unknown, inf],  # three standard deviations, which the gate still lets in
        [inf, 8.41 / 12 + 9 / 14 + unknown, inf],
        [inf, inf, 16 / 16 + 4 / 24 + far],
    ]
    np.testing.assert_allclose(tables[-1], expected, rtol=1e-12)


def test_height_and_yaw_become_uncertain_with_time_and_sizes_do_not():
    car = dataclasses.replace(ROUND, height_m=0.3, climb_m=0.4, size_m=0.5, yaw_rad=0.2, turn_rad=0.4)
    truck = dataclasses.replace(car, height_m=0.6, climb_m=0.4, size_m=1.0, yaw_rad=0.2, turn_rad=0.8)
    tracker = KalmanTracker(noise={"car": car, "truck": truck})
    labels = [CAR, TRUCK]
    first = several((0, 0, 1, 4, 0, 0, 0), (30, 0, 1, 4, 0, 0, 0), labels=labels)
    second = several((0, 0, 1.26, 5, 0.4, 0, 0), (30, 0, 1.26, 5, 0.4, 0, 0), labels=labels)
    _, state = tracker.step(first, scene="a", timestamp_us=0)
    np.testing.assert_allclose(state.tracks.variances[:, [0, 1, 4]], [[0.09, 0.25, 0.04], [0.36, 1.0, 0.04]])
    tracks, state = tracker.step(second, scene="a", timestamp_us=500_000, state=state)
    # Half a second later the variances are 0.09 + 0.16 / 2 = 0.17 and 0.04 + 0.16 / 2 = 0.12 for the car, and
    # 0.36 + 0.16 / 2 = 0.44 and 0.04 + 0.64 / 2 = 0.36 for the truck; a gain is the track's share of both variances.
    z, yaw = 1 + 0.26 * np.array([0.17 / 0.26, 0.44 / 0.8]), 0.4 * np.array([0.12 / 0.16, 0.36 / 0.4])
    np.testing.assert_allclose(tracks.boxes_global[:, [2, 3, 6]], np.stack([z, [4.5, 4.5], yaw], axis=1))
    seen = np.array([[0.17 * 0.09 / 0.26, 0.125, 0.125, 0.125, 0.03], [0.44 * 0.36 / 0.8, 0.5, 0.5, 0.5, 0.036]])
    np.testing.assert_allclose(state.tracks.variances, seen)
    nothing = SampleDetections(np.zeros((0, 9)), np.zeros(0), np.zeros(0, dtype=np.int64))
    _, state = tracker.step(nothing, scene="a", timestamp_us=750_000, state=state)
    grown = seen + np.array([[0.16 / 4, 0, 0, 0, 0.16 / 4], [0.16 / 4, 0, 0, 0, 0.64 / 4]])
    np.testing.assert_allclose(state.tracks.variances, grown)


def test_objects_side_by_side_are_filtered_with_the_noise_of_their_own_class():
    noise = {"car": NOISE, "truck": ClassNoise(position_m=0.9, velocity_m_s=0.5, acceleration_m_s2=3.0, speed_m_s=2.0)}
    moments = [((0, 0, 1, 4, 0.1, NAN, NAN), (30, 0, 1, 9, 0.1, 2, 1)),
               ((1, 0.5, 1.2, 5, 0.2, NAN, NAN), (32, 1, 1.3, 8, 0.3, 3, 1)),
               ((2, 0.2, 0.9, 4, 0.0, 2, 1), (33, 1, 1.1, 9, 0.2, NAN, NAN))]  # fmt: skip

    def last_box(rows: list[tuple[tuple[float, ...], ...]], labels: list[int]) -> np.ndarray:
        tracker, state = KalmanTracker(noise=noise, gate=1000.0), None
        for number, moment in enumerate(rows):
            tracks, state = tracker.step(
                several(*moment, labels=labels), scene="a", timestamp_us=number * 500_000, state=state
            )
        return tracks.boxes_global[np.argsort(tracks.ids)]

    alone = [last_box([(moment[number],) for moment in moments], [label]) for number, label in ((0, CAR), (1, TRUCK))]
    np.testing.assert_allclose(last_box(moments, [CAR, TRUCK]), np.concatenate(alone))


def test_a_heading_stays_while_as_many_speak_for_it_as_against():
    behind = 0.1 - math.pi
    assert yaw_after(0.1, behind) == pytest.approx(0.1)
    assert yaw_after(0.1, behind, behind) == pytest.approx(behind)
    assert yaw_after(behind, 0.1, 0.1, 0.1, behind, behind) == pytest.approx(0.1)  # also after it was turned


def test_a_heading_seen_for_long_is_turned_by_more_than_three_against_it():
    assert yaw_after(*[0.1] * 6, *[0.1 - math.pi] * 3) == pytest.approx(0.1)
    assert yaw_after(*[0.1] * 6, *[0.1 - math.pi] * 4) == pytest.approx(0.1 - math.pi)
