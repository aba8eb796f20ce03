"""Tracking by a Kalman filter per object: constant velocity, noise by class, association by likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SampleDetections
from perception.tracking.association import Assignment, assign_greedy
from perception.tracking.tracker import Lifecycle, Tracker, TrackTable

_MOTION = [0, 1, 7, 8]  # x y vx vy of a box, filtered together
_SHAPE = slice(2, 7)  # z l w h yaw of a box, filtered one by one
_YAW = 4  # among them
_SURE = 3  # a heading that so many detections speak for is turned by as many more against it


@dataclass(frozen=True, kw_only=True)
class ClassNoise:
    """Standard deviations of one class: how wrong its detections are, and how fast its objects change.

    Args:
        position_m: error of a detected centre, along each axis of the ground.
        velocity_m_s: error of a detected velocity, along each axis.
        height_m: error of a detected centre's z.
        size_m: error of each detected length.
        yaw_rad: error of a detected yaw, not counting flips by half a turn.
        acceleration_m_s2: change of velocity, along each axis.
        climb_m: change of z within a second.
        turn_rad: change of yaw within a second.
        speed_m_s: of objects whose velocity is unknown when they are first seen, along each axis.

    Raises:
        ValueError: one is not positive.
    """

    position_m: float
    velocity_m_s: float
    acceleration_m_s2: float
    speed_m_s: float
    height_m: float = 0.3
    size_m: float = 0.3
    yaw_rad: float = 0.2
    climb_m: float = 0.3
    turn_rad: float = 0.3

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"ClassNoise: {name} must be > 0, got {value}")


_CAR = ClassNoise(position_m=0.3, velocity_m_s=0.8, acceleration_m_s2=2.5, speed_m_s=5.0)
_LARGE = dataclasses.replace(_CAR, position_m=0.5, acceleration_m_s2=2.0, size_m=0.6)

NOISE: Mapping[str, ClassNoise] = MappingProxyType(
    {
        "bicycle": ClassNoise(position_m=0.25, velocity_m_s=0.6, acceleration_m_s2=2.0, speed_m_s=3.0, turn_rad=0.6),
        "bus": _LARGE,
        "car": _CAR,
        "motorcycle": ClassNoise(position_m=0.3, velocity_m_s=1.0, acceleration_m_s2=3.0, speed_m_s=5.0, turn_rad=0.6),
        "pedestrian": ClassNoise(position_m=0.2, velocity_m_s=0.4, acceleration_m_s2=1.0, speed_m_s=1.0, turn_rad=1.0),
        "trailer": _LARGE,
        "truck": _LARGE,
    }
)
"""Typical of LiDAR detectors on nuScenes; `perception.evaluation.tracking_noise` measures a detector's own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FilteredTracks(TrackTable):
    """K tracks with what is known of how wrong they are.

    Args:
        covariances: (K, 4, 4) float64 of x y vx vy.
        variances: (K, 5) float64 of z l w h yaw.
        facing: (K,) float64, how many detections more had this heading than the opposite one.
    """

    covariances: np.ndarray
    variances: np.ndarray
    facing: np.ndarray


