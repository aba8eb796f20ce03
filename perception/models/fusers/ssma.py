"""Self-supervised model adaptation (SSMA): a bottleneck decides which channels of all sensors count in a cell."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from perception.models.fusers._common import LevelFuser, LevelInputs, LevelwiseFuser, absence_vectors


class SsmaFuser(LevelwiseFuser):
    """Gates the concatenated maps by a bottleneck that sees their neighbourhood, then mixes them.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.
        reduction: channels of all sensors over those of the bottleneck.

    Raises:
        ValueError: the two do not name the same levels, a level has no sensor, or the reduction is below 1.

    Source:
        Valada et al. 2019, "Self-Supervised Model Adaptation for Multimodal Semantic Segmentation": the SSMA
        block.
    """

    def __init__(
        self, *, in_channels: dict[str, dict[str, int]], out_channels: dict[str, int], reduction: int = 6
    ) -> None:
        if reduction < 1:
            raise ValueError(f"SsmaFuser: reduction must be at least 1, got {reduction}")
        super().__init__(in_channels, out_channels, partial(_SsmaLevel, reduction=reduction))


class _SsmaLevel(LevelFuser):
    def __init__(self, in_channels: Mapping[str, int], out_channels: int, *, reduction: int) -> None:
        super().__init__()
        total = sum(in_channels.values())
        squeezed = max(total // reduction, 1)
        self.absence = absence_vectors(in_channels)
        self.gate = nn.Sequential(
            nn.Conv2d(total, squeezed, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, total, 3, padding=1),
            nn.Sigmoid(),
        )
        self.mix = nn.Sequential(nn.Conv2d(total, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        maps = torch.cat(inputs.filled(self.absence), dim=1)  # N x (S, C, Y, X) -> (S, sum of C, Y, X)
        return self.mix(self.gate(maps) * maps), {}
