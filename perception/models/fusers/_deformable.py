"""Deformable attention from cells of the bird's-eye view to the maps of several sensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.fusers._common import LevelInputs, shrink
from perception.models.layers import scatter_samples
from perception.ops.ms_deform_attn import ms_deform_attn

MAX_MAPS = 16  # that the op reads at once

_REGISTER = 16  # float32 numbers in a vector register of 512 bits
_AWAY = -4.0  # maps' widths to the left and above, where nothing is


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The maps that queries read, those of one sensor after another, each in several resolutions.

    Args:
        values: (S, total cells, H, d), zeros where a sensor is absent.
        labels: (A, L, H, d), what every reading of a map says beside its value: whose it is, and how coarse.
        sizes: rows and columns of each of the A * L maps: of A sensors, in L resolutions.
        strides: cells of the level per side of a cell, for each of the L resolutions.
        active: (A,) int64 numbers of the sensors among all N.
        present: (S, A) bool.
        num_sensors: N.
    """

    values: Tensor
    labels: Tensor
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    active: Tensor
    present: Tensor
    num_sensors: int


class MemoryBuilder(nn.Module):
    """Lays out the sensors' maps for reading; learned vectors tell sensors and resolutions apart.

    Args:
        num_sensors: sensors N of the level.
        width: channels of the maps.
        strides: the resolutions, in cells of the level per side of a cell.
        num_heads: heads that share the channels.

    Raises:
        ValueError: heads and channels do not fit, a stride is below 1, or there are more maps than the op reads.
    """

    def __init__(self, *, num_sensors: int, width: int, strides: Sequence[int], num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"MemoryBuilder: num_heads must divide the channels, got {num_heads} and {width}")
        if not strides or min(strides) < 1 or num_sensors * len(strides) > MAX_MAPS:
            raise ValueError(
                f"MemoryBuilder: strides must be at least 1 and, times {num_sensors} sensors, at most {MAX_MAPS} maps, "
                f"got {list(strides)}"
            )
        self.strides = tuple(strides)
        self.num_heads = num_heads
        self.sensor = nn.Parameter(0.02 * torch.randn(num_sensors, width))
        self.scale = nn.Parameter(0.02 * torch.randn(len(self.strides), width))

    def forward(self, inputs: LevelInputs) -> Memory:
        """Lays the maps out.

        Args:
            inputs: maps of `width` channels.

        Returns:
            The memory of the sensors that some sample has.
        """
        values, sizes = [], []
        active = [number for number, sensor in enumerate(inputs.sensors) if sensor in inputs.rows]
        for number in active:
            rows, index = inputs.rows[inputs.sensors[number]], inputs.index[inputs.sensors[number]]
            for stride in self.strides:
                coarse = shrink(rows, stride)
                cells = coarse.flatten(2).transpose(1, 2)  # (R, W, Y, X) -> (R, Y X, W)
                values.append(scatter_samples(cells, index, len(inputs.present)))  # (S, Y X, W)
                sizes.append((coarse.shape[-2], coarse.shape[-1]))
        together = torch.cat(values, dim=1)  # (S, cells, W)
        wide = together.to(torch.promote_types(together.dtype, torch.float32))  # once, not in every layer
        numbers = torch.tensor(active, device=inputs.present.device)
        return Memory(
            values=wide.unflatten(2, (self.num_heads, -1)),  # (S, cells, W) -> (S, cells, H, d)
            labels=(self.sensor[numbers, None] + self.scale).unflatten(2, (self.num_heads, -1)),  # (A, L, W) split
            sizes=tuple(sizes),
            strides=self.strides,
            active=numbers,
            present=inputs.present[:, numbers],
            num_sensors=len(inputs.sensors),
        )


