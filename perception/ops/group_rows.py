"""Rows grouped by an index: the sorted form in which segments are reduced without atomics."""

from typing import NamedTuple

import torch
from torch import Tensor

from perception.ops import _library
from perception.ops._checks import INT64, check_count, check_tensor


class RowGroups(NamedTuple):
    """Rows in group order: `order[offsets[g] : offsets[g + 1]]` are the rows of group g, rising.

    Args:
        order: (P,) int64, every row once; rows without a group come last, from `offsets[-1]` on.
        offsets: (G + 1,) int64, where each group starts in `order`.
    """

    order: Tensor
    offsets: Tensor


def group_rows(index: Tensor, num_groups: int) -> RowGroups:
    """Sorts rows by group and keeps their order within a group.

    Args:
        index: (P,) int64, the group of each row in [0, num_groups), or -1 for none.
        num_groups: number of groups G.

    Returns:
        The order of the rows and where each group starts. On CUDA, an index out of range counts as -1 (finding it would
        stall the device); on the CPU it is an error.

    Raises:
        TypeError: `index` is not a tensor.
        ValueError: `index` is not (P,) int64, holds a number out of range, or `num_groups` is negative.
    """
    check_tensor("group_rows: index", index, "P", INT64)
    check_count("group_rows: num_groups", num_groups)
    if not _library.has_kernels(index.device):
        return group_rows_reference(index, num_groups)
    return RowGroups(*torch.ops.perception.group_rows(index, num_groups))


def group_rows_reference(index: Tensor, num_groups: int) -> RowGroups:
    """Does what `group_rows` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        index: as in `group_rows`.
        num_groups: as in `group_rows`.

    Returns:
        As `group_rows`.

    Raises:
        ValueError: `index` holds a number out of range (on the CPU).
    """
    outside = (index < -1) | (index >= num_groups)  # (P,)
    if index.device.type == "cpu" and outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(f"group_rows: index must be in [-1, {num_groups}), got {int(index[row])} at row {row}")
    keys = torch.where(outside | (index < 0), num_groups, index)
    order = torch.argsort(keys, stable=True)
    groups = torch.arange(num_groups + 1, device=index.device)
    return RowGroups(order, torch.searchsorted(keys[order], groups))  # (P,), (G + 1,)


def _fake(index: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(index, memory_format=torch.contiguous_format), index.new_empty(num_groups + 1)


_library.register("group_rows", fake=_fake)
