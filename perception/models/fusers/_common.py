"""What the fusers share: one level of any subset of the sensors, and the walk over the levels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.geometry.grid import Grid
from perception.models.layers import conv_block, gather_samples, scatter_samples
from perception.models.parts import Fuser
from perception.structures import BevMap, FusedFeatures, SensorFeatures


@dataclass(frozen=True, kw_only=True)
class LevelInputs:
    """One level of S samples, each of which has at least one of the level's N sensors.

    It holds the rows of present samples alone: what lies in the others cannot be read.

    Args:
        sensors: names of all N sensors of the level.
        present: (S, N) bool.
        size: rows and columns (Y, X).
        rows: sensor name -> (R, C, Y, X) of the R samples that have it; a sensor that no sample has is left out.
        index: sensor name -> (R,) int64 rising, which sample each row belongs to.
    """

    sensors: tuple[str, ...]
    present: Tensor
    size: tuple[int, int]
    rows: Mapping[str, Tensor]
    index: Mapping[str, Tensor]

    def apply(self, modules: nn.ModuleDict) -> "LevelInputs":
        """Runs each sensor's own module on the samples that have the sensor.

        Args:
            modules: sensor name -> module that keeps the size of maps.

        Returns:
            The same samples with new maps.
        """
        return self.replaced({sensor: modules[sensor](rows) for sensor, rows in self.rows.items()})

    def replaced(self, rows: Mapping[str, Tensor]) -> "LevelInputs":
        """Puts other maps in place of these.

        Args:
            rows: sensor name -> (R, C, y, x), all of one size.

        Returns:
            The same samples with the new maps.
        """
        sizes = [(maps.shape[-2], maps.shape[-1]) for maps in rows.values()]
        return replace(self, rows=rows, size=sizes[0] if sizes else self.size)

    def spread(self, sensor: str) -> Tensor:
        """Gives a sensor's map of every sample.

        Args:
            sensor: one that some sample has.

        Returns:
            (S, C, Y, X), zeros where the sensor is absent.
        """
        return scatter_samples(self.rows[sensor], self.index[sensor], len(self.present))

    def mean(self) -> Tensor:
        """Averages the maps over the sensors that a sample has; all must have the same channels.

        Returns:
            (S, C, Y, X).
        """
        cells = {sensor: rows.movedim(1, 3) for sensor, rows in self.rows.items()}  # (R, Y, X, C), as in memory
        first = next(iter(cells.values()))
        total = first.new_zeros(len(self.present), *first.shape[1:])
        for sensor, rows in cells.items():
            total = total.index_add_(0, self.index[sensor], rows.to(total.dtype))
        total = total * (1 / self.present.sum(1))[:, None, None, None].to(total.dtype)
        return total.movedim(3, 1)  # (S, Y, X, C) -> (S, C, Y, X)

    def filled(self, absence: nn.ParameterDict) -> list[Tensor]:
        """Gives every sensor's map, with a learned vector in each cell where a sample lacks the sensor.

        Args:
            absence: sensor name -> (C, 1, 1).

        Returns:
            N maps (S, C, Y, X), in the order of `sensors`.
        """
        maps = []
        for number, sensor in enumerate(self.sensors):
            absent = absence[sensor].expand(len(self.present), -1, *self.size)  # (C, 1, 1) -> (S, C, Y, X)
            there = self.present[:, number, None, None, None]
            maps.append(torch.where(there, self.spread(sensor), absent) if sensor in self.rows else absent)
        return maps

    def convolved(self, weight: Tensor, absence: nn.ParameterDict) -> Tensor:
        """Convolves all sensors' maps side by side, a learned vector in each cell where a sample lacks the sensor.

        The same as `filled`, concatenated and convolved, but nothing is laid side by side and only maps that are there
        are convolved, each with its own channels of the kernel: a third of the time, and less with fewer sensors.

        Args:
            weight: (O, sum of C, k, k) of a convolution of stride 1 that keeps the size of maps, the channels those of
                `sensors` in turn; k is odd.
            absence: sensor name -> (C, 1, 1).

        Returns:
            (S, O, Y, X), the channels of a cell side by side in memory.
        """
        kernels = weight.split([len(absence[sensor]) for sensor in self.sensors], dim=1)  # N x (O, C, k, k)
        total = self._absent(kernels, absence)
        for sensor, kernel in zip(self.sensors, kernels, strict=True):
            if sensor in self.rows:
                rows = functional.conv2d(self.rows[sensor], kernel, padding=kernel.shape[-1] // 2)
                cells = rows.movedim(1, 3).to(total.dtype)  # (R, O, Y, X) -> (R, Y, X, O)
                everyone = len(rows) == len(self.present)
                total = total + cells if everyone else total.index_add_(0, self.index[sensor], cells)
        return total.movedim(3, 1)

    def _absent(self, kernels: Sequence[Tensor], absence: nn.ParameterDict) -> Tensor:
        """What the vectors in place of absent sensors add to a convolution, (S, Y, X, O)."""
        vectors = [absence[sensor].flatten() for sensor in self.sensors]
        taps = [torch.einsum("ocij,c->ijo", kernel, it) for kernel, it in zip(kernels, vectors, strict=True)]
        absent = (~self.present).to(taps[0].dtype)
        taps_of_sample = torch.einsum("sn,nijo->sijo", absent, torch.stack(taps)).flatten(1, 2)  # (S, k * k, O)
        side = kernels[0].shape[-1]
        there = functional.unfold(taps_of_sample.new_ones(1, 1, *self.size), side, padding=side // 2)
        # Which taps of a cell lie on the map: (1, k * k, Y * X).
        return (there.transpose(1, 2) @ taps_of_sample).unflatten(1, self.size)


class LevelFuser(nn.Module, ABC):
    """Fuses one level."""

    @abstractmethod
    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses the maps of S samples.

        Args:
            inputs: each sample has at least one of the sensors.

        Returns:
            The fused map (S, C, Y, X), and auxiliary outputs by name, each with a row per sample.
        """


