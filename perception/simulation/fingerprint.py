"""What a set looks like in figures, and whether another set of the same manifest looks the same.

The same manifest gives the same bytes only on one machine with one version of the program. Its fingerprint holds on
any: a set whose figures leave the tolerances was made by a generator that has drifted, and results on it are no results
on the benchmark.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.formats.classes import CATEGORY_TO_CLASS, CLASS_RANGE_M, DETECTION_CLASSES
from perception.formats.lidar import read_lidar
from perception.formats.nuscenes_rows import SampleDataRow, Vector
from perception.formats.nuscenes_tables import Tables, read_tables
from perception.formats.splits import split_scenes

_SPLITS = {"v1.0-mini": ("mini_train", "mini_val"), "v1.0-trainval": ("train", "val"), "v1.0-test": ("test",)}
_RANGES_M = (0, 15, 30, 50, 75)
_FAR_M = 30.0
_FEW_POINTS = 5
_BLIND_M = 1.0
_PICTURE_STEP = 10
_PERCENTILES = (5, 25, 50, 75, 95)

COUNT_TOLERANCE = (3.0, 0.02)
SHARE_TOLERANCE = (0.01, 0.0)
LEVEL_TOLERANCE = (1.0, 0.03)
"""How far a figure may be off: by the first, or by the second as a share of what is expected, whichever is more."""

_EXACT = ("scenes", "keyframes")
_SHARES = ("beyond_30_m_share", "at_most_5_points_share")
_COUNTS = ("boxes", "evaluated_boxes", "instances")


@dataclass(frozen=True)
class Floor:
    """How difficult a benchmark is at least.

    Attributes:
        boxes_per_keyframe: in the median.
        beyond_30_m_share: of the boxes.
        at_most_5_points_share: of the boxes.
        instances: of every detection class.
    """

    boxes_per_keyframe: float = 25.0
    beyond_30_m_share: float = 0.30
    at_most_5_points_share: float = 0.20
    instances: int = 50


def fingerprint(dataroot: str | Path) -> dict[str, Any]:
    """The figures of a finished set, split by split. Boxes are those of the ten detection classes.

    Args:
        dataroot: folder of the set, with any of `v1.0-mini`, `v1.0-trainval` and `v1.0-test`.

    Returns:
        What goes into a JSON file: `manifest`, the SHA-256 of the set's manifest.yaml but for the generator's version
        ("" without one), and `splits`, by official name.

    Raises:
        FileNotFoundError: the folder has no such version, or a file of it is missing.
        ValueError: a table or a file is damaged.
    """
    root = Path(dataroot)
    versions = [version for version in _SPLITS if (root / version).is_dir()]
    if not versions:
        raise FileNotFoundError(f"fingerprint: {root} must have a folder {', '.join(_SPLITS)}, got none: is it whole?")
    splits = {}
    for version in versions:
        tables = read_tables(root / version)
        for split in _SPLITS[version]:
            if scenes := {row.token for row in tables.scene if row.name in split_scenes(split)}:
                splits[split] = _split_figures(root, tables, scenes)
    return {"manifest": _manifest_digest(root / "manifest.yaml"), "splits": splits}


def fingerprint_text(figures: Mapping[str, Any]) -> str:
    """The JSON file of a fingerprint.

    Args:
        figures: what `fingerprint` returns.

    Returns:
        Its text, with one line for each figure of a split.
    """
    splits = []
    for split, by_name in figures["splits"].items():
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in by_name.items()]
        splits.append(f" {json.dumps(split)}: {{\n" + ",\n".join(lines) + "\n }")
    return f'{{"manifest": {json.dumps(figures["manifest"])}, "splits": {{\n' + ",\n".join(splits) + "\n}}\n"


def read_fingerprint(path: str | Path) -> dict[str, Any]:
    """The fingerprint in a JSON file.

    Args:
        path: the file.

    Returns:
        What `fingerprint` returned.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no fingerprint.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"read_fingerprint: {path}: not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict) or "manifest" not in content:
        raise ValueError(f"read_fingerprint: {path}: must hold a manifest and splits, got {reprlib.repr(content)}")
    return content


