"""MetaOcc's fusion: sensors weighted cell by cell from their neighbourhood, then attention to all their maps."""

from collections.abc import Mapping, Sequence
from functools import partial, reduce

import torch
from torch import Tensor, nn

from perception.models.fusers._common import (
    LevelFuser,
    LevelInputs,
    LevelwiseFuser,
    MapFinish,
    absence_vectors,
    embeddings,
    masked_softmax,
    shrink,
)
from perception.models.fusers._deformable import DeformableLayer, MemoryBuilder
from perception.models.layers import conv_block


class MetaOccFuser(LevelwiseFuser):
    """Weighs the present sensors locally, and lets the result ask all of them again by deformable attention.

    The auxiliary output `trust/<level>` (B, N, Y, X) holds the local weights, in [0, 1] and adding up to one over the
    sensors that a sample has, in the order of `in_channels`.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.
        width: channels inside; None takes those of the level.
        num_layers: layers of attention.
        num_heads: heads of the attention; must divide `width`.
        num_points: places per head, sensor and resolution.
        value_strides: resolutions in which the maps are read, in cells of the level per side.
        query_stride: cells of the level per side of a cell that asks.

    Raises:
        ValueError: the levels do not fit each other, a number is too small, heads and channels do not fit, or sensors
            times resolutions are more than 16.

    Source:
        Yang et al. 2025, "MetaOcc: Surround-View 4D Radar and Camera Fusion Framework for 3D Occupancy Prediction with
        Dual Training Strategies": local adaptive and global cross-attention fusion. A softmax stands for the weights W
        and 1 - W of two sensors, and the weighted map takes the place of the camera's in the residual connection.
    """

    def __init__(
        self,
        *,
        in_channels: dict[str, dict[str, int]],
        out_channels: dict[str, int],
        width: int | None = None,
        num_layers: int = 1,
        num_heads: int = 4,
        num_points: int = 4,
        value_strides: Sequence[int] = (1,),
        query_stride: int = 2,
    ) -> None:
        if min(num_layers, num_points, query_stride) < 1:
            raise ValueError(
                f"MetaOccFuser: num_layers, num_points and query_stride must be at least 1, "
                f"got {num_layers}, {num_points} and {query_stride}"
            )
        build = partial(
            _MetaOccLevel,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            num_points=num_points,
            value_strides=value_strides,
            query_stride=query_stride,
        )
        super().__init__(in_channels, out_channels, build)


class _MetaOccLevel(LevelFuser):
    def __init__(
        self,
        in_channels: Mapping[str, int],
        out_channels: int,
        *,
        width: int | None,
        num_layers: int,
        num_heads: int,
        num_points: int,
        value_strides: Sequence[int],
        query_stride: int,
    ) -> None:
        super().__init__()
        width = out_channels if width is None else width
        count = len(in_channels)
        self.query_stride = query_stride
        self.embed = embeddings(in_channels, width)
        self.absence = absence_vectors(dict.fromkeys(in_channels, width), for_softmax=True)
        self.weigh = nn.Sequential(conv_block(count * width, width), nn.Conv2d(width, count, 1))
        self.memory = MemoryBuilder(num_sensors=count, width=width, strides=value_strides, num_heads=num_heads)
        self.layers = nn.ModuleList(
            DeformableLayer(
                width=width,
                num_heads=num_heads,
                num_sensors=count,
                num_scales=len(value_strides),
                num_points=num_points,
            )
            for _ in range(num_layers)
        )
        self.finish = MapFinish(width, out_channels, query_stride)

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        embedded = inputs.apply(self.embed)
        logits = self.weigh(torch.cat(embedded.filled(self.absence), dim=1))  # (S, N * W, Y, X) -> (S, N, Y, X)
        trust = masked_softmax(logits, inputs.present)
        terms = [trust[:, [inputs.sensors.index(sensor)]] * embedded.spread(sensor) for sensor in embedded.rows]
        local = reduce(torch.add, terms)  # (S, W, Y, X)
        memory, queries = self.memory(embedded), shrink(local, self.query_stride)
        for layer in self.layers:
            queries, _ = layer(queries, memory, self.query_stride)
        return self.finish(queries, local), {"trust": trust}
