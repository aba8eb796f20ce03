"""Quality-aware fusion (QMF): each sensor's word weighs as much as its own classifier is sure of itself there."""

from collections.abc import Mapping
from functools import partial, reduce

import torch
from torch import Tensor, nn

from perception.models.fusers._common import LevelFuser, LevelInputs, LevelwiseFuser, masked_softmax
from perception.models.layers import conv_block
from perception.models.parts import AuxiliaryLoss
from perception.structures import FusedFeatures, SensorFeatures


class QmfFuser(LevelwiseFuser):
    """Adds the sensors' maps up with weights from the energy of a small classifier that each sensor has of its own.

    No sensor's weight depends on what another one sees but through their sum. Auxiliary outputs, N sensors in the order
    of `in_channels`:
    `trust/<level>` (B, N, Y, X): the weights, adding up to one over the sensors that a sample has;
    `evidence/<level>` (B, N, 1 + K, Y, X): logits of "nothing" and of the K classes, zeros where absent;
    `centers_m/<level>` (Y, X, 2): x and y of the cells in the augmented ego frame.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.
        num_classes: the detector's classes K.
        hidden_channels: of the classifiers.
        temperature: of the energy.
        losses: loss name -> what trains the classifiers and the ranking of their confidence, one
            `perception.models.losses.quality.QualityLoss` for each level; without it trust means nothing.

    Raises:
        ValueError: the two do not name the same levels, a level has no sensor, or a number is not positive.

    Source:
        Zhang et al. 2023, "Provable Dynamic Fusion for Low-Quality Multimodal Data" (energy as confidence). There,
        decisions of a whole sample are added up, each times its confidence; here maps are, cell by cell, and a softmax
        over the sensors makes the weights of the confidences.
    """

    def __init__(
        self,
        *,
        in_channels: dict[str, dict[str, int]],
        out_channels: dict[str, int],
        num_classes: int,
        hidden_channels: int = 32,
        temperature: float = 1.0,
        losses: dict[str, AuxiliaryLoss] | None = None,
    ) -> None:
        if min(num_classes, hidden_channels) < 1 or temperature <= 0:
            raise ValueError(
                f"QmfFuser: num_classes, hidden_channels and temperature must be positive, "
                f"got {num_classes}, {hidden_channels} and {temperature}"
            )
        build = partial(_QmfLevel, num_classes=num_classes, hidden_channels=hidden_channels, temperature=temperature)
        super().__init__(in_channels, out_channels, build)
        self.losses = nn.ModuleDict(losses or {})

    def auxiliary_losses(self) -> Mapping[str, AuxiliaryLoss]:
        """Gives the losses that train what it says beside its maps.

        Returns:
            Loss name -> loss on the detector's auxiliary outputs.
        """
        return dict(self.losses.items())  # type: ignore[arg-type]

    def forward(self, features: Mapping[str, SensorFeatures]) -> FusedFeatures:
        """Fuses the features.

        Args:
            features: sensor name -> features of B samples; a sensor may be missing altogether.

        Returns:
            One map per level, valid where any present sensor has said anything, and the levels' auxiliary outputs.

        Raises:
            ValueError: the maps of a level lie on different grids, or there is none.
        """
        fused = super().forward(features)
        centers = {
            f"centers_m/{level}": part.grid.centers_xy().to(part.features.device, torch.float32)
            for level, part in fused.bev.items()
        }
        return FusedFeatures(bev=fused.bev, aux={**fused.aux, **centers})


def energy_confidence(evidence: Tensor, temperature: float = 1.0) -> Tensor:
    """Gives the negative free energy of logits: high where a classifier is sure of anything.

    Args:
        evidence: (..., K, Y, X) logits.
        temperature: above 0.

    Returns:
        (..., Y, X).
    """
    return temperature * (evidence / temperature).logsumexp(-3)


class _QmfLevel(LevelFuser):
    def __init__(
        self,
        in_channels: Mapping[str, int],
        out_channels: int,
        *,
        num_classes: int,
        hidden_channels: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.values = nn.ModuleDict({sensor: conv_block(count, out_channels) for sensor, count in in_channels.items()})
        self.classifiers = nn.ModuleDict(
            {
                sensor: nn.Sequential(
                    conv_block(count, hidden_channels), nn.Conv2d(hidden_channels, 1 + num_classes, 1)
                )
                for sensor, count in in_channels.items()
            }
        )

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        classified, values = inputs.apply(self.classifiers), inputs.apply(self.values)
        shape = classified.spread(next(iter(inputs.rows)))
        evidence = torch.stack(
            [classified.spread(name) if name in inputs.rows else torch.zeros_like(shape) for name in inputs.sensors], 1
        )  # N x (S, 1 + K, Y, X) -> (S, N, 1 + K, Y, X)
        trust = masked_softmax(energy_confidence(evidence, self.temperature), inputs.present)  # (S, N, Y, X)
        terms = [trust[:, [inputs.sensors.index(sensor)]] * values.spread(sensor) for sensor in inputs.rows]
        return reduce(torch.add, terms), {"trust": trust, "evidence": evidence}
