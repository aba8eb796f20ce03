"""Ultrasonic files (`.ultra`): what came back of one burst, to the sensor that sent it and to its neighbours.

A sensor sends a burst, and it and its neighbours on the same bumper listen. A file holds one burst: the sensor that
sent it, what its distances rest on, and one report per listening sensor. A direct echo (receiver = sender) lies on a
circle, an indirect one on an ellipse; either way the distance is half the path of the sound. When and where the
vehicle was when the burst went out is the business of the tables, as are the mounting poses: the sensor with number n
is the channel `ULTRASONIC_n`, two digits, with x along its axis, y left and z up.

All numbers are little-endian. After the header of 24 bytes,

    magic "USND", version uint16 (1), sender uint8, number of reports uint8,
    speed of sound float32 (m/s), half beam float32 (rad), noise of a distance float32 (m), temperature float32 (deg C),

come the reports, 10 bytes each,

    receiver uint8, state uint8, reach uint16 (mm), two distances uint16 (mm), two levels uint8 (dB over the threshold),

and the CRC-32 of all that as uint32. 65535 mm and 255 dB stand for an echo that is not there.

What `perception.ops.echo_splat` draws follows from a file and the poses: sender and receiver; the distance, or the
reach where there is no object; `half_beam_rad`; the time since the burst and the sound's way; the kind (first and later
echo of `OBJECT`, none of `NO_OBJECT`, nothing for any other state); a belief that grows with the level; and a standard
deviation of `noise_m`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from perception.formats.files import atomic_writer

NUM_ECHOES = 2
"""First and second echo; what comes later is not reported."""

MAX_LEVEL_DB = 63
"""Levels have six bits."""

_MAGIC, _VERSION = b"USND", 1
_HEADER = struct.Struct("<4sHBBffff")
_ROW = np.dtype(
    [
        ("receiver", "u1"),
        ("state", "u1"),
        ("reach_mm", "<u2"),
        ("distance_mm", "<u2", NUM_ECHOES),
        ("level_db", "u1", NUM_ECHOES),
    ]
)
_CHECKSUM = struct.Struct("<I")
_NO_DISTANCE, _NO_LEVEL = 0xFFFF, 0xFF
_MAX_DISTANCE_M = 65.0


class EchoState(IntEnum):
    """What a sensor says instead of, or beside, a distance; a missing echo is as much a statement as an echo.

    The states are those of automotive systems: nothing within reach; an object; one so near that the membrane still
    rings; a membrane that hears nothing, as under mud or ice; a defect; a report that did not arrive.
    """

    NO_OBJECT = 0
    OBJECT = 1
    TOO_CLOSE = 2
    BLIND = 3
    FAULTED = 4
    NOT_AVAILABLE = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Burst:
    """One burst and what came back of it; R sensors listened.

    Attributes:
        sender: number of the sensor that sent, from 1.
        sound_speed_m_s: that distances were computed with; the air's own may differ.
        half_beam_rad: angle off its axis at which a sensor hears its own echoes at half the pressure.
        noise_m: standard deviation of a distance.
        temperature_c: of the air, as the vehicle measured it.
        receiver: (R,) uint8 numbers of the sensors that listened, no two equal.
        state: (R,) uint8 `EchoState`.
        reach_m: (R,) float64 how far off a thin post would have been heard.
        distance_m: (R, 2) float64 half the path of the sound, nearest first; NaN without echo.
        level_db: (R, 2) float64 whole decibels over the threshold of hearing, 0..63; NaN without echo.

    Raises:
        ValueError: a field has another shape or a value that cannot be, or echoes do not fit the state.
    """

    sender: int
    sound_speed_m_s: float
    half_beam_rad: float
    noise_m: float
    temperature_c: float
    receiver: np.ndarray
    state: np.ndarray
    reach_m: np.ndarray
    distance_m: np.ndarray
    level_db: np.ndarray

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise ValueError(f"Burst: {fault}")


def encode_burst(burst: Burst) -> bytes:
    """The file that holds a burst.

    Args:
        burst: distances are rounded to millimetres, levels to decibels.

    Returns:
        Its bytes.
    """
    rows = np.zeros(len(burst.receiver), _ROW)
    rows["receiver"], rows["state"] = burst.receiver, burst.state
    rows["reach_mm"] = np.rint(1e3 * burst.reach_m)
    heard = np.isfinite(burst.distance_m)  # (R, 2)
    rows["distance_mm"] = np.where(heard, np.rint(1e3 * np.where(heard, burst.distance_m, 0)), _NO_DISTANCE)
    rows["level_db"] = np.where(heard, np.rint(np.where(heard, burst.level_db, 0)), _NO_LEVEL)
    numbers = (burst.sound_speed_m_s, burst.half_beam_rad, burst.noise_m, burst.temperature_c)
    data = _HEADER.pack(_MAGIC, _VERSION, burst.sender, len(rows), *numbers) + rows.tobytes()
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode_burst(data: bytes, name: str) -> Burst:
    """The burst that a file holds.

    Args:
        data: the file.
        name: of the file, for messages.

    Returns:
        The burst.

    Raises:
        ValueError: the file is none of bursts, of another version, cut off, changed, or says what cannot be.
    """
    least = _HEADER.size + _CHECKSUM.size
    if len(data) < least:
        raise ValueError(f"decode_burst: {name}: must have at least {least} bytes, got {len(data)}: cut off")
    magic, version, sender, count, speed, beam, noise, temperature = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError(f"decode_burst: {name}: must begin with {_MAGIC!r}, got {magic!r}")
    if version != _VERSION:
        raise ValueError(f"decode_burst: {name}: version must be {_VERSION}, got {version}")
    size = least + count * _ROW.itemsize
    if len(data) != size:
        raise ValueError(f"decode_burst: {name}: must have {size} bytes for {count} reports, got {len(data)}")
    (checksum,) = _CHECKSUM.unpack_from(data, size - _CHECKSUM.size)
    if checksum != zlib.crc32(data[: size - _CHECKSUM.size]):
        raise ValueError(f"decode_burst: {name}: checksum does not fit the content")
    rows = np.frombuffer(data, _ROW, count, _HEADER.size)
    heard = rows["distance_mm"] != _NO_DISTANCE  # (R, 2)
    if ((rows["level_db"] != _NO_LEVEL) != heard).any():
        raise ValueError(f"decode_burst: {name}: every distance must have a level, and no other echo one")
    try:
        return Burst(
            sender=sender,
            sound_speed_m_s=speed,
            half_beam_rad=beam,
            noise_m=noise,
            temperature_c=temperature,
            receiver=rows["receiver"].copy(),
            state=rows["state"].copy(),
            reach_m=rows["reach_mm"] / 1e3,
            distance_m=np.where(heard, rows["distance_mm"] / 1e3, np.nan),
            level_db=np.where(heard, rows["level_db"], np.nan),
        )
    except ValueError as error:
        raise ValueError(f"decode_burst: {name}: {error}") from None


def read_ultrasonic(path: str | Path) -> Burst:
    """The burst of a file.

    Args:
        path: the file.

    Returns:
        The burst.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: as `decode_burst`.
    """
    return decode_burst(Path(path).read_bytes(), str(path))


def write_ultrasonic(path: str | Path, burst: Burst) -> None:
    """Writes the file of a burst.

    Args:
        path: the file.
        burst: as for `encode_burst`.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_writer(path) as file:
        file.write(encode_burst(burst))


