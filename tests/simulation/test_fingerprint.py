"""Fingerprints: figures counted by hand on a small set, and what drifts."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from perception.formats.lidar import write_lidar
from perception.formats.nuscenes_tables import Tables, write_tables
from perception.simulation.annotations import Annotations
from perception.simulation.dataset import Recorded, common_tables, merged, scene_tables
from perception.simulation.fingerprint import (
    Floor,
    below_floor,
    drift,
    fingerprint,
    fingerprint_text,
    read_fingerprint,
)
from perception.simulation.manifest import SceneOrder
from perception.simulation.rig import surround_rig

RIG = surround_rig((90, 160))
CATEGORIES = ("vehicle.car", "movable_object.trafficcone", "animal", "vehicle.truck")
EGO_M = np.array([900.0, 100.0, 0.0])
OFFSETS_M = ((10.0, 0.0), (0.0, 32.0), (3.0, 3.0), (40.0, 40.0))
"""A car at 10 m, a cone at 32 m (too far to be evaluated), an animal (no class), a truck at 57 m."""
POINTS = (40, 5, 9, 0)


def _keyframe(noted: Sequence[bool]) -> Annotations:
    boxes = np.tile([0.0, 0.0, 1.0, 4.0, 2.0, 1.5, 0.3], (4, 1))
    boxes[:, :2] = EGO_M[:2] + OFFSETS_M
    return Annotations(boxes, ("",) * 4, ("4",) * 4, np.array(POINTS), np.zeros(4, np.int64), np.array(noted))


def _scene(root: Path, order: SceneOrder, num_keyframes: int) -> Tables:
    """A scene that stands still; the truck is noted at the first keyframe only."""
    recorded = []
    pose = np.eye(4)
    pose[:3, 3] = EGO_M
    for number in range(num_keyframes):
        for sensor in RIG:
            t_us = 500_000 * (number + 1)
            path = root / f"samples/{sensor.channel}/{order.name}__{t_us}{sensor.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if sensor.modality == "camera":
                cv2.imwrite(str(path), np.full((9, 16), 100 + number, np.uint8))
            else:
                points = np.zeros((8 + number, 5), np.float32)
                points[2:, 0] = 5.0  # the first two are no returns
                write_lidar(path, points)
            recorded.append(Recorded(sensor.channel, t_us, pose, str(path.relative_to(root)), number, True))
    keyframes = [_keyframe((True, True, True, number == 0)) for number in range(num_keyframes)]
    return scene_tables(order, RIG, recorded, CATEGORIES, keyframes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene for training, one for validation, one for testing."""
    folder = tmp_path_factory.mktemp("set")
    train = SceneOrder("scene-0001", "train", 1, "boston-seaport", 0, 1, "day")
    val = replace(train, name="scene-0003", split="val", seed=2)
    test = replace(train, name="scene-0077", split="test", seed=3)
    scenes = [_scene(folder, order, 2) for order in (train, val)]
    write_tables(folder / "v1.0-trainval", merged(common_tables(RIG), scenes))
    write_tables(folder / "v1.0-test", merged(common_tables(RIG), [_scene(folder, test, 1)]))
    (folder / "manifest.yaml").write_text("generator: 2\nscenes: []\n")
    return folder


@pytest.fixture(scope="module")
def figures(root: Path) -> dict[str, Any]:
    return fingerprint(root)


