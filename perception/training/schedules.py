"""How the learning rate changes over a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


class Schedule(ABC):
    """Changes the learning rate step by step over a run whose length is known."""

    @abstractmethod
    def build(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """Makes torch's scheduler.

        Args:
            optimizer: its learning rate is the highest of the run.
            num_steps: steps of the optimizer in the whole run.

        Returns:
            The scheduler, to be stepped once per step of the optimizer.
        """


class WarmupCosine(Schedule):
    """Rises along a half cosine to the optimizer's learning rate, then falls along another one.

    With a warm-up of 0 it is plain cosine decay.

    Args:
        warmup: share of the run in which the rate rises, in [0, 1).
        start_factor: rate at the start, relative to the optimizer's.
        end_factor: rate at the end, relative to the optimizer's.

    Raises:
        ValueError: an argument is out of range.

    Source: Loshchilov and Hutter, "SGDR", 2017, without restarts.
    """

    def __init__(self, *, warmup: float = 0.3, start_factor: float = 0.1, end_factor: float = 1e-3) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"WarmupCosine: warmup must be in [0, 1), got {warmup}")
        if start_factor < 0 or end_factor < 0:
            raise ValueError(f"WarmupCosine: factors must be >= 0, got {start_factor} and {end_factor}")
        self.warmup = warmup
        self.start_factor = start_factor
        self.end_factor = end_factor

    def build(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """Makes torch's scheduler.

        Args:
            optimizer: its learning rate is the highest of the run.
            num_steps: steps of the optimizer in the whole run.

        Returns:
            The scheduler, to be stepped once per step of the optimizer.
        """
        return LambdaLR(optimizer, lambda step: self.factor(step / num_steps))

    def factor(self, progress: float) -> float:
        """Gives the rate at one moment.

        Args:
            progress: share of the run that is done; beyond 1 the rate stays.

        Returns:
            The rate relative to the optimizer's.
        """
        progress = min(progress, 1.0)
        if progress < self.warmup:
            return _ramp(self.start_factor, 1.0, progress / self.warmup)
        return _ramp(1.0, self.end_factor, (progress - self.warmup) / (1 - self.warmup))


class OneCycle(Schedule):
    """The one-cycle policy: while the rate rises and falls as in `WarmupCosine`, the momentum falls and rises.

    For Adam the momentum is its first beta.

    Args:
        peak_at: share of the run after which the rate is highest, in (0, 1).
        start_factor: rate at the start, relative to the optimizer's.
        end_factor: rate at the end, relative to the optimizer's.
        momentum: its lowest value, at the peak, and its highest, at both ends.

    Raises:
        ValueError: an argument is out of range.

    Source: Smith and Topin, "Super-Convergence", 2018; the values are those usual for LiDAR detectors (Zhu et al.,
    "Class-balanced Grouping and Sampling for Point Cloud 3D Object Detection", 2019).
    """

    def __init__(
        self,
        *,
        peak_at: float = 0.4,
        start_factor: float = 0.1,
        end_factor: float = 1e-4,
        momentum: tuple[float, float] = (0.85, 0.95),
    ) -> None:
        if not 0 < peak_at < 1:
            raise ValueError(f"OneCycle: peak_at must be in (0, 1), got {peak_at}")
        if min(start_factor, end_factor) <= 0:
            raise ValueError(f"OneCycle: factors must be positive, got {start_factor} and {end_factor}")
        if not 0 <= momentum[0] <= momentum[1] < 1:
            raise ValueError(f"OneCycle: momentum must be two rising numbers in [0, 1), got {momentum}")
        self.peak_at = peak_at
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.momentum = momentum

    def build(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """Makes torch's scheduler.

        Args:
            optimizer: its learning rate is the highest of the run; it has `momentum` or `betas`.
            num_steps: steps of the optimizer in the whole run.

        Returns:
            The scheduler, to be stepped once per step of the optimizer.

        Raises:
            ValueError: the optimizer has no momentum.
        """
        # A rise of exactly one step makes torch's scheduler divide by zero.
        rise_steps = max(self.peak_at * num_steps, 1.5)
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=max(num_steps, 2),
            pct_start=min(rise_steps / max(num_steps, 2), 1.0),
            div_factor=1 / self.start_factor,
            final_div_factor=self.start_factor / self.end_factor,
            base_momentum=self.momentum[0],
            max_momentum=self.momentum[1],
        )


def _ramp(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
