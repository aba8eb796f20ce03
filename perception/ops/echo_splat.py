"""Ultrasonic echoes onto the BEV near the vehicle: occupied where an echo came from, free before it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.ops import _library
from perception.ops._checks import (
    FLOATING,
    FULL_PRECISION,
    INT64,
    check_count,
    check_grid,
    check_same_device,
    check_tensor,
)

CHANNELS = ("occupied", "free", "age_s")
_SIGMAS = 4.0  # range noise is cut off here
_FREE_SIGMAS = 2.0  # free space ends so far before the echo


class EchoKind(IntEnum):
    """What a sensor's report says."""

    NOTHING = 0  # blind, faulted, not available, or too close to measure
    FIRST = 1  # an obstacle at the distance, free space before it
    LATER = 2  # an obstacle at the distance behind another
    NONE = 3  # no echo: free space up to the distance


@dataclass(frozen=True, kw_only=True)
class EchoGeometry:
    """Where echoes were sent, heard and reflected, in the grid's frame.

    Args:
        sender: (E, 3) x y in metres and heading in radians of the sensor that sent.
        receiver: (E, 3) of the sensor that heard; the same for a direct echo. An indirect one lies on an ellipse.
        distance_m: (E,) half the path of the sound; for `EchoKind.NONE` the largest at which it would have been heard.
        beam_rad: (E,) angle off a sensor's axis at which a direct echo counts half, in (0, pi / 2).
        age_s: (E,) how long ago it was heard.
        kind: (E,) int64, an `EchoKind`.
        batch_index: (E,) int64, the sample of each echo, or -1 to leave it out.
    """

    sender: Tensor
    receiver: Tensor
    distance_m: Tensor
    beam_rad: Tensor
    age_s: Tensor
    kind: Tensor
    batch_index: Tensor


def echo_splat(amplitude: Tensor, sigma_m: Tensor, echoes: EchoGeometry, batch_size: int, grid: Grid) -> Tensor:
    """Draws each echo as an annular sector and joins what all sensors say by a noisy OR.

    With rho half the way sender - cell - receiver, z = (rho - distance) / sigma and theta the angles off the two axes,

        beam     = (cos theta_sender * cos theta_receiver) ** n, n such that a direct echo has half at `beam_rad`
        occupied = amplitude * beam * exp(-z**2 / 2)     for a first or a later echo
        free     = beam * Phi(-z - 2)                    for a first echo or none; Phi: the normal distribution
        cell     = 1 - product over echoes of (1 - evidence), for each of the two

    Cells beside or behind a sensor or with z above 4 learn nothing. An echo says nothing where its kind is another, a
    number of it is NaN or infinite, its distance is negative, or its sigma is not positive. Amplitudes are clamped to
    [0, 1] first. Computed in float64; under autocast the result is at least float32. The same bits on every run.
    Differentiable once, in amplitude and sigma.

    Args:
        amplitude: (E,) floating, how much an echo is to be believed.
        sigma_m: (E,) floating, standard deviation of the distance.
        echoes: their geometry; E = 0 is fine.
        batch_size: number of samples B.
        grid: its x and y.

    Returns:
        (B, 3, Y, X) in the wider dtype of `amplitude` and `sigma_m`: evidence in [0, 1] that the cell is occupied and
        that it is free, and the age in seconds of the echo with the strongest evidence there. A cell has been observed
        where either evidence is above 0; the age is 0 elsewhere and has no gradient.

    Raises:
        TypeError: an argument that must be a tensor or a grid is none.
        ValueError: shapes, dtypes or devices that do not fit, or (on the CPU) a batch index out of range; on CUDA such
            an echo is left out.
    """
    _check(amplitude, sigma_m, echoes, batch_size, grid)
    if not _library.has_kernels(amplitude.device):
        return echo_splat_reference(amplitude, sigma_m, echoes, batch_size, grid)
    bev, _ = torch.ops.perception.echo_splat(
        amplitude.double().clamp(0, 1),
        sigma_m.double(),
        _table(echoes),
        echoes.kind,
        echoes.batch_index,
        grid.origin_m[:2],
        grid.cell_m[:2],
        [batch_size, grid.num_y, grid.num_x],
    )
    return bev.to(_result_dtype(amplitude, sigma_m))


def echo_splat_reference(
    amplitude: Tensor, sigma_m: Tensor, echoes: EchoGeometry, batch_size: int, grid: Grid
) -> Tensor:
    """Does what `echo_splat` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        amplitude: as in `echo_splat`.
        sigma_m: as in `echo_splat`.
        echoes: as in `echo_splat`.
        batch_size: as in `echo_splat`.
        grid: as in `echo_splat`.

    Returns:
        As `echo_splat`.

    Raises:
        ValueError: a batch index out of range (on the CPU).
    """
    index = echoes.batch_index
    wrong = ((index < -1) | (index >= batch_size)).nonzero()
    if index.device.type == "cpu" and len(wrong):
        row = int(wrong[0])
        raise ValueError(f"echo_splat: index must be in [-1, {batch_size}), got {int(index[row])} at row {row}")
    dtype = _result_dtype(amplitude, sigma_m)
    table, amplitude, sigma_m = _table(echoes), amplitude.double().clamp(0, 1), sigma_m.double()
    speaks = table.isfinite().all(1) & amplitude.isfinite() & sigma_m.isfinite() & (sigma_m > 0) & (table[:, 8] >= 0)
    silent = table.new_zeros(1, grid.num_y, grid.num_x)
    samples = []
    for sample in range(batch_size):
        rows = (speaks & (index == sample)).nonzero()[:, 0]  # (M,)
        occupied, free = _evidence(amplitude[rows], sigma_m[rows], table[rows], echoes.kind[rows], grid)  # (M, Y, X)
        evidence = torch.maximum(occupied, free).detach()
        evidence = torch.where(1 - evidence < 1, evidence, 0)  # less is lost in the product
        strongest, echo = torch.cat((silent, evidence)).max(0)  # (Y, X)
        ages = torch.cat((table.new_zeros(1), table[rows, 10]))
        age = torch.where(strongest > 0, ages[echo], 0)  # (Y, X)
        samples.append(torch.stack((1 - (1 - occupied).prod(0), 1 - (1 - free).prod(0), age)))
    empty = table.new_empty(0, len(CHANNELS), grid.num_y, grid.num_x)
    return (torch.stack(samples) if samples else empty * (amplitude.sum() + sigma_m.sum())).to(dtype)


