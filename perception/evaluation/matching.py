"""Which detections hit which annotated boxes: recall and precision at one score and one distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.formats.classes import CLASS_RANGE_M, DETECTION_CLASSES


@dataclass(frozen=True, kw_only=True)
class MatchRule:
    """What counts as a hit.

    Args:
        min_score: detections below are left out.
        max_distance_m: farthest distance between the centres in the ground plane, inclusive.
        min_lidar_points: annotated boxes with fewer count neither as found nor as missed.
    """

    min_score: float = 0.3
    max_distance_m: float = 2.0
    min_lidar_points: int = 5


@dataclass(frozen=True, kw_only=True)
class PlacedObjects:
    """Objects of one sample, as far as matching looks at them.

    Args:
        offsets_m: (M, 2) float64, centres relative to the ego vehicle in the ground plane, axes of the global frame.
        labels: (M,) indices into `DETECTION_CLASSES`.
        weights: (M,) scores of detections; number of LiDAR points of annotations.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    offsets_m: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.labels)
        if self.offsets_m.shape != (num, 2) or self.labels.shape != (num,) or self.weights.shape != (num,):
            raise ValueError(
                "PlacedObjects: offsets_m, labels and weights must be (M, 2), (M,) and (M,), "
                f"got {self.offsets_m.shape}, {self.labels.shape} and {self.weights.shape}"
            )

    def select(self, keep: np.ndarray) -> PlacedObjects:
        """Some of the objects.

        Args:
            keep: (M,) bool, or indices.

        Returns:
            Those objects, in the order of `keep`.
        """
        return PlacedObjects(offsets_m=self.offsets_m[keep], labels=self.labels[keep], weights=self.weights[keep])


@dataclass(frozen=True, kw_only=True)
class MatchCounts:
    """Counts of one sample or, added up, of many.

    Args:
        num_truth: annotated boxes that had to be found.
        num_detections: detections that count: hits and false alarms.
        num_matched: hits.
    """

    num_truth: int = 0
    num_detections: int = 0
    num_matched: int = 0

    @property
    def recall(self) -> float:
        """Share of the annotated boxes that were found; NaN where there were none."""
        return self.num_matched / self.num_truth if self.num_truth else float("nan")

    @property
    def precision(self) -> float:
        """Share of the detections that are hits; NaN where there were none."""
        return self.num_matched / self.num_detections if self.num_detections else float("nan")

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return MatchCounts(
            num_truth=self.num_truth + other.num_truth,
            num_detections=self.num_detections + other.num_detections,
            num_matched=self.num_matched + other.num_matched,
        )


def match_detections(detections: PlacedObjects, truth: PlacedObjects, rule: MatchRule | None = None) -> MatchCounts:
    """Counts hits, one detection to one annotated box of its class, in the order of falling score.

    Both sides are first restricted to the range in which nuScenes evaluates their class. A detection takes the nearest
    annotated box that is still free. One that finds none, but lies near a box with too few points, counts neither way.

    Args:
        detections: what was found, with scores.
        truth: what was annotated, with numbers of LiDAR points.
        rule: what counts as a hit.

    Returns:
        The counts of this sample.
    """
    rule = rule or MatchRule()
    detections = detections.select(_in_range(detections) & (detections.weights >= rule.min_score))
    detections = detections.select(np.argsort(-detections.weights, kind="stable"))
    truth = truth.select(_in_range(truth))
    wanted = truth.weights >= rule.min_lidar_points
    distances_m = np.linalg.norm(detections.offsets_m[:, None] - truth.offsets_m[None], axis=-1)  # (M, G)
    near = (distances_m <= rule.max_distance_m) & (detections.labels[:, None] == truth.labels[None])
    free = wanted.copy()
    num_matched = num_neutral = 0
    for row, distance_m in enumerate(distances_m):
        candidates = near[row] & free
        if candidates.any():
            free[np.where(candidates, distance_m, np.inf).argmin()] = False
            num_matched += 1
        elif (near[row] & ~wanted).any():
            num_neutral += 1
    return MatchCounts(
        num_truth=int(wanted.sum()), num_detections=len(detections.labels) - num_neutral, num_matched=num_matched
    )


def _in_range(objects: PlacedObjects) -> np.ndarray:
    """(M,) bool: within the distance in which the object's class is evaluated."""
    range_m = np.array([CLASS_RANGE_M[name] for name in DETECTION_CLASSES], dtype=np.float64)
    return np.linalg.norm(objects.offsets_m, axis=1) < range_m[objects.labels]
