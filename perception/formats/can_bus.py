"""CAN-bus files of nuScenes: one JSON file per scene and kind of message, `can_bus/<scene>_<message>.json`.

A file holds a list of messages in the order of their times, each with `utime` in microseconds and the fields of
`MESSAGES`; `route` is a list of x y on the map, and `meta` sums the messages up. `NuScenesCanBus` of the devkit takes
the first ten letters of any name in the folder for a scene, so nothing else may lie there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.formats.files import atomic_writer

MESSAGES: Mapping[str, Mapping[str, int]] = {
    "ms_imu": {"linear_accel": 3, "q": 4, "rotation_rate": 3},
    "pose": {"accel": 3, "orientation": 4, "pos": 3, "rotation_rate": 3, "vel": 3},
    "steeranglefeedback": {"value": 1},
    "vehicle_monitor": dict.fromkeys(
        (
            "available_distance", "battery_level", "brake", "brake_switch", "gear_position", "left_signal",
            "rear_left_rpm", "rear_right_rpm", "right_signal", "steering", "steering_speed", "throttle",
            "vehicle_speed", "yaw_rate",
        ),
        1,
    ),
    "zoesensors": {"brake_sensor": 1, "steering_sensor": 1, "throttle_sensor": 1},
    "zoe_veh_info": dict.fromkeys(
        (
            "FL_wheel_speed", "FR_wheel_speed", "RL_wheel_speed", "RR_wheel_speed", "left_solar", "longitudinal_accel",
            "meanEffTorque", "odom", "odom_speed", "pedal_cc", "regen", "requestedTorqueAfterProc", "right_solar",
            "steer_corrected", "steer_offset_can", "steer_raw", "transversal_accel",
        ),
        1,
    ),
}  # fmt: skip
"""Numbers in each field of each message; units and signs as in the devkit's description of the expansion."""

_TIME = "utime"
_MAX_BYTES = 64 << 20

Columns = Mapping[str, np.ndarray]
"""The messages of one kind: `utime` (N,) int64 and every field, (N,) or (N, size)."""


@dataclass(frozen=True, eq=False)
class CanBus:
    """What the vehicle said of itself during a scene.

    Attributes:
        messages: by the names of `MESSAGES`, all of them.
        route: (K, 2) float64 metres on the map, which leads some 50 m beyond the scene at both ends.

    Raises:
        ValueError: a kind of message or a field is missing or has another shape, a number is not finite, or times
            decrease.
    """

    messages: Mapping[str, Columns]
    route: np.ndarray

    def __post_init__(self) -> None:
        for name, fields in MESSAGES.items():
            if name not in self.messages:
                raise ValueError(f"CanBus: messages must hold {name}, got {', '.join(self.messages) or 'none'}")
            fault = _fault(self.messages[name], fields)
            if fault:
                raise ValueError(f"CanBus: {name}: {fault}")
        if self.route.ndim != 2 or self.route.shape[1:] != (2,) or not np.isfinite(self.route).all():
            raise ValueError(f"CanBus: route must be (K, 2) finite, got {self.route.shape}")


