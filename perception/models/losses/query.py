"""The losses of object queries: the heatmap that they start from, and after each layer class and box of each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.models.heads.centerpoint_targets import TrueBoxes, encode_boxes
from perception.models.heads.query_output import QueryOutput, query_boxes
from perception.models.losses.centerpoint import gaussian_focal_loss, paired_overlap, regression_errors
from perception.models.losses.query_matching import QueryMatching, focal_terms


@dataclass(frozen=True, kw_only=True)
class QueryTargets:
    """What B samples hold.

    Args:
        heatmap: (B, K, Y, X) in [0, 1], exactly 1 at the centres of boxes.
        annotated: (B,) bool, samples that have annotations.
        truth: the boxes of all samples.
        tokens: B names of the samples, for errors.
    """

    heatmap: Tensor
    annotated: Tensor
    truth: TrueBoxes
    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class QueryLoss:
    """Weights of the losses; the heatmap's is divided by the number of boxes, the others by that of matched queries.

    Args:
        heatmap: weight of the Gaussian focal loss of the heatmap.
        classes: weight of the focal loss of all queries; those that answer for no box are negatives of every class.
        offset: weight of the centre, in cells; this and what follows are L1 losses of matched queries.
        height: weight of the height of the centre.
        size: weight of the logarithmic size.
        yaw: weight of sine and cosine of the yaw.
        velocity: weight of the velocity; unknown velocities do not count.
        overlap: weight of the guessed overlap, where the head makes one.
        auxiliary: weight of all this for each layer but the last.
        matching: which query answers for which box.

    Source:
        Bai et al. 2022, "TransFusion", section 3.4, and its published nuScenes settings (0.25 for the boxes, 0.2 of
        that for velocity); the guess from Hu et al. 2022, "AFDetV2", section 3.2.
    """

    heatmap: float = 1.0
    classes: float = 1.0
    offset: float = 0.25
    height: float = 0.25
    size: float = 0.25
    yaw: float = 0.25
    velocity: float = 0.05
    overlap: float = 1.0
    auxiliary: float = 1.0
    matching: QueryMatching = QueryMatching()  # noqa: RUF009 (frozen)

    def __call__(self, output: QueryOutput, targets: QueryTargets) -> dict[str, Tensor]:
        """Compares an output with its targets.

        Args:
            output: what the network gave.
            targets: what it should have given.

        Returns:
            Weighted scalars: "heatmap", those of the last layer by name, and "auxiliary" for the sum of those of the
            other layers, where there are any.

        Raises:
            ImportError: `scipy` is not installed.
            ValueError: the network gave NaN or infinity for a sample with boxes.
        """
        annotated = targets.annotated
        focal = gaussian_focal_loss(output.heatmap[annotated].float(), targets.heatmap[annotated])
        layers = [self._layer(output, layer, targets) for layer in range(len(output.logits))]
        losses = {"heatmap": self.heatmap * focal / max(len(targets.truth.boxes), 1), **layers[-1]}
        if layers[:-1]:
            earlier = [value for layer in layers[:-1] for value in layer.values()]
            losses["auxiliary"] = self.auxiliary * torch.stack(earlier).sum()
        return losses

    def _layer(self, output: QueryOutput, layer: int, targets: QueryTargets) -> dict[str, Tensor]:
        truth = targets.truth
        pairs = self.matching.match(output, layer, truth, targets.tokens)
        count = max(len(pairs.box), 1)
        wanted = torch.zeros_like(output.logits[layer], dtype=torch.bool)  # (B, Q, K)
        wanted[pairs.sample, pairs.query, truth.channel[pairs.box]] = True
        focal = torch.where(wanted, *focal_terms(output.logits[layer]))
        losses = {"classes": self.classes * focal[targets.annotated].sum() / count}
        predicted = output.regression[layer, pairs.sample, pairs.query]  # (N, 10)
        boxes = truth.boxes[pairs.box]
        for name, error in regression_errors(predicted, encode_boxes(boxes, truth.position[pairs.box])).items():
            losses[name] = getattr(self, name) * error / count
        if output.overlap is not None:
            true = paired_overlap(query_boxes(predicted, output.grid), boxes, pairs.sample)
            guessed = output.overlap[layer, pairs.sample, pairs.query]
            losses["overlap"] = self.overlap * (guessed - true).abs().sum() / count
        return losses
