"""From queries to boxes in the true ego frame."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry.boxes import transform_boxes
from perception.models.heads.query_output import QueryOutput, query_boxes
from perception.ops.nms_circle import nms_circle
from perception.structures import Detections

_CLASS_DISTANCE_M = 1e6  # moves the classes apart, so that one call suppresses within each


@dataclass(frozen=True, kw_only=True)
class QueryDecoding:
    """How queries become boxes.

    A query is of the class of the peak that it started from. Its score is the product of that class's probability in
    the last layer and in the heatmap at the peak.

    Args:
        score_threshold: boxes whose score is below are dropped, and those of score 0 always.
        max_boxes: boxes per sample at most, the best first.
        nms_radius_m: of two boxes of one class whose centres are no farther apart than this, the better stays; 0 keeps
            everything, as matching teaches one query per object.
        flip_radius_m: the same between queries of mirrored frames, which find one object several times.
        overlap_power: the final score is score^(1 - power) * IoU^power with the overlap that the head guessed; 0 leaves
            the score.

    Raises:
        ValueError: a number out of its range.

    Source:
        Bai et al. 2022, "TransFusion", section 3.3, and its published code for the product of the scores; the final
        score from Hu et al. 2022, "AFDetV2", section 3.2.
    """

    score_threshold: float = 0.0
    max_boxes: int = 500
    nms_radius_m: float = 0.0
    flip_radius_m: float = 0.5
    overlap_power: float = 0.0

    def __post_init__(self) -> None:
        fits = 0 <= self.score_threshold <= 1 and 0 <= self.overlap_power <= 1 and self.max_boxes > 0
        if not fits or not self.nms_radius_m >= 0 or not self.flip_radius_m >= 0:
            raise ValueError(
                f"QueryDecoding: score_threshold and overlap_power must be in [0, 1], max_boxes positive and the radii "
                f"at least 0, got {self}"
            )

    @torch.no_grad()
    def decode(self, output: QueryOutput, ego2aug: Tensor, class_names: Sequence[str]) -> tuple[Detections, ...]:
        """Reads the boxes of every sample from the last layer.

        Args:
            output: what the network gave for B samples.
            ego2aug: (B, 4, 4).
            class_names: classes that the labels of the result index.

        Returns:
            B sets of boxes in the true ego frame, scores falling.

        Raises:
            ValueError: the network gave NaN or infinity, which would pass for an empty street, or no overlap where it
                is needed.
        """
        scores, aug2ego = self.scores(output), torch.linalg.inv(ego2aug)
        labels = torch.tensor([class_names.index(name) for name in output.class_names], device=scores.device)
        found = []
        for sample, regression in enumerate(output.regression[-1]):
            boxes = transform_boxes(aug2ego[sample], query_boxes(regression, output.grid))
            rows = _best(boxes, scores[sample], output.channels[sample], self.nms_radius_m)
            rows = rows[scores[sample, rows] >= self.score_threshold][: self.max_boxes]
            label = labels[output.channels[sample, rows]]
            found.append(Detections(boxes=boxes[rows], scores=scores[sample, rows], labels=label))
        return tuple(found)

    @torch.no_grad()
    def scores(self, output: QueryOutput) -> Tensor:
        """Gives the score of each query.

        Args:
            output: what the network gave for B samples.

        Returns:
            (B, Q) in [0, 1].

        Raises:
            ValueError: as `decode`.
        """
        own = output.logits[-1].gather(2, output.channels[..., None])[..., 0]  # (B, Q, K) -> (B, Q)
        scores = own.sigmoid() * output.peak_scores
        if self.overlap_power > 0:
            if output.overlap is None:
                raise ValueError("QueryDecoding: output must hold overlaps where overlap_power is above 0, got none")
            overlap = ((output.overlap[-1] + 1) / 2).clamp(0, 1)
            sharpened = scores.pow(1 - self.overlap_power) * overlap.pow(self.overlap_power)
            scores = torch.where(scores > 0, sharpened, scores)
        if not bool(scores.isfinite().all() & output.regression[-1].isfinite().all()):
            raise ValueError("QueryDecoding: scores and boxes must be finite, got NaN or infinity")
        return scores

    @torch.no_grad()
    def drop_repeated(self, output: QueryOutput) -> QueryOutput:
        """Takes queries out of the race that say again what a better one of their class says within `flip_radius_m`.

        Args:
            output: queries of several looks at one frame.

        Returns:
            The same with peak scores of 0 for these.
        """
        scores = self.scores(output)
        stays = torch.zeros_like(scores)
        for sample, regression in enumerate(output.regression[-1]):
            boxes = query_boxes(regression, output.grid)
            stays[sample, _best(boxes, scores[sample], output.channels[sample], self.flip_radius_m)] = 1
        return dataclasses.replace(output, peak_scores=output.peak_scores * stays)


def _best(boxes: Tensor, scores: Tensor, channels: Tensor, radius_m: float) -> Tensor:
    """Rows above score 0 without a better one of their class within the radius, scores falling."""
    rows = scores.argsort(descending=True, stable=True)
    rows = rows[scores[rows] > 0]
    if radius_m == 0:
        return rows
    centers = boxes[rows, :2].double() + _CLASS_DISTANCE_M * channels[rows, None]
    return rows[nms_circle(centers, scores[rows], radius_m)]