class LevelwiseFuser(Fuser):
    """Fuses every level by itself.

    A sample with none of a level's sensors is left out there: its map holds zeros and is valid nowhere. The auxiliary
    output `name` of a level is called `name/<level>`, with zeros for samples that were left out; there is none where
    all were.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.
        build: makes the fuser of one level from its sensors' channels and its own.

    Raises:
        ValueError: the two do not name the same levels, or a level has no sensor.
    """

    def __init__(
        self,
        in_channels: Mapping[str, Mapping[str, int]],
        out_channels: Mapping[str, int],
        build: Callable[[Mapping[str, int], int], LevelFuser],
    ) -> None:
        super().__init__()
        check_levels(type(self).__name__, in_channels, out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.levels = nn.ModuleDict({level: build(parts, out_channels[level]) for level, parts in in_channels.items()})

    def forward(self, features: Mapping[str, SensorFeatures]) -> FusedFeatures:
        """Fuses the features.

        Args:
            features: sensor name -> features of B samples; a sensor may be missing altogether.

        Returns:
            One map per level, valid where any present sensor has said anything, and the levels' auxiliary outputs.

        Raises:
            ValueError: the maps of a level lie on different grids, or there is none.
        """
        bev: dict[str, BevMap] = {}
        aux: dict[str, Tensor] = {}
        for level in self.levels:
            bev[level], named = self.fuse_level(level, features)
            aux |= {f"{name}/{level}": value for name, value in named.items()}
        return FusedFeatures(bev=bev, aux=aux)

    def fuse_level(self, level: str, features: Mapping[str, SensorFeatures]) -> tuple[BevMap, dict[str, Tensor]]:
        """Fuses one level.

        Args:
            level: its name.
            features: sensor name -> features of B samples with a map of the level; a sensor may be missing altogether.

        Returns:
            The map, and the auxiliary outputs by name without the level's.

        Raises:
            ValueError: the maps lie on different grids, or there is none.
        """
        sensors = tuple(self.in_channels[level])
        maps, present, grid = read_level(type(self).__name__, level, sensors, features)
        seen = present.any(1).nonzero()[:, 0]  # (S,) the samples that have a sensor of the level
        validity = torch.stack([part.validity & present[:, i, None, None, None] for i, part in maps.items()]).any(0)
        if len(seen) == 0:
            shape = (len(present), self.out_channels[level], grid.num_y, grid.num_x)
            return BevMap(features=torch.zeros(shape, device=present.device), validity=validity, grid=grid), {}
        inputs = level_inputs(sensors, maps, present, seen)
        fused, aux = self.levels[level](inputs)
        if len(seen) < len(present):
            aux = {name: scatter_samples(value, seen, len(present)) for name, value in aux.items()}
            fused = scatter_samples(fused, seen, len(present))  # (S, C, Y, X) -> (B, C, Y, X)
        return BevMap(features=fused, validity=validity, grid=grid), aux


class MapFinish(nn.Module):
    """Brings a coarse answer to the cells of the level and adds what the sensors say there in detail.

    Args:
        width: channels of both.
        out_channels: channels of the level.
        stride: cells of the level per side of a coarse one.
    """

    def __init__(self, width: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.mix = conv_block(width, out_channels)

    def forward(self, coarse: Tensor, detail: Tensor) -> Tensor:
        """Joins the two.

        Args:
            coarse: (S, W, y, x).
            detail: (S, W, Y, X).

        Returns:
            (S, C, Y, X).
        """
        return self.mix(detail + stretch(coarse, self.stride, (detail.shape[-2], detail.shape[-1])))


class SensorEmbedding(nn.Module):
    """Brings a sensor's map to another number of channels: a linear map of each cell, batch-normalised.

    Args:
        in_channels: channels of the sensor.
        width: channels of the result.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, width, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        """Embeds the maps.

        Args:
            maps: (R, C, Y, X).

        Returns:
            (R, W, Y, X), the channels of a cell side by side in memory, as attention reads them.
        """
        weight = self.linear.weight.T.expand(len(maps), -1, -1)  # (R, C, W)
        tokens = torch.bmm(maps.flatten(2).transpose(1, 2), weight)  # (R, Y X, W)
        return self.norm(tokens.transpose(1, 2).unflatten(2, maps.shape[-2:]))


def embeddings(in_channels: Mapping[str, int], width: int) -> nn.ModuleDict:
    """Builds what brings every sensor's map to one width.

    Args:
        in_channels: sensor name -> channels.
        width: channels of the result.

    Returns:
        Sensor name -> `SensorEmbedding`.
    """
    return nn.ModuleDict({sensor: SensorEmbedding(channels, width) for sensor, channels in in_channels.items()})


def absence_vectors(in_channels: Mapping[str, int], *, for_softmax: bool = False) -> nn.ParameterDict:
    """Builds the learned vectors that stand where a sensor is absent.

    Args:
        in_channels: sensor name -> channels C.
        for_softmax: whether they do nothing but move weights that add up to one over the present sensors. With two
            sensors the one that is there then has all the weight, and the vectors stay zero.

    Returns:
        Sensor name -> (C, 1, 1).
    """
    learned = len(in_channels) > 2 or not for_softmax
    return nn.ParameterDict(
        {
            sensor: nn.Parameter(torch.zeros(channels, 1, 1), requires_grad=learned)
            for sensor, channels in in_channels.items()
        }
    )


def shrink(maps: Tensor, stride: int) -> Tensor:
    """Averages blocks of cells; blocks at the border that the map does not fill average what they hold.

    Args:
        maps: (S, C, Y, X).
        stride: cells per block and side.

    Returns:
        (S, C, ceil(Y / stride), ceil(X / stride)).
    """
    if stride == 1:
        return maps
    return functional.avg_pool2d(maps, stride, ceil_mode=True, count_include_pad=False)


def stretch(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Interpolates between the centres of the blocks that `shrink` makes.

    Args:
        maps: (S, C, ceil(Y / stride), ceil(X / stride)).
        stride: cells per block and side.
        size: rows and columns (Y, X) of the result.

    Returns:
        (S, C, Y, X).
    """
    if stride == 1:
        return maps
    whole = functional.interpolate(maps, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return whole[..., : size[0], : size[1]]


def masked_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Gives the sensors that a sample has weights that add up to one; the others get exactly zero.

    Args:
        logits: (S, N, ...).
        present: (S, N) bool, at least one per sample.

    Returns:
        Weights of the same shape, adding up to one over N.
    """
    mask = present.view(*present.shape, *[1] * (logits.dim() - 2))  # (S, N) -> (S, N, 1, ...)
    return logits.float().masked_fill(~mask, -torch.inf).softmax(1).to(logits.dtype)


def check_levels(name: str, in_channels: Mapping[str, Mapping[str, int]], out_channels: Mapping[str, int]) -> None:
    """Refuses levels that do not fit each other.

    Args:
        name: of the fuser, for the error.
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.

    Raises:
        ValueError: the two do not name the same levels, or a level has no sensor.
    """
    if set(in_channels) != set(out_channels) or not all(in_channels.values()) or not in_channels:
        raise ValueError(
            f"{name}: in_channels and out_channels must name the same levels, each with a sensor, "
            f"got {in_channels} and {out_channels}"
        )


def read_level(
    name: str, level: str, sensors: Sequence[str], features: Mapping[str, SensorFeatures]
) -> tuple[dict[int, BevMap], Tensor, Grid]:
    """Finds a level's maps.

    Args:
        name: of the fuser, for errors.
        level: name of the level.
        sensors: names of the N sensors that have it.
        features: sensor name -> features of B samples; a sensor may be missing altogether.

    Returns:
        Number of the sensor -> map, without missing sensors; which are present (B, N) bool; the maps' grid.

    Raises:
        ValueError: a sensor lacks the level, the maps lie on different grids, or there is none.
    """
    known = {number: features[sensor] for number, sensor in enumerate(sensors) if sensor in features}
    for number, part in known.items():
        if level not in part.bev:
            raise ValueError(f"{name}: features of {sensors[number]!r} must have level {level!r}, got {list(part.bev)}")
    maps = {number: part.bev[level] for number, part in known.items()}
    grids = [part.grid for part in maps.values()]
    if not grids or any(grid != grids[0] for grid in grids):
        raise ValueError(f"{name}: features must hold maps of level {level!r} on one grid, got {grids}")
    absent = torch.zeros_like(next(iter(known.values())).present)  # (B,)
    columns = [known[number].present if number in known else absent for number in range(len(sensors))]
    return maps, torch.stack(columns, dim=1), grids[0]  # N x (B,) -> (B, N)


def level_inputs(sensors: tuple[str, ...], maps: Mapping[int, BevMap], present: Tensor, seen: Tensor) -> LevelInputs:
    """Keeps some samples, and of each sensor the rows that are there.

    Args:
        sensors: names of the N sensors of the level.
        maps: number of the sensor -> map of B samples; at least one.
        present: (B, N) bool.
        seen: (S,) int64 rising, the samples to keep; all that have a sensor are among them.

    Returns:
        The rows of present samples.
    """
    rows, index = {}, {}
    for number, part in maps.items():
        chosen = present[:, number].nonzero()[:, 0]  # (R,)
        if len(chosen) > 0:
            rows[sensors[number]] = gather_samples(part.features, chosen)
            index[sensors[number]] = torch.searchsorted(seen, chosen)
    grid = next(iter(maps.values())).grid
    return LevelInputs(sensors=sensors, present=present[seen], size=(grid.num_y, grid.num_x), rows=rows, index=index)
