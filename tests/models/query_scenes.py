"""Made-up outputs of the query network, and a small head, for its tests."""

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.heads.centerpoint_targets import CenterPointTargets, annotated_samples, boxes_on_grid
from perception.models.heads.query import QueryHead
from perception.models.heads.query_decoder import QueryDecoderSettings
from perception.models.heads.query_output import QueryOutput
from perception.models.heads.query_proposals import QueryProposals
from perception.models.losses.query import QueryTargets
from perception.structures import Batch, BevMap, Boxes3D, FusedFeatures
from tests.models.scenes import CLASSES, make_batch, make_lidar

# Not square, so that rows and columns cannot be taken for one another.
GRID = Grid((-16.0, 16.0), (-9.6, 9.6), (-5.0, 3.0), (0.8, 0.8, 8.0))  # 24 x 40 cells
NAMES = ("pedestrian", "car", "truck")  # another order than the detector's


def batch_with(boxes: list[Boxes3D | None], ego2aug: Tensor | None = None) -> Batch:
    return make_batch(None, make_lidar([0] * len(boxes)), boxes, ego2aug)


def targets_of(batch: Batch) -> QueryTargets:
    truth = boxes_on_grid(batch, CLASSES, NAMES, GRID)
    heatmap = CenterPointTargets().heatmap(truth, len(batch), len(NAMES), GRID)
    return QueryTargets(heatmap=heatmap, annotated=annotated_samples(batch), truth=truth, tokens=batch.tokens)


def regression_of(boxes: Tensor) -> Tensor:
    """(..., 9) boxes -> (..., 10) what a query says that means them."""
    cells = (boxes[..., :2] - boxes.new_tensor(GRID.origin_m[:2])) / boxes.new_tensor(GRID.cell_m[:2])
    yaw = boxes[..., 6:7]
    return torch.cat((cells, boxes[..., 2:3], boxes[..., 3:6].log(), yaw.sin(), yaw.cos(), boxes[..., 7:]), dim=-1)


def output_of(boxes: Tensor, logits: Tensor, channels: Tensor, peak_scores: Tensor | None = None) -> QueryOutput:
    """One layer whose queries mean (B, Q, 9) boxes with (B, Q, K) logits."""
    return QueryOutput(
        heatmap=torch.zeros(len(boxes), len(NAMES), GRID.num_y, GRID.num_x),
        channels=channels,
        peak_scores=torch.ones(channels.shape) if peak_scores is None else peak_scores,
        logits=logits[None],
        regression=regression_of(boxes)[None],
        grid=GRID,
        class_names=NAMES,
    )


def box(x: float, y: float, length: float = 4.0, width: float = 2.0, yaw: float = 0.0, z: float = 0.5) -> list[float]:
    return [x, y, z, length, width, 1.5, yaw, 0.0, 0.0]


def make_head(
    attention: str = "deformable", num_layers: int = 2, num_queries: int = 20, **changes: object
) -> QueryHead:
    torch.manual_seed(1)
    return QueryHead(
        in_channels=6,
        class_names=list(NAMES),
        channels=16,
        proposals=QueryProposals(num_queries=num_queries, single_cell_classes=("pedestrian",)),
        decoder=QueryDecoderSettings(
            num_layers=num_layers, num_heads=2, feed_channels=32, attention=attention, num_points=3
        ),
        **changes,
    )


def made_up_features(batch_size: int = 2) -> FusedFeatures:
    torch.manual_seed(2)
    features = torch.randn(batch_size, 6, GRID.num_y, GRID.num_x)
    valid = torch.ones(batch_size, 1, GRID.num_y, GRID.num_x, dtype=torch.bool)
    return FusedFeatures(bev={"main": BevMap(features=features, validity=valid, grid=GRID)})
