"""Synthetic radar returns and ultrasonic echoes, fisheyes, and batches of every sensor, for the tests of models."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from perception.formats.ultrasonic import EchoState
from perception.geometry.grid import Grid
from perception.ops.echo_splat import EchoKind
from perception.structures import RADAR4D_FIELDS, RADAR_FIELDS, Batch, CameraImages, EchoBatch, PointBatch
from perception.structures.sensors import ECHO_AXES
from perception.structures.tensors import map_tensors
from tests.models.scenes import make_batch, make_cameras, make_lidar

NEAR = Grid((-8.0, 8.0), (-6.4, 6.4), (-5.0, 3.0), (0.2, 0.2, 8.0))  # 64 rows of 80 cells
NUM_ULTRASONIC = 12


def radar_returns(rows: Sequence[Sequence[float]]) -> Tensor:
    """(P, 11) returns from x, y, vx, vy, standard deviation: 0.5 m high, 5 dBsm, 0.1 s old, valid."""
    returns = torch.zeros(len(rows), 3 + len(RADAR_FIELDS))
    for row, (x, y, vx, vy, sigma_m) in zip(returns, rows, strict=True):
        row[:] = torch.tensor([x, y, 0.5, 5.0, vx, vy, 0.1, sigma_m**2, 0.0, sigma_m**2, 1.0])
    return returns


def make_radar(counts: Sequence[int | None], *, measures_height: bool = False) -> PointBatch:
    """Random returns, every fifth without a velocity; None is an absent sensor, 0 one that saw nothing."""
    numbers = [count or 0 for count in counts]
    total = sum(numbers)
    place = (torch.rand(total, 2) - 0.5) * 24
    returns = radar_returns([(x, y, 1.5, -0.5, 0.4) for x, y in place.tolist()])
    returns[:, 3] = torch.rand(total) * 20
    returns[:, 4:6] = torch.randn(total, 2) * 3
    returns[::5, 4:6] = torch.nan
    if measures_height:
        returns[:, 2] = torch.rand(total) * 5 - 1.5
    return PointBatch(
        points=returns,
        batch_index=torch.arange(len(counts)).repeat_interleave(torch.tensor(numbers)),
        present=torch.tensor([count is not None for count in counts]),
        sensor2ego=torch.eye(4, dtype=torch.float64).repeat(len(counts), 1, 1),
        fields=RADAR4D_FIELDS if measures_height else RADAR_FIELDS,
    )


def echo(**values: object) -> EchoBatch:
    """One direct echo of a sensor at the front that looks ahead: an object 2 m off; any field may be given another."""
    row = {
        "sender": [3.0, 0.0, 0.0],
        "receiver": [3.0, 0.0, 0.0],
        "distance_m": 2.0,
        "beam_rad": 0.7,
        "sigma_m": 0.02,
        "level": 0.5,
        "age_s": 0.1,
        "kind": int(EchoKind.FIRST),
        "state": int(EchoState.OBJECT),
        "sensor": 1,
    } | values
    whole = ("kind", "state", "sensor")
    rows = {name: torch.tensor([row[name]], dtype=torch.long if name in whole else torch.float32) for name in ECHO_AXES}
    return EchoBatch(**rows, batch_index=torch.zeros(1, dtype=torch.long), present=torch.tensor([True]))


def make_echoes(sensors: Sequence[Sequence[int] | None]) -> EchoBatch:
    """Direct echoes and states of some of twelve sensors around the vehicle, per sample; None is an absent system."""
    rows, index = [], []
    for sample, numbers in enumerate(sensors):
        for number in numbers or ():
            yaw = 2 * math.pi * number / NUM_ULTRASONIC
            pose = [2.0 * math.cos(yaw), math.sin(yaw), yaw]
            state = (EchoState.OBJECT, EchoState.NO_OBJECT, EchoState.BLIND, EchoState.TOO_CLOSE)[number % 4]
            kind = {EchoState.OBJECT: EchoKind.FIRST, EchoState.NO_OBJECT: EchoKind.NONE}.get(state, EchoKind.NOTHING)
            rows.append(
                echo(
                    sender=pose, receiver=pose, distance_m=1.0 + number / 6, kind=int(kind), state=int(state),
                    sensor=number, level=0.3 if kind == EchoKind.FIRST else 0.0, age_s=0.02 * number,
                )
            )  # fmt: skip
            index.append(sample)
    empty = map_tensors(echo(), lambda tensor: tensor[:0])
    merged = {name: torch.cat([getattr(row, name) for row in (empty, *rows)]) for name in ECHO_AXES}
    return EchoBatch(
        **merged,
        batch_index=torch.tensor(index, dtype=torch.long),
        present=torch.tensor([numbers is not None for numbers in sensors]),
    )


def make_fisheyes(present: Sequence[Sequence[bool]], theta_max_rad: float | None = 1.6) -> CameraImages:
    """Fisheyes around the vehicle."""
    cameras = make_cameras(present, "kannala_brandt")
    limit = None if theta_max_rad is None else torch.full(cameras.present.shape, theta_max_rad, dtype=torch.float64)
    return dataclasses.replace(cameras, theta_max_rad=limit)


def every_sensor(batch_size: int = 2) -> Batch:
    """A batch whose samples have every sensor."""
    batch = make_batch(make_cameras([[True] * 3] * batch_size), make_lidar([200] * batch_size), [None] * batch_size)
    return dataclasses.replace(
        batch,
        cameras={**batch.cameras, "fisheye": make_fisheyes([[True] * 4] * batch_size)},
        radar=make_radar([60] * batch_size),
        radar4d=make_radar([80] * batch_size, measures_height=True),
        ultrasonic=make_echoes([range(NUM_ULTRASONIC)] * batch_size),
    )
