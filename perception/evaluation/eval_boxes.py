"""Annotated and predicted boxes of a split as columns, filtered as the nuScenes devkit filters them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from perception.data.index import Index
from perception.formats.classes import ATTRIBUTE_NUMBERS, CLASS_RANGE_M, DETECTION_CLASSES
from perception.formats.nuscenes_boxes import rotation_matrices
from perception.formats.submission_reader import Submission

_RANGES_M = np.array([CLASS_RANGE_M[name] for name in DETECTION_CLASSES], dtype=np.float64)
_CYCLES = [DETECTION_CLASSES.index(name) for name in ("bicycle", "motorcycle")]
_RACK = "static_object.bicycle_rack"
_UNDECIDED_M2 = 1e-9
"""A centre that lies this close to a face of a rack is given to the devkit's own function."""


@dataclass(frozen=True, eq=False)
class EvalBoxes:
    """Boxes of the samples of a split, in the order in which the devkit goes through them; global frame.

    Attributes:
        samples: (N,) int64 position of the box's sample in the split, -1 for a token that the split does not have.
        ego_distances_m: (N,) float64 from the ego vehicle to the centre, in the ground plane.
        translations: (N, 3) float64 centres, metres.
        sizes_wlh: (N, 3) float64.
        rotations_wxyz: (N, 4) float64, not normalised.
        velocities: (N, 2) float64, NaN where unknown.
        labels: (N,) int64 index into `DETECTION_CLASSES`.
        attributes: (N,) int64 index into `ATTRIBUTES`, -1 for none.
        num_pts: (N,) int64 LiDAR and radar points, -1 where not counted; a box of 0 is not evaluated.
        num_lidar_pts: (N,) int64 LiDAR points of annotations, -1 for predictions.
        scores: (N,) float64, -1 for annotations.
        visibility: (N,) int64, 1 to 4 as in the tables, 0 for predictions.
    """

    samples: np.ndarray
    ego_distances_m: np.ndarray
    translations: np.ndarray
    sizes_wlh: np.ndarray
    rotations_wxyz: np.ndarray
    velocities: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray
    num_pts: np.ndarray
    num_lidar_pts: np.ndarray
    scores: np.ndarray
    visibility: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, keep: np.ndarray) -> EvalBoxes:
        """Some of the boxes.

        Args:
            keep: (N,) bool, or indices.

        Returns:
            Those boxes, in the order of `keep`.
        """
        return EvalBoxes(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


@dataclass(frozen=True, eq=False)
class BicycleRacks:
    """Racks, in which bicycles and motorcycles are not evaluated.

    Attributes:
        samples: (R,) int64 position of the rack's sample in the split.
        translations: (R, 3) float64 centres, global frame, metres.
        sizes_wlh: (R, 3) float64.
        rotations_wxyz: (R, 4) float64.
    """

    samples: np.ndarray
    translations: np.ndarray
    sizes_wlh: np.ndarray
    rotations_wxyz: np.ndarray


def annotated_boxes(index: Index, positions: np.ndarray) -> tuple[EvalBoxes, BicycleRacks]:
    """The annotations that a split is evaluated on, before any filter.

    Args:
        index: of a set with annotations.
        positions: (S,) int64 the split's samples.

    Returns:
        The boxes that have a detection class, and the bicycle racks.
    """
    table, samples = index.annotations_of(positions)
    boxes = table.boxes_global
    truth = EvalBoxes(
        samples=samples,
        ego_distances_m=_ego_distances(index.ego_translations(positions), samples, boxes[:, :3]),
        translations=boxes[:, :3],
        sizes_wlh=boxes[:, [4, 3, 5]],
        rotations_wxyz=table.rotations,
        velocities=boxes[:, 7:9],
        labels=table.labels,
        attributes=np.array([ATTRIBUTE_NUMBERS[name] for name in table.attributes], dtype=np.int64),
        num_pts=table.num_lidar_pts + table.num_radar_pts,
        num_lidar_pts=table.num_lidar_pts,
        scores=np.full(len(boxes), -1.0),
        visibility=table.visibility,
    )
    rack = np.array([name == _RACK for name in table.categories], dtype=bool)
    racks = BicycleRacks(samples[rack], truth.translations[rack], truth.sizes_wlh[rack], truth.rotations_wxyz[rack])
    return truth.select(truth.labels >= 0), racks


def predicted_boxes(submission: Submission, index: Index, positions: np.ndarray) -> tuple[EvalBoxes, np.ndarray]:
    """The boxes of a submission, before any filter.

    Args:
        submission: with the samples of the split and no others.
        index: of the set.
        positions: (S,) int64 the split's samples.

    Returns:
        The boxes, and (N,) int64 the samples under whose keys they stand; `samples` are those that the boxes
        themselves name, which is what they are matched by.
    """
    tokens = index.tokens_of(positions)
    number = {token: sample for sample, token in enumerate(tokens)}
    of_key = np.array([number[token] for token in submission.sample_tokens], dtype=np.int64)  # (S,)
    keys = np.repeat(of_key, np.diff(submission.offsets))
    named = keys.copy()
    for row, token in submission.other_tokens.items():
        named[row] = number.get(token, -1)
    boxes = EvalBoxes(
        samples=named,
        ego_distances_m=_ego_distances(index.ego_translations(positions), keys, submission.translations),
        translations=submission.translations,
        sizes_wlh=submission.sizes_wlh,
        rotations_wxyz=submission.rotations_wxyz,
        velocities=submission.velocities,
        labels=submission.labels,
        attributes=submission.attributes,
        num_pts=submission.num_pts,
        num_lidar_pts=np.full(len(keys), -1),
        scores=submission.scores,
        visibility=np.zeros(len(keys), dtype=np.int64),
    )
    return boxes, keys


def filter_boxes(boxes: EvalBoxes, keys: np.ndarray, racks: BicycleRacks) -> EvalBoxes:
    """Drops boxes out of their class's range, boxes without points, and cycles in a bicycle rack.

    Args:
        boxes: annotations or predictions.
        keys: (N,) int64 the samples that the boxes stand under.
        racks: the annotated racks.

    Returns:
        The boxes that are evaluated, in the same order.
    """
    keep = (boxes.ego_distances_m < _RANGES_M[boxes.labels]) & (boxes.num_pts != 0)
    cycles = np.flatnonzero(keep & np.isin(boxes.labels, _CYCLES))
    keep[cycles[_in_rack(boxes.translations[cycles], keys[cycles], racks)]] = False
    return boxes.select(keep)


def _ego_distances(ego_m: np.ndarray, samples: np.ndarray, translations: np.ndarray) -> np.ndarray:
    offsets = translations[:, :2] - ego_m[samples, :2]  # (N, 2)
    return np.sqrt(np.square(offsets[:, 0]) + np.square(offsets[:, 1]))


def _in_rack(centers: np.ndarray, samples: np.ndarray, racks: BicycleRacks) -> np.ndarray:
    """(N,) bool: the centre lies in a rack of its sample, faces included."""
    pairs = _pairs(samples, racks.samples)  # (K, 2)
    offsets = centers[pairs[:, 0]] - racks.translations[pairs[:, 1]]  # (K, 3)
    axes = rotation_matrices(racks.rotations_wxyz)[pairs[:, 1]]  # (K, 3, 3), columns are length, width, height
    sizes = racks.sizes_wlh[pairs[:, 1]][:, [1, 0, 2]]
    margins = sizes * (sizes / 2 - np.abs(np.einsum("kji,kj->ki", axes, offsets)))  # (K, 3) square metres
    inside = (margins >= 0).all(axis=1)
    for pair in np.flatnonzero((np.abs(margins) < _UNDECIDED_M2).any(axis=1)):
        inside[pair] = _in_rack_by_devkit(centers[pairs[pair, 0]], racks, int(pairs[pair, 1]))
    found = np.zeros(len(centers), dtype=bool)
    found[pairs[inside, 0]] = True
    return found


def _pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(K, 2) positions of equal values in two lists of sample numbers."""
    order = np.argsort(right, kind="stable")
    first, last = (np.searchsorted(right[order], left, side=side) for side in ("left", "right"))
    counts = last - first
    starts = np.repeat(first - (np.cumsum(counts) - counts), counts)
    return np.stack([np.repeat(np.arange(len(left)), counts), order[starts + np.arange(counts.sum())]], axis=1)


def _in_rack_by_devkit(center: Sequence[float], racks: BicycleRacks, rack: int) -> bool:
    from nuscenes.utils.data_classes import Box, Quaternion
    from nuscenes.utils.geometry_utils import points_in_box

    box = Box(racks.translations[rack], racks.sizes_wlh[rack], Quaternion(racks.rotations_wxyz[rack]))
    return bool(points_in_box(box, np.reshape(center, (3, 1)))[0])
