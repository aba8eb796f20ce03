"""Non-maximum suppression of points: of centres closer than a radius, the best-scored stays."""

import torch
from torch import Tensor

from perception.ops import _library
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
    places, values = centers.detach().double(), scores.detach().double()
    order = torch.argsort(values, descending=True, stable=True)  # (M,)
    if _library.has_kernels(centers.device):
        return order[torch.ops.perception.nms_circle(places, values, order, radius_m)]
    valid = places.isfinite().all(1) & ~values.isnan()
    rows = order[valid[order]]  # (V,)
    return rows[nms_circle_reference(places[rows], radius_m)]


def nms_circle_reference(centers: Tensor, radius_m: float) -> Tensor:
    """Does what the kernel of `nms_circle` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        centers: (M, 2) float64 x y, metres, finite, the best first.
        radius_m: as in `nms_circle`.

    Returns:
        (M,) bool, which centres stay.
    """
    kept = torch.ones(len(centers), dtype=torch.bool, device=centers.device)
    for row in range(len(centers) - 1):
        if kept[row]:
            kept[row + 1 :] &= (centers[row + 1 :] - centers[row]).norm(dim=1) > radius_m
    return kept


def _fake(centers: Tensor, scores: Tensor, order: Tensor, radius_m: float) -> Tensor:
    return centers.new_empty(centers.shape[0], dtype=torch.bool)


_library.register("nms_circle", fake=_fake)
