"""Samples of an index with random changes that depend on seed, epoch and position alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch.utils.data import Dataset

from perception.data.dropout import modalities_of
from perception.data.loading import SampleLoader
from perception.data.samplers import Visit, seeded_generator
from perception.structures import Sample

Transform = Callable[[Sample, torch.Generator], Sample]
"""Gives a changed sample and leaves its argument as it was; all randomness comes from the generator.

One with an attribute `until_epoch` that is not None is left out from that epoch on."""


class SampleDataset(Dataset[Sample]):
    """Samples at chosen positions of an index, transformed.

    A sample depends on (seed, epoch, position in the dataset, repeat), not on the number of workers or the order of
    visits. The epoch comes with the item, as a sampler gives it (`Visit`), or else from `set_epoch`.

    Args:
        loader: gives the samples.
        indices: positions in the index, in order, repeats allowed; None takes all.
        transforms: applied one after the other.
        seed: of all transforms, not negative.
        needed: kinds of sensors of which a sample must have one when it leaves, as what reads it would fail otherwise;
            the next sample takes its place, and `skipped` counts them. None asks for nothing.

    Raises:
        ValueError: a position is not in the index, or the seed is negative.
    """

    def __init__(
        self,
        loader: SampleLoader,
        indices: Sequence[int] | None = None,
        transforms: Sequence[Transform] = (),
        seed: int = 0,
        needed: Sequence[str] | None = None,
    ) -> None:
        self.loader = loader
        self.needed = None if needed is None else frozenset(needed)
        self.indices = torch.arange(len(loader)) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
        self.transforms = tuple(transforms)
        self.seed = seed
        self.epoch = 0
        if seed < 0:
            raise ValueError(f"SampleDataset: seed must not be negative, got {seed}")
        if ((self.indices < 0) | (self.indices >= len(loader))).any():
            raise ValueError(
                f"SampleDataset: indices must be in 0..{len(loader) - 1}, "
                f"got {int(self.indices.min())}..{int(self.indices.max())}"
            )

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random changes of items asked for by position alone.

        Workers of a data loader that outlive an epoch do not hear of it; samplers tell them with every item.

        Args:
            epoch: counts from 0.
        """
        self.epoch = epoch

    @property
    def skipped(self) -> Counter[str]:
        """Problems so far by kind, those of worker processes included (see `SampleLoader`)."""
        return self.loader.skipped

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int | tuple[int, int] | tuple[int, int, int]) -> Sample:
        epoch, position, repeat = Visit(*item) if isinstance(item, tuple) else Visit(self.epoch, item)
        if not 0 <= position < len(self):
            raise IndexError(f"SampleDataset: position must be in 0..{len(self) - 1}, got {position}")
        for place in chain(range(position, len(self)), range(position)):
            sample = self._draw(epoch, place, repeat)
            if self.needed is None or not self.needed.isdisjoint(modalities_of(sample)):
                return sample
            names = ", ".join(sorted(self.needed))
            self.loader.note("blind_sample", f"sample {sample.token}: none of {names}; the next one takes its place")
        raise ValueError(f"SampleDataset: a sample must have one of the sensors {', '.join(sorted(self.needed or ()))}")

    def _draw(self, epoch: int, position: int, repeat: int) -> Sample:
        sample = self.loader.load(int(self.indices[position]))
        generator = seeded_generator(self.seed, epoch, position, repeat)
        for transform in self.transforms:
            until_epoch = getattr(transform, "until_epoch", None)
            if until_epoch is None or epoch < until_epoch:
                sample = transform(sample, generator)
        return sample
