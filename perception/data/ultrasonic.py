"""Bursts of ultrasonic sensors -> echoes in the ego frame at the sample's time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from perception.data.sample_files import SampleFiles
from perception.data.sensor_settings import UltrasonicLoading
from perception.formats.ultrasonic import MAX_LEVEL_DB, Burst, EchoState, read_ultrasonic
from perception.geometry.headings import headings
from perception.ops.echo_splat import EchoKind
from perception.structures import UltrasonicEchoes

_WHOLE = ("kind", "state", "sensor", "sent_by")
_MAX_SWEEPS = 64  # of one sensor


@dataclass(frozen=True, eq=False)
class _Sender:
    """One sensor that sent: its burst, and where all sensors were then and are now, as x y heading.

    Attributes:
        burst: what came back.
        age_s: seconds from the burst to the sample's time.
        row: sensor number -> row of the poses.
        then: (S, 3) at the burst, in the ego frame at the sample's time.
        now: (S, 3) at the sample's time.
    """

    burst: Burst
    age_s: float
    row: dict[int, int]
    then: np.ndarray
    now: np.ndarray


def load_ultrasonic(files: SampleFiles, wanted: UltrasonicLoading) -> UltrasonicEchoes | None:
    """Loads what the ultrasonic sensors of a sample reported.

    Args:
        files: of the sample.
        wanted: what to load.

    Returns:
        Echoes and statements of no echo, burst by burst; None where there is no burst young enough that can be read.

    Raises:
        SensorFileError: a file cannot be used and problems are to raise.
    """
    own = {number: files.recording(channel) for number, channel in zip(wanted.numbers, wanted.channels, strict=True)}
    sensors = {number: sensor for number, sensor in own.items() if sensor is not None}
    since_us = files.record.timestamp_us - round(wanted.max_age_s * 1e6)
    mounted = np.stack([sensor.sensor2ego for sensor in sensors.values()]) if sensors else np.zeros((0, 4, 4))
    row = {number: place for place, number in enumerate(sensors)}
    now = _heading_poses(mounted)  # (S, 3)
    reports = []
    for number, newest in sensors.items():
        earlier = files.index.sweeps(files.number, newest.channel, _MAX_SWEEPS, since_us)
        for sensor in [newest, *earlier] if newest.timestamp_us >= since_us else []:
            burst = files.read(sensor.channel, sensor.path, partial(_read_burst, sender=number))
            if burst is not None:
                then = _heading_poses(files.global2ego.numpy() @ sensor.ego2global @ mounted)
                reports.append(_echoes(_Sender(burst, files.lag_s(sensor), row, then, now)))
    if not reports:
        return None
    columns = {name: np.concatenate([report[name] for report in reports]) for name in reports[0]}
    return UltrasonicEchoes(
        **{
            name: torch.from_numpy(values.astype(np.int64 if name in _WHOLE else np.float32))
            for name, values in columns.items()
        }
    )


def _read_burst(path: Path, sender: int) -> Burst:
    burst = read_ultrasonic(path)
    if burst.sender != sender:
        raise ValueError(f"the burst must come from sensor {sender}, got one of sensor {burst.sender}")
    return burst


def _heading_poses(sensor2ego: np.ndarray) -> np.ndarray:
    """(S, 3) x y heading of (S, 4, 4)."""
    heading = headings(sensor2ego[:, :2, 0])
    return np.column_stack([sensor2ego[:, :2, 3], heading])


def _echoes(sender: _Sender) -> dict[str, np.ndarray]:
    """Columns of `UltrasonicEchoes` of one burst: first echoes or statements of none, then second echoes."""
    burst = sender.burst
    known = np.array([number in sender.row for number in burst.receiver.tolist()], dtype=bool)  # (R,), those there are
    second = known & np.isfinite(burst.distance_m[:, 1])
    report = np.concatenate([np.flatnonzero(known), np.flatnonzero(second)])  # (E,) row of the burst
    echo = np.repeat([0, 1], [known.sum(), second.sum()])  # (E,) first or second
    state = burst.state[report]
    kind = np.select([state == EchoState.OBJECT, state == EchoState.NO_OBJECT], [EchoKind.FIRST, EchoKind.NONE])
    heard = state == EchoState.OBJECT
    distance_m = np.where(heard, burst.distance_m[report, echo], burst.reach_m[report])
    flight_s = 2 * distance_m / burst.sound_speed_m_s
    start, end = _poses(sender, burst.receiver[report], flight_s)
    return {
        "sender": start,
        "receiver": end,
        "distance_m": distance_m,
        "beam_rad": np.full(len(report), burst.half_beam_rad),
        "sigma_m": np.full(len(report), burst.noise_m),
        "level": np.where(heard, burst.level_db[report, echo] + 1, 0) / (MAX_LEVEL_DB + 1),
        "age_s": sender.age_s - flight_s,
        "kind": np.where(echo == 1, EchoKind.LATER, kind),
        "state": state,
        "sensor": burst.receiver[report],
        "sent_by": np.full(len(report), burst.sender),
    }


def _poses(sender: _Sender, numbers: np.ndarray, flight_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the sender was at the burst and each receiver when the sound came, (E, 3) each.

    The vehicle drives evenly from the burst to the sample. To hear its own echo a sensor moves on by some centimetres:
    that lies, but for a millimetre, on a circle around the place half-way.
    """
    rows = [sender.row[number] for number in numbers.tolist()]
    then = sender.then[rows]  # (E, 3)
    driven = sender.now[rows] - then
    driven[:, 2] = np.mod(driven[:, 2] + np.pi, 2 * np.pi) - np.pi
    share = np.clip(flight_s / sender.age_s, 0, 1)[:, None] if sender.age_s > 0 else np.zeros((len(rows), 1))
    direct = (numbers == sender.burst.sender)[:, None]  # (E, 1)
    receivers = then + driven * np.where(direct, share / 2, share)
    return np.where(direct, receivers, sender.then[sender.row[sender.burst.sender]]), receivers
