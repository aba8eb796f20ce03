"""An exponential moving average of the weights."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn


class WeightEma(WeightAveraging):
    """Averages weights and running statistics after every step; validation and written weights use the average.

    The first steps count more: after n steps the decay is min(decay, (1 + n) / (10 + n)). Counters are copied. The
    average is part of every checkpoint: as its `state_dict`, so that weights read from one are the averaged ones.

    Args:
        decay: share of the average that a step keeps, in [0, 1).

    Raises:
        ValueError: `decay` is out of range.

    Source: Polyak and Juditsky, 1992; the warm-up is TensorFlow's `ExponentialMovingAverage(num_updates)`.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"WeightEma: decay must be in [0, 1), got {decay}")
        super().__init__(multi_avg_fn=self._update)
        self.decay = decay

    @property
    def averaged(self) -> nn.Module | None:
        """The module with averaged weights; None outside of training."""
        average = self._average_model
        return average.module if average is not None else None

    def _update(self, averages: list[Tensor], currents: list[Tensor], num_averaged: Tensor | int) -> None:
        """Changes averages of one dtype in place."""
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, currents)
            return
        count = float(num_averaged)
        torch._foreach_lerp_(averages, currents, 1 - min(self.decay, (1 + count) / (10 + count)))
