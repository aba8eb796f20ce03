"""How the learning rate changes over a run."""

from __future__ import annotations

import math


class WarmupCosine:
    """Rises along a half cosine to the optimizer's learning rate, then falls along another one.

    With a warm-up of 0.3 or 0.4 it is the one-cycle policy; with 0 plain cosine decay.

    Args:
        warmup: share of the run in which the rate rises, in [0, 1).
        start_factor: rate at the start, relative to the optimizer's.
        end_factor: rate at the end, relative to the optimizer's.

    Raises:
        ValueError: an argument is out of range.

    Source: Smith and Topin, "Super-Convergence", 2018, with cosine ramps.
    """

    def __init__(self, *, warmup: float = 0.3, start_factor: float = 0.1, end_factor: float = 1e-3) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"WarmupCosine: warmup must be in [0, 1), got {warmup}")
        if start_factor < 0 or end_factor < 0:
            raise ValueError(f"WarmupCosine: factors must be >= 0, got {start_factor} and {end_factor}")
        self.warmup = warmup
        self.start_factor = start_factor
        self.end_factor = end_factor

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


def _ramp(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
