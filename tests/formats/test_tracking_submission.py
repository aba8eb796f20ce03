"""Tracking submissions, written and validated, held against the devkit's loader."""

import json
import unittest
from pathlib import Path

import numpy as np
import pytest

from perception.formats.classes import DETECTION_CLASSES
from perception.formats.submission import SubmissionMeta
from perception.formats.tracking_submission import (
    TRACKING_CLASSES,
    SampleTracks,
    read_tracks,
    validate_tracks,
    write_tracks,
)

META = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
TOKENS = ("first", "second", "third")
LABELS = np.array([DETECTION_CLASSES.index(name) for name in TRACKING_CLASSES])


def tracks(num_boxes: int, seed: int = 0) -> SampleTracks:
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.normal(scale=500, size=(num_boxes, 3)), rng.uniform(0.5, 5, (num_boxes, 3))])
    boxes = np.hstack([boxes, rng.uniform(-np.pi, np.pi, (num_boxes, 1)), rng.normal(size=(num_boxes, 2))])
    return SampleTracks(boxes, rng.uniform(size=num_boxes), rng.choice(LABELS, num_boxes), rng.permutation(num_boxes))


def load_by_devkit(path: Path):
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.tracking.data_classes import TrackingBox

    config_factory("tracking_nips_2019")  # sets the class names that TrackingBox checks
    return load_prediction(str(path), 500, TrackingBox)


@pytest.fixture
def found() -> list[tuple[str, SampleTracks]]:
    return [("first", tracks(4)), ("second", tracks(0)), ("third", tracks(500))]


@pytest.fixture
def submission(tmp_path: Path, found: list[tuple[str, SampleTracks]]) -> Path:
    assert write_tracks(tmp_path / "tracks.json", found, META) == 504
    return tmp_path / "tracks.json"


def changed(submission: Path, field: str, value: object) -> None:
    """Gives the third box of the first sample another value."""
    content = json.loads(submission.read_text())
    content["results"]["first"][2][field] = value
    submission.write_text(json.dumps(content))


def test_classes_are_the_devkits():
    from nuscenes.eval.common.config import config_factory

    config = config_factory("tracking_nips_2019")
    assert tuple(config.tracking_names) == TRACKING_CLASSES


def test_the_devkit_reads_what_was_written(submission, found):
    boxes, meta = load_by_devkit(submission)
    assert meta["use_lidar"] and not meta["use_map"]
    assert boxes.sample_tokens == list(TOKENS)
    for token, ours in found:
        theirs = boxes[token]
        assert [box.tracking_name for box in theirs] == [DETECTION_CLASSES[label] for label in ours.labels]
        assert [box.tracking_score for box in theirs] == ours.scores.tolist()
        assert [box.tracking_id for box in theirs] == [str(number) for number in ours.ids]
        if theirs:
            assert np.array([box.translation for box in theirs]).tolist() == ours.boxes_global[:, :3].tolist()
            assert np.array([box.size for box in theirs]).tolist() == ours.boxes_global[:, [4, 3, 5]].tolist()


def test_the_reader_agrees_with_the_devkit(submission):
    ours = validate_tracks(submission, TOKENS)
    boxes = load_by_devkit(submission)[0].all
    assert ours.sample_tokens == TOKENS
    assert ours.offsets.tolist() == [0, 4, 4, 504]
    assert ours.inner_tokens == tuple(box.sample_token for box in boxes)
    assert ours.tracking_ids == tuple(box.tracking_id for box in boxes)
    np.testing.assert_array_equal(ours.translations, [box.translation for box in boxes])
    np.testing.assert_array_equal(ours.sizes_wlh, [box.size for box in boxes])
    np.testing.assert_array_equal(ours.rotations_wxyz, [box.rotation for box in boxes])
    np.testing.assert_array_equal(ours.velocities, [box.velocity for box in boxes])
    np.testing.assert_array_equal(ours.scores, [box.tracking_score for box in boxes])
    assert [DETECTION_CLASSES[label] for label in ours.labels] == [box.tracking_name for box in boxes]


def test_unknown_velocity_is_written_and_read_as_nan(tmp_path):
    one = tracks(2)
    one.boxes_global[0, 7:] = np.nan
    write_tracks(tmp_path / "a.json", [("first", one)], META)
    assert np.isnan(load_by_devkit(tmp_path / "a.json")[0]["first"][0].velocity).all()
    np.testing.assert_array_equal(read_tracks(tmp_path / "a.json").velocities, one.boxes_global[:, 7:])


