"""Radar scans -> points in the ego frame at the sample's time, with their motion and how well each is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from perception.data.index import SensorRecord
from perception.data.points import thin_points
from perception.data.sample_files import SampleFiles
from perception.data.sensor_settings import Radar4dLoading, RadarLoading
from perception.formats.lidar import NonFinite
from perception.formats.radar import RADAR_FIELDS as SCAN_FIELDS
from perception.formats.radar import read_radar
from perception.formats.radar4d import RADAR4D_FIELDS as SCAN4D_FIELDS
from perception.formats.radar4d import read_radar4d
from perception.ops.radar_splat import radar_covariances
from perception.structures import RADAR4D_FIELDS, RADAR_FIELDS, PointCloud
from perception.structures.tensors import identity4

# Upper bounds of the codes 1 to 30 of the fields `x_rms` and `y_rms`; 0 and 31 say nothing.
_RMS_M: tuple[float, ...] = (
    0.006,
    0.008,
    0.011,
    0.014,
    0.018,
    0.023,
    0.029,
    0.038,
    0.049,
    0.063,
    0.081,
    0.105,
    0.135,
    0.174,
    0.224,
)
_RMS_M += (0.288, 0.371, 0.478, 0.616, 0.794, 1.023, 1.317, 1.697, 2.187, 2.817, 3.63, 4.676, 6.025, 7.762, 10.0)
_MOVING = (0, 2, 6)  # `dyn_prop`: moving, oncoming, crossing
_DOPPLER_KNOWN = (3, 4)  # `ambig_state`: unambiguous, of a stationary candidate
_VALID = (0,)  # `invalid_state`; those of the next line are valid with a reservation, the rest are not
_RESERVED = (4, 8, 9, 10, 11, 12, 15, 16, 17)
_FALSE_ALARM = (0.0, 0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)  # lower bounds of the codes of `pdh0`; 0 says nothing


@dataclass(frozen=True, eq=False)
class Scans:
    """Rows of several scans of several radars.

    Attributes:
        rows: (P, F) float64, columns of the file, sensor frame.
        radar2ego: (P, 4, 4) float64 of each row's scan, with the ego motion since it.
        lag_s: (P,) float64, seconds from each row's scan to the sample's time.
        radar: (P,) int64, place of each row's radar in the channels asked for.
    """

    rows: Tensor
    radar2ego: Tensor
    lag_s: Tensor
    radar: Tensor


def load_radar(files: SampleFiles, wanted: RadarLoading) -> PointCloud | None:
    """Loads the returns of all radars of a sample.

    Args:
        files: of the sample.
        wanted: what to load.

    Returns:
        The returns, radar by radar, newest scan first; None where no radar has a scan that can be read.

    Raises:
        SensorFileError: a file cannot be used and problems are to raise.
    """

    def _read(path: Path, non_finite: NonFinite) -> np.ndarray:
        return read_radar(path, wanted.radar_filter, non_finite=non_finite)

    scans = _read_scans(files, wanted, _read)
    if scans is None:
        return None
    return _cloud(radar_points(scans, wanted), scans, RADAR_FIELDS, (wanted.max_points, files.number))


def load_radar4d(files: SampleFiles, wanted: Radar4dLoading) -> PointCloud | None:
    """Loads the points of all radars of a sample that measure height.

    Args:
        files: of the sample.
        wanted: what to load.

    Returns:
        The points, radar by radar, newest scan first; None where no radar has a scan that can be read.

    Raises:
        SensorFileError: a file cannot be used and problems are to raise.
    """

    def _read(path: Path, non_finite: NonFinite) -> np.ndarray:
        rows = read_radar4d(path, non_finite=non_finite)
        strong = -np.inf if wanted.min_power_db is None else wanted.min_power_db
        return rows[rows[:, SCAN4D_FIELDS.index("power")] >= strong]

    scans = _read_scans(files, wanted, _read)
    if scans is None:
        return None
    return _cloud(radar4d_points(scans, wanted), scans, RADAR4D_FIELDS, (wanted.max_points, files.number))


def radar_points(scans: Scans, wanted: RadarLoading) -> Tensor:
    """Moves returns into the ego frame at the sample's time.

    Args:
        scans: F = 18, columns `perception.formats.radar.RADAR_FIELDS`.
        wanted: how.

    Returns:
        (P, 11) float32 x y z and `RADAR_FIELDS`.
    """
    column = dict(zip(SCAN_FIELDS, scans.rows.unbind(1), strict=True))
    known = _is_one_of(column["ambig_state"], _DOPPLER_KNOWN)  # (P,)
    over_ground = torch.stack((column["vx_comp"], column["vy_comp"], torch.zeros_like(column["x"])), 1)  # (P, 3)
    velocity = _turned(scans, over_ground)
    moving = known & _is_one_of(column["dyn_prop"], _MOVING) & wanted.doppler_compensation
    table = torch.tensor((torch.nan, *_RMS_M, torch.nan), dtype=torch.float64)
    rms_m = table[torch.stack((column["x_rms"], column["y_rms"]), 1).long().clamp(0, len(_RMS_M) + 1)]  # (P, 2)
    moved = _moved_on(scans, velocity, moving)
    velocity[~known] = torch.nan
    return _in_order(scans, wanted, moved, (column["rcs"], velocity, rms_m, _quality(column)))


def radar4d_points(scans: Scans, wanted: Radar4dLoading) -> Tensor:
    """Moves points of radars that measure height into the ego frame at the sample's time.

    Args:
        scans: F = 7, columns `perception.formats.radar4d.RADAR4D_FIELDS`.
        wanted: how.

    Returns:
        (P, 11) float32 x y z and `RADAR4D_FIELDS`.
    """
    column = dict(zip(SCAN4D_FIELDS, scans.rows.unbind(1), strict=True))
    rate = column["range_rate_over_ground"]
    velocity = _turned(scans, normalize(scans.rows[:, :3], dim=1) * rate[:, None])  # (P, 3)
    moved = _moved_on(scans, velocity, (rate.abs() >= wanted.moving_mps) & wanted.doppler_compensation)
    unknown = torch.full_like(scans.rows[:, :2], torch.nan)
    return _in_order(scans, wanted, moved, (column["power"], velocity, unknown, torch.ones_like(rate)))


def _read_scans(
    files: SampleFiles, wanted: RadarLoading | Radar4dLoading, read: Callable[[Path, NonFinite], np.ndarray]
) -> Scans | None:
    """Radar by radar, newest first; nothing of a radar whose own scan of the sample cannot be read."""
    found: list[tuple[np.ndarray, SensorRecord]] = []
    radars: list[int] = []
    for radar, channel in enumerate(wanted.channels):
        own = files.recording(channel)
        newest = None if own is None else files.read_rows(own, read)
        if own is None or newest is None:
            continue
        found.append((newest, own))
        sweeps = files.index.sweeps(files.number, channel, wanted.num_sweeps) if wanted.num_sweeps else []
        found += [(rows, sweep) for sweep in sweeps if (rows := files.read_rows(sweep, read)) is not None]
        radars += [radar] * (len(found) - len(radars))
    if not found:
        return None
    scan = torch.repeat_interleave(torch.tensor([len(rows) for rows, _ in found]))  # (P,)
    return Scans(
        rows=torch.from_numpy(np.concatenate([rows for rows, _ in found])).double(),
        radar2ego=torch.stack([files.sensor2ego(sensor) for _, sensor in found])[scan],
        lag_s=torch.tensor([files.lag_s(sensor) for _, sensor in found], dtype=torch.float64)[scan],
        radar=torch.tensor(radars)[scan],
    )


def _cloud(points: Tensor, scans: Scans, fields: tuple[str, ...], limit_and_seed: tuple[int | None, int]) -> PointCloud:
    limit, seed = limit_and_seed
    kept = thin_points(torch.arange(len(points)), limit, seed)
    return PointCloud(points=points[kept], fields=fields, sensor2ego=identity4(), sensor=scans.radar[kept])


def _turned(scans: Scans, vectors: Tensor) -> Tensor:
    """(P, 3) vectors of the sensors' frames in ego axes."""
    return (scans.radar2ego[:, :3, :3] * vectors[:, None]).sum(2)  # (P, 3, 3) -> (P, 3), faster than P products


