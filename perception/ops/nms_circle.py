"""Non-maximum suppression of points: of centres closer than a radius, the best-scored stays."""

import torch
from torch import Tensor

from perception.ops._checks import FLOATING, check_same_device, check_tensor


def nms_circle(centers: Tensor, scores: Tensor, radius_m: float) -> Tensor:
    """Keeps, from the best score down, each centre with no kept centre within the radius.

    Centres with NaN or infinity and scores that are NaN never survive and suppress nothing. Of equal scores the first
    row goes first.

    Args:
        centers: (M, 2) floating x y, metres.
        scores: (M,) floating.
        radius_m: centres at this distance or nearer suppress one another.

    Returns:
        (K,) int64 rows that stay, from the best score down.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit, or a radius that is negative or NaN.

    Source:
        Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021: circle NMS, whose published code takes
        a squared distance where this takes metres.
    """
    check_tensor("nms_circle: centers", centers, "M 2", FLOATING)
    check_tensor("nms_circle: scores", scores, str(len(centers)), FLOATING)
    check_same_device("nms_circle", centers=centers, scores=scores)
    if not radius_m >= 0:
        raise ValueError(f"nms_circle: radius_m must be 0 or more, got {radius_m}")
    # Each step depends on the one before: hundreds of tiny steps run faster on the CPU than as launches on a device.
    places, values = centers.detach().cpu().double(), scores.detach().cpu()
    rows = (places.isfinite().all(1) & ~values.isnan()).nonzero()[:, 0]
    rows = rows[torch.argsort(values[rows], descending=True, stable=True)]
    kept = []
    while len(rows):
        kept.append(rows[0])
        distance_m = (places[rows] - places[rows[0]]).norm(dim=1)
        far = distance_m > radius_m
        far[0] = False
        rows = rows[far]
    return torch.stack(kept).to(centers.device) if kept else rows.to(centers.device)
