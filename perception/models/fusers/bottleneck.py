"""Attention bottlenecks (MBT): the sensors' transformers exchange what they know through a few tokens alone."""

from collections.abc import Mapping
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.fusers._common import LevelFuser, LevelInputs, LevelwiseFuser, MapFinish, embeddings, shrink
from perception.models.layers import scatter_samples


class BottleneckFuser(LevelwiseFuser):
    """Runs a transformer of its own on every sensor's map, window by window; each window has bottleneck tokens.

    From one layer on, the cells of a window also attend to its tokens and the tokens to the cells; after each layer the
    tokens become the mean over the sensors that a sample has. The result is the mean of the sensors' maps.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels, also those inside.
        num_tokens: bottleneck tokens of a window; 0 keeps the sensors apart until the end.
        num_layers: layers of the transformers.
        from_layer: the first layer that has the tokens, counted from 0. What one layer writes to them the next one
            reads, so two layers must have them.
        window: cells of a window per side, after the stride.
        stride: cells of the level per side of a cell of the transformers; what is finer goes past them.
        num_heads: heads of the attention; must divide the channels.

    Raises:
        ValueError: the levels do not fit each other, a number is too small, or heads and channels do not fit.

    Source:
        Nagrani et al. 2021, "Attention Bottlenecks for Multimodal Fusion"; in windows here, with a depth-wise
        convolution for position and for what crosses their borders.
    """

    def __init__(
        self,
        *,
        in_channels: dict[str, dict[str, int]],
        out_channels: dict[str, int],
        num_tokens: int = 4,
        num_layers: int = 2,
        from_layer: int = 0,
        window: int = 8,
        stride: int = 2,
        num_heads: int = 4,
    ) -> None:
        if num_tokens < 0 or min(num_layers, window, stride, num_heads) < 1 or not 0 <= from_layer < num_layers:
            raise ValueError(
                f"BottleneckFuser: num_tokens must be at least 0, num_layers, window, stride and num_heads at least 1, "
                f"and from_layer a layer, got {num_tokens}, {num_layers}, {window}, {stride}, {num_heads}, {from_layer}"
            )
        if num_tokens and from_layer > num_layers - 2:
            raise ValueError(
                f"BottleneckFuser: from_layer must leave two layers with tokens, or no sensor hears of another, "
                f"got {from_layer} of {num_layers} layers"
            )
        for level, channels in out_channels.items():
            if channels % num_heads:
                raise ValueError(
                    f"BottleneckFuser: num_heads must divide the channels of level {level!r}, "
                    f"got {num_heads} and {channels}"
                )
        build = partial(
            _BottleneckLevel,
            num_tokens=num_tokens,
            num_layers=num_layers,
            from_layer=from_layer,
            window=window,
            stride=stride,
            num_heads=num_heads,
        )
        super().__init__(in_channels, out_channels, build)


class _BottleneckLevel(LevelFuser):
    def __init__(
        self,
        in_channels: Mapping[str, int],
        out_channels: int,
        *,
        num_tokens: int,
        num_layers: int,
        from_layer: int,
        window: int,
        stride: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        width = out_channels
        self.from_layer = from_layer
        self.window = window
        self.stride = stride
        self.embed = embeddings(in_channels, width)
        self.tokens = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict({sensor: _WindowLayer(width, num_heads, window) for sensor in in_channels})
            for _ in range(num_layers)
        )
        self.finish = MapFinish(width, out_channels, stride)

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        embedded = inputs.apply(self.embed)
        coarse = embedded.replaced({sensor: shrink(rows, self.stride) for sensor, rows in embedded.rows.items()})
        return self.finish(self.streams(coarse).mean(), embedded.mean()), {}

    def streams(self, inputs: LevelInputs) -> LevelInputs:
        """Runs the transformers: maps (R, W, y, x) of every sensor -> maps of every sensor."""
        count = -(-inputs.size[0] // self.window) * -(-inputs.size[1] // self.window)  # windows V of a map
        none = self.tokens[:0].expand(len(inputs.present), count, -1, -1)  # (S, V, 0, W)
        tokens = self.tokens.expand(len(inputs.present), count, -1, -1)  # (F, W) -> (S, V, F, W)
        rows = dict(inputs.rows)
        for number, layers in enumerate(self.layers):
            given = tokens if number >= self.from_layer else none
            answers = []
            for sensor, index in inputs.index.items():
                rows[sensor], answer = layers[sensor](rows[sensor], given[index])  # type: ignore[index]
                answers.append(scatter_samples(answer, index, len(given)))
            if given is tokens:
                tokens = reduce(torch.add, answers) / inputs.present.sum(1)[:, None, None, None]
        return inputs.replaced(rows)


class _WindowLayer(nn.Module):
    """A transformer layer over the cells of each window and its tokens."""

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.look = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, maps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (R, W, y, x) and tokens (R, V, F, W) -> both anew."""
        size = (maps.shape[-2], maps.shape[-1])
        windows = split_windows(maps + self.look(maps), self.window)  # (R, V, T, W)
        cells = windows.shape[2]
        both = torch.cat((windows, tokens.to(windows.dtype)), dim=2)  # (R, V, T + F, W)
        both = both + self.join(self._attend(self.attention_norm(both), self._mask(maps, tokens.shape[2])))
        both = both + self.feed(both)
        return join_windows(both[:, :, :cells], self.window, size), both[:, :, cells:]

    def _attend(self, both: Tensor, mask: Tensor | None) -> Tensor:
        rows, count = both.shape[:2]
        heads = self.query_key_value(both).flatten(0, 1).unflatten(2, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (R V, T + F, 3, H, d) -> 3 x (R V, H, T + F, d)
        # Written out, as torch's fused attention takes a multiple of the time backwards in bfloat16 on a CPU.
        scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)  # (R V, H, T + F, T + F)
        if mask is not None:
            mask = mask.repeat(rows, 1)[:, None, None]  # (V, T + F) -> (R V, 1, 1, T + F)
            scores = scores.masked_fill(~mask, -torch.inf)
        heard = scores.softmax(3) @ value
        return heard.transpose(1, 2).flatten(2).unflatten(0, (rows, count))  # (R, V, T + F, W)

    def _mask(self, maps: Tensor, num_tokens: int) -> Tensor | None:
        """Which cells and tokens (V, T + F) exist; None where all do."""
        if maps.shape[-2] % self.window == 0 and maps.shape[-1] % self.window == 0:
            return None
        exists = split_windows(torch.ones_like(maps[:1, :1]), self.window)[0, :, :, 0] > 0  # (V, T)
        return functional.pad(exists, (0, num_tokens), value=True)


def split_windows(maps: Tensor, window: int) -> Tensor:
    """Cuts maps into square windows, the last ones filled up with zeros.

    Args:
        maps: (R, C, Y, X).
        window: cells per side w.

    Returns:
        (R, V, w * w, C), windows row by row and cells row by row.
    """
    maps = functional.pad(maps, (0, -maps.shape[-1] % window, 0, -maps.shape[-2] % window))
    blocks = maps.unflatten(3, (-1, window)).unflatten(2, (-1, window))  # (R, C, rows, w, columns, w)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def join_windows(windows: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """Undoes `split_windows`.

    Args:
        windows: (R, V, w * w, C).
        window: cells per side w.
        size: rows and columns (Y, X) of the maps.

    Returns:
        (R, C, Y, X).
    """
    columns = -(-size[1] // window)
    blocks = windows.unflatten(2, (window, window)).unflatten(1, (-1, columns))  # (R, rows, columns, w, w, C)
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[:, :, : size[0], : size[1]]
