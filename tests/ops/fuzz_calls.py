"""How each public op is called by `tests.ops.fuzz`: arguments that must be taken, and some that must be refused."""

import math

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.ops import bev_pool as pool
from perception.ops import box_iou_rotated as iou
from perception.ops import echo_splat as echoes
from perception.ops import ms_deform_attn as deform
from perception.ops import nms_circle as circle
from perception.ops import nms_rotated as rotated
from perception.ops import points_in_boxes as inside
from perception.ops import radar_splat as radar
from perception.ops import raycast_voxels as rays
from perception.ops import scatter_reduce as scatter
from perception.ops import sparse_conv as conv
from perception.ops import sparse_conv_plan as plans
from perception.ops import view_sample as views
from perception.ops import voxelize as voxels
from perception.ops.group_rows import group_rows, group_rows_reference
from tests.ops.fuzz import EXTREMES, Call, Source

GRIDS = (
    Grid((-8.0, 8.0), (-4.0, 4.0), (-2.0, 2.0), (1.0, 0.5, 2.0)),
    Grid((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0, 1.0)),
    Grid((-10.0, 10.0), (-10.0, 10.0), (-10.0, 10.0), (20.0, 20.0, 0.25)),
)
NO_COUNTS = (-1, 1.5, "3", None, True, -(2**63))
NO_SIZES = (0, *NO_COUNTS)
NO_GRIDS = (None, (8, 8), "grid")
HALVES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def with_extreme(source: Source, index: Tensor) -> tuple[Tensor, bool]:
    """Puts a number that no index can be into some of the tensors, and says whether it did."""
    if index.numel() == 0 or not source.pick(True, False, False):
        return index, False
    index = index.clone(memory_format=torch.contiguous_format)
    index.view(-1)[source.pick(0, index.numel() - 1)] = source.pick(*EXTREMES)
    return index, True


def group_rows_call(source: Source) -> Call:
    groups = source.size()
    index, extreme = with_extreme(source, source.wholes(source.size(), low=-1, high=groups))
    arguments = {"index": index, "num_groups": groups}
    return Call(group_rows, arguments, group_rows_reference, {"num_groups": NO_COUNTS}, "index" if extreme else None)


def scatter_reduce_call(source: Source) -> Call:
    rows, segments = source.size(), source.size()
    index, extreme = with_extreme(source, source.wholes(rows, low=-1, high=segments))
    arguments = {
        "features": source.reals(rows, source.pick(0, 1, 17), dtype=source.dtype(*HALVES)),
        "index": index,
        "num_segments": segments,
        "reduce": source.pick("sum", "mean", "max"),
    }
    wrong = {"num_segments": NO_COUNTS, "reduce": ("min", "", None, 3)}
    return Call(
        scatter.scatter_reduce, arguments, scatter.scatter_reduce_reference, wrong, "index" if extreme else None
    )


def voxelize_arguments(source: Source) -> dict:
    count = source.size()
    batch_index = torch.sort(torch.randint(0, 3, (count,), generator=source.generator)).values
    return {
        "points": source.reals(count, source.pick(3, 4, 6), dtype=source.dtype(), strange=True),
        "batch_index": batch_index * source.pick(1, 2**31),
        "grid": source.pick(*GRIDS),
    }


def voxelize_dynamic_call(source: Source) -> Call:
    arguments = voxelize_arguments(source) | {"max_voxels": source.pick(None, 1, 5, 2**62)}
    wrong = {"grid": NO_GRIDS, "max_voxels": (0, -1, 1.5, "3")}
    return voxelize_extremes(source, Call(voxels.voxelize_dynamic, arguments, voxels.voxelize_dynamic_reference, wrong))


def voxelize_hard_call(source: Source) -> Call:
    arguments = voxelize_arguments(source) | {"max_points": source.pick(1, 3), "max_voxels": source.pick(None, 1, 5)}
    wrong = {"grid": NO_GRIDS, "max_voxels": (0, -1, 1.5, "3"), "max_points": NO_SIZES}
    return voxelize_extremes(source, Call(voxels.voxelize_hard, arguments, voxels.voxelize_hard_reference, wrong))


