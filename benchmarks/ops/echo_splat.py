"""echo_splat against its torch reference, which looks at every cell for every echo.

The limit is the memory bus; the time goes into square roots, pow, exp and erfc for each cell that an echo reaches.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.echo_splat import EchoGeometry, echo_splat, echo_splat_reference

_SAMPLES, _SENSORS, _ECHOES = 4, 12, 3
_GRID = Grid.square(8.0, 0.1)


def run() -> list[Row]:
    """Measures the forward pass, and forward with backward, for a ring of twelve sensors."""
    generator = torch.Generator().manual_seed(0)
    count = _SAMPLES * _SENSORS * _ECHOES
    heading = torch.arange(count) % _SENSORS * (2 * math.pi / _SENSORS)
    sender = torch.stack((2 * heading.cos(), heading.sin(), heading), 1)
    echoes = EchoGeometry(
        sender=sender,
        receiver=sender,
        distance_m=0.3 + 4 * torch.rand(count, generator=generator),
        beam_rad=torch.full((count,), math.radians(40)),
        age_s=0.1 * torch.rand(count, generator=generator),
        kind=1 + torch.arange(count) % 3,
        batch_index=torch.arange(count) // (_SENSORS * _ECHOES),
    )
    amplitude = torch.rand(count, generator=generator)
    sigma = torch.full((count,), 0.05)
    case = f"{count} echoes, {_SAMPLES}x{_GRID.num_y}x{_GRID.num_x}"
    least_bytes = num_bytes(amplitude, sigma, sender) + _SAMPLES * 3 * _GRID.num_y * _GRID.num_x * 4

    def _with_backward(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = amplitude.detach().requires_grad_(), sigma.detach().requires_grad_()
        return torch.autograd.grad(function(*leaves, echoes, _SAMPLES, _GRID).square().sum(), leaves)

    rows = compare(
        "echo_splat",
        case,
        lambda: echo_splat(amplitude, sigma, echoes, _SAMPLES, _GRID),
        {"reference": lambda: echo_splat_reference(amplitude, sigma, echoes, _SAMPLES, _GRID)},
        least_bytes,
    )
    return rows + compare(
        "echo_splat",
        f"{case}, with backward",
        lambda: _with_backward(echo_splat),
        {"reference": lambda: _with_backward(echo_splat_reference)},
        3 * least_bytes,
    )
