"""A record of the index and its files -> a Sample in the ego frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from perception.data.annotations import boxes_in_ego, class_label_map
from perception.data.images import load_image
from perception.data.index import Index, SampleRecord, SensorRecord
from perception.data.points import POINT_FIELDS, load_points, move_points, thin_points
from perception.data.problems import OnError, ProblemLog, leaves_folder
from perception.formats.lidar import NonFinite
from perception.geometry.cameras import CameraModel
from perception.geometry.transforms import invert_rigid
from perception.structures import CameraImages, PointCloud, Sample

T = TypeVar("T")

NUSCENES_CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)


@dataclass(frozen=True)
class CameraLoading:
    """Which pictures to load, and how large.

    Args:
        channels: the cameras of the group, in order; they must share one camera model.
        image_size_px: height and width of the result (see `perception.data.images.ImageFit`).
        group: name of the group in `Sample.cameras`.
    """

    channels: tuple[str, ...] = NUSCENES_CAMERAS
    image_size_px: tuple[int, int] = (256, 704)
    group: str = "surround"


@dataclass(frozen=True)
class LidarLoading:
    """Which points to load.

    Args:
        channel: the sensor.
        num_sweeps: recordings before the keyframe to add, newest first; fewer at the start of a scene.
        min_range_m: points nearer to the sensor are removed. nuScenes stores missing returns there, a quarter to a
            third of a file; the rest is the vehicle's own roof.
        max_points: a random subset of this size is kept where there are more, the same each time; None keeps all.
    """

    channel: str = "LIDAR_TOP"
    num_sweeps: int = 0
    min_range_m: float = 1.0
    max_points: int | None = None


@dataclass
class _Loading:
    """One sample while it is being loaded."""

    number: int
    record: SampleRecord
    global2ego: Tensor
    problems: list[str] = field(default_factory=list)


class SampleLoader:
    """Loads samples of an index, from the files of its dataroot.

    Everything ends in the ego frame at the sample's time: `camera2ego` and the points contain the ego motion since
    each sensor's own time. A sensor without a recording is absent from the sample, which is normal.

    Under `on_error="skip"` a sensor whose file is missing, damaged or outside the dataroot is left out as if it had
    no recording (a sweep is left out alone), points that are not finite are dropped, and each problem is a sentence
    in `Sample.problems` and a count in `skipped`. Under "raise" it is a `SensorFileError`.

    Args:
        index: an index, or the path of one.
        dataroot: folder that the index's paths are relative to.
        class_names: names that labels count from 0; boxes of other classes are left out.
        cameras: pictures to load; None loads none.
        lidar: points to load; None loads none.
        annotations: whether to load boxes, where the set has them.
        on_error: "raise" or "skip".

    Raises:
        FileNotFoundError: the dataroot or the index does not exist.
        ValueError: unknown or repeated class names, unknown `on_error`, a number that must be positive.
    """

    def __init__(
        self,
        *,
        index: Index | str | Path,
        dataroot: str | Path,
        class_names: Sequence[str],
        cameras: CameraLoading | None = None,
        lidar: LidarLoading | None = None,
        annotations: bool = True,
        on_error: OnError = "raise",
    ) -> None:
        if not Path(dataroot).is_dir():
            raise FileNotFoundError(f"SampleLoader: dataroot must be a folder, got {dataroot}")
        self.index = index if isinstance(index, Index) else Index.open(index)
        self.dataroot = Path(dataroot)
        self.class_names = tuple(class_names)
        self.cameras = cameras
        self.lidar = lidar
        self.annotations = annotations
        self._label_map = class_label_map(self.class_names)
        self._log = ProblemLog(on_error)
        self._non_finite: NonFinite = "raise" if on_error == "raise" else "drop"
        _check_settings(cameras, lidar)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def skipped(self) -> Counter[str]:
        """Problems so far by kind (see `perception.data.problems.KINDS`), those of worker processes included."""
        return self._log.counts

    def load(self, i: int) -> Sample:
        """Loads one sample.

        Args:
            i: position in the index.

        Returns:
            The sample.

        Raises:
            IndexError: there is no such position.
            SensorFileError: a file cannot be used and `on_error` is "raise".
            ValueError: the cameras of the group have different camera models or no calibration.
        """
        record = self.index.record(i)
        ego2global = torch.from_numpy(record.ego2global)
        state = _Loading(i, record, invert_rigid(ego2global))
        cameras = self._load_cameras(state, self.cameras) if self.cameras else None
        lidar = self._load_lidar(state, self.lidar) if self.lidar else None
        boxes = None
        if self.annotations and record.annotations is not None:
            boxes = boxes_in_ego(record.annotations, state.global2ego, self._label_map)
        return Sample(
            token=record.token,
            scene=record.scene,
            timestamp_us=record.timestamp_us,
            ego2global=ego2global,
            cameras={self.cameras.group: cameras} if self.cameras and cameras else {},
            lidar=lidar,
            boxes=boxes,
            problems=tuple(state.problems),
        )

    def _load_cameras(self, state: _Loading, wanted: CameraLoading) -> CameraImages | None:
        """The group, or None where it has no picture at all."""
        num_cameras, (height, width) = len(wanted.channels), wanted.image_size_px
        images = torch.zeros((num_cameras, 3, height, width), dtype=torch.uint8)
        intrinsics, image2aug = (torch.eye(3, dtype=torch.float64).repeat(num_cameras, 1, 1) for _ in range(2))
        distortion = torch.zeros((num_cameras, 4), dtype=torch.float64)
        camera2ego = torch.eye(4, dtype=torch.float64).repeat(num_cameras, 1, 1)
        present = torch.zeros(num_cameras, dtype=torch.bool)
        models: set[str] = set()
        for row, channel in enumerate(wanted.channels):
            sensor = state.record.sensors.get(channel)
            if sensor is None:
                continue
            models.add(_camera_model(state.record.token, sensor))
            loaded = self._attempt(state, sensor, _image_reader(sensor, wanted.image_size_px))
            if loaded is None:
                continue
            present[row] = True
            images[row] = torch.from_numpy(loaded[0]).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
            image2aug[row] = torch.from_numpy(loaded[1])
            intrinsics[row] = torch.from_numpy(sensor.intrinsics)
            camera2ego[row] = sensor_to_sample_ego(sensor, state.global2ego)
            if sensor.distortion is not None:
                distortion[row] = torch.from_numpy(sensor.distortion)
        if len(models) > 1:
            raise ValueError(
                f"SampleLoader: cameras of group {wanted.group!r} must share one camera model, got {sorted(models)} "
                f"in sample {state.record.token}"
            )
        if not present.any():
            return None
        return CameraImages(
            names=wanted.channels,
            camera_model=cast(CameraModel, models.pop()),
            images=images,
            intrinsics=intrinsics,
            distortion=distortion,
            camera2ego=camera2ego,
            image2aug=image2aug,
            present=present,
        )

    def _load_lidar(self, state: _Loading, wanted: LidarLoading) -> PointCloud | None:
        keyframe = state.record.sensors.get(wanted.channel)
        if keyframe is None:
            return None
        first = self._load_sweep(state, keyframe, wanted)
        if first is None:
            return None
        sweeps = self.index.sweeps(state.number, wanted.channel, wanted.num_sweeps) if wanted.num_sweeps else []
        clouds = [first, *(self._load_sweep(state, sweep, wanted) for sweep in sweeps)]
        points = torch.cat([cloud for cloud in clouds if cloud is not None])  # (P, 5)
        return PointCloud(
            points=thin_points(points, wanted.max_points, seed=state.number),
            fields=POINT_FIELDS,
            sensor2ego=sensor_to_sample_ego(keyframe, state.global2ego),
        )

    def _load_sweep(self, state: _Loading, sensor: SensorRecord, wanted: LidarLoading) -> Tensor | None:
        """(P, 5) float32 x y z intensity time_lag_s in the ego frame at the sample's time."""
        loaded = self._attempt(state, sensor, lambda path: load_points(path, wanted.min_range_m, self._non_finite))
        if loaded is None:
            return None
        points, num_dropped = loaded
        if num_dropped:
            self._report(state, "non_finite_points", sensor, f"{num_dropped} points are not finite")
        lag_s = (state.record.timestamp_us - sensor.timestamp_us) * 1e-6
        return move_points(points, sensor_to_sample_ego(sensor, state.global2ego), lag_s)

    def _attempt(self, state: _Loading, sensor: SensorRecord, read: Callable[[Path], T]) -> T | None:
        """What `read` gives for the sensor's file, or None after reporting why not."""
        if leaves_folder(sensor.path):
            self._report(state, "unsafe_path", sensor, "path must stay inside the dataroot")
            return None
        try:
            return read(self.dataroot / sensor.path)
        except FileNotFoundError as error:
            self._report(state, "missing_file", sensor, "file is missing", error)
        except (OSError, ValueError) as error:
            self._report(state, "unreadable_file", sensor, str(error), error)
        return None

    def _report(
        self, state: _Loading, kind: str, sensor: SensorRecord, reason: str, cause: Exception | None = None
    ) -> None:
        place = f"SampleLoader: sample {state.record.token} (position {state.number}), {sensor.channel} {sensor.path}"
        state.problems.append(self._log.report(kind, f"{place}: {reason}", cause))


