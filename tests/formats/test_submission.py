"""Detection submissions, written and validated, held against the devkit's loader."""

import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox

from perception.formats.classes import ATTRIBUTES, DETECTION_CLASSES
from perception.formats.submission import SampleDetections, SubmissionMeta, write_submission
from perception.formats.submission_reader import read_submission, validate_submission

META = SubmissionMeta(use_camera=False, use_lidar=True, use_radar=False)
TOKENS = ("first", "second", "third")


def detections(num_boxes: int, seed: int = 0) -> SampleDetections:
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.normal(scale=500, size=(num_boxes, 3)), rng.uniform(0.5, 5, (num_boxes, 3))])
    boxes = np.hstack([boxes, rng.uniform(-np.pi, np.pi, (num_boxes, 1)), rng.normal(size=(num_boxes, 2))])
    return SampleDetections(boxes, rng.uniform(size=num_boxes), rng.integers(0, 10, num_boxes))


@pytest.fixture
def found() -> list[tuple[str, SampleDetections]]:
    return [("first", detections(4)), ("second", detections(0)), ("third", detections(500))]


@pytest.fixture
def submission(tmp_path: Path, found: list[tuple[str, SampleDetections]]) -> Path:
    assert write_submission(tmp_path / "results.json", found, META) == 504
    return tmp_path / "results.json"


def test_the_devkit_reads_what_was_written(submission: Path, found: list[tuple[str, SampleDetections]]) -> None:
    boxes, meta = load_prediction(str(submission), 500, DetectionBox)
    assert meta["use_lidar"] and not meta["use_map"]
    assert boxes.sample_tokens == list(TOKENS)
    for token, ours in found:
        theirs = boxes[token]
        assert [box.detection_name for box in theirs] == [DETECTION_CLASSES[label] for label in ours.labels]
        assert [box.detection_score for box in theirs] == ours.scores.tolist()
        if theirs:
            assert np.array([box.translation for box in theirs]).tolist() == ours.boxes_global[:, :3].tolist()
            assert np.array([box.size for box in theirs]).tolist() == ours.boxes_global[:, [4, 3, 5]].tolist()


def test_the_reader_agrees_with_the_devkit(submission: Path) -> None:
    ours = validate_submission(submission, TOKENS)
    theirs, _ = load_prediction(str(submission), 500, DetectionBox)
    boxes = theirs.all
    assert ours.sample_tokens == TOKENS
    assert ours.offsets.tolist() == [0, 4, 4, 504]
    keys = np.repeat(ours.sample_tokens, np.diff(ours.offsets)).tolist()
    named = [ours.other_tokens.get(row, key) for row, key in enumerate(keys)]
    assert named == [box.sample_token for box in boxes]
    np.testing.assert_array_equal(ours.translations, [box.translation for box in boxes])
    np.testing.assert_array_equal(ours.sizes_wlh, [box.size for box in boxes])
    np.testing.assert_array_equal(ours.rotations_wxyz, [box.rotation for box in boxes])
    np.testing.assert_array_equal(ours.velocities, [box.velocity for box in boxes])
    np.testing.assert_array_equal(ours.scores, [box.detection_score for box in boxes])
    assert [DETECTION_CLASSES[label] for label in ours.labels] == [box.detection_name for box in boxes]
    names = [*ATTRIBUTES, ""]
    assert [names[number] for number in ours.attributes] == [box.attribute_name for box in boxes]
    assert (ours.num_pts == -1).all()


def test_unknown_velocity_is_written_and_read_as_nan(tmp_path: Path) -> None:
    one = detections(1)
    one.boxes_global[0, 7:] = np.nan
    write_submission(tmp_path / "a.json", [("first", one), ("second", detections(2))], META)
    theirs, _ = load_prediction(str(tmp_path / "a.json"), 500, DetectionBox)
    assert np.isnan(theirs["first"][0].velocity).all()
    np.testing.assert_array_equal(read_submission(tmp_path / "a.json").velocities[0], [np.nan, np.nan])


