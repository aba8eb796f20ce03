"""bev_pool against the frustum with index_add, the cumulative-sum trick and a sparse product."""

import math

import torch
from torch import Tensor

from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.bev_pool import BevPoolPlan, bev_pool, bev_pool_plan, bev_pool_reference

_SIZES = 1, 6, 118, 32, 88  # samples, cameras, depth bins, rows, columns
_CHANNELS = 80
_GRID = Grid.square(54.0, 0.3, (-10.0, 10.0))


def run() -> list[Row]:
    """Measures the forward pass, and forward with backward, for six cameras around the vehicle."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(_SIZES, generator=generator).softmax(2)
    samples, cameras, _, rows, columns = _SIZES
    features = torch.randn(samples * cameras, _CHANNELS, rows, columns, generator=generator)
    features = features.to(memory_format=torch.channels_last).unflatten(0, (samples, cameras))
    plan = bev_pool_plan(_ring_of_cameras(), (_GRID.num_y, _GRID.num_x))
    case = f"{cameras}x{_SIZES[2]}x{rows}x{columns}, {_CHANNELS} channels, {_GRID.num_y}x{_GRID.num_x}"
    least_bytes = num_bytes(depth, features) + samples * _GRID.num_y * _GRID.num_x * _CHANNELS * 4

    with torch.no_grad():
        peers = {
            "index_add": lambda: bev_pool_reference(depth, features, plan),
            "cumsum": lambda: _cumsum(depth, features, plan),
            "sparse product": lambda: _sparse_product(depth, features, plan),
        }
        result = compare("bev_pool", case, lambda: bev_pool(depth, features, plan), peers, least_bytes)
    leaves = depth.requires_grad_(), features.requires_grad_()
    return result + compare(
        "bev_pool",
        f"{case}, with backward",
        lambda: torch.autograd.grad(bev_pool(*leaves, plan).square().sum(), leaves),
        {"index_add": lambda: torch.autograd.grad(bev_pool_reference(*leaves, plan).square().sum(), leaves)},
        3 * least_bytes,
    )


def _ring_of_cameras() -> Tensor:
    """Gives the cell of each frustum point of level cameras at even angles, 70 x 40 degrees each."""
    samples, cameras, bins, rows, columns = _SIZES
    yaw = torch.arange(cameras).view(-1, 1, 1, 1) * (2 * math.pi / cameras)
    depth_m = 1 + 0.5 * torch.arange(bins).view(-1, 1, 1)
    left = math.tan(math.radians(35)) * torch.linspace(1, -1, columns)
    up = math.tan(math.radians(20)) * torch.linspace(1, -1, rows).view(-1, 1)
    x = depth_m * (yaw.cos() - left * yaw.sin()) + torch.zeros(rows, 1)  # (N, D, H, W)
    y = depth_m * (yaw.sin() + left * yaw.cos()) + torch.zeros(rows, 1)
    z = (1.5 + depth_m * up).expand_as(x)
    cells, inside = _GRID.cells(torch.stack((x, y, z), -1))
    flat = cells[..., 1] * _GRID.num_x + cells[..., 2]
    return torch.where(inside, flat, -1).expand(samples, -1, -1, -1, -1)


def _frustum_by_cell(depth: Tensor, features: Tensor, plan: BevPoolPlan) -> Tensor:
    frustum = depth[..., None] * features.permute(0, 1, 3, 4, 2)[:, :, None]  # (B, N, D, H, W, C)
    return frustum.flatten(0, 4)[plan.points]  # (K, C)


def _cumsum(depth: Tensor, features: Tensor, plan: BevPoolPlan) -> Tensor:
    sums = torch.nn.functional.pad(_frustum_by_cell(depth, features, plan).cumsum(0), (0, 0, 1, 0))  # (K + 1, C)
    return sums[plan.offsets[1:]] - sums[plan.offsets[:-1]]


def _sparse_product(depth: Tensor, features: Tensor, plan: BevPoolPlan) -> Tensor:
    by_pixel = features.permute(0, 1, 3, 4, 2).flatten(0, 3)  # (B * N * H * W, C)
    weights = depth.flatten()[plan.points]
    shape = len(plan.offsets) - 1, len(by_pixel)
    return torch.sparse_csr_tensor(plan.offsets, plan.pixels, weights, shape, check_invariants=False) @ by_pixel
