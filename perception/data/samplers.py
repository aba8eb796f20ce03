"""In which order a data loader visits a dataset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, position), a different order every epoch; the ranks of a job share the positions.

    The epoch travels with every position, so that worker processes that live longer than an epoch know it. The order
    depends on `seed` and the epoch alone.

    Args:
        num_samples: positions to visit, over all ranks.
        shuffle: whether to mix the order.
        seed: of the order.
        rank: which share is visited here.
        world_size: number of shares.
        even: whether every rank gets the same number of positions, the first ones repeated if need be (training);
            otherwise each position is visited once over all ranks (evaluation).

    Raises:
        ValueError: `rank` is not in 0..world_size - 1, or there are no samples.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f"EpochSampler: num_samples must be at least 1, got {num_samples}")
        if not 0 <= rank < world_size:
            raise ValueError(f"EpochSampler: rank must be in 0..{world_size - 1}, got {rank}")
        self.num_samples = num_samples
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.even = even
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass.

        Args:
            epoch: counts from 0.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = torch.arange(self.num_samples)
        if self.shuffle:
            order = torch.randperm(self.num_samples, generator=seeded_generator(self.seed, epoch))
        if self.even:  # as often around as it takes: a job may have more ranks than samples
            order = order[torch.arange(len(self) * self.world_size) % self.num_samples]
        return ((epoch, position) for position in order[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        missing = self.world_size - 1 if self.even else self.world_size - 1 - self.rank
        return (self.num_samples + missing) // self.world_size


def seeded_generator(*numbers: int) -> torch.Generator:
    """A random generator whose stream depends on the numbers alone; different numbers give unrelated streams.

    Args:
        numbers: not negative, such as seed, epoch, position.

    Returns:
        The generator, on the CPU.

    Raises:
        ValueError: a number is negative.
    """
    if min(numbers) < 0:
        raise ValueError(f"seeded_generator: numbers must not be negative, got {numbers}")
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
