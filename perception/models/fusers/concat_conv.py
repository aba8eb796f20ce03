"""Concatenation and convolution: the plain fuser for any subset of sensors."""

from collections.abc import Mapping

from torch import Tensor

from perception.models.fusers._common import LevelFuser, LevelInputs, LevelwiseFuser, absence_vectors
from perception.models.layers import conv_block


class ConcatConvFuser(LevelwiseFuser):
    """Concatenates the sensors' maps level by level and mixes them with one convolution.

    A sensor that a sample does not have is replaced by a learned vector, the same in every cell: what lies in the rows
    of absent samples is never read, and "absent" differs from "saw nothing".

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.

    Raises:
        ValueError: the two do not name the same levels, or a level has no sensor.
    """

    def __init__(self, *, in_channels: dict[str, dict[str, int]], out_channels: dict[str, int]) -> None:
        super().__init__(in_channels, out_channels, _ConcatConvLevel)


class _ConcatConvLevel(LevelFuser):
    def __init__(self, in_channels: Mapping[str, int], out_channels: int) -> None:
        super().__init__()
        self.absence = absence_vectors(in_channels)
        self.mix = conv_block(sum(in_channels.values()), out_channels)

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        return self.mix[1:](inputs.convolved(self.mix.get_parameter("0.weight"), self.absence)), {}
