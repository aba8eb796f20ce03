"""What the heads say about one sample."""

from dataclasses import dataclass

from torch import Tensor

from perception.geometry.grid import Grid
from perception.structures.tensors import check_shapes


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Boxes found in one sample.

    Args:
        boxes: (M, 9) float32 in the ego frame (not the augmented one): x y z l w h yaw vx vy.
        scores: (M,) float32 in [0, 1], falling.
        labels: (M,) int64, index into the class names.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_shapes(self, {"boxes": "M 9", "scores": "M", "labels": "M"})

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True, kw_only=True)
class NearFieldPrediction:
    """How likely something stands on the ground near the vehicle.

    Args:
        occupied: (Y, X) float32 probability in [0, 1], NaN where nothing was predicted; row = y cell, column = x cell.
        grid: where the cells lie in the ego frame (the true one, not the augmented).

    Raises:
        TypeError: `occupied` is no tensor.
        ValueError: shapes that do not fit the grid.
    """

    occupied: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        check_shapes(self, {"occupied": "Y X"}, {"Y": self.grid.num_y, "X": self.grid.num_x})


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Everything predicted for one sample.

    Args:
        token: the sample's token.
        detections: boxes; None where the model has no detection head.
        near_field: obstacles near the vehicle; None where the model has no near-field head.
    """

    token: str
    detections: Detections | None
    near_field: NearFieldPrediction | None = None
