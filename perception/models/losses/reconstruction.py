"""How far maps that were predicted from other sensors are from those that were hidden."""

from collections.abc import Mapping

import torch
from torch import Tensor

from perception.models.parts import AuxiliaryLoss
from perception.structures import Batch

_PREFIX = "fused/reconstruction/"


class ReconstructionLoss(AuxiliaryLoss):
    """Mean squared difference between predicted and hidden maps, averaged over sensors and levels.

    The hidden maps are targets alone: the loss does not reach the branches that gave them.

    Args:
        weight: factor of the loss.

    Source:
        Woo et al. 2023, "Towards Good Practices for Missing Modality Robust Action Recognition" (ActionMAE).
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, aux: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Computes the loss.

        Args:
            aux: "fused/reconstruction/<level>/<sensor>" and "fused/reconstruction_target/<level>/<sensor>"
                (M, C, Y, X); missing where nothing was hidden.
            batch: B samples.

        Returns:
            A scalar, weighted; zero where nothing was hidden.
        """
        terms = [
            (value.float() - aux[f"fused/reconstruction_target/{key.removeprefix(_PREFIX)}"].float()).square().mean()
            for key, value in aux.items()
            if key.startswith(_PREFIX)
        ]
        if not terms:
            return torch.zeros((), device=batch.device)
        return self.weight * torch.stack(terms).mean()
