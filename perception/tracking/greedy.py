"""Tracking by the nearest centre, after each detection is moved back along its own velocity."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SampleDetections
from perception.tracking.association import assign_greedy
from perception.tracking.tracker import Lifecycle, Tracker, TrackTable

STEP_S = 0.5
"""Time between two annotated moments of nuScenes, which the limits are for."""

LIMITS_M: Mapping[str, float] = MappingProxyType(
    {
        "bicycle": 3.0,
        "bus": 5.5,
        "car": 4.0,
        "motorcycle": 13.0,
        "pedestrian": 1.0,
        "trailer": 3.0,
        "truck": 4.0,
    }
)
"""How far a detection may be from the track that it continues, after `STEP_S`: as published with CenterPoint."""


class GreedyTracker(Tracker[TrackTable]):
    """Takes the nearest pairs of detection and track first.

    A detection is moved back by its own velocity to where it was at the last moment (by the track's, where its own is
    unknown) and compared with where the track was then. The limits grow with times longer than `STEP_S`. A track
    without a detection moves on with its last velocity. A track is where its last detection was.

    Args:
        limits_m: by class, how far detection and track may be apart; classes that are not here are not tracked.
        lifecycle: when tracks begin and end.

    Raises:
        ValueError: no class, an unknown one, or a limit that is not positive.

    Source:
        Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, section 4; there the detection of the
        best score chooses first.
    """

    def __init__(self, *, limits_m: Mapping[str, float] = LIMITS_M, lifecycle: Lifecycle | None = None) -> None:
        super().__init__(class_names=limits_m, lifecycle=lifecycle or Lifecycle(), assign=assign_greedy)
        if not min(limits_m.values()) > 0:
            raise ValueError(f"GreedyTracker: limits_m must be > 0, got {dict(limits_m)}")
        self._limits_m = np.array([limits_m.get(name, 0.0) for name in DETECTION_CLASSES])

    def _empty(self) -> TrackTable:
        none = np.zeros(0, dtype=np.int64)
        return TrackTable(ids=none, labels=none, boxes=np.zeros((0, 9)), scores=np.zeros(0), hits=none, seen_us=none)

    def _moved(self, tracks: TrackTable, elapsed_s: float) -> TrackTable:
        boxes = tracks.boxes.copy()
        boxes[:, :2] += elapsed_s * np.nan_to_num(boxes[:, 7:])
        return dataclasses.replace(tracks, boxes=boxes)

    def _costs(self, before: TrackTable, now: TrackTable, found: SampleDetections, elapsed_s: float) -> np.ndarray:
        velocity = found.boxes_global[:, None, 7:]  # (N, 1, 2)
        velocity = np.nan_to_num(np.where(np.isnan(velocity), before.boxes[:, 7:], velocity))  # (N, K, 2)
        moved_back = found.boxes_global[:, None, :2] - elapsed_s * velocity
        distances_m = np.linalg.norm(moved_back - before.boxes[:, :2], axis=2)  # (N, K)
        limits_m = self._limits_m[found.labels] * max(1.0, elapsed_s / STEP_S)
        return np.where(distances_m <= limits_m[:, None], distances_m, np.inf)

    def _updated(
        self, before: TrackTable, now: TrackTable, found: SampleDetections, elapsed_s: float, unseen_s: np.ndarray
    ) -> TrackTable:
        boxes = found.boxes_global.copy()
        unknown = np.isnan(boxes[:, 7]) & (unseen_s > 0)
        moved_on = (unseen_s - elapsed_s)[:, None] * np.nan_to_num(before.boxes[:, 7:])  # since it was last detected
        covered = boxes[:, :2] - (before.boxes[:, :2] - moved_on)
        boxes[unknown, 7:] = covered[unknown] / unseen_s[unknown, None]
        return dataclasses.replace(now, boxes=boxes)

    def _born(self, found: SampleDetections, ids: np.ndarray, timestamp_us: int) -> TrackTable:
        return TrackTable(
            ids=ids,
            labels=found.labels,
            boxes=found.boxes_global,
            scores=found.scores,
            hits=np.ones(len(ids), dtype=np.int64),
            seen_us=np.full(len(ids), timestamp_us, dtype=np.int64),
        )