class DeformableLayer(nn.Module):
    """Lets queries on a grid read the sensors' maps at learned places, then look at one another nearby.

    Each query has, per head, sensor and resolution, `num_points` offsets and weights of its own. The weights are one
    softmax over everything that the sample's present sensors offer.

    Args:
        width: channels of queries and maps.
        num_heads: heads that share them.
        num_sensors: sensors N of the level.
        num_scales: resolutions L of each sensor's map.
        num_points: places P per head, sensor and resolution.
    """

    def __init__(self, *, width: int, num_heads: int, num_sensors: int, num_scales: int, num_points: int) -> None:
        super().__init__()
        self.shape = (num_heads, num_sensors, num_scales, num_points)
        count = math.prod(self.shape)
        self.norm = nn.LayerNorm(width)
        self.offsets = nn.Linear(width, 2 * count)
        self.logits = nn.Linear(width, count)
        self.join = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.look = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width), nn.GELU())
        self.narrow = nn.Linear(2 * width, width)
        self._reset()

    def _reset(self) -> None:
        """Starts with even weights on rings of places around the query, in a direction per head."""
        heads, sensors, scales, points = self.shape
        angle = 2 * math.pi * torch.arange(heads) / heads
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)  # (H, 2) x y
        ring = direction[:, None] * torch.arange(1, points + 1)[:, None]  # (H, P, 2)
        with torch.no_grad():
            self.offsets.weight.zero_()
            self.offsets.bias.copy_(ring[:, None, None].expand(-1, sensors, scales, -1, -1).flatten())
            self.logits.weight.zero_()
            self.logits.bias.zero_()

    def forward(self, queries: Tensor, memory: Memory, stride: int) -> tuple[Tensor, Tensor]:
        """Refines the queries.

        Args:
            queries: (S, W, y, x).
            memory: what they read.
            stride: cells of the level per side of a query's cell.

        Returns:
            Queries of the same shape, and each sensor's share of the attention (S, N, y, x), which adds up to one.
        """
        size = (queries.shape[-2], queries.shape[-1])
        tokens = queries.flatten(2).transpose(1, 2)  # (S, W, y, x) -> (S, Q, W)
        heard, share = self.read(self.norm(tokens), memory, size, stride)
        tokens = tokens + self.join(heard)
        wide = self.widen(self.feed_norm(tokens)).transpose(1, 2).unflatten(2, size)  # (S, 2 W, y, x)
        tokens = tokens + self.narrow(self.look(wide).flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, size), share.transpose(1, 2).unflatten(2, size)

    def read(self, tokens: Tensor, memory: Memory, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
        """Reads the maps.

        Args:
            tokens: (S, Q, W) queries, row by row.
            memory: what they read.
            size: rows and columns of the queries; their product is Q.
            stride: cells of the level per side of a query's cell.

        Returns:
            What the heads heard (S, Q, W), and each sensor's share of the attention (S, Q, N).
        """
        offsets = self.offsets(tokens).float()  # (S, Q, H N L P 2)
        logits = self.logits(tokens).float()  # (S, Q, H N L P)
        if len(memory.active) < memory.num_sensors:
            offsets = offsets.unflatten(2, (*self.shape, 2))[:, :, :, memory.active].flatten(2)  # N -> A
            logits = logits.unflatten(2, self.shape)[:, :, :, memory.active].flatten(2)
        heads, _, scales, points = self.shape
        maps = (heads, len(memory.active), scales, points)
        weights = self._weights(logits, memory).unflatten(3, maps[1:])  # (S, Q, H, A, L, P)
        starts, steps = self._starts(memory, size, stride)
        places = torch.addcmul(starts, offsets, steps).unflatten(2, (*maps, 2))  # in [0, 1]
        heard = ms_deform_attn(memory.values, memory.sizes, places.flatten(3, 4), weights.flatten(3, 4))
        shares = weights.sum(5)  # (S, Q, H, A, L)
        said = torch.einsum("sqhal,alhd->sqhd", shares.to(memory.labels.dtype), memory.labels)  # (S, Q, H, d)
        share = shares.sum(4).mean(2)  # (S, Q, A)
        spread = share.new_zeros(*share.shape[:2], memory.num_sensors).index_copy(2, memory.active, share)
        return heard + said.flatten(2), spread

    def _weights(self, logits: Tensor, memory: Memory) -> Tensor:
        """Logits (S, Q, H A L P) -> weights (S, Q, H, A L P) that add up to one, zero for absent sensors."""
        heads, _, scales, points = self.shape
        absent = torch.zeros(memory.present.shape, device=logits.device).masked_fill(~memory.present, -torch.inf)
        absent = absent.repeat_interleave(scales * points, dim=1)  # (S, A) -> (S, A L P)
        logits = logits.unflatten(2, (heads, -1)) + absent[:, None, None]
        count = logits.shape[3]
        # Torch's softmax takes a multiple of the time where a row does not fill a register.
        filled = functional.pad(logits, (0, max(_REGISTER - count, 0)), value=-torch.inf)
        return filled.softmax(3)[..., :count]

    def _starts(self, memory: Memory, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
        """Where queries lie on each map, (Q, H A L P 2) in [0, 1], and how far one cell is there, (H A L P 2,).

        Where sensors are absent the places are per sample, (S, Q, H A L P 2), and lie outside the maps of absent ones,
        as what is outside costs next to nothing. Flat, because torch is slow at short dimensions; float32, because
        bfloat16 cannot tell cells apart.
        """
        heads, _, scales, points = self.shape
        device = memory.values.device
        cells = torch.tensor([(columns, rows) for rows, columns in memory.sizes], device=device, dtype=torch.float32)
        steps = (1 / cells).view(-1, scales, 1, 2)  # (A L, 2) -> (A, L, 1, 2)
        scale = steps / torch.tensor(memory.strides, device=device)[:, None, None]
        shape = (heads, len(steps), scales, points, 2)
        steps, scale = steps.expand(shape).flatten(), scale.expand(shape).flatten()  # (A, L, 1, 2) -> (H A L P 2,)
        starts = query_centers(size, stride, device).repeat(1, len(scale) // 2) * scale
        if not bool(memory.present.all()):
            away = torch.where(memory.present, 0.0, _AWAY)[:, None, :, None].expand(-1, heads, -1, 2 * scales * points)
            starts = starts + away.flatten(1)[:, None]  # (S, A) -> (S, 1, H A L P 2) -> (S, Q, H A L P 2)
        return starts, steps


def query_centers(size: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """Gives the centres of coarse cells in cells of the level, counted from the corner of the map.

    Args:
        size: rows and columns of the coarse cells.
        stride: cells of the level per side.
        device: of the result.

    Returns:
        (Q, 2) x and y, row by row.
    """
    rows = (torch.arange(size[0], device=device) + 0.5) * stride
    columns = (torch.arange(size[1], device=device) + 0.5) * stride
    y, x = torch.meshgrid(rows, columns, indexing="ij")  # (Y, X) each
    return torch.stack((x, y), dim=-1).flatten(0, 1)
