"""Drives that were recorded at the same time, at the same place: no track goes from one to another."""

import json
from pathlib import Path

import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.evaluation.detection import annotations_as_detections
from perception.evaluation.tracking import moments_of
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SampleDetections, SubmissionMeta, write_submission
from perception.formats.submission_reader import read_submission
from perception.formats.tracking_submission import SampleTracks, read_tracks, write_tracks
from perception.tracking.greedy import GreedyTracker
from perception.tracking.kalman import KalmanTracker
from perception.tracking.tracker import Moment, Tracker, track_moments
from tests.synthetic_nuscenes import SCENES, STEP_US, VERSION, token, write_synthetic_nuscenes

META = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
APART_US = 100_000_000  # between the starts of the synthetic drives
NUM_TRACKED = 4  # two cars, a truck and a pedestrian of each


@pytest.fixture(params=[GreedyTracker, KalmanTracker], ids=["greedy", "kalman"])
def tracker(request) -> Tracker:
    return request.param()


def parked_car(x: float = 0.0) -> SampleDetections:
    box = np.array([[1000 + x, 500.0, 1.0, 4.5, 1.9, 1.6, 0.0, 0.0, 0.0]])
    return SampleDetections(box, np.array([0.5]), np.array([DETECTION_CLASSES.index("car")]))


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory) -> tuple[Index, Path]:
    """Two drives past the same objects, the second from the second moment of the first on; detections by time."""
    folder = tmp_path_factory.mktemp("overlapping")
    write_synthetic_nuscenes(folder / "set", cameras=False)
    for table in ("sample", "sample_data", "ego_pose"):
        path = folder / "set" / VERSION / f"{table}.json"
        rows = json.loads(path.read_text())
        for row in rows:
            drive, since_us = divmod(row["timestamp"] - 1_533_000_000_000_000, APART_US)
            row["timestamp"] = 1_533_000_000_000_000 + drive * STEP_US + since_us
        path.write_text(json.dumps(rows))
    build_index(folder / "set", VERSION, folder / "index")
    index = Index.open(folder / "index")
    records = sorted((index.record(position) for position in range(len(index))), key=lambda one: one.timestamp_us)
    found = [(record.token, annotations_as_detections(record.annotations)) for record in records]
    write_submission(folder / "results.json", found, META)
    return index, folder / "results.json"


def test_a_file_of_drives_at_the_same_time_has_tracks_of_one_drive_each(overlapping, tracker, tmp_path):
    index, results = overlapping
    submission = read_submission(results)
    times_us = [index.record(index.by_token(one)).timestamp_us for one in submission.sample_tokens]
    assert (np.diff(times_us) // STEP_US).tolist() == [1, 0, 1, 1]  # the drives take turns in the file
    write_tracks(tmp_path / "tracks.json", track_moments(moments_of(submission, index), tracker), META)
    tracks = read_tracks(tmp_path / "tracks.json")
    ids = []
    for scene, num_samples in SCENES.items():
        of_scene = tracks.of_samples([token("sample", scene, step) for step in range(num_samples)])
        assert len(of_scene.tracking_ids) == NUM_TRACKED * num_samples
        ids.append(set(of_scene.tracking_ids))
    assert [len(one) for one in ids] == [NUM_TRACKED, NUM_TRACKED]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("start_us", [0, 250_000, 500_000, 750_000])
def test_a_drive_past_the_same_place_begins_new_tracks(tracker, start_us):
    times = [("a", 0), ("a", 500_000), ("b", start_us), ("b", start_us + 500_000)]
    moments = [
        Moment(token=f"{scene}{time_us}", scene=scene, timestamp_us=time_us, detections=parked_car())
        for scene, time_us in times
    ]
    told = list(track_moments(moments, tracker))
    assert [name for name, _ in told] == [moment.token for moment in moments]
    assert [tracks.ids.tolist() for _, tracks in told] == [[0], [0], [1], [1]]


def test_one_tracker_follows_two_drives_in_turn_with_a_state_for_each(tracker):
    def step(scene: str, x: float, number: int) -> SampleTracks:
        tracks, states[scene] = tracker.step(
            parked_car(x), scene=scene, timestamp_us=number * STEP_US, state=states.get(scene)
        )
        return tracks

    states = {}
    both = [(step("a", 0.5 * number, number), step("b", 0.5 * number + 0.25, number)) for number in range(3)]
    assert [(a.ids.tolist(), b.ids.tolist()) for a, b in both] == [([0], [0])] * 3
    states = {}
    alone = [step("a", 0.5 * number, number) for number in range(3)]
    for (a, _), expected in zip(both, alone, strict=True):
        np.testing.assert_array_equal(a.boxes_global, expected.boxes_global)
        np.testing.assert_array_equal(a.scores, expected.scores)