def _moved_on(scans: Scans, velocity: Tensor, moving: Tensor) -> Tensor:
    """(P, 3) where what was seen is at the sample's time; what does not move, where it was."""
    seen = _turned(scans, scans.rows[:, :3]) + scans.radar2ego[:, :3, 3]
    return seen + velocity * (moving * scans.lag_s)[:, None]


def _in_order(
    scans: Scans,
    wanted: RadarLoading | Radar4dLoading,
    points: Tensor,
    measured: tuple[Tensor, Tensor, Tensor, Tensor],
) -> Tensor:
    """(P, 11) float32 of strength, velocity, scatter (P, 2) in the sensor's frame and quality, in the fields' order."""
    strength, velocity, rms_m, quality = measured
    covariance = radar_covariances(
        scans.rows[:, :2],
        rms_m,
        scans.radar2ego[:, :2, :2],
        range_sigma_m=wanted.range_sigma_m,
        azimuth_sigma_rad=wanted.azimuth_sigma_rad,
    )
    upper = covariance.flatten(1)[:, [0, 1, 3]]  # (P, 2, 2) -> (P, 3) xx xy yy
    columns = (points, strength[:, None], velocity[:, :2], scans.lag_s[:, None], upper, quality[:, None])
    return torch.cat(columns, 1).float()


def _quality(column: dict[str, Tensor]) -> Tensor:
    """(P,) 0 to 1: the mean of validity and of unambiguous Doppler, times the chance to be no false alarm."""
    valid = _is_one_of(column["invalid_state"], _VALID).double()
    valid += 0.5 * _is_one_of(column["invalid_state"], _RESERVED)
    doppler = _is_one_of(column["ambig_state"], _DOPPLER_KNOWN).double()
    alarm = torch.tensor(_FALSE_ALARM, dtype=torch.float64)[column["pdh0"].long().clamp(0, len(_FALSE_ALARM) - 1)]
    return (valid + doppler) / 2 * (1 - alarm)


def _is_one_of(values: Tensor, codes: tuple[int, ...]) -> Tensor:
    return torch.isin(values, torch.tensor(codes, dtype=values.dtype))
