"""Ultrasonic echoes -> bird's-eye-view maps near the vehicle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from perception.formats.ultrasonic import EchoState
from perception.geometry.grid import Grid
from perception.models.encoders.dilation import ContentAwareDilation
from perception.models.encoders.points import MOST
from perception.models.layers import conv_block
from perception.ops.echo_splat import EchoGeometry, EchoKind, echo_splat
from perception.ops.scatter_reduce import scatter_reduce
from perception.structures import BevMap, EchoBatch

_MUTE = (EchoState.BLIND, EchoState.FAULTED, EchoState.NOT_AVAILABLE)
_MAP_CHANNELS = 6  # occupied, free, age, observed, out of a mute sensor's sight, too close to measure
_BELIEF_INPUTS = 3 + 1 + len(EchoKind)  # level, age, distance, direct, kind
_DISTANCE_M = 5.0  # brings distances to about 1
_RING_DOWN_M = 0.2  # where a thing too close to measure is drawn
_UNKNOWN_REACH_M = 3.0  # of a mute sensor that does not even say how far it would hear


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Evidence on the map (S, 6, Y, X), and where a sensor has said anything (S, 1, Y, X) bool."""

    channels: Tensor
    validity: Tensor


class UltrasonicEncoder(nn.Module):
    """Draws the echoes as annular sectors with a learned belief, looks around each place, and fills two levels.

    How much an echo is believed and how wide it is drawn follow from its level, age, distance and kind by a small
    network, trained through `echo_splat`. Sensors that are blind, faulted or silent are drawn too, in channels of
    their own: there, no echo says nothing. The coarse level takes the maximum over the fine cells in each of its own.

    Args:
        channels: width of the layers and channels of the fine level.
        coarse_channels: channels of the coarse level; None fills the fine level alone.
        belief_channels: width of the network that judges an echo.
        dilations: of the convolutions that look for what other sensors show beside the echo (cells of the fine level).
        level: the fine level.
        coarse_level: the coarse level; its cells are no smaller than those of the fine one.

    Source:
        Das et al. 2024, as `ContentAwareDilation`; drawing and belief are this project's own.
    """

    def __init__(
        self,
        *,
        channels: int,
        coarse_channels: int | None = None,
        belief_channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4),
        level: str = "near",
        coarse_level: str = "main",
    ) -> None:
        super().__init__()
        self.level = level
        self.coarse_level = coarse_level
        self.out_channels = {level: channels}
        self.belief = nn.Sequential(
            nn.Linear(_BELIEF_INPUTS, belief_channels), nn.ReLU(inplace=True), nn.Linear(belief_channels, 2)
        )
        self.around = nn.Sequential(
            conv_block(_MAP_CHANNELS, channels),
            ContentAwareDilation(in_channels=channels, out_channels=channels, dilations=dilations),
            conv_block(channels, channels),
        )
        self.coarse: nn.Module | None = None
        if coarse_channels is not None:
            self.coarse = conv_block(channels, coarse_channels)
            self.out_channels[coarse_level] = coarse_channels

    def forward(self, echoes: EchoBatch, ego2aug: Tensor, grids: Mapping[str, Grid]) -> dict[str, BevMap]:
        """Encodes the echoes.

        Args:
            echoes: of S samples in their ego frames, all present; any sample may have none.
            ego2aug: (S, 4, 4).
            grids: level name -> grid in the augmented ego frame.

        Returns:
            Level name -> map; valid where a sensor heard something or would have.

        Raises:
            ValueError: the cells of the coarse level are smaller than those of the fine one.
        """
        grid = grids[self.level]
        drawn = self._draw(_turn(echoes, ego2aug), _turn(_silent(echoes), ego2aug), len(ego2aug), grid)
        level = BevMap(features=self.around(drawn.channels), validity=drawn.validity, grid=grid)
        maps = {self.level: level}
        if self.coarse is not None:
            resampled = _coarsen(level, grids[self.coarse_level])
            features = self.coarse(resampled.features)
            maps[self.coarse_level] = BevMap(features=features, validity=resampled.validity, grid=resampled.grid)
        return maps

    def _draw(self, echoes: EchoBatch, silent: EchoBatch, batch_size: int, grid: Grid) -> _Drawn:
        cell_m = max(grid.cell_m[:2])
        amplitude, widening = self._believe(echoes).unbind(1)  # (E,) each
        # Half a cell at least, or an arc would fall between the centres of the cells.
        sigma_m = (echoes.sigma_m.nan_to_num(0.0, 0.0, 0.0).square() + (cell_m / 2) ** 2).sqrt() * widening
        evidence = echo_splat(amplitude, sigma_m, _geometry(echoes), batch_size, grid)
        silence = echo_splat(torch.ones_like(sigma_m), sigma_m.detach(), _geometry(silent), batch_size, grid)
        near, mute = silence[:, :1], silence[:, 1:2]  # (S, 1, Y, X)
        observed = (evidence[:, :2] > 0).any(1, keepdim=True)
        channels = torch.cat((evidence, observed.to(evidence.dtype), mute, near), dim=1)
        return _Drawn(channels=channels.float(), validity=observed | (near > 0))

    def _believe(self, echoes: EchoBatch) -> Tensor:
        """(E, 2): amplitude in (0, 1), and by how much an echo is drawn wider, above 1."""
        direct = (echoes.sender == echoes.receiver).all(1)
        kinds = echoes.kind[:, None] == torch.arange(len(EchoKind), device=echoes.kind.device)
        numbers = (echoes.level, echoes.age_s, echoes.distance_m / _DISTANCE_M, direct)
        columns = (
            torch.stack([number.float() for number in numbers], dim=1).nan_to_num(0.0, 0.0, 0.0).clamp(-MOST, MOST)
        )
        with torch.autocast(columns.device.type, enabled=False):  # rounded widths would move the ends of the arcs
            judged = self.belief(torch.cat((columns, kinds.float()), dim=1))  # (E, 2)
        return torch.stack((judged[:, 0].sigmoid(), 1 + nn.functional.softplus(judged[:, 1] - 2)), dim=1)