def write_can_bus(folder: str | Path, scene: str, can_bus: CanBus) -> None:
    """Writes the files of a scene.

    Args:
        folder: `can_bus` in the dataroot; it must exist and should hold nothing else.
        scene: official name, such as `scene-0061`.
        can_bus: the messages; fields of whole numbers are written as such.

    Raises:
        OSError: a file cannot be written.
    """
    contents: dict[str, Any] = {name: _rows(can_bus.messages[name], fields) for name, fields in MESSAGES.items()}
    contents["meta"] = {name: _summary(can_bus.messages[name], fields) for name, fields in MESSAGES.items()}
    contents["route"] = can_bus.route.tolist()
    for name, content in contents.items():
        with atomic_writer(_path(folder, scene, name)) as file:
            file.write(json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def read_can_bus(folder: str | Path, scene: str) -> CanBus:
    """Reads the files of a scene.

    Args:
        folder: `can_bus` in the dataroot.
        scene: official name.

    Returns:
        The messages, all numbers float64 but the times; fields that nuScenes does not have are left out.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is no list of such messages; it says which file and message, and what is wrong.
    """
    messages = {name: _read_messages(_path(folder, scene, name), fields) for name, fields in MESSAGES.items()}
    path = _path(folder, scene, "route")
    route = _numbers(_parsed(path), f"read_can_bus: {path}: route", None, 2)
    return CanBus(messages, route)


def _path(folder: str | Path, scene: str, name: str) -> Path:
    return Path(folder) / f"{scene}_{name}.json"


def _fault(columns: Columns, fields: Mapping[str, int]) -> str:
    """What is wrong with the messages of one kind; "" for nothing."""
    for name, size in {_TIME: 1, **fields}.items():
        if name not in columns:
            return f"{name} is missing"
        shape = (len(columns[_TIME]),) if size == 1 else (len(columns[_TIME]), size)
        if columns[name].shape != shape or not np.isfinite(columns[name]).all():
            return f"{name} must be {shape} finite, got {columns[name].shape}"
    if columns[_TIME].dtype.kind != "i" or (np.diff(columns[_TIME]) < 0).any():
        return f"{_TIME} must be whole numbers that do not decrease"
    return ""


def _rows(columns: Columns, fields: Mapping[str, int]) -> list[dict[str, Any]]:
    """The messages one by one, as the files have them."""
    names = sorted((*fields, _TIME))
    values = [columns[name].tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _summary(columns: Columns, fields: Mapping[str, int]) -> dict[str, Any]:
    """How many messages there are, and the range of every field and of its change from message to message."""
    times = columns[_TIME]
    span_s = float(times[-1] - times[0]) * 1e-6 if len(times) else 0.0
    statistics = {name: _statistics(columns[name].astype(np.float64)) for name in fields}
    frequency = (len(times) - 1) / span_s if span_s else 0.0
    return {"message_count": len(times), "message_freq": frequency, "timespan": span_s, "var_stats": statistics}


def _statistics(values: np.ndarray) -> dict[str, Any]:
    result = {}
    for prefix, numbers in (("", values), ("diff_", np.diff(values, axis=0))):
        for name, function in (("max", np.max), ("mean", np.mean), ("min", np.min), ("std", np.std)):
            result[prefix + name] = function(numbers, axis=0).tolist() if len(numbers) else None
    return result


def _parsed(path: Path) -> list[Any]:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"read_can_bus: {path}: must have at most {_MAX_BYTES} bytes, got {size}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"read_can_bus: {path}: must be JSON: {error}") from None
    if not isinstance(content, list):
        raise ValueError(f"read_can_bus: {path}: must be a list, got {type(content).__name__}")
    return content


def _read_messages(path: Path, fields: Mapping[str, int]) -> Columns:
    rows, where = _parsed(path), f"read_can_bus: {path}"
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: message {number} must be an object, got {type(row).__name__}")
        missing = [name for name in (_TIME, *fields) if name not in row]
        if missing:
            raise ValueError(f"{where}: message {number} lacks {', '.join(missing)}")
    times = [row[_TIME] for row in rows]
    for number, time in enumerate(times):
        if type(time) is not int or not 0 <= time < 1 << 62:
            raise ValueError(f"{where}: message {number}: {_TIME} must be whole microseconds, got {time!r}")
        if number and time < times[number - 1]:
            raise ValueError(f"{where}: message {number}: {_TIME} must not decrease, got {time}")
    columns = {name: _numbers([row[name] for row in rows], where, name, size) for name, size in fields.items()}
    return {_TIME: np.array(times, np.int64), **columns}


def _numbers(values: list[Any], where: str, field: str | None, size: int) -> np.ndarray:
    """(N,) or (N, size) float64 of finite numbers."""
    for number, value in enumerate(values):
        parts = value if size > 1 else [value]
        fits = isinstance(parts, list) and len(parts) == size and all(type(part) in (int, float) for part in parts)
        if not fits or not all(-1e300 < part < 1e300 for part in parts):
            name = f"message {number}: {field}" if field else f"point {number}"
            raise ValueError(f"{where}: {name} must be {size} finite number(s), got {str(value)[:60]}")
    return np.array(values, np.float64).reshape((len(values),) if size == 1 else (len(values), size))
