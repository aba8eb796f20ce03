"""Runs a detector over a drive, sample by sample."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from perception.data.dropout import modalities_of
from perception.drives.writers import DriveWriter, no_detections
from perception.structures import Predictions, Sample


class PredictsSamples(Protocol):
    """Whatever turns samples into predictions, such as `perception.runtime.predictor.Predictor`."""

    def predict(self, samples: Sequence[Sample]) -> tuple[Predictions, ...]:
        """Predicts.

        Args:
            samples: one or more.

        Returns:
            One `Predictions` per sample.
        """


@dataclass(frozen=True, kw_only=True)
class DriveReport:
    """What happened on a drive.

    Args:
        num_samples: samples that were run.
        num_boxes: boxes that were found.
        blind: tokens of samples without any sensor, which have no predictions.
        predict_s: time spent predicting, of each sample that was run.
    """

    num_samples: int
    num_boxes: int
    blind: tuple[str, ...]
    predict_s: tuple[float, ...]


def run_drive(
    samples: Iterable[Sample],
    predictor: PredictsSamples,
    writers: Sequence[DriveWriter],
    nothing: Predictions | None = None,
) -> DriveReport:
    """Predicts every sample as it comes and hands it to all writers.

    A sample without any sensor data cannot be predicted; it is written as one in which nothing was found, and named in
    the report.

    Args:
        samples: in the order of the drive; wrap it for a progress bar.
        predictor: the detector.
        writers: told of every sample; closed at the end, also after an error.
        nothing: what is written of a sample without any sensor data, as `nothing_found` gives it; None stands for no
            boxes.

    Returns:
        Counts and times.

    Raises:
        ValueError: no sample has data of any sensor, so that nothing was predicted at all.
    """
    nothing = nothing or Predictions(token="", detections=no_detections())
    blind: list[str] = []
    predict_s: list[float] = []
    num_boxes = 0
    with ExitStack() as stack:
        open_writers = [stack.enter_context(writer) for writer in writers]
        for sample in samples:
            if is_blind(sample):
                blind.append(sample.token)
                found = replace(nothing, token=sample.token)
            else:
                start_s = time.perf_counter()
                (found,) = predictor.predict([sample])
                predict_s.append(time.perf_counter() - start_s)
            num_boxes += len(found.detections) if found.detections is not None else 0
            for writer in open_writers:
                writer.write(sample, found)
        if blind and not predict_s:
            raise ValueError(
                f"run_drive: samples must have data of a sensor that is read, got none in all {len(blind)}"
            )
    return DriveReport(num_samples=len(predict_s), num_boxes=num_boxes, blind=tuple(blind), predict_s=tuple(predict_s))


def is_blind(sample: Sample) -> bool:
    """Whether a sample has no sensor's data at all; such a one cannot be predicted.

    Args:
        sample: as loaded.

    Returns:
        True without points, pictures and echoes.
    """
    return not modalities_of(sample)
