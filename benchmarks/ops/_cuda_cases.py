"""What is timed on a CUDA device: for each op, inputs of the size that nuScenes gives.

Only what torch itself can run on the device is a peer here. `least_bytes` counts each input and each output once, and
three passes for forward with backward, as on the CPU.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.ops import bev_pool as pool
from benchmarks.ops import view_sample as views
from benchmarks.ops._cloud import spinning_lidar
from benchmarks.ops._cuda import Case
from benchmarks.ops._measure import num_bytes
from benchmarks.ops.box_iou_rotated import random_cars
from perception.geometry.grid import Grid
from perception.ops.bev_pool import bev_pool, bev_pool_reference
from perception.ops.box_iou_rotated import box_iou_rotated, box_iou_rotated_reference
from perception.ops.echo_splat import EchoGeometry, echo_splat, echo_splat_reference
from perception.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference
from perception.ops.nms_circle import nms_circle, nms_circle_reference
from perception.ops.nms_rotated import nms_rotated, nms_rotated_reference
from perception.ops.points_in_boxes import (
    count_points_in_boxes,
    count_points_in_boxes_reference,
    points_in_boxes,
    points_in_boxes_reference,
)
from perception.ops.radar_splat import RadarReturns, radar_covariances, radar_splat, radar_splat_reference
from perception.ops.raycast_voxels import raycast_voxels, raycast_voxels_reference, visible_voxels
from perception.ops.scatter_reduce import scatter_reduce, scatter_reduce_reference
from perception.ops.sparse_conv import sparse_conv, sparse_conv_reference
from perception.ops.sparse_conv_plan import (
    strided_pairs_reference,
    strided_plan,
    submanifold_pairs_reference,
    submanifold_plan,
)
from perception.ops.view_sample import view_sample, view_sample_reference
from perception.ops.voxelize import voxelize_dynamic, voxelize_dynamic_reference, voxelize_hard, voxelize_hard_reference

Cases = Iterator[Case]

_POINTS = 240_000  # ten sweeps
_VOXEL_GRID = Grid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), (0.075, 0.075, 0.2))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _with_backward(function: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], object]:
    """Runs `function` on copies of the leaves and takes their gradients."""
    copies = [leaf.detach().requires_grad_() for leaf in leaves]
    return lambda: torch.autograd.grad(function(*copies).square().sum(), copies)


def _voxelize(device: torch.device) -> Cases:
    points = spinning_lidar(_POINTS).to(device)
    batch_index = torch.zeros(len(points), dtype=torch.int64, device=device)
    limits = {"max_points": 10, "max_voxels": 120_000}
    dynamic = voxelize_dynamic(points, batch_index, _VOXEL_GRID)
    yield Case(
        f"dynamic, {_POINTS} points, 0.075 m",
        lambda: voxelize_dynamic(points, batch_index, _VOXEL_GRID),
        num_bytes(points, batch_index, *dynamic),
        {"reference": lambda: voxelize_dynamic_reference(points, batch_index, _VOXEL_GRID)},
    )
    yield Case(
        f"hard, {_POINTS} points, 0.075 m",
        lambda: voxelize_hard(points, batch_index, _VOXEL_GRID, **limits),
        num_bytes(points, batch_index, *voxelize_hard(points, batch_index, _VOXEL_GRID, **limits)),
        {"reference": lambda: voxelize_hard_reference(points, batch_index, _VOXEL_GRID, **limits)},
    )


def _scatter_reduce(device: torch.device) -> Cases:
    points = spinning_lidar(_POINTS).to(device)
    batch_index = torch.zeros(len(points), dtype=torch.int64, device=device)
    coords, index = voxelize_dynamic(points, batch_index, Grid.square(51.2, 0.2))
    features, count = torch.randn(_POINTS, 64, generator=_generator()).to(device), len(coords)
    for reduce in ("sum", "mean", "max"):
        name = f"{reduce} of {_POINTS} points x 64 in {count} pillars"
        least_bytes = num_bytes(features, index) + count * 64 * 4
        yield Case(
            name,
            lambda reduce=reduce: scatter_reduce(features, index, count, reduce),
            least_bytes,
            {"reference": lambda reduce=reduce: scatter_reduce_reference(features, index, count, reduce)},
        )
        yield Case(
            f"{name}, with backward",
            _with_backward(lambda rows, reduce=reduce: scatter_reduce(rows, index, count, reduce), (features,)),
            3 * least_bytes,
            {
                "reference": _with_backward(
                    lambda rows, reduce=reduce: scatter_reduce_reference(rows, index, count, reduce), (features,)
                )
            },
        )


def _bev_pool(device: torch.device) -> Cases:
    for setting in pool.SETTINGS:
        for dtype in (torch.float32, torch.float16):
            depth, features, plan = pool.inputs(setting)
            depth, features, plan = depth.to(device, dtype), features.to(device, dtype), plan.to(device)
            least_bytes = pool.least_bytes(depth, features, plan)
            name = f"{setting.name}, {str(dtype).removeprefix('torch.')}"
            yield Case(
                name,
                lambda d=depth, f=features, p=plan: bev_pool(d, f, p),
                least_bytes,
                {"index_add": lambda d=depth, f=features, p=plan: bev_pool_reference(d, f, p)},
                pool.PUBLISHED_MS,
            )
            yield Case(
                f"{name}, with backward",
                _with_backward(lambda d, f, p=plan: bev_pool(d, f, p), (depth, features)),
                3 * least_bytes,
                {"index_add": _with_backward(lambda d, f, p=plan: bev_pool_reference(d, f, p), (depth, features))},
            )


def _view_sample(device: torch.device) -> Cases:
    levels, plan, least_bytes = views.inputs()
    maps, plan = tuple(level.to(device) for level in levels), plan.to(device)
    name = f"{plan.valid.shape[2]} points, {len(maps)} levels of {maps[0].shape[1]} cameras"
    peers = {"grid_sample loop (reference)": lambda: view_sample_reference(maps, plan)}
    yield Case(name, lambda: view_sample(maps, plan), least_bytes, peers)
    yield Case(
        f"{name}, with backward",
        _with_backward(lambda *leaves: view_sample(leaves, plan), maps),
        3 * least_bytes,
        {"grid_sample loop (reference)": _with_backward(lambda *leaves: view_sample_reference(leaves, plan), maps)},
    )


def _ms_deform_attn(device: torch.device) -> Cases:
    shapes, sizes = ((32, 88), (16, 44), (8, 22), (4, 11)), (6, 2000, 8, 4, 4)
    pixels = sum(rows * columns for rows, columns in shapes)
    value = torch.randn(6, pixels, 8, 32, generator=_generator()).to(device)
    locations = torch.rand(*sizes, 2, generator=_generator()).to(device)
    weights = torch.rand(sizes, generator=_generator()).flatten(3).softmax(-1).view(sizes).to(device)
    inputs = value, locations, weights
    least_bytes = num_bytes(*inputs) + 6 * 2000 * 8 * 32 * 4
    name = "6x2000 queries, 8 heads x 32, 4 levels x 4"
    yield Case(
        name,
        lambda: ms_deform_attn(value, shapes, locations, weights),
        least_bytes,
        {"reference": lambda: ms_deform_attn_reference(value, shapes, locations, weights)},
    )
    yield Case(
        f"{name}, with backward",
        _with_backward(lambda v, places, w: ms_deform_attn(v, shapes, places, w), inputs),
        3 * least_bytes,
        {"reference": _with_backward(lambda v, places, w: ms_deform_attn_reference(v, shapes, places, w), inputs)},
    )


def _sparse_conv(device: torch.device) -> Cases:
    points = spinning_lidar(_POINTS).to(device)
    batch_index = torch.zeros(len(points), dtype=torch.int64, device=device)
    coords = voxelize_dynamic(points, batch_index, _VOXEL_GRID).coords
    ones, twos, threes = (1, 1, 1), (2, 2, 2), (3, 3, 3)
    plan = submanifold_plan(coords, _VOXEL_GRID.shape)
    strided = strided_plan(coords, _VOXEL_GRID.shape)
    features = torch.randn(len(coords), 64, generator=_generator()).to(device)
    weights = (torch.randn(27, 64, 64, generator=_generator()) / 30).to(device)
    name = f"{len(coords)} voxels, 64 channels"
    least_bytes = 2 * num_bytes(features) + num_bytes(weights, plan.sources, plan.targets)
    yield Case(
        f"submanifold_plan, {len(coords)} voxels",
        lambda: submanifold_plan(coords, _VOXEL_GRID.shape),
        num_bytes(coords, plan.sources, plan.targets),
        {"reference": lambda: submanifold_pairs_reference(coords, _VOXEL_GRID.shape, threes, ones)},
    )
    yield Case(
        f"strided_plan, {len(coords)} voxels",
        lambda: strided_plan(coords, _VOXEL_GRID.shape),
        num_bytes(coords, strided.coords) + 2 * num_bytes(strided.sources, strided.targets),
        {"reference": lambda: strided_pairs_reference(coords, _VOXEL_GRID.shape, threes, twos, ones, ones)},
    )
    yield Case(
        name,
        lambda: sparse_conv(features, weights, plan),
        least_bytes,
        {"reference": lambda: sparse_conv_reference(features, weights, plan)},
    )
    yield Case(
        f"{name}, with backward",
        _with_backward(lambda f, w: sparse_conv(f, w, plan), (features, weights)),
        3 * least_bytes,
        {"reference": _with_backward(lambda f, w: sparse_conv_reference(f, w, plan), (features, weights))},
    )


def _radar_splat(device: torch.device) -> Cases:
    count, grid = 1800, Grid.square(51.2, 0.4)
    place = torch.rand(count, 2, generator=_generator()) * torch.tensor((66.0, 2 * math.pi))
    positions = torch.stack(((4 + place[:, 0]) * place[:, 1].cos(), (4 + place[:, 0]) * place[:, 1].sin()), -1)
    rms = torch.full((count, 2), 0.4)
    covariances = radar_covariances(positions, rms, torch.eye(2), range_sigma_m=0.2, azimuth_sigma_rad=0.01)
    returns = RadarReturns(
        positions_m=positions.to(device),
        covariances_m2=covariances.to(device),
        velocities_mps=torch.randn(count, 2, generator=_generator()).to(device),
        batch_index=torch.zeros(count, dtype=torch.int64, device=device),
    )
    features = torch.randn(count, 64, generator=_generator()).to(device)
    yield Case(
        f"{count} returns x 64, {grid.num_y}x{grid.num_x}",
        lambda: radar_splat(features, returns, 1, grid),
        num_bytes(features) + grid.num_y * grid.num_x * 68 * 4,
        {"reference": lambda: radar_splat_reference(features, returns, 1, grid)},
    )


def _echo_splat(device: torch.device) -> Cases:
    count, samples, grid = 144, 4, Grid.square(8.0, 0.1)
    heading = torch.arange(count, device=device) % 12 * (2 * math.pi / 12)
    sender = torch.stack((2 * heading.cos(), heading.sin(), heading), 1)
    echoes = EchoGeometry(
        sender=sender,
        receiver=sender,
        distance_m=0.3 + 4 * torch.rand(count, generator=_generator()).to(device),
        beam_rad=torch.full((count,), math.radians(40), device=device),
        age_s=torch.zeros(count, device=device),
        kind=1 + torch.arange(count, device=device) % 3,
        batch_index=torch.arange(count, device=device) // 36,
    )
    amplitude, sigma = torch.full((count,), 0.7, device=device), torch.full((count,), 0.05, device=device)
    yield Case(
        f"{count} echoes, {samples}x{grid.num_y}x{grid.num_x}",
        lambda: echo_splat(amplitude, sigma, echoes, samples, grid),
        num_bytes(sender) + samples * 3 * grid.num_y * grid.num_x * 4,
        {"reference": lambda: echo_splat_reference(amplitude, sigma, echoes, samples, grid)},
    )


def _box_iou_rotated(device: torch.device) -> Cases:
    a, b = (random_cars(1000, 51.2, seed).to(device) for seed in (0, 1))
    yield Case(
        "1000 x 1000 cars over 102.4 m",
        lambda: box_iou_rotated(a, b),
        num_bytes(a, b) + len(a) * len(b) * 4,
        {"reference": lambda: box_iou_rotated_reference(a, b)},
    )


def _nms_rotated(device: torch.device) -> Cases:
    boxes, scores = random_cars(1000, 51.2, 0).to(device), torch.rand(1000, generator=_generator()).to(device)
    yield Case(
        "1000 cars over 102.4 m",
        lambda: nms_rotated(boxes, scores, 0.2),
        num_bytes(boxes, scores),
        {"reference, without the sort": lambda: nms_rotated_reference(boxes, 0.2)},
    )


def _nms_circle(device: torch.device) -> Cases:
    centers = (102.4 * torch.rand(1000, 2, generator=_generator(), dtype=torch.float64)).to(device)
    scores = torch.rand(1000, generator=_generator()).to(device)
    yield Case(
        "1000 centres over 102.4 m",
        lambda: nms_circle(centers, scores, 2.0),
        num_bytes(centers, scores),
        {"reference, without the sort": lambda: nms_circle_reference(centers, 2.0)},
    )


def _points_in_boxes(device: torch.device) -> Cases:
    points, boxes = spinning_lidar(34_720)[:, :3].contiguous().to(device), random_cars(100, 30.0, 0).to(device)
    yield Case(
        "34720 points x 100 boxes",
        lambda: points_in_boxes(points, boxes),
        num_bytes(points, boxes) + 8 * len(points),
        {"reference": lambda: points_in_boxes_reference(points, boxes)},
    )
    yield Case(
        "34720 points counted in 100 boxes",
        lambda: count_points_in_boxes(points, boxes),
        num_bytes(points, boxes) + 8 * len(boxes),
        {"reference": lambda: count_points_in_boxes_reference(points, boxes)},
    )


def _raycast_voxels(device: torch.device) -> Cases:
    grid = Grid((-40.0, 40.0), (-40.0, 40.0), (-1.0, 5.4), (0.4, 0.4, 0.4))
    directions = spinning_lidar(34_720)[:, :3].contiguous().to(device)
    origins = torch.tensor((1.0, 0.0, 1.8), device=device).expand_as(directions).contiguous()
    occupied = (torch.rand(grid.shape, generator=_generator()) < 0.02).to(device)
    least_bytes = num_bytes(occupied, origins, directions) + len(origins) * 12
    for ours, more_bytes in ((raycast_voxels, 0), (visible_voxels, num_bytes(occupied))):
        yield Case(
            f"{ours.__name__}, {len(origins)} rays, 2 % occupied",
            lambda ours=ours: ours(occupied, origins, directions, grid),
            least_bytes + more_bytes,
            {"reference": lambda: raycast_voxels_reference(occupied, origins, directions, grid)},
        )


CASES: dict[str, Callable[[torch.device], Cases]] = {
    "bev_pool": _bev_pool,
    "box_iou_rotated": _box_iou_rotated,
    "echo_splat": _echo_splat,
    "ms_deform_attn": _ms_deform_attn,
    "nms_circle": _nms_circle,
    "nms_rotated": _nms_rotated,
    "points_in_boxes": _points_in_boxes,
    "radar_splat": _radar_splat,
    "raycast_voxels": _raycast_voxels,
    "scatter_reduce": _scatter_reduce,
    "sparse_conv": _sparse_conv,
    "view_sample": _view_sample,
    "voxelize": _voxelize,
}
