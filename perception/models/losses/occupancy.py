"""The losses of occupancy: weighted cross-entropy, Lovász-softmax and the affinities of scene and classes.

Voxels count one by one, or for several: of free space, which fills most of a volume, a part can stand for the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.models.heads.occupancy_output import OccupancyOutput
from perception.models.heads.occupancy_targets import BEYOND_MASK, UNKNOWN, OccupancyTargets

_LEAST = 1e-6  # of what a logarithm is taken


@dataclass(frozen=True, kw_only=True)
class OccupancyLoss:
    """Weights of the losses; one of weight 0 is not computed.

    Args:
        cross_entropy: weight of the cross-entropy, a mean over the voxels weighted by class.
        lovasz: weight of the Lovász-softmax loss, a mean over the classes of the truth.
        semantic_affinity: weight of precision, recall and specificity of each class, a mean over those of the truth.
        geometric_affinity: weight of the same of occupied against free.
        class_counts: voxels of each class in the training data: a class counts in the cross-entropy with the inverse
            logarithm of its number (plus e, so that none is no more than 1); None counts all alike.
        max_free_voxels: of more free voxels in a batch, about so many count, each for several; None counts all. They
            are drawn anew for each batch by torch's generator of the device, as dropout is: a seeded run repeats them.
        beyond_mask: how much a voxel outside the head's mask counts, of one within it. Nobody has seen those; in the
            truth they are free, and rays and scores without a mask take them so. A little keeps a network from filling
            what lies behind a surface, and leaves what is seen as it is.

    Raises:
        ValueError: a weight is negative, a count is, or there is no free voxel to count.

    Source:
        Weights of classes and the affinities: Cao and de Charette 2022, "MonoScene", section 3.4. Berman et al. 2018,
        "The Lovász-Softmax loss". That free voxels are thinned out, and that unseen ones count a little, is this
        project's own.
    """

    cross_entropy: float = 1.0
    lovasz: float = 1.0
    semantic_affinity: float = 1.0
    geometric_affinity: float = 1.0
    class_counts: tuple[float, ...] | None = None
    max_free_voxels: int | None = 32768
    beyond_mask: float = 0.1

    def __post_init__(self) -> None:
        weights = (self.cross_entropy, self.lovasz, self.semantic_affinity, self.geometric_affinity, self.beyond_mask)
        if min(weights) < 0 or min(self.class_counts or (0.0,)) < 0:
            raise ValueError(f"OccupancyLoss: weights, class_counts and beyond_mask must be at least 0, got {self}")
        if self.max_free_voxels is not None and self.max_free_voxels < 1:
            raise ValueError(f"OccupancyLoss: max_free_voxels must be at least 1, got {self.max_free_voxels}")

    def __call__(self, output: OccupancyOutput, targets: OccupancyTargets) -> dict[str, Tensor]:
        """Compares an output with its targets.

        Args:
            output: what the network gave.
            targets: what it should have given.

        Returns:
            Weighted scalars "cross_entropy", "lovasz", "semantic_affinity" and "geometric_affinity", as far as their
            weights are positive; zero where no voxel counts.

        Raises:
            ValueError: there is not one count per class.
        """
        num_classes = output.logits.shape[1]
        if self.class_counts is not None and len(self.class_counts) != num_classes:
            raise ValueError(
                f"OccupancyLoss: class_counts must have {num_classes} entries, got {len(self.class_counts)}"
            )
        names = ("cross_entropy", "lovasz", "semantic_affinity", "geometric_affinity")
        wanted = {name: getattr(self, name) for name in names if getattr(self, name) > 0}
        places, labels, weights = self._counted(targets.labels, num_classes - 1)
        if not len(places):
            return dict.fromkeys(wanted, output.logits.flatten()[:0].sum())
        logs = _at(output.logits, places).float().log_softmax(0)  # (K, V)
        shares = logs.exp()
        terms = {
            "cross_entropy": lambda: weighted_cross_entropy(logs, labels, weights, self._class_weights(logs)),
            "lovasz": lambda: lovasz_softmax(shares, labels, weights),
            "semantic_affinity": lambda: semantic_affinity(shares, labels, weights),
            "geometric_affinity": lambda: geometric_affinity(shares, labels, weights),
        }
        return {name: weight * terms[name]() for name, weight in wanted.items()}

    def _class_weights(self, like: Tensor) -> Tensor:
        if self.class_counts is None:
            return like.new_ones(len(like))
        return 1 / (torch.tensor(self.class_counts, dtype=torch.float64) + torch.e).log().to(like)

    def _counted(self, labels: Tensor, free: int) -> tuple[Tensor, Tensor, Tensor]:
        """The voxels that count: (V,) places among the targets, labels (V,) int64, and how many each stands for."""
        flat = labels.flatten()  # (B, Z, Y, X) -> (B * Z * Y * X,)
        counted = flat != UNKNOWN if self.beyond_mask else flat < BEYOND_MASK
        is_free = counted & (flat % BEYOND_MASK == free)
        most = self.max_free_voxels
        num_free = 0 if most is None else int(is_free.sum())
        if most is not None and num_free > most:
            counted &= ~is_free | (torch.rand(len(flat), device=flat.device) < most / num_free)
        places = counted.nonzero()[:, 0]
        marked = flat[places].long()
        chosen = marked % BEYOND_MASK
        weights = torch.where(marked < BEYOND_MASK, 1.0, self.beyond_mask)
        if most is not None and num_free > most:
            weights[chosen == free] *= num_free / (chosen == free).sum()
        return places, chosen, weights


def weighted_cross_entropy(logs: Tensor, labels: Tensor, weights: Tensor, class_weights: Tensor) -> Tensor:
    """Averages the cross-entropy over voxels.

    Args:
        logs: (K, V) logarithms of the predicted shares.
        labels: (V,) int64 classes.
        weights: (V,) how many voxels each stands for.
        class_weights: (K,) how much a voxel of each class counts.

    Returns:
        A scalar.
    """
    weights = weights * class_weights[labels]
    return -(logs.gather(0, labels[None])[0] * weights).sum() / weights.sum()


def lovasz_softmax(shares: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Extends one minus the intersection over union of each class to predicted shares, and averages over classes.

    Args:
        shares: (K, V) predicted shares.
        labels: (V,) int64 classes; those of which there is no voxel do not count.
        weights: (V,) how many voxels each stands for.

    Returns:
        A scalar.
    """
    present = torch.bincount(labels, minlength=len(shares)).nonzero()[:, 0]  # (P,)
    mine = labels == present[:, None]  # (P, V)
    errors, order = torch.where(mine, 1 - shares[present], shares[present]).sort(1, descending=True)
    # In double precision: the steps are differences of ratios that a single voxel of a million changes.
    counts = weights.double()[order]  # (P, V)
    own = torch.where(mine.gather(1, order), counts, 0.0)
    whole = own.sum(1, keepdim=True)
    missed = own.cumsum(1)
    loss = 1 - (whole - missed) / (whole + counts.cumsum(1) - missed)  # of the worst 1, 2, ... V voxels
    steps = loss.diff(dim=1, prepend=loss.new_zeros(len(loss), 1))
    return (errors * steps.to(errors)).sum(1).mean()


