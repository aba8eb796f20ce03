"""Deformable cross-modal attention: cells of the bird's-eye view choose where to read which sensor's map."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from perception.models.fusers._common import (
    LevelFuser,
    LevelInputs,
    LevelwiseFuser,
    absence_vectors,
    embeddings,
    shrink,
    stretch,
)
from perception.models.fusers._deformable import DeformableLayer, MemoryBuilder, query_centers

_NUM_WAVES = 6


class DeformableFuser(LevelwiseFuser):
    """Adds to a convolution over all sensors what queries on a grid find by deformable attention to their maps.

    A query starts as the mean of what the present sensors say in its cell, a learned vector for each absent one, and
    its position. In every layer it reads, per head, sensor and resolution, a few places that it chooses, which makes
    up for sensors that do not agree on where things are; its weights are a softmax over the present sensors. The
    queries start without a say: a fuser without training is the convolution alone, which mixes what lies side by side
    in full resolution, with learned vectors in place of absent sensors. The auxiliary output `trust/<level>`
    (B, N, Y, X) is each sensor's share of the last layer's attention, in the order of `in_channels`.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.
        width: channels of queries and of the maps that they read; None takes those of the level.
        num_layers: layers of attention.
        num_heads: heads of the attention; must divide `width`.
        num_points: places per head, sensor and resolution.
        value_strides: resolutions in which the maps are read, in cells of the level per side.
        query_stride: cells of the level per side of a query's cell. Coarser queries cost less; what is finer goes past
            them.

    Raises:
        ValueError: the levels do not fit each other, a number is too small, heads and channels do not fit, or sensors
            times resolutions are more than 16.

    Source:
        Zhu et al. 2021, "Deformable DETR" (multi-scale deformable attention), and Li et al. 2022, "BEVFormer" (queries
        on a grid of the bird's-eye view); the maps of several sensors take the place of the scales of one picture.
    """

    def __init__(
        self,
        *,
        in_channels: dict[str, dict[str, int]],
        out_channels: dict[str, int],
        width: int | None = None,
        num_layers: int = 3,
        num_heads: int = 4,
        num_points: int = 2,
        value_strides: Sequence[int] = (1, 4),
        query_stride: int = 2,
    ) -> None:
        if min(num_layers, num_points, query_stride) < 1:
            raise ValueError(
                f"DeformableFuser: num_layers, num_points and query_stride must be at least 1, "
                f"got {num_layers}, {num_points} and {query_stride}"
            )
        build = partial(
            _DeformableLevel,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            num_points=num_points,
            value_strides=value_strides,
            query_stride=query_stride,
        )
        super().__init__(in_channels, out_channels, build)


class _DeformableLevel(LevelFuser):
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
        self.query_stride = query_stride
        self.embed = embeddings(in_channels, width)
        self.absence = absence_vectors(in_channels)
        self.unheard = absence_vectors(dict.fromkeys(in_channels, width))
        self.position = nn.Linear(4 * _NUM_WAVES, width)
        self.memory = MemoryBuilder(
            num_sensors=len(in_channels), width=width, strides=value_strides, num_heads=num_heads
        )
        self.layers = nn.ModuleList(
            DeformableLayer(
                width=width,
                num_heads=num_heads,
                num_sensors=len(in_channels),
                num_scales=len(value_strides),
                num_points=num_points,
            )
            for _ in range(num_layers)
        )
        self.mix = nn.Conv2d(sum(in_channels.values()), out_channels, 3, padding=1, bias=False)
        self.answer = nn.Conv2d(width, out_channels, 1)
        nn.init.zeros_(self.answer.weight)
        self.finish = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        detail = inputs.convolved(self.mix.weight, self.absence)  # (S, out, Y, X)
        queries, share = self._ask(inputs)
        answer, trust = (stretch(part, self.query_stride, inputs.size) for part in (self.answer(queries), share))
        return self.finish(detail + answer.to(detail.dtype)), {"trust": trust}

    def _ask(self, inputs: LevelInputs) -> tuple[Tensor, Tensor]:
        """Queries after all layers (S, W, y, x), and each sensor's share of the last one's attention (S, N, y, x)."""
        embedded = inputs.apply(self.embed)
        memory, mean = self.memory(embedded), embedded.mean()
        vectors = torch.stack(list(self.unheard.values()))  # (N, W, 1, 1)
        unheard = torch.einsum("sn,nwyx->swyx", (~inputs.present).to(vectors.dtype), vectors)
        queries = shrink(mean, self.query_stride) + unheard  # (S, W, y, x)
        size = (queries.shape[-2], queries.shape[-1])
        waves = position_waves(size, self.query_stride, inputs.size, queries.device)  # (y, x, 4 * waves)
        queries = queries + self.position(waves).permute(2, 0, 1)
        for layer in self.layers:
            queries, share = layer(queries, memory, self.query_stride)
        return queries, share


def position_waves(size: tuple[int, int], stride: int, level_size: tuple[int, int], device: torch.device) -> Tensor:
    """Describes where coarse cells lie on a map by sines and cosines of octaves.

    Args:
        size: rows and columns of the coarse cells.
        stride: cells of the map per side of a coarse cell.
        level_size: rows and columns of the map.
        device: of the result.

    Returns:
        (rows, columns, 24) in [-1, 1].
    """
    extent = torch.tensor((level_size[1], level_size[0]), device=device)
    place = query_centers(size, stride, device) / extent  # (Q, 2) in [0, 1]
    octaves = math.pi * 2.0 ** torch.arange(_NUM_WAVES, device=device)
    phases = (place[:, :, None] * octaves).flatten(1)  # (Q, 2 * waves)
    return torch.cat((phases.sin(), phases.cos()), dim=1).unflatten(0, size)