def _fault(burst: Burst) -> str:
    """What is wrong with a burst; "" for nothing."""
    count = len(burst.receiver)
    shapes = {"receiver": (count,), "state": (count,), "reach_m": (count,)}
    for name, shape in {**shapes, "distance_m": (count, NUM_ECHOES), "level_db": (count, NUM_ECHOES)}.items():
        if getattr(burst, name).shape != shape:
            return f"{name} must be {shape}, got {getattr(burst, name).shape}"
    limits = {
        "sender": (1, 255),
        "sound_speed_m_s": (250, 450),
        "half_beam_rad": (1e-3, np.pi / 2),
        "noise_m": (0, 1),
        "temperature_c": (-80, 80),
        "receiver": (1, 255),
        "state": (0, max(EchoState)),
        "reach_m": (0, _MAX_DISTANCE_M),
    }
    for name, (low, high) in limits.items():
        values = np.atleast_1d(getattr(burst, name))
        if not ((values >= low) & (values <= high)).all():
            return f"{name} must be in {low:g}..{high:g}, got {values.tolist()}"
    if len(set(burst.receiver.tolist())) < count or count > 255:
        return f"receiver must hold each number once, got {burst.receiver.tolist()}"
    return _echo_fault(burst)


def _echo_fault(burst: Burst) -> str:
    distance, level, heard = burst.distance_m, burst.level_db, ~np.isnan(burst.distance_m)  # (R, 2) each
    if (np.isnan(level) == heard).any():
        return "every distance must have a level, and no other echo one"
    if (heard[:, 0] != (burst.state == EchoState.OBJECT)).any() or (heard[:, 1] & ~heard[:, 0]).any():
        return "echoes must be there where the state is OBJECT, the first before the second, and nowhere else"
    if not ((distance[heard] >= 0) & (distance[heard] <= _MAX_DISTANCE_M)).all():
        return f"distance_m must be in 0..{_MAX_DISTANCE_M:g}, got {distance[heard].tolist()}"
    if not ((level[heard] >= 0) & (level[heard] <= MAX_LEVEL_DB)).all():
        return f"level_db must be in 0..{MAX_LEVEL_DB}, got {level[heard].tolist()}"
    if (distance[heard[:, 1], 1] < distance[heard[:, 1], 0]).any():
        return f"distance_m must not decrease from echo to echo, got {distance.tolist()}"
    return ""
