"""CMX: the sensors first correct one another, then exchange what they know of the whole scene."""

from collections.abc import Mapping, Sequence
from functools import partial, reduce

import torch
from torch import Tensor, nn

from perception.models.fusers._common import LevelFuser, LevelInputs, LevelwiseFuser, absence_vectors, embeddings

_SHARPNESS = 20.0
"""Of contexts at first: enough for what two sensors say of a scene to differ from no answer at all."""


class CmxFuser(LevelwiseFuser):
    """Rectifies each sensor's map by the others', lets it read the others' context, and mixes the results.

    Both steps are the published ones where a sample has two sensors, but for the context's scale, which is learnt here;
    with more, each sensor takes the mean over the others that are present, and alone it takes nothing.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels, also those inside.
        num_heads: heads of the cross-attention; must divide the channels, into two or more, as a softmax over one
            channel says nothing.
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
            if num_heads < 1 or channels % num_heads or channels < 2 * num_heads or reduction < 1:
                raise ValueError(
                    f"CmxFuser: num_heads must divide the channels of level {level!r} into two or more each and "
                    f"reduction be at least 1, got {num_heads} heads, {channels} channels and reduction {reduction}"
                )
        super().__init__(in_channels, out_channels, partial(_CmxLevel, num_heads=num_heads, reduction=reduction))


class _CmxLevel(LevelFuser):
    """Works on cells (S, Y X, W): what a convolution of one cell is, is a linear map of it."""

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
        filled = inputs.apply(self.embed).filled(self.absence)  # N x (S, W, Y, X)
        cells = [maps.flatten(2).transpose(1, 2) for maps in filled]  # N x (S, Y X, W)
        share = _shares(inputs.present)
        offers = self.rectify(cells, share)
        everything = reduce(torch.add, offers)
        cells = [own + (everything - offer) for own, offer in zip(cells, offers, strict=True)]
        halves, contexts = {}, {}
        for n, sensor in enumerate(inputs.sensors):
            if sensor in inputs.rows:
                halves[sensor], context = self.exchange[sensor](cells[n])
                contexts[sensor] = context * share[:, n, None, None, None]  # (S, H, d, d)
        everything = reduce(torch.add, contexts.values())
        answers = []
        for n, sensor in enumerate(inputs.sensors):
            absent = self.absence[sensor].view(1, 1, -1)
            if sensor in inputs.rows:
                context = everything - contexts[sensor]
                answer = self.exchange[sensor].answer(cells[n], halves[sensor], context)  # type: ignore[operator]
                answers.append(torch.where(inputs.present[:, n, None, None], answer, absent))
            else:
                answers.append(absent.expand_as(cells[n]))
        return self.merge(answers, inputs.size), {}


def _shares(present: Tensor) -> Tensor:
    """How much of each sensor another one takes (S, N): the mean over the others; nothing of an absent one."""
    others = (present.sum(1, keepdim=True) - 1).clamp(min=1)
    return present.float() / others


class _Rectification(nn.Module):
    """What each sensor has to offer to the others: its map times gates per channel plus gates per cell."""

    def __init__(self, sensors: tuple[str, ...], width: int, reduction: int) -> None:
        super().__init__()
        self.sensors = sensors
        hidden, narrow = max(len(sensors) * width // reduction, 1), max(width // reduction, 1)
        # A layer over concatenated maps is the sum of one layer per map.
        self.channel_in = nn.ModuleDict({sensor: nn.Linear(2 * width, hidden) for sensor in sensors})
        self.channel_out = nn.ModuleDict({sensor: nn.Linear(hidden, width) for sensor in sensors})
        self.cell_in = nn.ModuleDict({sensor: nn.Linear(width, narrow) for sensor in sensors})
        self.cell_out = nn.ModuleDict({sensor: nn.Linear(narrow, 1) for sensor in sensors})

    def forward(self, cells: Sequence[Tensor], share: Tensor) -> list[Tensor]:
        """Maps N x (S, Y X, W) and what counts of them (S, N) -> as many maps."""
        named = dict(zip(self.sensors, cells, strict=True))
        pooled = {name: torch.cat((part.mean(1), part.amax(1)), dim=1) for name, part in named.items()}  # (S, 2 W)
        channel = reduce(torch.add, [self.channel_in[name](part) for name, part in pooled.items()]).relu()
        cell = reduce(torch.add, [self.cell_in[name](part) for name, part in named.items()]).relu()
        offers = []
        for n, (name, part) in enumerate(named.items()):
            half = 0.5 * share[:, n, None, None]  # (S, 1, 1)
            channel_gate = half * self.channel_out[name](channel).sigmoid()[:, None]  # (S, W) -> (S, 1, W)
            cell_gate = half * self.cell_out[name](cell).sigmoid()  # (S, Y X, 1)
            offers.append((channel_gate + cell_gate) * part)
        return offers


class _Exchange(nn.Module):
    """Attention of one sensor's cells to the context of others: linear in the number of cells.

    The published order of the matrix products is changed where that leaves their result and makes them small: keys,
    values and what is heard are never laid out for all cells.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.split = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(inplace=True))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.join = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.sharpness = nn.Parameter(torch.full((num_heads, 1, 1), _SHARPNESS).log())

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Splits cells (S, Y X, W) into what stays and what asks (S, Y X, 2 W), and sums up their context (S, H, d, d).

        The context says how the channels of keys and values go together over the scene: their mean product over the
        cells, not the sum, as the softmax must not harden when maps grow; how sharp it is, each head learns.
        """
        halves = self.split(cells)
        even = halves.chunk(2, dim=2)[1] * halves.shape[1] ** -0.5  # first, as the sum over cells overflows in float16
        together = (even.transpose(1, 2) @ even)[:, None]  # (S, 1, W, W)
        key, value = (layer.weight.unflatten(0, (self.num_heads, -1)) for layer in (self.key, self.value))  # (H, d, W)
        return halves, (self.sharpness.exp() * (key @ together @ value.transpose(1, 2))).softmax(2)

    def answer(self, cells: Tensor, halves: Tensor, context: Tensor) -> Tensor:
        """Joins cells (S, Y X, W), what stays of them and what their questions hear of a context (S, H, d, d)."""
        stay, hear = self.join.weight.T.chunk(2)  # (W, W) each
        hear = (context @ hear.unflatten(0, (self.num_heads, -1))).flatten(1, 2)  # (S, H, d, W) -> (S, W, W)
        weight = torch.cat((stay.expand_as(hear), hear), dim=1)  # (S, 2 W, W)
        return self.norm(cells + (halves @ weight + self.join.bias))


class _Merge(nn.Module):
    """Mixes the sensors' channels, with a look at the neighbouring cells on the way."""

    def __init__(self, sensors: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.mix = nn.ModuleDict({sensor: nn.Linear(width, 2 * width) for sensor in sensors})
        self.look = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.norm = nn.BatchNorm2d(width)

    def forward(self, cells: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Cells N x (S, Y X, W) -> one map (S, W, Y, X)."""
        mixed = reduce(torch.add, [mix(part) for mix, part in zip(self.mix.values(), cells, strict=True)])
        straight, embedded = mixed.transpose(1, 2).unflatten(2, size).chunk(2, dim=1)  # (S, W, Y, X) each
        return self.norm(straight + self.look(embedded))
