"""Which sensors to load, and how; configs name these classes' arguments."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from perception.formats.radar import RadarFilter
from perception.structures.sensors import group_modality

NUSCENES_CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
FISHEYE_CAMERAS = ("FISHEYE_FRONT", "FISHEYE_LEFT", "FISHEYE_REAR", "FISHEYE_RIGHT")
NUSCENES_RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
RADARS_4D = ("RADAR4D_FRONT", "RADAR4D_REAR")
ULTRASONICS = tuple(f"ULTRASONIC_{number:02}" for number in range(1, 13))

_ULTRASONIC_NAME = re.compile(r"ULTRASONIC_(\d\d)")


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


@dataclass(frozen=True, kw_only=True)
class RadarLoading:
    """Which returns of radars to load.

    Args:
        channels: the radars, whose returns are put together.
        num_sweeps: recordings of each radar before its keyframe to add, newest first; fewer at the start of a scene.
        radar_filter: which states a return may have; None keeps all returns.
        doppler_compensation: whether a moving return is moved on along its line of sight, by its speed times its age.
        range_sigma_m: what the radar resolves along the line of sight, beside the scatter that it reports.
        azimuth_sigma_rad: what it resolves across.
        max_points: a random subset of this size is kept where there are more, the same each time; None keeps all.
    """

    channels: tuple[str, ...] = NUSCENES_RADARS
    num_sweeps: int = 0
    radar_filter: RadarFilter | None = field(default_factory=RadarFilter)
    doppler_compensation: bool = True
    range_sigma_m: float = 0.2
    azimuth_sigma_rad: float = 0.01
    max_points: int | None = None


@dataclass(frozen=True, kw_only=True)
class Radar4dLoading:
    """Which points of radars that measure height to load.

    Args:
        channels: the radars, whose points are put together.
        num_sweeps: recordings of each radar before the sample's own to add, newest first.
        min_power_db: weaker points are removed; None keeps all.
        doppler_compensation: whether a moving point is moved on along its line of sight, by its speed times its age.
        moving_mps: range rate over ground from which a point counts as moving.
        range_sigma_m: what the radar resolves along the line of sight.
        azimuth_sigma_rad: what it resolves across.
        max_points: a random subset of this size is kept where there are more, the same each time; None keeps all.
    """

    channels: tuple[str, ...] = RADARS_4D
    num_sweeps: int = 0
    min_power_db: float | None = None
    doppler_compensation: bool = True
    moving_mps: float = 0.5
    range_sigma_m: float = 0.15
    azimuth_sigma_rad: float = 0.005
    max_points: int | None = None


@dataclass(frozen=True, kw_only=True)
class UltrasonicLoading:
    """Which bursts of ultrasonic sensors to load.

    Args:
        channels: the sensors, `ULTRASONIC_` and two digits. What others sent or heard is left out.
        max_age_s: bursts sent longer before the sample's time are left out.
    """

    channels: tuple[str, ...] = ULTRASONICS
    max_age_s: float = 0.2

    @property
    def numbers(self) -> tuple[int, ...]:
        """The number of each sensor, as files name it; -1 where a channel has none."""
        found = (_ULTRASONIC_NAME.fullmatch(channel) for channel in self.channels)
        return tuple(int(match[1]) if match else -1 for match in found)


@dataclass(frozen=True, kw_only=True)
class RangingLoading:
    """What to load of the sensors beside cameras and LiDAR, which tell how far things are or how fast they move.

    Args:
        radar: returns of radars; None loads none.
        radar4d: points of radars that measure height; None loads none.
        ultrasonic: bursts of ultrasonic sensors; None loads none.
    """

    radar: RadarLoading | None = None
    radar4d: Radar4dLoading | None = None
    ultrasonic: UltrasonicLoading | None = None


@dataclass(frozen=True, kw_only=True)
class SensorSuite:
    """All sensors to load.

    Args:
        cameras: groups of different names.
        lidar: points; None loads none.
        ranging: the other sensors.
    """

    cameras: tuple[CameraLoading, ...] = ()
    lidar: LidarLoading | None = None
    ranging: RangingLoading = field(default_factory=RangingLoading)

    @property
    def names(self) -> tuple[str, ...]:
        """What there is: "camera" for the group "surround", else the name of the group; kinds of other sensors."""
        groups = tuple(group_modality(group.group) for group in self.cameras)
        others = {"lidar": self.lidar, **vars(self.ranging)}
        return groups + tuple(name for name, wanted in others.items() if wanted is not None)

    def only(self, names: Collection[str]) -> SensorSuite:
        """Takes the others away.

        Args:
            names: some of `names`.

        Returns:
            The sensors of these names.
        """
        ranging = {name: wanted if name in names else None for name, wanted in vars(self.ranging).items()}
        return SensorSuite(
            cameras=tuple(group for group in self.cameras if group_modality(group.group) in names),
            lidar=self.lidar if "lidar" in names else None,
            ranging=RangingLoading(**ranging),
        )


SensorLoading = CameraLoading | LidarLoading | RadarLoading | Radar4dLoading | UltrasonicLoading


def camera_groups(cameras: CameraLoading | Sequence[CameraLoading] | None) -> tuple[CameraLoading, ...]:
    """The groups of cameras that a config or caller asks for.

    Args:
        cameras: one group, several, or None.

    Returns:
        The groups.

    Raises:
        ValueError: two groups have the same name.
    """
    groups = (cameras,) if isinstance(cameras, CameraLoading) else tuple(cameras or ())
    names = [group.group for group in groups]
    if len(set(names)) < len(names):
        raise ValueError(f"camera_groups: cameras must be groups of different names, got {', '.join(names)}")
    return groups


def check_loading(wanted: SensorLoading) -> None:
    """Checks what is asked of one kind of sensor.

    Args:
        wanted: settings.

    Raises:
        ValueError: a number is out of range, or no channel is named.
    """
    if isinstance(wanted, CameraLoading):
        if min(wanted.image_size_px) < 1 or not wanted.channels:
            raise ValueError(f"SampleLoader: cameras must have channels and a positive image_size_px, got {wanted}")
    elif isinstance(wanted, LidarLoading):
        if wanted.num_sweeps < 0 or not wanted.min_range_m >= 0 or not _is_count(wanted.max_points):
            raise ValueError(
                f"SampleLoader: lidar must have num_sweeps, min_range_m >= 0, max_points >= 1, got {wanted}"
            )
    elif isinstance(wanted, UltrasonicLoading):
        if not wanted.channels or min(wanted.numbers) < 1 or not wanted.max_age_s >= 0:
            raise ValueError(
                f"SampleLoader: ultrasonic must have channels ULTRASONIC_01 to _99 and max_age_s >= 0, got {wanted}"
            )
    elif not (
        wanted.channels
        and wanted.num_sweeps >= 0
        and wanted.range_sigma_m > 0
        and wanted.azimuth_sigma_rad > 0
        and _is_count(wanted.max_points)
    ):
        raise ValueError(
            "SampleLoader: radars must have channels, num_sweeps >= 0, range_sigma_m and azimuth_sigma_rad > 0, "
            f"max_points >= 1, got {wanted}"
        )


def _is_count(number: int | None) -> bool:
    return number is None or number > 0
