"""Result files held against a split: an official one must be whole, one of the set's own is picked out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from perception.data.index import Index
from perception.formats.splits import SPLITS
from perception.formats.submission_reader import Submission, read_submission, validate_submission


def read_detections(results_path: str | Path, index: Index, split: str) -> Submission:
    """Reads the detections of a split.

    Args:
        results_path: a detection submission. For an official split it must hold exactly the samples that the set has
            of it; for one of the set's own it may hold more of the set's.
        index: of the set.
        split: an official one, of which scenes may be missing, or one of the set's own.

    Returns:
        The boxes of the split's samples.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no submission or does not fit the split or the set, or the split is unknown.
    """
    tokens = index.tokens_of(index.samples_of(split))
    if split in SPLITS:
        return validate_submission(results_path, tokens)
    submission = read_submission(results_path)
    check_in_set("read_detections", results_path, submission.sample_tokens, index)
    return submission.of_samples(tokens)


def check_in_set(function: str, path: str | Path, file_tokens: Iterable[str], index: Index) -> None:
    """Holds the samples of a file against those of a set, of which it may have any.

    Args:
        function: name of the caller, for the error.
        path: the file.
        file_tokens: its sample tokens.
        index: of the set.

    Raises:
        ValueError: the set does not have one of the samples.
    """
    known = set(index.tokens_of(np.arange(len(index))))
    if unknown := [token for token in file_tokens if token not in known]:
        raise ValueError(
            f"{function}: {path}: results must be of the set's samples, {len(unknown)} are not, such as {unknown[0]!r}"
        )
