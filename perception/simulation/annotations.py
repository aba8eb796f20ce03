"""What is said of the actors at a keyframe: boxes, attributes, points and visibility, and which of them are noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception.ops.points_in_boxes import count_points_in_boxes

RANGE_M = 75.0
"""Distance from the ego vehicle up to which actors are annotated."""

_VISIBLE_SHARES = (0.4, 0.6, 0.8)


@dataclass(frozen=True, eq=False)
class Annotations:
    """All actors at one keyframe.

    Attributes:
        boxes: (A, 7) float64 global frame: centre, length width height, yaw.
        attributes: A attribute names; "" for none.
        visibility: A visibility tokens, "1" to "4".
        num_lidar_pts: (A,) int64 points of the keyframe's sweep in each box.
        num_radar_pts: (A,) int64 returns of the keyframe's radar scans in each box.
        noted: (A,) bool, which actors get an annotation.
    """

    boxes: np.ndarray
    attributes: tuple[str, ...]
    visibility: tuple[str, ...]
    num_lidar_pts: np.ndarray
    num_radar_pts: np.ndarray
    noted: np.ndarray


def annotate(
    boxes: np.ndarray,
    attributes: Sequence[str],
    points: np.ndarray,
    ego_position_m: np.ndarray,
    visible_px: np.ndarray,
    whole_px: np.ndarray,
    num_radar_pts: np.ndarray,
) -> Annotations:
    """Annotates the actors within `RANGE_M` that hold a LiDAR point or that the cameras see for more than 40 percent.

    So about as many boxes are without a point as in recorded sets. Radar returns add no annotation, so that these are
    the same with and without radars.

    Args:
        boxes: (A, 7) float64 global frame: centre, length width height, yaw.
        attributes: A attribute names.
        points: (P, 3) float64 LiDAR points of the keyframe, global frame.
        ego_position_m: (3,) global frame.
        visible_px: (A,) pixels that show each actor, over all cameras.
        whole_px: (A,) pixels that would show it if nothing stood before it.
        num_radar_pts: (A,) int64 returns of the keyframe's radar scans in each box.

    Returns:
        The annotations of all actors.
    """
    near = np.linalg.norm(boxes[:, :2] - ego_position_m[:2], axis=1) <= RANGE_M  # (A,)
    counts = np.zeros(len(boxes), dtype=np.int64)
    counts[near] = count_points_in_boxes(torch.from_numpy(points), torch.from_numpy(boxes[near])).numpy()
    shares = visible_px / np.maximum(whole_px, 1)  # (A,)
    return Annotations(
        boxes=boxes,
        attributes=tuple(attributes),
        visibility=tuple(visibility_tokens(shares)),
        num_lidar_pts=counts,
        num_radar_pts=num_radar_pts,
        noted=near & ((counts > 0) | (shares > _VISIBLE_SHARES[0])),
    )


def visibility_tokens(shares: np.ndarray) -> list[str]:
    """The visibility bin of each actor.

    Args:
        shares: (A,) visible share over all pictures together; 0 for what is in none.

    Returns:
        A tokens: "1" up to 40 %, "2" up to 60 %, "3" up to 80 %, "4" above.
    """
    return [str(1 + int(level)) for level in np.searchsorted(_VISIBLE_SHARES, shares, side="left")]