def sensor_to_sample_ego(sensor: SensorRecord, global2ego: Tensor) -> Tensor:
    """The transform from a sensor at its own time to the ego frame at the sample's time.

    Args:
        sensor: with mounting and ego pose at its own time.
        global2ego: (4, 4) float64 at the sample's time.

    Returns:
        (4, 4) float64.
    """
    return global2ego @ torch.from_numpy(sensor.ego2global) @ torch.from_numpy(sensor.sensor2ego)


def _image_reader(
    sensor: SensorRecord, image_size_px: tuple[int, int]
) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    recorded = (sensor.height, sensor.width) if sensor.height and sensor.width else None
    return lambda path: load_image(path, image_size_px, recorded)


def _camera_model(token: str, sensor: SensorRecord) -> str:
    if sensor.camera_model is None or sensor.intrinsics is None:
        raise ValueError(f"SampleLoader: sample {token}, {sensor.channel}: must be a camera with intrinsics, got none")
    return sensor.camera_model


def _check_settings(cameras: CameraLoading | None, lidar: LidarLoading | None) -> None:
    if cameras and (min(cameras.image_size_px) < 1 or not cameras.channels):
        raise ValueError(f"SampleLoader: cameras must have channels and a positive image_size_px, got {cameras}")
    if lidar and not (
        lidar.num_sweeps >= 0 and lidar.min_range_m >= 0 and (lidar.max_points is None or lidar.max_points > 0)
    ):
        raise ValueError(f"SampleLoader: lidar must have num_sweeps, min_range_m >= 0, max_points >= 1, got {lidar}")
