"""Returns of radars and echoes of ultrasonic sensors to measure models on, as many as the simulated suite gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception.data.sensor_settings import Radar4dLoading, RadarLoading, UltrasonicLoading
from perception.formats.ultrasonic import EchoState
from perception.ops.echo_splat import EchoKind
from perception.structures import RADAR4D_FIELDS, RADAR_FIELDS, EchoBatch, PointBatch

RETURNS_PER_SCAN = 60
"""Of one radar."""

RETURNS_PER_SCAN_4D = 1024
"""Of one radar that measures height."""

REPORTS_PER_SENSOR = 3
"""Echoes and statements of no echo that one ultrasonic sensor hears, of its own bursts and its neighbours'."""


def made_up_radar(loading: RadarLoading | Radar4dLoading, batch_size: int, generator: torch.Generator) -> PointBatch:
    """Makes returns of all radars, `RETURNS_PER_SCAN` or `RETURNS_PER_SCAN_4D` for the keyframe and for each sweep.

    Args:
        loading: which radars, and how many sweeps.
        batch_size: samples B.
        generator: source of the draws.

    Returns:
        The returns, within 50 m, their standard deviations 0.7 m.
    """
    measures_height = isinstance(loading, Radar4dLoading)
    fields = RADAR4D_FIELDS if measures_height else RADAR_FIELDS
    per_scan = RETURNS_PER_SCAN_4D if measures_height else RETURNS_PER_SCAN
    count = per_scan * len(loading.channels) * (loading.num_sweeps + 1)
    points = torch.rand(batch_size * count, 3 + len(fields), generator=generator)
    points[:, :2] = (points[:, :2] - 0.5) * 100
    points[:, 2] = points[:, 2] * 4 - 1
    points[:, 7:10] = torch.tensor([0.5, 0.0, 0.5])
    return PointBatch(
        points=points,
        batch_index=torch.arange(batch_size).repeat_interleave(count),
        present=torch.ones(batch_size, dtype=torch.bool),
        sensor2ego=torch.eye(4, dtype=torch.float64).repeat(batch_size, 1, 1),
        fields=fields,
    )


def made_up_echoes(loading: UltrasonicLoading, batch_size: int, generator: torch.Generator) -> EchoBatch:
    """Makes reports of sensors all around the vehicle; two of three are echoes, the others say that nothing was heard.

    Args:
        loading: which sensors.
        batch_size: samples B.
        generator: source of the draws.

    Returns:
        `REPORTS_PER_SENSOR` for each sensor.
    """
    num_sensors = len(loading.channels)
    count = REPORTS_PER_SENSOR * num_sensors
    number = (torch.arange(count) % num_sensors).repeat(batch_size)  # (E,)
    heard = number % 3 > 0
    poses = _around_the_vehicle(number * (2 * math.pi / num_sensors))
    return EchoBatch(
        sender=poses,
        receiver=poses.roll(1, 0),
        distance_m=0.5 + 4 * torch.rand(len(number), generator=generator),
        beam_rad=torch.full((len(number),), 0.7),
        sigma_m=torch.full((len(number),), 0.02),
        level=torch.where(heard, 0.5, 0.0),
        age_s=torch.rand(len(number), generator=generator) * 0.1,
        kind=torch.where(heard, int(EchoKind.FIRST), int(EchoKind.NONE)),
        state=torch.where(heard, int(EchoState.OBJECT), int(EchoState.NO_OBJECT)),
        sensor=number + 1,
        batch_index=torch.arange(batch_size).repeat_interleave(count),
        present=torch.ones(batch_size, dtype=torch.bool),
    )


def _around_the_vehicle(yaw: Tensor) -> Tensor:
    """Poses x y heading (E, 3) on an ellipse about the vehicle's middle, looking outwards."""
    return torch.stack((1.4 + 2.2 * yaw.cos(), 0.9 * yaw.sin(), yaw), dim=1)