def test_samples_are_chosen_in_the_order_asked_for(submission):
    some = read_tracks(submission).of_samples(["third", "first"])
    assert some.sample_tokens == ("third", "first")
    assert some.offsets.tolist() == [0, 500, 504]
    assert some.tracking_ids[500:] == read_tracks(submission).tracking_ids[:4]
    with pytest.raises(ValueError, match="of_samples: 1 samples are not in the file, such as 'tenth'"):
        some.of_samples(["first", "tenth"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, DETECTION_CLASSES.index("barrier")])}, r"labels must be of bicycle, .*, got \[0, 9\]"),
        ({"scores": np.array([0.5, np.nan])}, r"boxes and scores must be finite"),
        ({"scores": np.ones(3)}, r"boxes must be \(M, 9\) and scores, labels and ids \(M,\), got \(2, 9\) and"),
        ({"boxes_global": np.zeros((2, 9))}, r"sizes must be > 0, got 0.0"),
        ({"ids": np.array([7, 7])}, r"ids must differ, got \[7, 7\]"),
    ],
)
def test_writing_rejects_and_leaves_no_file(tmp_path, change, message):
    good = tracks(2)
    values = {name: getattr(good, name) for name in ("boxes_global", "scores", "labels", "ids")} | change
    with pytest.raises(ValueError, match=rf"sample 'b': {message}"):
        write_tracks(tmp_path / "a.json", [("a", good), ("b", SampleTracks(**values))], META)
    with pytest.raises(ValueError, match=r"sample 'a': must have at most 500 boxes, got 501"):
        write_tracks(tmp_path / "a.json", [("a", tracks(501))], META)
    with pytest.raises(ValueError, match=r"write_tracks: sample 'a': must come once, this is the second time"):
        write_tracks(tmp_path / "a.json", [("a", good), ("a", good)], META)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("translation", [1.0, float("nan"), 2.0], r"box 2, field translation: must not be NaN, got \[1.0, nan, 2.0\]"),
        ("rotation", [1.0, 0.0, 0.0, float("nan")], r"box 2, field rotation: must not be NaN"),
        ("velocity", [1.0], r"box 2, field velocity: Expected `array` of length 2"),
        ("tracking_name", "barrier", r"box 2, field tracking_name: must be one of bicycle, .*, got 'barrier'"),
        ("tracking_score", float("nan"), r"box 2, field tracking_score: must not be NaN, got nan"),
    ],
)
def test_what_the_devkit_refuses_is_named(submission, field, value, message):
    changed(submission, field, value)
    with pytest.raises((AssertionError, unittest.SkipTest)):
        load_by_devkit(submission)
    with pytest.raises(ValueError, match=rf"read_tracks: .*tracks.json: sample 'first': {message}"):
        read_tracks(submission)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", [1.0, 0.0, 2.0], r"box 2, field size: must be > 0"),
        ("rotation", [0.6, 0.0, 0.0, 0.7], r"box 2, field rotation: must have norm 1 within 0.001, got \[0.6, 0"),
        ("tracking_id", 5, r"box 2, field tracking_id: Expected `str`, got `int`"),
    ],
)
def test_what_the_devkit_would_take_wrongly_is_named(submission, field, value, message):
    changed(submission, field, value)
    load_by_devkit(submission)
    with pytest.raises(ValueError, match=rf"read_tracks: .*tracks.json: sample 'first': {message}"):
        read_tracks(submission)


def test_an_id_comes_once_in_a_sample(submission):
    first = json.loads(submission.read_text())["results"]["first"][0]["tracking_id"]
    changed(submission, "tracking_id", first)
    with pytest.raises(
        ValueError, match=rf"sample 'first': box 2, field tracking_id: must come once .* '{first}' again"
    ):
        read_tracks(submission)


def test_tokens_must_be_those_of_the_split(submission):
    with pytest.raises(ValueError, match=r"1 samples of the split are missing, such as 'fourth'; 1 samples are not in"):
        validate_tracks(submission, ("first", "second", "fourth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"must be an object with `meta` and `results`, lacks `meta`"),
        ('{"meta": {}}', r"lacks `results`"),
        ('{"meta": {}, "results": [1]}', r"`results` must be boxes by sample token"),
        ('{"meta": {}, "results": {"a": 5}}', r"sample 'a': Expected `array`, got `int`"),
        ('{"meta": {}, "results": {"a": [', r"not JSON"),
        ('{"meta": {}, "results": {"a": ' + "[" * 100_000, r"not JSON"),
        ('{"meta": {}, "results": {"a": [{"tracking_id": "\udcff"}]}}', r"not JSON: 'utf-8' codec can't decode"),
    ],
)
def test_files_that_are_no_submission(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"read_tracks: .*a.json: .*{message}"):
        read_tracks(tmp_path / "a.json")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tracks(tmp_path / "none.json")