def _evidence(amplitude: Tensor, sigma: Tensor, table: Tensor, kind: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    centers = grid.centers_xy().to(table.device)  # (Y, X, 2)
    to_cell = centers - table[:, :8].unflatten(1, (2, 4))[:, :, None, None, :2]  # (M, 2, Y, X, 2)
    facing = table[:, :8].unflatten(1, (2, 4))[:, :, None, None, 2:]  # (M, 2, 1, 1, 2)
    length = to_cell.norm(dim=-1)  # (M, 2, Y, X)
    ahead = (to_cell * facing).sum(-1)
    cosines = torch.where(ahead > 0, ahead / length, 0).prod(1)  # (M, Y, X)
    distance, exponent, sigma = table[:, 8, None, None], table[:, 9, None, None], sigma[:, None, None]
    z = (length.mean(1) - distance) / sigma
    reached = (ahead > 0).all(1) & (z <= _SIGMAS)
    z = torch.where(reached, z, 0)
    beam = torch.where(reached, cosines**exponent, 0)
    echo = ((kind == EchoKind.FIRST) | (kind == EchoKind.LATER))[:, None, None]
    clear = ((kind == EchoKind.FIRST) | (kind == EchoKind.NONE))[:, None, None]
    occupied = torch.where(echo, amplitude[:, None, None] * beam * torch.exp(-z.square() / 2), 0)
    free = torch.where(clear, beam * torch.erfc((z + _FREE_SIGMAS) / math.sqrt(2)) / 2, 0)
    return occupied, free


def _table(echoes: EchoGeometry) -> Tensor:
    """Lays the geometry out as the kernels read it, (E, 11): places, facings, distance, beam exponent, age."""
    ends = []
    for pose in (echoes.sender.double(), echoes.receiver.double()):
        ends += [pose[:, :2], pose[:, 2:].cos(), pose[:, 2:].sin()]
    exponent = math.log(0.5) / (2 * echoes.beam_rad.double().cos().log())
    in_range = (echoes.beam_rad > 0) & (echoes.beam_rad < math.pi / 2)
    exponent = torch.where(in_range, exponent, math.nan)  # such an echo says nothing
    rest = echoes.distance_m.double(), exponent, echoes.age_s.double()
    return torch.cat((*ends, torch.stack(rest, 1)), 1).detach()


def _result_dtype(amplitude: Tensor, sigma_m: Tensor) -> torch.dtype:
    return _library.output_dtype(torch.promote_types(amplitude.dtype, sigma_m.dtype), amplitude.device)


def _check(amplitude: Tensor, sigma_m: Tensor, echoes: EchoGeometry, batch_size: int, grid: Grid) -> None:
    check_tensor("echo_splat: amplitude", amplitude, "E", FLOATING)
    count = len(amplitude)
    check_tensor("echo_splat: sigma_m", sigma_m, f"{count}", FLOATING)
    for name in ("sender", "receiver"):
        check_tensor(f"echo_splat: {name}", getattr(echoes, name), f"{count} 3", FULL_PRECISION)
    for name in ("distance_m", "beam_rad", "age_s"):
        check_tensor(f"echo_splat: {name}", getattr(echoes, name), f"{count}", FULL_PRECISION)
    for name in ("kind", "batch_index"):
        check_tensor(f"echo_splat: {name}", getattr(echoes, name), f"{count}", INT64)
    check_count("echo_splat: batch_size", batch_size)
    check_grid("echo_splat", grid)
    check_same_device("echo_splat", amplitude=amplitude, sigma_m=sigma_m, **vars(echoes))


def _fake(
    amplitude: Tensor,
    sigma: Tensor,
    geometry: Tensor,
    kind: Tensor,
    batch_index: Tensor,
    lower_m: Sequence[float],
    cell_m: Sequence[float],
    shape: Sequence[int],
) -> tuple[Tensor, Tensor]:
    samples, rows, columns = shape
    return amplitude.new_empty(samples, 3, rows, columns), amplitude.new_empty(samples, 4, rows, columns)


def _fake_backward(
    gradient: Tensor, products: Tensor, amplitude: Tensor, sigma: Tensor, *_: Tensor | Sequence[float]
) -> tuple[Tensor, Tensor]:
    return amplitude.new_empty(amplitude.shape), sigma.new_empty(sigma.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, lower_m, cell_m, shape = inputs
    ctx.grid = lower_m, cell_m, shape
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    op = torch.ops.perception.echo_splat_backward
    return *op(gradient, *ctx.saved_tensors, *ctx.grid), *(None,) * 6


_library.register("echo_splat", fake=_fake, backward=_backward, setup_context=_setup_context)
_library.register("echo_splat_backward", fake=_fake_backward)
