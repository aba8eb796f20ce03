"""One moment of a drive: what every sensor saw, in the ego frame at the reference sensor's time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from perception.geometry.cameras import CameraModel
from perception.structures.sensors import NearField, UltrasonicEchoes
from perception.structures.tensors import check_shapes, identity4
from perception.structures.truths import MapTruth, OccupancyTruth


@dataclass(frozen=True, kw_only=True)
class CameraImages:
    """Pictures of a group of cameras that share image size and camera model.

    In a `Batch` every tensor has a leading batch axis B. `intrinsics` and `distortion` belong to the picture as
    recorded; `image2aug` maps its pixels to those of `images` (resize, crop, flip and turn composed).

    Args:
        names: N channel names.
        camera_model: "pinhole" or "kannala_brandt".
        images: (N, 3, H, W) uint8 RGB; the content means nothing where `present` is false.
        intrinsics: (N, 3, 3) float64, pixels of the recorded picture.
        distortion: (N, 4) float64; zeros for a pinhole.
        camera2ego: (N, 4, 4) float64 rigid, from the camera at its own time to the ego frame at the sample's time.
        image2aug: (N, 3, 3) float64.
        present: (N,) bool.
        theta_max_rad: (N,) float64, largest angle from the axis that a fisheye sees; None where it follows from the
            distortion, and for a pinhole.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    names: tuple[str, ...]
    camera_model: CameraModel
    images: Tensor
    intrinsics: Tensor
    distortion: Tensor
    camera2ego: Tensor
    image2aug: Tensor
    present: Tensor
    theta_max_rad: Tensor | None = None

    def __post_init__(self) -> None:
        batch = "B " if isinstance(self.images, Tensor) and self.images.ndim == 5 else ""
        shapes = {
            "images": "N 3 H W",
            "intrinsics": "N 3 3",
            "distortion": "N 4",
            "camera2ego": "N 4 4",
            "image2aug": "N 3 3",
            "present": "N",
        }
        if self.theta_max_rad is not None:
            shapes["theta_max_rad"] = "N"
        check_shapes(self, {name: batch + axes for name, axes in shapes.items()}, {"N": len(self.names)})

    @property
    def image_size_px(self) -> tuple[int, int]:
        """Height and width of `images`."""
        return self.images.shape[-2], self.images.shape[-1]


@dataclass(frozen=True, kw_only=True)
class PointCloud:
    """Points of one sensor kind.

    Args:
        points: (P, 3 + C) float32, x y z in metres in the ego frame at the sample's time, then one column per field.
        fields: names of the C extra columns, such as "intensity" and "time_lag_s".
        sensor2ego: (4, 4) float64 rigid; its translation is the sensor's origin in the ego frame. The identity where
            the points come from several sensors.
        sensor: (P,) int64, which of several sensors each point comes from; None for one sensor.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    points: Tensor
    fields: tuple[str, ...]
    sensor2ego: Tensor
    sensor: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {"points": "P F", "sensor2ego": "4 4"}
        if self.sensor is not None:
            shapes["sensor"] = "P"
        check_shapes(self, shapes, {"F": 3 + len(self.fields)})


@dataclass(frozen=True, kw_only=True)
class Boxes3D:
    """Labelled boxes.

    Args:
        boxes: (M, 9) float32 in the ego frame: x y z l w h yaw vx vy; velocity NaN where unknown.
        labels: (M,) int64, index into the class names.
        num_lidar_points: (M,) int64, points inside as counted by the annotators; -1 unknown.
        tokens: M names of the annotations.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit each other.
    """

    boxes: Tensor
    labels: Tensor
    num_lidar_points: Tensor
    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        check_shapes(self, {"boxes": "M 9", "labels": "M", "num_lidar_points": "M"}, {"M": len(self.tokens)})

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One moment of a drive with whatever sensors it has; an absent sensor is None or not in the mapping.

    Args:
        token: name of the sample, unique in its data set.
        scene: name of the drive.
        timestamp_us: time of the reference sensor (nuScenes: LIDAR_TOP), microseconds.
        ego2global: (4, 4) float64 rigid, at `timestamp_us`.
        ego2aug: (4, 4) float64, the BEV augmentation; points and boxes stay in the ego frame, models compose it.
        cameras: group name -> pictures.
        lidar: accumulated LiDAR points.
        radar: accumulated points of all radars, with `RADAR_FIELDS`; a radar that is missing leaves fewer points.
        radar4d: the same of radars that measure height, with `RADAR4D_FIELDS`.
        ultrasonic: what all ultrasonic sensors reported.
        near_field: truth about the ground near the vehicle.
        map: truth about the classes of the map.
        occupancy: truth about the occupied space.
        boxes: annotations; None where there are none to be had (an empty list of boxes is an annotation).
        problems: what was skipped while loading, one sentence each.

    Raises:
        TypeError: a field that must be a tensor is none.
        ValueError: shapes that do not fit.
    """

    token: str
    scene: str
    timestamp_us: int
    ego2global: Tensor
    ego2aug: Tensor = field(default_factory=identity4)
    cameras: Mapping[str, CameraImages] = field(default_factory=dict)
    lidar: PointCloud | None = None
    radar: PointCloud | None = None
    radar4d: PointCloud | None = None
    ultrasonic: UltrasonicEchoes | None = None
    near_field: NearField | None = None
    map: MapTruth | None = None
    occupancy: OccupancyTruth | None = None
    boxes: Boxes3D | None = None
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shapes(self, {"ego2global": "4 4", "ego2aug": "4 4"})
