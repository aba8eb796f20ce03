"""CMX: the sensors first correct one another, then exchange what they know of the whole scene."""

from collections.abc import Mapping
from functools import partial, reduce

import torch
from torch import Tensor, nn

from perception.models.fusers._common import LevelFuser, LevelInputs, LevelwiseFuser, absence_vectors, embeddings


class CmxFuser(LevelwiseFuser):
    """Rectifies each sensor's map by the others', lets it read the others' context, and mixes the results.

    Both steps are the published ones where a sample has two sensors; with more, each sensor takes the mean over the
    others that are present, and alone it takes nothing.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels, also those inside.
        num_heads: heads of the cross-attention; must divide the channels.
        reduction: channels of a sensor over those of the rectification's hidden layers.

    Raises:
        ValueError: the two do not name the same levels, a level has no sensor, or heads and channels do not fit.

    Source:
        Zhang et al. 2023, "CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation with Transformers": its feature
        rectification module (CM-FRM) and feature fusion module (FFM).
    """

    def __init__(
        self,
        *,
        in_channels: dict[str, dict[str, int]],
        out_channels: dict[str, int],
        num_heads: int = 8,
        reduction: int = 1,
    ) -> None:
        for level, channels in out_channels.items():
            if num_heads < 1 or channels % num_heads or reduction < 1:
                raise ValueError(
                    f"CmxFuser: num_heads must divide the channels of level {level!r} and reduction be at least 1, "
                    f"got {num_heads} heads, {channels} channels and reduction {reduction}"
                )
        super().__init__(in_channels, out_channels, partial(_CmxLevel, num_heads=num_heads, reduction=reduction))


class _CmxLevel(LevelFuser):
    def __init__(self, in_channels: Mapping[str, int], out_channels: int, *, num_heads: int, reduction: int) -> None:
        super().__init__()
        width = out_channels
        self.embed = embeddings(in_channels, width)
        self.absence = absence_vectors(dict.fromkeys(in_channels, width))
        self.rectify = _Rectification(tuple(in_channels), width, reduction)
        self.exchange = nn.ModuleDict({sensor: _Exchange(width, num_heads) for sensor in in_channels})
        self.merge = _Merge(tuple(in_channels), width)

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        maps = torch.stack(inputs.apply(self.embed).filled(self.absence), dim=1)  # N x (S, W, Y, X) -> (S, N, W, Y, X)
        present = inputs.present[:, :, None, None, None]  # (S, N, 1, 1, 1)
        active = [(n, sensor) for n, sensor in enumerate(inputs.sensors) if sensor in inputs.rows]
        maps = maps + _others(self.rectify(maps) * present, present)
        asked = {sensor: self.exchange[sensor].read(maps[:, n]) for n, sensor in active}  # type: ignore[operator]
        contexts = {sensor: self.exchange[sensor].context(ask) for sensor, (_, ask) in asked.items()}  # type: ignore[operator]
        nothing = torch.zeros_like(next(iter(contexts.values())))
        context = torch.stack([contexts.get(sensor, nothing) for sensor in inputs.sensors], dim=1)
        context = _others(context * present, present)  # (S, N, H, d, d)
        results = {sensor: self.absence[sensor].expand_as(maps[:, 0]) for sensor in inputs.sensors}
        for n, sensor in active:
            answer = self.exchange[sensor].answer(maps[:, n], *asked[sensor], context[:, n])  # type: ignore[operator]
            results[sensor] = torch.where(present[:, n], answer, results[sensor])
        return self.merge(results), {}


def _others(values: Tensor, present: Tensor) -> Tensor:
    """The mean over the other present sensors; `values` (S, N, ...) are zero where absent."""
    count = (present.sum(1, keepdim=True) - 1).clamp(min=1)
    return (values.sum(1, keepdim=True) - values) / count


