"""Spatial cross-attention: cells of the bird's-eye view ask the cameras that see them, around where they see them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.grids import grid_reach_m
from perception.models.layers import conv_block, scatter_samples
from perception.models.parts import View
from perception.models.views.projection import check_plan, project_columns, read_levels
from perception.ops.ms_deform_attn import ms_deform_attn
from perception.ops.scatter_reduce import scatter_reduce
from perception.structures import BevMap, CameraImages, CameraViews, SensorFeatures
from perception.structures.tensors import map_tensors

_FREQUENCIES = 6


@dataclass(frozen=True, kw_only=True)
class DeformablePlan:
    """Which cells each present camera sees, and where; depends on calibration, `ego2aug` and grid alone.

    Args:
        present: (B, N) bool, the cameras that it is of.
        samples: (S,) int64, the samples with a camera.
        cells: (K, Q) int64, the cells (s * Y + y) * X + x that each of the K present cameras sees; -1 fills up.
        references: (K, Q, Z, 2) float32, where it sees the points of their columns, 0 to 1 across the picture.
        seen: (K, Q, Z) bool, which of these points it sees.
        validity: (S, 1, Y, X) bool, cells of the level that any camera sees.
    """

    present: Tensor
    samples: Tensor
    cells: Tensor
    references: Tensor
    seen: Tensor
    validity: Tensor

    def to(self, device: torch.device | str) -> "DeformablePlan":
        """Moves the plan to another device.

        Args:
            device: where the features will be.

        Returns:
            The same plan there.
        """
        return map_tensors(self, lambda tensor: tensor.to(device))


class DeformableView(View):
    """Fills one level by queries, one per cell, that read deformable places in the pictures.

    A query starts from the place of its cell alone, so that one set of weights serves every grid. In each layer it
    reads, in every camera that sees its column, a few places around each point seen of the column, at offsets and with
    weights that follow from the query; what it reads is averaged over these cameras.

    Args:
        in_channels: channels of the image features.
        out_channels: channels of the map.
        channels: of queries and values.
        num_heads: heads of the attention; they divide `channels`.
        num_points: places around each point of the column, per head and view level.
        num_layers: how often the queries look.
        heights_m: heights of the points of each column, metres in the (augmented) ego frame.
        level: the grid level to fill.
        view_level: the first level of the image features to read, 0 the finest.
        num_view_levels: how many to read, from that one on.

    Raises:
        ValueError: the heads do not divide the channels, or there is no height.

    Source:
        Li et al., "BEVFormer", ECCV 2022, section 3.3 (spatial cross-attention); queries of places instead of learned
        ones per cell are this project's own.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        num_heads: int = 4,
        num_points: int = 2,
        num_layers: int = 1,
        heights_m: Sequence[float] = (0.0, 0.7, 1.4, 2.4),
        level: str = "main",
        view_level: int = 0,
        num_view_levels: int = 1,
    ) -> None:
        super().__init__()
        if channels % num_heads or not heights_m:
            raise ValueError(
                f"DeformableView: num_heads must divide {channels} channels and heights_m not be empty, "
                f"got {num_heads} and {heights_m}"
            )
        self.in_channels = in_channels
        self.out_channels = {level: out_channels}
        self.level = level
        self.view_level = view_level
        self.heights_m = tuple(heights_m)
        self.num_heads = num_heads
        self.query = nn.Sequential(
            nn.Linear(3 + 4 * _FREQUENCIES, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.values = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for _ in range(num_view_levels))
        places = (num_heads, num_view_levels, len(self.heights_m), num_points)
        self.layers = nn.ModuleList(_CrossAttention(channels, places) for _ in range(num_layers))
        self.refine = conv_block(channels, out_channels)

    def plan(
        self, cameras: CameraImages, feature_size: tuple[int, int], ego2aug: Tensor, grids: Mapping[str, Grid]
    ) -> DeformablePlan:
        """Finds which cells each camera sees, and where.

        Args:
            cameras: calibration of B samples; at least one camera is present.
            feature_size: not needed.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            The plan for every batch with this calibration, the same present cameras and `ego2aug`.
        """
        grid = grids[self.level]
        num_cells = grid.num_y * grid.num_x
        samples, columns = project_columns(cameras, ego2aug, grid, self.heights_m)
        sample, camera = cameras.present[samples].nonzero().unbind(1)  # (K,) each
        seen = columns.valid[sample, camera].unflatten(1, (-1, num_cells)).transpose(1, 2)  # (K, Y * X, Z)
        pixels = columns.pixels_px[sample, camera].unflatten(1, (-1, num_cells)).transpose(1, 2)  # (K, Y * X, Z, 2)
        size = pixels.new_tensor(columns.image_size_px[::-1])
        hit = seen.any(2)  # (K, Y * X)
        row, cell = hit.nonzero().unbind(1)  # (H,) each
        slot = (hit.cumsum(1) - 1)[row, cell]
        shape = len(sample), int(hit.sum(1).max())
        cells = torch.full(shape, -1, device=row.device).index_put((row, slot), sample[row] * num_cells + cell)
        references = pixels.new_zeros(*shape, *pixels.shape[2:])
        validity = columns.seen.any(1, keepdim=True)
        return DeformablePlan(
            present=cameras.present,
            samples=samples,
            cells=cells,
            references=references.index_put((row, slot), (pixels[row, cell] + 0.5) / size),
            seen=seen.new_zeros(*shape, seen.shape[2]).index_put((row, slot), seen[row, cell]),
            validity=validity,
        )

    def forward(
        self, views: CameraViews, ego2aug: Tensor, grids: Mapping[str, Grid], plan: DeformablePlan | None = None
    ) -> SensorFeatures:
        """Lets every cell ask the present cameras.

        Args:
            views: image features of B samples; at least one camera is present.
            ego2aug: (B, 4, 4).
            grids: level name -> grid in the augmented ego frame.
            plan: what `plan` gave for this calibration; None makes it.

        Returns:
            The map of one level, valid where a camera sees the column of the cell.

        Raises:
            ValueError: the plan is of other present cameras.
        """
        cameras, grid = views.cameras, grids[self.level]
        if plan is None:
            plan = self.plan(cameras, cameras.image_size_px, ego2aug, grids)
        check_plan("DeformableView", plan.present, cameras.present)
        levels = read_levels(views, self.view_level, self.values)  # (K, C, h, w) per level
        shapes = [(level.shape[2], level.shape[3]) for level in levels]
        values = torch.cat([level.flatten(2) for level in levels], dim=2)  # (K, C, all pixels)
        values = values.transpose(1, 2).unflatten(2, (self.num_heads, -1))  # (K, all pixels, H, C / H)
        places = _describe_places(grid).to(values.device)  # (Y * X, 27)
        queries = self.query(places).repeat(len(plan.samples), 1)  # (S * Y * X, C)
        for layer in self.layers:
            queries = layer(queries, values, shapes, plan)
        bev = queries.view(len(plan.samples), grid.num_y, grid.num_x, -1).permute(0, 3, 1, 2)  # (S, C, Y, X)
        level = BevMap(
            features=scatter_samples(self.refine(bev), plan.samples, len(ego2aug)),
            validity=scatter_samples(plan.validity, plan.samples, len(ego2aug)),
            grid=grid,
        )
        return SensorFeatures(present=cameras.present.any(1), bev={self.level: level}, views=views)


class _CrossAttention(nn.Module):
    """One look of all queries into the pictures, and a feed-forward network; `places` is (H, L, Z, P)."""

    def __init__(self, channels: int, places: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.places = places
        num_places = math.prod(places)
        self.offsets = nn.Linear(channels, num_places * 2)
        self.weights = nn.Linear(channels, num_places)
        self.attended = nn.Linear(channels, channels)
        self.feed = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.ReLU(inplace=True), nn.Linear(2 * channels, channels)
        )
        self.after_attention, self.after_feed = nn.LayerNorm(channels), nn.LayerNorm(channels)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(_first_offsets(places))

    def forward(
        self, queries: Tensor, values: Tensor, shapes: Sequence[tuple[int, int]], plan: DeformablePlan
    ) -> Tensor:
        """(S * Y * X, C) queries, (K, all pixels, H, C / H) values -> queries."""
        num_levels = self.places[1]
        asked = queries[plan.cells.clamp(min=0)]  # (K, Q, C)
        offsets = self.offsets(asked).unflatten(2, (*self.places, 2))  # (K, Q, H, L, Z, P, 2) in feature cells
        sizes = offsets.new_tensor([shape[::-1] for shape in shapes])[:, None, None]  # (L, 1, 1, 2)
        places = plan.references[:, :, None, None, :, None] + offsets / sizes
        weights = self.weights(asked).float().unflatten(2, self.places)  # (K, Q, H, L, Z, P)
        # A filled-up row sees nothing; any finite weights will do, as it is left out below.
        blind = ~(plan.seen | (plan.cells < 0)[..., None])  # (K, Q, Z)
        weights = weights.masked_fill(blind[:, :, None, None, :, None], -torch.inf)
        weights = weights.flatten(3).softmax(3).unflatten(3, (num_levels, -1))  # (K, Q, H, L, Z * P)
        read = ms_deform_attn(values, shapes, places.flatten(4, 5), weights)  # (K, Q, C)
        mean = scatter_reduce(read.flatten(0, 1), plan.cells.flatten(), len(queries), "mean")
        queries = self.after_attention(queries + self.attended(mean))
        return self.after_feed(queries + self.feed(queries))


def _first_offsets(places: tuple[int, int, int, int]) -> Tensor:
    """(H * L * Z * P * 2,): the heads look in different directions, the places of one at 1, 2, ... cells."""
    num_heads, _, _, num_points = places
    angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=1)  # (H, 2)
    distances = torch.arange(1, num_points + 1, dtype=torch.float32)
    offsets = directions[:, None, None, None] * distances[:, None]  # (H, 1, 1, P, 2)
    return offsets.expand(*places, 2).flatten()


def _describe_places(grid: Grid) -> Tensor:
    """(Y * X, 27) float32: where each cell lies over the grid's reach, its distance, and waves of six lengths."""
    place = grid.centers_xy().flatten(0, 1)  # (Y * X, 2)
    scaled = place / place.new_tensor(grid_reach_m(grid)[:2])
    waves = scaled[:, :, None] * (math.pi * 2.0 ** torch.arange(_FREQUENCIES))  # (Y * X, 2, 6)
    parts = (scaled, scaled.norm(dim=1, keepdim=True), waves.sin().flatten(1), waves.cos().flatten(1))
    return torch.cat(parts, dim=1).float()
