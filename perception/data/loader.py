"""Batches of a dataset, read by worker processes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import cv2
import torch
from torch.utils.data import DataLoader

from perception.data.collate import collate
from perception.data.dataset import SampleDataset
from perception.data.samplers import ClassBalancedSampler, DriveSampler, EpochSampler
from perception.structures import Sample


def build_loader(
    dataset: SampleDataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    even: bool = False,
    pin_memory: bool = False,
    classes: Sequence[Collection[int]] | None = None,
    follow_drives: bool = False,
) -> DataLoader[Sample]:
    """Makes a data loader that gives a `Batch` at a time, the same ones whatever the number of workers.

    Workers are new Python processes: a script that uses them starts under `if __name__ == "__main__":`.
    Call `loader.sampler.set_epoch(epoch)` before each pass (Lightning does); workers stay alive between passes.
    `dataset.skipped` counts what could not be read, in all workers.

    Args:
        dataset: gives the samples; its seed is the seed of the order too.
        batch_size: samples per batch.
        num_workers: processes that load; 0 loads in this one.
        shuffle: whether to mix the order, anew every epoch.
        drop_last: whether to leave out a last batch that is not full.
        rank: which share of the samples is loaded here.
        world_size: number of shares.
        even: whether all ranks get equally many samples, some repeated (training); see `EpochSampler`.
        pin_memory: whether batches lie in page-locked memory.
        classes: labels of the objects in each sample; with them an epoch draws samples balanced over the classes,
            always in mixed order (see `ClassBalancedSampler`).
        follow_drives: whether each row of a batch is the moment after the same row of the batch before; `shuffle` then
            mixes whole drives (see `DriveSampler`).

    Returns:
        The data loader.

    Raises:
        ValueError: the dataset is empty, a number is out of range, or drives are followed and classes balanced.
    """
    sampler: EpochSampler
    if classes is not None and follow_drives:
        raise ValueError("build_loader: classes and follow_drives exclude each other, got both")
    if classes is not None:
        sampler = ClassBalancedSampler(classes=classes, seed=dataset.seed, rank=rank, world_size=world_size, even=even)
    elif follow_drives:
        drives = dataset.loader.index.scenes_of(dataset.indices.numpy())
        sampler = DriveSampler(
            drives=drives,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=dataset.seed,
            rank=rank,
            world_size=world_size,
            even=even,
        )
    else:
        sampler = EpochSampler(
            num_samples=len(dataset), shuffle=shuffle, seed=dataset.seed, rank=rank, world_size=world_size, even=even
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        drop_last=drop_last,
        pin_memory=pin_memory,
        worker_init_fn=_use_one_thread,
        persistent_workers=num_workers > 0,
        # A fork would inherit the locks of OpenCV's and torch's threads without the threads, and hang now and then.
        multiprocessing_context="spawn" if num_workers else None,
    )


def _use_one_thread(worker: int) -> None:
    """Workers share the cores as processes; threads inside each would fight for them."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
