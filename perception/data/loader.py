"""Batches of a dataset, read by worker processes."""

from __future__ import annotations

import cv2
import torch
from torch.utils.data import DataLoader

from perception.data.collate import collate
from perception.data.dataset import SampleDataset
from perception.data.samplers import EpochSampler
from perception.structures import Sample


def build_loader(
    dataset: SampleDataset,
    *,
    batch_size: int,
    sampler: EpochSampler | None = None,
    num_workers: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """Makes a data loader that gives a `Batch` at a time, the same ones whatever the number of workers.

    Workers are new Python processes: a script that uses them starts under `if __name__ == "__main__":`.
    Call `loader.sampler.set_epoch(epoch)` before each pass (Lightning does); workers stay alive between passes.
    `dataset.skipped` counts what could not be read, in all workers.

    Args:
        dataset: gives the samples.
        batch_size: samples per batch.
        sampler: says which samples come in which order; None takes all as they lie.
        num_workers: processes that load; 0 loads in this one.
        drop_last: whether to leave out a last batch that is not full.
        pin_memory: whether batches lie in page-locked memory.

    Returns:
        The data loader.

    Raises:
        ValueError: the dataset is empty, or a number is out of range.
    """
    sampler = sampler or EpochSampler(num_samples=len(dataset), shuffle=False, even=False)
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
