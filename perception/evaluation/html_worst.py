"""Bird's-eye pictures of the samples in which most goes wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from perception.data.index import Index, SampleRecord
from perception.data.loading import SampleLoader
from perception.data.sensor_settings import LidarLoading
from perception.evaluation.confusion import SURE
from perception.evaluation.detection_report import DetectionReport
from perception.evaluation.eval_boxes import EvalBoxes
from perception.evaluation.html import Markup, picture
from perception.formats.classes import DETECTION_CLASSES
from perception.formats.nuscenes_boxes import boxes_from_nuscenes
from perception.geometry.boxes import transform_boxes
from perception.geometry.transforms import invert_rigid
from perception.structures import Boxes3D, Detections
from perception.visualization.bev import BevView, render_bev
from perception.visualization.layers import detection_layer, ground_truth_layer
from perception.visualization.png import write_png

_SIZE_PX = 640
_HALF_M = 50.0
_MAX_M = 1e7


def worst_pictures(
    report: DetectionReport, faults: np.ndarray, index: Index, split: str, dataroot: Path, count: int = 6
) -> list[Markup]:
    """Draws the samples with the most faults, each of another scene as long as there are others.

    Args:
        report: of a submission.
        faults: (S,) by sample of the split, as of `confusion`.
        index: of the set.
        split: that the report is of.
        dataroot: of the set; points are drawn where its files are there.
        count: how many samples at most.

    Returns:
        Pictures: annotations white, predictions in the colours of their classes.
    """
    loader = SampleLoader(
        index=index,
        dataroot=dataroot,
        class_names=DETECTION_CLASSES,
        lidar=LidarLoading(),
        truths=None,
        on_error="skip",
    )
    positions = index.samples_of(split)
    found = []
    for sample in _worst(faults, report.sample_scenes, count):
        position = int(positions[sample])
        record = index.record(position)
        points = loader.load(position).lidar
        truth = _of_sample(report.truth, sample)
        predictions = _of_sample(report.predictions, sample)
        predictions = predictions.select((predictions.scores >= SURE) & _drawable(predictions))
        layers = (
            ground_truth_layer(_annotations(truth, record), DETECTION_CLASSES, hollow=True),
            detection_layer(_detections(predictions, record), DETECTION_CLASSES),
        )
        drawn = render_bev(
            BevView.square(_HALF_M, _SIZE_PX), points=None if points is None else points.points, layers=layers
        )
        caption = (
            f"{record.scene}, sample {record.token}: {faults[sample]} faults with {len(truth)} annotated objects "
            f"and {len(predictions)} predictions of {SURE} or more"
        )
        found.append(picture(_png(drawn), caption))
    return found


def _worst(faults: np.ndarray, scenes: np.ndarray, count: int) -> list[int]:
    """Samples by falling number of faults, the worst of every scene before the second one of any."""
    order = [sample for sample in np.argsort(-faults, kind="stable").tolist() if faults[sample] > 0]
    rank: dict[int, int] = {}
    ranked = []
    for sample in order:
        rank[scenes[sample]] = rank.get(scenes[sample], -1) + 1
        ranked.append((rank[scenes[sample]], sample))
    return [sample for _, sample in sorted(ranked, key=lambda pair: pair[0])][:count]


def _of_sample(boxes: EvalBoxes, sample: int) -> EvalBoxes:
    return boxes.select(np.flatnonzero(boxes.samples == sample))


def _drawable(boxes: EvalBoxes) -> np.ndarray:
    """(N,) whether a box has a place and a size; a submission may hold infinity, which is no fault of its format."""
    return (np.abs(np.concatenate([boxes.translations, boxes.sizes_wlh], axis=1)) < _MAX_M).all(axis=1)


def _in_ego(boxes: EvalBoxes, record: SampleRecord) -> torch.Tensor:
    in_global = boxes_from_nuscenes(boxes.translations, boxes.sizes_wlh, boxes.rotations_wxyz, boxes.velocities)
    return transform_boxes(invert_rigid(torch.from_numpy(record.ego2global)), torch.from_numpy(in_global)).float()


def _annotations(boxes: EvalBoxes, record: SampleRecord) -> Boxes3D:
    return Boxes3D(
        boxes=_in_ego(boxes, record),
        labels=torch.from_numpy(boxes.labels),
        num_lidar_points=torch.from_numpy(boxes.num_lidar_pts),
        tokens=("",) * len(boxes),
    )


def _detections(boxes: EvalBoxes, record: SampleRecord) -> Detections:
    return Detections(
        boxes=_in_ego(boxes, record),
        scores=torch.from_numpy(boxes.scores).float(),
        labels=torch.from_numpy(boxes.labels),
    )


def _png(drawn: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_png(Path(folder) / "bev.png", drawn)
        return (Path(folder) / "bev.png").read_bytes()