def _turn(echoes: EchoBatch, ego2aug: Tensor) -> EchoBatch:
    """The echoes in the augmented ego frame: places and headings turned and mirrored, lengths scaled."""
    move = ego2aug[echoes.batch_index].double()  # (E, 4, 4)
    linear = move[:, :2, :2]
    scale = linear.det().abs().sqrt()  # (E,)
    poses = []
    for pose in (echoes.sender.double(), echoes.receiver.double()):
        place = (linear @ pose[:, :2, None])[..., 0] + move[:, :2, 3]  # (E, 2)
        along = (linear @ torch.stack((pose[:, 2].cos(), pose[:, 2].sin()), dim=1)[..., None])[..., 0]
        poses.append(torch.cat((place, torch.atan2(along[:, 1], along[:, 0])[:, None]), dim=1))
    return replace(
        echoes,
        sender=poses[0],
        receiver=poses[1],
        distance_m=echoes.distance_m * scale,
        sigma_m=echoes.sigma_m * scale,
    )


def _geometry(echoes: EchoBatch) -> EchoGeometry:
    return EchoGeometry(
        sender=echoes.sender,
        receiver=echoes.receiver,
        distance_m=echoes.distance_m.double(),
        beam_rad=echoes.beam_rad.double(),
        age_s=echoes.age_s.double().masked_fill(~(echoes.age_s.abs() <= MOST), torch.nan),  # which says nothing
        kind=echoes.kind,
        batch_index=echoes.batch_index,
    )


def _silent(echoes: EchoBatch) -> EchoBatch:
    """What sensors without a measurement would cover: a mute one its reach, a ringing one the place before it."""
    mute = torch.isin(echoes.state, torch.tensor(_MUTE, device=echoes.state.device))
    close = echoes.state == EchoState.TOO_CLOSE
    known = echoes.distance_m.isfinite() & (echoes.distance_m > 0)
    reach_m = torch.where(known, echoes.distance_m, _UNKNOWN_REACH_M)
    kind = torch.where(mute, int(EchoKind.NONE), torch.where(close, int(EchoKind.LATER), int(EchoKind.NOTHING)))
    return replace(
        echoes,
        sender=echoes.receiver,  # it is the one that listens which is mute
        distance_m=torch.where(close, _RING_DOWN_M, reach_m),
        kind=kind,
    )


def _coarsen(level: BevMap, grid: Grid) -> BevMap:
    """The maximum of the features, which are none below 0, over the cells whose centres lie in each coarse cell."""
    fine = level.grid
    if any(coarse < own for coarse, own in zip(grid.cell_m[:2], fine.cell_m[:2], strict=True)):
        raise ValueError(
            f"UltrasonicEncoder: cells of the coarse level must be at least {fine.cell_m[:2]} m, got {grid.cell_m[:2]}"
        )
    batch_size, channels = level.features.shape[:2]
    middle_m = sum(grid.z_range_m) / 2
    centers = nn.functional.pad(fine.centers_xy(), (0, 1), value=middle_m).to(level.features.device)  # (y, x, 3)
    cells, inside = grid.cells(centers)
    flat = (cells[..., 1] * grid.num_x + cells[..., 2]).flatten()  # (y * x,)
    num_cells = grid.num_y * grid.num_x
    offsets = torch.arange(batch_size, device=flat.device)[:, None] * num_cells
    index = torch.where(inside.flatten(), flat + offsets, -1).flatten()  # (S * y * x,)
    columns = torch.cat((level.features, level.validity.to(level.features.dtype)), dim=1)
    rows = columns.permute(0, 2, 3, 1).flatten(0, 2)  # (S, C + 1, y, x) -> (S * y * x, C + 1)
    coarse = scatter_reduce(rows, index, batch_size * num_cells, "max").view(batch_size, grid.num_y, grid.num_x, -1)
    coarse = coarse.permute(0, 3, 1, 2)  # (S, C + 1, Y, X)
    return BevMap(features=coarse[:, :channels], validity=coarse[:, channels:] > 0, grid=grid)
