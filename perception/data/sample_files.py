"""The files of one sample while it is being loaded: which there are, what is wrong with them, where sensors were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from perception.data.index import Index, SampleRecord, SensorRecord
from perception.data.problems import ProblemLog, leaves_folder
from perception.formats.lidar import NonFinite
from perception.geometry.transforms import invert_rigid

T = TypeVar("T")


@dataclass(eq=False)
class SampleFiles:
    """One sample while it is being loaded.

    Args:
        index: the index.
        number: position of the sample in it.
        dataroot: folder that paths are relative to.
        log: what to do about files that cannot be used.
        problems: what was skipped so far, one sentence each.
    """

    index: Index
    number: int
    dataroot: Path
    log: ProblemLog
    problems: list[str] = field(default_factory=list)

    @cached_property
    def record(self) -> SampleRecord:
        """What the index says of the sample."""
        return self.index.record(self.number)

    @cached_property
    def global2ego(self) -> Tensor:
        """(4, 4) float64 at the sample's time."""
        return invert_rigid(torch.from_numpy(self.record.ego2global))

    @cached_property
    def _attached(self) -> dict[str, list[SensorRecord]]:
        return self.index.extra_sensors(self.number)

    def recording(self, channel: str) -> SensorRecord | None:
        """Finds the recording of a sensor that belongs to the sample.

        Args:
            channel: of the sensor.

        Returns:
            Its keyframe, or else the one attached to the sample that is nearest in time; None where there is none.
        """
        keyframe = self.record.sensors.get(channel)
        if keyframe is not None:
            return keyframe
        attached = self._attached.get(channel, ())
        return min(attached, key=lambda sensor: abs(self.lag_s(sensor)), default=None)

    def lag_s(self, sensor: SensorRecord) -> float:
        """Tells how old a recording is.

        Args:
            sensor: a recording.

        Returns:
            Seconds before the sample's time, negative after it.
        """
        return (self.record.timestamp_us - sensor.timestamp_us) * 1e-6

    def sensor2ego(self, sensor: SensorRecord) -> Tensor:
        """Finds where a sensor was.

        Args:
            sensor: with mounting and ego pose at its own time.

        Returns:
            (4, 4) float64 from the sensor at its own time to the ego frame at the sample's time.
        """
        return self.global2ego @ torch.from_numpy(sensor.ego2global) @ torch.from_numpy(sensor.sensor2ego)

    def read(self, channel: str, path: str, reader: Callable[[Path], T]) -> T | None:
        """Reads a file.

        Args:
            channel: what the file is of, for messages.
            path: relative to the dataroot.
            reader: called with the path of the file.

        Returns:
            What `reader` gives; None after reporting that the file cannot be used.

        Raises:
            SensorFileError: it cannot be used, and that is to raise.
        """
        if leaves_folder(path):
            self.report("unsafe_path", channel, path, "path must stay inside the dataroot")
            return None
        try:
            return reader(self.dataroot / path)
        except FileNotFoundError as error:
            self.report("missing_file", channel, path, "file is missing", error)
        except (OSError, ValueError) as error:
            self.report("unreadable_file", channel, path, str(error), error)
        return None

    def read_rows(self, sensor: SensorRecord, reader: Callable[[Path, NonFinite], np.ndarray]) -> np.ndarray | None:
        """Reads a file of measurements.

        Args:
            sensor: whose file.
            reader: called with the path, and whether to raise on rows that are not finite or to drop them.

        Returns:
            What `reader` gives, without rows that are not finite where those are skipped and reported; None after
            reporting that the file cannot be used.

        Raises:
            SensorFileError: the file cannot be used or a row is not finite, and that is to raise.
        """
        faults: list[ValueError] = []

        def _finite_rows(path: Path) -> np.ndarray:
            try:
                return reader(path, "raise")
            except ValueError as error:
                if self.log.on_error == "raise":
                    raise
                faults.append(error)
                return reader(path, "drop")  # raises again unless rows that are not finite were all that was wrong

        rows = self.read(sensor.channel, sensor.path, _finite_rows)
        if rows is not None and faults:
            self.report("non_finite_points", sensor.channel, sensor.path, str(faults[0]), faults[0])
        return rows

    def read_truth(self, truth: str, path: str, reader: Callable[[Path], T]) -> T | None:
        """Reads a file of a truth; that a set lacks it is told and never an error, so that other tasks go on.

        Args:
            truth: "map" or "occupancy".
            path: relative to the dataroot.
            reader: called with the path of the file.

        Returns:
            What `reader` gives; None after noting that the file is missing, or reporting that it cannot be used.

        Raises:
            SensorFileError: it cannot be used, and that is to raise.
        """
        if leaves_folder(path) or (self.dataroot / path).exists():
            return self.read(truth, path, reader)
        self.note(f"missing_{truth}", truth, path, "file is missing")
        return None

    def note(self, kind: str, channel: str, path: str, reason: str) -> None:
        """Notes what the set does not have.

        Args:
            kind: one of `perception.data.problems.KINDS`.
            channel: what the file is of.
            path: of the file.
            reason: what is wrong.
        """
        self.problems.append(self.log.note(kind, self._sentence(channel, path, reason)))

    def report(self, kind: str, channel: str, path: str, reason: str, cause: Exception | None = None) -> None:
        """Raises, or notes what is wrong.

        Args:
            kind: one of `perception.data.problems.KINDS`.
            channel: what the file is of.
            path: of the file.
            reason: what is wrong.
            cause: the error behind it.

        Raises:
            SensorFileError: problems are to raise.
        """
        self.problems.append(self.log.report(kind, self._sentence(channel, path, reason), cause))

    def _sentence(self, channel: str, path: str, reason: str) -> str:
        return f"SampleLoader: sample {self.record.token} (position {self.number}), {channel} {path}: {reason}"
