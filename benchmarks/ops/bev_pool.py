"""bev_pool against the frustum with index_add, the cumulative-sum trick and a sparse product.

The rows against index_add also say how much memory a forward pass takes: by how many MB the resident memory of a fresh
process grows at most during one, the result included.
"""

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.bev_pool import BevPoolPlan, bev_pool, bev_pool_plan, bev_pool_reference

_CAMERAS = 6
# Times on GPUs that others report; sizes and precision are not those of the cases here.
PUBLISHED_MS: Mapping[str, float] = {
    "published: BEVPoolv2, 640x1600 pixels, RTX 3090": 0.82,
    "published: BEVPoolV3, float16, RTX A6000": 0.090,
    "published: BEVPoolV3, float16, RTX PRO 6000 Max-Q": 0.0173,
}


@dataclass(frozen=True)
class Setting:
    """Sizes of a lift-splat.

    Args:
        name: in words.
        frustum: depth bins, rows and columns of a camera's features.
        first_m: depth of the first bin.
        step_m: from one bin to the next.
        channels: of the features.
        grid: the BEV.
    """

    name: str
    frustum: tuple[int, int, int]
    first_m: float
    step_m: float
    channels: int
    grid: Grid


SETTINGS = (
    Setting(
        "6 cameras of 256x704 at stride 8, 118 bins, 80 channels, 360x360",
        frustum=(118, 32, 88),
        first_m=1.0,
        step_m=0.5,
        channels=80,
        grid=Grid.square(54.0, 0.3, (-10.0, 10.0)),
    ),
    Setting(
        "6 cameras of 256x704 at stride 16, 59 bins, 80 channels, 128x128",
        frustum=(59, 16, 44),
        first_m=1.0,
        step_m=1.0,
        channels=80,
        grid=Grid.square(51.2, 0.8, (-10.0, 10.0)),
    ),
)


def run() -> list[Row]:
    """Measures the forward pass, and forward with backward, for six cameras around the vehicle."""
    return [row for setting in SETTINGS for row in _rows(setting)]


def inputs(setting: Setting) -> tuple[Tensor, Tensor, BevPoolPlan]:
    """Makes the inputs of one setting, of one sample.

    Args:
        setting: the sizes.

    Returns:
        Depth (1, N, D, H, W), features (1, N, C, H, W), channels last in memory, both float32, and the plan.
    """
    bins, rows, columns = setting.frustum
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(1, _CAMERAS, bins, rows, columns, generator=generator).softmax(2)
    features = torch.randn(_CAMERAS, setting.channels, rows, columns, generator=generator)
    plan = bev_pool_plan(_ring_of_cameras(setting), (setting.grid.num_y, setting.grid.num_x))
    return depth, features.to(memory_format=torch.channels_last)[None], plan


def least_bytes(depth: Tensor, features: Tensor, plan: BevPoolPlan) -> int:
    """Counts the bytes of depth, features and BEV, each read or written once.

    Args:
        depth: as in `bev_pool`.
        features: as in `bev_pool`.
        plan: as in `bev_pool`.

    Returns:
        Bytes.
    """
    cells = len(plan.offsets) - 1
    return num_bytes(depth, features) + cells * features.shape[2] * features.element_size()


def _rows(setting: Setting) -> list[Row]:
    depth, features, plan = inputs(setting)
    least = least_bytes(depth, features, plan)
    with torch.no_grad():
        peers = {
            "index_add": lambda: bev_pool_reference(depth, features, plan),
            "cumsum": lambda: _cumsum(depth, features, plan),
            "sparse product": lambda: _sparse_product(depth, features, plan),
        }
        forward = compare("bev_pool", setting.name, lambda: bev_pool(depth, features, plan), peers, least)
    forward[0]["ours_peak_mb"] = _peak_mb(setting, bev_pool)
    forward[0]["peer_peak_mb"] = _peak_mb(setting, bev_pool_reference)
    leaves = depth.requires_grad_(), features.requires_grad_()
    return forward + compare(
        "bev_pool",
        f"{setting.name}, with backward",
        lambda: torch.autograd.grad(bev_pool(*leaves, plan).square().sum(), leaves),
        {"index_add": lambda: torch.autograd.grad(bev_pool_reference(*leaves, plan).square().sum(), leaves)},
        3 * least,
    )


def _peak_mb(setting: Setting, function: Callable[..., Tensor]) -> float:
    """Measures in a process of its own by how many MB one call makes resident memory grow."""
    lines = (
        "from benchmarks.ops import bev_pool as benchmark",
        f"print(benchmark.growth_mb({SETTINGS.index(setting)}, benchmark.{function.__name__}))",
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def growth_mb(number: int, function: Callable[[Tensor, Tensor, BevPoolPlan], Tensor]) -> float:
    """Calls a function once, after a call on one pixel that loads what it needs, and watches resident memory.

    Args:
        number: of the setting.
        function: takes depth, features and plan.

    Returns:
        MB (1e6 bytes) from what was resident before the call to its peak during the call.
    """
    depth, features, plan = inputs(SETTINGS[number])
    with torch.no_grad():
        first = bev_pool_plan(plan.cells[..., :1, :1].clamp(max=0), plan.shape)
        function(depth[..., :1, :1], features[..., :1, :1], first)
        Path("/proc/self/clear_refs").write_text("5")  # makes the peak what is resident
        before = _resident_kb("VmRSS")
        function(depth, features, plan)
    return (_resident_kb("VmHWM") - before) * 1024 / 1e6


def _resident_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _ring_of_cameras(setting: Setting) -> Tensor:
    """Gives the cell of each frustum point of level cameras at even angles, 70 x 40 degrees each."""
    bins, rows, columns = setting.frustum
    yaw = torch.arange(_CAMERAS).view(-1, 1, 1, 1) * (2 * math.pi / _CAMERAS)
    depth_m = setting.first_m + setting.step_m * torch.arange(bins).view(-1, 1, 1)
    left = math.tan(math.radians(35)) * torch.linspace(1, -1, columns)
    up = math.tan(math.radians(20)) * torch.linspace(1, -1, rows).view(-1, 1)
    x = depth_m * (yaw.cos() - left * yaw.sin()) + torch.zeros(rows, 1)  # (N, D, H, W)
    y = depth_m * (yaw.sin() + left * yaw.cos()) + torch.zeros(rows, 1)
    z = (1.5 + depth_m * up).expand_as(x)
    cells, inside = setting.grid.cells(torch.stack((x, y, z), -1))
    flat = cells[..., 1] * setting.grid.num_x + cells[..., 2]
    return torch.where(inside, flat, -1)[None]


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
