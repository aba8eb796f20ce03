"""Deformable attention from cells of the bird's-eye view to the maps of several sensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.fusers._common import LevelInputs, shrink
from perception.ops.ms_deform_attn import ms_deform_attn

MAX_MAPS = 16  # that the op reads at once

_REGISTER = 16  # float32 numbers in a vector register of 512 bits


@dataclass(frozen=True, kw_only=True)
class SampleMemory:
    """The maps that one sample's queries read, those of one present sensor after another, each in several resolutions.

    Args:
        values: (1, cells, H, d) of A sensors in L resolutions.
        active: (A,) int64 numbers of the present sensors among all N of the level, rising.
    """

    values: Tensor
    active: Tensor


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The maps that queries read, sample by sample: absent sensors take neither room nor time.

    Args:
        samples: of each of the S samples.
        labels: (N, L, H, d), what every reading of a map says beside its value: whose it is, and how coarse.
        sizes: rows and columns of a map in each of the L resolutions.
        strides: cells of the level per side of a cell, for each of the L resolutions.
    """

    samples: tuple[SampleMemory, ...]
    labels: Tensor
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


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
            The memory of every sample: the maps of the sensors that it has.
        """
        cells = {sensor: self._cells(rows) for sensor, rows in inputs.rows.items()}
        pieces: list[list[Tensor]] = [[] for _ in inputs.present]
        for sensor in inputs.sensors:
            if sensor in cells:
                # (R, cells, W); unbound, as gradients of many slices would each be as large as the whole.
                for sample, row in zip(inputs.index[sensor].tolist(), cells[sensor].unbind(0), strict=True):
                    pieces[sample].append(row)
        samples = []
        for parts, present in zip(pieces, inputs.present, strict=True):
            values = torch.cat(parts)  # A x (cells, W) -> (all cells, W)
            wide = values.to(torch.promote_types(values.dtype, torch.float32))  # here, not in every layer
            split = wide.unflatten(1, (self.num_heads, -1))[None]  # (1, all cells, H, d)
            samples.append(SampleMemory(values=split, active=present.nonzero()[:, 0]))
        rows, columns = inputs.size
        return Memory(
            samples=tuple(samples),
            labels=(self.sensor[:, None] + self.scale).unflatten(2, (self.num_heads, -1)),  # (N, L, W) split
            sizes=tuple((-(-rows // stride), -(-columns // stride)) for stride in self.strides),
            strides=self.strides,
        )

    def _cells(self, rows: Tensor) -> Tensor:
        """A map in all resolutions, (R, W, Y, X) -> (R, cells, W)."""
        return torch.cat([shrink(rows, stride).flatten(2).transpose(1, 2) for stride in self.strides], dim=1)


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
        starts, steps = self._starts(memory, size, stride)
        places = torch.addcmul(starts, self.offsets(tokens).float(), steps)  # (S, Q, H N L P 2) in [0, 1]
        logits = self.logits(tokens).float()  # (S, Q, H N L P)
        heard, shares = [], []
        for place, logit, sample in zip(places.unbind(0), logits.unbind(0), memory.samples, strict=True):
            sample_heard, share = self._read_sample(place, logit, sample, memory)
            heard.append(sample_heard)
            shares.append(share)
        return torch.stack(heard), torch.stack(shares)

    def _read_sample(
        self, places: Tensor, logits: Tensor, sample: SampleMemory, memory: Memory
    ) -> tuple[Tensor, Tensor]:
        """Places (Q, H N L P 2) and logits (Q, H N L P) -> what was heard (Q, W) and the sensors' shares (Q, N)."""
        places, logits = places.unflatten(1, (*self.shape, 2)), logits.unflatten(1, self.shape)
        num_sensors, labels = self.shape[1], memory.labels
        if len(sample.active) < num_sensors:  # N -> A
            places, logits = places.index_select(2, sample.active), logits.index_select(2, sample.active)
            labels = labels.index_select(0, sample.active)
        weights = _softmax(logits.flatten(2)).view_as(logits)  # (Q, H, A, L, P)
        sizes = memory.sizes * len(sample.active)
        heard = ms_deform_attn(sample.values, sizes, places.flatten(2, 3)[None], weights.flatten(2, 3)[None])[0]
        shares = weights.sum(4)  # (Q, H, A, L)
        said = torch.einsum("qhal,alhd->qhd", shares.to(labels.dtype), labels)
        share = shares.sum(3).mean(1)  # (Q, A)
        spread = share.new_zeros(len(share), num_sensors).index_copy(1, sample.active, share)
        return heard + said.flatten(1), spread

    def _starts(self, memory: Memory, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
        """Where queries lie on each map, (Q, H N L P 2) in [0, 1], and how far one cell is there, (H N L P 2,).

        Flat, because torch is slow at short dimensions; float32, because bfloat16 cannot tell cells apart.
        """
        heads, sensors, scales, points = self.shape
        device = memory.labels.device
        cells = torch.tensor([(columns, rows) for rows, columns in memory.sizes], device=device, dtype=torch.float32)
        steps = 1 / cells  # (L, 2)
        scale = steps / torch.tensor(memory.strides, device=device)[:, None]
        shape = (heads, sensors, scales, points, 2)
        steps, scale = (part[:, None].expand(shape).flatten() for part in (steps, scale))  # (L, 2) -> (H N L P 2,)
        return query_centers(size, stride, device).repeat(1, len(scale) // 2) * scale, steps


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis; torch takes a multiple of the time where a row does not fill a register."""
    count = logits.shape[-1]
    filled = functional.pad(logits, (0, max(_REGISTER - count, 0)), value=-torch.inf)
    return filled.softmax(-1)[..., :count].contiguous()


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