def drift(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """Where a set has left the tolerances.

    Args:
        expected: a fingerprint.
        actual: that of the set.

    Returns:
        A sentence for every figure that is off; none if the set may pass for the one that was expected.
    """
    found = []
    if expected["manifest"] != actual["manifest"]:
        found.append(f"manifest: expected {reprlib.repr(expected['manifest'])}, got {actual['manifest']}")
    return found + _differences((), expected["splits"], actual["splits"])


def below_floor(figures: Mapping[str, Any], floor: Floor | None = None) -> list[str]:
    """Where a set is easier than a benchmark may be.

    Args:
        figures: a fingerprint.
        floor: what is asked; the instances only of split val.

    Returns:
        A sentence for every figure below the floor.
    """
    floor = floor or Floor()
    found = []
    for split, of_split in figures["splits"].items():
        asked = {"boxes_per_keyframe, median": (of_split["boxes_per_keyframe"]["50"], floor.boxes_per_keyframe)}
        asked |= {name: (of_split[name], getattr(floor, name)) for name in _SHARES}
        if split == "val":
            asked |= {f"instances of {name}": (count, floor.instances) for name, count in of_split["instances"].items()}
        low = {name: pair for name, pair in asked.items() if pair[0] < pair[1]}
        found += [f"{split}: {name} must be at least {least:g}, got {it:g}" for name, (it, least) in low.items()]
    return found


def _manifest_digest(path: Path) -> str:
    """SHA-256 of what a manifest asks for, which is not the generator's version; "" where there is none."""
    if not path.exists():
        return ""
    lines = path.read_bytes().splitlines(keepends=True)
    return hashlib.sha256(b"".join(line for line in lines if not line.startswith(b"generator:"))).hexdigest()


@dataclass(frozen=True, eq=False)
class _Boxes:
    """The annotated boxes (N,) of a split: class, distance from the ego vehicle, points, sample, instance."""

    labels: np.ndarray
    distances_m: np.ndarray
    points: np.ndarray
    samples: np.ndarray
    instances: np.ndarray


def _split_figures(root: Path, tables: Tables, scenes: set[str]) -> dict[str, Any]:
    samples = [row.token for row in tables.sample if row.scene_token in scenes]
    recordings = _keyframe_recordings(tables, set(samples))
    poses = {row.token: row.translation for row in tables.ego_pose}
    boxes = _boxes(tables, samples, [poses[recordings[token]["LIDAR_TOP"].ego_pose_token] for token in samples])
    ranges = np.array([CLASS_RANGE_M[name] for name in DETECTION_CLASSES])
    evaluated = (boxes.points > 0) & (boxes.distances_m < ranges[boxes.labels])
    distances = {name: boxes.distances_m[boxes.labels == label] for label, name in enumerate(DETECTION_CLASSES)}
    returns = [_num_returns(root / recordings[token]["LIDAR_TOP"].filename) for token in samples]
    some = [recordings[token] for token in samples[::_PICTURE_STEP]]
    pictures = [row.filename for it in some for name, row in it.items() if name.startswith("CAM_")]
    return {
        "scenes": len(scenes),
        "keyframes": len(samples),
        "boxes": {name: _range_counts(distances_m) for name, distances_m in distances.items()},
        "evaluated_boxes": _class_counts(boxes.labels[evaluated]),
        "instances": _class_counts(boxes.labels[np.unique(boxes.instances, return_index=True)[1]]),
        "boxes_per_keyframe": _quantiles(np.bincount(boxes.samples, minlength=len(samples))),
        "beyond_30_m_share": _share(boxes.distances_m > _FAR_M),
        "at_most_5_points_share": _share(boxes.points <= _FEW_POINTS),
        "points_per_box": _quantiles(boxes.points),
        "lidar_returns": _quantiles(np.array(returns)),
        "brightness": _quantiles(np.array([_brightness(root / filename) for filename in pictures])),
    }


def _keyframe_recordings(tables: Tables, samples: set[str]) -> dict[str, dict[str, SampleDataRow]]:
    """The keyframe recordings of samples, by sample and channel."""
    channels = {row.token: row.channel for row in tables.sensor}
    channels = {row.token: channels[row.sensor_token] for row in tables.calibrated_sensor}
    found: dict[str, dict[str, SampleDataRow]] = {}
    for row in tables.sample_data:
        if row.is_key_frame and row.sample_token in samples:
            found.setdefault(row.sample_token, {})[channels[row.calibrated_sensor_token]] = row
    return found


def _boxes(tables: Tables, samples: Sequence[str], ego_positions_m: Sequence[Vector]) -> _Boxes:
    """The boxes of the ten classes; a sample's row is its place in `samples`."""
    categories = {row.token: row.name for row in tables.category}
    classes = {row.token: CATEGORY_TO_CLASS.get(categories[row.category_token]) for row in tables.instance}
    numbers = {token: number for number, token in enumerate(samples)}
    instances = {row.token: number for number, row in enumerate(tables.instance)}
    rows = [it for it in tables.sample_annotation if it.sample_token in numbers and classes[it.instance_token]]
    sample_rows = np.array([numbers[row.sample_token] for row in rows], dtype=np.int64)  # (N,)
    centers_m = np.array([row.translation for row in rows]).reshape(-1, 3)  # (N, 3)
    offsets_m = centers_m - np.array(ego_positions_m).reshape(-1, 3)[sample_rows]
    return _Boxes(
        labels=np.array([DETECTION_CLASSES.index(classes[row.instance_token] or "") for row in rows], dtype=np.int64),
        distances_m=np.hypot(offsets_m[:, 0], offsets_m[:, 1]),
        points=np.array([row.num_lidar_pts for row in rows], dtype=np.int64),
        samples=sample_rows,
        instances=np.array([instances[row.instance_token] for row in rows], dtype=np.int64),
    )


def _num_returns(path: Path) -> int:
    points = read_lidar(path, non_finite="drop")
    return int((np.linalg.norm(points[:, :3], axis=1) >= _BLIND_M).sum())


def _brightness(path: Path) -> float:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ValueError(f"fingerprint: {path}: not a readable picture")
    return float(picture.mean())


def _range_counts(distances_m: np.ndarray) -> dict[str, int]:
    counts, _ = np.histogram(distances_m, [*_RANGES_M, np.inf])
    names = [f"{low}-{high} m" for low, high in pairwise(_RANGES_M)] + [f"beyond {_RANGES_M[-1]} m"]
    return dict(zip(names, counts.tolist(), strict=True))


def _class_counts(labels: np.ndarray) -> dict[str, int]:
    return dict(zip(DETECTION_CLASSES, np.bincount(labels, minlength=len(DETECTION_CLASSES)).tolist(), strict=True))


def _share(chosen: np.ndarray) -> float:
    return round(float(chosen.mean()), 4) if len(chosen) else 0.0


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.percentile(values, _PERCENTILES) if len(values) else np.zeros(len(_PERCENTILES))
    return {str(percent): round(float(value), 2) for percent, value in zip(_PERCENTILES, found, strict=True)}


def _differences(path: tuple[str, ...], expected: Any, actual: Any) -> list[str]:
    """What differs below a place in the tree of splits and figures."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        keys = [*expected, *(key for key in actual if key not in expected)]
        return [it for key in keys for it in _differences((*path, key), expected.get(key), actual.get(key))]
    if type(expected) not in (int, float) or type(actual) not in (int, float):
        return [f"{'/'.join(path)}: expected {reprlib.repr(expected)}, got {reprlib.repr(actual)}"]
    allowed = _tolerance(path[1], abs(expected)) if len(path) > 1 else 0.0
    if abs(actual - expected) <= allowed + 1e-9:
        return []
    return [f"{'/'.join(path)}: expected {expected:g} within {allowed:g}, got {actual:g}"]


def _tolerance(figure: str, size: float) -> float:
    if figure in _EXACT:
        return 0.0
    tolerance = SHARE_TOLERANCE if figure in _SHARES else COUNT_TOLERANCE if figure in _COUNTS else LEVEL_TOLERANCE
    return max(tolerance[0], tolerance[1] * size)