class _Rectification(nn.Module):
    """What each sensor has to offer to the others: its map times gates per channel plus gates per cell."""

    def __init__(self, sensors: tuple[str, ...], width: int, reduction: int) -> None:
        super().__init__()
        self.sensors = sensors
        hidden = max(len(sensors) * width // reduction, 1)
        # A layer over concatenated maps is the sum of one layer per map.
        self.channel_in = nn.ModuleDict({sensor: nn.Linear(2 * width, hidden) for sensor in sensors})
        self.channel_out = nn.ModuleDict({sensor: nn.Linear(hidden, width) for sensor in sensors})
        self.cell_in = nn.ModuleDict({sensor: nn.Conv2d(width, max(width // reduction, 1), 1) for sensor in sensors})
        self.cell_out = nn.ModuleDict({sensor: nn.Conv2d(max(width // reduction, 1), 1, 1) for sensor in sensors})

    def forward(self, maps: Tensor) -> Tensor:
        """(S, N, W, Y, X) -> the same shape."""
        pooled = torch.cat((maps.mean((-2, -1)), maps.amax((-2, -1))), dim=2)  # (S, N, 2 W)
        named = list(enumerate(self.sensors))
        channel = reduce(torch.add, [self.channel_in[sensor](pooled[:, n]) for n, sensor in named]).relu()
        cell = reduce(torch.add, [self.cell_in[sensor](maps[:, n]) for n, sensor in named]).relu()
        offers = []
        for n, sensor in named:
            channel_gate = self.channel_out[sensor](channel).sigmoid()[:, :, None, None]  # (S, W) -> (S, W, 1, 1)
            cell_gate = self.cell_out[sensor](cell).sigmoid()  # (S, 1, Y, X)
            offers.append(0.5 * (channel_gate + cell_gate) * maps[:, n])
        return torch.stack(offers, dim=1)


class _Exchange(nn.Module):
    """Attention of one sensor's cells to the context of others: linear in the number of cells."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.split = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(inplace=True))
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.join = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def read(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(S, W, Y, X) -> what stays and what asks, (S, Y X, W) each."""
        stay, ask = self.split(maps.flatten(2).transpose(1, 2)).chunk(2, dim=2)
        return stay, ask

    def context(self, ask: Tensor) -> Tensor:
        """(S, Y X, W) -> (S, H, d, d): how the channels of each head go together over the scene."""
        key, value = self.key_value(ask).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (S, H, Y X, d)
        # The mean over the cells, not the sum: the softmax must not harden as maps grow.
        return (key.transpose(2, 3) @ value / key.shape[2]).softmax(2)

    def answer(self, maps: Tensor, stay: Tensor, ask: Tensor, context: Tensor) -> Tensor:
        """Reads the context (S, H, d, d) and joins the result with the maps (S, W, Y, X)."""
        heads = ask.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (S, H, Y X, d)
        heard = (heads @ context).transpose(1, 2).flatten(2)  # (S, Y X, W)
        joined = self.norm(maps.flatten(2).transpose(1, 2) + self.join(torch.cat((stay, heard), dim=2)))
        return joined.transpose(1, 2).unflatten(2, maps.shape[-2:])  # (S, Y X, W) -> (S, W, Y, X)


class _Merge(nn.Module):
    """Mixes the sensors' channels, with a look at the neighbouring cells on the way."""

    def __init__(self, sensors: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.straight = nn.ModuleDict({sensor: nn.Conv2d(width, width, 1, bias=False) for sensor in sensors})
        self.embed = nn.ModuleDict({sensor: nn.Conv2d(width, width, 1) for sensor in sensors})
        self.look = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.norm = nn.BatchNorm2d(width)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Maps (S, W, Y, X) by sensor -> one."""
        straight = reduce(torch.add, [self.straight[sensor](part) for sensor, part in maps.items()])
        embedded = reduce(torch.add, [self.embed[sensor](part) for sensor, part in maps.items()])
        return self.norm(straight + self.look(embedded))
