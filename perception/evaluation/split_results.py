"""Result files held against a split: an official one must be whole, one of the set's own is picked out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from perception.data.index import Index
from perception.formats.result_files import MAX_FAULTS, place_of
from perception.formats.splits import SPLITS
from perception.formats.submission_reader import Submission, read_submission, validate_submission

_LOG = logging.getLogger(__name__)


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
    check_in_set("read_detections", results_path, submission.sample_tokens, index, tokens)
    return submission.of_samples(tokens)


def check_in_set(
    function: str, path: str | Path, file_tokens: Collection[str], index: Index, split_tokens: Iterable[str]
) -> None:
    """Holds the samples of a file against those of a set, of which it must have a split's and may have any others.

    Args:
        function: name of the caller, for the error.
        path: the file.
        file_tokens: its sample tokens.
        index: of the set.
        split_tokens: of every sample in the split.

    Raises:
        ValueError: the set does not have one of the samples, or the file lacks one of the split's.
    """
    known = set(index.tokens_of(np.arange(len(index))))
    if unknown := [token for token in file_tokens if token not in known]:
        raise ValueError(
            f"{function}: {path}: results must be of the set's samples, {len(unknown)} are not, such as {unknown[0]!r}"
        )
    found = set(file_tokens)
    if missing := [token for token in split_tokens if token not in found]:
        raise ValueError(
            f"{function}: {path}: results must hold every sample of the split, {len(missing)} are missing, such as "
            f"{missing[0]!r}"
        )


def score_faults(submission: Submission) -> list[str]:
    """Looks for scores without order, with which there are no curves; the devkit fails on most, without a name.

    Args:
        submission: the detections.

    Returns:
        Up to ten faults with sample token, number of the box and field.
    """
    faults = []
    for row in np.flatnonzero(~(np.isfinite(submission.scores) & (submission.scores >= 0)))[:MAX_FAULTS].tolist():
        sample, box = place_of(submission.offsets, row)
        faults.append(
            f"sample {submission.sample_tokens[sample]!r}: box {box}, field detection_score: must be finite and >= 0, "
            f"got {submission.scores[row]}"
        )
    return faults


def tell_of_other_samples(results_path: str | Path, submission: Submission, done: str) -> None:
    """Warns of boxes that name another sample than the one that they stand under.

    Args:
        results_path: the file.
        submission: what it holds.
        done: what is done with them in the sample that they name, such as "matched".
    """
    if submission.other_tokens:
        row = min(submission.other_tokens)
        sample, box = place_of(submission.offsets, row)
        _LOG.warning(
            "%s: %d boxes name another sample than the one they stand under and are %s in that one, the first: "
            "sample %r, box %d, field sample_token: %r",
            results_path,
            len(submission.other_tokens),
            done,
            submission.sample_tokens[sample],
            box,
            submission.other_tokens[row],
        )
