"""A small set and results on it that touch every rule of the detection metrics."""

import json
from pathlib import Path

import numpy as np

from benchmarks.blow_up_nuscenes import VERSION, Size, blow_up
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.formats.classes import ATTRIBUTES, DETECTION_CLASSES
from tests.synthetic_nuscenes import VERSION as SMALL_VERSION
from tests.synthetic_nuscenes import write_synthetic_nuscenes

SIZE = Size(scenes=4, samples=24, sample_data=24 * 12, annotations=24 * 30)
META = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}


def small_dataset(folder: Path) -> tuple[Path, Index]:
    """A set of four train scenes whose annotations lie around the vehicle, and its index."""
    small = write_synthetic_nuscenes(folder / "small")
    blow_up(small / SMALL_VERSION, folder / "set", SIZE)
    (folder / "set" / VERSION / "splits.json").write_text(json.dumps({"two": ["scene-0002", "scene-0001"]}))
    build_index(folder / "set", VERSION, folder / "index")
    return folder / "set", Index.open(folder / "index")


def box(token: str, center, **changes) -> dict:
    """A prediction as the file has it."""
    return {
        "sample_token": token,
        "translation": [float(value) for value in center],
        "size": [1.9, 4.6, 1.7],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        "detection_name": "car",
        "detection_score": 0.5,
        "attribute_name": "",
    } | changes


def random_results(index: Index, seed: int, per_sample: int = 40) -> dict:
    """Boxes near annotations and elsewhere, with equal scores, unknown velocities, wrong inner tokens and score 0."""
    rng = np.random.default_rng(seed)
    results = {}
    for position in rng.permutation(len(index)):
        record = index.record(int(position))
        boxes = record.annotations.boxes_global
        rows = []
        for number in rng.integers(len(boxes), size=per_sample):
            label = int(record.annotations.labels[number]) if rng.random() < 0.8 else int(rng.integers(10))
            shift = np.round(rng.normal(size=2) * rng.choice([0.0, 0.3, 1.5, 20.0]), 2)
            turn = record.annotations.rotations[number] + rng.normal(size=4) * 0.1
            rows.append(
                box(
                    record.token if rng.random() > 0.02 else "unknown",
                    [*(boxes[number, :2] + shift), boxes[number, 2]],
                    size=(boxes[number, [4, 3, 5]] * rng.uniform(0.7, 1.4, 3)).tolist(),
                    rotation=(turn / np.linalg.norm(turn)).tolist(),
                    velocity=rng.choice([0.0, 1.5, np.nan], 2).tolist(),
                    detection_name=DETECTION_CLASSES[label if label >= 0 else DETECTION_CLASSES.index("bicycle")],
                    detection_score=float(np.round(rng.random(), 1)),
                    attribute_name=str(rng.choice(["", *ATTRIBUTES])),
                    **({"num_pts": 0} if rng.random() < 0.02 else {}),
                )
            )
        results[record.token] = rows
    return results


def write_results(path: Path, results: dict) -> Path:
    path.write_text(json.dumps({"meta": META, "results": results}))
    return path


def truth_results(index: Index) -> dict:
    """Every annotation with points, as a perfect detector finds it."""
    results = {}
    for position in range(len(index)):
        record = index.record(position)
        table = record.annotations
        results[record.token] = [
            box(
                record.token,
                table.boxes_global[row, :3],
                size=table.boxes_global[row, [4, 3, 5]].tolist(),
                rotation=table.rotations[row].tolist(),
                detection_name=DETECTION_CLASSES[table.labels[row]],
                attribute_name=table.attributes[row],
            )
            for row in np.flatnonzero(table.labels >= 0)
        ]
    return results


def worst_difference(ours, theirs, name: str = "") -> float:
    """Largest difference between two JSON contents of the same form, the time apart."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), name
        pairs = [(key, ours[key], theirs[key]) for key in ours if key != "eval_time"]
        return max((worst_difference(one, other, f"{name}/{key}") for key, one, other in pairs), default=0.0)
    if isinstance(ours, list):
        return max((worst_difference(*pair, name) for pair in zip(ours, theirs, strict=True)), default=0.0)
    if isinstance(ours, float | int) and not isinstance(ours, bool):
        return 0.0 if np.isnan(ours) and np.isnan(theirs) else float(np.nan_to_num(abs(ours - theirs), nan=np.inf))
    assert ours == theirs, name
    return 0.0
