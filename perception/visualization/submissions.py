"""Results files of nuScenes -> detections to draw."""

import numpy as np
import torch

from perception.formats.nuscenes_boxes import boxes_from_nuscenes
from perception.formats.submission_reader import Submission
from perception.geometry.boxes import transform_boxes
from perception.geometry.transforms import invert_rigid
from perception.structures import Detections


def rows_by_token(submission: Submission) -> dict[str, slice]:
    """Finds the boxes of each sample.

    Args:
        submission: a results file as columns.

    Returns:
        Sample token -> rows of the columns.
    """
    ends = submission.offsets.tolist()
    return {token: slice(ends[i], ends[i + 1]) for i, token in enumerate(submission.sample_tokens)}


def detections_in_ego(submission: Submission, rows: slice, ego2global: torch.Tensor) -> Detections:
    """Moves submitted boxes into the ego frame.

    Args:
        submission: a results file as columns, in the global frame.
        rows: those of one sample.
        ego2global: (4, 4) float64, the sample's.

    Returns:
        The boxes by falling score; labels count from 0 in `DETECTION_CLASSES`.
    """
    boxes = boxes_from_nuscenes(
        submission.translations[rows],
        submission.sizes_wlh[rows],
        submission.rotations_wxyz[rows],
        submission.velocities[rows],
    )
    order = torch.from_numpy(np.argsort(-submission.scores[rows], kind="stable"))
    in_ego = transform_boxes(invert_rigid(ego2global), torch.from_numpy(boxes))
    return Detections(
        boxes=in_ego[order].float(),
        scores=torch.from_numpy(submission.scores[rows])[order].float(),
        labels=torch.from_numpy(submission.labels[rows])[order],
    )
