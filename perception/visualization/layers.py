"""What the pictures show of boxes: where they are, in which colour, with which words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from perception.structures import Boxes3D, Detections
from perception.structures.tensors import check_shapes
from perception.visualization.colors import GROUND_TRUTH, class_colors

_UNSEEN_BRIGHTNESS = 0.5


@dataclass(frozen=True, kw_only=True)
class BoxLayer:
    """Boxes that are drawn alike.

    Args:
        title: what they are, for the legend.
        boxes: (M, 9) in the ego frame: x y z l w h yaw vx vy; velocity NaN where unknown.
        names: M class names, for the legend.
        captions: M short texts beside the boxes; "" for none.
        colors: (M, 3) uint8 RGB.
        hollow: thin outlines without filling (ground truth under predictions).

    Raises:
        TypeError: boxes are no tensor.
        ValueError: shapes that do not fit each other, or a box whose place, size or yaw is not finite.
    """

    title: str
    boxes: Tensor
    names: tuple[str, ...]
    captions: tuple[str, ...]
    colors: np.ndarray
    hollow: bool = False

    def __post_init__(self) -> None:
        check_shapes(self, {"boxes": "M 9"}, {"M": len(self.names)})
        if self.colors.shape != (len(self), 3) or len(self.captions) != len(self):
            raise ValueError(
                f"BoxLayer: colors and captions must have {len(self)} rows, "
                f"got {self.colors.shape} and {len(self.captions)}"
            )
        broken = (~self.boxes[:, :7].isfinite().all(dim=1)).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"BoxLayer: boxes must have a finite place, size and yaw, "
                f"got {self.boxes[broken[0]].tolist()} in row {broken[0]} ({len(broken)} in all)"
            )

    def __len__(self) -> int:
        return len(self.names)


def ground_truth_layer(boxes: Boxes3D, class_names: Sequence[str], hollow: bool = False) -> BoxLayer:
    """Shows annotations; those that no LiDAR point hit are dimmed.

    Args:
        boxes: annotations in the ego frame.
        class_names: names in label order.
        hollow: draw white outlines without words, to lie under predictions; else in the colours of the classes.

    Returns:
        The layer.

    Raises:
        ValueError: a label is no class.
    """
    names = _names("ground_truth_layer", boxes.labels, class_names)
    colors = np.full((len(boxes), 3), GROUND_TRUTH) if hollow else class_colors(class_names)[boxes.labels.numpy()]
    unseen = (boxes.num_lidar_points == 0).numpy()
    brightness = np.where(unseen, _UNSEEN_BRIGHTNESS, 1.0)[:, None]
    return BoxLayer(
        title="ground truth",
        boxes=boxes.boxes,
        names=names,
        captions=("",) * len(boxes) if hollow else tuple(_words(name) for name in names),
        colors=(colors * brightness).astype(np.uint8),
        hollow=hollow,
    )


def detection_layer(detections: Detections, class_names: Sequence[str], score_threshold: float = 0.0) -> BoxLayer:
    """Shows predicted boxes in the colours of their classes, with their scores.

    Args:
        detections: boxes in the ego frame.
        class_names: names in label order.
        score_threshold: boxes below it are left out.

    Returns:
        The layer.

    Raises:
        ValueError: a label is no class.
    """
    kept = detections.scores >= score_threshold
    labels, scores = detections.labels[kept], detections.scores[kept].tolist()
    names = _names("detection_layer", labels, class_names)
    return BoxLayer(
        title="prediction",
        boxes=detections.boxes[kept],
        names=names,
        captions=tuple(f"{_words(name)} {score:.2f}" for name, score in zip(names, scores, strict=True)),
        colors=class_colors(class_names)[labels.numpy()],
    )


def _names(function: str, labels: Tensor, class_names: Sequence[str]) -> tuple[str, ...]:
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(class_names):
        raise ValueError(
            f"{function}: labels must be in 0..{len(class_names) - 1}, got {int(labels.min())}..{int(labels.max())}"
        )
    return tuple(class_names[label] for label in labels.tolist())


def _words(name: str) -> str:
    return name.replace("_", " ")
