"""Reconstruction of absent sensors' maps from present ones, in front of any fuser."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from perception.models.fusers._common import (
    LevelInputs,
    LevelwiseFuser,
    absence_vectors,
    embeddings,
    level_inputs,
    read_level,
    shrink,
    stretch,
)
from perception.models.layers import conv_block, scatter_samples
from perception.models.parts import AuxiliaryLoss, Fuser
from perception.structures import BevMap, FusedFeatures, SensorFeatures


class ReconstructingFuser(Fuser):
    """Puts predicted maps in the place of absent ones and hands all of them to a fuser as if they were present.

    In training, sensors that are there are hidden at random, at least one stays, and the auxiliary outputs
    `reconstruction/<level>/<sensor>` and `reconstruction_target/<level>/<sensor>` (M, C, Y, X) hold what was predicted
    for the M hidden samples and what was there. A predicted cell is not valid, as no sensor has said anything there.
    The learned absences of the fuser inside are out of use. Of a level whose sensors a sample has none of, nothing is
    predicted.

    Args:
        fuser: what puts the maps together.
        width: channels of the predicting network.
        depth: its residual blocks.
        stride: cells of the level per side of a cell of the network.
        hide_probability: of each present sensor in training.
        losses: loss name -> what trains the prediction, `perception.models.losses.reconstruction.ReconstructionLoss`.

    Raises:
        ValueError: a number is too small or the probability is not in [0, 1).

    Source:
        Woo et al. 2023, "Towards Good Practices for Missing Modality Robust Action Recognition" (ActionMAE); a
        convolutional network on maps takes the place of its transformer on tokens.
    """

    def __init__(
        self,
        *,
        fuser: LevelwiseFuser,
        width: int = 32,
        depth: int = 2,
        stride: int = 2,
        hide_probability: float = 0.3,
        losses: dict[str, AuxiliaryLoss] | None = None,
    ) -> None:
        super().__init__()
        if min(width, depth, stride) < 1 or not 0 <= hide_probability < 1:
            raise ValueError(
                f"ReconstructingFuser: width, depth and stride must be at least 1 and hide_probability in [0, 1), "
                f"got {width}, {depth}, {stride} and {hide_probability}"
            )
        self.fuser = fuser
        self.in_channels = fuser.in_channels
        self.out_channels = fuser.out_channels
        self.hide_probability = hide_probability
        self.losses = nn.ModuleDict(losses or {})
        self.predictors = nn.ModuleDict(
            {level: _Predictor(parts, width, depth, stride) for level, parts in fuser.in_channels.items()}
        )

    def auxiliary_losses(self) -> Mapping[str, AuxiliaryLoss]:
        """Gives the losses that train what it says beside its maps, those of the fuser inside among them.

        Returns:
            Loss name -> loss on the detector's auxiliary outputs.
        """
        return {**self.fuser.auxiliary_losses(), **dict(self.losses.items())}  # type: ignore[arg-type]

    def forward(self, features: Mapping[str, SensorFeatures]) -> FusedFeatures:
        """Fills the features up and fuses them.

        Args:
            features: sensor name -> features of B samples; a sensor may be missing altogether.

        Returns:
            The fuser's maps and auxiliary outputs, and in training those of the reconstruction.

        Raises:
            ValueError: the maps of a level lie on different grids, or there is none.
        """
        sensors = tuple(dict.fromkeys(sensor for parts in self.in_channels.values() for sensor in parts))
        maps = {
            level: read_level(type(self).__name__, level, tuple(parts), features)[0]
            for level, parts in self.in_channels.items()
        }
        present = _presence(sensors, features)
        kept = self._hide(present) if self.training else present
        bev: dict[str, BevMap] = {}
        aux: dict[str, Tensor] = {}
        for level, predictor in self.predictors.items():
            parts = tuple(self.in_channels[level])
            columns = [sensors.index(sensor) for sensor in parts]
            there = kept[:, columns]
            filled, named = self._fill(predictor, parts, maps[level], present[:, columns], there)
            seen = there.any(1)
            given = {sensor: SensorFeatures(present=seen, bev={level: part}) for sensor, part in filled.items()}
            bev[level], found = self.fuser.fuse_level(level, given)
            if "trust" in found:
                found["trust"] = _trust(found["trust"], there)
            aux |= {f"{name}/{level}": value for name, value in found.items()}
            aux |= {f"{name}/{level}/{sensor}": value for (name, sensor), value in named.items()}
        return FusedFeatures(bev=bev, aux=aux)

    def _hide(self, present: Tensor) -> Tensor:
        """Hides present sensors (B, sensors) at random; of each sample one stays."""
        draw = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
        return present & ((draw >= self.hide_probability) | (draw == draw.amax(1, keepdim=True)))

    def _fill(
        self, predictor: nn.Module, sensors: tuple[str, ...], maps: Mapping[int, BevMap], present: Tensor, kept: Tensor
    ) -> tuple[dict[str, BevMap], dict[tuple[str, str], Tensor]]:
        """Maps of a level's sensors, and what was predicted for hidden ones; presence (B, N).

        Nothing is predicted for a sample that has none of them.
        """
        seen = kept.any(1)
        places = seen.nonzero()[:, 0]  # (S,)
        if bool(kept[places].all()):
            return {sensors[number]: part for number, part in maps.items()}, {}
        predicted = predictor(level_inputs(sensors, maps, kept, places))
        grid = next(iter(maps.values())).grid
        filled, named = {}, {}
        for number, sensor in enumerate(sensors):
            guess = scatter_samples(predicted[sensor], places, len(kept))  # (S, C, Y, X) -> (B, C, Y, X)
            there = kept[:, number, None, None, None]
            if number in maps:
                known = maps[number]
                features = torch.where(there, known.features, guess)
                filled[sensor] = BevMap(features=features, validity=known.validity & there, grid=grid)
            else:
                filled[sensor] = BevMap(features=guess, validity=torch.zeros_like(guess[:, :1]).bool(), grid=grid)
            hidden = present[:, number] & ~kept[:, number] & seen  # (B,)
            if bool(hidden.any()):
                named["reconstruction", sensor] = guess[hidden]
                named["reconstruction_target", sensor] = maps[number].features[hidden].detach()
        return filled, named


def _trust(trust: Tensor, kept: Tensor) -> Tensor:
    """Takes the trust (B, N, Y, X) of what was predicted away; that of the others (B, N) adds up to one."""
    left = trust * kept[:, :, None, None]
    return left / left.sum(1, keepdim=True).clamp(min=1e-6)


def _presence(sensors: Sequence[str], features: Mapping[str, SensorFeatures]) -> Tensor:
    """Which sensors the samples have, (B, sensors); one that is not named is absent."""
    absent = torch.zeros_like(next(iter(features.values())).present)
    columns = [features[sensor].present if sensor in features else absent for sensor in sensors]
    return torch.stack(columns, dim=1)  # sensors x (B,) -> (B, sensors)


class _Predictor(nn.Module):
    """Guesses every sensor's map of one level from those that are there."""

    def __init__(self, in_channels: Mapping[str, int], width: int, depth: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.embed = embeddings(in_channels, width)
        self.absence = absence_vectors(dict.fromkeys(in_channels, width))
        self.blocks = nn.ModuleList(conv_block(width, width) for _ in range(depth))
        self.guess = nn.ModuleDict({sensor: nn.Conv2d(width, count, 1) for sensor, count in in_channels.items()})

    def forward(self, inputs: LevelInputs) -> dict[str, Tensor]:
        """Sensor name -> (S, C, Y, X)."""
        maps = torch.stack(inputs.apply(self.embed).filled(self.absence)).sum(0)  # N x (S, W, Y, X) -> (S, W, Y, X)
        maps = shrink(maps, self.stride)
        for block in self.blocks:
            maps = maps + block(maps)
        return {sensor: stretch(guess(maps), self.stride, inputs.size) for sensor, guess in self.guess.items()}
