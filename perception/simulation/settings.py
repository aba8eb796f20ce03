"""What is recorded of each scene: sensors, sizes, sweeps, ground truths; and sets of settings that have a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SENSORS = ("camera", "lidar", "radar", "radar4d", "ultrasonic", "fisheye")
"""Kinds of sensors, by their modality; every set has the first two, which annotations come from."""

TRUTHS = ("lidarseg", "panoptic", "occupancy", "near_field", "depth", "semantics")
"""Ground truths beside the annotations."""

MAX_SWEEPS = 10
MAX_RADAR_SWEEPS = 6
"""Scans of a radar between two keyframes: 13 a second, of which one belongs to the keyframe itself."""

_MAX_SECONDS = 60.0
_ALWAYS = SENSORS[:2]


@dataclass(frozen=True)
class Settings:
    """What is recorded of each scene.

    Attributes:
        seconds: length of a scene; it has two keyframes a second.
        image_size_px: height and width of the pictures.
        sweeps: LiDAR sweeps kept before each keyframe, at 20 Hz; 9 or more is all there are.
        raw_lidar: whether the points as measured, skewed by the ego's motion, are kept in files of their own.
        sensors: kinds of sensors, of `SENSORS`, in its order whatever the order given; camera and lidar among them.
        radar_sweeps: scans of each radar of either kind kept before that of the keyframe, at 13 Hz.
        fisheye_size_px: height and width of the fisheyes' pictures.
        truths: ground truths, of `TRUTHS`, in its order whatever the order given.
        can_bus: whether there are CAN-bus messages.

    Raises:
        ValueError: a number is out of range, or a sensor or truth is unknown, named twice or must not be left out.
    """

    seconds: float = 20.0
    image_size_px: tuple[int, int] = (225, 400)
    sweeps: int = 0
    raw_lidar: bool = False
    sensors: tuple[str, ...] = _ALWAYS
    radar_sweeps: int = 0
    fisheye_size_px: tuple[int, int] = (320, 480)
    truths: tuple[str, ...] = ()
    can_bus: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= _MAX_SECONDS:
            raise ValueError(f"Settings: seconds must be in 1..{_MAX_SECONDS:g}, got {self.seconds:g}")
        for name in ("image_size_px", "fisheye_size_px"):
            size = getattr(self, name)
            if len(size) != 2 or not all(32 <= side <= 4096 for side in size):
                raise ValueError(f"Settings: {name} must be two sides in 32..4096, got {size}")
        for name, most in (("sweeps", MAX_SWEEPS), ("radar_sweeps", MAX_RADAR_SWEEPS)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"Settings: {name} must be in 0..{most}, got {getattr(self, name)}")
        for name, known in (("sensors", SENSORS), ("truths", TRUTHS)):
            object.__setattr__(self, name, _chosen(name, getattr(self, name), known))
        if not set(_ALWAYS) <= set(self.sensors):
            raise ValueError(
                f"Settings: sensors must have camera and lidar, which annotations come from, got "
                f"{', '.join(self.sensors) or 'none'}"
            )

    @property
    def num_keyframes(self) -> int:
        """Keyframes of a scene."""
        return int(2 * self.seconds)


def _chosen(name: str, wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """What is wanted of what is known, in the order in which it is known."""
    for it in wanted:
        if it not in known:
            raise ValueError(f"Settings: {name} must be of {', '.join(known)}, got {it!r}")
        if wanted.count(it) > 1:
            raise ValueError(f"Settings: {name} must differ, got {it} twice")
    return tuple(it for it in known if it in wanted)


PRESETS = {
    "default": Settings(),
    "quick": Settings(seconds=4.0, image_size_px=(90, 160)),
    "sweeps": Settings(sweeps=9),
    "full": Settings(image_size_px=(900, 1600), sweeps=9),
    "suite": Settings(
        seconds=4.0,
        image_size_px=(90, 160),
        sweeps=1,
        sensors=SENSORS,
        radar_sweeps=1,
        fisheye_size_px=(80, 120),
        truths=TRUTHS,
        can_bus=True,
    ),
}
"""Settings by name; `suite` is every sensor and truth at a small size."""
