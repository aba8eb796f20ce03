"""The Kalman filter against the textbook's one update with all measurements at once, and its yaws."""

import math

import numpy as np
import pytest

from perception.formats.submission import SampleDetections
from perception.tracking.kalman import ClassNoise, KalmanTracker

NOISE = ClassNoise(
    position_m=0.4, velocity_m_s=0.9, acceleration_m_s2=1.5, speed_m_s=6.0, size_m=0.5, yaw_rad=0.3, turn_rad=0.2
)
NAN = float("nan")


def detection(x, y, vx, vy, yaw=0.0, length=4.0) -> SampleDetections:
    box = np.array([[x, y, 1.0, length, 2.0, 1.5, yaw, vx, vy]])
    return SampleDetections(box, np.ones(1), np.zeros(1, dtype=np.int64))


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
