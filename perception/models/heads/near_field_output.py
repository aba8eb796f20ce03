"""What the near-field network gives."""

from dataclasses import dataclass

from torch import Tensor

from perception.geometry.grid import Grid


@dataclass(frozen=True, kw_only=True)
class NearFieldOutput:
    """Maps of where the vehicle would run into something, in the augmented ego frame.

    Args:
        logits: (B, Y, X), above 0 where occupied is more likely than free.
        coarse_logits: (B, Y / S, X / S) the first guess, which `logits` refine: whether anything is in S x S cells.
        grid: where the cells of `logits` lie.
        known: (B,) bool, samples of which the level knows anything; the others' logits are zeros and say nothing.
    """

    logits: Tensor
    coarse_logits: Tensor
    grid: Grid
    known: Tensor

    @property
    def coarse_stride(self) -> int:
        """Cells of `logits`, along x and along y, that one of `coarse_logits` stands for: S."""
        return self.logits.shape[-1] // self.coarse_logits.shape[-1]