def test_given_attributes_are_kept(tmp_path: Path) -> None:
    one = SampleDetections(detections(2).boxes_global, np.ones(2), np.array([0, 9]), ["vehicle.stopped", ""])
    write_submission(tmp_path / "a.json", [("first", one)], META)
    assert read_submission(tmp_path / "a.json").attributes.tolist() == [ATTRIBUTES.index("vehicle.stopped"), -1]


def test_a_submission_without_boxes(tmp_path: Path) -> None:
    write_submission(tmp_path / "a.json", [], META)
    assert read_submission(tmp_path / "a.json").translations.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 10])}, r"labels must be in 0..9"),
        ({"scores": np.array([0.5, np.nan])}, r"boxes and scores must be finite"),
        (
            {"scores": np.ones(3)},
            r"boxes, scores and labels must be .*, got \(2, 9\), \(3,\) and \(2,\)",
        ),
        ({"boxes_global": np.zeros((2, 9))}, r"sizes must be > 0, got 0.0"),
        ({"boxes_global": np.full((2, 9), np.inf)}, r"boxes and scores must be finite"),
        ({"attributes": ["vehicle.flying", ""]}, r"attributes must be 2 known names or '', got unknown"),
    ],
)
def test_writing_rejects_and_leaves_no_file(tmp_path: Path, change: dict, message: str) -> None:
    good = detections(2)
    values = {"boxes_global": good.boxes_global, "scores": good.scores, "labels": good.labels} | change
    with pytest.raises(ValueError, match=rf"sample 'b': {message}"):
        write_submission(tmp_path / "a.json", [("a", good), ("b", SampleDetections(**values))], META)
    with pytest.raises(ValueError, match=r"sample 'a': must have at most 500 boxes, got 501"):
        write_submission(tmp_path / "a.json", [("a", detections(501))], META)
    with pytest.raises(ValueError, match=r"sample 'a': must come once, this is the second time"):
        write_submission(tmp_path / "a.json", [("a", good), ("a", good)], META)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("translation", [1.0, float("nan"), 2.0], r"box 2, field translation: must not be NaN, got \[1.0, nan, 2.0\]"),
        ("translation", [1.0, 2.0], r"box 2, field translation: Expected `array` of length 3"),
        ("size", [1.0, float("nan"), 2.0], r"box 2, field size: must be > 0"),
        ("rotation", [1.0, 0.0, 0.0, float("nan")], r"box 2, field rotation: must not be NaN"),
        ("velocity", [1.0], r"box 2, field velocity: Expected `array` of length 2"),
        ("detection_name", "Car", r"box 2, field detection_name: must be one of car, .*, got 'Car'"),
        ("attribute_name", "moving", r"box 2, field attribute_name: must be '' or one of .*, got 'moving'"),
        ("detection_score", float("nan"), r"box 2, field detection_score: must not be NaN, got nan"),
        ("sample_token", 5, r"box 2, field sample_token: Expected `str`, got `int`"),
    ],
)
def test_what_the_devkit_refuses_is_named(submission: Path, field: str, value: object, message: str) -> None:
    content = json.loads(submission.read_text())
    content["results"]["first"][2][field] = value
    submission.write_text(json.dumps(content))
    with pytest.raises(AssertionError):
        load_prediction(str(submission), 500, DetectionBox)
    with pytest.raises(ValueError, match=rf"read_submission: .*results.json: sample 'first': {message}"):
        read_submission(submission)


def test_a_point_count_loses_its_fraction_as_in_the_devkit(submission: Path) -> None:
    content = json.loads(submission.read_text())
    for box, count in zip(content["results"]["first"], (0.0, 0.9, 3.0), strict=False):
        box["num_pts"] = count
    submission.write_text(json.dumps(content))
    expected = [box.num_pts for box in load_prediction(str(submission), 500, DetectionBox)[0]["first"]]
    assert expected[:3] == [0, 0, 3]
    assert read_submission(submission).of_samples(["first"]).num_pts.tolist() == expected


