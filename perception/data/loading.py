"""A record of the index and its files -> a Sample in the ego frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from perception.data.annotations import class_label_map
from perception.data.camera_groups import load_cameras
from perception.data.index import Index, SensorRecord
from perception.data.points import POINT_FIELDS, load_points, move_points, thin_points
from perception.data.problems import OnError, ProblemLog
from perception.data.radar import load_radar, load_radar4d
from perception.data.sample_files import SampleFiles
from perception.data.sensor_settings import (
    FISHEYE_CAMERAS,
    NUSCENES_CAMERAS,
    NUSCENES_RADARS,
    CameraLoading,
    LidarLoading,
    Radar4dLoading,
    RadarLoading,
    RangingLoading,
    UltrasonicLoading,
    camera_groups,
    check_loading,
)
from perception.data.truths import ANNOTATIONS, MapLoading, TruthLoading, Truths
from perception.data.ultrasonic import load_ultrasonic
from perception.formats.lidar import NonFinite
from perception.structures import PointCloud, Sample

__all__ = [
    "FISHEYE_CAMERAS",
    "NUSCENES_CAMERAS",
    "NUSCENES_RADARS",
    "CameraLoading",
    "LidarLoading",
    "MapLoading",
    "Radar4dLoading",
    "RadarLoading",
    "RangingLoading",
    "SampleLoader",
    "TruthLoading",
    "UltrasonicLoading",
]

W = TypeVar("W")
T = TypeVar("T")


class SampleLoader:
    """Loads samples of an index, from the files of its dataroot.

    Everything ends in the ego frame at the sample's time: `camera2ego`, the points and the echoes contain the ego
    motion since each sensor's own time. A sensor without a recording is absent from the sample, which is normal.

    Under `on_error="skip"` a sensor whose file is missing, damaged or outside the dataroot is left out as if it had
    no recording (a sweep or a burst is left out alone), points that are not finite are dropped, and each problem is a
    sentence in `Sample.problems` and a count in `skipped`. Under "raise" it is a `SensorFileError`. A truth of map or
    occupancy that the set does not have is told in the same way under both, and is no error: other tasks go on.

    Args:
        index: an index, or the path of one.
        dataroot: folder that the index's paths are relative to.
        class_names: names that labels count from 0; boxes of other classes are left out.
        cameras: pictures to load, one group or several; None loads none.
        lidar: points to load; None loads none.
        radar: returns of radars to load; None loads none.
        radar4d: points of radars that measure height to load; None loads none.
        ultrasonic: bursts of ultrasonic sensors to load; None loads none.
        truths: what to load of what is known to be there; None loads nothing of it.
        on_error: "raise" or "skip".

    Raises:
        FileNotFoundError: the dataroot or the index does not exist.
        ValueError: unknown or repeated class names, unknown `on_error`, a number that must be positive, two groups of
            cameras of one name.
    """

    def __init__(
        self,
        *,
        index: Index | str | Path,
        dataroot: str | Path,
        class_names: Sequence[str],
        cameras: CameraLoading | Sequence[CameraLoading] | None = None,
        lidar: LidarLoading | None = None,
        radar: RadarLoading | None = None,
        radar4d: Radar4dLoading | None = None,
        ultrasonic: UltrasonicLoading | None = None,
        truths: TruthLoading | None = ANNOTATIONS,
        on_error: OnError = "raise",
    ) -> None:
        if not Path(dataroot).is_dir():
            raise FileNotFoundError(f"SampleLoader: dataroot must be a folder, got {dataroot}")
        self.index = index if isinstance(index, Index) else Index.open(index)
        self.dataroot = Path(dataroot)
        self.class_names = tuple(class_names)
        self.cameras = camera_groups(cameras)
        self.lidar = lidar
        self.radar = radar
        self.radar4d = radar4d
        self.ultrasonic = ultrasonic
        self.truths = TruthLoading(boxes=False, near_field=False) if truths is None else truths
        self._truths = Truths(self.index, self.dataroot, self.truths, class_label_map(self.class_names))
        self._log = ProblemLog(on_error)
        self._non_finite: NonFinite = "raise" if on_error == "raise" else "drop"
        for wanted in (*self.cameras, lidar, radar, radar4d, ultrasonic):
            if wanted is not None:
                check_loading(wanted)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def skipped(self) -> Counter[str]:
        """Problems so far by kind (see `perception.data.problems.KINDS`), those of worker processes included."""
        return self._log.counts

    def note(self, kind: str, sentence: str) -> None:
        """Counts a problem that is no error, and logs the first of a kind.

        Args:
            kind: one of `perception.data.problems.KINDS`.
            sentence: what is wrong, with the sample.
        """
        self._log.note(kind, sentence)

    def load(self, i: int) -> Sample:
        """Loads one sample.

        Args:
            i: position in the index.

        Returns:
            The sample.

        Raises:
            IndexError: there is no such position.
            SensorFileError: a file cannot be used and `on_error` is "raise".
            ValueError: the cameras of a group have different camera models or no calibration.
        """
        files = SampleFiles(self.index, i, self.dataroot, self._log)
        record = files.record
        groups = {wanted.group: load_cameras(files, wanted) for wanted in self.cameras}
        return Sample(
            token=record.token,
            scene=record.scene,
            timestamp_us=record.timestamp_us,
            ego2global=torch.from_numpy(record.ego2global),
            cameras={group: cameras for group, cameras in groups.items() if cameras is not None},
            lidar=_if_wanted(self._load_lidar, files, self.lidar),
            radar=_if_wanted(load_radar, files, self.radar),
            radar4d=_if_wanted(load_radar4d, files, self.radar4d),
            ultrasonic=_if_wanted(load_ultrasonic, files, self.ultrasonic),
            near_field=self._truths.near_field(files),
            map=self._truths.map(files),
            occupancy=self._truths.occupancy(files),
            boxes=self._truths.boxes(files),
            problems=tuple(files.problems),
        )

    def _load_lidar(self, files: SampleFiles, wanted: LidarLoading) -> PointCloud | None:
        keyframe = files.recording(wanted.channel)
        first = None if keyframe is None else self._load_sweep(files, keyframe, wanted)
        if keyframe is None or first is None:
            return None
        sweeps = self.index.sweeps(files.number, wanted.channel, wanted.num_sweeps) if wanted.num_sweeps else []
        clouds = [first, *(self._load_sweep(files, sweep, wanted) for sweep in sweeps)]
        points = torch.cat([cloud for cloud in clouds if cloud is not None])  # (P, 5)
        return PointCloud(
            points=thin_points(points, wanted.max_points, seed=files.number),
            fields=POINT_FIELDS,
            sensor2ego=files.sensor2ego(keyframe),
        )

    def _load_sweep(self, files: SampleFiles, sensor: SensorRecord, wanted: LidarLoading) -> Tensor | None:
        """(P, 5) float32 x y z intensity time_lag_s in the ego frame at the sample's time."""
        loaded = files.read(
            sensor.channel, sensor.path, lambda path: load_points(path, wanted.min_range_m, self._non_finite)
        )
        if loaded is None:
            return None
        points, num_dropped = loaded
        if num_dropped:
            reason = f"{num_dropped} points are not finite"
            files.report("non_finite_points", sensor.channel, sensor.path, reason)
        return move_points(points, files.sensor2ego(sensor), files.lag_s(sensor))


def _if_wanted(load: Callable[[SampleFiles, W], T | None], files: SampleFiles, wanted: W | None) -> T | None:
    return None if wanted is None else load(files, wanted)
