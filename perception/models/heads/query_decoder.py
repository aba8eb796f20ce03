"""A transformer decoder over object queries: they look at one another, then at the map."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from perception.ops.ms_deform_attn import ms_deform_attn

_NUM_WAVES = 6


@dataclass(frozen=True, kw_only=True)
class QueryDecoderSettings:
    """Sizes of the decoder.

    Args:
        num_layers: how often the queries look.
        num_heads: heads of both attentions; must divide the channels.
        feed_channels: channels inside the feed-forward networks.
        attention: how queries read the map: "full" compares with every cell; "deformable" reads a few places around
            the query, at a cost that does not grow with the map.
        num_points: "deformable": places per head.

    Raises:
        ValueError: a number is below 1, or the attention is unknown.
    """

    num_layers: int = 1
    num_heads: int = 8
    feed_channels: int = 256
    attention: Literal["full", "deformable"] = "full"
    num_points: int = 4

    def __post_init__(self) -> None:
        if min(self.num_layers, self.num_heads, self.feed_channels, self.num_points) < 1:
            raise ValueError(f"QueryDecoderSettings: the numbers must be at least 1, got {self}")
        if self.attention not in _ATTENTIONS:
            raise ValueError(f'QueryDecoderSettings: attention must be "full" or "deformable", got {self.attention!r}')


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The map as queries read it.

    Args:
        cells: (B, Y X, C) features, row by row.
        places: (Y X, C), what tells where each cell lies.
        size: rows and columns.
    """

    cells: Tensor
    places: Tensor
    size: tuple[int, int]


class QueryDecoder(nn.Module):
    """The layers, and the embedding of places that queries and cells share.

    Args:
        channels: of queries and map.
        settings: sizes.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, settings: QueryDecoderSettings) -> None:
        super().__init__()
        if channels % settings.num_heads:
            raise ValueError(
                f"QueryDecoder: num_heads must divide the channels, got {settings.num_heads} and {channels}"
            )
        self.embedding = nn.Sequential(
            nn.Linear(4 * _NUM_WAVES, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.layers = nn.ModuleList(QueryLayer(channels, settings) for _ in range(settings.num_layers))

    def memory(self, bev: Tensor) -> Memory:
        """Lays the map out.

        Args:
            bev: (B, C, Y, X).

        Returns:
            What the layers read.
        """
        rows, columns = bev.shape[2:]
        y, x = torch.meshgrid(
            (torch.arange(rows, device=bev.device) + 0.5) / rows,
            (torch.arange(columns, device=bev.device) + 0.5) / columns,
            indexing="ij",
        )
        places = self.embed(torch.stack((x, y), dim=-1).flatten(0, 1))
        return Memory(cells=bev.flatten(2).transpose(1, 2), places=places, size=(rows, columns))

    def embed(self, places: Tensor) -> Tensor:
        """Describes places by sines and cosines of octaves, counted from the middle of the map.

        Args:
            places: (..., 2) x y, 0 to 1 across the map.

        Returns:
            (..., C).
        """
        phases = (2 * places.float() - 1)[..., None] * (math.pi / 2 * 2.0 ** torch.arange(_NUM_WAVES)).to(places.device)
        phases = phases.flatten(-2)  # (..., 2, W) -> (..., 2 W)
        embedded: Tensor = self.embedding(torch.cat((phases.sin(), phases.cos()), dim=-1))
        return embedded


class QueryLayer(nn.Module):
    """Self-attention, attention to the map and a feed-forward network, each added and normalised.

    Args:
        channels: of queries and map.
        settings: sizes.

    Source:
        Carion et al. 2020, "DETR", supplementary A.3; Bai et al. 2022, "TransFusion", section 3.2.
    """

    def __init__(self, channels: int, settings: QueryDecoderSettings) -> None:
        super().__init__()
        self.among = nn.MultiheadAttention(channels, settings.num_heads, batch_first=True)
        self.cross = _ATTENTIONS[settings.attention](channels, settings)
        self.feed = nn.Sequential(
            nn.Linear(channels, settings.feed_channels),
            nn.ReLU(inplace=True),
            nn.Linear(settings.feed_channels, channels),
        )
        self.after_among, self.after_cross, self.after_feed = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, queries: Tensor, embedded: Tensor, places: Tensor, memory: Memory) -> Tensor:
        """Refines the queries.

        Args:
            queries: (B, Q, C).
            embedded: (B, Q, C), where they lie, as `QueryDecoder.embed` says it.
            places: (B, Q, 2) float32 x y, the same in numbers from 0 to 1 across the map.
            memory: the map.

        Returns:
            (B, Q, C).
        """
        placed = queries + embedded
        heard, _ = self.among(placed, placed, queries, need_weights=False)
        queries = self.after_among(queries + heard)
        queries = self.after_cross(queries + self.cross(queries + embedded, places, memory))
        refined: Tensor = self.after_feed(queries + self.feed(queries))
        return refined


class FullAttention(nn.Module):
    """Compares every query with every cell.

    Args:
        channels: of queries and map.
        settings: sizes.
    """

    def __init__(self, channels: int, settings: QueryDecoderSettings) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, settings.num_heads, batch_first=True)

    def forward(self, queries: Tensor, places: Tensor, memory: Memory) -> Tensor:
        """Reads the map.

        Args:
            queries: (B, Q, C), which say where they lie.
            places: not needed.
            memory: the map.

        Returns:
            (B, Q, C).
        """
        heard: Tensor = self.attention(queries, memory.cells + memory.places, memory.cells, need_weights=False)[0]
        return heard


class DeformableAttention(nn.Module):
    """Reads a few places around each query that follow from what it knows.

    Args:
        channels: of queries and map.
        settings: sizes.

    Source:
        Zhu et al. 2021, "Deformable DETR", section 4.1.
    """

    def __init__(self, channels: int, settings: QueryDecoderSettings) -> None:
        super().__init__()
        self.shape = (settings.num_heads, 1, settings.num_points)  # one map
        count = math.prod(self.shape)
        self.values = nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, 2 * count)
        self.weights = nn.Linear(channels, count)
        self.join = nn.Linear(channels, channels)
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        """Starts with even weights on rings of places around the query, in a direction per head."""
        heads, _, points = self.shape
        angle = 2 * math.pi * torch.arange(heads) / heads
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)  # (H, 2) x y
        ring = direction[:, None] * torch.arange(1, points + 1)[:, None]  # (H, P, 2)
        self.offsets.weight.zero_()
        self.offsets.bias.copy_(ring.flatten())
        self.weights.weight.zero_()
        self.weights.bias.zero_()

    def forward(self, queries: Tensor, places: Tensor, memory: Memory) -> Tensor:
        """Reads the map.

        Args:
            queries: (B, Q, C).
            places: (B, Q, 2) float32 x y, where they lie, 0 to 1 across the map.
            memory: the map.

        Returns:
            (B, Q, C).
        """
        rows, columns = memory.size
        values = self.values(memory.cells).unflatten(2, (self.shape[0], -1))  # (B, Y X, H, C / H)
        offsets = self.offsets(queries).float().unflatten(2, (*self.shape, 2))  # (B, Q, H, 1, P, 2) in cells
        weights = self.weights(queries).float().unflatten(2, self.shape).softmax(4)  # (B, Q, H, 1, P)
        locations = places[:, :, None, None, None] + offsets / offsets.new_tensor((columns, rows))
        joined: Tensor = self.join(ms_deform_attn(values, [memory.size], locations, weights))
        return joined


_ATTENTIONS = {"full": FullAttention, "deformable": DeformableAttention}
