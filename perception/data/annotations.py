"""Annotations of an index -> boxes in the ego frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perception.data.index import Annotations
from perception.formats.classes import DETECTION_CLASSES
from perception.geometry.transforms import quaternion_to_matrix, transform_points, wrap_angle
from perception.structures import Boxes3D


def class_label_map(class_names: Sequence[str]) -> Tensor:
    """The label of each detection class.

    Args:
        class_names: names that labels count from 0.

    Returns:
        (number of detection classes + 1,) int64: label, or -1 for a class that is not named; the last entry is for
        -1, no class.

    Raises:
        ValueError: a name is no detection class, or occurs twice.
    """
    names = list(class_names)
    if not set(names) <= set(DETECTION_CLASSES) or len(set(names)) != len(names):
        raise ValueError(
            f"class_label_map: class_names must be different names of {', '.join(DETECTION_CLASSES)}, got {names}"
        )
    labels = [names.index(name) if name in names else -1 for name in DETECTION_CLASSES]
    return torch.tensor([*labels, -1], dtype=torch.int64)


def boxes_in_ego(annotations: Annotations, global2ego: Tensor, label_map: Tensor) -> Boxes3D:
    """Moves annotations into the ego frame, computed in float64.

    Yaw is the direction of the box's own x axis seen from above the ego; ego pitch and roll act on the centre and on
    the direction of the heading and of the (horizontal) velocity, not on the box, which stays upright.

    Args:
        annotations: of one sample, in the global frame.
        global2ego: (4, 4) float64.
        label_map: as `class_label_map` gives it.

    Returns:
        The boxes whose label is not -1.
    """
    labels = label_map[torch.from_numpy(annotations.labels)]  # (M,)
    keep = labels >= 0
    boxes = torch.from_numpy(annotations.boxes_global)[keep]
    rotation = global2ego[:3, :3]
    heading = quaternion_to_matrix(torch.from_numpy(annotations.rotations)[keep])[:, :, 0] @ rotation.T  # (M, 3)
    velocity = boxes[:, 7:9] @ rotation[:2, :2].T
    moved = torch.cat((transform_points(global2ego, boxes[:, :3]), boxes[:, 3:6], boxes[:, 6:7], velocity), dim=1)
    moved[:, 6] = torch.atan2(heading[:, 1], heading[:, 0])
    result = moved.to(torch.float32)
    result[:, 6] = wrap_angle(result[:, 6])  # rounding may reach +pi
    return Boxes3D(
        boxes=result,
        labels=labels[keep],
        num_lidar_points=torch.from_numpy(annotations.num_lidar_pts)[keep],
        tokens=tuple(token for token, kept in zip(annotations.tokens, keep.tolist(), strict=True) if kept),
    )
