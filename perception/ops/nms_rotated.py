"""Non-maximum suppression of boxes with a heading: of boxes that overlap too much, the best-scored stays."""

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import FLOATING, check_same_device, check_tensor
from perception.ops.box_iou_rotated import box_iou_rotated_reference, check_boxes


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keeps, from the best score down, each box whose footprint overlaps no kept one's too much.

    Boxes that are not finite, or whose length or width is not positive, and scores that are NaN never survive and
    suppress nothing. Of equal scores the first row goes first. float16 and bfloat16 are compared in float32.

    Args:
        boxes: (M, 7) or (M, 9) floating: centre, length width height, yaw, then what is not read.
        scores: (M,) floating.
        iou_threshold: an overlap (intersection over union) above this suppresses, one equal to it does not.

    Returns:
        (K,) int64 rows that stay, from the best score down.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit, or a threshold outside [0, 1].
    """
    check_boxes("nms_rotated: boxes", boxes)
    check_tensor("nms_rotated: scores", scores, str(len(boxes)), FLOATING)
    check_same_device("nms_rotated", boxes=boxes, scores=scores)
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms_rotated: iou_threshold must be in [0, 1], got {iou_threshold}")
    footprints = boxes[:, :7].detach()
    valid = footprints[:, [0, 1, 3, 4, 6]].isfinite().all(1) & (footprints[:, 3:5] > 0).all(1) & ~scores.isnan()
    rows = valid.nonzero()[:, 0]
    rows = rows[torch.argsort(scores.detach()[rows], descending=True, stable=True)]  # (V,)
    footprints = footprints[rows]
    footprints[:, 2], footprints[:, 5] = 0, 1  # not read, so not in the way where they are NaN
    if _library.has_kernels(boxes.device):
        return rows[torch.ops.perception.nms_rotated(footprints, iou_threshold)]
    return rows[nms_rotated_reference(footprints, iou_threshold)]


def nms_rotated_reference(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Does what the kernel of `nms_rotated` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        boxes: (M, 7) floating, the best first.
        iou_threshold: as in `nms_rotated`.

    Returns:
        (M,) bool, which boxes stay.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    kept = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for row in range(len(boxes) - 1):
        if kept[row]:
            kept[row + 1 :] &= box_iou_rotated_reference(boxes[row, None], boxes[row + 1 :])[0] <= iou_threshold
    return kept


def _fake(boxes: Tensor, threshold: float) -> Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


_library.register("nms_rotated", fake=_fake, autocast=True)
