"""Ground-truth paste: annotated objects of other samples are put into a point cloud."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from perception.data.dropout import modalities_of
from perception.data.gt_paste_objects import ObjectDatabase, Objects
from perception.data.map_truth import VEHICLE_CLASS
from perception.ops.box_iou_rotated import box_iou_rotated
from perception.ops.points_in_boxes import points_in_boxes
from perception.structures import Boxes3D, PointCloud, Sample


class GroundTruthPaste:
    """Fills a sample up to so many objects of each class, with points and boxes of other samples.

    An object is put where it was recorded, relative to the ego vehicle, so that it has the points that this distance
    gives. One whose footprint overlaps that of an object that is there, or was put there before it, is left out. The
    scene's own points inside a pasted box are removed.

    A sample with other sensors stays as it is: a pasted object would be in the points and not in the pictures or
    echoes. So the transform is for training on LiDAR alone. A sample without points or annotations stays as it is too.

    Args:
        counts: objects wanted in a sample by class name; a sample that has as many gets none.
        min_points: objects with fewer LiDAR points, as counted by the annotators, are not pasted.
        until_epoch: the first epoch without it, so that the last epochs of a run see scenes as they are; None pastes
            in every epoch.
        database: folder of the objects (see `build_object_database`); None leaves the folder to the data module.

    Raises:
        ValueError: a count or `min_points` is negative.

    Source: Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", 2018, section 3.4.1; leaving it out in
    the last epochs: Wang et al., "PointAugmenting", 2021.
    """

    def __init__(
        self,
        *,
        counts: Mapping[str, int],
        min_points: int = 5,
        until_epoch: int | None = None,
        database: str | None = None,
    ) -> None:
        if min(counts.values(), default=0) < 0 or min_points < 0:
            raise ValueError(f"GroundTruthPaste: counts and min_points must be >= 0, got {dict(counts)}, {min_points}")
        self.counts = dict(counts)
        self.min_points = min_points
        self.until_epoch = until_epoch
        self.database = database
        self._objects: ObjectDatabase | None = None
        self._rows: dict[int, Tensor] = {}  # label -> rows of the database that may be pasted

    def with_objects(self, objects: ObjectDatabase) -> GroundTruthPaste:
        """Gives the transform the objects to paste.

        Args:
            objects: of the training samples alone.

        Returns:
            A transform with them; this one stays as it is.

        Raises:
            ValueError: a class of `counts` is not one of the objects' classes.
        """
        unknown = sorted(set(self.counts) - set(objects.class_names))
        if unknown:
            raise ValueError(f"GroundTruthPaste: counts must name classes of {objects.class_names}, got {unknown}")
        ready = copy.copy(self)
        ready._objects = objects
        enough = objects.num_lidar_points >= self.min_points
        labels = {objects.class_names.index(name) for name in self.counts}
        ready._rows = {label: torch.nonzero(enough & (objects.labels == label)).flatten() for label in sorted(labels)}
        return ready

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Pastes objects.

        Args:
            sample: stays as it is.
            generator: source of all randomness.

        Returns:
            The sample with more points and boxes.

        Raises:
            RuntimeError: `with_objects` has not been called.
            ValueError: the objects' points have other fields than the sample's.
        """
        if self._objects is None:
            raise RuntimeError("GroundTruthPaste: objects must be given by with_objects or the data module, got none")
        if modalities_of(sample) != ("lidar",) or sample.lidar is None or sample.boxes is None:
            return sample
        if sample.lidar.fields != self._objects.fields:
            raise ValueError(
                f"GroundTruthPaste: objects must have the fields {sample.lidar.fields} of sample {sample.token}, "
                f"got {self._objects.fields}"
            )
        drawn = self._objects.take(self._draw(sample.boxes, generator))
        fits = free_boxes(drawn.boxes.boxes, sample.boxes.boxes)  # (K,)
        if not fits.any():
            return sample
        return replace(
            sample,
            lidar=_with_points(sample.lidar, drawn, fits),
            boxes=_with_boxes(sample.boxes, drawn.boxes, fits),
            near_field=None,  # which does not know of the new objects; nor does what follows
            occupancy=None,
            map=None if sample.map is not None and VEHICLE_CLASS in sample.map.class_names else sample.map,
        )

    def _draw(self, present: Boxes3D, generator: torch.Generator) -> list[int]:
        """Rows of the database; one drawn twice will collide with itself."""
        assert self._objects is not None
        drawn: list[int] = []
        for label, rows in self._rows.items():
            missing = self.counts[self._objects.class_names[label]] - int((present.labels == label).sum())
            if missing > 0 and len(rows):
                drawn += rows[torch.randint(len(rows), (missing,), generator=generator)].tolist()
        return drawn


def free_boxes(candidates: Tensor, boxes: Tensor) -> Tensor:
    """Finds candidates whose footprints overlap no box and no candidate accepted before them.

    Args:
        candidates: (K, 9), tried in this order.
        boxes: (M, 9) in the same frame.

    Returns:
        (K,) bool.
    """
    overlaps = box_iou_rotated(candidates, torch.cat((boxes, candidates))) > 0  # (K, M + K)
    num_boxes = len(boxes)
    free = ~overlaps[:, :num_boxes].any(1)
    for row in range(len(candidates)):
        if free[row]:
            free[row] = not bool((overlaps[row, num_boxes : num_boxes + row] & free[:row]).any())
    return free


def _with_points(cloud: PointCloud, drawn: Objects, fits: Tensor) -> PointCloud:
    own = points_in_boxes(cloud.points, drawn.boxes.boxes[fits]) < 0  # (P,)
    pasted = fits.repeat_interleave(drawn.num_points)  # (K,) -> one per point of the objects
    return replace(cloud, points=torch.cat((cloud.points[own], drawn.points[pasted])))


def _with_boxes(present: Boxes3D, drawn: Boxes3D, fits: Tensor) -> Boxes3D:
    tokens = tuple(token for token, accepted in zip(drawn.tokens, fits.tolist(), strict=True) if accepted)
    return Boxes3D(
        boxes=torch.cat((present.boxes, drawn.boxes[fits])),
        labels=torch.cat((present.labels, drawn.labels[fits])),
        num_lidar_points=torch.cat((present.num_lidar_points, drawn.num_lidar_points[fits])),
        tokens=present.tokens + tokens,
    )
