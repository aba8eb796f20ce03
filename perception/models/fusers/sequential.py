"""Sequential fusion (MultiModN): the sensors update one state in turn; an absent one is a step that is not taken."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from perception.models.fusers._common import LevelFuser, LevelInputs, LevelwiseFuser
from perception.models.layers import conv_block


class SequentialFuser(LevelwiseFuser):
    """Lets one sensor after another change a map, which starts as a learned vector in every cell.

    The auxiliary output `state_<n>/<level>` (B, C, Y, X) is the map after step n; the last one is the fused map, so
    that whatever reads it can read every one of them. Nothing stands in for an absent sensor.

    Args:
        in_channels: level name -> sensor name -> channels.
        out_channels: level name -> channels.
        order: names of all sensors, the first one first; None takes the order of `in_channels`.
        shuffle: whether training takes a new order in every batch, so that each step learns to be any step.

    Raises:
        ValueError: the two do not name the same levels, a level has no sensor, or the order does not name each sensor
            once.

    Source:
        Swamy et al. 2023, "MultiModN - Multimodal, Multi-Task, Interpretable Modular Networks". There, training reads
        the state after every step; here, losses reach the earlier steps through the last state alone.
    """

    def __init__(
        self,
        *,
        in_channels: dict[str, dict[str, int]],
        out_channels: dict[str, int],
        order: Sequence[str] | None = None,
        shuffle: bool = True,
    ) -> None:
        known = list(dict.fromkeys(sensor for sensors in in_channels.values() for sensor in sensors))
        order = known if order is None else list(order)
        if sorted(order) != sorted(known):
            raise ValueError(f"SequentialFuser: order must name each of {known} once, got {order}")
        super().__init__(in_channels, out_channels, partial(_SequentialLevel, order=order, shuffle=shuffle))


class _SequentialLevel(LevelFuser):
    def __init__(
        self, in_channels: Mapping[str, int], out_channels: int, *, order: Sequence[str], shuffle: bool
    ) -> None:
        super().__init__()
        self.order = [sensor for sensor in order if sensor in in_channels]
        self.shuffle = shuffle
        self.start = nn.Parameter(torch.zeros(out_channels, 1, 1))
        self.steps = nn.ModuleDict(
            {
                sensor: nn.Sequential(
                    conv_block(in_channels[sensor] + out_channels, out_channels),
                    nn.Conv2d(out_channels, out_channels, 1),
                )
                for sensor in self.order
            }
        )

    def forward(self, inputs: LevelInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuses one level."""
        order = self.order
        if self.training and self.shuffle:
            order = [self.order[number] for number in torch.randperm(len(self.order)).tolist()]
        state = self.start.expand(len(inputs.present), -1, *inputs.size)  # (C, 1, 1) -> (S, C, Y, X)
        states = {}
        for number, sensor in enumerate(order):
            if sensor in inputs.rows:
                state = self._step(state, sensor, inputs)
            states[f"state_{number}"] = state
        return state, states

    def _step(self, state: Tensor, sensor: str, inputs: LevelInputs) -> Tensor:
        """Changes the state of the samples that have the sensor."""
        rows, index = inputs.rows[sensor], inputs.index[sensor]
        everyone = len(index) == len(state)
        old = state if everyone else state[index]  # (S, C, Y, X) -> (R, C, Y, X)
        new = old + self.steps[sensor](torch.cat((rows, old), dim=1))
        return new if everyone else state.index_copy(0, index, new.to(state.dtype))
