"""Random numbers of a training step that depend on which step it is, not on what ran before."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_step(*numbers: int) -> None:
    """Sets the generators of Python, numpy and torch, on all devices.

    Started so, every step of a run that was interrupted draws what it would have drawn without the interruption: no
    state of a generator has to be kept, and neither validation nor loading changes what training draws.

    Args:
        numbers: not negative, such as seed, number of the batch, rank.

    Raises:
        ValueError: a number is negative.
    """
    for_python, for_numpy, for_torch = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)
