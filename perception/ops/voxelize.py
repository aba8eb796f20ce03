"""Points into voxels: `voxelize_hard` gives a padded block of points per voxel, `voxelize_dynamic` the voxel per point.

Both number voxels in the order of their first points, sample after sample. A point outside the grid, or with NaN or
infinity in x, y or z, belongs to no voxel: its `point2voxel` is -1, so that `(point2voxel < 0).sum()` counts what is
lost. The other columns of a point are carried as they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.ops import _library
from perception.ops._checks import FULL_PRECISION, INT64, check_count, check_same_device, check_tensor
from perception.ops.group_rows import group_rows_reference


class DynamicVoxels(NamedTuple):
    """Voxels that hold at least one point.

    Args:
        coords: (V, 4) int64 batch z y x.
        point2voxel: (P,) int64, the voxel of each point, -1 for none.
    """

    coords: Tensor
    point2voxel: Tensor


class HardVoxels(NamedTuple):
    """Voxels with a padded block of points each.

    Args:
        voxels: (V, max_points, 3 + C), each voxel's first points in their order, then zeros.
        num_points: (V,) int64, how many points of each block are real.
        coords: (V, 4) int64 batch z y x.
        point2voxel: (P,) int64, the voxel of each point, -1 for none; points beyond `max_points` still name theirs.
    """

    voxels: Tensor
    num_points: Tensor
    coords: Tensor
    point2voxel: Tensor


def voxelize_dynamic(
    points: Tensor, batch_index: Tensor, grid: Grid, *, max_voxels: int | None = None
) -> DynamicVoxels:
    """Finds the voxels that hold points, and the voxel of each point; no limit on the points of a voxel.

    Features of voxels come from `scatter_reduce(features, point2voxel, len(coords), ...)`, which is differentiable.

    Args:
        points: (P, 3 + C) float32 or float64, x y z in metres in the grid's frame.
        batch_index: (P,) int64, the sample of each point, rising.
        grid: where voxels are.
        max_voxels: keep the first `max_voxels` voxels of each sample; points in later ones are left out.

    Returns:
        Voxels and the voxel of each point.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit, a batch index that falls or is negative, a bad limit.
    """
    _check("voxelize_dynamic", points, batch_index, grid, max_voxels)
    if not _library.has_kernels(points.device):
        return voxelize_dynamic_reference(points, batch_index, grid, max_voxels=max_voxels)
    limit = -1 if max_voxels is None else max_voxels
    return DynamicVoxels(
        *torch.ops.perception.voxelize_dynamic(
            points.detach(), batch_index, grid.origin_m, grid.cell_m, grid.shape, limit
        )
    )


def voxelize_hard(
    points: Tensor, batch_index: Tensor, grid: Grid, *, max_points: int, max_voxels: int | None = None
) -> HardVoxels:
    """Gathers the first points of each voxel into a padded block; gradients do not pass to `points`.

    Args:
        points: (P, 3 + C) float32 or float64, x y z in metres in the grid's frame.
        batch_index: (P,) int64, the sample of each point, rising.
        grid: where voxels are.
        max_points: size of a voxel's block; points beyond it are left out.
        max_voxels: keep the first `max_voxels` voxels of each sample; points in later ones are left out, points
            in kept ones are not, wherever they stand.

    Returns:
        The blocks, how many points each holds, the voxels, and the voxel of each point.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit, a batch index that falls or is negative, a bad limit.
    """
    _check("voxelize_hard", points, batch_index, grid, max_voxels)
    check_count("voxelize_hard: max_points", max_points, 1)
    if not _library.has_kernels(points.device):
        return voxelize_hard_reference(points, batch_index, grid, max_points=max_points, max_voxels=max_voxels)
    limit = -1 if max_voxels is None else max_voxels
    return HardVoxels(
        *torch.ops.perception.voxelize_hard(
            points.detach(), batch_index, grid.origin_m, grid.cell_m, grid.shape, limit, max_points
        )
    )


def voxelize_dynamic_reference(
    points: Tensor, batch_index: Tensor, grid: Grid, *, max_voxels: int | None = None
) -> DynamicVoxels:
    """Does what `voxelize_dynamic` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        points: as in `voxelize_dynamic`.
        batch_index: as in `voxelize_dynamic`.
        grid: as in `voxelize_dynamic`.
        max_voxels: as in `voxelize_dynamic`.

    Returns:
        As `voxelize_dynamic`.
    """
    cells, inside = grid.cells(points.detach())  # (P, 3) z y x, (P,)
    rows = torch.cat((batch_index[:, None], cells), dim=1)[inside]  # (K, 4)
    unique, inverse = torch.unique(rows, dim=0, return_inverse=True)  # (V, 4), (K,)
    numbers = torch.arange(len(rows), device=rows.device)
    first_row = torch.full_like(unique[:, 0], len(rows)).scatter_reduce(0, inverse, numbers, "amin")  # (V,)
    by_appearance = torch.argsort(first_row)
    coords = unique[by_appearance]
    voxel = torch.argsort(by_appearance)[inverse]  # (K,)
    if max_voxels is not None:
        samples = coords[:, 0].contiguous()
        rank = torch.arange(len(coords), device=rows.device) - torch.searchsorted(samples, samples)  # (V,)
        kept = rank < max_voxels
        voxel = torch.where(kept, kept.cumsum(0) - 1, -1)[voxel]
        coords = coords[kept]
    point2voxel = torch.full_like(batch_index, -1, memory_format=torch.contiguous_format)
    point2voxel[inside] = voxel
    return DynamicVoxels(coords, point2voxel)


def voxelize_hard_reference(
    points: Tensor, batch_index: Tensor, grid: Grid, *, max_points: int, max_voxels: int | None = None
) -> HardVoxels:
    """Does what `voxelize_hard` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        points: as in `voxelize_hard`.
        batch_index: as in `voxelize_hard`.
        grid: as in `voxelize_hard`.
        max_points: as in `voxelize_hard`.
        max_voxels: as in `voxelize_hard`.

    Returns:
        As `voxelize_hard`.
    """
    coords, point2voxel = voxelize_dynamic_reference(points, batch_index, grid, max_voxels=max_voxels)
    order, offsets = group_rows_reference(point2voxel, len(coords))
    num_points = offsets.diff().clamp(max=max_points)  # (V,)
    place = torch.arange(max_points, device=points.device)  # (max_points,)
    position = torch.where(place < num_points[:, None], offsets[:-1, None] + place, len(points))  # (V, max_points)
    padded = torch.cat((points.detach()[order], points.new_zeros(1, points.shape[1])))  # (P + 1, 3 + C)
    return HardVoxels(padded[position], num_points, coords, point2voxel)


def _check(function: str, points: Tensor, batch_index: Tensor, grid: Grid, max_voxels: int | None) -> None:
    check_tensor(f"{function}: points", points, "P 3+", FULL_PRECISION)
    check_tensor(f"{function}: batch_index", batch_index, str(len(points)), INT64)
    check_same_device(function, points=points, batch_index=batch_index)
    if not isinstance(grid, Grid):
        raise TypeError(f"{function}: grid must be a Grid, got {type(grid).__name__}")
    if max_voxels is not None:
        check_count(f"{function}: max_voxels", max_voxels, 1)
    if len(batch_index) == 0:
        return
    falls = batch_index[1:] < batch_index[:-1]  # (P - 1,)
    if batch_index[0] < 0 or falls.any():
        at = 0 if batch_index[0] < 0 else int(falls.nonzero()[0]) + 1
        raise ValueError(f"{function}: batch_index must not be negative or fall, got {int(batch_index[at])} at {at}")
    num_z, num_y, num_x = grid.shape
    samples = int(batch_index[-1]) + 1
    if samples * num_z * num_y * num_x >= 2**62:
        raise ValueError(f"{function}: batch_index must keep voxel numbers below 2^62, got {samples} x {grid.shape}")


def _fake_dynamic(
    points: Tensor, batch_index: Tensor, lower_m: list[float], cell_m: list[float], shape: list[int], max_voxels: int
) -> tuple[Tensor, Tensor]:
    num_voxels = torch.library.get_ctx().new_dynamic_size()
    return batch_index.new_empty(num_voxels, 4), torch.empty_like(batch_index, memory_format=torch.contiguous_format)


def _fake_hard(
    points: Tensor,
    batch_index: Tensor,
    lower_m: list[float],
    cell_m: list[float],
    shape: list[int],
    max_voxels: int,
    max_points: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    coords, point2voxel = _fake_dynamic(points, batch_index, lower_m, cell_m, shape, max_voxels)
    voxels = points.new_empty(coords.shape[0], max_points, points.shape[1])
    return voxels, batch_index.new_empty(coords.shape[0]), coords, point2voxel


_library.register("voxelize_dynamic", fake=_fake_dynamic)
_library.register("voxelize_hard", fake=_fake_hard)