def voxelize_extremes(source: Source, call: Call) -> Call:
    index = call.arguments["batch_index"]
    if len(index) and source.pick(True, False, False):
        index[-1] = source.pick(2**63 - 1, 2**62, -(2**63), -1)
        call.must_fail = "batch_index"
    return call


def bev_pool_plan_call(source: Source) -> Call:
    shape = source.pick((1, 1), (4, 5), (100, 3))
    sizes = [source.pick(0, 1, 2, 3) for _ in range(5)]
    cells, extreme = with_extreme(source, source.wholes(*sizes, low=-1, high=shape[0] * shape[1]))
    wrong = {"shape": ((0, 4), (-1, 4), (2.5, 4), (None, 3))}
    return Call(pool.bev_pool_plan, {"cells": cells, "shape": shape}, None, wrong, "cells" if extreme else None)


def bev_pool_call(source: Source) -> Call:
    shape = source.pick((1, 1), (4, 5), (30, 3))
    samples, cameras, bins, rows, columns = (source.pick(0, 1, 2, 5) for _ in range(5))
    cells = source.wholes(samples, cameras, bins, rows, columns, low=-1, high=shape[0] * shape[1])
    dtype = source.dtype(*HALVES)
    arguments = {
        "depth": source.reals(samples, cameras, bins, rows, columns, low=0, high=1, dtype=dtype),
        "features": source.reals(samples, cameras, source.pick(0, 1, 19), rows, columns, dtype=dtype),
        "plan": pool.bev_pool_plan(cells, shape),
    }
    return Call(pool.bev_pool, arguments, pool.bev_pool_reference, tolerance=1e-3)


def view_plan_arguments(source: Source) -> dict:
    samples, cameras = source.pick(0, 1, 2), source.pick(0, 1, 3)
    fisheye = source.pick(True, False)
    dtype = source.dtype()
    arguments = {
        "points": source.reals(source.size(), 3, dtype=dtype, strange=True),
        "points2camera": source.reals(samples, cameras, 4, 4, low=-1, high=1, dtype=dtype, strange=True),
        "camera_model": "kannala_brandt" if fisheye else "pinhole",
        "intrinsics": source.reals(samples, cameras, 3, 3, low=0, high=50, dtype=dtype, strange=True),
        "image_size_px": source.pick((1, 1), (64, 100)),
        "present": source.bools(samples, cameras),
    }
    if fisheye:
        arguments["distortion"] = source.reals(samples, cameras, 4, low=-0.1, high=0.1, dtype=dtype)
    return arguments


def view_sample_plan_call(source: Source) -> Call:
    wrong = {
        "image_size_px": ((0, 4), (-1, 4), (2.5, 4)),
        "camera_model": ("fisheye", None, ""),
        "distortion": (torch.full((3, 2, 4), math.nan), [0.0]),
    }
    return Call(views.view_sample_plan, view_plan_arguments(source), None, wrong, free=("points",))


def view_sample_call(source: Source) -> Call:
    plan = views.view_sample_plan(**view_plan_arguments(source))
    samples, cameras, _ = plan.valid.shape
    channels, dtype = source.pick(0, 1, 19), source.dtype(*HALVES)
    sizes = source.pick(((5, 7),), ((8, 12), (4, 6), (1, 1)))
    levels = [source.reals(samples, cameras, channels, *size, low=0, high=1, dtype=dtype) for size in sizes]
    wrong = {"levels": ([], [torch.ones(samples, cameras, 1, 0, 3)], [torch.ones(1)] * 17)}
    return Call(views.view_sample, {"levels": levels, "plan": plan}, views.view_sample_reference, wrong)


