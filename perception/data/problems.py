"""What happens to a sensor file that cannot be used: an error, or one sensor less and a count."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal

import torch
from torch.utils.data import get_worker_info

OnError = Literal["raise", "skip"]

KINDS = (
    "missing_file",
    "unreadable_file",
    "unsafe_path",
    "non_finite_points",
    "missing_map",
    "missing_occupancy",
    "blind_sample",
)
"""What can be wrong: no such file; a file that is empty, cut off, damaged or of the wrong size; a path that leaves
the dataroot; points with NaN or infinity; a truth that was asked for and that the set does not have; a sample with none
of the sensors that are read."""

_MAX_PROCESSES = 257  # the main process and 256 workers; more share a row

logger = logging.getLogger(__name__)


class SensorFileError(ValueError):
    """A sensor's file cannot be used; the message names the sample, the sensor, the file and the reason."""


class ProblemLog:
    """Raises or counts problems; the counts are shared with the worker processes of a data loader.

    Args:
        on_error: "raise" or "skip".

    Raises:
        ValueError: `on_error` is neither.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"ProblemLog: on_error must be 'raise' or 'skip', got {on_error!r}")
        self.on_error = on_error
        # One row per process, so that no two processes write to the same number.
        self._counts = torch.zeros((_MAX_PROCESSES, len(KINDS)), dtype=torch.int64).share_memory_()

    @property
    def counts(self) -> Counter[str]:
        """Problems so far by kind, in this process and all workers."""
        totals = self._counts.sum(0).tolist()
        return Counter({kind: total for kind, total in zip(KINDS, totals, strict=True) if total})

    def report(self, kind: str, sentence: str, cause: Exception | None = None) -> str:
        """Raises under "raise"; under "skip" counts, and logs the first of a kind.

        Args:
            kind: one of `KINDS`.
            sentence: what is wrong, with sample, sensor and file.
            cause: the error behind it.

        Returns:
            The sentence.

        Raises:
            SensorFileError: `on_error` is "raise".
        """
        if self.on_error == "raise":
            raise SensorFileError(sentence) from cause
        return self.note(kind, sentence)

    def note(self, kind: str, sentence: str) -> str:
        """Counts, and logs the first of a kind.

        Args:
            kind: one of `KINDS`.
            sentence: what is wrong, with sample, sensor and file.

        Returns:
            The sentence.
        """
        if not self.counts[kind]:
            logger.warning("%s (skipped; further problems of the kind %s are only counted)", sentence, kind)
        worker = get_worker_info()
        row = 0 if worker is None else 1 + worker.id % (_MAX_PROCESSES - 1)
        self._counts[row, KINDS.index(kind)] += 1
        return sentence


def leaves_folder(path: str) -> bool:
    """Tells whether a path from an index points out of the folder that it must be relative to.

    Links inside the folder are not followed: a dataroot may well be made of them.

    Args:
        path: as written in the index.

    Returns:
        True for an absolute path and for one with "..", with either kind of slash.
    """
    flavours = (PurePosixPath(path), PureWindowsPath(path))
    return any(flavour.is_absolute() or bool(flavour.anchor) or ".." in flavour.parts for flavour in flavours)