def semantic_affinity(shares: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Averages the negative logarithms of precision, recall and specificity over the classes of the truth.

    Args:
        shares: (K, V) predicted shares, which stand for true and false.
        labels: (V,) int64 classes.
        weights: (V,) how many voxels each stands for.

    Returns:
        A scalar.
    """
    empty = shares.new_zeros(len(shares))
    hits = empty.index_add(0, labels, shares.gather(0, labels[None])[0] * weights)  # (K,)
    truth = empty.index_add(0, labels, weights)
    found = (shares * weights).sum(1)  # no product of matrices, which autocast would take in half precision
    return _affinity(hits, found, truth, weights.sum())[truth > 0].mean()


def geometric_affinity(shares: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Adds the negative logarithms of precision, recall and specificity of occupied against free.

    Args:
        shares: (K, V) predicted shares; the last class is free.
        labels: (V,) int64 classes.
        weights: (V,) how many voxels each stands for.

    Returns:
        A scalar, zero where no voxel is occupied.
    """
    occupied = (labels < len(shares) - 1) * weights  # (V,)
    found = shares[:-1].sum(0)
    truth = occupied.sum()
    loss = _affinity((found * occupied).sum(), (found * weights).sum(), truth, weights.sum())
    return torch.where(truth > 0, loss, loss * 0)


def _affinity(hits: Tensor, found: Tensor, truth: Tensor, total: Tensor) -> Tensor:
    """Of sums over voxels, any shape: -log of hits / found, of hits / truth and of the share of the rest not found."""
    rest = total - truth
    wrong = torch.where(rest > 0, (found - hits) / rest.clamp(min=_LEAST), 0.0)
    ratios = torch.stack((hits / found.clamp(min=_LEAST), hits / truth.clamp(min=_LEAST), 1 - wrong))
    return -ratios.clamp(min=_LEAST).log().sum(0)


def _at(logits: Tensor, places: Tensor) -> Tensor:
    """(K, V) logits at places among the B * Z * Y * X voxels."""
    num_classes, size = logits.shape[1], logits[0, 0].numel()
    sample = places // size
    first = places + sample * size * (num_classes - 1)  # where the logits of class 0 lie
    return logits.flatten()[first + torch.arange(num_classes, device=places.device)[:, None] * size]
