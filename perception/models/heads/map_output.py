"""What the map network gives."""

from dataclasses import dataclass

from torch import Tensor

from perception.geometry.grid import Grid


@dataclass(frozen=True, kw_only=True)
class MapOutput:
    """Maps of what covers the ground, in the augmented ego frame.

    Args:
        logits: (B, K, Y, X), above 0 where a cell more likely belongs to the class than not.
        class_names: K names of the layers.
        grid: where the cells lie.
    """

    logits: Tensor
    class_names: tuple[str, ...]
    grid: Grid
