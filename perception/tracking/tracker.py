"""What all trackers share: one moment's detections and the state so far go in, tracks and the new state come out."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SampleDetections
from perception.formats.tracking_submission import SampleTracks
from perception.tracking.association import Assignment


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackTable:
    """K tracks as columns, in the global frame.

    Args:
        ids: (K,) int64 number of each track, never used twice.
        labels: (K,) int64 index into `DETECTION_CLASSES`.
        boxes: (K, 9) float64 x y z l w h yaw vx vy at the time of the state.
        scores: (K,) float64 how sure it is that there is an object.
        hits: (K,) int64 how many detections each is made of.
        seen_us: (K,) int64 time of the last of them.
    """

    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    seen_us: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: np.ndarray) -> Self:
        """Some of the tracks.

        Args:
            rows: indices, or (K,) bool.

        Returns:
            Those tracks, in the order of `rows`.
        """
        columns = {field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **columns)

    def joined(self, *others: Self) -> Self:
        """The tracks of several tables.

        Args:
            others: what follows these tracks.

        Returns:
            One table.
        """
        names = [field.name for field in dataclasses.fields(self)]
        columns = {name: np.concatenate([getattr(one, name) for one in (self, *others)]) for name in names}
        return dataclasses.replace(self, **columns)


Table = TypeVar("Table", bound=TrackTable)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackerState(Generic[Table]):
    """All that a tracker remembers of a drive.

    Args:
        scene: which drive.
        timestamp_us: of the last moment.
        next_id: number of the next new track; it goes on rising from scene to scene.
        tracks: those that may go on.
    """

    scene: str
    timestamp_us: int
    next_id: int
    tracks: Table


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """When tracks begin, are told of, and end.

    Args:
        min_score: detections below it are left out.
        birth_score: a detection that continues no track begins one from this score on.
        min_hits: a track is told of from this number of detections on.
        max_age_s: a track ends when its last detection is older. The default is three frames of nuScenes with their
            jitter.
        gather_scores: the score of a track is the probability that not all of its detections are false, each taken
            for itself, `1 - (1 - before) (1 - detected)`; else it is that of its last detection.

    Raises:
        ValueError: a value is not allowed.

    Source:
        Benbarka et al., "Score refinement for confidence-based 3D multi-object tracking", IROS 2021, for the scores.
    """

    min_score: float = 0.0
    birth_score: float = 0.0
    min_hits: int = 1
    max_age_s: float = 1.75
    gather_scores: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_score) and math.isfinite(self.birth_score)):
            raise ValueError(
                f"Lifecycle: min_score and birth_score must be finite, got {self.min_score} and {self.birth_score}"
            )
        if not (self.min_hits >= 1 and self.max_age_s > 0):
            raise ValueError(
                f"Lifecycle: min_hits must be >= 1 and max_age_s > 0, got {self.min_hits} and {self.max_age_s}"
            )


class Tracker(ABC, Generic[Table]):
    """Detections -> tracks, moment by moment; what it remembers is in the state alone.

    Args:
        class_names: the classes that are tracked; detections of others are left out.
        lifecycle: when tracks begin and end.
        assign: from costs to pairs.

    Raises:
        ValueError: no class, or an unknown one.
    """

    def __init__(self, *, class_names: Iterable[str], lifecycle: Lifecycle, assign: Assignment) -> None:
        names = tuple(class_names)
        unknown = [name for name in names if name not in DETECTION_CLASSES]
        if unknown or not names:
            raise ValueError(f"{type(self).__name__}: classes must be of {', '.join(DETECTION_CLASSES)}, got {names}")
        self._labels = np.array(sorted(DETECTION_CLASSES.index(name) for name in names), dtype=np.int64)
        self._lifecycle = lifecycle
        self._assign = assign

    def step(
        self, detections: SampleDetections, *, scene: str, timestamp_us: int, state: TrackerState[Table] | None = None
    ) -> tuple[SampleTracks, TrackerState[Table]]:
        """Continues the tracks with the detections of one moment.

        Nothing is continued without a state, in another scene, or where time goes back.

        Args:
            detections: in the global frame; none are normal.
            scene: the drive that the moment belongs to.
            timestamp_us: time of the moment.
            state: what the last step gave, None at the start; it is not changed.

        Returns:
            The tracks that have a detection at this moment, and the state for the next one.

        Raises:
            ValueError: the place, size or yaw of a box, or a score, is not finite; a label is no class.
        """
        found = self._admitted(detections)
        next_id = 0 if state is None else state.next_id
        before, elapsed_s = self._empty(), 0.0
        if state is not None and state.scene == scene and state.timestamp_us <= timestamp_us:
            elapsed_s = 1e-6 * (timestamp_us - state.timestamp_us)
            age_s = 1e-6 * (timestamp_us - state.tracks.seen_us)
            before = state.tracks.select(age_s <= self._lifecycle.max_age_s)
        now = self._moved(before, elapsed_s)
        costs = self._costs(before, now, found, elapsed_s)  # (N, K)
        costs = np.where(found.labels[:, None] == before.labels, costs, np.inf)
        rows, columns = self._assign(costs).T
        waiting = now.select(np.delete(np.arange(len(now)), columns))
        new = np.delete(np.arange(len(found.scores)), rows)
        new = new[found.scores[new] >= self._lifecycle.birth_score]
        ids = next_id + np.arange(len(new))
        last = before.select(columns)
        unseen_s = 1e-6 * (timestamp_us - last.seen_us)  # (P,)
        went_on = self._updated(last, now.select(columns), _rows(found, rows), elapsed_s, unseen_s)
        went_on = dataclasses.replace(
            went_on,
            scores=self._scores(went_on.scores, found.scores[rows]),
            hits=went_on.hits + 1,
            seen_us=np.full(len(rows), timestamp_us),
        )
        detected = went_on.joined(self._born(_rows(found, new), ids, timestamp_us))
        tracks = detected.joined(waiting)
        told = detected.select(detected.hits >= self._lifecycle.min_hits)
        return (
            SampleTracks(boxes_global=told.boxes, scores=told.scores, labels=told.labels, ids=told.ids),
            TrackerState(scene=scene, timestamp_us=timestamp_us, next_id=next_id + len(new), tracks=tracks),
        )

    def _admitted(self, detections: SampleDetections) -> SampleDetections:
        """Checked detections of the tracked classes; velocities that are not finite become NaN."""
        boxes = np.array(detections.boxes_global, dtype=np.float64).reshape(-1, 9)
        broken = ~np.isfinite(boxes[:, :7]).all(axis=1) | ~np.isfinite(detections.scores)
        if broken.any():
            row = int(np.flatnonzero(broken)[0])
            raise ValueError(
                f"{type(self).__name__}.step: boxes and scores must be finite but for velocities, "
                f"got {boxes[row].tolist()} with score {detections.scores[row]} in row {row}"
            )
        if not np.isin(detections.labels, np.arange(len(DETECTION_CLASSES))).all():
            raise ValueError(
                f"{type(self).__name__}.step: labels must be in 0..{len(DETECTION_CLASSES) - 1}, "
                f"got {np.unique(detections.labels).tolist()}"
            )
        boxes[~np.isfinite(boxes[:, 7:]).all(axis=1), 7:] = np.nan
        kept = np.isin(detections.labels, self._labels) & (detections.scores >= self._lifecycle.min_score)
        scores = np.asarray(detections.scores, dtype=np.float64)
        return _rows(SampleDetections(boxes, scores, detections.labels), np.flatnonzero(kept))

    def _scores(self, before: np.ndarray, detected: np.ndarray) -> np.ndarray:
        if not self._lifecycle.gather_scores:
            return detected
        return 1 - (1 - np.clip(before, 0, 1)) * (1 - np.clip(detected, 0, 1))

    @abstractmethod
    def _empty(self) -> Table:
        """A table of no tracks."""

    @abstractmethod
    def _moved(self, tracks: Table, elapsed_s: float) -> Table:
        """The tracks where they are expected some time later."""

    @abstractmethod
    def _costs(self, before: Table, now: Table, found: SampleDetections, elapsed_s: float) -> np.ndarray:
        """(N, K) what it costs to continue each track with each detection; infinite beyond the limits.

        Classes need not be compared here.
        """

    @abstractmethod
    def _updated(
        self, before: Table, now: Table, found: SampleDetections, elapsed_s: float, unseen_s: np.ndarray
    ) -> Table:
        """Tracks with one detection each, (K,) seconds after the last; the caller sets scores, `hits` and `seen_us`."""

    @abstractmethod
    def _born(self, found: SampleDetections, ids: np.ndarray, timestamp_us: int) -> Table:
        """A new track from each detection."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """The detections of one sample of a drive.

    Args:
        token: of the sample.
        scene: the drive.
        timestamp_us: time of the sample.
        detections: in the global frame.
    """

    token: str
    scene: str
    timestamp_us: int
    detections: SampleDetections


def track_moments(moments: Iterable[Moment], tracker: Tracker[Table]) -> Iterator[tuple[str, SampleTracks]]:
    """Tracks the objects of drives.

    Args:
        moments: the drives one after the other, each in order of time.
        tracker: the tracker.

    Yields:
        Token and tracks of each sample, as `write_tracks` takes them.

    Raises:
        ValueError: a detection is not finite. Names the sample.
    """
    state: TrackerState[Table] | None = None
    for moment in moments:
        try:
            tracks, state = tracker.step(
                moment.detections, scene=moment.scene, timestamp_us=moment.timestamp_us, state=state
            )
        except ValueError as error:
            raise ValueError(f"track_moments: sample {moment.token!r}: {error}") from error
        yield moment.token, tracks


def _rows(found: SampleDetections, rows: np.ndarray) -> SampleDetections:
    return SampleDetections(found.boxes_global[rows], found.scores[rows], found.labels[rows])
