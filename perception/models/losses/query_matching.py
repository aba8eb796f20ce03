"""Which query answers for which object: the assignment of least total cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.grid import Grid
from perception.models.heads.centerpoint_targets import TrueBoxes
from perception.models.heads.query_output import QueryOutput, query_boxes
from perception.ops.box_iou_rotated import box_iou_3d


@dataclass(frozen=True, kw_only=True)
class Matches:
    """N pairs of a query and a box; no query and no box is in two.

    Args:
        sample: (N,) int64 rising.
        query: (N,) int64 among the sample's queries, rising within a sample.
        box: (N,) int64 among all true boxes.
    """

    sample: Tensor
    query: Tensor
    box: Tensor


@dataclass(frozen=True, kw_only=True)
class QueryMatching:
    """What it costs that a query answers for a box.

    Of assignments that cost the same, the choice follows from queries and boxes alone, not from the boxes' order.

    Args:
        classes: weight of the focal cost: how much less the focal loss is where the query's score of the box's class
            is a positive's than where it is a negative's.
        center: weight of the distance of the centres, |x| + |y|, each over the extent of the grid.
        overlap: weight of the IoU of the volumes, which lowers the cost.

    Raises:
        ValueError: a weight is negative.

    Source:
        Bai et al. 2022, "TransFusion", section 3.4; weights from its published nuScenes settings.
    """

    classes: float = 0.15
    center: float = 0.25
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if not min(self.classes, self.center, self.overlap) >= 0:
            raise ValueError(f"QueryMatching: weights must be at least 0, got {self}")

    @torch.no_grad()
    def match(self, output: QueryOutput, layer: int, truth: TrueBoxes, tokens: Sequence[str]) -> Matches:
        """Assigns the boxes of each sample to its queries; where there are more boxes, the dearest stay alone.

        Args:
            output: what the network gave for B samples.
            layer: of which layer.
            truth: boxes of all samples.
            tokens: B names of the samples, for errors.

        Returns:
            The pairs: of each sample as many as it has boxes, at most as many as it has queries.

        Raises:
            ImportError: `scipy` is not installed.
            ValueError: a cost is NaN or infinite; the error names the sample.
        """
        columns = []
        for sample in truth.sample.unique().tolist():
            members = _in_fixed_order(truth, (truth.sample == sample).nonzero()[:, 0])
            costs = self.costs(
                output.logits[layer, sample],
                output.regression[layer, sample],
                output.grid,
                truth.boxes[members],
                truth.channel[members],
            )
            query, box = _assign(costs.cpu().numpy(), tokens[sample])
            rows = torch.stack((torch.full_like(query, sample), query)).to(members.device)
            columns.append(torch.cat((rows, members[box.to(members.device)][None])))  # (3, N_s)
        joined = torch.cat(columns, dim=1) if columns else truth.sample.new_zeros(3, 0)
        return Matches(sample=joined[0], query=joined[1], box=joined[2])

    def costs(self, logits: Tensor, regression: Tensor, grid: Grid, boxes: Tensor, channels: Tensor) -> Tensor:
        """Computes what each pair of one sample costs.

        Args:
            logits: (Q, K) float32.
            regression: (Q, 10) as in `QueryOutput`.
            grid: where the cells lie.
            boxes: (M, 9) in the augmented ego frame.
            channels: (M,) int64 classes of the boxes.

        Returns:
            (Q, M) float64.
        """
        positive, negative = focal_terms(logits.double())
        classes = (positive - negative)[:, channels]  # (Q, K) -> (Q, M)
        predicted = query_boxes(regression, grid)
        extent = [upper - lower for lower, upper in (grid.x_range_m, grid.y_range_m)]
        steps = (predicted[:, None, :2] - boxes[None, :, :2]).double() / torch.tensor(extent, device=boxes.device)
        overlap = box_iou_3d(predicted[:, :7], boxes[:, :7])
        return self.classes * classes + self.center * steps.abs().sum(2) - self.overlap * overlap


def focal_terms(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> tuple[Tensor, Tensor]:
    """Gives the focal loss of each score, were it a positive and were it a negative.

    Args:
        logits: any shape.
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: how much less a confident right answer counts.

    Returns:
        Two tensors of the same shape.

    Source:
        Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5.
    """
    probability = logits.sigmoid()
    positive = -alpha * (1 - probability).pow(gamma) * functional.logsigmoid(logits)
    negative = -(1 - alpha) * probability.pow(gamma) * functional.logsigmoid(-logits)
    return positive, negative


def _in_fixed_order(truth: TrueBoxes, members: Tensor) -> Tensor:
    """The same rows in an order that follows from what the boxes are, so that ties do not hang on the annotator's."""
    keys = torch.cat((truth.channel[members, None].to(truth.boxes), truth.boxes[members]), dim=1)  # (M_s, 10)
    order = np.lexsort(keys.cpu().numpy().T)
    return members[torch.from_numpy(order).to(members.device)]


def _assign(costs: np.ndarray, token: str) -> tuple[Tensor, Tensor]:
    """Rows and columns of the cheapest assignment, rows rising."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("QueryMatching needs `scipy`: pip install 'bev-perception-stack[train]'") from error
    if not np.isfinite(costs).all():
        bad = int((~np.isfinite(costs)).sum())
        raise ValueError(
            f"QueryMatching: costs of sample {token!r} must be finite, got {bad} of {costs.size} that are not: "
            f"the network gave NaN or infinity"
        )
    rows, columns = linear_sum_assignment(costs)
    return torch.from_numpy(rows), torch.from_numpy(columns)