class KalmanTracker(Tracker[FilteredTracks]):
    """Filters place and velocity of each object, and smooths its height, size and yaw.

    A detection may continue a track when its place is within `gate` standard deviations (Mahalanobis) of where the
    track is expected. Among those the likeliest are taken: the cost is twice the negative log likelihood of place and
    that of velocity, each by itself, but for constants; an unknown velocity counts as one that fits as well as
    velocities do on average.
    Yaws are compared modulo half a turn, and the heading is the one that most detections have.

    Args:
        noise: by class; classes that are not here are not tracked.
        gate: how many standard deviations of the difference are allowed; wide, as detectors' errors are not normal.
        assign: `assign_greedy` or `assign_hungarian`.
        lifecycle: when tracks begin and end.

    Raises:
        ValueError: no class, an unknown one, or a gate that is not positive.

    Source:
        Chiu et al., "Probabilistic 3D Multi-Object Tracking for Autonomous Driving", 2020, with constant velocity.
    """

    def __init__(
        self,
        *,
        noise: Mapping[str, ClassNoise] = NOISE,
        gate: float = 4.5,
        assign: Assignment = assign_greedy,
        lifecycle: Lifecycle | None = None,
    ) -> None:
        super().__init__(class_names=noise, lifecycle=lifecycle or Lifecycle(), assign=assign)
        if not gate > 0:
            raise ValueError(f"KalmanTracker: gate must be > 0, got {gate}")
        self._gate = gate
        unused = next(iter(noise.values()))
        rows = [noise.get(name, unused) for name in DETECTION_CLASSES]  # by label
        self._variance = {  # by name: (10,)
            field.name: np.array([getattr(row, field.name) for row in rows]) ** 2
            for field in dataclasses.fields(ClassNoise)
        }

    def _empty(self) -> FilteredTracks:
        none = np.zeros(0, dtype=np.int64)
        return FilteredTracks(
            ids=none, labels=none, boxes=np.zeros((0, 9)), scores=np.zeros(0), hits=none, seen_us=none,
            covariances=np.zeros((0, 4, 4)), variances=np.zeros((0, 5)), facing=np.zeros(0),
        )  # fmt: skip

    def _moved(self, tracks: FilteredTracks, elapsed_s: float) -> FilteredTracks:
        boxes = tracks.boxes.copy()
        boxes[:, :2] += elapsed_s * boxes[:, 7:]
        step = np.eye(4)
        step[[0, 1], [2, 3]] = elapsed_s
        push = np.kron([[elapsed_s**2 / 2], [elapsed_s]], np.eye(2))  # (4, 2) what an acceleration does
        acceleration = self._variance["acceleration_m_s2"][tracks.labels, None, None]
        growth = np.stack([self._variance[name][tracks.labels] for name in ("climb_m", "turn_rad")], axis=1)  # (K, 2)
        variances = tracks.variances.copy()
        variances[:, [0, _YAW]] += elapsed_s * growth
        return dataclasses.replace(
            tracks,
            boxes=boxes,
            covariances=step @ tracks.covariances @ step.T + acceleration * (push @ push.T),
            variances=variances,
        )

    def _costs(
        self, before: FilteredTracks, now: FilteredTracks, found: SampleDetections, elapsed_s: float
    ) -> np.ndarray:
        labels, covariances = now.labels, now.covariances
        offsets = found.boxes_global[:, None, :] - now.boxes  # (N, K, 9)
        place, place_log = _mahalanobis(offsets[..., :2], covariances[:, :2, :2], self._variance["position_m"][labels])
        speed, speed_log = _mahalanobis(
            offsets[..., 7:], covariances[:, 2:, 2:], self._variance["velocity_m_s"][labels]
        )
        speed = np.where(np.isnan(speed), 2.0, speed)  # the mean of a chi-squared variable of two degrees
        return np.where(place <= self._gate**2, place + speed + place_log + speed_log, np.inf)

    def _updated(
        self,
        before: FilteredTracks,
        now: FilteredTracks,
        found: SampleDetections,
        elapsed_s: float,
        unseen_s: np.ndarray,
    ) -> FilteredTracks:
        boxes, seen = now.boxes.copy(), found.boxes_global
        mean, covariances = boxes[:, _MOTION], now.covariances
        mean, covariances = _observe(mean, covariances, 0, seen[:, :2], self._variance["position_m"][now.labels])
        known = ~np.isnan(seen[:, 7])
        mean[known], covariances[known] = _observe(
            mean[known], covariances[known], 2, seen[known, 7:], self._variance["velocity_m_s"][now.labels[known]]
        )
        offsets, facing = _shape_offsets(boxes[:, _SHAPE], seen[:, _SHAPE], now.facing)
        gains = now.variances / (now.variances + self._shape_variances(now.labels))
        boxes[:, _MOTION] = mean
        boxes[:, _SHAPE] += gains * offsets
        boxes[:, 6] = _wrapped(boxes[:, 6] + np.where(facing < 0, np.pi, 0.0))
        return dataclasses.replace(
            now,
            boxes=boxes,
            covariances=covariances,
            variances=(1 - gains) * now.variances,
            facing=np.abs(facing),
        )

    def _born(self, found: SampleDetections, ids: np.ndarray, timestamp_us: int) -> FilteredTracks:
        boxes, labels = found.boxes_global.copy(), found.labels
        unknown = np.isnan(boxes[:, 7])
        boxes[unknown, 7:] = 0.0
        place = self._variance["position_m"][labels]
        speed = np.where(unknown, self._variance["speed_m_s"][labels], self._variance["velocity_m_s"][labels])
        return FilteredTracks(
            ids=ids,
            labels=labels,
            boxes=boxes,
            scores=found.scores,
            hits=np.ones(len(ids), dtype=np.int64),
            seen_us=np.full(len(ids), timestamp_us, dtype=np.int64),
            covariances=np.stack([place, place, speed, speed], axis=1)[:, :, None] * np.eye(4),  # (K, 4, 4)
            variances=self._shape_variances(labels),
            facing=np.ones(len(ids)),
        )

    def _shape_variances(self, labels: np.ndarray) -> np.ndarray:
        """(K, 5) of detected z l w h yaw."""
        names = ("height_m", "size_m", "size_m", "size_m", "yaw_rad")
        return np.stack([self._variance[name][labels] for name in names], axis=1)


def _mahalanobis(offsets: np.ndarray, covariances: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) squared distances of offsets (N, K, 2), and (K,) logarithms of the determinants."""
    a, b, c = covariances[:, 0, 0] + variances, covariances[:, 0, 1], covariances[:, 1, 1] + variances  # (K,)
    determinants = a * c - b * b
    x, y = offsets[..., 0], offsets[..., 1]
    return (c * x * x - 2 * b * x * y + a * y * y) / determinants, np.log(determinants)


def _observe(
    mean: np.ndarray, covariances: np.ndarray, first: int, seen: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (K, 4) and covariances (K, 4, 4) after two neighbouring entries, from `first` on, are seen as (K, 2)."""
    part = slice(first, first + 2)
    of_offsets = covariances[:, part, part] + variances[:, None, None] * np.eye(2)  # (K, 2, 2)
    gains = covariances[:, :, part] @ np.linalg.inv(of_offsets)  # (K, 4, 2)
    mean = mean + (gains @ (seen - mean[:, part])[:, :, None])[:, :, 0]
    covariances = covariances - gains @ covariances[:, part, :]
    return mean, (covariances + covariances.swapaxes(1, 2)) / 2


def _shape_offsets(shape: np.ndarray, seen: np.ndarray, facing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences (K, 5) with the yaw modulo half a turn, and the votes (K,) for the heading; below 0 it turns."""
    offsets = seen - shape
    turn = _wrapped(offsets[:, _YAW])
    flipped = np.abs(turn) > np.pi / 2
    offsets[:, _YAW] = np.where(flipped, _wrapped(turn + np.pi), turn)
    return offsets, np.clip(facing + np.where(flipped, -1.0, 1.0), -_SURE, _SURE)


def _wrapped(angles_rad: np.ndarray) -> np.ndarray:
    return (angles_rad + np.pi) % (2 * np.pi) - np.pi
