"""In which order a data loader visits a dataset."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from perception.data.annotations import class_label_map
from perception.data.index import Index

_LOG = logging.getLogger(__name__)


class Visit(NamedTuple):
    """What a sampler asks a dataset for; the random changes of a sample depend on these numbers and the seed alone.

    Attributes:
        epoch: counts from 0.
        position: in the dataset.
        repeat: how often the position came earlier in the same epoch, over all ranks.
    """

    epoch: int
    position: int
    repeat: int = 0


class EpochSampler(Sampler[Visit]):
    """Yields visits, in a different order every epoch; the ranks of a job share them.

    The epoch travels with every position, so that worker processes that live longer than an epoch know it. The order
    depends on `seed` and the epoch alone.

    Args:
        num_samples: positions of the dataset.
        shuffle: whether to mix the order.
        seed: of the order.
        rank: which share is visited here.
        world_size: number of shares.
        even: whether every rank gets the same number of visits, the first ones repeated if need be (training);
            otherwise each visit happens once over all ranks (evaluation).

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
            raise ValueError(f"{type(self).__name__}: num_samples must be at least 1, got {num_samples}")
        if not 0 <= rank < world_size:
            raise ValueError(f"{type(self).__name__}: rank must be in 0..{world_size - 1}, got {rank}")
        self.num_samples = num_samples
        self.num_visits = num_samples
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.even = even
        self.epoch = 0
        self._resume: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass.

        Args:
            epoch: counts from 0.
        """
        self.epoch = epoch

    def resume(self, epoch: int, num_seen: int) -> None:
        """Makes the next pass, and that one alone, go on within an epoch, whatever `set_epoch` says.

        A trainer makes its first iterator before it knows in which epoch it goes on.

        Args:
            epoch: counts from 0.
            num_seen: visits of this rank in that epoch that are left out.
        """
        self._resume = (epoch, num_seen)

    def order(self, epoch: int) -> Tensor:
        """The positions that all ranks together visit in an epoch.

        Args:
            epoch: counts from 0.

        Returns:
            (num_visits,) int64.
        """
        if self.shuffle:
            return torch.randperm(self.num_samples, generator=seeded_generator(self.seed, epoch))
        return torch.arange(self.num_samples)

    def __iter__(self) -> Iterator[Visit]:
        epoch, num_seen = self._resume or (self.epoch, 0)
        self._resume = None
        order = self.order(epoch)
        if self.even:  # as often around as it takes: a job may have more ranks than samples
            order = order[torch.arange(len(self) * self.world_size) % self.num_visits]
        visits = torch.stack((order, _earlier_visits(order)), dim=1)  # 2 x (V,) -> (V, 2)
        own = visits[self.rank :: self.world_size][num_seen:].tolist()
        return (Visit(epoch, position, repeat) for position, repeat in own)

    def __len__(self) -> int:
        missing = self.world_size - 1 if self.even else self.world_size - 1 - self.rank
        return (self.num_visits + missing) // self.world_size


class ClassBalancedSampler(EpochSampler):
    """Draws samples so that each class is the reason for equally many visits; rare classes are seen more often.

    With n_c samples that hold class c, N the sum of all n_c and C the classes that occur, an epoch has N // C visits
    per class, drawn with replacement from the samples that hold it, anew every epoch, and mixed. A sample without any
    object is not visited.

    Args:
        classes: for every position of the dataset the labels of the objects in it.
        seed: of the draws and the order.
        rank: which share is visited here.
        world_size: number of shares.
        even: as in `EpochSampler`.

    Raises:
        ValueError: no sample holds an object, or `rank` is not in 0..world_size - 1.

    Source: Zhu et al., "Class-balanced Grouping and Sampling for Point Cloud 3D Object Detection", 2019 (its sampling).
    """

    def __init__(
        self,
        *,
        classes: Sequence[Collection[int]],
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        super().__init__(num_samples=len(classes), seed=seed, rank=rank, world_size=world_size, even=even)
        holders: dict[int, list[int]] = {}
        for position, labels in enumerate(classes):
            for label in set(labels):
                holders.setdefault(label, []).append(position)
        if not holders:
            raise ValueError("ClassBalancedSampler: classes must name an object in at least one sample, got none")
        self._holders = [torch.tensor(holders[label]) for label in sorted(holders)]
        self._visits_per_class = sum(map(len, self._holders)) // len(self._holders)
        self.num_visits = self._visits_per_class * len(self._holders)

    def order(self, epoch: int) -> Tensor:
        """The positions that all ranks together visit in an epoch.

        Args:
            epoch: counts from 0.

        Returns:
            (num_visits,) int64.
        """
        generator = seeded_generator(self.seed, epoch)
        count = self._visits_per_class
        drawn = [held[torch.randint(len(held), (count,), generator=generator)] for held in self._holders]
        return torch.cat(drawn)[torch.randperm(self.num_visits, generator=generator)]  # C x (count,) -> (C * count,)


class DriveSampler(EpochSampler):
    """Lets every row of the batches follow a drive: row b of a batch is the moment after row b of the batch before.

    The drives are laid end to end, those of training in mixed order, and cut into as many streams as the batches of all
    ranks have rows. A stream goes from drive to drive, and may begin in the midst of one.

    Args:
        drives: for every position of the dataset a number of its drive; positions of a drive lie together, in order of
            time.
        batch_size: rows of a batch of each rank.
        shuffle: whether to mix the order of the drives, anew every epoch.
        seed: of the order.
        rank: which share is visited here.
        world_size: number of shares.
        even: as in `EpochSampler`; if so, all batches are full.

    Raises:
        ValueError: as `EpochSampler`, or `batch_size` is below 1.
    """

    def __init__(
        self,
        *,
        drives: Sequence[int] | np.ndarray,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        even: bool = True,
    ) -> None:
        super().__init__(
            num_samples=len(drives), shuffle=shuffle, seed=seed, rank=rank, world_size=world_size, even=even
        )
        if batch_size < 1:
            raise ValueError(f"DriveSampler: batch_size must be at least 1, got {batch_size}")
        begins = np.flatnonzero(np.diff(np.asarray(drives))) + 1
        self._drives = torch.arange(self.num_samples).tensor_split(torch.from_numpy(begins))
        self._num_streams = batch_size * world_size
        if even:
            self.num_visits = -(-self.num_samples // self._num_streams) * self._num_streams

    def order(self, epoch: int) -> Tensor:
        """The positions that all ranks together visit in an epoch.

        Args:
            epoch: counts from 0.

        Returns:
            (num_visits,) int64.
        """
        places: Sequence[int] = range(len(self._drives))
        if self.shuffle:
            places = torch.randperm(len(self._drives), generator=seeded_generator(self.seed, epoch)).tolist()
        line = torch.cat([self._drives[place] for place in places])
        line = line[torch.arange(self.num_visits) % self.num_samples]
        streams = line.tensor_split(self._num_streams)  # the first ones may be longer by one moment
        table = torch.nn.utils.rnn.pad_sequence(list(streams), padding_value=-1)  # (moments, streams)
        return table[table >= 0]


def present_classes(index: Index, positions: Sequence[int], class_names: Sequence[str]) -> list[set[int]]:
    """Finds which classes each sample holds, counting objects that some LiDAR or radar point lies on.

    Args:
        index: of the set.
        positions: samples, as positions in the index; repeats allowed.
        class_names: names that labels count from 0.

    Returns:
        Labels for every entry of `positions`; empty where a sample has no annotations.

    Raises:
        ValueError: a class name is unknown or comes twice.
    """
    label_map = class_label_map(class_names).numpy()
    found: dict[int, set[int]] = {}
    for position in dict.fromkeys(positions):
        annotations = index.record(position).annotations
        if annotations is None:
            found[position] = set()
            continue
        seen = annotations.num_lidar_pts + annotations.num_radar_pts > 0
        found[position] = set(label_map[annotations.labels[seen]].tolist()) - {-1}
    missing = [name for label, name in enumerate(class_names) if not any(label in held for held in found.values())]
    if missing:
        _LOG.warning("no sample holds an object of %s", ", ".join(missing))
    return [found[position] for position in positions]


def seeded_generator(*numbers: int) -> torch.Generator:
    """A random generator whose stream depends on the numbers alone; different numbers give unrelated streams.

    Zeros at the end make no difference: (1, 2) and (1, 2, 0) give one stream.

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


def _earlier_visits(order: Tensor) -> Tensor:
    """(V,) for each entry the number of equal ones before it."""
    ranked, places = order.sort(stable=True)
    _, counts = ranked.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)  # (V,)
    earlier = torch.empty_like(order)
    earlier[places] = torch.arange(len(order)) - starts
    return earlier
