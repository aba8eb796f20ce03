"""Names of nuScenes, held against the devkit."""

import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.utils import category_to_detection_name, detection_name_to_rel_attributes
from nuscenes.utils.color_map import get_colormap
from nuscenes.utils.splits import create_splits_scenes

from perception.formats.classes import (
    ATTRIBUTES,
    CATEGORY_TO_CLASS,
    CLASS_RANGE_M,
    DETECTION_CLASSES,
    POINT_CATEGORIES,
    category_label,
    default_attributes,
)
from perception.formats.splits import SPLITS, read_custom_splits, split_scenes


def test_names_are_the_devkits() -> None:
    assert list(DETECTION_CLASSES) == DETECTION_NAMES
    assert list(ATTRIBUTES) == ATTRIBUTE_NAMES
    assert config_factory("detection_cvpr_2019").class_range == CLASS_RANGE_M
    assert set(POINT_CATEGORIES) == set(get_colormap())
    assert len(CATEGORY_TO_CLASS) == 14


@pytest.mark.parametrize("category", POINT_CATEGORIES)
def test_labels_of_categories_are_the_devkits(category: str) -> None:
    label, name = category_label(category), category_to_detection_name(category)
    assert label == -1 if name is None else DETECTION_CLASSES[label] == name


@pytest.mark.parametrize("speed_m_s", [0.0, 0.19, 0.21, 8.0, np.nan])
def test_default_attributes_fit_their_class_and_speed(speed_m_s: float) -> None:
    labels = np.arange(len(DETECTION_CLASSES))
    velocity = np.stack([np.full(10, 0.6), np.full(10, -0.8)], axis=1) * speed_m_s
    names = default_attributes(labels, velocity)
    for class_name, name in zip(DETECTION_CLASSES, names, strict=True):
        allowed = detection_name_to_rel_attributes(class_name)
        assert name in allowed if allowed else name == ""
        if allowed:
            assert name.endswith(("moving", "with_rider")) == (speed_m_s > 0.2)


def test_default_attributes_reject_what_is_no_class() -> None:
    with pytest.raises(ValueError, match=r"labels must be in 0..9, got -1..-1"):
        default_attributes(np.array([-1]), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"must be \(M,\) and \(M, 2\), got \(2,\) and \(1, 2\)"):
        default_attributes(np.array([0, 1]), np.zeros((1, 2)))
    assert default_attributes(np.zeros(0, dtype=np.int64), np.zeros((0, 2))) == []


def test_splits_are_the_devkits() -> None:
    theirs = create_splits_scenes()
    assert set(SPLITS) == set(theirs)
    for split, scenes in theirs.items():
        assert sorted(scenes) == list(split_scenes(split))


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"split_scenes: split must be one of train, val.*got 'validation'"):
        split_scenes("validation")


def test_custom_splits(tmp_path: Path) -> None:
    assert read_custom_splits(tmp_path) == {}
    (tmp_path / "splits.json").write_text(json.dumps({"night": ["scene-0103", "scene-9001"]}))
    assert read_custom_splits(tmp_path) == {"night": ("scene-0103", "scene-9001")}


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ("[]", "must hold an object, got list"), ('{"a": "b"}', "split 'a' must be a list of scene")],
)
def test_broken_custom_splits(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(ValueError, match=rf"splits.json: {message}"):
        read_custom_splits(tmp_path)