def test_figures_are_those_counted_by_hand(figures: dict[str, Any]) -> None:
    assert list(figures["splits"]) == ["train", "val", "test"]
    val, test = figures["splits"]["val"], figures["splits"]["test"]
    assert (val["scenes"], val["keyframes"], test["keyframes"]) == (1, 2, 1)
    assert val["boxes"]["car"] == {"0-15 m": 2, "15-30 m": 0, "30-50 m": 0, "50-75 m": 0, "beyond 75 m": 0}
    assert val["boxes"]["traffic_cone"]["30-50 m"] == 2
    assert val["boxes"]["truck"]["50-75 m"] == 1
    assert sum(sum(counts.values()) for counts in val["boxes"].values()) == 5
    assert {name: count for name, count in val["evaluated_boxes"].items() if count} == {"car": 2}
    assert {name: count for name, count in val["instances"].items() if count} == {
        "car": 1,
        "truck": 1,
        "traffic_cone": 1,
    }
    assert val["boxes_per_keyframe"]["50"] == 2.5
    assert val["beyond_30_m_share"] == val["at_most_5_points_share"] == 0.6
    assert val["points_per_box"]["50"] == 5
    assert val["lidar_returns"] == {"5": 6.05, "25": 6.25, "50": 6.5, "75": 6.75, "95": 6.95}
    assert val["brightness"]["50"] == 100


def test_a_file_holds_what_was_written(figures: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "fingerprint.json"
    path.write_text(fingerprint_text(figures))
    assert read_fingerprint(path) == figures == json.loads(path.read_text())
    assert drift(read_fingerprint(path), figures) == []


def test_the_version_of_the_generator_is_no_part_of_it(root: Path, figures: dict[str, Any]) -> None:
    manifest = root / "manifest.yaml"
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace("generator: 2", "generator: 3"))
        assert fingerprint(root) == figures
        manifest.write_text(before + "settings: {}\n")
        (sentence,) = drift(figures, fingerprint(root))
    finally:
        manifest.write_text(before)
    assert sentence.startswith("manifest: expected")


def test_what_leaves_the_tolerance_is_named(figures: dict[str, Any]) -> None:
    changed = copy.deepcopy(figures)
    changed["splits"]["val"]["boxes"]["car"]["0-15 m"] += 4
    changed["splits"]["train"]["beyond_30_m_share"] += 0.02
    changed["splits"]["train"]["keyframes"] -= 1
    del changed["splits"]["test"]["instances"]["bus"]
    assert drift(figures, changed) == [
        "train/keyframes: expected 2 within 0, got 1",
        "train/beyond_30_m_share: expected 0.6 within 0.01, got 0.62",
        "val/boxes/car/0-15 m: expected 2 within 3, got 6",
        "test/instances/bus: expected 0, got None",
    ]


def test_what_stays_within_the_tolerance_passes(figures: dict[str, Any]) -> None:
    changed = copy.deepcopy(figures)
    for split in changed["splits"].values():
        split["boxes"]["car"]["0-15 m"] += 3
        split["lidar_returns"]["50"] *= 1.02
        split["at_most_5_points_share"] -= 0.01
    assert drift(figures, changed) == []


def test_large_counts_may_differ_by_their_share(figures: dict[str, Any]) -> None:
    expected, actual = copy.deepcopy(figures), copy.deepcopy(figures)
    expected["splits"]["val"]["instances"]["car"] = 1000
    actual["splits"]["val"]["instances"]["car"] = 1020
    assert drift(expected, actual) == []
    actual["splits"]["val"]["instances"]["car"] = 1021
    assert drift(expected, actual) == ["val/instances/car: expected 1000 within 20, got 1021"]


def test_what_lies_below_the_floor_is_named(figures: dict[str, Any]) -> None:
    low = below_floor(figures)
    assert "train: boxes_per_keyframe, median must be at least 25, got 2.5" in low
    assert "val: instances of barrier must be at least 50, got 0" in low
    assert not any("test: instances" in sentence or "share" in sentence for sentence in low)
    assert below_floor(figures, Floor(boxes_per_keyframe=2, instances=0)) == []


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must have a folder v1\.0-mini, .*, got none: is it whole"):
        fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[1]", r"must hold a manifest and splits, got \[1\]")]
)
def test_files_that_are_no_fingerprint_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fingerprint.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"read_fingerprint: .*fingerprint.json: {message}"):
        read_fingerprint(path)
