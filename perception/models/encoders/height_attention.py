"""Self-attention along the height of each column of cells, for sensors that measure height poorly."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from perception.geometry.grid import Grid
from perception.ops.scatter_reduce import scatter_reduce


class HeightAttention(nn.Module):
    """Lets each point know what its whole column of cells holds, by attention among the column's layers.

    A column is lifted to one token per layer: what its points say together, what those in the layer say, and a learned
    vector of the layer; the tokens attend to one another, and each point takes the token of its layer. Columns without
    points cost nothing.

    Args:
        channels: of the points' features.
        num_layers: how many layers the grid's range along z is cut into; the first and the last hold what lies beyond.
        num_heads: heads of the attention; they divide `channels`.

    Raises:
        ValueError: the heads do not divide the channels.

    Source:
        Radar height self-attention as MetaOcc (2025) describes it: learned height embedding, attention along z alone.
    """

    def __init__(self, *, channels: int, num_layers: int = 8, num_heads: int = 2) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"HeightAttention: num_heads must divide {channels} channels, got {num_heads}")
        self.channels = channels
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.height = nn.Parameter(torch.randn(num_layers, channels) * 0.02)
        self.before_attention, self.before_feed = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.attended = nn.Linear(channels, channels)
        self.feed = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.ReLU(inplace=True), nn.Linear(2 * channels, channels)
        )

    def forward(self, features: Tensor, points: Tensor, batch_index: Tensor, grid: Grid) -> Tensor:
        """Attends within the columns.

        Args:
            features: (P, C).
            points: (P, 3+) x y z in the grid's frame, inside it along x and y.
            batch_index: (P,) int64, the sample of each point.
            grid: its x and y cells are the columns, its range along z is cut into layers.

        Returns:
            (P, C).
        """
        cell, origin = points.new_tensor(grid.cell_m), points.new_tensor(grid.origin_m)
        last = torch.tensor((grid.num_x - 1, grid.num_y - 1), device=points.device)  # rounding may go one beyond
        x, y = torch.minimum(((points[:, :2] - origin[:2]) / cell[:2]).floor().long(), last).unbind(1)
        layer_m = (grid.z_range_m[1] - grid.z_range_m[0]) / self.num_layers
        layer = ((points[:, 2] - origin[2]) / layer_m).floor().clamp(0, self.num_layers - 1).long()
        columns, column = ((batch_index * grid.num_y + y) * grid.num_x + x).unique(return_inverse=True)
        token = column * self.num_layers + layer  # (P,)
        in_layer = scatter_reduce(features, token, len(columns) * self.num_layers, "max")
        in_column = scatter_reduce(features, column, len(columns), "max")  # (V, C)
        tokens = in_layer.unflatten(0, (-1, self.num_layers)) + in_column[:, None] + self.height  # (V, Z, C)
        tokens = tokens + self._attend(self.before_attention(tokens))
        tokens = tokens + self.feed(self.before_feed(tokens))
        return tokens.flatten(0, 1)[token]  # (V, Z, C) -> (P, C)

    def _attend(self, tokens: Tensor) -> Tensor:
        """(V, Z, C) -> (V, Z, C)."""
        heads = self.query_key_value(tokens).unflatten(2, (3, self.num_heads, -1))  # (V, Z, 3, H, C / H)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (V, H, Z, C / H) each
        mixed = scaled_dot_product_attention(query, key, value)
        return self.attended(mixed.transpose(1, 2).flatten(2))  # (V, H, Z, C / H) -> (V, Z, C)