def test_a_point_count_beyond_64_bits_is_named(submission: Path) -> None:
    content = json.loads(submission.read_text())
    content["results"]["first"][2]["num_pts"] = 10**30
    submission.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sample 'first': box 2, field num_pts: Expected `int` <= \d+"):
        read_submission(submission)


def test_rotations_must_be_of_norm_1_as_float32_rounds_it(submission: Path) -> None:
    content = json.loads(submission.read_text())
    content["results"]["first"][2]["rotation"] = [1.0009, 0.0, 0.0, 0.0]
    submission.write_text(json.dumps(content))
    assert read_submission(submission).rotations_wxyz[2, 0] == 1.0009
    content["results"]["first"][2]["rotation"] = [0.6, 0.0, 0.0, 0.7]
    submission.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"'first': box 2, field rotation: must have norm 1 within 0.001, got \[0.6, 0"
    ):
        read_submission(submission)


def test_the_least_number_is_no_nan(submission: Path) -> None:
    content = json.loads(submission.read_text())
    least = -np.finfo(np.float64).max
    content["results"]["first"][0]["velocity"] = [least, float("nan")]
    content["results"]["first"][1]["translation"] = [least, 0.0, 0.0]
    submission.write_text(json.dumps(content))
    found = read_submission(submission)
    np.testing.assert_array_equal(found.velocities[0], [least, np.nan])
    assert found.translations[1, 0] == least


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t:\n")])
@pytest.mark.parametrize("escape", ["", '"', "\\", "\ud800"])
def test_nan_is_read_as_a_value_and_kept_as_a_text(submission: Path, separators: tuple[str, str], escape: str) -> None:
    content = json.loads(submission.read_text())
    content["meta"] |= {"method": "of NaN, [NaN] and, NaN, NaNet", "temperature": float("nan")}
    content["results"]["first"][1] |= {"velocity": [float("nan"), 1.5], "sample_token": f"a, NaN ]{escape}"}
    content["results"] = {": NaN " if token == "second" else token: it for token, it in content["results"].items()}
    submission.write_text(json.dumps(content, separators=separators))
    found = read_submission(submission)
    assert found.sample_tokens == ("first", ": NaN ", "third")
    assert found.other_tokens[1] == f"a, NaN ]{escape}"
    assert found.meta["method"] == content["meta"]["method"]
    assert np.isnan(found.meta["temperature"])
    np.testing.assert_array_equal(found.velocities[1], [np.nan, 1.5])
    theirs, _ = load_prediction(str(submission), 500, DetectionBox)
    np.testing.assert_array_equal(found.velocities, [box.velocity for box in theirs.all])


def test_samples_are_chosen_in_the_order_asked_for(submission: Path) -> None:
    whole = read_submission(submission)
    some = whole.of_samples(["third", "first"])
    assert some.sample_tokens == ("third", "first")
    counts = dict(zip(whole.sample_tokens, np.diff(whole.offsets), strict=True))
    assert some.offsets.tolist() == [0, counts["third"], counts["third"] + counts["first"]]
    start = whole.offsets[whole.sample_tokens.index("third")]
    np.testing.assert_array_equal(some.scores[: counts["third"]], whole.scores[start : start + counts["third"]])
    np.testing.assert_array_equal(some.scores[counts["third"] :], whole.scores[: counts["first"]])
    with pytest.raises(ValueError, match="of_samples: 1 samples are not in the file, such as 'tenth'"):
        whole.of_samples(["first", "tenth"])


