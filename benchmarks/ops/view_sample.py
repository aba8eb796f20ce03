"""view_sample against a loop of grid_sample, over all points and over the visible ones alone.

The limit is the memory bus, with each number moved once; 16 rows of channels are read from the caches for each one that
is written.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.geometry.transforms import invert_rigid, rigid
from perception.ops.view_sample import ViewSamplePlan, view_sample, view_sample_plan, view_sample_reference

_IMAGE = 256, 704
_STRIDES = 8, 16, 32, 64
_CAMERAS, _CHANNELS = 6, 128
_GRID = Grid((-51.2, 51.2), (-51.2, 51.2), (-3.0, 3.0), (0.8, 0.8, 3.0))


def run() -> list[Row]:
    """Measures the forward pass, and forward with backward, for voxels that look into six cameras."""
    levels, plan, least_bytes = inputs()
    contiguous = [level.contiguous() for level in levels]  # what grid_sample reads fastest
    hits = int(plan.valid.sum())
    case = f"{plan.valid.shape[2]} points seen {hits} times, {_CAMERAS} cameras, 4 levels, {_CHANNELS} channels"

    with torch.no_grad():
        peers = {
            "grid_sample loop (reference)": lambda: view_sample_reference(contiguous, plan),
            "grid_sample loop, visible points": lambda: _visible_points(contiguous, plan),
        }
        rows = compare("view_sample", case, lambda: view_sample(levels, plan), peers, least_bytes)
    return rows + compare(
        "view_sample",
        f"{case}, with backward",
        lambda: _with_backward(view_sample, levels, plan),
        {
            "grid_sample loop (reference)": lambda: _with_backward(view_sample_reference, contiguous, plan),
            "grid_sample loop, visible points": lambda: _with_backward(_visible_points, contiguous, plan),
        },
        3 * least_bytes,
    )


def inputs() -> tuple[list[Tensor], ViewSamplePlan, int]:
    """Makes maps of six cameras at four strides, and looks at the grid from them.

    Returns:
        (1, N, C, H, W) float32 maps, channels last in memory, the plan, and the bytes that must be read and written.
    """
    generator = torch.Generator().manual_seed(0)
    levels = []
    for stride in _STRIDES:
        maps = torch.randn(_CAMERAS, _CHANNELS, _IMAGE[0] // stride, _IMAGE[1] // stride, generator=generator)
        levels.append(maps.to(memory_format=torch.channels_last)[None])
    plan = _ring_of_cameras()
    written = plan.counts.numel() * (_CHANNELS * 4 + 8)
    return levels, plan, num_bytes(*levels, plan.pixels_px, plan.valid) + written


def _with_backward(
    function: Callable[[list[Tensor], ViewSamplePlan], Tensor], levels: list[Tensor], plan: ViewSamplePlan
) -> tuple[Tensor, ...]:
    leaves = [level.detach().requires_grad_() for level in levels]
    return torch.autograd.grad(function(leaves, plan).square().sum(), leaves)


def _ring_of_cameras() -> ViewSamplePlan:
    """Looks at the grid from level cameras 1.5 m up at even angles, 70 degrees wide."""
    yaw = torch.arange(_CAMERAS, dtype=torch.float64) * (2 * math.pi / _CAMERAS)
    cosine, sine, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
    right, down = torch.stack((sine, -cosine, zero), -1), torch.tensor((0.0, 0, -1)).double().expand(_CAMERAS, 3)
    rotation = torch.stack((right, down, torch.stack((cosine, sine, zero), -1)), -1)  # (N, 3, 3), axes as columns
    camera2ego = rigid(rotation, torch.tensor((0.0, 0, 1.5)).double().expand(_CAMERAS, 3))
    rows, columns = _IMAGE
    focal = columns / 2 / math.tan(math.radians(35))
    intrinsics = torch.tensor([[focal, 0, columns / 2 - 0.5], [0, focal, rows / 2 - 0.5], [0, 0, 1]]).double()
    return view_sample_plan(
        _GRID.centers(),
        invert_rigid(camera2ego)[None],
        camera_model="pinhole",
        intrinsics=intrinsics.expand(1, _CAMERAS, 3, 3),
        image_size_px=_IMAGE,
    )


def _visible_points(levels: list[Tensor], plan: ViewSamplePlan) -> Tensor:
    """Samples per camera and level what it sees and adds that up; only the one sample of this benchmark."""
    total = levels[0].new_zeros(plan.valid.shape[2], _CHANNELS)
    size = plan.pixels_px.new_tensor(_IMAGE[::-1])
    for camera in range(_CAMERAS):
        seen = plan.valid[0, camera].nonzero()[:, 0]  # (M,)
        grid = (2 * plan.pixels_px[0, camera, seen] + 1) / size - 1  # (M, 2)
        for level in levels:
            sampled = grid_sample(level[:, camera], grid[None, None], padding_mode="border", align_corners=False)
            total = total.index_add(0, seen, sampled[0, :, 0].T)  # (1, C, 1, M) -> (M, C)
    return total / (plan.counts[0].clamp(min=1) * len(levels))[:, None]
