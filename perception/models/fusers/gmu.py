"""Gated multimodal units: per cell and channel, a weighted sum of the sensors, and the weights are learned."""

from collections.abc import Mapping
from functools import partial, reduce

import torch
from torch import Tensor, nn

from perception.models.fusers._common import (
    LevelFuser,
    LevelInputs,
    LevelwiseFuser,
    absence_vectors,
    masked_softmax,
)


class GmuFuser(LevelwiseFuser):
    """Adds the sensors up with gates that see all of them.

    Each sensor's map becomes a value in (-1, 1); gates that add up to one over the sensors that a sample has weigh the
    values in every cell and channel. The auxiliary output `trust/<level>` (B, N, Y, X) is each gate's mean over the
    channels, in the order of `in_channels`.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.
        kernel: odd kernel size of the convolutions that give the values.

    Raises:
        ValueError: the two do not name the same levels, or a level has no sensor.

    Source:
        Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion"; the gates of more than two
        inputs are a softmax here instead of independent sigmoids, which for two inputs is the same.
    """

    def __init__(
        self, *, in_channels: dict[str, dict[str, int]], out_channels: dict[str, int], kernel: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, partial(_GmuLevel, kernel=kernel))


class _GmuLevel(LevelFuser):
    def __init__(self, in_channels: Mapping[str, int], out_channels: int, *, kernel: int) -> None:
        super().__init__()
        self.values = nn.ModuleDict(
            {
                sensor: nn.Sequential(nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2), nn.Tanh())
                for sensor, channels in in_channels.items()
            }
        )
        self.absence = absence_vectors(in_channels, for_softmax=True)
        self.gates = nn.Conv2d(sum(in_channels.values()), len(in_channels) * out_channels, 1)

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        logits = self.gates(torch.cat(inputs.filled(self.absence), dim=1))  # (S, N * C, Y, X)
        gates = masked_softmax(logits.unflatten(1, (len(inputs.sensors), -1)), inputs.present)  # (S, N, C, Y, X)
        values = inputs.apply(self.values)
        terms = [gates[:, inputs.sensors.index(sensor)] * values.spread(sensor) for sensor in values.rows]
        return reduce(torch.add, terms), {"trust": gates.mean(2)}
