"""A memory of the last maps of each drive, moved along with the vehicle and read by attention over time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.layers import conv_block
from perception.models.parts import Temporal
from perception.models.temporal.warp import warp_maps
from perception.structures import Batch, BevMap, FusedFeatures
from perception.structures.state import PartState


@dataclass(frozen=True, kw_only=True)
class BevMemory(PartState):
    """Fused maps of the last T moments of B drives, newest first, as they were before anything older was added.

    Args:
        scenes: B scene names.
        timestamps_us: (B, T) int64.
        aug2global: (B, T, 4, 4) float64, from the augmented ego frame that the maps lie in.
        kept: (B, T) bool; the content means nothing where it is false.
        features: level name -> (B, T, C, Y, X), without gradient.
        validity: level name -> (B, T, 1, Y, X) bool.
        grids: level name -> where the maps lie.
    """

    scenes: tuple[str, ...]
    timestamps_us: Tensor
    aug2global: Tensor
    kept: Tensor
    features: Mapping[str, Tensor]
    validity: Mapping[str, Tensor]
    grids: Mapping[str, Grid]

    def reset(self, samples: Tensor) -> "BevMemory":
        """Forgets some of the drives.

        Args:
            samples: (B,) bool, those to forget.

        Returns:
            The memory without them; the others are unchanged.
        """
        return replace(self, kept=self.kept & ~samples[:, None])


class BevHistory(Temporal):
    """Adds to each cell what the last maps of the same drive showed at its place in the world.

    Each earlier map is moved by the true motion of the vehicle, whatever augmentation either moment had. A network
    compares it with the present one, and each cell takes a mean over the moments, weighted by what the comparison says,
    one of the weights being for nothing at all. A drive that begins, jumps back in time or pauses longer than
    `max_age_s` starts afresh; without history the maps stay as they are.

    Args:
        channels: level name -> channels of the maps; other levels pass unchanged.
        num_moments: how many moments to remember.
        max_age_s: moments older than this do not count.

    Raises:
        ValueError: no level, or less than one moment.

    Source:
        The memory bank of MetaOcc (2025) and the alignment of Huang and Huang 2022, "BEVDet4D", section 3.2, with
        weights over the moments of this project's own.
    """

    def __init__(self, *, channels: dict[str, int], num_moments: int = 2, max_age_s: float = 2.0) -> None:
        super().__init__()
        if not channels or num_moments < 1:
            raise ValueError(
                f"BevHistory: channels must name a level and num_moments be above 0, got {channels} and {num_moments}"
            )
        self.in_channels = dict(channels)
        self.num_moments = num_moments
        self.max_age_s = max_age_s
        self.levels = nn.ModuleDict({level: _LevelHistory(count) for level, count in channels.items()})

    def forward(
        self, fused: FusedFeatures, batch: Batch, state: PartState | None = None
    ) -> tuple[FusedFeatures, BevMemory]:
        """Adds the history and remembers the present.

        Args:
            fused: what the fuser gave for B samples.
            batch: the samples: drive, time, motion and augmentation.
            state: the memory that the last call gave for the same B drives, in this order; None remembers nothing.

        Returns:
            The maps with their history, valid where either is, and the memory for the next call.

        Raises:
            TypeError: the state is another part's.
            ValueError: the state is of another number of drives, other levels or other grids.
        """
        aug2global = batch.ego2global @ torch.linalg.inv(batch.ego2aug)  # (B, 4, 4)
        placed = _finite(aug2global)  # (B,)
        memory = _continued(_checked(state, fused, len(batch), self.in_channels), batch, self.max_age_s)
        memory = replace(memory, kept=memory.kept & placed[:, None])
        sample, moment = memory.kept.nonzero().unbind(1)  # (R,) each
        now2then = torch.linalg.inv(memory.aug2global[sample, moment]) @ aug2global[sample]  # (R, 4, 4)
        ages_s = _ages_s(memory, batch)[sample, moment].float()
        bev = dict(fused.bev)
        for level, history in self.levels.items():
            past = _Past(
                features=memory.features[level][sample, moment],
                validity=memory.validity[level][sample, moment],
                now2then=now2then,
                ages_s=ages_s,
                kept=memory.kept,
            )
            bev[level] = history(bev[level], past)
        return replace(fused, bev=bev), self._remember(fused, batch, aug2global, memory)

    def _remember(self, fused: FusedFeatures, batch: Batch, aug2global: Tensor, memory: BevMemory) -> BevMemory:
        newest = {name: fused.bev[name] for name in self.levels}
        older = self.num_moments - 1
        sound = torch.stack([_finite(aug2global), *(_finite(bev.features) for bev in newest.values())]).all(0)  # (B,)
        return BevMemory(
            scenes=batch.scenes,
            timestamps_us=_prepend(batch.timestamps_us, memory.timestamps_us[:, :older]),
            aug2global=_prepend(aug2global, memory.aug2global[:, :older]),
            kept=_prepend(sound, memory.kept[:, :older]),
            features={name: _prepend(bev.features, memory.features[name][:, :older]) for name, bev in newest.items()},
            validity={name: _prepend(bev.validity, memory.validity[name][:, :older]) for name, bev in newest.items()},
            grids=memory.grids,
        )


@dataclass(frozen=True, kw_only=True)
class _Past:
    """Earlier maps of one level: of R of the T moments of B samples, the true ones of `kept` (B, T), in order.

    `features` (R, C, Y, X), `validity` (R, 1, Y, X), the motion since `now2then` (R, 4, 4), `ages_s` (R,).
    """

    features: Tensor
    validity: Tensor
    now2then: Tensor
    ages_s: Tensor
    kept: Tensor


class _LevelHistory(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.compare = conv_block(2 * channels + 2, channels)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, level: BevMap, past: _Past) -> BevMap:
        """Adds the earlier maps to the present one."""
        if not bool(past.kept.any()):
            return level
        sample = past.kept.nonzero()[:, 0]  # (R,)
        warped, seen = _warp_seen(past, level.grid)
        valid = seen.to(warped.dtype)
        ages = past.ages_s.to(warped.dtype)[:, None, None, None].expand_as(valid)
        compared = self.compare(torch.cat((level.features[sample], warped, valid, ages), dim=1))  # (R, C, Y, X)
        scores = self.score(compared).float().masked_fill(~seen, -torch.inf)
        by_moment = _spread(scores, past.kept, -torch.inf)  # (B, T, 1, Y, X)
        nothing = torch.zeros_like(by_moment[:, :1])
        weights = torch.cat((nothing, by_moment), dim=1).softmax(1)[:, 1:][past.kept]  # (R, 1, Y, X)
        added = _spread(weights * self.value(compared), past.kept, 0.0).sum(1)  # (B, C, Y, X)
        return BevMap(
            features=level.features + added.to(level.features.dtype),
            validity=level.validity | _spread(seen, past.kept, False).any(1),
            grid=level.grid,
        )


def _warp_seen(past: _Past, grid: Grid) -> tuple[Tensor, Tensor]:
    """What earlier maps showed where the cells lie now (R, C, Y, X), and whether the cell there was seen (R, 1, Y, X).

    Beside cells that were seen there may be anything, and nothing beyond the map: neither is mixed in.
    """
    features = past.features.float().masked_fill(~past.validity, 0.0)
    warped, inside = warp_maps(torch.cat((features, past.validity.float()), dim=1), past.now2then, grid)
    valid, _ = warp_maps(past.validity.float(), past.now2then, grid, nearest=True)
    share = warped[:, -1:]  # of the interpolation, of cells that were seen
    return warped[:, :-1] / share.clamp(min=torch.finfo(share.dtype).tiny), inside & (valid > 0.5)


def _spread(rows: Tensor, kept: Tensor, fill: float) -> Tensor:
    """(R, ...) -> (B, T, ...), `fill` where no moment is kept."""
    return rows.new_full((*kept.shape, *rows.shape[1:]), fill).index_put((kept,), rows)


def _prepend(newest: Tensor, older: Tensor) -> Tensor:
    """(B, ...) and (B, T, ...) -> (B, 1 + T, ...), without gradient."""
    return torch.cat((newest.detach()[:, None], older), dim=1)


def _finite(rows: Tensor) -> Tensor:
    """(B, ...) -> (B,) whether all numbers of a sample are finite."""
    return rows.detach().isfinite().flatten(1).all(1)


def _ages_s(memory: BevMemory, batch: Batch) -> Tensor:
    """(B, T) float64 how long ago each moment was."""
    return (batch.timestamps_us[:, None] - memory.timestamps_us).double() * 1e-6


def _continued(memory: BevMemory, batch: Batch, max_age_s: float) -> BevMemory:
    """The memory without the moments that the drives of a batch do not continue."""
    same = torch.tensor([a == b for a, b in zip(batch.scenes, memory.scenes, strict=True)], device=batch.device)
    ages_s = _ages_s(memory, batch)
    onward = same & ~(memory.kept & (ages_s < 0)).any(1)  # (B,); a moment from before the jump back goes with the rest
    return replace(memory, kept=memory.kept & onward[:, None] & (ages_s > 0) & (ages_s <= max_age_s))


def _checked(state: PartState | None, fused: FusedFeatures, batch_size: int, levels: Mapping[str, int]) -> BevMemory:
    """The state as a memory; one of no moments where there is none."""
    maps = {name: fused.bev[name] for name in levels}
    grids = {name: bev.grid for name, bev in maps.items()}
    if state is None:
        kept = next(iter(maps.values())).validity.new_zeros(batch_size, 0)
        return BevMemory(
            scenes=("",) * batch_size,
            timestamps_us=kept.long(),
            aug2global=torch.zeros(batch_size, 0, 4, 4, dtype=torch.float64, device=kept.device),
            kept=kept,
            features={name: bev.features.detach()[:, None][:, :0] for name, bev in maps.items()},
            validity={name: bev.validity[:, None][:, :0] for name, bev in maps.items()},
            grids=grids,
        )
    if not isinstance(state, BevMemory):
        raise TypeError(f"BevHistory: state must be a BevMemory, got {type(state).__name__}")
    if len(state.scenes) != batch_size or set(state.features) != set(levels):
        raise ValueError(
            f"BevHistory: state must be of {batch_size} drives and levels {sorted(levels)}, "
            f"got {len(state.scenes)} and {sorted(state.features)}"
        )
    if state.grids != grids:
        raise ValueError(f"BevHistory: state must be of the grids {grids}, got {state.grids}")
    return state