def test_many_samples_keep_their_order_whatever_reads_them(tmp_path: Path) -> None:
    """Texts of any kind among plain ones, and boxes that name another sample, over more than one thread's share."""
    counts = [number * 7 % 11 for number in range(300)]
    found = [(f"sample {number}", detections(count, number)) for number, count in enumerate(counts)]
    write_submission(tmp_path / "results.json", found, META)
    content = json.loads((tmp_path / "results.json").read_text())
    for number in range(0, 300, 7):
        for box in content["results"][f"sample {number}"][1::2]:
            box["sample_token"] = "\u00e9 elsewhere"
    (tmp_path / "results.json").write_text(json.dumps(content))
    ours = read_submission(tmp_path / "results.json")
    theirs, _ = load_prediction(str(tmp_path / "results.json"), 500, DetectionBox)
    assert ours.sample_tokens == tuple(token for token, _ in found)
    assert np.diff(ours.offsets).tolist() == counts
    np.testing.assert_array_equal(ours.translations, [box.translation for box in theirs.all])
    assert list(ours.other_tokens) == [
        row for row, box in enumerate(theirs.all) if box.sample_token == "\u00e9 elsewhere"
    ]
    backwards = ours.of_samples(ours.sample_tokens[::-1])
    for token, row in zip(("sample 7", "sample 14"), (1, 1), strict=True):
        place = int(backwards.offsets[backwards.sample_tokens.index(token)]) + row
        assert backwards.other_tokens[place] == "\u00e9 elsewhere"
    assert len(backwards.other_tokens) == len(ours.other_tokens)


def test_sizes_must_be_positive(submission: Path) -> None:
    content = json.loads(submission.read_text())
    content["results"]["third"][7]["size"][0] = 0.0
    submission.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sample 'third': box 7, field size: must be > 0"):
        read_submission(submission)


def test_infinite_translations_pass_as_in_the_devkit(submission: Path) -> None:
    content = json.loads(submission.read_text())
    content["results"]["first"][0]["translation"][0] = float("inf")
    del content["results"]["first"][1]["detection_score"]
    submission.write_text(json.dumps(content))
    theirs, _ = load_prediction(str(submission), 500, DetectionBox)
    ours = read_submission(submission)
    np.testing.assert_array_equal(ours.translations, [box.translation for box in theirs.all])
    assert ours.scores[1] == theirs.all[1].detection_score == -1.0


def test_all_faults_are_told_at_once(submission: Path) -> None:
    content = json.loads(submission.read_text())
    content["results"]["first"][0]["size"][0] = -1
    content["results"]["third"][9]["detection_name"] = "lorry"
    submission.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"(?s)sample 'first': box 0, field size.*sample 'third': box 9, field det"):
        read_submission(submission)


def test_too_many_boxes(submission: Path) -> None:
    content = json.loads(submission.read_text())
    content["results"]["third"] += content["results"]["first"]
    submission.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sample 'third': must have at most 500 boxes, got 504"):
        read_submission(submission)


def test_tokens_must_be_those_of_the_split(submission: Path) -> None:
    with pytest.raises(ValueError, match=r"1 samples of the split are missing, such as 'fourth'; 1 samples are not in"):
        validate_submission(submission, ("first", "second", "fourth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"must be an object with `meta` and `results`, lacks `meta`"),
        ('{"results": {}}', r"lacks `meta`"),
        ('{"meta": {}}', r"lacks `results`"),
        ('{"meta": null, "results": {}}', r"`meta` must be an object, got None"),
        ('{"meta": [Infinity], "results": {}}', r"`meta` must be an object, got \[inf\]"),
        ('{"meta": {}, "results": [1]}', r"`results` must be boxes by sample token"),
        ('{"meta": {}, "results": {"a": 5}}', r"sample 'a': Expected `array`, got `int`"),
        ('{"meta": {}, "results": {"a": [', r"not JSON"),
        ("", r"not JSON"),
        ('{"meta": ' + "[" * 100_000, r"not JSON"),
        ('{"meta": {}, "results": {"a": ' + "[" * 100_000, r"not JSON"),
        ('{"meta": {"method": "\udcff"}, "results": {}}', r"not JSON: 'utf-8' codec can't decode"),
        ('{"meta": {}, "results": {}, "more": "\udcff"}', r"not JSON: 'utf-8' codec can't decode"),
        ('{"meta": {}, "results": {"\udcff": []}}', r"not JSON: 'utf-8' codec can't decode"),
        ('{"meta": {}, "results": {"a": [{"sample_token": "\udcff"}]}}', r"not JSON: 'utf-8' codec can't decode"),
    ],
)
def test_files_that_are_no_submission(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"read_submission: .*a.json: .*{message}"):
        read_submission(tmp_path / "a.json")
