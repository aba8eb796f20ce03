"""What makes each sensor's confidence mean something: every cell is classified, and surer means less wrong."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.boxes import transform_boxes
from perception.models.fusers.qmf import energy_confidence
from perception.models.parts import AuxiliaryLoss
from perception.ops.points_in_boxes import points_in_boxes
from perception.structures import Batch, Boxes3D


class QualityLoss(AuxiliaryLoss):
    """Trains the classifiers and the trust of a `QmfFuser`.

    The cross-entropy of each present sensor's classifier and of their weighted sum, cells with an object counting as
    much as cells without, and a term that wants the confidence of any two cells of one sensor to differ as their
    losses do, the other way round. The published term keeps the mean loss of every training sample; cells of
    augmented maps do not come back, so the losses of the moment stand in for it here.

    Args:
        level: whose cells are classified.
        temperature: of the energy; the fuser's.
        ranking_weight: factor of the ranking beside the cross-entropies.
        num_pairs: random pairs of cells that are ranked, per sensor.
        weight: factor of the loss.

    Source:
        Zhang et al. 2023, "Provable Dynamic Fusion for Low-Quality Multimodal Data": its training objective.
    """

    def __init__(
        self,
        *,
        level: str = "main",
        temperature: float = 1.0,
        ranking_weight: float = 0.1,
        num_pairs: int = 4096,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.level = level
        self.temperature = temperature
        self.ranking_weight = ranking_weight
        self.num_pairs = num_pairs
        self.weight = weight

    def forward(self, aux: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Computes the loss.

        Args:
            aux: "fused/evidence/<level>", "fused/trust/<level>" and "fused/centers_m/<level>" of a `QmfFuser`.
            batch: B samples.

        Returns:
            A scalar, weighted; zero without annotations, and where no sample has a sensor of the level.

        Raises:
            ValueError: a label is none of the fuser's classes.
        """
        evidence = aux.get(f"fused/evidence/{self.level}")
        if evidence is None:
            return torch.zeros((), device=batch.device)
        trust = aux[f"fused/trust/{self.level}"].float()  # (B, N, Y, X)
        evidence = evidence.float()  # (B, N, 1 + K, Y, X)
        centers = aux[f"fused/centers_m/{self.level}"]
        target = cell_classes(centers, batch.boxes, batch.ego2aug)  # (B, Y, X)
        if int(target.max()) >= evidence.shape[2]:
            raise ValueError(
                f"QualityLoss: labels must be below the {evidence.shape[2] - 1} classes of the fuser, "
                f"got {int(target.max()) - 1}"
            )
        balance = _balance(target)
        present = (trust.amax((-2, -1)) > 0)[:, :, None, None]  # (B, N, 1, 1)
        each = _cross_entropy(evidence, target[:, None].expand(-1, evidence.shape[1], -1, -1))  # (B, N, Y, X)
        together = _cross_entropy((trust[:, :, None] * evidence).sum(1), target)  # (B, Y, X)
        shares = balance[:, None] * present
        alone = (each * shares).sum() / shares.sum().clamp(min=1e-6)
        seen = balance * present.any(1)  # no cell of a sample that none of the level's sensors sees
        loss = alone + (together * seen).sum() / seen.sum().clamp(min=1e-6)
        confidence = energy_confidence(evidence, self.temperature)
        ranks = [self._rank(confidence[:, n], each[:, n].detach(), shares[:, n]) for n in range(evidence.shape[1])]
        return self.weight * (loss + self.ranking_weight * torch.stack(ranks).mean())

    def _rank(self, confidence: Tensor, losses: Tensor, shares: Tensor) -> Tensor:
        """Compares random pairs of cells of one sensor, drawn by their shares; all (B, Y, X)."""
        if not bool((shares > 0).any()):
            return confidence.sum() * 0
        drawn = torch.multinomial(shares.flatten(), 2 * self.num_pairs, replacement=True)
        surer = confidence.flatten()[drawn].view(2, -1)
        worse = losses.flatten()[drawn].view(2, -1)
        gap = surer[0] - surer[1]
        return functional.relu(gap.sign() * (worse[0] - worse[1]) + gap.abs()).mean()


@torch.no_grad()
def cell_classes(centers_m: Tensor, boxes: Sequence[Boxes3D | None], ego2aug: Tensor) -> Tensor:
    """Says which class of object covers each cell.

    Args:
        centers_m: (Y, X, 2) x and y of the cells in the augmented ego frame.
        boxes: one per sample of B, in the ego frame; None where a sample has no annotations.
        ego2aug: (B, 4, 4).

    Returns:
        (B, Y, X) int64: 0 where no box holds the centre, else 1 + label; -1 in samples without annotations.
    """
    points = functional.pad(centers_m.flatten(0, 1).float(), (0, 1))  # (Y X, 3), all at height 0
    classes = []
    for annotation, matrix in zip(boxes, ego2aug, strict=True):
        if annotation is None:
            classes.append(torch.full_like(points[:, 0], -1, dtype=torch.long))
            continue
        flat = transform_boxes(matrix, annotation.boxes).float()
        flat[:, 2] = 0
        box = points_in_boxes(points, flat)  # (Y X,)
        labels = functional.pad(annotation.labels + 1, (0, 1))  # the last one is for no box
        classes.append(labels[box])
    return torch.stack(classes).view(len(boxes), *centers_m.shape[:2])


def _balance(target: Tensor) -> Tensor:
    """Weights of the cells (B, Y, X): those with an object, and those without, add up to one half each."""
    objects, free = target > 0, target == 0
    return 0.5 * (objects / objects.sum().clamp(min=1) + free / free.sum().clamp(min=1))


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of logits (..., 1 + K, Y, X) and classes (..., Y, X); zero where unknown."""
    flat = logits.movedim(-3, -1).flatten(0, -2)  # (cells, 1 + K)
    return functional.cross_entropy(flat, target.flatten(), ignore_index=-1, reduction="none").view(target.shape)
