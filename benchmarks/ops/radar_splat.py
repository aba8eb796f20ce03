"""radar_splat against its torch reference, which lists all pairs of a return and a cell.

The limit is the memory bus, for one pass over the BEV; the rest of the time goes into exp and the statistics of motion
for each pair, and into first touching the pages of the result.
"""

import math
from collections.abc import Callable

import torch

from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.radar_splat import RadarBev, RadarReturns, radar_covariances, radar_splat, radar_splat_reference

_RADARS, _SWEEPS, _RETURNS, _CHANNELS = 5, 6, 60, 64
_GRID = Grid.square(51.2, 0.4)


def run() -> list[Row]:
    """Measures the forward pass, and forward with backward, for six sweeps of five radars."""
    generator = torch.Generator().manual_seed(0)
    count = _RADARS * _SWEEPS * _RETURNS
    distance = 4 + 66 * torch.rand(count, generator=generator)
    azimuth = 2 * math.pi * torch.rand(count, generator=generator)
    positions = torch.stack((distance * azimuth.cos(), distance * azimuth.sin()), -1)
    rms = 0.2 + 0.4 * torch.rand(count, 2, generator=generator)
    covariances = radar_covariances(positions, rms, torch.eye(2), range_sigma_m=0.2, azimuth_sigma_rad=0.01)
    velocities = torch.randn(count, 2, generator=generator)
    returns = RadarReturns(
        positions_m=positions,
        covariances_m2=covariances,
        velocities_mps=velocities,
        batch_index=torch.zeros(count, dtype=torch.int64),
    )
    features = torch.randn(count, _CHANNELS, generator=generator)
    case = f"{count} returns x {_CHANNELS}, {_GRID.num_y}x{_GRID.num_x}"
    least_bytes = num_bytes(features) + _GRID.num_y * _GRID.num_x * (_CHANNELS + 4) * 4

    def _with_backward(function: Callable[..., RadarBev]) -> tuple[torch.Tensor, ...]:
        leaf = features.detach().requires_grad_()
        return torch.autograd.grad(function(leaf, returns, 1, _GRID).features.square().sum(), leaf)

    rows = compare(
        "radar_splat",
        case,
        lambda: radar_splat(features, returns, 1, _GRID),
        {"reference": lambda: radar_splat_reference(features, returns, 1, _GRID)},
        least_bytes,
    )
    return rows + compare(
        "radar_splat",
        f"{case}, with backward",
        lambda: _with_backward(radar_splat),
        {"reference": lambda: _with_backward(radar_splat_reference)},
        3 * least_bytes,
    )