def ms_deform_attn_call(source: Source) -> Call:
    shapes = source.pick([(1, 1)], [(5, 7), (2, 3)], [])
    samples, heads, channels = source.pick(0, 1, 2), source.pick(0, 1, 3), source.pick(0, 1, 20)
    queries, points, dtype = source.pick(0, 1, 6), source.pick(0, 1, 4), source.dtype()
    places = samples, queries, heads, len(shapes), points
    values = sum(rows * columns for rows, columns in shapes)
    arguments = {
        "value": source.reals(samples, values, heads, channels, dtype=dtype),
        "spatial_shapes": shapes,
        "locations": source.reals(*places, 2, low=-0.3, high=1.3, dtype=dtype, strange=True),
        "weights": source.reals(*places, low=0, high=1, dtype=dtype),
    }
    wrong = {"spatial_shapes": ([(0, 4)], [(-1, 4)], [(2.5, 4)], [(1, 2, 3)], [(1, 1)] * 17)}
    return Call(deform.ms_deform_attn, arguments, deform.ms_deform_attn_reference, wrong, tolerance=1e-3)


def sparse_voxels(source: Source, shape: tuple[int, int, int]) -> Tensor:
    count = min(source.size(), 2 * math.prod(shape))
    keys = torch.randperm(2 * math.prod(shape), generator=source.generator)[:count]
    z, y, x = shape
    return torch.stack((keys // (z * y * x), keys // (y * x) % z, keys // x % y, keys % x), 1)


def sparse_plan_call(source: Source, function, reference, sizes: dict, wrong: dict) -> Call:
    shape = source.pick((3, 6, 7), (1, 1, 40), (1, 1, 1))
    coords, extreme = with_extreme(source, sparse_voxels(source, shape))
    wrong = {"shape": ((0, 1, 1), (1, 1), (1, 1, -1), (1, 1, 2.5), (2**31, 2**31, 2**31), (2**63, 1, 1)), **wrong}
    arguments = {"coords": coords, "shape": shape} | sizes
    kernel = function.__name__.replace("plan", "pairs")
    return Call(function, arguments, reference, wrong, "coords" if extreme else None, also_named=kernel)


def triple(size: int | tuple[int, int, int]) -> tuple[int, int, int]:
    return size if isinstance(size, tuple) else (size, size, size)


def submanifold_reference(coords, shape, kernel, dilation):
    pairs = plans.submanifold_pairs_reference(coords, shape, triple(kernel), triple(dilation))
    return plans.SparseConvPlan(coords, shape, coords, shape, *pairs[:2], *pairs, mirrored=True)


def submanifold_plan_call(source: Source) -> Call:
    sizes = {"kernel": source.pick(1, 3, (1, 5, 3)), "dilation": source.pick(1, 2, (1, 2, 3))}
    wrong = {"kernel": (2, *NO_SIZES, 2**40 + 1, 2**63 + 1), "dilation": (*NO_SIZES, 2**40, 2**63)}
    return sparse_plan_call(source, plans.submanifold_plan, submanifold_reference, sizes, wrong)


def strided_reference(coords, shape, **sizes):
    out_shape = plans.strided_shape(shape, *map(triple, sizes.values()))
    out_coords, *pairs = plans.strided_pairs_reference(coords, shape, *map(triple, sizes.values()))
    return plans.SparseConvPlan(out_coords, out_shape, coords, shape, *pairs, mirrored=False)


def strided_plan_call(source: Source) -> Call:
    sizes = {
        "kernel": source.pick(1, 2, 3),
        "stride": source.pick(1, 2, (1, 2, 3)),
        "padding": source.pick(1, 2),
        "dilation": 1,
    }
    wrong = {
        "kernel": (*NO_SIZES, 2**40, 2**63),
        "stride": (*NO_SIZES, 2**40, 2**63),
        "padding": (*NO_COUNTS, 2**62, 2**63),
        "dilation": (*NO_SIZES, 2**40, 2**63),
    }
    return sparse_plan_call(source, plans.strided_plan, strided_reference, sizes, wrong)


def strided_shape_call(source: Source) -> Call:
    def reference(shape, kernel, stride, padding, dilation):
        volume = torch.empty(1, 1, *shape, device="meta")
        weights = torch.empty(1, 1, *kernel, device="meta")
        return tuple(torch.nn.functional.conv3d(volume, weights, None, stride, padding, dilation).shape[2:])

    arguments = {
        "shape": source.pick((9, 9, 9), (11, 20, 300)),
        "kernel": source.pick((1, 1, 1), (3, 2, 3)),
        "stride": source.pick((1, 1, 1), (2, 3, 1)),
        "padding": source.pick((0, 0, 0), (2, 3, 1)),
        "dilation": source.pick((1, 1, 1), (2, 3, 1)),
    }
    return Call(plans.strided_shape, arguments, reference)


def sparse_conv_call(source: Source) -> Call:
    coords, shape = sparse_voxels(source, (3, 6, 7)), (3, 6, 7)
    plan = plans.strided_plan(coords, shape) if source.pick(True, False) else plans.submanifold_plan(coords, shape)
    if not plan.mirrored and source.pick(True, False):
        plan = plan.inverse()
    channels, dtype = source.pick(0, 1, 5, 16), source.dtype(*HALVES)
    arguments = {
        "features": source.reals(len(plan.in_coords), channels, low=-1, high=1, dtype=dtype),
        "weights": source.reals(27, channels, source.pick(0, 1, 18), low=-1, high=1, dtype=dtype),
        "plan": plan,
    }
    return Call(conv.sparse_conv, arguments, conv.sparse_conv_reference, tolerance=1e-3)


def echo_splat_call(source: Source) -> Call:
    count, samples, dtype = source.pick(0, 1, 6), source.pick(0, 1, 2), source.dtype()
    batch_index, extreme = with_extreme(source, source.wholes(count, low=-1, high=samples))
    kind = source.wholes(count, low=0, high=4)
    geometry = echoes.EchoGeometry(
        sender=source.reals(count, 3, low=-3, high=3, dtype=dtype, strange=True),
        receiver=source.reals(count, 3, low=-3, high=3, dtype=dtype, strange=True),
        distance_m=source.reals(count, low=0, high=5, dtype=dtype, strange=True),
        beam_rad=source.reals(count, low=0.1, high=1.5, dtype=dtype, strange=True),
        age_s=source.reals(count, low=0, high=1, dtype=dtype, strange=True),
        kind=with_extreme(source, kind)[0],
        batch_index=batch_index,
    )
    arguments = {
        "amplitude": source.reals(count, low=-0.2, high=1.2, dtype=dtype, strange=True),
        "sigma_m": source.reals(count, low=0.01, high=0.5, dtype=dtype, strange=True),
        "echoes": geometry,
        "batch_size": samples,
        "grid": source.pick(*GRIDS),
    }
    wrong = {"batch_size": NO_COUNTS, "grid": NO_GRIDS}
    return Call(echoes.echo_splat, arguments, echoes.echo_splat_reference, wrong, "index" if extreme else None)


def radar_covariances_call(source: Source) -> Call:
    count, dtype = source.size(), source.dtype()
    turns = source.pick((2, 2), (count, 2, 2))
    arguments = {
        "positions_m": source.reals(count, source.pick(2, 5), dtype=dtype, strange=True),
        "rms_m": source.reals(count, 2, low=0, high=1, dtype=dtype, strange=True),
        "radar2bev": source.reals(*turns, low=-1, high=1, dtype=dtype),
        "range_sigma_m": source.pick(0.0, 0.2),
        "azimuth_sigma_rad": source.pick(0.0, 0.01),
    }
    return Call(radar.radar_covariances, arguments, free=("radar2bev",) if turns == (2, 2) and count == 1 else ())


def radar_splat_call(source: Source) -> Call:
    count, samples = source.pick(0, 1, 9), source.pick(0, 1, 2)
    batch_index, extreme = with_extreme(source, source.wholes(count, low=-1, high=samples))
    half = source.reals(count, 2, 2, low=-1, high=1, dtype=torch.float64)
    returns = radar.RadarReturns(
        positions_m=source.reals(count, 2, dtype=source.dtype(), strange=True),
        covariances_m2=source.pick(half @ half.mT, source.reals(count, 2, 2, dtype=source.dtype(), strange=True)),
        velocities_mps=source.reals(count, 2, dtype=source.dtype()),
        batch_index=batch_index,
    )
    arguments = {
        "features": source.reals(count, source.pick(0, 1, 19), dtype=source.dtype(*HALVES)),
        "returns": returns,
        "batch_size": samples,
        "grid": source.pick(*GRIDS),
    }
    wrong = {"batch_size": NO_COUNTS, "grid": NO_GRIDS}
    return Call(
        radar.radar_splat, arguments, radar.radar_splat_reference, wrong, "index" if extreme else None, tolerance=1e-3
    )


def boxes(source: Source, count: int, dtype: torch.dtype) -> Tensor:
    made = source.reals(count, source.pick(7, 9), low=-6, high=6, dtype=dtype, strange=True).clone()
    made[:, 3:6] = made[:, 3:6].abs()
    made[:, 6] = torch.where(made[:, 6].isfinite(), made[:, 6].remainder(7), made[:, 6])  # cos of 1e30 is anyone's
    return source.layout(made)


def overlap_call(source: Source, function, reference) -> Call:
    dtype = source.dtype()
    arguments = {"boxes_a": boxes(source, source.size(), dtype), "boxes_b": boxes(source, source.size(), dtype)}
    return Call(function, arguments, reference, tolerance=1e-3)


def box_iou_rotated_call(source: Source) -> Call:
    return overlap_call(source, iou.box_iou_rotated, iou.box_iou_rotated_reference)


def box_iou_3d_call(source: Source) -> Call:
    return overlap_call(source, iou.box_iou_3d, iou.box_iou_3d_reference)


def nms_rotated_call(source: Source) -> Call:
    count, dtype = source.size(), source.dtype()
    arguments = {
        "boxes": boxes(source, count, dtype),
        "scores": source.reals(count, dtype=source.dtype(*HALVES), strange=True),
        "iou_threshold": source.pick(0.0, 0.2, 1.0),
    }
    wrong = {"iou_threshold": (-0.1, 1.5, math.nan, math.inf)}
    return Call(rotated.nms_rotated, arguments, None, wrong)


def nms_circle_call(source: Source) -> Call:
    count = source.size()
    arguments = {
        "centers": source.reals(count, 2, dtype=source.dtype(*HALVES), strange=True),
        "scores": source.reals(count, dtype=source.dtype(*HALVES), strange=True),
        "radius_m": source.pick(0.0, 2.0, 1e30, math.inf),
    }
    return Call(circle.nms_circle, arguments, None, {"radius_m": (-1.0, math.nan, -math.inf)})


def held_call(source: Source, function, reference) -> Call:
    points = source.reals(source.size(), source.pick(3, 5), dtype=source.dtype(), strange=True)
    return Call(function, {"points": points, "boxes": boxes(source, source.size(), source.dtype())}, reference)


def points_in_boxes_call(source: Source) -> Call:
    return held_call(source, inside.points_in_boxes, inside.points_in_boxes_reference)


def count_points_in_boxes_call(source: Source) -> Call:
    return held_call(source, inside.count_points_in_boxes, inside.count_points_in_boxes_reference)


def ray_arguments(source: Source) -> dict:
    grid, count, dtype = source.pick(*GRIDS), source.size(), source.dtype()
    return {
        "occupied": source.layout(torch.rand(grid.shape, generator=source.generator) < 0.1),
        "origins": source.reals(count, 3, dtype=dtype, strange=True),
        "directions": source.reals(count, 3, dtype=dtype, strange=True),
        "grid": grid,
        "max_range_m": source.pick(math.inf, 0.0, 5.0, 1e30),
    }


NO_RAYS = {"max_range_m": (-1.0, math.nan, -math.inf), "grid": NO_GRIDS}


def raycast_voxels_call(source: Source) -> Call:
    def reference(**arguments):
        return rays.raycast_voxels_reference(**arguments)[:2]

    return Call(rays.raycast_voxels, ray_arguments(source), reference, NO_RAYS)


def visible_voxels_call(source: Source) -> Call:
    def reference(**arguments):
        return rays.raycast_voxels_reference(**arguments)[2]

    return Call(rays.visible_voxels, ray_arguments(source), reference, NO_RAYS)


CALLS = {name.removesuffix("_call"): call for name, call in list(globals().items()) if name.endswith("_call")}
