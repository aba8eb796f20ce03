"""The losses of the map: focal, cross-entropy by frequency and dice, each class by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from perception.models.heads.map_output import MapOutput
from perception.models.heads.map_targets import MapTargets


@dataclass(frozen=True, kw_only=True)
class MapLoss:
    """Weights of the losses; each is computed for every class over the cells of which the truth is known.

    Args:
        focal: weight of the mean focal loss.
        cross_entropy: weight of the cross-entropy in which the rarer of inside and outside counts more, for lines.
        dice: weight of one minus the soft overlap, which comes closest to the score.
        gamma: the focal loss of a cell falls with its error to this power; 0 gives plain cross-entropy.
        alpha: weight of cells inside a class in the focal loss, in [0, 1], those outside get 1 - alpha; -1 for none.
        balance: inside and outside count with their frequency to the power of minus this in `cross_entropy`; 0 counts
            all cells alike, at 1 both weigh the same together.

    Raises:
        ValueError: a weight or `gamma` is negative, all weights are 0, or `alpha` or `balance` is out of range.

    Source:
        Focal loss: Lin et al. 2017, with gamma 2 and no alpha as in BEVFusion (Liu et al. 2023). Dice: Milletari et
        al. 2016.
    """

    focal: float = 1.0
    cross_entropy: float = 0.0
    dice: float = 0.0
    gamma: float = 2.0
    alpha: float = -1.0
    balance: float = 0.5

    def __post_init__(self) -> None:
        weights = (self.focal, self.cross_entropy, self.dice)
        if min(*weights, self.gamma) < 0 or max(weights) == 0:
            raise ValueError(f"MapLoss: weights and gamma must be at least 0 and a weight above it, got {self}")
        if not (self.alpha == -1 or 0 <= self.alpha <= 1) or not 0 <= self.balance <= 1:
            raise ValueError(f"MapLoss: alpha must be -1 or in [0, 1] and balance in [0, 1], got {self}")

    def __call__(self, output: MapOutput, targets: MapTargets) -> dict[str, Tensor]:
        """Compares an output with its targets.

        Args:
            output: what the network gave.
            targets: what it should have given.

        Returns:
            Weighted scalar by class name; zero where nothing is known.
        """
        logits = output.logits.float().transpose(0, 1)[:, targets.known]  # (B, K, Y, X) -> (K, N)
        inside = targets.cells.transpose(0, 1)[:, targets.known]  # (B, K, Y, X) -> (K, N)
        return dict(zip(output.class_names, self._of_classes(logits, inside), strict=True))

    def _of_classes(self, logits: Tensor, inside: Tensor) -> Sequence[Tensor]:
        """K scalars from (K, N) logits and truths."""
        total = logits.sum(1) * 0  # (K,)
        if logits.shape[1] == 0:
            return total.unbind()
        if self.focal:
            total = total + self.focal * focal_loss(logits, inside, self.gamma, self.alpha).mean(1)
        if self.cross_entropy:
            total = total + self.cross_entropy * balanced_cross_entropy(logits, inside, self.balance)
        if self.dice:
            total = total + self.dice * dice_loss(logits, inside)
        return total.unbind()


def focal_loss(logits: Tensor, inside: Tensor, gamma: float, alpha: float) -> Tensor:
    """Weighs the cross-entropy of every cell by how wrong it is.

    Args:
        logits: any shape.
        inside: the same shape, bool.
        gamma: power of the error.
        alpha: weight of cells inside; -1 for none.

    Returns:
        The same shape.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, inside.float(), reduction="none")
    wrong = torch.where(inside, -logits, logits).sigmoid()
    losses = entropy * wrong**gamma
    return losses if alpha < 0 else losses * torch.where(inside, alpha, 1 - alpha)


def balanced_cross_entropy(logits: Tensor, inside: Tensor, balance: float) -> Tensor:
    """Averages the cross-entropy of every class with weights by frequency.

    Args:
        logits: (K, N).
        inside: (K, N) bool.
        balance: inside and outside count with their frequency to the power of minus this.

    Returns:
        (K,).
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, inside.float(), reduction="none")
    share = inside.float().mean(1, keepdim=True).clamp(1e-6, 1 - 1e-6)  # (K, 1)
    weights = torch.where(inside, share, 1 - share).pow(-balance)  # (K, N)
    return (entropy * weights).sum(1) / weights.sum(1)


def dice_loss(logits: Tensor, inside: Tensor) -> Tensor:
    """One minus the soft overlap of every class; a cell on both sides keeps classes without any cell at 0.

    Args:
        logits: (K, N).
        inside: (K, N) bool.

    Returns:
        (K,).
    """
    found = logits.sigmoid()
    both = (found * inside).sum(1)
    return 1 - (2 * both + 1) / (found.sum(1) + inside.sum(1) + 1)
