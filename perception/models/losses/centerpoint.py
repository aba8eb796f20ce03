"""The losses of CenterPoint: Gaussian focal loss on the heatmap, L1 on the boxes at their centres."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from perception.models.heads.centerpoint_decoding import decode_boxes
from perception.models.heads.centerpoint_output import REGRESSION_CHANNELS, CenterPointOutput
from perception.models.heads.centerpoint_targets import Targets
from perception.ops.box_iou_rotated import box_iou_3d


@dataclass(frozen=True, kw_only=True)
class CenterPointLoss:
    """Weights of the losses; each is divided by the number of boxes.

    Args:
        heatmap: weight of the focal loss.
        offset: weight of the offset of the centre in its cell.
        height: weight of the height of the centre.
        size: weight of the logarithmic size.
        yaw: weight of sine and cosine of the yaw.
        velocity: weight of the velocity; unknown velocities do not count.
        overlap: weight of the guessed overlap, where the head makes one.

    Source:
        Yin et al. 2021, section 4 and its published nuScenes settings (0.25 for the boxes, 0.2 of that for velocity).
        Sums are divided by all boxes of the batch; the published code divides each group's by its own, which weighs
        groups of few boxes more.
    """

    heatmap: float = 1.0
    offset: float = 0.25
    height: float = 0.25
    size: float = 0.25
    yaw: float = 0.25
    velocity: float = 0.05
    overlap: float = 1.0

    def __call__(self, output: CenterPointOutput, targets: Targets) -> dict[str, Tensor]:
        """Compares an output with its targets.

        Args:
            output: what the network gave.
            targets: what it should have given.

        Returns:
            Weighted scalar per field of this class; "overlap" only where the output has it.
        """
        annotated = targets.annotated
        num_boxes = max(len(targets.cells), 1)
        focal = gaussian_focal_loss(output.heatmap[annotated].float(), targets.heatmap[annotated])
        losses = {"heatmap": self.heatmap * focal / num_boxes}
        sample, group, row, column = targets.cells.unbind(1)
        predicted = output.regression[sample, group, :, row, column].float()  # (B, G, 10, Y, X) -> (M, 10)
        for name, error in regression_errors(predicted, targets.regression).items():
            losses[name] = getattr(self, name) * error / num_boxes
        if output.overlap is not None:
            guessed = output.overlap[sample, group, row, column].float()  # (B, G, Y, X) -> (M,)
            losses["overlap"] = (
                self.overlap * (guessed - true_overlap(predicted, output, targets)).abs().sum() / num_boxes
            )
        return losses


def regression_errors(predicted: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Sums up how far boxes are off; what is unknown does not count.

    Args:
        predicted: (M, 10), in the order of `REGRESSION_CHANNELS`.
        targets: (M, 10), NaN or infinite where unknown.

    Returns:
        Scalar per name in `REGRESSION_CHANNELS`.
    """
    known = targets.isfinite()
    errors = (predicted - torch.where(known, targets, predicted.detach())).abs()
    parts = errors.split(list(REGRESSION_CHANNELS.values()), dim=1)
    return {name: part.sum() for name, part in zip(REGRESSION_CHANNELS, parts, strict=True)}


@torch.no_grad()
def true_overlap(regression: Tensor, output: CenterPointOutput, targets: Targets) -> Tensor:
    """Measures how well the predicted boxes fit.

    Args:
        regression: (M, 10) predicted at the centres.
        output: what the network gave.
        targets: what it should have given.

    Returns:
        (M,) 2 IoU - 1 of the volumes, from -1 (apart) to 1 (the same).

    Source:
        Hu et al. 2022, "AFDetV2", section 3.2.
    """
    sample, _, row, column = targets.cells.unbind(1)
    boxes, truth = (decode_boxes(values, row, column, output.grid) for values in (regression, targets.regression))
    return paired_overlap(boxes, truth, sample)


@torch.no_grad()
def paired_overlap(boxes: Tensor, truth: Tensor, sample: Tensor) -> Tensor:
    """Measures how well each box fits its own object.

    Args:
        boxes: (M, 9).
        truth: (M, 9), one for each.
        sample: (M,) int64; the fewer boxes a sample has, the cheaper.

    Returns:
        (M,) 2 IoU - 1 of the volumes, from -1 (apart) to 1 (the same).
    """
    overlap = torch.zeros(len(boxes), device=boxes.device)
    for index in sample.unique().tolist():
        members = (sample == index).nonzero()[:, 0]
        pairs = box_iou_3d(boxes[members, :7], truth[members, :7])  # (M_s, M_s), of which the diagonal counts
        overlap[members] = pairs.diagonal().to(overlap.dtype)
    return 2 * overlap - 1


def gaussian_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Sums the focal loss over a heatmap whose negatives count less near a centre.

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1]; exactly 1 is a positive.
        alpha: how much less a confident right answer counts.
        beta: how much less a negative near a centre counts.

    Returns:
        A scalar.

    Source:
        Law and Deng 2018, "CornerNet", equation 1.
    """
    positive = targets == 1
    probability = logits.sigmoid()
    hit = (1 - probability).pow(alpha) * functional.logsigmoid(logits)
    miss = (1 - targets).pow(beta) * probability.pow(alpha) * functional.logsigmoid(-logits)
    return -torch.where(positive, hit, miss).sum()
