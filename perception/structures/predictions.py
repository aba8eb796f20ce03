"""What the heads say about one sample."""

from dataclasses import dataclass

from torch import Tensor

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
class Predictions:
    """Everything predicted for one sample.

    Args:
        token: the sample's token.
        detections: boxes; None where the model has no detection head.
    """

    token: str
    detections: Detections | None
