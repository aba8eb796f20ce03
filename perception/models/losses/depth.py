"""Supervision of the camera's depth distribution by LiDAR."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from perception.models.parts import AuxiliaryLoss
from perception.models.views.frustum import lidar_distances
from perception.structures import Batch


class DepthLoss(AuxiliaryLoss):
    """Cross-entropy between the depth distribution and the nearest LiDAR point in each feature cell.

    Cells without a point, or with one outside the bins, do not count.

    Args:
        branch: name of the detector's branch whose depth is supervised.
        group: its group of cameras.
        weight: factor of the loss.

    Source:
        Li et al. 2023, "BEVDepth", section 3.1 (explicit depth supervision).
    """

    def __init__(self, *, branch: str = "camera", group: str = "surround", weight: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.group = group
        self.weight = weight

    def forward(self, aux: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Computes the loss.

        Args:
            aux: "<branch>/depth_logits" (K, D, h, w) of the present cameras and "<branch>/depth_edges_m" (D + 1,);
                both are missing where the branch did not run.
            batch: B samples.

        Returns:
            A scalar, weighted; zero without cameras or LiDAR.
        """
        logits = aux.get(f"{self.branch}/depth_logits")
        if logits is None:
            return torch.zeros((), device=batch.device)
        if batch.lidar is None:
            return logits.sum() * 0
        with torch.no_grad():
            distances = lidar_distances(batch.cameras[self.group], batch.lidar, (logits.shape[-2], logits.shape[-1]))
            target = distance_bin(distances, aux[f"{self.branch}/depth_edges_m"])
        terms = functional.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum")
        return self.weight * terms / (target >= 0).sum().clamp(min=1)


def distance_bin(distances_m: Tensor, edges_m: Tensor) -> Tensor:
    """Finds the bin that holds each distance; a bin holds its lower edge and not its upper one.

    Args:
        distances_m: any shape.
        edges_m: (D + 1,) rising.

    Returns:
        int64 of the same shape, in [0, D); -1 outside all bins.
    """
    index = torch.bucketize(distances_m, edges_m, right=True) - 1
    return torch.where(index < len(edges_m) - 1, index, -1)
